/*
 * group.h: several small tables in one transaction on each side.
 *
 * A small table's copy is mostly round trips and small statements: begin, look, lock, snapshot,
 * record, commit. A group has them once. C2 and C3 hold as for one table: all are locked before the
 * snapshot that is theirs, and the transaction that has their rows has their records.
 *
 * A group never waits for a lock on the source while it has another (NOWAIT): two tables that the
 * application alters one after the other could else make a deadlock with us, and the server might
 * choose the application's transaction to end. Whatever fails in a group, its tables are copied
 * one by one then, each with its own tries and its own error.
 */
#ifndef PGBATON_APPLY_COPY_GROUP_H
#define PGBATON_APPLY_COPY_GROUP_H

#include "apply/copy/table.h"

enum { COPY_GROUP_MOST = 16 };

typedef struct {
	Table *tables[COPY_GROUP_MOST];
	size_t count;
	CopyView view;     /* all tables' */
	CopyCommit commit; /* commit_sent after a failure: to be looked up table by table */
	uint64_t rows[COPY_GROUP_MOST];
	uint64_t bytes[COPY_GROUP_MOST];
} CopyGroup;

/* May the table be one of a group at all? */
bool copy_group_takes(const CopyOptions *options, const Table *table);
/* True: committed on the target. On false the session is to be closed. Reorders the tables. */
MUST_CHECK bool copy_group_once(CopySession *session, const CopyOptions *options,
                                const SharedSnapshot *shared, CopyGroup *group, Error *err);
void copy_group_clear(CopyGroup *group);

#endif
