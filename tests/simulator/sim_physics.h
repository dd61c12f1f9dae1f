/* What a card does as virtual time passes; the model stands in sim_physics.c. */
#ifndef SIM_PHYSICS_H
#define SIM_PHYSICS_H

#include "sim_state.h"

/* Move the whole machine by whole ticks of SIM_TICK_MS. */
void sim_physics_advance(struct sim_state *state, uint64_t ticks);
/* The readings of a card that has been idle for long. */
void sim_physics_rest(struct sim_gpu *gpu);

/* Graphics steps run downwards from the maximum: step 0 is the highest clock. */
uint32_t sim_graphics_steps(const struct sim_card *card);
uint32_t sim_graphics_step_mhz(const struct sim_card *card, uint32_t step);
uint32_t sim_graphics_snap_mhz(const struct sim_card *card, uint64_t mhz);
uint32_t sim_memory_snap_mhz(const struct sim_card *card, uint64_t mhz);

/* The limit that the card really keeps; below the requested one when the fault `clamped` is on. */
uint32_t sim_enforced_limit_mw(const struct sim_gpu *gpu);
uint32_t sim_power_average_mw(const struct sim_gpu *gpu);

#endif
