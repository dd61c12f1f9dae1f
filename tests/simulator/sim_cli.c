/* `inferhost-sim`: chooses the machine, moves its time, loads it, breaks it, shows it. Never called by host code.
 *
 * Exit codes: 0 done, 2 bad input and nothing changed, 4 no machine in the folder. Prose goes to stderr.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim_commands.h"
#include "sim_dump.h"
#include "sim_personality.h"

static const char *const sim_usage =
	"usage: inferhost-sim init PERSONALITY_FILE...     several kinds of cards in one machine: several files\n"
	"       inferhost-sim dump [--all]\n"
	"       inferhost-sim set KEY VALUE [--gpu N]      KEY: power_limit_mw persistence compute_mode "
	"ambient_celsius ecc_pending drawing_pid\n"
	"                                                  graphics_clock_lock_mhz memory_clock_lock_mhz (MIN,MAX or "
	"none)\n"
	"                                                  application_clocks_mhz (MEMORY,GRAPHICS)\n"
	"       inferhost-sim load on|off [--gpu N] [--pid PID]\n"
	"       inferhost-sim advance SECONDS              whole tenths of a second of virtual time\n"
	"       inferhost-sim fault SETTING accepted_ignored|clamped|off [VALUE] [--gpu N]\n"
	"                                                  SETTING: power_limit persistence graphics_clock "
	"memory_clock application_clocks compute_mode ecc\n"
	"       inferhost-sim fail FUNCTION CODE [COUNT]   or: fail FUNCTION off\n"
	"       inferhost-sim fail-nth N CODE [once|forever]   or: fail-nth off\n"
	"       inferhost-sim lost GPU\n"
	"       inferhost-sim reload                       driver reload or reboot: everything volatile is lost\n"
	"       inferhost-sim functions                    the exported NVML functions, one per line\n"
	"--gpu: index; without it every GPU. State: $INFERHOST_SIM_DIR, default /var/lib/inferhost-sim\n";

static const struct {
	const char *name;
	int (*run)(struct sim_state *state, struct sim_arguments *arguments);
} sim_commands[] = {
	{"set", sim_command_set},
	{"load", sim_command_load},
	{"advance", sim_command_advance},
	{"fault", sim_command_fault},
	{"fail", sim_command_fail},
	{"fail-nth", sim_command_fail_nth},
	{"lost", sim_command_lost},
	{"reload", sim_command_reload},
};

int sim_refused(const char *place, const char *found, const char *wanted)
{
	fprintf(stderr, "error: %s: found \"%s\", wanted %s\n", place, found, wanted);
	return SIM_BAD_INPUT;
}

static bool sim_written(const char *path, const char *text, size_t size)
{
	FILE *out = fopen(path, "we");
	bool whole = out && fwrite(text, 1, size, out) == size;

	if (out)
		whole &= fclose(out) == 0;
	return whole;
}

/* The folder is open to all: NVML is readable by every user, and every reader is a client of the driver. */
static int sim_command_init(const char *const *personalities, int count)
{
	static struct sim_state state;
	char folder[4096], path[4096], *text = NULL;
	size_t size = 0;
	FILE *copy = open_memstream(&text, &size);

	if (!copy || !sim_personality_read(personalities, count, &state, copy))
		return SIM_BAD_INPUT;
	fclose(copy);
	sim_state_power_on(&state);
	sim_path(folder, sizeof folder, "");
	if (mkdir(folder, 0777) == 0)
		(void)chmod(folder, 0777);
	sim_path(path, sizeof path, "personality");
	if (!sim_written(path, text, size) || !sim_session_replace(&state))
		return sim_refused("state folder", folder, "a folder that can be written");
	sim_path(path, sizeof path, "clients");
	FILE *clients = fopen(path, "ae");
	if (clients)
		fclose(clients);
	(void)chmod(path, 0666);
	free(text);
	return 0;
}

static int sim_functions_printed(void)
{
	for (int i = 0; i < SIM_FUNCTION_COUNT; i++)
		puts(sim_function_name((enum sim_function)i));
	return 0;
}

static int sim_opened(struct sim_session *session)
{
	char folder[4096];

	sim_path(folder, sizeof folder, "");
	switch (sim_session_open(session)) {
	case SIM_OPEN_OK:
		return 0;
	case SIM_OPEN_NO_PERSONALITY:
		fprintf(stderr, "error: %s: no simulated machine\nhint: inferhost-sim init PERSONALITY_FILE\n",
			folder);
		break;
	case SIM_OPEN_BROKEN:
		break;
	}
	return SIM_NO_MACHINE;
}

static int sim_command_dump(bool all)
{
	static struct sim_session session;
	int code = sim_opened(&session);

	if (code != 0)
		return code;
	sim_dump(&session.state, all);
	sim_session_close(&session);
	return 0;
}

/* A command that changes the state: on any refusal the state stays as it was. */
static int sim_changed(int (*run)(struct sim_state *, struct sim_arguments *), struct sim_arguments *arguments)
{
	static struct sim_session session;
	static struct sim_state before;
	int code = sim_opened(&session);

	if (code != 0)
		return code;
	before = session.state;
	code = run(&session.state, arguments);
	if (code == 0 && arguments->next < arguments->count)
		code = sim_refused("arguments", arguments->words[arguments->next], "nothing more");
	if (code != 0)
		session.state = before;
	else
		session.dirty = true;
	if (code == 0 && session.read_only)
		code = sim_refused("state folder", "read-only", "a folder that can be written");
	if (!sim_session_close(&session) && code == 0)
		code = sim_refused("state file", "no room or no permission", "a file that can be written");
	return code;
}

int main(int count, char **words)
{
	struct sim_arguments arguments = {.count = count, .words = words, .next = 2, .gpu = -1, .pid = 1};

	if (count >= 3 && strcmp(words[1], "init") == 0)
		return sim_command_init((const char *const *)&words[2], count - 2);
	if (count == 2 && strcmp(words[1], "functions") == 0)
		return sim_functions_printed();
	if (count == 2 && strcmp(words[1], "dump") == 0)
		return sim_command_dump(false);
	if (count == 3 && strcmp(words[1], "dump") == 0 && strcmp(words[2], "--all") == 0)
		return sim_command_dump(true);
	if (count >= 2 && !sim_options_taken(&arguments))
		return SIM_BAD_INPUT;
	for (size_t i = 0; count >= 2 && i < sizeof sim_commands / sizeof sim_commands[0]; i++)
		if (strcmp(words[1], sim_commands[i].name) == 0)
			return sim_changed(sim_commands[i].run, &arguments);
	fputs(sim_usage, stderr);
	return SIM_BAD_INPUT;
}
