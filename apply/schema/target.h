/*
 * target.h: what the target's tables must not do while changes are applied, and
 * how they get it back at the cutover.
 */
#ifndef PGBATON_APPLY_SCHEMA_TARGET_H
#define PGBATON_APPLY_SCHEMA_TARGET_H

#include "apply/catalog/catalog.h"
#include "apply/ledger.h"
#include "apply/sql.h"

/* Triggers ENABLE ALWAYS or ENABLE REPLICA (they would fire in spite of
 * session_replication_role) and event triggers are disabled; identity columns GENERATED ALWAYS become BY
 * DEFAULT (UPDATE could not set them). Recorded in the ledger with the statement that
 * puts them back. Idempotent. */
MUST_CHECK bool target_prepare(Sql *target, const Ledger *ledger, const Catalog *catalog,
                               Error *err);
/* Appends the statements that put all of it back, for the cutover's transaction. */
MUST_CHECK bool target_restore_sql(Sql *target, const Ledger *ledger, Buffer *sql, Error *err);
/* Both for the side that a direction goes to, whichever it is; and what was put back is no
 * longer to be undone. */
MUST_CHECK bool target_prepare_booked(Sql *to, const Book *book, const Catalog *catalog,
                                      Error *err);
MUST_CHECK bool target_restore_booked_sql(Sql *to, const Book *book, Buffer *sql, Error *err);
MUST_CHECK bool target_forget_restored(const Book *book, Error *err);

/* Sequences: read last_value and is_called of all on the source (after the marker), set
 * on the target: called ones to value + margin * increment within the sequence's bounds.
 * *count gets how many. */
MUST_CHECK bool target_set_sequences(Sql *source, Sql *target, const Catalog *catalog,
                                     int64_t margin, size_t *count, Error *err);
/* For a rehearsal: reads all on the source and sees that each could be set on the target. */
MUST_CHECK bool target_check_sequences(Sql *source, Sql *target, const Catalog *catalog,
                                       size_t *count, Error *err);
/* REFRESH in dependency order, those that are populated on the source, and ANALYZE. */
MUST_CHECK bool target_refresh_matviews(Sql *target, const Catalog *catalog, Error *err);

/* --verify counts | checksums. Compares every table on two sessions, but for unlogged
 * ones, whose rows were counted when they were copied (late.h); differences into
 * Table.error, and ERROR_DIVERGENCE naming tables when any. checksum: order-independent,
 * over the text of all columns, computed by the servers. */
typedef enum { VERIFY_COUNTS, VERIFY_CHECKSUMS } VerifyKind;
/* marked: those alone that are (catalog_mark_named). */
MUST_CHECK bool verify_tables(Sql *source, Sql *target, Catalog *catalog, VerifyKind kind,
                              bool marked, Error *err);

#endif
