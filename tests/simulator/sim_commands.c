/* What the commands of sim_commands.h do to the state. */
#include "sim_commands.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim_dump.h"
#include "sim_nvml.h"
#include "sim_physics.h"

#define SIM_ADVANCE_MAX_S 864000 /* ten days; more is a typing error */

static const char *sim_next(struct sim_arguments *arguments)
{
	return arguments->next < arguments->count ? arguments->words[arguments->next++] : "";
}

static bool sim_whole(const char *text, long long low, long long high, long long *value)
{
	char *end;

	errno = 0;
	*value = strtoll(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && *value >= low && *value <= high;
}

bool sim_options_taken(struct sim_arguments *arguments)
{
	int kept = arguments->next;
	long long value;

	for (int i = arguments->next; i < arguments->count; i++) {
		bool gpu = strcmp(arguments->words[i], "--gpu") == 0;
		if (!gpu && strcmp(arguments->words[i], "--pid") != 0) {
			arguments->words[kept++] = arguments->words[i];
			continue;
		}
		const char *text = i + 1 < arguments->count ? arguments->words[i + 1] : "";
		if (!sim_whole(text, 0, gpu ? SIM_GPUS_MAX - 1 : 0x7fffffff, &value)) {
			sim_refused(arguments->words[i], text, "a number");
			return false;
		}
		if (gpu)
			arguments->gpu = (int)value;
		else
			arguments->pid = (uint32_t)value;
		i++;
	}
	arguments->count = kept;
	return true;
}

/* Run `change` on the chosen GPUs. */
static int sim_each(struct sim_state *state, const struct sim_arguments *arguments,
	int (*change)(struct sim_gpu *, void *), void *context)
{
	if (arguments->gpu >= (int)state->gpu_count) {
		fprintf(stderr, "error: --gpu: found %d, wanted less than %u\n", arguments->gpu,
			(unsigned int)state->gpu_count);
		return SIM_BAD_INPUT;
	}
	for (int i = 0; i < (int)state->gpu_count; i++) {
		int code = arguments->gpu < 0 || arguments->gpu == i ? change(&state->gpus[i], context) : 0;
		if (code != 0)
			return code;
	}
	return 0;
}

struct sim_assignment {
	const char *key, *text;
};

/* MIN,MAX or none; snapped as the driver would. */
static int sim_set_lock(struct sim_lock *lock, const struct sim_card *card, const struct sim_assignment *set,
	uint32_t (*snap)(const struct sim_card *, uint64_t))
{
	unsigned int min_mhz, max_mhz;
	int used = 0;

	if (strcmp(set->text, "none") == 0) {
		*lock = (struct sim_lock){0, 0};
		return 0;
	}
	if (sscanf(set->text, "%u,%u%n", &min_mhz, &max_mhz, &used) != 2 || set->text[used] != '\0' ||
		min_mhz > max_mhz || max_mhz == 0)
		return sim_refused(set->key, set->text, "MIN,MAX in MHz, or none");
	*lock = (struct sim_lock){snap(card, min_mhz), snap(card, max_mhz)};
	return 0;
}

/* MEMORY,GRAPHICS from the card's lists, as somebody's `nvidia-smi -ac` would have left them. */
static int sim_set_application_clocks(struct sim_gpu *gpu, const struct sim_assignment *set)
{
	unsigned int memory_mhz, graphics_mhz;
	int used = 0;

	if (gpu->card.application_clock_memory_mhz == 0)
		return sim_refused(set->key, set->text, "a card that has application clocks");
	if (sscanf(set->text, "%u,%u%n", &memory_mhz, &graphics_mhz, &used) != 2 || set->text[used] != '\0' ||
		sim_memory_snap_mhz(&gpu->card, memory_mhz) != memory_mhz ||
		sim_graphics_snap_mhz(&gpu->card, graphics_mhz) != graphics_mhz)
		return sim_refused(set->key, set->text, "MEMORY,GRAPHICS in MHz, both from the card's lists");
	gpu->application_memory_mhz = memory_mhz;
	gpu->application_graphics_mhz = graphics_mhz;
	return 0;
}

static int sim_set_gpu(struct sim_gpu *gpu, void *context)
{
	const struct sim_assignment *set = context;
	long long value;

	if (strcmp(set->key, "persistence") == 0) {
		if (!sim_whole(set->text, 0, 1, &value))
			return sim_refused(set->key, set->text, "0 or 1");
		gpu->persistence = (uint32_t)value;
		gpu->loaded |= gpu->persistence;
		return 0;
	}
	if (strcmp(set->key, "compute_mode") == 0) {
		if (!sim_whole(set->text, 0, 3, &value) || value == NVML_COMPUTEMODE_EXCLUSIVE_THREAD)
			return sim_refused(set->key, set->text, "0, 2 or 3");
		gpu->compute_mode = (uint32_t)value;
		return 0;
	}
	if (strcmp(set->key, "ecc_pending") == 0) {
		if (!sim_whole(set->text, 0, 1, &value) || gpu->card.answer[SIM_FN_nvmlDeviceSetEccMode] != 0)
			return sim_refused(set->key, set->text, "0 or 1, on a card that has ECC");
		gpu->ecc.pending = (uint32_t)value;
		return 0;
	}
	if (strcmp(set->key, "drawing_pid") == 0) {
		if (!sim_whole(set->text, 0, 0x7fffffff, &value))
			return sim_refused(set->key, set->text, "a process, 0 for none");
		gpu->drawing_pid = (uint32_t)value;
		gpu->loaded |= gpu->drawing_pid != 0;
		return 0;
	}
	if (strcmp(set->key, "ambient_celsius") == 0) {
		if (!sim_whole(set->text, -40, 120, &value))
			return sim_refused(set->key, set->text, "whole degrees from -40 to 120");
		gpu->ambient_millicelsius = value * 1000;
		return 0;
	}
	/* What follows is lost on unload, so an unnamed process is taken to hold the driver until a client comes. */
	if (!gpu->loaded)
		gpu->loaded = gpu->prepared = 1;
	if (strcmp(set->key, "power_limit_mw") == 0) {
		if (!sim_whole(set->text, (long long)gpu->card.power_limit_min_mw,
			    (long long)gpu->card.power_limit_max_mw, &value))
			return sim_refused(set->key, set->text, "a limit within the constraints of the card");
		gpu->power_limit_mw = (uint32_t)value;
		return 0;
	}
	if (strcmp(set->key, "graphics_clock_lock_mhz") == 0)
		return sim_set_lock(&gpu->graphics_lock, &gpu->card, set, sim_graphics_snap_mhz);
	if (strcmp(set->key, "memory_clock_lock_mhz") == 0)
		return sim_set_lock(&gpu->memory_lock, &gpu->card, set, sim_memory_snap_mhz);
	if (strcmp(set->key, "application_clocks_mhz") == 0)
		return sim_set_application_clocks(gpu, set);
	return sim_refused("set", set->key, "a key that can be set");
}

int sim_command_set(struct sim_state *state, struct sim_arguments *arguments)
{
	struct sim_assignment set = {.key = sim_next(arguments)};

	set.text = sim_next(arguments);
	int code = sim_each(state, arguments, sim_set_gpu, &set);
	if (code == 0)
		sim_state_settle(state);
	return code;
}

struct sim_load {
	uint32_t on, pid;
};

static int sim_load_gpu(struct sim_gpu *gpu, void *context)
{
	const struct sim_load *load = context;

	gpu->load = load->on;
	gpu->load_pid = load->pid;
	gpu->loaded |= load->on; /* a CUDA context is a client of the driver */
	if (load->on)
		gpu->prepared = 0;
	return 0;
}

int sim_command_load(struct sim_state *state, struct sim_arguments *arguments)
{
	const char *word = sim_next(arguments);
	struct sim_load load = {.on = strcmp(word, "on") == 0, .pid = arguments->pid};

	if (!load.on && strcmp(word, "off") != 0)
		return sim_refused("load", word, "on or off");
	int code = sim_each(state, arguments, sim_load_gpu, &load);
	sim_state_settle(state);
	return code;
}

int sim_command_advance(struct sim_state *state, struct sim_arguments *arguments)
{
	const char *text = sim_next(arguments);
	char *end;
	double seconds = strtod(text, &end);
	uint64_t ticks =
		seconds > 0 && seconds <= SIM_ADVANCE_MAX_S ? (uint64_t)(seconds * 1000 / SIM_TICK_MS + 0.5) : 0;

	if (end == text || *end != '\0' || ticks == 0)
		return sim_refused("advance", text, "seconds, from 0.1 to 864000; time never goes back");
	sim_physics_advance(state, ticks);
	return 0;
}

struct sim_switch {
	enum sim_setting setting;
	uint32_t mode;
	const char *value;
};

/* Half way between two honest values, so that a clamp always shows. */
static uint32_t sim_default_clamp(const struct sim_card *card, enum sim_setting setting)
{
	if (setting == SIM_POWER_LIMIT)
		return (uint32_t)((card->power_limit_min_mw + card->power_limit_default_mw) / 2);
	if (setting == SIM_GRAPHICS_CLOCK)
		return sim_graphics_snap_mhz(
			card, (card->graphics_clock_min_mhz + card->load_graphics_clock_mhz) / 2);
	if (setting == SIM_APPLICATION_CLOCKS)
		return sim_graphics_snap_mhz(
			card, (card->graphics_clock_min_mhz + card->application_clock_graphics_mhz) / 2);
	return sim_memory_snap_mhz(card, card->load_memory_clock_mhz / 2);
}

static int sim_fault_gpu(struct sim_gpu *gpu, void *context)
{
	const struct sim_switch *fault = context;
	long long clamp = sim_default_clamp(&gpu->card, fault->setting);

	if (*fault->value && (fault->mode != SIM_FAULT_CLAMPED || !sim_whole(fault->value, 1, 10000000, &clamp)))
		return sim_refused("fault value", fault->value, "mW or MHz, with clamped only");
	gpu->faults[fault->setting] = (struct sim_fault){fault->mode, (uint32_t)clamp};
	return 0;
}

static int sim_named(const char *word, const char *const *names, int count)
{
	for (int i = 0; i < count; i++)
		if (strcmp(word, names[i]) == 0)
			return i;
	return -1;
}

int sim_command_fault(struct sim_state *state, struct sim_arguments *arguments)
{
	const char *setting_word = sim_next(arguments), *mode_word = sim_next(arguments);
	int setting = sim_named(setting_word, sim_setting_names, SIM_SETTING_COUNT);
	int mode = sim_named(mode_word, sim_fault_names, SIM_FAULT_CLAMPED + 1);

	if (setting < 0)
		return sim_refused("fault", setting_word,
			"power_limit, persistence, graphics_clock, memory_clock, application_clocks, compute_mode or "
			"ecc");
	bool yes_or_no = setting == SIM_PERSISTENCE || setting == SIM_COMPUTE_MODE || setting == SIM_ECC;
	if (mode < 0 || (mode == SIM_FAULT_CLAMPED && yes_or_no))
		return sim_refused(
			setting_word, mode_word, "accepted_ignored, clamped (where there is a number) or off");
	struct sim_switch fault = {(enum sim_setting)setting, (uint32_t)mode, sim_next(arguments)};
	return sim_each(state, arguments, sim_fault_gpu, &fault);
}

/* A code of the binding other than success. */
static bool sim_code(const char *text, int32_t *code)
{
	long long value;

	if (!sim_whole(text, NVML_ERROR_UNINITIALIZED, NVML_ERROR_UNKNOWN, &value))
		return false;
	*code = (int32_t)value;
	return value <= NVML_ERROR_RESET_TYPE_NOT_SUPPORTED || value == NVML_ERROR_UNKNOWN;
}

int sim_command_fail(struct sim_state *state, struct sim_arguments *arguments)
{
	const char *name = sim_next(arguments), *code_word = sim_next(arguments), *count_word = sim_next(arguments);
	int function = sim_function_by_name(name);
	struct sim_failure failure = {0, -1};
	long long left = -1;

	if (function < 0 || function == SIM_FN_nvmlErrorString)
		return sim_refused("fail", name, "an exported function that can fail (inferhost-sim functions)");
	if (strcmp(code_word, "off") != 0 && !sim_code(code_word, &failure.code))
		return sim_refused(name, code_word, "an NVML error code (1 to 30, 999) or off");
	if (*count_word && !sim_whole(count_word, 1, 1000000, &left))
		return sim_refused(name, count_word, "how often, from 1");
	failure.left = (int32_t)left;
	state->failures[function] = failure;
	return 0;
}

int sim_command_fail_nth(struct sim_state *state, struct sim_arguments *arguments)
{
	const char *n_word = sim_next(arguments);
	long long n = 0;
	struct sim_failure failure = {0, 1};

	if (strcmp(n_word, "off") != 0) {
		const char *code_word = sim_next(arguments), *how = sim_next(arguments);
		if (!sim_whole(n_word, 1, 1000000, &n))
			return sim_refused("fail-nth", n_word, "the number of a call, from 1, or off");
		if (!sim_code(code_word, &failure.code))
			return sim_refused("fail-nth", code_word, "an NVML error code (1 to 30, 999)");
		if (*how && strcmp(how, "once") != 0 && strcmp(how, "forever") != 0)
			return sim_refused("fail-nth", how, "once or forever");
		failure.left = strcmp(how, "forever") == 0 ? -1 : 1;
	}
	state->nth = n;
	state->nth_calls = 0;
	state->nth_failure = failure;
	return 0;
}

int sim_command_lost(struct sim_state *state, struct sim_arguments *arguments)
{
	const char *word = sim_next(arguments);
	long long index;

	if (!sim_whole(word, 0, (long long)state->gpu_count - 1, &index))
		return sim_refused("lost", word, "the index of a GPU");
	state->gpus[index].lost = 1;
	return 0;
}

int sim_command_reload(struct sim_state *state, struct sim_arguments *arguments)
{
	(void)arguments;
	if (sim_clients_exist())
		return sim_refused(
			"reload", "a process that has NVML open", "none: the kernel keeps a driver that is in use");
	for (uint64_t i = 0; i < state->gpu_count; i++)
		sim_gpu_reboot(&state->gpus[i]);
	return 0;
}
