/*
 * step.h: a piece of schema and its record in one transaction, so that it happens
 * exactly once however often the process starts again.
 */
#ifndef PGBATON_APPLY_SCHEMA_STEP_H
#define PGBATON_APPLY_SCHEMA_STEP_H

#include "apply/schema/schema.h"
#include "apply/schema/script.h"

enum { SCHEMA_STEP_SIZE = 400 };

/* text may be empty. On failure the session's transaction is rolled back. */
MUST_CHECK bool schema_step_run(Sql *sql, const Ledger *ledger, const char *step, const char *text,
                                Error *err);
/* Again after a deadlock: with autovacuum, or of two indexes of one table. */
MUST_CHECK bool schema_step_patiently(Sql *sql, const SchemaWork *work, const char *step,
                                      const char *text, Error *err);

/* Nothing when it is recorded already; else patiently. */
MUST_CHECK bool schema_step_once(Sql *sql, const SchemaWork *work, const char *step,
                                 const char *text, Error *err);

/* The name under which the ledger has an entry of the post-data section. */
void schema_step_name(const Entry *entry, char out[SCHEMA_STEP_SIZE]);
/* Nothing when it is done already. text: the entry's SQL, or what is to be run instead. */
MUST_CHECK bool schema_step_entry(Sql *sql, const SchemaWork *work, const Entry *entry,
                                  const char *text, Error *err);

/* The name of such a part: an addition has its own (0: the whole). */
void schema_once_name(int addition, const char *part, char out[SCHEMA_STEP_SIZE]);
/* Runs all of a part of the schema, unless it was done to its end before: a resume then does
 * not read the archive again. */
typedef bool (*SchemaPart)(const SchemaWork *work, Error *err);
MUST_CHECK bool schema_once(const SchemaWork *work, const char *step, SchemaPart part, Error *err);

/* What build.h does: these in parallel, then those that join them. */
static inline bool
entry_is_index(const Entry *entry)
{
	return entry->kind == ENTRY_INDEX || entry->kind == ENTRY_CONSTRAINT;
}

static inline bool
entry_joins_indexes(const Entry *entry)
{
	return entry->kind == ENTRY_ATTACH || entry->kind == ENTRY_STATISTICS;
}

/* Of an addition: its table may not be a partition yet. */
static inline bool
entry_waits_for_partition(const SchemaWork *work, const Entry *entry)
{
	return work->addition > 0 && entry->kind == ENTRY_ATTACH;
}

#endif
