/* What every exported call shares: its session, its checks, its end. See sim_api.c, "the plan". */
#ifndef SIM_API_H
#define SIM_API_H

#include "sim_nvml.h"
#include "sim_state.h"

#define SIM_EXPORT __attribute__((visibility("default")))

struct sim_call {
	struct sim_session session;
	bool open;
	struct sim_gpu *gpu; /* set by sim_enter_gpu */
	unsigned int index;
};

/* Open the session and answer what comes before the function itself: not initialised, injected failure. */
nvmlReturn_t sim_enter(struct sim_call *call, enum sim_function function);
/* The same for a call on a GPU: also handle, lost GPU, the personality's refusal, root for setters. */
nvmlReturn_t sim_enter_gpu(struct sim_call *call, enum sim_function function, nvmlDevice_t device);
/* Close the session and pass the code on. */
nvmlReturn_t sim_leave(struct sim_call *call, nvmlReturn_t code);

nvmlDevice_t sim_handle(unsigned int index);
nvmlReturn_t sim_text(char *buffer, unsigned int size, const char *text);

/* Getter of one number: *result = expression of `call.gpu`, with all checks. */
#define SIM_GETTER(function, type, expression) \
	SIM_EXPORT nvmlReturn_t function(nvmlDevice_t device, type *result) \
	{ \
		struct sim_call call; \
		nvmlReturn_t code = sim_enter_gpu(&call, SIM_FN_##function, device); \
		if (code == NVML_SUCCESS && !result) \
			code = NVML_ERROR_INVALID_ARGUMENT; \
		if (code == NVML_SUCCESS) \
			*result = (type)(expression); \
		return sim_leave(&call, code); \
	}

#endif
