/*
 * dispatch.h: which lanes take part in a batch, with which tasks, and whose progress rows
 * each of them writes (P1, P2, P5).
 */
#ifndef PGBATON_APPLY_STREAM_DISPATCH_H
#define PGBATON_APPLY_STREAM_DISPATCH_H

#include "apply/stream/applier_internal.h"

/* applier->flying is set and goes to the lanes. kind TASK_SHARE or TASK_REPLAY. */
void dispatch_batch(Applier *applier, TaskKind kind);
/* Makes durable what has been applied: writes the progress as it is, and waits for the
 * disk. There is no batch. */
void dispatch_flush(Applier *applier);

#endif
