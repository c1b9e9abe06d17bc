/*
 * selection.h: what of the source the user wants moved.
 *
 * pg_dump's rules (its documentation, options -t, -T, -n, -N, --exclude-table-data):
 *   a list of tables to include makes everything else stay behind, whatever its schema;
 *   without one, the schemas to include (none: all) less those to exclude;
 *   then the tables to exclude are taken away.
 * Beyond pg_dump: a pattern that names a partitioned table means everything below it, and
 * a table pattern without a schema means every schema (there: those of the search path).
 * The selection owns nothing; its strings live in the configuration's arena.
 */
#ifndef PGBATON_APPLY_CATALOG_SELECTION_H
#define PGBATON_APPLY_CATALOG_SELECTION_H

#include <stdbool.h>
#include <stddef.h>

#include "common/bytes.h"

typedef enum {
	INCLUDE_TABLE,
	EXCLUDE_TABLE, /* with definition and rows */
	INCLUDE_SCHEMA,
	EXCLUDE_SCHEMA,
	EXCLUDE_DATA, /* the definition moves, the rows do not */
	EXCLUDE_INDEX,
	ADDED_TABLE, /* by add-table, whatever the other lists say; kept in the ledger */
	SELECTION_LISTS
} SelectionList;

typedef struct {
	const char **items; /* as the user wrote them: pattern.h */
	size_t count;
} PatternList;

/* AS_PG_DUMP: they move, unless tables or schemas to include are named. */
typedef enum { LARGE_OBJECTS_AS_PG_DUMP, LARGE_OBJECTS_COPY, LARGE_OBJECTS_SKIP } LargeObjects;

typedef struct {
	PatternList lists[SELECTION_LISTS];
	bool skip_unlogged; /* unlogged tables move without rows */
	LargeObjects large_objects;
	/* By a migration in progress: what a pattern named may have been dropped since, or be on the
	 * target alone after the switch. A pattern that matches nothing is no error then. */
	bool recorded;
} Selection;

bool selection_large_objects(const Selection *selection);

/* The option's name without dashes: "include-table". */
const char *selection_option(SelectionList list);
/* Nothing is left out. */
bool selection_is_all(const Selection *selection);

/* One line for each pattern, "include-table public.a\n", in the lists' order and sorted
 * within, each once: two selections that mean the same patterns have the same text. */
void selection_describe(const Selection *selection, Buffer *out);
/* Appends what `is` has less and more than `was` (texts of selection_describe):
 * "without --include-table a, with --exclude-table b"; nothing when they are equal. */
void selection_difference(const char *was, const char *is, Buffer *out);

#endif
