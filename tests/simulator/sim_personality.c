/* The reader of sim_personality.h: lines, sections, families; every fault of a file told in one pass. */
#include "sim_personality.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "sim_card.h"
#include "sim_nvml.h"

/* Where a line belongs. A higher level may give what a lower one gave; the same level may not. */
enum sim_level { SIM_LEVEL_NONE, SIM_LEVEL_FAMILY, SIM_LEVEL_MODEL, SIM_LEVEL_GPU };

struct sim_reader {
	const char *path;
	int line, faults;
	enum sim_level level;
	int kind, gpu; /* from 0; gpu is -1 before the first section */
	struct sim_state *state;
	struct sim_card model;
	enum sim_level in_model[SIM_FIELD_MAX], in_gpu[SIM_GPUS_MAX][SIM_FIELD_MAX];
	FILE *copy;
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

/* mig.NAME = ID SLICES MEMORY_MIB SIZE START... */
static void sim_mig_profile(struct sim_reader *reader, const char *name, const char *value, struct sim_card *card)
{
	struct sim_mig_profile profile = {.starts_count = 0};
	int used = 0, step = 0;

	bool good = snprintf(profile.name, sizeof profile.name, "%s", name) < (int)sizeof profile.name &&
		    sscanf(value, "%u %u %u %u%n", &profile.id, &profile.slices, &profile.memory_mib, &profile.size,
			    &used) == 4 &&
		    profile.slices < SIM_SLICES_MAX && card->mig_profile_count < SIM_MIG_PROFILES_MAX;
	while (good && profile.starts_count < SIM_INSTANCES_MAX &&
		sscanf(value + used, " %u%n", &profile.starts[profile.starts_count], &step) == 1) {
		profile.starts_count++;
		used += step;
	}
	if (!good || profile.starts_count == 0 || value[used] != '\0')
		sim_fault_told(reader, "mig.%s is not: ID SLICES MEMORY_MIB SIZE START...", name);
	else
		card->mig_profiles[card->mig_profile_count++] = profile;
}

static void sim_field_read(struct sim_reader *reader, const char *name, char *value, struct sim_card *card)
{
	int field = sim_field_by_name(name);

	if (field < 0) {
		sim_fault_told(reader, "\"%s\" is not a field of a personality", name);
		return;
	}
	enum sim_scope scope = sim_field_scope(field);
	if (scope == SIM_MACHINE && reader->kind > 0)
		return; /* one driver per machine: the first file's */
	bool own = reader->level == SIM_LEVEL_GPU;
	enum sim_level *seen = own ? &reader->in_gpu[reader->gpu][field] : &reader->in_model[field];
	if (scope == SIM_MACHINE && own)
		sim_fault_told(reader, "\"%s\" belongs before the first [gpu]", name);
	else if (scope == SIM_CARD && !own)
		sim_fault_told(reader, "\"%s\" belongs in a [gpu] section", name);
	else if (*seen >= reader->level)
		sim_fault_told(reader, "\"%s\" is given twice", name);
	else if (!sim_field_value(field, value, reader->state, card))
		sim_fault_told(reader, "%s has no valid value", name);
	*seen = reader->level;
}

static void sim_gpu_begun(struct sim_reader *reader)
{
	if (reader->gpu + 1 == SIM_GPUS_MAX) {
		sim_fault_told(reader, "more than %d GPUs", SIM_GPUS_MAX);
		return;
	}
	reader->gpu++;
	reader->level = SIM_LEVEL_GPU;
	reader->state->gpus[reader->gpu].card = reader->model;
	memcpy(reader->in_gpu[reader->gpu], reader->in_model, sizeof reader->in_model);
}

/* Another kind of card: what was said of the last one counts no more. */
static void sim_kind_begun(struct sim_reader *reader)
{
	reader->kind++;
	memset(&reader->model, 0, sizeof reader->model);
	for (int i = 0; i < sim_field_count; i++)
		if (sim_field_scope(i) != SIM_MACHINE)
			reader->in_model[i] = SIM_LEVEL_NONE;
}

static void sim_section(struct sim_reader *reader, const char *text)
{
	if (strcmp(text, "[gpu]") == 0) {
		sim_gpu_begun(reader);
	} else if (strcmp(text, "[family]") == 0 && reader->level != SIM_LEVEL_GPU) {
		reader->level = SIM_LEVEL_FAMILY;
	} else if (strcmp(text, "[model]") == 0) {
		if (reader->level == SIM_LEVEL_GPU)
			sim_kind_begun(reader);
		reader->level = SIM_LEVEL_MODEL;
	} else {
		sim_fault_told(reader, "\"%s\" is not a section, wanted [gpu]", text);
	}
}

static void sim_assignment(struct sim_reader *reader, char *text)
{
	struct sim_card *card =
		reader->level == SIM_LEVEL_GPU ? &reader->state->gpus[reader->gpu].card : &reader->model;
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
	else if (strncmp(name, "mig.", 4) == 0)
		sim_mig_profile(reader, name + 4, sim_trimmed(value), card);
	else
		sim_field_read(reader, name, sim_trimmed(value), card);
}

static void sim_file(struct sim_reader *reader, const char *path, bool included);

/* The family stands beside the card's file, whatever the working directory is. */
static void sim_include(struct sim_reader *reader, const char *name)
{
	char family[4096];
	const char *slash = strrchr(reader->path, '/');
	int folder = slash ? (int)(slash - reader->path) + 1 : 0;

	if (reader->level != SIM_LEVEL_MODEL) {
		sim_fault_told(reader, "include %s: wanted before the first [gpu], and not in a family", name);
		return;
	}
	snprintf(family, sizeof family, "%.*s%s", folder, reader->path, name);
	sim_section(reader, "[family]");
	sim_file(reader, family, true);
	sim_section(reader, "[model]");
}

static void sim_line(struct sim_reader *reader, char *line)
{
	char *text = sim_trimmed(line);
	bool include = strncmp(text, "include ", 8) == 0;

	if (*text == '\0' || *text == '#')
		return;
	if (reader->copy && !include)
		fprintf(reader->copy, "%s\n", text);
	if (include)
		sim_include(reader, sim_trimmed(text + 8));
	else if (*text == '[')
		sim_section(reader, text);
	else
		sim_assignment(reader, text);
}

static void sim_file(struct sim_reader *reader, const char *path, bool included)
{
	const char *outer_path = reader->path;
	int outer_line = reader->line;
	char line[1024];
	FILE *file = fopen(path, "re");

	reader->path = path;
	reader->line = 0;
	if (reader->copy && included)
		fputs("[family]\n", reader->copy);
	if (!file)
		sim_fault_told(reader, "%s", strerror(errno));
	while (file && fgets(line, sizeof line, file)) {
		reader->line++;
		if (!strchr(line, '\n') && !feof(file)) {
			sim_fault_told(reader, "longer than %zu characters", sizeof line - 2);
			break;
		}
		sim_line(reader, line);
	}
	if (file)
		fclose(file);
	if (reader->copy && included)
		fputs("[model]\n", reader->copy);
	reader->line = outer_line;
	if (included)
		reader->path = outer_path;
}

static void sim_completeness(struct sim_reader *reader)
{
	if (reader->gpu < 0)
		sim_fault_told(reader, "no [gpu] section");
	for (int i = 0; i < sim_field_count; i++) {
		if (sim_field_scope(i) != SIM_CARD && reader->gpu < 0 && reader->in_model[i])
			continue;
		if (sim_field_scope(i) == SIM_MACHINE && !reader->in_model[i])
			sim_fault_told(reader, "\"%s\" is missing", sim_field_name(i));
		for (int gpu = 0; sim_field_scope(i) != SIM_MACHINE && gpu <= reader->gpu; gpu++)
			if (!reader->in_gpu[gpu][i])
				sim_fault_told(reader, "\"%s\" is missing for gpu %d", sim_field_name(i), gpu);
	}
}

static void sim_laws(struct sim_reader *reader)
{
	for (int gpu = 0; gpu <= reader->gpu; gpu++) {
		const struct sim_card *card = &reader->state->gpus[gpu].card;
		const char *law = sim_card_broken_law(card);
		if (law)
			sim_fault_told(reader, "gpu %d breaks: %s", gpu, law);
		for (int other = 0; other < gpu; other++) {
			const char *shared = sim_cards_shared_identity(&reader->state->gpus[other].card, card);
			if (shared)
				sim_fault_told(reader, "gpu %d and gpu %d have the same %s", other, gpu, shared);
		}
	}
}

bool sim_personality_read(const char *const *paths, int count, struct sim_state *state, FILE *copy)
{
	struct sim_reader reader = {.level = SIM_LEVEL_MODEL, .gpu = -1, .state = state, .copy = copy};

	memset(state, 0, sizeof *state);
	for (int i = 0; i < count; i++) {
		if (i > 0)
			sim_section(&reader, "[model]");
		if (i > 0 && copy)
			fputs("[model]\n", copy);
		sim_file(&reader, paths[i], false);
	}
	reader.line = 0;
	sim_completeness(&reader);
	if (reader.faults == 0)
		sim_laws(&reader);
	state->gpu_count = (uint64_t)(reader.gpu + 1);
	return reader.faults == 0;
}
