/* Reads personalities: what a machine's cards are and how they behave, as data with an origin per value.
 *
 *     # comment
 *     field = value | captured | where it was seen       one line per field; also `derived` or `assumed`
 *     answer.nvmlDeviceGetMigMode = not_supported | ...  a call that always gives this error on this card
 *     mig.3g.20gb = 9 3 19968 4 0 4 | ...  a way to divide it: id, slices, MiB, units, and where it may begin
 *     include families/geforce.txt                       what cards of a family share, before the card's own lines
 *     [gpu]                                              one section per card, for its uuid and address;
 *                                                        it may give any other card field its own value
 *
 * Fields before the first section describe the machine and every card. A field of the card itself replaces one of
 * an included family. Units are in the field names.
 *
 * Several files make one machine with several kinds of cards; the first file's driver is the machine's. Kept as one
 * text, they are held apart by `[model]`, and what was included stands between `[family]` and `[model]`.
 */
#ifndef SIM_PERSONALITY_H
#define SIM_PERSONALITY_H

#include <stdbool.h>
#include <stdio.h>

#include "sim_state.h"

/* Fill `state` from the files and write all of it as one text to `copy`, unless that is NULL.
 * On any fault says every fault on stderr and returns false. */
bool sim_personality_read(const char *const *paths, int count, struct sim_state *state, FILE *copy);

#endif
