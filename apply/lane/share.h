/*
 * share.h: one lane's share of a batch, and the ordered replay, as statements on a session.
 *
 * Both run inside a transaction that the caller has begun on the pipe, and leave the pipe
 * finished. What fails names the table.
 */
#ifndef PGBATON_APPLY_LANE_SHARE_H
#define PGBATON_APPLY_LANE_SHARE_H

#include "apply/batch/batch.h"
#include "apply/lane/group.h"
#include "apply/lane/pipe.h"

/* Set-based: lane's rows, or all (GROUP_ALL_LANES). arena: for this call. Only queues:
 * the caller finishes the pipe (but for COPY, before which it is finished here). guarded:
 * updates and deletes check their row counts on the server, so that a COMMIT may be queued
 * behind them. */
PipeEnd share_run(Pipe *pipe, const Batch *batch, int lane, bool guarded, Arena *arena, Error *err);

/* One group with what it needs around it; also for the replay. With a result callback the
 * row counts are the callback's business. */
PipeEnd share_group(Pipe *pipe, const Group *group, PipeResult result, void *arg, Error *err);

/* Images that one statement of a STMT_DELETE_IMAGE group takes; its ordinals start at 0 in
 * each. */
uint32_t share_image_step(const Group *group);

/* Sends one row as one statement. values: in the order of the statement's parameters. */
MUST_CHECK bool share_send_one(Pipe *pipe, Shape *shape, const Value *key_values,
                               const Value *values, const void *tag, Error *err);

/*
 * Row by row in the source's order; names the row that cannot be applied. Tables without a
 * key stay folded: their deletes come before their inserts and one lane does all of it, so
 * folding cannot conflict, and a scan of the table for each row is not affordable.
 */
PipeEnd replay_run(Pipe *pipe, const Batch *batch, Arena *arena, Error *err);

/* What share_run does, in its order, but a statement a row: names the row that fails. */
PipeEnd replay_share(Pipe *pipe, const Batch *batch, int lane, Arena *arena, Error *err);

#endif
