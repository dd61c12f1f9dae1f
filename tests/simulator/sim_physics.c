/* The model of a card under virtual time, one tick (100 ms) after the other.
 *
 * Idle: the clocks, power and P-state that the personality calls idle; locks have no effect there.
 * Load: the memory clock takes the CUDA rung (P1) unless a lock moves it; the graphics clock wants its natural
 * value, moved into the lock's range, and is then taken down by the thermal controller and by the power cap,
 * always on the card's steps. Rising follows a ramp; falling is at once.
 * A card with application clocks wants those instead of its natural ones, and says so in its event reasons.
 * A lock whose minimum is above the natural clock lifts it no further than the personality's lock ceiling,
 * without any event reason: "no contract or return path" tells it (open-gpu-kernel-modules #1314).
 * Power: a static share plus a dynamic share that grows with the cube of the graphics clock. The cube fits
 * three captured points (personality file) within 5 %; below the lowest step the card is held at the limit.
 * Heat: first order, towards ambient plus thermal resistance times power.
 * Integers only, so that the same calls give the same bytes on every machine.
 */
#include "sim_physics.h"

#include "sim_nvml.h"

static uint64_t sim_min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint32_t sim_graphics_steps(const struct sim_card *card)
{
	uint64_t span_khz = (card->graphics_clock_max_mhz - card->graphics_clock_min_mhz) * 1000;

	return (uint32_t)(span_khz / card->graphics_clock_step_khz) + 1;
}

uint32_t sim_graphics_step_mhz(const struct sim_card *card, uint32_t step)
{
	return (uint32_t)((card->graphics_clock_max_mhz * 1000 - step * card->graphics_clock_step_khz) / 1000);
}

/* The step nearest to `mhz`. */
static uint32_t sim_graphics_step(const struct sim_card *card, uint64_t mhz)
{
	uint64_t last = sim_graphics_steps(card) - 1;

	if (mhz >= card->graphics_clock_max_mhz)
		return 0;
	uint64_t below_khz = (card->graphics_clock_max_mhz - mhz) * 1000;
	return (uint32_t)sim_min(
		(below_khz + card->graphics_clock_step_khz / 2) / card->graphics_clock_step_khz, last);
}

uint32_t sim_graphics_snap_mhz(const struct sim_card *card, uint64_t mhz)
{
	return sim_graphics_step_mhz(card, sim_graphics_step(card, mhz));
}

static uint32_t sim_memory_step(const struct sim_card *card, uint64_t mhz)
{
	uint32_t best = 0;
	uint64_t best_distance = UINT64_MAX;

	for (uint32_t i = 0; i < card->memory_clock_steps; i++) {
		uint64_t step = card->memory_clock_steps_mhz[i];
		uint64_t distance = step > mhz ? step - mhz : mhz - step;
		if (distance < best_distance) {
			best = i;
			best_distance = distance;
		}
	}
	return best;
}

uint32_t sim_memory_snap_mhz(const struct sim_card *card, uint64_t mhz)
{
	return (uint32_t)card->memory_clock_steps_mhz[sim_memory_step(card, mhz)];
}

uint32_t sim_enforced_limit_mw(const struct sim_gpu *gpu)
{
	const struct sim_fault *fault = &gpu->faults[SIM_POWER_LIMIT];

	return fault->mode == SIM_FAULT_CLAMPED ? (uint32_t)sim_min(gpu->power_limit_mw, fault->clamp)
						: gpu->power_limit_mw;
}

uint32_t sim_power_average_mw(const struct sim_gpu *gpu)
{
	uint64_t sum = 0;

	for (int i = 0; i < SIM_POWER_WINDOW_TICKS; i++)
		sum += gpu->power_window_mw[i];
	return (uint32_t)(sum / SIM_POWER_WINDOW_TICKS);
}

/* A natural clock moved into a lock's range; `ceiling` bounds how far a minimum can lift it. */
static uint64_t sim_locked_mhz(
	uint64_t natural, const struct sim_lock *lock, const struct sim_fault *fault, uint64_t ceiling)
{
	uint64_t clock = natural;

	if (lock->max_mhz != 0 && fault->mode != SIM_FAULT_IGNORED) {
		if (clock > lock->max_mhz)
			clock = lock->max_mhz;
		if (clock < lock->min_mhz)
			clock = sim_min(lock->min_mhz, ceiling > natural ? ceiling : natural);
	}
	if (fault->mode == SIM_FAULT_CLAMPED && lock->max_mhz != 0)
		clock = sim_min(clock, fault->clamp);
	return clock;
}

static uint64_t sim_load_power_mw(const struct sim_card *card, uint64_t graphics_mhz)
{
	uint64_t natural = card->load_graphics_clock_mhz;
	uint64_t dynamic_mw = card->load_power_mw - card->load_static_power_mw;

	/* Divided in two halves: the product of all three would pass 64 bits above 3.4 GHz. */
	return card->load_static_power_mw +
	       dynamic_mw * graphics_mhz * graphics_mhz / (natural * natural) * graphics_mhz / natural;
}

/* The lowest step number (highest clock), from `step` on, whose power fits under the limit. */
static uint32_t sim_capped_step(const struct sim_gpu *gpu, uint32_t step)
{
	uint32_t last = sim_graphics_steps(&gpu->card) - 1;

	while (step < last &&
		sim_load_power_mw(&gpu->card, sim_graphics_step_mhz(&gpu->card, step)) > sim_enforced_limit_mw(gpu))
		step++;
	return step;
}

/* One step down per tick while too hot, one up while 1 degree below: a controller that settles at the threshold. */
static void sim_thermal_control(struct sim_gpu *gpu)
{
	int64_t slowdown = (int64_t)gpu->card.sw_slowdown_millicelsius * 1000;

	if (gpu->temperature_microcelsius >= slowdown && gpu->thermal_cap_steps + 1 < sim_graphics_steps(&gpu->card))
		gpu->thermal_cap_steps++;
	else if (gpu->temperature_microcelsius < slowdown - 1000000 && gpu->thermal_cap_steps > 0)
		gpu->thermal_cap_steps--;
}

static uint32_t sim_ramped_mhz(const struct sim_gpu *gpu, uint32_t wanted_mhz)
{
	uint64_t reach = gpu->graphics_clock_mhz + gpu->card.graphics_clock_ramp_mhz_per_s * SIM_TICK_MS / 1000;

	return wanted_mhz <= reach ? wanted_mhz : sim_graphics_snap_mhz(&gpu->card, reach);
}

/* What a CUDA program makes the card want: its application clock where it has one, else its natural clock. */
static uint64_t sim_wanted_graphics_mhz(const struct sim_gpu *gpu)
{
	const struct sim_fault *fault = &gpu->faults[SIM_APPLICATION_CLOCKS];
	uint64_t application_mhz = gpu->application_graphics_mhz;

	if (application_mhz == 0)
		return gpu->card.load_graphics_clock_mhz;
	return fault->mode == SIM_FAULT_CLAMPED ? sim_min(application_mhz, fault->clamp) : application_mhz;
}

static uint64_t sim_wanted_memory_mhz(const struct sim_gpu *gpu)
{
	return gpu->application_memory_mhz ? gpu->application_memory_mhz : gpu->card.load_memory_clock_mhz;
}

static void sim_tick_load(struct sim_gpu *gpu)
{
	const struct sim_card *card = &gpu->card;
	uint64_t memory = sim_locked_mhz(sim_wanted_memory_mhz(gpu), &gpu->memory_lock,
		&gpu->faults[SIM_MEMORY_CLOCK], card->memory_lock_ceiling_mhz);
	uint64_t graphics = sim_locked_mhz(sim_wanted_graphics_mhz(gpu), &gpu->graphics_lock,
		&gpu->faults[SIM_GRAPHICS_CLOCK], card->graphics_lock_ceiling_mhz);
	uint32_t memory_step = sim_memory_step(card, memory), last = sim_graphics_steps(card) - 1;
	uint32_t wanted = sim_graphics_step(card, graphics), step = wanted;

	gpu->event_reasons = gpu->application_graphics_mhz ? NVML_REASON_APPLICATION_CLOCKS : 0;
	sim_thermal_control(gpu);
	if (gpu->thermal_cap_steps > 0) {
		step = (uint32_t)sim_min(step + gpu->thermal_cap_steps, last);
		gpu->event_reasons |= NVML_REASON_SW_THERMAL;
	}
	if (gpu->temperature_microcelsius >= (int64_t)card->hw_slowdown_millicelsius * 1000) {
		step = last;
		gpu->event_reasons |= NVML_REASON_HW_SLOWDOWN | NVML_REASON_HW_THERMAL;
	}
	uint32_t capped = sim_capped_step(gpu, step);
	if (capped != step ||
		sim_load_power_mw(card, sim_graphics_step_mhz(card, capped)) > sim_enforced_limit_mw(gpu))
		gpu->event_reasons |= NVML_REASON_SW_POWER_CAP;
	gpu->memory_clock_mhz = (uint32_t)card->memory_clock_steps_mhz[memory_step];
	gpu->pstate = (uint32_t)card->memory_clock_pstates[memory_step];
	gpu->graphics_clock_mhz = sim_ramped_mhz(gpu, sim_graphics_step_mhz(card, capped));
	gpu->power_mw =
		(uint32_t)sim_min(sim_load_power_mw(card, gpu->graphics_clock_mhz), sim_enforced_limit_mw(gpu));
}

static void sim_tick_idle(struct sim_gpu *gpu)
{
	uint32_t step = sim_memory_step(&gpu->card, gpu->card.idle_memory_clock_mhz);

	sim_thermal_control(gpu);
	gpu->memory_clock_mhz = (uint32_t)gpu->card.memory_clock_steps_mhz[step];
	gpu->pstate = (uint32_t)gpu->card.memory_clock_pstates[step];
	gpu->graphics_clock_mhz = sim_graphics_snap_mhz(&gpu->card, gpu->card.idle_graphics_clock_mhz);
	gpu->power_mw = (uint32_t)gpu->card.idle_power_mw;
	gpu->event_reasons = gpu->card.idle_event_reasons;
}

static int64_t sim_equilibrium_microcelsius(const struct sim_gpu *gpu)
{
	/* mK/W times mW is microkelvin. */
	return gpu->ambient_millicelsius * 1000 +
	       (int64_t)(gpu->card.thermal_resistance_millikelvin_per_w * gpu->power_mw);
}

static void sim_account(struct sim_gpu *gpu)
{
	int64_t away = sim_equilibrium_microcelsius(gpu) - gpu->temperature_microcelsius;
	uint64_t tick_ns = SIM_TICK_MS * 1000000ull;

	gpu->temperature_microcelsius += away * SIM_TICK_MS / (int64_t)gpu->card.thermal_time_constant_ms;
	gpu->power_window_mw[gpu->power_window_next] = gpu->power_mw;
	gpu->power_window_next = (gpu->power_window_next + 1) % SIM_POWER_WINDOW_TICKS;
	if (!gpu->loaded)
		return;
	gpu->energy_uj += (uint64_t)gpu->power_mw * SIM_TICK_MS;
	if (gpu->event_reasons & NVML_REASON_SW_POWER_CAP)
		gpu->power_cap_ns += tick_ns;
	if (gpu->event_reasons & NVML_REASON_SW_THERMAL)
		gpu->sw_thermal_ns += tick_ns;
	if (gpu->event_reasons & NVML_REASON_HW_THERMAL)
		gpu->hw_thermal_ns += tick_ns;
}

void sim_physics_advance(struct sim_state *state, uint64_t ticks)
{
	for (uint64_t tick = 0; tick < ticks; tick++) {
		for (uint64_t i = 0; i < state->gpu_count; i++) {
			struct sim_gpu *gpu = &state->gpus[i];
			if (gpu->load)
				sim_tick_load(gpu);
			else
				sim_tick_idle(gpu);
			sim_account(gpu);
		}
	}
	state->time_ms += ticks * SIM_TICK_MS;
}

void sim_physics_rest(struct sim_gpu *gpu)
{
	gpu->thermal_cap_steps = 0;
	sim_tick_idle(gpu);
	gpu->temperature_microcelsius = sim_equilibrium_microcelsius(gpu);
	for (int i = 0; i < SIM_POWER_WINDOW_TICKS; i++)
		gpu->power_window_mw[i] = gpu->power_mw;
}
