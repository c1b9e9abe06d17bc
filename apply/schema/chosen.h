/*
 * chosen.h: the selection's part in dump and restore.
 *
 * pg_dump gets the user's own patterns, whose rules are its own, and exact names where
 * ours mean more (what is below and above in a partitioned table, sequences that are
 * used). What its options cannot say is left out of the archive's entries: foreign keys
 * whose other side is not moved, indexes.
 */
#ifndef PGBATON_APPLY_SCHEMA_CHOSEN_H
#define PGBATON_APPLY_SCHEMA_CHOSEN_H

#include "apply/schema/schema.h"
#include "apply/schema/script.h"

/* A program's arguments, in the arena. */
typedef struct {
	Arena *arena;
	const char **argv;
	size_t count;
	size_t capacity;
} Arguments;

void args_add(Arguments *args, const char *text);
/* pg_dump's options for the selection. */
void chosen_arguments(const SchemaWork *work, Arguments *args);
/* Appends what creates the schemas of tables that are chosen by name, where the target does not
 * have them, with owner and privileges: pg_dump leaves schemas out then. */
MUST_CHECK bool chosen_schemas(const SchemaWork *work, const SchemaTools *tools, Buffer *sql,
                               Error *err);
/* Takes entries out. With chosen schemas their CREATE becomes IF NOT EXISTS: "public" is
 * there already. */
void chosen_entries(const SchemaWork *work, Arena *arena, Entries *entries);

#endif
