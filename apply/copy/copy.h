/*
 * copy.h: the initial copy: tables in parallel, one snapshot per table (C2), and their
 * indexes as soon as the rows are in.
 *
 * `jobs` workers take what is to be done next, in this order: a range of a large table that
 * is being copied, an index of a table whose rows are in, the largest table that is left.
 * Each has at most one session at a source (wire.h) and one at the target: COPY frames are
 * relayed as they came, binary where Table.copy_binary. A large table (split_above) takes
 * one idle session more at the source while it is copied (split.h).
 *
 * Per table: target BEGIN; source REPEATABLE READ READ ONLY, LOCK ... ACCESS SHARE, then
 * pg_current_snapshot (txid_current_snapshot before 13) and pg_current_wal_insert_lsn; COPY
 * to COPY, source COMMIT; on the target the "copied" record, COMMIT (C3). A table that is
 * not empty on the target is refused: an earlier try of ours was rolled back or is known by
 * the ledger, so the rows are somebody else's. A table that fails is retried alone; what
 * stays failed is TABLE_ERRORED with its error, and the others go on. Where many small tables are
 * left, several have their transactions together (group.h).
 */
#ifndef PGBATON_APPLY_COPY_COPY_H
#define PGBATON_APPLY_COPY_COPY_H

#include <stdatomic.h>

#include "apply/care/throttle.h"
#include "apply/catalog/catalog.h"
#include "apply/ledger.h"
#include "apply/schema/build.h"
#include "common/stop.h"
#include "decoder/txlog/txlog.h"
#include "protocol/conninfo.h"

/* How many of the jobs are at what, for who watches. */
typedef struct {
	_Atomic int reading; /* rows of the source */
	_Atomic int building;
} CopyWorkers;

typedef struct {
	const ConnInfo *source;
	const ConnInfo *target;
	const Ledger *ledger;
	const char
		*target_timeline; /* a target on another one is refused (ledger.h); NULL: not asked */
	Catalog *catalog;     /* states, counters, snapshots are set as tables finish */
	int jobs;
	bool apart;           /* those of the tables that are apart, else the others */
	bool one_snapshot;    /* offline mode: all tables from one exported snapshot */
	int tries;            /* per table, range or index; 0: 3 */
	uint64_t split_above; /* bytes, of TOAST eightfold (split.c); 0: no table is split */
	Build *build;         /* NULL: rows only */
	TxLog *log;           /* whose timeline the source must have; NULL: nothing follows */
	Throttle *throttle;   /* NULL: none */
	CopyWorkers *workers; /* NULL: nobody watches */
	const Stop *stop;
} CopyOptions;

/* Copies every table (of its kind: apart) that is not TABLE_COPIED, and runs all tasks of build. True when all
 * is done; else the first error, with how many others there are. ERROR_CANCELLED on stop. */
MUST_CHECK bool copy_tables(const CopyOptions *options, Error *err);

#endif
