/* Prints the state; which part may be compared across a revert stands in sim_dump.h. */
#include "sim_dump.h"

#include <inttypes.h>
#include <stdio.h>

#include "sim_physics.h"

const char *const sim_setting_names[SIM_SETTING_COUNT] = {
	"power_limit", "persistence", "graphics_clock", "memory_clock", "application_clocks", "compute_mode",
	"ecc"};
const char *const sim_fault_names[] = {"off", "accepted_ignored", "clamped"};

/* Memory and graphics clock; null on a card without application clocks. */
static void sim_dump_application_clocks(const struct sim_gpu *gpu)
{
	if (gpu->application_memory_mhz == 0)
		printf("      \"application_clocks_mhz\": null,\n");
	else
		printf("      \"application_clocks_mhz\": [%u, %u],\n", gpu->application_memory_mhz,
			gpu->application_graphics_mhz);
}

/* Current and pending; null on a card whose personality refuses the getter. */
static void sim_dump_mode(const struct sim_gpu *gpu, const char *key, const struct sim_mode *mode, int getter)
{
	if (gpu->card.answer[getter] != 0)
		printf("      \"%s\": null,\n", key);
	else
		printf("      \"%s\": [%u, %u],\n", key, mode->current, mode->pending);
}

static void sim_dump_lock(const char *key, const struct sim_lock *lock)
{
	if (lock->max_mhz == 0)
		printf("      \"%s\": null,\n", key);
	else
		printf("      \"%s\": [%u, %u],\n", key, lock->min_mhz, lock->max_mhz);
}

/* PROFILE@START, and in brackets START:SLICES of each compute instance. */
static void sim_dump_instances(const struct sim_gpu *gpu)
{
	const char *separator = "";

	printf("      \"mig_instances\": [");
	for (unsigned int start = 0; start < 64; start++)
		for (int i = 0; i < SIM_INSTANCES_MAX; i++) {
			const struct sim_instance *instance = &gpu->instances[i];
			if (!instance->used || instance->start != start)
				continue;
			printf("%s\"%s@%u(", separator, gpu->card.mig_profiles[instance->profile].name, start);
			separator = "";
			for (int slice = 0; slice < SIM_SLICES_MAX; slice++)
				if (instance->compute_slices[slice]) {
					printf("%s%d:%u", separator, slice, instance->compute_slices[slice]);
					separator = ",";
				}
			printf(")\"");
			separator = ", ";
		}
	printf("],\n");
}

static void sim_dump_faults(const struct sim_gpu *gpu)
{
	static const enum sim_setting sorted[] = {
		SIM_APPLICATION_CLOCKS, SIM_COMPUTE_MODE, SIM_ECC, SIM_GRAPHICS_CLOCK, SIM_MEMORY_CLOCK,
		SIM_PERSISTENCE, SIM_POWER_LIMIT};

	printf("      \"faults\": {");
	for (int i = 0; i < SIM_SETTING_COUNT; i++) {
		const struct sim_fault *fault = &gpu->faults[sorted[i]];
		printf("%s\"%s\": \"%s\"", i ? ", " : "", sim_setting_names[sorted[i]], sim_fault_names[fault->mode]);
	}
	printf("},\n");
}

static void sim_dump_gpu(const struct sim_gpu *gpu, bool all)
{
	printf("    {\n");
	if (all)
		printf("      \"ambient_millicelsius\": %" PRId64 ",\n", gpu->ambient_millicelsius);
	sim_dump_application_clocks(gpu);
	printf("      \"compute_mode\": %u,\n", gpu->compute_mode);
	if (all)
		printf("      \"driver_loaded\": %s,\n", gpu->loaded ? "true" : "false");
	sim_dump_mode(gpu, "ecc_mode", &gpu->ecc, SIM_FN_nvmlDeviceGetEccMode);
	if (all) {
		printf("      \"energy_mj\": %" PRIu64 ",\n", gpu->energy_uj / 1000);
		printf("      \"enforced_power_limit_mw\": %u,\n", sim_enforced_limit_mw(gpu));
		printf("      \"event_reasons\": %" PRIu64 ",\n", gpu->event_reasons);
		sim_dump_faults(gpu);
	}
	sim_dump_lock("graphics_clock_lock_mhz", &gpu->graphics_lock);
	if (all) {
		printf("      \"graphics_clock_mhz\": %u,\n", gpu->graphics_clock_mhz);
		printf("      \"load\": %s,\n", gpu->load ? "true" : "false");
		printf("      \"lost\": %s,\n", gpu->lost ? "true" : "false");
	}
	sim_dump_lock("memory_clock_lock_mhz", &gpu->memory_lock);
	if (all)
		printf("      \"memory_clock_mhz\": %u,\n", gpu->memory_clock_mhz);
	sim_dump_instances(gpu);
	sim_dump_mode(gpu, "mig_mode", &gpu->mig, SIM_FN_nvmlDeviceGetMigMode);
	printf("      \"persistence\": %u,\n", gpu->persistence);
	printf("      \"power_limit_mw\": %u,\n", gpu->power_limit_mw);
	if (all) {
		printf("      \"power_mw\": %u,\n", gpu->power_mw);
		printf("      \"pstate\": %u,\n", gpu->pstate);
		printf("      \"temperature_millicelsius\": %" PRId64 ",\n", gpu->temperature_microcelsius / 1000);
	}
	printf("      \"uuid\": \"%s\"\n    }", gpu->card.uuid);
}

static void sim_dump_counts(const struct sim_state *state)
{
	const char *separator = "";

	printf("  \"time_ms\": %" PRIu64 ",\n", state->time_ms);
	printf("  \"writes\": {");
	for (int i = 0; i < SIM_FUNCTION_COUNT; i++) {
		if (state->writes[i] == 0)
			continue;
		printf("%s\"%s\": %" PRIu64, separator, sim_function_name((enum sim_function)i), state->writes[i]);
		separator = ", ";
	}
	printf("}\n");
}

void sim_dump(const struct sim_state *state, bool all)
{
	printf("{\n");
	if (all)
		printf("  \"fail_nth\": {\"calls\": %" PRId64 ", \"code\": %d, \"n\": %" PRId64 "},\n",
			state->nth_calls, state->nth_failure.code, state->nth);
	printf("  \"gpus\": [\n");
	for (uint64_t i = 0; i < state->gpu_count; i++) {
		sim_dump_gpu(&state->gpus[i], all);
		printf("%s\n", i + 1 < state->gpu_count ? "," : "");
	}
	printf("  ]%s\n", all ? "," : "");
	if (all)
		sim_dump_counts(state);
	printf("}\n");
}
