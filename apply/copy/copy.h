/*
 * copy.h: the initial copy: tables in parallel, one snapshot per table (C2).
 *
 * Each worker has a source and a target connection (wire.h) and relays COPY frames as
 * they came, binary where Table.copy_binary. Per table: target BEGIN; source REPEATABLE
 * READ READ ONLY, LOCK ... ACCESS SHARE, then pg_current_snapshot (txid_current_snapshot
 * before 13) and pg_current_wal_insert_lsn; COPY to COPY, source COMMIT; on the target the
 * "copied" record, COMMIT (C3). A table
 * that is not empty on the target is refused: an earlier try of ours was rolled back, so
 * the rows are somebody else's. A table that fails is retried alone; what stays failed is
 * TABLE_ERRORED with its error, and the others go on.
 */
#ifndef PGBATON_APPLY_COPY_COPY_H
#define PGBATON_APPLY_COPY_COPY_H

#include "apply/catalog/catalog.h"
#include "apply/ledger.h"
#include "common/stop.h"
#include "protocol/conninfo.h"

typedef struct {
	const ConnInfo *source;
	const ConnInfo *target;
	const Ledger *ledger;
	Catalog *catalog; /* states, counters, snapshots are set as tables finish */
	int jobs;
	bool one_snapshot; /* offline mode: all tables from one exported snapshot */
	int tries;         /* per table; 0: 3 */
	const Stop *stop;
} CopyOptions;

/* Copies every table that is not TABLE_COPIED. True when all are; else the first table's
 * error, with how many others failed. ERROR_CANCELLED on stop. */
MUST_CHECK bool copy_tables(const CopyOptions *options, Error *err);

#endif
