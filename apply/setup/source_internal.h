/*
 * source_internal.h: shared by the files that implement source.h.
 */
#ifndef PGBATON_APPLY_SETUP_SOURCE_INTERNAL_H
#define PGBATON_APPLY_SETUP_SOURCE_INTERNAL_H

#include "apply/setup/locked.h"
#include "apply/setup/source.h"
#include "common/bytes.h"

/* How a schema on the source is known to be a migration's (catalog.h leaves it out). */
#define SOURCE_SCHEMA_MARK "pgbaton migration, format 1"

Book source_book(const SourceSetup *setup);
MUST_CHECK bool source_record(const SourceSetup *setup, const char *kind, const char *what,
                              const char *undo, Error *err);
/* Records what is about to be made on the source, then makes it politely. relation: whose
 * lock is wanted, 0 none. */
MUST_CHECK bool source_make(const SourceSetup *setup, const char *kind, const char *what,
                            const char *undo, uint32_t relation, const char *statement, Error *err);
/* Our schema, when it is not there yet. A schema of that name that is not ours: ERROR_CONFIG. */
MUST_CHECK bool source_make_schema(const SourceSetup *setup, Error *err);
/* Is there a table with KEY_NOTHING that the stream has to carry? */
bool source_has_insert_only(const Catalog *catalog);

#endif
