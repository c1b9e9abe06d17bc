/*
 * table.h: one try at copying one table in one transaction (C2, C3).
 */
#ifndef PGBATON_APPLY_COPY_TABLE_H
#define PGBATON_APPLY_COPY_TABLE_H

#include "apply/copy/copy.h"
#include "apply/copy/session.h"
#include "apply/copy/source.h"
#include "apply/copy/target.h"

/* What a try has learnt. Start from zero, release with copy_attempt_clear. */
typedef struct {
	CopyView view;
	CopyCommit commit;
	uint64_t rows;
	uint64_t bytes;
} CopyAttempt;

void copy_attempt_clear(CopyAttempt *attempt);

/* True: committed on the target. On false the session is to be closed. */
MUST_CHECK bool copy_table_once(CopySession *session, const CopyOptions *options, Table *table,
                                const SharedSnapshot *shared, CopyAttempt *attempt, Error *err);

/*
 * The rows of a COPY TO through a COPY FROM, both in the table's format, no faster than the
 * throttle lets them. where: NULL, or the condition of a range. Adds to the table's counters as
 * it goes; *rows and *bytes are what the two servers agree on at the end, or what was added
 * until it failed.
 */
MUST_CHECK bool copy_rows(const CopySession *session, const CopyOptions *options, Table *table,
                          const char *where, bool freeze, uint64_t *rows, uint64_t *bytes,
                          Error *err);

#endif
