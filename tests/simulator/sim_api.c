/* The simulated libnvidia-ml.so.1: entry, process life, errors, handles.
 *
 * The plan: what each faked call does
 *
 *   nvmlInit, _v2, WithFlags   counts references per process; the first one joins the clients of the driver and loads
 *                              it (flags are ignored). No personality: 9 DriverNotLoaded.
 *   nvmlShutdown               the last reference leaves; with no client left, persistence off and no load, the
 *                              driver unloads: limit and locks are lost, energy and counters restart. A process
 *                              that is killed leaves in the same way.
 *   nvmlErrorString            the texts of the binding; code 26 and later get "Unknown Error".
 *   System*, Device* getters   sim_queries.c: what the card is; sim_readings.c: what it does at this virtual moment.
 *   Device* setters            sim_setters.c: root only; what they change is seen by every process at once, but
 *                              clocks, power and heat follow only when virtual time moves (`inferhost-sim advance`).
 *   instances of a card        sim_mig.c: made, listed and destroyed while MIG mode is on; root only.
 *   fields                     sim_fields.c: GetFieldValues for power, energy and the event counters.
 *   Time                       stands still between two `advance`; nothing here sleeps or reads a real clock.
 *   Faults                     `fail` and `fail-nth` answer before anything else is looked at; `lost` answers 15 for
 *                              ever; `fault` makes a setting accepted without, or with less, effect.
 *   Anything not exported      is FunctionNotFound in the binding: the library grows function by function.
 *
 * Order of refusals: 1 Uninitialized, injected failure, 2 handle, the personality's 3 or 26, 15 lost,
 * 4 NoPermission, then the function's own. Files: sim_state.h (shared state), sim_physics.c (model),
 * sim_personality.h (data), sim_cli.c (`inferhost-sim`).
 */
#include "sim_api.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Host code tells the simulator from a real library by this symbol; absent means real. */
SIM_EXPORT extern const int inferhost_simulated_v1;
const int inferhost_simulated_v1 = 1;

struct nvmlDevice_st {
	char unused;
};

/* The state of this process; everything else is in the shared file. */
static struct {
	pthread_mutex_t mutex;
	unsigned int references;
	int client_fd;
	struct nvmlDevice_st handles[SIM_GPUS_MAX]; /* a handle is an address in here, so that a stray one is told */
} sim_process = {.mutex = PTHREAD_MUTEX_INITIALIZER, .client_fd = -1};

nvmlDevice_t sim_handle(unsigned int index)
{
	return &sim_process.handles[index];
}

nvmlReturn_t sim_text(char *buffer, unsigned int size, const char *text)
{
	if (!buffer)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (strlen(text) + 1 > size)
		return NVML_ERROR_INSUFFICIENT_SIZE;
	strcpy(buffer, text);
	return NVML_SUCCESS;
}

static nvmlReturn_t sim_open(struct sim_call *call)
{
	switch (sim_session_open(&call->session)) {
	case SIM_OPEN_OK:
		call->open = true;
		return NVML_SUCCESS;
	case SIM_OPEN_NO_PERSONALITY:
		return NVML_ERROR_DRIVER_NOT_LOADED;
	case SIM_OPEN_BROKEN:
		break;
	}
	return NVML_ERROR_UNKNOWN;
}

/* The code that `fail` or `fail-nth` wants for this call, or success. */
static nvmlReturn_t sim_injected(struct sim_call *call, enum sim_function function)
{
	struct sim_state *state = &call->session.state;
	struct sim_failure *failure = &state->failures[function];

	if (state->nth > 0) {
		state->nth_calls++;
		call->session.dirty = true;
		if (state->nth_calls == state->nth || (state->nth_failure.left < 0 && state->nth_calls > state->nth))
			return state->nth_failure.code;
	}
	if (failure->code == 0)
		return NVML_SUCCESS;
	nvmlReturn_t code = failure->code;
	if (failure->left > 0) {
		call->session.dirty = true;
		if (--failure->left == 0)
			failure->code = 0;
	}
	return code;
}

nvmlReturn_t sim_enter(struct sim_call *call, enum sim_function function)
{
	call->open = false;
	call->gpu = NULL;
	pthread_mutex_lock(&sim_process.mutex);
	unsigned int references = sim_process.references;
	pthread_mutex_unlock(&sim_process.mutex);
	if (references == 0 && sim_function_scope(function) != 'P')
		return NVML_ERROR_UNINITIALIZED;
	nvmlReturn_t code = sim_open(call);
	return code == NVML_SUCCESS ? sim_injected(call, function) : code;
}

nvmlReturn_t sim_enter_gpu(struct sim_call *call, enum sim_function function, nvmlDevice_t device)
{
	nvmlReturn_t code = sim_enter(call, function);

	if (code != NVML_SUCCESS)
		return code;
	for (call->index = 0; call->index < call->session.state.gpu_count; call->index++)
		if (device == sim_handle(call->index))
			call->gpu = &call->session.state.gpus[call->index];
	if (!call->gpu)
		return NVML_ERROR_INVALID_ARGUMENT;
	call->index = (unsigned int)(call->gpu - call->session.state.gpus);
	if (sim_function_scope(function) == 'W') {
		call->session.state.writes[function]++;
		call->session.dirty = true;
	}
	if (call->gpu->card.answer[function] != NVML_SUCCESS)
		return call->gpu->card.answer[function];
	if (call->gpu->lost)
		return NVML_ERROR_GPU_IS_LOST;
	if (sim_function_scope(function) == 'W' && geteuid() != 0)
		return NVML_ERROR_NO_PERMISSION;
	return NVML_SUCCESS;
}

nvmlReturn_t sim_leave(struct sim_call *call, nvmlReturn_t code)
{
	if (call->open && !sim_session_close(&call->session) && code == NVML_SUCCESS)
		return NVML_ERROR_UNKNOWN;
	return code;
}

static nvmlReturn_t sim_init(enum sim_function function)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter(&call, function);
	pthread_mutex_lock(&sim_process.mutex);
	if (code == NVML_SUCCESS && sim_process.references == 0) {
		sim_process.client_fd = sim_client_attach(&call.session);
		if (sim_process.client_fd < 0)
			code = NVML_ERROR_UNKNOWN;
	}
	if (code == NVML_SUCCESS)
		sim_process.references++;
	pthread_mutex_unlock(&sim_process.mutex);
	return sim_leave(&call, code);
}

SIM_EXPORT nvmlReturn_t nvmlInit(void)
{
	return sim_init(SIM_FN_nvmlInit);
}

SIM_EXPORT nvmlReturn_t nvmlInit_v2(void)
{
	return sim_init(SIM_FN_nvmlInit_v2);
}

SIM_EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
	(void)flags;
	return sim_init(SIM_FN_nvmlInitWithFlags);
}

SIM_EXPORT nvmlReturn_t nvmlShutdown(void)
{
	struct sim_call call;

	nvmlReturn_t code = sim_enter(&call, SIM_FN_nvmlShutdown);
	pthread_mutex_lock(&sim_process.mutex);
	if (code == NVML_SUCCESS && sim_process.references == 0)
		code = NVML_ERROR_UNINITIALIZED;
	if (code == NVML_SUCCESS && --sim_process.references == 0) {
		close(sim_process.client_fd);
		sim_process.client_fd = -1;
		call.session.dirty |= sim_state_settle(&call.session.state);
	}
	pthread_mutex_unlock(&sim_process.mutex);
	return sim_leave(&call, code);
}

SIM_EXPORT const char *nvmlErrorString(nvmlReturn_t code)
{
	static const char *const texts[] = {
		"Success",
		"Uninitialized",
		"Invalid Argument",
		"Not Supported",
		"Insufficient Permissions",
		"Already Initialized",
		"Not Found",
		"Insufficient Size",
		"Insufficient External Power",
		"Driver Not Loaded",
		"Timeout",
		"Interrupt Request Issue",
		"NVML Shared Library Not Found",
		"Function Not Found",
		"Corrupted infoROM",
		"GPU is lost",
		"GPU requires restart",
		"The operating system has blocked the request.",
		"RM has detected an NVML/RM version mismatch.",
	};

	if (code < 0 || (unsigned int)code >= sizeof texts / sizeof texts[0])
		return "Unknown Error";
	return texts[code];
}
