/* What the machine and its cards are: versions, handles, identity, sizes, modes that a reset activates. */
#include <stdio.h>
#include <string.h>

#include "sim_api.h"

#define SIM_SYSTEM_TEXT(function, field) \
	SIM_EXPORT nvmlReturn_t function(char *buffer, unsigned int size) \
	{ \
		struct sim_call call; \
		nvmlReturn_t code = sim_enter(&call, SIM_FN_##function); \
		if (code == NVML_SUCCESS) \
			code = sim_text(buffer, size, call.session.state.field); \
		return sim_leave(&call, code); \
	}

#define SIM_SYSTEM_NUMBER(function, type, field) \
	SIM_EXPORT nvmlReturn_t function(type *result) \
	{ \
		struct sim_call call; \
		nvmlReturn_t code = sim_enter(&call, SIM_FN_##function); \
		if (code == NVML_SUCCESS && !result) \
			code = NVML_ERROR_INVALID_ARGUMENT; \
		if (code == NVML_SUCCESS) \
			*result = (type)call.session.state.field; \
		return sim_leave(&call, code); \
	}

#define SIM_GPU_TEXT(function, field) \
	SIM_EXPORT nvmlReturn_t function(nvmlDevice_t device, char *buffer, unsigned int size) \
	{ \
		struct sim_call call; \
		nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_##function, device); \
		if (code == NVML_SUCCESS) \
			code = sim_text(buffer, size, call.gpu->card.field); \
		return sim_leave(&call, code); \
	}

#define SIM_GPU_PAIR(function, type, first, second) \
	SIM_EXPORT nvmlReturn_t function(nvmlDevice_t device, type *one, type *two) \
	{ \
		struct sim_call call; \
		nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_##function, device); \
		if (code == NVML_SUCCESS && (!one || !two)) \
			code = NVML_ERROR_INVALID_ARGUMENT; \
		if (code == NVML_SUCCESS) { \
			*one = (type)call.gpu->first; \
			*two = (type)call.gpu->second; \
		} \
		return sim_leave(&call, code); \
	}

SIM_SYSTEM_TEXT(nvmlSystemGetDriverVersion, driver_version)
SIM_SYSTEM_TEXT(nvmlSystemGetNVMLVersion, nvml_version)
SIM_SYSTEM_NUMBER(nvmlSystemGetCudaDriverVersion, int, cuda_driver_version)
SIM_SYSTEM_NUMBER(nvmlSystemGetCudaDriverVersion_v2, int, cuda_driver_version)
SIM_SYSTEM_NUMBER(nvmlDeviceGetCount, unsigned int, gpu_count)
SIM_SYSTEM_NUMBER(nvmlDeviceGetCount_v2, unsigned int, gpu_count)

SIM_GPU_TEXT(nvmlDeviceGetName, name)

SIM_GETTER(nvmlDeviceGetIndex, unsigned int, call.index)
SIM_GETTER(nvmlDeviceGetMinorNumber, unsigned int, call.index)
SIM_GETTER(nvmlDeviceGetArchitecture, unsigned int, call.gpu->card.architecture)
SIM_GETTER(nvmlDeviceGetMemoryBusWidth, unsigned int, call.gpu->card.memory_bus_width_bits)
SIM_GETTER(nvmlDeviceGetNumGpuCores, unsigned int, call.gpu->card.gpu_cores)
SIM_GETTER(nvmlDeviceGetVirtualizationMode, unsigned int, call.gpu->card.virtualization_mode)
SIM_GETTER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned int, call.gpu->card.pcie_max_generation)
SIM_GETTER(nvmlDeviceGetMaxPcieLinkWidth, unsigned int, call.gpu->card.pcie_max_width)
SIM_GETTER(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, call.gpu->card.pcie_max_width)
SIM_GPU_PAIR(nvmlDeviceGetCudaComputeCapability, int, card.compute_capability_major,
	card.compute_capability_minor)
SIM_GPU_PAIR(nvmlDeviceGetEccMode, unsigned int, ecc.current, ecc.pending)
SIM_GPU_PAIR(nvmlDeviceGetMigMode, unsigned int, mig.current, mig.pending)
SIM_GPU_PAIR(
	nvmlDeviceGetPowerManagementLimitConstraints, unsigned int, card.power_limit_min_mw, card.power_limit_max_mw)

/* The handle of the first card for which `same` holds; `absent` when there is none. */
static nvmlReturn_t sim_find(struct sim_call *call, nvmlDevice_t *device,
	bool (*same)(const struct sim_card *, const void *), const void *key, nvmlReturn_t absent)
{
	if (!device || !key)
		return NVML_ERROR_INVALID_ARGUMENT;
	for (unsigned int i = 0; i < call->session.state.gpu_count; i++) {
		const struct sim_gpu *gpu = &call->session.state.gpus[i];
		if (!same(&gpu->card, key))
			continue;
		if (gpu->lost)
			return NVML_ERROR_GPU_IS_LOST;
		*device = sim_handle(i);
		return NVML_SUCCESS;
	}
	return absent;
}

static nvmlReturn_t sim_handle_by_index(enum sim_function function, unsigned int index, nvmlDevice_t *device)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter(&call, function);
	if (code == NVML_SUCCESS && (!device || index >= call.session.state.gpu_count))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && call.session.state.gpus[index].lost)
		code = NVML_ERROR_GPU_IS_LOST;
	if (code == NVML_SUCCESS)
		*device = sim_handle(index);
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
	return sim_handle_by_index(SIM_FN_nvmlDeviceGetHandleByIndex, index, device);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
	return sim_handle_by_index(SIM_FN_nvmlDeviceGetHandleByIndex_v2, index, device);
}

static bool sim_same_uuid(const struct sim_card *card, const void *uuid)
{
	return strcmp(card->uuid, uuid) == 0;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter(&call, SIM_FN_nvmlDeviceGetHandleByUUID);
	if (code == NVML_SUCCESS)
		code = sim_find(&call, device, sim_same_uuid, uuid, NVML_ERROR_NOT_FOUND);
	return sim_leave(&call, code);
}

/* Domain, bus and device count; so both widths of the domain are the same card. */
static bool sim_same_address(const struct sim_card *card, const void *text)
{
	unsigned int domain, bus, device;

	return sscanf(text, "%8x:%2x:%2x", &domain, &bus, &device) == 3 && card->pci_domain == domain &&
	       card->pci_bus == bus && card->pci_device == device;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *address, nvmlDevice_t *device)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter(&call, SIM_FN_nvmlDeviceGetHandleByPciBusId_v2);
	if (code == NVML_SUCCESS)
		code = sim_find(&call, device, sim_same_address, address, NVML_ERROR_NOT_FOUND);
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetPciInfo_v3, device);
	if (code == NVML_SUCCESS && !info)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS) {
		const struct sim_card *card = &call.gpu->card;
		memset(info, 0, sizeof *info);
		info->domain = (unsigned int)card->pci_domain;
		info->bus = (unsigned int)card->pci_bus;
		info->device = (unsigned int)card->pci_device;
		info->pciDeviceId = (unsigned int)card->pci_device_id;
		info->pciSubSystemId = (unsigned int)card->pci_subsystem_id;
		snprintf(info->busIdLegacy, sizeof info->busIdLegacy, "%04X:%02X:%02X.0", info->domain & 0xffff,
			info->bus & 0xff, info->device & 0xff);
		snprintf(info->busId, sizeof info->busId, "%08X:%02X:%02X.0", info->domain, info->bus, info->device);
	}
	return sim_leave(&call, code);
}
