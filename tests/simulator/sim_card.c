/* Names, kinds and laws of a personality's fields; see sim_card.h. The file around them: sim_personality.c. */
#include "sim_card.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim_nvml.h"

enum sim_kind { SIM_TEXT, SIM_NUMBER, SIM_STEPS, SIM_PSTATES, SIM_PCI_BUS_ID };

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
	SIM_MODEL_FIELD(mig_needs_reset),
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
	SIM_MODEL_FIELD(application_clock_memory_mhz),
	SIM_MODEL_FIELD(application_clock_graphics_mhz),
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

const int sim_field_count = sizeof sim_fields / sizeof sim_fields[0];
_Static_assert(sizeof sim_fields / sizeof sim_fields[0] <= SIM_FIELD_MAX, "SIM_FIELD_MAX is too small");

int sim_field_by_name(const char *name)
{
	for (int i = 0; i < sim_field_count; i++)
		if (strcmp(sim_fields[i].name, name) == 0)
			return i;
	return -1;
}

const char *sim_field_name(int field)
{
	return sim_fields[field].name;
}

enum sim_scope sim_field_scope(int field)
{
	return sim_fields[field].scope;
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

bool sim_field_value(int field, char *text, struct sim_state *state, struct sim_card *card)
{
	bool machine = sim_fields[field].scope == SIM_MACHINE;
	char *slot = (machine ? (char *)state : (char *)card) + sim_fields[field].offset;
	uint64_t count = 0;

	switch (sim_fields[field].kind) {
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

static bool sim_is_memory_step(const struct sim_card *card, uint64_t mhz)
{
	for (uint64_t i = 0; i < card->memory_clock_steps; i++)
		if (card->memory_clock_steps_mhz[i] == mhz)
			return true;
	return false;
}

static bool sim_takes(const struct sim_card *card, enum sim_function function)
{
	return card->answer[function] == NVML_SUCCESS;
}

const char *sim_card_broken_law(const struct sim_card *card)
{
	bool has_clocks = sim_takes(card, SIM_FN_nvmlDeviceSetApplicationsClocks);
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
		{(card->application_clock_memory_mhz > 0) == has_clocks &&
				(card->application_clock_graphics_mhz > 0) == has_clocks,
			"application clocks have a default exactly where they can be set"},
	};

	for (size_t i = 0; i < sizeof laws / sizeof laws[0]; i++)
		if (!laws[i].holds)
			return laws[i].law;
	return NULL;
}

const char *sim_cards_shared_identity(const struct sim_card *one, const struct sim_card *other)
{
	if (strcmp(one->uuid, other->uuid) == 0)
		return "uuid";
	if (one->pci_domain == other->pci_domain && one->pci_bus == other->pci_bus &&
		one->pci_device == other->pci_device)
		return "pci_bus_id";
	return NULL;
}
