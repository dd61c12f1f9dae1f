/* What root may change. NVML's success means "request installed": a fault may keep it from taking effect. */
#include "sim_api.h"
#include "sim_physics.h"

/* `fault ... accepted_ignored` on a setting that has a getter: success is answered and nothing is stored. */
static bool sim_ignored(const struct sim_gpu *gpu, enum sim_setting setting)
{
	return gpu->faults[setting].mode == SIM_FAULT_IGNORED;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t device, unsigned int mode)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceSetPersistenceMode, device);
	if (code == NVML_SUCCESS && mode > 1)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && !sim_ignored(call.gpu, SIM_PERSISTENCE))
		call.gpu->persistence = mode;
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, unsigned int mode)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceSetComputeMode, device);
	if (code == NVML_SUCCESS && mode >= NVML_COMPUTEMODE_COUNT)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && mode == NVML_COMPUTEMODE_EXCLUSIVE_THREAD)
		code = NVML_ERROR_NOT_SUPPORTED;
	if (code == NVML_SUCCESS && call.gpu->mig.current) /* "device must be MIG device handle" (nvml.h) */
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && !sim_ignored(call.gpu, SIM_COMPUTE_MODE))
		call.gpu->compute_mode = mode;
	return sim_leave(&call, code);
}

static nvmlReturn_t sim_set_limit(struct sim_gpu *gpu, unsigned int limit_mw)
{
	if (limit_mw < gpu->card.power_limit_min_mw || limit_mw > gpu->card.power_limit_max_mw)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (!sim_ignored(gpu, SIM_POWER_LIMIT))
		gpu->power_limit_mw = limit_mw;
	return NVML_SUCCESS;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned int limit_mw)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceSetPowerManagementLimit, device);
	if (code == NVML_SUCCESS)
		code = sim_set_limit(call.gpu, limit_mw);
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceSetPowerManagementLimit_v2(nvmlDevice_t device, const nvmlPowerValue_v2_t *value)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceSetPowerManagementLimit_v2, device);
	if (code == NVML_SUCCESS && !value)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && value->version != NVML_POWER_VALUE_V2)
		code = NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	if (code == NVML_SUCCESS && value->powerScope != NVML_POWER_SCOPE_GPU) /* modules: superchips only */
		code = NVML_ERROR_NOT_SUPPORTED;
	if (code == NVML_SUCCESS)
		code = sim_set_limit(call.gpu, value->powerValueMw);
	return sim_leave(&call, code);
}

/* A symbolic pair as MHz. False when symbol and number are mixed, or the symbol is not one of the two. */
static bool sim_symbolic(const struct sim_gpu *gpu, unsigned int *min_mhz, unsigned int *max_mhz)
{
	unsigned int *const ends[] = {min_mhz, max_mhz};

	if (*min_mhz < NVML_CLOCK_LIMIT_ID_RANGE_START && *max_mhz < NVML_CLOCK_LIMIT_ID_RANGE_START)
		return true;
	for (int i = 0; i < 2; i++) {
		if (*ends[i] == NVML_CLOCK_LIMIT_ID_TDP)
			*ends[i] = (unsigned int)gpu->card.load_graphics_clock_mhz;
		else if (*ends[i] == NVML_CLOCK_LIMIT_ID_UNLIMITED)
			*ends[i] = (unsigned int)gpu->card.graphics_clock_max_mhz;
		else
			return false;
	}
	return true;
}

/* Locks have no getter, so the request is kept even when a fault keeps it from working: `dump` shows what a
 * revert has to reset. Out of range is accepted and snaps to the nearest step (facts-nvml.md A.3, B.2). */
static nvmlReturn_t sim_set_lock(
	enum sim_function function, nvmlDevice_t device, unsigned int min_mhz, unsigned int max_mhz, bool memory)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, function, device);
	if (code == NVML_SUCCESS && !memory && !sim_symbolic(call.gpu, &min_mhz, &max_mhz))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && (min_mhz > max_mhz || max_mhz == 0))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && memory)
		call.gpu->memory_lock = (struct sim_lock){
			sim_memory_snap_mhz(&call.gpu->card, min_mhz), sim_memory_snap_mhz(&call.gpu->card, max_mhz)};
	else if (code == NVML_SUCCESS)
		call.gpu->graphics_lock = (struct sim_lock){sim_graphics_snap_mhz(&call.gpu->card, min_mhz),
			sim_graphics_snap_mhz(&call.gpu->card, max_mhz)};
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceSetGpuLockedClocks(nvmlDevice_t device, unsigned int min_mhz, unsigned int max_mhz)
{
	return sim_set_lock(SIM_FN_nvmlDeviceSetGpuLockedClocks, device, min_mhz, max_mhz, false);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceSetMemoryLockedClocks(
	nvmlDevice_t device, unsigned int min_mhz, unsigned int max_mhz)
{
	return sim_set_lock(SIM_FN_nvmlDeviceSetMemoryLockedClocks, device, min_mhz, max_mhz, true);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceResetGpuLockedClocks(nvmlDevice_t device)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceResetGpuLockedClocks, device);
	if (code == NVML_SUCCESS)
		call.gpu->graphics_lock = (struct sim_lock){0, 0};
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceResetMemoryLockedClocks(nvmlDevice_t device)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceResetMemoryLockedClocks, device);
	if (code == NVML_SUCCESS)
		call.gpu->memory_lock = (struct sim_lock){0, 0};
	return sim_leave(&call, code);
}

/* A pair from the card's own lists, or nothing (nvml.h: "a valid clock combination"). */
static bool sim_listed(const struct sim_card *card, unsigned int memory_mhz, unsigned int graphics_mhz)
{
	return sim_memory_snap_mhz(card, memory_mhz) == memory_mhz &&
	       sim_graphics_snap_mhz(card, graphics_mhz) == graphics_mhz;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceSetApplicationsClocks(
	nvmlDevice_t device, unsigned int memory_mhz, unsigned int graphics_mhz)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceSetApplicationsClocks, device);
	if (code == NVML_SUCCESS && !sim_listed(&call.gpu->card, memory_mhz, graphics_mhz))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && !sim_ignored(call.gpu, SIM_APPLICATION_CLOCKS)) {
		call.gpu->application_memory_mhz = memory_mhz;
		call.gpu->application_graphics_mhz = graphics_mhz;
	}
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceResetApplicationsClocks(nvmlDevice_t device)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceResetApplicationsClocks, device);
	if (code == NVML_SUCCESS && !sim_ignored(call.gpu, SIM_APPLICATION_CLOCKS))
		sim_gpu_application_clocks_reset(call.gpu);
	return sim_leave(&call, code);
}

/* "This operation takes effect after the next reboot" (nvml.h), whether programs run or not. */
SIM_EXPORT nvmlReturn_t nvmlDeviceSetEccMode(nvmlDevice_t device, unsigned int mode)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceSetEccMode, device);
	if (code == NVML_SUCCESS && mode > 1)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && !sim_ignored(call.gpu, SIM_ECC))
		call.gpu->ecc.pending = mode;
	return sim_leave(&call, code);
}

/* Activation as nvml.h words it: it resets the card, so a busy one answers InUse and a passed-through one waits
 * for the reboot of its machine. A reset card has lost its limits and locks. */
static nvmlReturn_t sim_mig_activated(struct sim_gpu *gpu)
{
	if (gpu->mig.current == gpu->mig.pending)
		return NVML_SUCCESS;
	for (int i = 0; i < SIM_INSTANCES_MAX; i++)
		if (gpu->instances[i].used)
			return NVML_ERROR_IN_USE;
	if (gpu->load || gpu->drawing_pid)
		return NVML_ERROR_IN_USE;
	if (gpu->card.mig_needs_reset && gpu->card.virtualization_mode == NVML_VIRTUALIZATION_PASSTHROUGH)
		return NVML_ERROR_RESET_REQUIRED;
	if (gpu->card.mig_needs_reset) {
		sim_gpu_unload(gpu);
		gpu->loaded = 1;
	}
	gpu->mig.current = gpu->mig.pending;
	return NVML_SUCCESS;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t device, unsigned int mode, nvmlReturn_t *activation)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceSetMigMode, device);
	if (code == NVML_SUCCESS && (mode > 1 || !activation))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS) {
		call.gpu->mig.pending = mode;
		*activation = sim_mig_activated(call.gpu);
	}
	return sim_leave(&call, code);
}
