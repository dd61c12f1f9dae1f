/* nvmlDeviceGetFieldValues for power, energy and the counters of clock events; other fields are NotSupported. */
#include "sim_api.h"
#include "sim_physics.h"

static void sim_field_power(nvmlFieldValue_t *field, uint64_t milliwatts)
{
	field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
	field->value.uiVal = (unsigned int)milliwatts;
}

static void sim_field_counter(nvmlFieldValue_t *field, uint64_t count)
{
	field->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
	field->value.ullVal = count;
}

static void sim_field(nvmlFieldValue_t *field, const struct sim_gpu *gpu)
{
	field->nvmlReturn = NVML_SUCCESS;
	switch (field->fieldId) {
	case NVML_FI_DEV_PERF_POLICY_POWER:
		sim_field_counter(field, gpu->power_cap_ns);
		break;
	case NVML_FI_DEV_REASON_SW_THERM_SLOWDOWN:
		sim_field_counter(field, gpu->sw_thermal_ns);
		break;
	case NVML_FI_DEV_REASON_HW_THERM_SLOWDOWN:
		sim_field_counter(field, gpu->hw_thermal_ns);
		break;
	case NVML_FI_DEV_REASON_HW_POWER_BRAKE_SLOWDOWN:
		sim_field_counter(field, 0); /* no simulated board pulls its brake */
		break;
	case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION:
	case NVML_FI_DEV_ENERGY:
		sim_field_counter(field, gpu->energy_uj / 1000);
		field->nvmlReturn = gpu->card.answer[SIM_FN_nvmlDeviceGetTotalEnergyConsumption];
		break;
	case NVML_FI_DEV_POWER_AVERAGE:
		sim_field_power(field, sim_power_average_mw(gpu));
		break;
	case NVML_FI_DEV_POWER_INSTANT:
		sim_field_power(field, gpu->power_mw);
		break;
	case NVML_FI_DEV_POWER_MIN_LIMIT:
		sim_field_power(field, gpu->card.power_limit_min_mw);
		break;
	case NVML_FI_DEV_POWER_MAX_LIMIT:
		sim_field_power(field, gpu->card.power_limit_max_mw);
		break;
	case NVML_FI_DEV_POWER_DEFAULT_LIMIT:
		sim_field_power(field, gpu->card.power_limit_default_mw);
		break;
	case NVML_FI_DEV_POWER_CURRENT_LIMIT:
		sim_field_power(field, sim_enforced_limit_mw(gpu));
		break;
	case NVML_FI_DEV_POWER_REQUESTED_LIMIT:
		sim_field_power(field, gpu->power_limit_mw);
		break;
	default:
		field->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
	}
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *fields)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_nvmlDeviceGetFieldValues, device);
	if (code == NVML_SUCCESS && (!fields || count < 1))
		code = NVML_ERROR_INVALID_ARGUMENT;
	for (int i = 0; code == NVML_SUCCESS && i < count; i++) {
		fields[i].timestamp = (int64_t)call.session.state.time_ms * 1000;
		fields[i].latencyUsec = 0;
		sim_field(&fields[i], call.gpu);
	}
	return sim_leave(&call, code);
}
