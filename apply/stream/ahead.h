/*
 * ahead.h: when the applier begins, ends and commits what is applied early (early.h). All on
 * its own thread; each function does nothing where there is none.
 *
 *  none --ahead_tend--> applier->early --ahead_finish--> none, committed
 *   ^                        |
 *   +------ ahead_drop ------+  rolled back: a pause, a marker, a batch that is applied in
 *                               order or fails, and what Early itself gives up
 */
#ifndef PGBATON_APPLY_STREAM_AHEAD_H
#define PGBATON_APPLY_STREAM_AHEAD_H

#include "apply/stream/applier_internal.h"

/* Begins one where there is one to begin, and puts away one that has given up. */
void ahead_tend(Applier *applier);
/* Returns when its session is closed. */
void ahead_drop(Applier *applier, const char *why);
/* The batch was accounted for: what is committed may go on. Before its markers are told. */
void ahead_account(Applier *applier, const Batch *batch);
/* Its commit was met, and everything before it is committed. COMMITTED: the feed is behind
 * it, and `batch`, which is empty, says what it was, without its changes. WORKS: the applier
 * is stopping. After all of them there is none any more. */
EarlyState ahead_finish(Applier *applier, Batch *batch, Lsn *wal, Lsn *flushed, Error *err);

#endif
