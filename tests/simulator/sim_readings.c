/* What a card does at this virtual moment: memory in use, clocks, power, heat, processes, and its clock lists. */
#include <stddef.h>

#include "sim_api.h"
#include "sim_physics.h"

static uint64_t sim_memory_used_bytes(const struct sim_gpu *gpu)
{
	return gpu->load ? gpu->card.load_memory_used_bytes : 0;
}

SIM_GETTER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, call.gpu->card.power_limit_default_mw)
SIM_GETTER(nvmlDeviceGetPowerManagementLimit, unsigned int, call.gpu->power_limit_mw)
SIM_GETTER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, sim_enforced_limit_mw(call.gpu))
SIM_GETTER(nvmlDeviceGetPowerUsage, unsigned int, sim_power_average_mw(call.gpu))
SIM_GETTER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, call.gpu->energy_uj / 1000)
SIM_GETTER(nvmlDeviceGetPersistenceMode, unsigned int, call.gpu->persistence)
SIM_GETTER(nvmlDeviceGetComputeMode, unsigned int, call.gpu->compute_mode)
SIM_GETTER(nvmlDeviceGetPerformanceState, unsigned int, call.gpu->pstate)
SIM_GETTER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, call.gpu->event_reasons)
SIM_GETTER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, call.gpu->event_reasons)
SIM_GETTER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int,
	call.gpu->load ? call.gpu->card.pcie_max_generation : call.gpu->card.pcie_idle_generation)

SIM_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetMemoryInfo, device);
	if (code == NVML_SUCCESS && !memory)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS) {
		/* The first version of the call counts the driver's own memory as used. */
		memory->total = call.gpu->card.memory_total_bytes;
		memory->used = call.gpu->card.memory_reserved_bytes + sim_memory_used_bytes(call.gpu);
		memory->free = memory->total - memory->used;
	}
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetMemoryInfo_v2, device);
	if (code == NVML_SUCCESS && !memory)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && memory->version != NVML_MEMORY_V2)
		code = NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	if (code == NVML_SUCCESS) {
		memory->total = call.gpu->card.memory_total_bytes;
		memory->reserved = call.gpu->card.memory_reserved_bytes;
		memory->used = sim_memory_used_bytes(call.gpu);
		memory->free = memory->total - memory->reserved - memory->used;
	}
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetBAR1MemoryInfo, device);
	if (code == NVML_SUCCESS && !memory)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS)
		*memory = (nvmlBAR1Memory_t){call.gpu->card.bar1_total_bytes, call.gpu->card.bar1_total_bytes, 0};
	return sim_leave(&call, code);
}

static unsigned int sim_clock_mhz(const struct sim_gpu *gpu, unsigned int kind)
{
	if (kind == NVML_CLOCK_MEM)
		return gpu->memory_clock_mhz;
	if (kind == NVML_CLOCK_VIDEO && !gpu->load)
		return (unsigned int)gpu->card.idle_video_clock_mhz;
	return gpu->graphics_clock_mhz;
}

static unsigned int sim_max_clock_mhz(const struct sim_gpu *gpu, unsigned int kind)
{
	if (kind == NVML_CLOCK_MEM)
		return (unsigned int)gpu->card.memory_clock_steps_mhz[0];
	return (unsigned int)(kind == NVML_CLOCK_VIDEO ? gpu->card.video_clock_max_mhz
						       : gpu->card.graphics_clock_max_mhz);
}

/* Asked of a card that has them only: the personality refuses the call on the others. */
static unsigned int sim_application_mhz(const struct sim_gpu *gpu, unsigned int kind)
{
	return kind == NVML_CLOCK_MEM ? gpu->application_memory_mhz : gpu->application_graphics_mhz;
}

static unsigned int sim_default_application_mhz(const struct sim_gpu *gpu, unsigned int kind)
{
	return (unsigned int)(kind == NVML_CLOCK_MEM ? gpu->card.application_clock_memory_mhz
						     : gpu->card.application_clock_graphics_mhz);
}

static nvmlReturn_t sim_clock(enum sim_function function, nvmlDevice_t device, unsigned int kind, unsigned int *mhz,
	unsigned int (*clock)(const struct sim_gpu *, unsigned int))
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, function, device);
	if (code == NVML_SUCCESS && (!mhz || kind >= NVML_CLOCK_COUNT))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS)
		*mhz = clock(call.gpu, kind);
	return sim_leave(&call, code);
}

#define SIM_CLOCK(function, clock) \
	SIM_EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned int kind, unsigned int *mhz) \
	{ \
		return sim_clock(SIM_FN_##function, device, kind, mhz, clock); \
	}

SIM_CLOCK(nvmlDeviceGetClockInfo, sim_clock_mhz)
SIM_CLOCK(nvmlDeviceGetMaxClockInfo, sim_max_clock_mhz)
SIM_CLOCK(nvmlDeviceGetApplicationsClock, sim_application_mhz)
SIM_CLOCK(nvmlDeviceGetDefaultApplicationsClock, sim_default_application_mhz)

/* NVML's way with lists: too small a buffer gets the count wanted and InsufficientSize. */
static nvmlReturn_t sim_list_room(unsigned int *count, const unsigned int *list, unsigned int wanted)
{
	if (!count)
		return NVML_ERROR_INVALID_ARGUMENT;
	unsigned int room = *count;
	*count = wanted;
	return room < wanted || (wanted > 0 && !list) ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetSupportedMemoryClocks(
	nvmlDevice_t device, unsigned int *count, unsigned int *clocks_mhz)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetSupportedMemoryClocks, device);
	if (code == NVML_SUCCESS)
		code = sim_list_room(count, clocks_mhz, (unsigned int)call.gpu->card.memory_clock_steps);
	for (unsigned int i = 0; code == NVML_SUCCESS && i < *count; i++)
		clocks_mhz[i] = (unsigned int)call.gpu->card.memory_clock_steps_mhz[i];
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetSupportedGraphicsClocks(
	nvmlDevice_t device, unsigned int memory_mhz, unsigned int *count, unsigned int *clocks_mhz)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetSupportedGraphicsClocks, device);
	if (code == NVML_SUCCESS && sim_memory_snap_mhz(&call.gpu->card, memory_mhz) != memory_mhz)
		code = NVML_ERROR_NOT_FOUND;
	if (code == NVML_SUCCESS)
		code = sim_list_room(count, clocks_mhz, sim_graphics_steps(&call.gpu->card));
	for (unsigned int i = 0; code == NVML_SUCCESS && i < *count; i++)
		clocks_mhz[i] = sim_graphics_step_mhz(&call.gpu->card, i);
	return sim_leave(&call, code);
}

static int sim_celsius(const struct sim_gpu *gpu)
{
	return (int)(gpu->temperature_microcelsius / 1000000);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor, unsigned int *celsius)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetTemperature, device);
	if (code == NVML_SUCCESS && (!celsius || sensor != NVML_TEMPERATURE_GPU))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS)
		*celsius = (unsigned int)sim_celsius(call.gpu);
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetTemperatureV, device);
	if (code == NVML_SUCCESS && (!temperature || temperature->sensorType != NVML_TEMPERATURE_GPU))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && temperature->version != NVML_TEMPERATURE_V1)
		code = NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	if (code == NVML_SUCCESS)
		temperature->temperature = sim_celsius(call.gpu);
	return sim_leave(&call, code);
}

/* Whole degrees down to where the card slows itself, below zero once it does. */
SIM_EXPORT nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_t *margin)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetMarginTemperature, device);
	if (code == NVML_SUCCESS && !margin)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && margin->version != NVML_MARGIN_TEMPERATURE_V1)
		code = NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	if (code == NVML_SUCCESS)
		margin->marginTemperature =
			(int)(call.gpu->card.sw_slowdown_millicelsius / 1000) - sim_celsius(call.gpu);
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetUtilizationRates, device);
	if (code == NVML_SUCCESS && !utilization)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS) {
		utilization->gpu = call.gpu->load ? (unsigned int)call.gpu->card.load_utilization_percent : 0;
		utilization->memory =
			call.gpu->load ? (unsigned int)call.gpu->card.load_memory_utilization_percent : 0;
	}
	return sim_leave(&call, code);
}

static nvmlReturn_t sim_processes(
	enum sim_function function, nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *list, bool compute)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, function, device);
	unsigned int running = code == NVML_SUCCESS && (compute ? call.gpu->load : call.gpu->drawing_pid) ? 1 : 0;
	if (code == NVML_SUCCESS)
		code = sim_list_room(count, list ? &list->pid : NULL, running);
	if (code == NVML_SUCCESS && running) /* -1: no MIG instance */
		*list = compute ? (nvmlProcessInfo_t){call.gpu->load_pid, call.gpu->card.load_memory_used_bytes, ~0u, ~0u}
				: (nvmlProcessInfo_t){call.gpu->drawing_pid, SIM_DRAWING_BYTES, ~0u, ~0u};
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(
	nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *list)
{
	return sim_processes(SIM_FN_nvmlDeviceGetComputeRunningProcesses_v3, device, count, list, true);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(
	nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *list)
{
	return sim_processes(SIM_FN_nvmlDeviceGetGraphicsRunningProcesses_v3, device, count, list, false);
}
