/*
 * matches.h: what the patterns of a selection mean on this source.
 *
 * Asked of the server once, one query a pattern, so that later questions are look-ups by
 * OID. Lives in the arena it was given; matches_free frees the maps. Immutable afterwards;
 * the selection is not kept.
 */
#ifndef PGBATON_APPLY_CATALOG_MATCHES_H
#define PGBATON_APPLY_CATALOG_MATCHES_H

#include <stdbool.h>
#include <stdint.h>

#include "apply/catalog/selection.h"
#include "apply/sql.h"
#include "common/arena.h"
#include "common/error.h"

typedef struct Matches Matches;

/* strict: a pattern that matches nothing is ERROR_CONFIG naming it (tables, views and
 * sequences for the table lists), unless the selection is a recorded one. */
Matches *matches_find(Sql *source, const Selection *selection, bool strict, Arena *arena,
                      Error *err);
void matches_free(Matches *matches);

/* Is the relation (or index) matched by the list's patterns? Not for the schema lists. */
bool matches_relation(const Matches *matches, SelectionList list, uint32_t oid);
/* A relation by itself, without its parents: included, and not excluded. */
bool matches_chosen(const Matches *matches, uint32_t oid, const char *schema);
/* What is in this schema and is no relation (types, functions): with a list of tables
 * nothing. */
bool matches_schema_chosen(const Matches *matches, const char *schema);
bool matches_by_table(const Matches *matches); /* there is a list of tables to include */

#endif
