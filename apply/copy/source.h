/*
 * source.h: the source's side of a copy: a transaction with a lock and a snapshot (C2).
 */
#ifndef PGBATON_APPLY_COPY_SOURCE_H
#define PGBATON_APPLY_COPY_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "apply/catalog/catalog.h"
#include "apply/ledger.h"
#include "common/bytes.h"
#include "common/error.h"
#include "common/lsn.h"
#include "common/stop.h"
#include "protocol/wire.h"

/* One exported snapshot for all tables (offline); NULL members: each table its own. */
typedef struct {
	char *id; /* pg_export_snapshot */
	char *snapshot;
	Lsn lsn;
} SharedSnapshot;

/* What a table's transaction sees. Release with copy_view_clear. */
typedef struct {
	char *snapshot; /* pg_current_snapshot */
	Lsn lsn;
	char *exported; /* only when it was asked for */
	uint64_t pages; /* of the heap, only then; 0: empty, or no heap */
	char *stamps;   /* rewrite.h: a line for each table, in the order of their OIDs */
} CopyView;

void copy_view_clear(CopyView *view);

/* The snapshot function's name changed in 13. */
const char *copy_snapshot_sql(int server_version);

/* Begins it. An error when the table is not what the catalogue has. shared may be NULL. */
MUST_CHECK bool copy_source_begin(Wire *source, const Ledger *ledger, Table *table,
                                  const SharedSnapshot *shared, bool export, CopyView *view,
                                  Error *err);
/* One for several tables, in the order of their OIDs. Waits for no lock: 55P03 when one cannot be
 * had at once. Which of them is not what the catalogue has is not said. */
MUST_CHECK bool copy_source_begin_group(Wire *source, const Ledger *ledger, Table *const *tables,
                                        size_t count, const SharedSnapshot *shared, CopyView *view,
                                        Error *err);
/* Begins another one that sees the same, with the table's lock. *queued: somebody waits for the
 * table already, and behind him we would wait for the exporting transaction's end; the session is
 * in no transaction then. ERROR_NETWORK when the exporting transaction is gone: the table has to be
 * begun anew. */
MUST_CHECK bool copy_source_join(Wire *source, const char *exported, const Table *table,
                                 bool *queued, Error *err);

/* Waits until the source has on its disk what its snapshot saw: a commit is seen before that where
 * nobody waits for it (synchronous_commit = off), and a crash of the source would take it back, and
 * give its xid to another one, which would count as copied (C2). Before anything is recorded. The
 * session is in no transaction: it may commit one of its own for that. */
MUST_CHECK bool copy_source_flushed(Wire *source, Lsn seen, const Stop *stop, Error *err);
/* COMMIT, and the same; seen is noted in the catalogue before it. */
MUST_CHECK bool copy_source_end(Wire *source, Catalog *catalog, Lsn seen, const Stop *stop,
                                Error *err);

/* "a, b": what is copied, by name, since the order may differ; generated columns are
 * computed on the target. False: there is no such column. */
bool copy_put_columns(const Table *table, Buffer *sql);

#endif
