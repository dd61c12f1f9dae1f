/* The loader of sim_personality.h: one table of fields, every fault of a file told in one pass. */
#include "sim_personality.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim_nvml.h"

enum sim_kind { SIM_TEXT, SIM_NUMBER, SIM_STEPS, SIM_PSTATES, SIM_PCI_BUS_ID };
enum sim_scope { SIM_MACHINE, SIM_MODEL, SIM_CARD }; /* SIM_CARD: identifies a card, so never shared */

struct sim_field {
	const char *name;
	enum sim_kind kind;
	enum sim_scope scope;
	size_t offset;
};

#define SIM_MACHINE_FIELD(field, kind) {#field, kind, SIM_MACHINE, offsetof(struct sim_state, field)}
#define SIM_CARD_FIELD(field, kind) {#field, kind, SIM_CARD, offsetof(struct sim_card, field)}
#define SIM_MODEL_FIELD(field) {#field, SIM_NUMBER, SIM_MODEL, offsetof(struct sim_card, field)}

static const struct sim_field sim_fields[] = {
	SIM_MACHINE_FIELD(driver_version, SIM_TEXT),
	SIM_MACHINE_FIELD(nvml_version, SIM_TEXT),
	SIM_MACHINE_FIELD(cuda_driver_version, SIM_NUMBER),
	SIM_CARD_FIELD(uuid, SIM_TEXT),
	SIM_CARD_FIELD(minor_number, SIM_NUMBER),
	{"pci_bus_id", SIM_PCI_BUS_ID, SIM_CARD, offsetof(struct sim_card, pci_domain)},
	{"name", SIM_TEXT, SIM_MODEL, offsetof(struct sim_card, name)},
	{"memory_clock_steps_mhz", SIM_STEPS, SIM_MODEL, offsetof(struct sim_card, memory_clock_steps_mhz)},
	{"memory_clock_pstates", SIM_PSTATES, SIM_MODEL, offsetof(struct sim_card, memory_clock_pstates)},
	SIM_MODEL_FIELD(pci_device_id),
	SIM_MODEL_FIELD(pci_subsystem_id),
	SIM_MODEL_FIELD(architecture),
	SIM_MODEL_FIELD(compute_capability_major),
	SIM_MODEL_FIELD(compute_capability_minor),
	SIM_MODEL_FIELD(gpu_cores),
	SIM_MODEL_FIELD(memory_total_bytes),
	SIM_MODEL_FIELD(memory_reserved_bytes),
	SIM_MODEL_FIELD(memory_bus_width_bits),
	SIM_MODEL_FIELD(bar1_total_bytes),
	SIM_MODEL_FIELD(virtualization_mode),
	SIM_MODEL_FIELD(ecc_mode),
	SIM_MODEL_FIELD(mig_mode),
	SIM_MODEL_FIELD(pcie_max_generation),
	SIM_MODEL_FIELD(pcie_idle_generation),
	SIM_MODEL_FIELD(pcie_max_width),
	SIM_MODEL_FIELD(power_limit_min_mw),
	SIM_MODEL_FIELD(power_limit_default_mw),
	SIM_MODEL_FIELD(power_limit_max_mw),
	SIM_MODEL_FIELD(graphics_clock_min_mhz),
	SIM_MODEL_FIELD(graphics_clock_max_mhz),
	SIM_MODEL_FIELD(graphics_clock_step_khz),
	SIM_MODEL_FIELD(graphics_clock_ramp_mhz_per_s),
	SIM_MODEL_FIELD(video_clock_max_mhz),
	SIM_MODEL_FIELD(idle_graphics_clock_mhz),
	SIM_MODEL_FIELD(idle_memory_clock_mhz),
	SIM_MODEL_FIELD(idle_video_clock_mhz),
	SIM_MODEL_FIELD(idle_power_mw),
	SIM_MODEL_FIELD(idle_event_reasons),
	SIM_MODEL_FIELD(load_graphics_clock_mhz),
	SIM_MODEL_FIELD(load_memory_clock_mhz),
	SIM_MODEL_FIELD(load_power_mw),
	SIM_MODEL_FIELD(load_static_power_mw),
	SIM_MODEL_FIELD(load_utilization_percent),
	SIM_MODEL_FIELD(load_memory_utilization_percent),
	SIM_MODEL_FIELD(load_memory_used_bytes),
	SIM_MODEL_FIELD(graphics_lock_ceiling_mhz),
	SIM_MODEL_FIELD(memory_lock_ceiling_mhz),
	SIM_MODEL_FIELD(ambient_millicelsius),
	SIM_MODEL_FIELD(thermal_resistance_millikelvin_per_w),
	SIM_MODEL_FIELD(thermal_time_constant_ms),
	SIM_MODEL_FIELD(sw_slowdown_millicelsius),
	SIM_MODEL_FIELD(hw_slowdown_millicelsius),
};

enum { SIM_FIELD_COUNT = sizeof sim_fields / sizeof sim_fields[0] };

struct sim_reader {
	const char *path;
	int line, faults;
	int gpu; /* -1 before the first section */
	struct sim_state *state;
	struct sim_card model;
	bool in_model[SIM_FIELD_COUNT], in_gpu[SIM_GPUS_MAX][SIM_FIELD_COUNT];
};

__attribute__((format(printf, 2, 3))) static void sim_fault_told(struct sim_reader *reader, const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "error: %s", reader->path);
	if (reader->line > 0)
		fprintf(stderr, ":%d", reader->line);
	fputs(": ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	reader->faults++;
}

static char *sim_trimmed(char *text)
{
	while (isspace((unsigned char)*text))
		text++;
	char *end = text + strlen(text);
	while (end > text && isspace((unsigned char)end[-1]))
		end--;
	*end = '\0';
	return text;
}

/* Decimal or 0x; the whole text must be the number. */
static bool sim_number(const char *text, uint64_t *value)
{
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	*value = strtoull(text, &end, strncmp(text, "0x", 2) == 0 ? 16 : 10);
	return errno == 0 && *end == '\0';
}

static bool sim_list(char *text, uint64_t *values, uint64_t *count)
{
	char *rest = NULL;

	*count = 0;
	for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
		if (*count == SIM_MEMORY_STEPS_MAX || !sim_number(word, &values[*count]))
			return false;
		(*count)++;
	}
	return *count > 0;
}

static bool sim_pci_bus_id(const char *text, struct sim_card *card)
{
	unsigned int domain, bus, device;
	int used = 0;

	if (sscanf(text, "%8x:%2x:%2x.0%n", &domain, &bus, &device, &used) != 3 || used == 0 || text[used] != '\0')
		return false;
	card->pci_domain = domain;
	card->pci_bus = bus;
	card->pci_device = device;
	return true;
}

static bool sim_value(const struct sim_field *field, char *text, void *base, struct sim_card *card)
{
	char *slot = (char *)base + field->offset;
	uint64_t count = 0;

	switch (field->kind) {
	case SIM_TEXT:
		return *text && snprintf(slot, SIM_TEXT_MAX, "%s", text) < SIM_TEXT_MAX;
	case SIM_NUMBER:
		return sim_number(text, (uint64_t *)(void *)slot);
	case SIM_STEPS:
		return sim_list(text, card->memory_clock_steps_mhz, &card->memory_clock_steps);
	case SIM_PSTATES:
		return sim_list(text, card->memory_clock_pstates, &count) && count == card->memory_clock_steps;
	case SIM_PCI_BUS_ID:
		return sim_pci_bus_id(text, card);
	}
	return false;
}

static void sim_answer(struct sim_reader *reader, const char *function, const char *value, struct sim_card *card)
{
	int id = sim_function_by_name(function);

	if (id < 0 || !strchr("GW", sim_function_scope((enum sim_function)id)))
		sim_fault_told(reader, "\"answer.%s\" names no call on a GPU that the simulator exports", function);
	else if (strcmp(value, "not_supported") == 0)
		card->answer[id] = NVML_ERROR_NOT_SUPPORTED;
	else if (strcmp(value, "deprecated") == 0)
		card->answer[id] = NVML_ERROR_DEPRECATED;
	else
		sim_fault_told(reader, "answer.%s is \"%s\", not one of: not_supported, deprecated", function, value);
}

static void sim_field_read(struct sim_reader *reader, const char *name, char *value, struct sim_card *card)
{
	int index = 0;

	while (index < SIM_FIELD_COUNT && strcmp(sim_fields[index].name, name) != 0)
		index++;
	if (index == SIM_FIELD_COUNT) {
		sim_fault_told(reader, "\"%s\" is not a field of a personality", name);
		return;
	}
	const struct sim_field *field = &sim_fields[index];
	bool *seen = reader->gpu < 0 ? &reader->in_model[index] : &reader->in_gpu[reader->gpu][index];
	if (field->scope == SIM_MACHINE && reader->gpu >= 0)
		sim_fault_told(reader, "\"%s\" belongs before the first [gpu]", name);
	else if (field->scope == SIM_CARD && reader->gpu < 0)
		sim_fault_told(reader, "\"%s\" belongs in a [gpu] section", name);
	else if (*seen)
		sim_fault_told(reader, "\"%s\" is given twice", name);
	else if (!sim_value(field, value, field->scope == SIM_MACHINE ? (void *)reader->state : card, card))
		sim_fault_told(reader, "%s has no valid value", name);
	*seen = true;
}

static void sim_section(struct sim_reader *reader, const char *text)
{
	if (strcmp(text, "[gpu]") != 0) {
		sim_fault_told(reader, "\"%s\" is not a section, wanted [gpu]", text);
	} else if (reader->gpu + 1 == SIM_GPUS_MAX) {
		sim_fault_told(reader, "more than %d GPUs", SIM_GPUS_MAX);
	} else {
		reader->gpu++;
		reader->state->gpus[reader->gpu].card = reader->model;
	}
}

static void sim_line(struct sim_reader *reader, char *line)
{
	char *text = sim_trimmed(line);
	struct sim_card *card = reader->gpu < 0 ? &reader->model : &reader->state->gpus[reader->gpu].card;

	if (*text == '\0' || *text == '#')
		return;
	if (*text == '[') {
		sim_section(reader, text);
		return;
	}
	char *value = strchr(text, '=');
	char *mark = value ? strchr(value, '|') : NULL;
	char *source = mark ? strchr(mark + 1, '|') : NULL;
	if (!value || !source) {
		sim_fault_told(reader, "\"%s\" is not: field = value | captured, derived or assumed | source", text);
		return;
	}
	*value++ = *mark++ = *source++ = '\0';
	char *name = sim_trimmed(text);
	mark = sim_trimmed(mark);
	if (strcmp(mark, "captured") != 0 && strcmp(mark, "derived") != 0 && strcmp(mark, "assumed") != 0)
		sim_fault_told(reader, "%s is marked \"%s\", not one of: captured, derived, assumed", name, mark);
	if (*sim_trimmed(source) == '\0')
		sim_fault_told(reader, "%s names no source", name);
	if (strncmp(name, "answer.", 7) == 0)
		sim_answer(reader, name + 7, sim_trimmed(value), card);
	else
		sim_field_read(reader, name, sim_trimmed(value), card);
}

static bool sim_is_memory_step(const struct sim_card *card, uint64_t mhz)
{
	for (uint64_t i = 0; i < card->memory_clock_steps; i++)
		if (card->memory_clock_steps_mhz[i] == mhz)
			return true;
	return false;
}

/* What would make the model divide by zero or contradict itself; checked only once all fields are there. */
static void sim_card_checked(struct sim_reader *reader, int gpu)
{
	const struct sim_card *card = &reader->state->gpus[gpu].card;
	const struct {
		bool holds;
		const char *law;
	} laws[] = {
		{card->power_limit_min_mw <= card->power_limit_default_mw &&
				card->power_limit_default_mw <= card->power_limit_max_mw,
			"power_limit_min_mw <= power_limit_default_mw <= power_limit_max_mw"},
		{card->graphics_clock_step_khz > 0 && card->graphics_clock_min_mhz < card->graphics_clock_max_mhz,
			"graphics_clock_step_khz > 0 and graphics_clock_min_mhz < graphics_clock_max_mhz"},
		{sim_is_memory_step(card, card->load_memory_clock_mhz) &&
				sim_is_memory_step(card, card->idle_memory_clock_mhz),
			"load_memory_clock_mhz and idle_memory_clock_mhz are in memory_clock_steps_mhz"},
		{card->load_graphics_clock_mhz > 0 && card->thermal_time_constant_ms >= SIM_TICK_MS,
			"load_graphics_clock_mhz > 0 and thermal_time_constant_ms >= one tick"},
		{card->load_static_power_mw <= card->load_power_mw, "load_static_power_mw <= load_power_mw"},
		{card->memory_reserved_bytes + card->load_memory_used_bytes <= card->memory_total_bytes,
			"memory_reserved_bytes + load_memory_used_bytes <= memory_total_bytes"},
	};

	for (size_t i = 0; i < sizeof laws / sizeof laws[0]; i++)
		if (!laws[i].holds)
			sim_fault_told(reader, "gpu %d breaks: %s", gpu, laws[i].law);
}

static void sim_completeness(struct sim_reader *reader)
{
	reader->line = 0;
	if (reader->gpu < 0)
		sim_fault_told(reader, "no [gpu] section");
	for (int i = 0; i < SIM_FIELD_COUNT; i++) {
		if (sim_fields[i].scope != SIM_CARD && reader->in_model[i])
			continue;
		if (sim_fields[i].scope == SIM_MACHINE)
			sim_fault_told(reader, "\"%s\" is missing", sim_fields[i].name);
		for (int gpu = 0; sim_fields[i].scope != SIM_MACHINE && gpu <= reader->gpu; gpu++)
			if (!reader->in_gpu[gpu][i])
				sim_fault_told(reader, "\"%s\" is missing for gpu %d", sim_fields[i].name, gpu);
	}
	for (int gpu = 0; reader->faults == 0 && gpu <= reader->gpu; gpu++)
		sim_card_checked(reader, gpu);
}

bool sim_personality_read(const char *path, struct sim_state *state)
{
	struct sim_reader reader = {.path = path, .gpu = -1, .state = state};
	char line[1024];
	FILE *file = fopen(path, "re");

	memset(state, 0, sizeof *state);
	if (!file) {
		sim_fault_told(&reader, "%s", strerror(errno));
		return false;
	}
	while (fgets(line, sizeof line, file)) {
		reader.line++;
		if (!strchr(line, '\n') && !feof(file)) {
			sim_fault_told(&reader, "longer than %zu characters", sizeof line - 2);
			break;
		}
		sim_line(&reader, line);
	}
	fclose(file);
	sim_completeness(&reader);
	state->gpu_count = (uint64_t)(reader.gpu + 1);
	return reader.faults == 0;
}
