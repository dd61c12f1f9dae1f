/* The fields of a personality as one table: name, kind, place in the state, and the laws that bind them. */
#ifndef SIM_CARD_H
#define SIM_CARD_H

#include <stdbool.h>

#include "sim_state.h"

/* SIM_MACHINE: one per machine. SIM_MODEL: one per kind of card. SIM_CARD: identifies a card, so never shared. */
enum sim_scope { SIM_MACHINE, SIM_MODEL, SIM_CARD };
enum { SIM_FIELD_MAX = 64 };

extern const int sim_field_count;

/* The number of a field, or -1. */
int sim_field_by_name(const char *name);
const char *sim_field_name(int field);
enum sim_scope sim_field_scope(int field);
/* Read `text` (which is taken apart) into its place; false when it is no value of this field. */
bool sim_field_value(int field, char *text, struct sim_state *state, struct sim_card *card);

/* The first law that a card breaks, or NULL: what would make the model divide by zero or contradict itself. */
const char *sim_card_broken_law(const struct sim_card *card);
/* What two cards of one machine share although it identifies a card, or NULL. */
const char *sim_cards_shared_identity(const struct sim_card *one, const struct sim_card *other);

#endif
