/*
 * table.h: one try at copying one table (C2, C3).
 */
#ifndef PGBATON_APPLY_COPY_TABLE_H
#define PGBATON_APPLY_COPY_TABLE_H

#include "apply/copy/copy.h"
#include "apply/copy/session.h"
#include "common/lsn.h"

/* One exported snapshot for all tables (offline); NULL members: each table its own. */
typedef struct {
	char *id; /* pg_export_snapshot */
	char *snapshot;
	Lsn lsn;
} SharedSnapshot;

/* What a try has learnt. Start from zero, release with copy_attempt_clear. */
typedef struct {
	char *snapshot;
	Lsn lsn;
	uint64_t rows;
	uint64_t bytes;
	char target_xid[24];
	bool commit_sent; /* and not answered: ask copy_table_outcome before the next try */
} CopyAttempt;

void copy_attempt_clear(CopyAttempt *attempt);

/* The snapshot function's name changed in 13. */
const char *copy_snapshot_sql(int server_version);

/* True: committed on the target. On false the session is to be closed. */
MUST_CHECK bool copy_table_once(CopySession *session, const CopyOptions *options, Table *table,
                                const SharedSnapshot *shared, CopyAttempt *attempt, Error *err);

/* The connection was lost while COMMIT was on its way: has it happened? False while the
 * server still works on it, or when it cannot be asked. */
MUST_CHECK bool copy_table_outcome(CopySession *session, const CopyAttempt *attempt,
                                   bool *committed, Error *err);

#endif
