/* The state as JSON: sorted keys, one GPU per block, the same bytes for the same state. */
#ifndef SIM_DUMP_H
#define SIM_DUMP_H

#include <stdbool.h>

#include "sim_state.h"

/* Settings only, to compare before and after a revert; with `all` also readings, faults and counters. */
void sim_dump(const struct sim_state *state, bool all);

extern const char *const sim_setting_names[SIM_SETTING_COUNT];
extern const char *const sim_fault_names[];

#endif
