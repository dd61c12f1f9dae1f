/* Names and scopes of the exported functions; see sim_functions.h for what they are for. */
#include "sim_functions.h"

#include <string.h>

#define SIM_FUNCTION_ROW(name, scope) {#name, #scope[0]},

static const struct {
	const char *name;
	char scope;
} sim_functions[SIM_FUNCTION_COUNT] = {SIM_FUNCTIONS(SIM_FUNCTION_ROW)};

int sim_function_by_name(const char *name)
{
	for (int i = 0; i < SIM_FUNCTION_COUNT; i++)
		if (strcmp(sim_functions[i].name, name) == 0)
			return i;
	return -1;
}

const char *sim_function_name(enum sim_function function)
{
	return sim_functions[function].name;
}

char sim_function_scope(enum sim_function function)
{
	return sim_functions[function].scope;
}
