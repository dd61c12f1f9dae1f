/* Reads a personality: what one machine's cards are and how they behave, as data with an origin per value.
 *
 *     # comment
 *     field = value | captured | where it was seen       one line per field; also `derived` or `assumed`
 *     answer.nvmlDeviceGetMigMode = not_supported | ...  a call that always gives this error on this card
 *     [gpu]                                              one section per card, for its uuid and address;
 *                                                        it may give any other card field its own value
 *
 * Fields before the first section describe the machine and every card. Units are in the field names.
 */
#ifndef SIM_PERSONALITY_H
#define SIM_PERSONALITY_H

#include <stdbool.h>

#include "sim_state.h"

/* Fill `state` from the file. On any fault says every fault on stderr and returns false. */
bool sim_personality_read(const char *path, struct sim_state *state);

#endif
