/*
 * definitions.h: what has been defined on the source since the schema was dumped.
 *
 * The stream carries no DDL. Tables and their columns are looked at closely before a cutover
 * (catalog_compare_source); this is about all else that pg_dump knows: functions, views,
 * indexes, constraints, triggers, types, grants, comments, security labels and so on; not about
 * publications, which are not moved, and user mappings, which only superusers can see. As the dump is taken, name and hash of
 * each one's catalogue row are noted in the state directory (schema.definitions, 0600, a line
 * "hash name" each). Rows are compared with those of the same server, so that nothing depends on
 * how a version writes a definition; what a hash cannot tell is whether the target has the change.
 */
#ifndef PGBATON_APPLY_SCHEMA_DEFINITIONS_H
#define PGBATON_APPLY_SCHEMA_DEFINITIONS_H

#include "apply/ledger.h"
#include "apply/sql.h"

enum { DEFINITIONS_NAMED = 12, DEFINITIONS_NAME_SIZE = 200 };

typedef struct {
	size_t count;
	/* The first of them: "new: index public.i", "changed: ...", "gone: ...", cut to the size. */
	char named[DEFINITIONS_NAMED][DEFINITIONS_NAME_SIZE];
} DefinitionChanges;

/* Asks for what there is, as of now, before the dump: what comes between them is told as new,
 * unless the target has it. The server works on it beside the dump (10,000 tables: a second). */
MUST_CHECK bool definitions_ask(Sql *source, const Ledger *ledger, Error *err);
/* After the dump: notes the answer. Leaves a transaction open, the session is to be closed. */
MUST_CHECK bool definitions_note(Sql *source, const char *state_dir, Error *err);
/* New: not noted, and the target has none of that name. Gone: noted, and the target still has
 * it. None when nothing was noted (a migration of an older version). */
MUST_CHECK bool definitions_compare(Sql *source, Sql *target, const Ledger *ledger,
                                    const char *state_dir, DefinitionChanges *out, Error *err);
/* Removes the notes, if there are any. */
void definitions_forget(const char *state_dir);

#endif
