/* Dividing a card: GPU instances, the compute instances in them, and the devices that CUDA programs see.
 *
 * As nvml.h and the MIG user guide describe it: instances exist in MIG mode only, begin at places of their profile,
 * never overlap (23 InsufficientResources), and cannot go while a program or a compute instance is in them (19 InUse).
 * A compute instance takes some or all of the slices; with each comes one device. All of it ends with the driver.
 * Assumed: the enumerator of a profile is its place in the personality; ids count from 1.
 */
#include <stdio.h>
#include <string.h>

#include "sim_api.h"

struct nvmlGpuInstance_st {
	char unused;
};
struct nvmlComputeInstance_st {
	char unused;
};
struct nvmlDevice_st {
	char unused;
};

/* A handle is an address in here, as for whole cards. */
static struct nvmlGpuInstance_st sim_instances[SIM_GPUS_MAX][SIM_INSTANCES_MAX];
static struct nvmlComputeInstance_st sim_computes[SIM_GPUS_MAX][SIM_INSTANCES_MAX][SIM_SLICES_MAX];
static struct nvmlDevice_st sim_devices[SIM_GPUS_MAX][SIM_INSTANCES_MAX][SIM_SLICES_MAX];

struct sim_place {
	unsigned int gpu, slot, compute;
};

#define SIM_PLACE_OF(table, handle, place) \
	for ((place).gpu = 0; (place).gpu < SIM_GPUS_MAX; (place).gpu++) \
		for ((place).slot = 0; (place).slot < SIM_INSTANCES_MAX; (place).slot++) \
			for ((place).compute = 0; (place).compute < SIM_SLICES_MAX; (place).compute++) \
				if ((handle) == &(table)[(place).gpu][(place).slot][(place).compute]) \
					return true; \
	return false;

static bool sim_device_place(nvmlDevice_t device, struct sim_place *place)
{
	SIM_PLACE_OF(sim_devices, device, *place)
}

static bool sim_compute_place(nvmlComputeInstance_t handle, struct sim_place *place)
{
	SIM_PLACE_OF(sim_computes, handle, *place)
}

static bool sim_instance_place(nvmlGpuInstance_t handle, struct sim_place *place)
{
	for (place->gpu = 0; place->gpu < SIM_GPUS_MAX; place->gpu++)
		for (place->slot = 0; place->slot < SIM_INSTANCES_MAX; place->slot++)
			if (handle == &sim_instances[place->gpu][place->slot])
				return true;
	return false;
}

static nvmlReturn_t sim_enter_divided(struct sim_call *call, enum sim_function function, nvmlDevice_t device)
{
	nvmlReturn_t code = sim_enter_gpu(call, function, device);
	return code == NVML_SUCCESS && !call->gpu->mig.current ? NVML_ERROR_NOT_SUPPORTED : code;
}

static nvmlReturn_t sim_enter_instance(struct sim_call *call, enum sim_function function, nvmlGpuInstance_t handle,
	struct sim_place *place, struct sim_instance **instance)
{
	bool known = sim_instance_place(handle, place);
	nvmlReturn_t code = sim_enter_divided(call, function, known ? sim_handle(place->gpu) : NULL);
	if (code != NVML_SUCCESS)
		return code;
	*instance = &call->gpu->instances[place->slot];
	return (*instance)->used ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

static const struct sim_mig_profile *sim_profile(const struct sim_gpu *gpu, const struct sim_instance *instance)
{
	return &gpu->card.mig_profiles[instance->profile];
}

/* The slices of a compute profile by its enumerator: one, or all of the instance. Others are not simulated. */
static unsigned int sim_compute_slices(const struct sim_mig_profile *profile, unsigned int enumerator)
{
	static const unsigned int slices[] = {1, 2, 3, 4, 7};

	if (enumerator >= sizeof slices / sizeof slices[0])
		return 0;
	return slices[enumerator] == 1 || slices[enumerator] == profile->slices ? slices[enumerator] : 0;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(
	nvmlDevice_t device, unsigned int enumerator, nvmlGpuInstanceProfileInfo_v2_t *info)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetGpuInstanceProfileInfoV, device);
	if (code == NVML_SUCCESS && (!info || info->version != NVML_GPU_INSTANCE_PROFILE_V2))
		code = info ? NVML_ERROR_ARGUMENT_VERSION_MISMATCH : NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && enumerator >= call.gpu->card.mig_profile_count)
		code = NVML_ERROR_NOT_SUPPORTED;
	if (code == NVML_SUCCESS) {
		const struct sim_mig_profile *profile = &call.gpu->card.mig_profiles[enumerator];
		*info = (nvmlGpuInstanceProfileInfo_v2_t){.version = info->version, .id = profile->id,
			.sliceCount = profile->slices, .instanceCount = profile->starts_count,
			.memorySizeMB = profile->memory_mib};
		snprintf(info->name, sizeof info->name, "MIG %s", profile->name);
	}
	return sim_leave(&call, code);
}

static nvmlReturn_t sim_create(struct sim_gpu *gpu, unsigned int id, const nvmlGpuInstancePlacement_t *placement,
	unsigned int *slot)
{
	const struct sim_card *card = &gpu->card;
	unsigned int profile = 0, start = 0;

	while (profile < card->mig_profile_count && card->mig_profiles[profile].id != id)
		profile++;
	if (profile == card->mig_profile_count || placement->size != card->mig_profiles[profile].size)
		return NVML_ERROR_INVALID_ARGUMENT;
	while (start < card->mig_profiles[profile].starts_count &&
		card->mig_profiles[profile].starts[start] != placement->start)
		start++;
	if (start == card->mig_profiles[profile].starts_count)
		return NVML_ERROR_INVALID_ARGUMENT;
	*slot = SIM_INSTANCES_MAX;
	for (unsigned int i = 0; i < SIM_INSTANCES_MAX; i++) {
		const struct sim_instance *other = &gpu->instances[i];
		if (!other->used && *slot == SIM_INSTANCES_MAX)
			*slot = i;
		if (other->used && other->start < placement->start + placement->size &&
			placement->start < other->start + sim_profile(gpu, other)->size)
			return NVML_ERROR_INSUFFICIENT_RESOURCES;
	}
	if (*slot == SIM_INSTANCES_MAX)
		return NVML_ERROR_INSUFFICIENT_RESOURCES;
	gpu->instances[*slot] = (struct sim_instance){.used = 1, .profile = profile, .start = placement->start};
	return NVML_SUCCESS;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t device, unsigned int id,
	const nvmlGpuInstancePlacement_t *placement, nvmlGpuInstance_t *handle)
{
	struct sim_call call;
	unsigned int slot = 0;

	nvmlReturn_t code = sim_enter_divided(&call, SIM_FN_nvmlDeviceCreateGpuInstanceWithPlacement, device);
	if (code == NVML_SUCCESS && (!placement || !handle))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS)
		code = sim_create(call.gpu, id, placement, &slot);
	if (code == NVML_SUCCESS)
		*handle = &sim_instances[call.index][slot];
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t handle)
{
	struct sim_call call;
	struct sim_place place;
	struct sim_instance *instance = NULL;

	nvmlReturn_t code = sim_enter_instance(&call, SIM_FN_nvmlGpuInstanceDestroy, handle, &place, &instance);
	if (code == NVML_SUCCESS && call.gpu->load)
		code = NVML_ERROR_IN_USE;
	for (int i = 0; code == NVML_SUCCESS && i < SIM_SLICES_MAX; i++)
		if (instance->compute_slices[i])
			code = NVML_ERROR_IN_USE;
	if (code == NVML_SUCCESS)
		*instance = (struct sim_instance){0};
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetGpuInstances(
	nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *handles, unsigned int *count)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_divided(&call, SIM_FN_nvmlDeviceGetGpuInstances, device);
	if (code == NVML_SUCCESS && (!handles || !count))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS)
		*count = 0;
	for (unsigned int i = 0; code == NVML_SUCCESS && i < SIM_INSTANCES_MAX; i++) {
		const struct sim_instance *instance = &call.gpu->instances[i];
		if (instance->used && sim_profile(call.gpu, instance)->id == id)
			handles[(*count)++] = &sim_instances[call.index][i];
	}
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t handle, nvmlGpuInstanceInfo_t *info)
{
	struct sim_call call;
	struct sim_place place;
	struct sim_instance *instance = NULL;

	nvmlReturn_t code = sim_enter_instance(&call, SIM_FN_nvmlGpuInstanceGetInfo, handle, &place, &instance);
	if (code == NVML_SUCCESS && !info)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS) {
		const struct sim_mig_profile *profile = sim_profile(call.gpu, instance);
		*info = (nvmlGpuInstanceInfo_t){sim_handle(place.gpu), place.slot + 1, profile->id,
			{instance->start, profile->size}};
	}
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t handle,
	unsigned int enumerator, unsigned int engine, nvmlComputeInstanceProfileInfo_v2_t *info)
{
	struct sim_call call;
	struct sim_place place;
	struct sim_instance *instance = NULL;

	nvmlReturn_t code = sim_enter_instance(
		&call, SIM_FN_nvmlGpuInstanceGetComputeInstanceProfileInfoV, handle, &place, &instance);
	if (code == NVML_SUCCESS && (!info || engine != 0))
		code = NVML_ERROR_INVALID_ARGUMENT;
	unsigned int slices =
		code == NVML_SUCCESS ? sim_compute_slices(sim_profile(call.gpu, instance), enumerator) : 0;
	if (code == NVML_SUCCESS && slices == 0)
		code = NVML_ERROR_NOT_SUPPORTED;
	if (code == NVML_SUCCESS) {
		const struct sim_mig_profile *profile = sim_profile(call.gpu, instance);
		*info = (nvmlComputeInstanceProfileInfo_v2_t){.version = info->version, .id = enumerator,
			.sliceCount = slices, .instanceCount = profile->slices / slices};
		if (slices == profile->slices)
			snprintf(info->name, sizeof info->name, "MIG %s", profile->name);
		else
			snprintf(info->name, sizeof info->name, "MIG %uc.%s", slices, profile->name);
	}
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlGpuInstanceCreateComputeInstanceWithPlacement(nvmlGpuInstance_t handle, unsigned int id,
	const nvmlComputeInstancePlacement_t *placement, nvmlComputeInstance_t *made)
{
	struct sim_call call;
	struct sim_place place;
	struct sim_instance *instance = NULL;

	nvmlReturn_t code = sim_enter_instance(
		&call, SIM_FN_nvmlGpuInstanceCreateComputeInstanceWithPlacement, handle, &place, &instance);
	unsigned int slices = code == NVML_SUCCESS ? sim_compute_slices(sim_profile(call.gpu, instance), id) : 0;
	if (code == NVML_SUCCESS && (!placement || !made || slices == 0 || placement->size != slices ||
					    placement->start + slices > sim_profile(call.gpu, instance)->slices))
		code = NVML_ERROR_INVALID_ARGUMENT;
	for (unsigned int i = 0; code == NVML_SUCCESS && i < SIM_SLICES_MAX; i++)
		if (instance->compute_slices[i] && i < placement->start + slices &&
			placement->start < i + instance->compute_slices[i])
			code = NVML_ERROR_INSUFFICIENT_RESOURCES;
	if (code == NVML_SUCCESS) {
		instance->compute_slices[placement->start] = slices;
		*made = &sim_computes[place.gpu][place.slot][placement->start];
	}
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t handle)
{
	struct sim_call call;
	struct sim_place place;

	bool known = sim_compute_place(handle, &place);
	nvmlReturn_t code = sim_enter_divided(
		&call, SIM_FN_nvmlComputeInstanceDestroy, known ? sim_handle(place.gpu) : NULL);
	if (code == NVML_SUCCESS && !call.gpu->instances[place.slot].compute_slices[place.compute])
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS && call.gpu->load)
		code = NVML_ERROR_IN_USE;
	if (code == NVML_SUCCESS)
		call.gpu->instances[place.slot].compute_slices[place.compute] = 0;
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstances(
	nvmlGpuInstance_t handle, unsigned int id, nvmlComputeInstance_t *handles, unsigned int *count)
{
	struct sim_call call;
	struct sim_place place;
	struct sim_instance *instance = NULL;

	nvmlReturn_t code =
		sim_enter_instance(&call, SIM_FN_nvmlGpuInstanceGetComputeInstances, handle, &place, &instance);
	unsigned int slices = code == NVML_SUCCESS ? sim_compute_slices(sim_profile(call.gpu, instance), id) : 0;
	if (code == NVML_SUCCESS && (!handles || !count || slices == 0))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS)
		*count = 0;
	for (unsigned int i = 0; code == NVML_SUCCESS && i < SIM_SLICES_MAX; i++)
		if (instance->compute_slices[i] == slices)
			handles[(*count)++] = &sim_computes[place.gpu][place.slot][i];
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *info)
{
	struct sim_call call;
	struct sim_place place;

	bool known = sim_compute_place(handle, &place);
	nvmlReturn_t code = sim_enter_divided(
		&call, SIM_FN_nvmlComputeInstanceGetInfo_v2, known ? sim_handle(place.gpu) : NULL);
	unsigned int slices =
		code == NVML_SUCCESS ? call.gpu->instances[place.slot].compute_slices[place.compute] : 0;
	if (code == NVML_SUCCESS && (!info || slices == 0))
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS) {
		unsigned int id = 0;
		while (sim_compute_slices(sim_profile(call.gpu, &call.gpu->instances[place.slot]), id) != slices)
			id++;
		*info = (nvmlComputeInstanceInfo_t){sim_handle(place.gpu), &sim_instances[place.gpu][place.slot],
			place.compute, id, {place.compute, slices}};
	}
	return sim_leave(&call, code);
}

/* "The maximum number of MIG devices that can exist": one per slice. */
SIM_EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetMaxMigDeviceCount, device);
	if (code == NVML_SUCCESS && !count)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS)
		*count = 0;
	for (unsigned int i = 0; code == NVML_SUCCESS && i < call.gpu->card.mig_profile_count; i++)
		if (call.gpu->card.mig_profiles[i].slices > *count)
			*count = call.gpu->card.mig_profiles[i].slices;
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(
	nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig_device)
{
	struct sim_call call;
	unsigned int seen = 0;

	nvmlReturn_t code = sim_enter_divided(&call, SIM_FN_nvmlDeviceGetMigDeviceHandleByIndex, device);
	if (code == NVML_SUCCESS && !mig_device)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code != NVML_SUCCESS)
		return sim_leave(&call, code);
	for (unsigned int slot = 0; slot < SIM_INSTANCES_MAX; slot++) {
		for (unsigned int i = 0; i < SIM_SLICES_MAX; i++) {
			if (!call.gpu->instances[slot].compute_slices[i] || seen++ != index)
				continue;
			*mig_device = &sim_devices[call.index][slot][i];
			return sim_leave(&call, NVML_SUCCESS);
		}
	}
	return sim_leave(&call, NVML_ERROR_NOT_FOUND);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id)
{
	struct sim_call call;
	struct sim_place place;

	bool known = sim_device_place(device, &place);
	nvmlReturn_t code = sim_enter_divided(
		&call, SIM_FN_nvmlDeviceGetGpuInstanceId, known ? sim_handle(place.gpu) : NULL);
	if (code == NVML_SUCCESS && !id)
		code = NVML_ERROR_INVALID_ARGUMENT;
	if (code == NVML_SUCCESS)
		*id = place.slot + 1;
	return sim_leave(&call, code);
}

/* Of a card, or of a MIG device: "MIG-" and 36 characters that depend on the card, the instance and its place. */
SIM_EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *buffer, unsigned int size)
{
	struct sim_call call;
	struct sim_place place;
	char text[SIM_TEXT_MAX];

	bool part = sim_device_place(device, &place);
	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetUUID, part ? sim_handle(place.gpu) : device);
	if (code != NVML_SUCCESS)
		return sim_leave(&call, code);
	if (!part)
		return sim_leave(&call, sim_text(buffer, size, call.gpu->card.uuid));
	const struct sim_instance *instance = &call.gpu->instances[place.slot];
	snprintf(text, sizeof text, "MIG-%.23s-%04x%04x%04x", call.gpu->card.uuid + strlen("GPU-"), instance->profile,
		instance->start, place.compute);
	return sim_leave(&call, instance->used ? sim_text(buffer, size, text) : NVML_ERROR_NOT_FOUND);
}
