/* The whole simulated machine as one fixed-size struct, and how processes share it.
 *
 * `<dir>/state` holds one `struct sim_state`. A session takes flock on `<dir>/lock`, reads the file, lets its
 * caller work on the copy, and replaces the file by rename. So a killed process leaves neither a held lock
 * (the kernel drops flock with the process) nor half a state (rename is whole or not at all).
 *
 * A process that has NVML open holds a shared flock on `<dir>/clients`. Whoever opens a session next asks the
 * kernel whether any such lock is left, which works for killed processes, for reused pids and across pid
 * namespaces. With none left, persistence off and no load, the driver has unloaded: see sim_state_settle().
 */
#ifndef SIM_STATE_H
#define SIM_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "sim_functions.h"

#define SIM_GPUS_MAX 8
#define SIM_TEXT_MAX 96
#define SIM_MEMORY_STEPS_MAX 8
#define SIM_INSTANCES_MAX 8 /* of one card */
#define SIM_SLICES_MAX 8    /* of one instance */
#define SIM_MIG_PROFILES_MAX 8
#define SIM_TICK_MS 100
#define SIM_DRAWING_BYTES (256ull << 20) /* of a desktop: assumed, nothing captured */
#define SIM_POWER_WINDOW_TICKS 10 /* GetPowerUsage is a 1 s average on Ampere and later (facts-nvml.md A.2) */

/* One size of instance that a card can be divided into; `starts` are units of its memory. */
struct sim_mig_profile {
	char name[16];
	uint32_t id, slices, memory_mib, size, starts[SIM_INSTANCES_MAX], starts_count;
};

/* What a personality says of one card; never written after `init`. Units are in the names. */
struct sim_card {
	char name[SIM_TEXT_MAX], uuid[SIM_TEXT_MAX];
	uint64_t pci_domain, pci_bus, pci_device, pci_device_id, pci_subsystem_id;
	uint64_t architecture, compute_capability_major, compute_capability_minor, gpu_cores;
	uint64_t memory_total_bytes, memory_reserved_bytes, memory_bus_width_bits, bar1_total_bytes;
	uint64_t virtualization_mode, ecc_mode, mig_mode, mig_needs_reset;
	uint64_t pcie_max_generation, pcie_idle_generation, pcie_max_width;
	uint64_t power_limit_min_mw, power_limit_default_mw, power_limit_max_mw;
	uint64_t graphics_clock_min_mhz, graphics_clock_max_mhz, graphics_clock_step_khz;
	uint64_t graphics_clock_ramp_mhz_per_s, video_clock_max_mhz;
	uint64_t memory_clock_steps, memory_clock_steps_mhz[SIM_MEMORY_STEPS_MAX];
	uint64_t memory_clock_pstates[SIM_MEMORY_STEPS_MAX];
	uint64_t idle_graphics_clock_mhz, idle_memory_clock_mhz, idle_video_clock_mhz, idle_power_mw,
		idle_event_reasons;
	uint64_t load_graphics_clock_mhz, load_memory_clock_mhz, load_power_mw, load_static_power_mw;
	uint64_t application_clock_memory_mhz, application_clock_graphics_mhz; /* the defaults; 0 = it has none */
	uint64_t load_utilization_percent, load_memory_utilization_percent, load_memory_used_bytes;
	uint64_t graphics_lock_ceiling_mhz, memory_lock_ceiling_mhz;
	uint64_t ambient_millicelsius, thermal_resistance_millikelvin_per_w, thermal_time_constant_ms;
	uint64_t sw_slowdown_millicelsius, hw_slowdown_millicelsius;
	struct sim_mig_profile mig_profiles[SIM_MIG_PROFILES_MAX];
	uint64_t mig_profile_count;
	int32_t answer[SIM_FUNCTION_COUNT]; /* NVML code that a call always gives on this card; 0 = it works */
};

enum sim_setting {
	SIM_POWER_LIMIT,
	SIM_PERSISTENCE,
	SIM_GRAPHICS_CLOCK,
	SIM_MEMORY_CLOCK,
	SIM_APPLICATION_CLOCKS,
	SIM_COMPUTE_MODE,
	SIM_ECC,
	SIM_SETTING_COUNT
};
enum sim_fault_mode { SIM_FAULT_OFF, SIM_FAULT_IGNORED, SIM_FAULT_CLAMPED };

struct sim_fault {
	uint32_t mode;
	uint32_t clamp; /* mW or MHz; valid when mode is SIM_FAULT_CLAMPED */
};

struct sim_lock {
	uint32_t min_mhz, max_mhz; /* on the card's steps; both 0 = no lock installed */
};

/* A mode that a reboot (ECC) or a reset (MIG) activates. */
struct sim_mode {
	uint32_t current, pending;
};

/* A GPU instance; `compute_slices` has the size of the compute instance that begins at each of its slices. */
struct sim_instance {
	uint32_t used, profile, start, compute_slices[SIM_SLICES_MAX];
};

struct sim_gpu {
	struct sim_card card;
	/* Settable: what `dump` prints and a revert must restore. */
	uint32_t power_limit_mw, persistence, compute_mode;
	struct sim_lock graphics_lock, memory_lock;
	uint32_t application_memory_mhz, application_graphics_mhz; /* 0 on a card that has no application clocks */
	struct sim_mode ecc, mig;
	struct sim_instance instances[SIM_INSTANCES_MAX];
	/* Life of the driver on this GPU. */
	uint32_t loaded;   /* initialised by the driver, so limit and locks are kept */
	uint32_t prepared; /* `set` acted for an unnamed earlier process; ends with the first real client */
	uint32_t lost;
	/* The world around it, moved by the command line only. */
	uint32_t load, load_pid, drawing_pid; /* a desktop's process, 0 = none */
	int64_t ambient_millicelsius;
	struct sim_fault faults[SIM_SETTING_COUNT];
	/* Readings, moved by virtual time only. */
	int64_t temperature_microcelsius;
	uint32_t graphics_clock_mhz, memory_clock_mhz, pstate, power_mw;
	uint32_t power_window_mw[SIM_POWER_WINDOW_TICKS], power_window_next;
	uint32_t thermal_cap_steps; /* graphics steps taken off by the thermal controller */
	uint64_t event_reasons;
	/* Counters since the driver was loaded. */
	uint64_t energy_uj, power_cap_ns, sw_thermal_ns, hw_thermal_ns;
};

struct sim_failure {
	int32_t code; /* 0 = none */
	int32_t left; /* -1 = for ever */
};

struct sim_state {
	uint64_t layout; /* refuses a state file of another build */
	uint64_t time_ms;
	char driver_version[SIM_TEXT_MAX], nvml_version[SIM_TEXT_MAX];
	uint64_t cuda_driver_version;
	uint64_t gpu_count;
	struct sim_gpu gpus[SIM_GPUS_MAX];
	struct sim_failure failures[SIM_FUNCTION_COUNT];
	/* `fail-nth`: the n-th call from now fails; calls are counted while `nth` is not 0. */
	int64_t nth, nth_calls;
	struct sim_failure nth_failure;
	uint64_t writes[SIM_FUNCTION_COUNT]; /* setter calls that reached a GPU, whatever they answered */
};

enum sim_open_result { SIM_OPEN_OK, SIM_OPEN_NO_PERSONALITY, SIM_OPEN_BROKEN };

struct sim_session {
	struct sim_state state;
	int lock_fd;
	bool read_only; /* the folder is not writable for us: changes are dropped */
	bool dirty;
};

/* Lock, load (from the personality when there is no state yet) and settle. Says on stderr what is wrong. */
enum sim_open_result sim_session_open(struct sim_session *session);
/* Save when dirty, unlock. False when the state could not be written. */
bool sim_session_close(struct sim_session *session);
/* Lock and start from `state` instead of what is there: for `init`. */
bool sim_session_replace(const struct sim_state *state);

/* The descriptor that marks this process as a client of the driver, or -1. Close it to leave. */
int sim_client_attach(struct sim_session *session);
bool sim_clients_exist(void);
/* Unload the driver from every GPU that nothing keeps loaded. True when that changed something. */
bool sim_state_settle(struct sim_state *state);
/* What an unload (settings lost) and a reboot (persistence and compute mode too) leave behind. */
void sim_gpu_unload(struct sim_gpu *gpu);
void sim_gpu_reboot(struct sim_gpu *gpu);
void sim_gpu_application_clocks_reset(struct sim_gpu *gpu);
/* Fresh machine: what the personality says, idle and cool. */
void sim_state_power_on(struct sim_state *state);

/* `<dir>/name` in a static buffer per call site's choosing. */
void sim_path(char *path, unsigned long size, const char *name);

#endif
