/* Every NVML function that the simulated library exports, once.
 *
 * The list is the single register behind the export table, `inferhost-sim fail` and the `answer.` fields
 * of a personality, so that a misspelt name is refused instead of silently meaning "healthy". A name that
 * is absent here is absent from the library, and the real binding turns that into FunctionNotFound.
 * Names: nvidia-ml-py 13.615.71, pynvml.py (`_nvmlGetFunctionPointer`).
 *
 * X(name, scope): P = process, S = system, G = reads a GPU, W = writes a GPU (needs root).
 */
#ifndef SIM_FUNCTIONS_H
#define SIM_FUNCTIONS_H

#define SIM_FUNCTIONS(X) \
	X(nvmlInit, P) \
	X(nvmlInit_v2, P) \
	X(nvmlInitWithFlags, P) \
	X(nvmlShutdown, P) \
	X(nvmlErrorString, P) \
	X(nvmlSystemGetDriverVersion, S) \
	X(nvmlSystemGetNVMLVersion, S) \
	X(nvmlSystemGetCudaDriverVersion, S) \
	X(nvmlSystemGetCudaDriverVersion_v2, S) \
	X(nvmlDeviceGetCount, S) \
	X(nvmlDeviceGetCount_v2, S) \
	X(nvmlDeviceGetHandleByIndex, S) \
	X(nvmlDeviceGetHandleByIndex_v2, S) \
	X(nvmlDeviceGetHandleByUUID, S) \
	X(nvmlDeviceGetHandleByPciBusId_v2, S) \
	X(nvmlDeviceGetIndex, G) \
	X(nvmlDeviceGetMinorNumber, G) \
	X(nvmlDeviceGetName, G) \
	X(nvmlDeviceGetUUID, G) \
	X(nvmlDeviceGetPciInfo_v3, G) \
	X(nvmlDeviceGetArchitecture, G) \
	X(nvmlDeviceGetCudaComputeCapability, G) \
	X(nvmlDeviceGetMemoryBusWidth, G) \
	X(nvmlDeviceGetNumGpuCores, G) \
	X(nvmlDeviceGetMemoryInfo, G) \
	X(nvmlDeviceGetMemoryInfo_v2, G) \
	X(nvmlDeviceGetBAR1MemoryInfo, G) \
	X(nvmlDeviceGetVirtualizationMode, G) \
	X(nvmlDeviceGetEccMode, G) \
	X(nvmlDeviceSetEccMode, W) \
	X(nvmlDeviceGetMigMode, G) \
	X(nvmlDeviceSetMigMode, W) \
	X(nvmlDeviceGetGpuInstanceProfileInfoV, G) \
	X(nvmlDeviceCreateGpuInstanceWithPlacement, W) \
	X(nvmlGpuInstanceDestroy, W) \
	X(nvmlDeviceGetGpuInstances, G) \
	X(nvmlGpuInstanceGetInfo, G) \
	X(nvmlGpuInstanceGetComputeInstanceProfileInfoV, G) \
	X(nvmlGpuInstanceCreateComputeInstanceWithPlacement, W) \
	X(nvmlComputeInstanceDestroy, W) \
	X(nvmlGpuInstanceGetComputeInstances, G) \
	X(nvmlComputeInstanceGetInfo_v2, G) \
	X(nvmlDeviceGetMaxMigDeviceCount, G) \
	X(nvmlDeviceGetMigDeviceHandleByIndex, G) \
	X(nvmlDeviceGetGpuInstanceId, G) \
	X(nvmlDeviceGetCurrPcieLinkGeneration, G) \
	X(nvmlDeviceGetCurrPcieLinkWidth, G) \
	X(nvmlDeviceGetMaxPcieLinkGeneration, G) \
	X(nvmlDeviceGetMaxPcieLinkWidth, G) \
	X(nvmlDeviceGetComputeRunningProcesses_v3, G) \
	X(nvmlDeviceGetGraphicsRunningProcesses_v3, G) \
	X(nvmlDeviceGetPersistenceMode, G) \
	X(nvmlDeviceSetPersistenceMode, W) \
	X(nvmlDeviceGetComputeMode, G) \
	X(nvmlDeviceSetComputeMode, W) \
	X(nvmlDeviceGetPowerManagementLimit, G) \
	X(nvmlDeviceSetPowerManagementLimit, W) \
	X(nvmlDeviceSetPowerManagementLimit_v2, W) \
	X(nvmlDeviceGetPowerManagementDefaultLimit, G) \
	X(nvmlDeviceGetPowerManagementLimitConstraints, G) \
	X(nvmlDeviceGetEnforcedPowerLimit, G) \
	X(nvmlDeviceGetPowerUsage, G) \
	X(nvmlDeviceGetTotalEnergyConsumption, G) \
	X(nvmlDeviceGetClockInfo, G) \
	X(nvmlDeviceGetMaxClockInfo, G) \
	X(nvmlDeviceGetSupportedMemoryClocks, G) \
	X(nvmlDeviceGetSupportedGraphicsClocks, G) \
	X(nvmlDeviceSetGpuLockedClocks, W) \
	X(nvmlDeviceResetGpuLockedClocks, W) \
	X(nvmlDeviceSetMemoryLockedClocks, W) \
	X(nvmlDeviceResetMemoryLockedClocks, W) \
	X(nvmlDeviceGetApplicationsClock, G) \
	X(nvmlDeviceGetDefaultApplicationsClock, G) \
	X(nvmlDeviceSetApplicationsClocks, W) \
	X(nvmlDeviceResetApplicationsClocks, W) \
	X(nvmlDeviceGetPerformanceState, G) \
	X(nvmlDeviceGetCurrentClocksEventReasons, G) \
	X(nvmlDeviceGetCurrentClocksThrottleReasons, G) \
	X(nvmlDeviceGetTemperature, G) \
	X(nvmlDeviceGetTemperatureV, G) \
	X(nvmlDeviceGetMarginTemperature, G) \
	X(nvmlDeviceGetUtilizationRates, G) \
	X(nvmlDeviceGetFieldValues, G)

#define SIM_FUNCTION_ID(name, scope) SIM_FN_##name,

enum sim_function { SIM_FUNCTIONS(SIM_FUNCTION_ID) SIM_FUNCTION_COUNT };

/* The id of an exported function, or -1. */
int sim_function_by_name(const char *name);
const char *sim_function_name(enum sim_function function);
char sim_function_scope(enum sim_function function);

#endif
