/* The commands of `inferhost-sim` that change the state; the usage text in sim_cli.c is their documentation. */
#ifndef SIM_COMMANDS_H
#define SIM_COMMANDS_H

#include <stdbool.h>

#include "sim_state.h"

enum { SIM_BAD_INPUT = 2, SIM_NO_MACHINE = 4 };

struct sim_arguments {
	int count;
	char **words;
	int next;     /* the first word not yet consumed */
	int gpu;      /* --gpu, -1 = every GPU */
	uint32_t pid; /* --pid */
};

/* Take `--gpu N` and `--pid N` out of the words. False, and said so, when one is malformed. */
bool sim_options_taken(struct sim_arguments *arguments);
/* Print place, found and wanted; returns SIM_BAD_INPUT. */
int sim_refused(const char *place, const char *found, const char *wanted);

/* Each returns 0 or SIM_BAD_INPUT; after a refusal the caller drops the changed state. */
int sim_command_set(struct sim_state *state, struct sim_arguments *arguments);
int sim_command_load(struct sim_state *state, struct sim_arguments *arguments);
int sim_command_advance(struct sim_state *state, struct sim_arguments *arguments);
int sim_command_fault(struct sim_state *state, struct sim_arguments *arguments);
int sim_command_fail(struct sim_state *state, struct sim_arguments *arguments);
int sim_command_fail_nth(struct sim_state *state, struct sim_arguments *arguments);
int sim_command_lost(struct sim_state *state, struct sim_arguments *arguments);
int sim_command_reload(struct sim_state *state, struct sim_arguments *arguments);

#endif
