/*
 * run.h: the lanes' side of a Run (lane.h).
 */
#ifndef PGBATON_APPLY_LANE_RUN_H
#define PGBATON_APPLY_LANE_RUN_H

#include "apply/lane/lane.h"

/* A lane has executed; waits until all have. True: commit. A lane that failed does not
 * wait; table: whose row it failed at (NULL: not known). */
bool run_report(Run *run, RunOutcome outcome, const Error *err, Table *table);
/* After its commit (or rollback) the lane is through. */
void run_finish(Run *run, RunOutcome outcome, const Error *err, Lsn wal, Lsn flushed);

#endif
