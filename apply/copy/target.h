/*
 * target.h: the target's side of a copy: a transaction that is empty before, and whose
 * outcome is known after (C3).
 */
#ifndef PGBATON_APPLY_COPY_TARGET_H
#define PGBATON_APPLY_COPY_TARGET_H

#include "apply/copy/session.h"
#include "common/bytes.h"

/* A transaction on the target. Start from zero. */
typedef struct {
	bool commit_sent; /* and not answered: what came of it must be known before the next try */
} CopyCommit;

/*
 * Begins the transaction that a whole table is copied in, and makes sure that the table is
 * empty: what an earlier copy has left is removed (Table.rows_remain), other rows are
 * an error. *fresh: the table was truncated in it, so COPY may FREEZE, and with wal_level
 * minimal needs no WAL. That costs new files, so small tables do not get
 * it, and others only where TRUNCATE is allowed.
 */
MUST_CHECK bool copy_target_begin(const CopySession *session, const Table *table, bool *fresh,
                                  Error *err);

/* The same for several small tables at once; which of them is not as it must be is not said. */
MUST_CHECK bool copy_target_begin_group(const CopySession *session, Table *const *tables,
                                        size_t count, Error *err);

/* Whether TRUNCATE is allowed: without it what a split copy has left could not be removed. */
MUST_CHECK bool copy_target_can_empty(const CopySession *session, const Table *table, bool *can,
                                      Error *err);
/* Empties it as copy_target_begin does and records that a split copy begins (ledger.h),
 * all committed. attempt: its number. */
MUST_CHECK bool copy_target_begin_split(const CopySession *session, const Ledger *ledger,
                                        const Table *table, char attempt[24], Error *err);
/* Begins the transaction of one range. ERROR_CONFIG when another process has taken over. */
MUST_CHECK bool copy_target_begin_range(const CopySession *session, const Ledger *ledger,
                                        const Table *table, const char *attempt, Error *err);

/* Runs what ends with the ledger's record of so many rows; one that finds fewer is ERROR_BUG:
 * it would be a copy that nobody remembers. */
MUST_CHECK bool copy_target_record(Wire *target, const char *sql, size_t rows, Error *err);
MUST_CHECK bool copy_target_commit(Wire *target, CopyCommit *commit, Error *err);

/* The connection was lost while COMMIT of a whole table was on its way: has it happened?
 * False while the server still works on it, or when it cannot be asked. */
MUST_CHECK bool copy_target_outcome(const CopySession *session, const Ledger *ledger,
                                    const Table *table, const char *snapshot, bool *committed,
                                    Error *err);

#endif
