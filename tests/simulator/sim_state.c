/* Sharing, locking and the life of the driver; the rules stand in sim_state.h. */
#include "sim_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim_personality.h"
#include "sim_physics.h"

#define SIM_LAYOUT (0x53494d0000000000ull | sizeof(struct sim_state))

void sim_path(char *path, unsigned long size, const char *name)
{
	const char *folder = getenv("INFERHOST_SIM_DIR");

	snprintf(path, size, "%s/%s", folder && *folder ? folder : "/var/lib/inferhost-sim", name);
}

static int sim_lock_taken(bool *read_only)
{
	char path[4096];

	sim_path(path, sizeof path, "lock");
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	*read_only = false;
	if (fd >= 0) {
		(void)fchmod(fd, 0666); /* past the umask: unprivileged readers of NVML are clients too */
	} else {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		*read_only = true;
	}
	if (fd < 0)
		return -1;
	while (flock(fd, LOCK_EX) != 0) {
		if (errno != EINTR) {
			close(fd);
			return -1;
		}
	}
	return fd;
}

static enum sim_open_result sim_load(struct sim_state *state, bool *created)
{
	char path[4096];

	*created = false;
	sim_path(path, sizeof path, "state");
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t got = read(fd, state, sizeof *state);
		close(fd);
		if (got == (ssize_t)sizeof *state && state->layout == SIM_LAYOUT)
			return SIM_OPEN_OK;
		fprintf(stderr,
			"error: %s: written by another build of the simulator\nhint: run inferhost-sim init again\n",
			path);
		return SIM_OPEN_BROKEN;
	}
	sim_path(path, sizeof path, "personality");
	if (access(path, R_OK) != 0)
		return SIM_OPEN_NO_PERSONALITY;
	const char *const paths[] = {path};
	if (!sim_personality_read(paths, 1, state, NULL))
		return SIM_OPEN_BROKEN;
	sim_state_power_on(state);
	*created = true;
	return SIM_OPEN_OK;
}

static bool sim_save(const struct sim_state *state)
{
	char path[4096], fresh[4096];

	sim_path(path, sizeof path, "state");
	sim_path(fresh, sizeof fresh, "state.new");
	int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0)
		return false;
	(void)fchmod(fd, 0666);
	bool whole = write(fd, state, sizeof *state) == (ssize_t)sizeof *state;
	close(fd);
	return whole && rename(fresh, path) == 0;
}

enum sim_open_result sim_session_open(struct sim_session *session)
{
	session->lock_fd = sim_lock_taken(&session->read_only);
	if (session->lock_fd < 0)
		return SIM_OPEN_NO_PERSONALITY;
	enum sim_open_result result = sim_load(&session->state, &session->dirty);
	if (result == SIM_OPEN_OK) {
		session->dirty |= sim_state_settle(&session->state);
		return SIM_OPEN_OK;
	}
	session->dirty = false;
	sim_session_close(session);
	return result;
}

bool sim_session_close(struct sim_session *session)
{
	bool saved = true;

	if (session->dirty && !session->read_only)
		saved = sim_save(&session->state);
	close(session->lock_fd);
	session->lock_fd = -1;
	return saved;
}

bool sim_session_replace(const struct sim_state *state)
{
	bool read_only;
	int fd = sim_lock_taken(&read_only);

	if (fd < 0)
		return false;
	bool saved = !read_only && sim_save(state);
	close(fd);
	return saved;
}

int sim_client_attach(struct sim_session *session)
{
	char path[4096];

	sim_path(path, sizeof path, "clients");
	int fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || flock(fd, LOCK_SH) != 0) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	(void)fchmod(fd, 0666);
	for (uint64_t i = 0; i < session->state.gpu_count; i++) {
		session->state.gpus[i].loaded = 1;
		session->state.gpus[i].prepared = 0;
	}
	session->dirty = true;
	return fd;
}

bool sim_clients_exist(void)
{
	char path[4096];

	sim_path(path, sizeof path, "clients");
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool alone = flock(fd, LOCK_EX | LOCK_NB) == 0;
	close(fd);
	return !alone;
}

void sim_gpu_application_clocks_reset(struct sim_gpu *gpu)
{
	gpu->application_memory_mhz = (uint32_t)gpu->card.application_clock_memory_mhz;
	gpu->application_graphics_mhz = (uint32_t)gpu->card.application_clock_graphics_mhz;
}

void sim_gpu_unload(struct sim_gpu *gpu)
{
	gpu->loaded = 0;
	gpu->power_limit_mw = (uint32_t)gpu->card.power_limit_default_mw;
	gpu->graphics_lock = (struct sim_lock){0, 0};
	gpu->memory_lock = (struct sim_lock){0, 0};
	memset(gpu->instances, 0, sizeof gpu->instances);
	sim_gpu_application_clocks_reset(gpu);
	gpu->energy_uj = 0;
	gpu->power_cap_ns = 0;
	gpu->sw_thermal_ns = 0;
	gpu->hw_thermal_ns = 0;
}

void sim_gpu_reboot(struct sim_gpu *gpu)
{
	sim_gpu_unload(gpu);
	gpu->prepared = 0;
	gpu->persistence = 0;
	gpu->compute_mode = 0; /* "always resets to Default" at reboot only (facts-nvml.md A.1) */
	gpu->load = gpu->drawing_pid = 0;
	gpu->ecc.current = gpu->ecc.pending; /* kept in the InfoROM */
	/* A card that needs a reset keeps the mode likewise; the others start without it. */
	gpu->mig.pending = gpu->card.mig_needs_reset ? gpu->mig.pending : 0;
	gpu->mig.current = gpu->mig.pending;
}

bool sim_state_settle(struct sim_state *state)
{
	bool changed = false;

	for (uint64_t i = 0; i < state->gpu_count; i++) {
		struct sim_gpu *gpu = &state->gpus[i];
		bool kept = gpu->persistence || gpu->load || gpu->drawing_pid || gpu->prepared;
		if (!gpu->loaded || kept || sim_clients_exist())
			continue;
		sim_gpu_unload(gpu);
		changed = true;
	}
	return changed;
}

void sim_state_power_on(struct sim_state *state)
{
	state->layout = SIM_LAYOUT;
	for (uint64_t i = 0; i < state->gpu_count; i++) {
		struct sim_gpu *gpu = &state->gpus[i];
		gpu->ecc.pending = (uint32_t)gpu->card.ecc_mode;
		sim_gpu_reboot(gpu);
		gpu->mig.current = gpu->mig.pending = (uint32_t)gpu->card.mig_mode;
		gpu->loaded = sim_clients_exist(); /* `init` under a process that has NVML open */
		gpu->ambient_millicelsius = (int64_t)gpu->card.ambient_millicelsius;
		sim_physics_rest(gpu);
	}
}
