#include "apply/stream/dispatch.h"

#include "apply/lane/group.h"
#include "common/clock.h"
#include "common/memory.h"

enum {
	SMALL_BATCH = 64, /* below that many rows one lane is faster than agreeing with others */
	POSITIONS_MS = 10 /* so often small batches ask for the target's WAL positions */
};

static Task *
task_of(Applier *applier, int lane, TaskKind kind)
{
	Task *task = &applier->tasks[lane];
	bool *writes = &applier->writes[(size_t)lane * (size_t)applier->ledger.lanes];

	memset(writes, 0, sizeof(bool) * (size_t)applier->ledger.lanes);
	*task = (Task){
		.kind = kind,
		.batch = applier->flying,
		.share = lane,
		.begin = true,
		.commit = true,
		.positions = true,
		.ledger = &applier->ledger,
		.from = applier->progress,
		.progress = applier->flying != NULL ? applier->flying->end : applier->progress,
		.writes = writes,
	};
	return task;
}

static void
write_rows_of(Applier *applier, int lane, bool *writes, const bool *has_share)
{
	for (int i = 0; i < applier->ledger.lanes; i++)
		if (has_share == NULL || i == lane || !has_share[i])
			writes[i] = true;
}

/* Deletes of images are counted here, not by the server. */
static bool
is_guardable(const Batch *batch)
{
	for (size_t i = 0; i < batch->row_count; i++)
		if (batch->rows[i]->op == NET_IMAGE && batch->rows[i]->net < 0)
			return false;
	return true;
}

/* What is durable moves when the target's walwriter has flushed, some times a second: a small
 * batch asks only now and then, since that costs it as much as a row does. */
static bool
asks_positions(Applier *applier, bool small)
{
	int64_t now = clock_mono_ms();

	if (small && now < applier->positions_ms)
		return false;
	applier->positions_ms = now + POSITIONS_MS;
	return true;
}

/* One lane does all of it, in one transaction that writes every lane's row. */
static void
dispatch_alone(Applier *applier, TaskKind kind)
{
	Task *task = task_of(applier, 0, kind);
	bool one = applier->ledger.lanes == 1;

	task->share = GROUP_ALL_LANES;
	task->begin = !applier->open_tx;
	task->limited = applier->early != NULL;
	/* With one lane a reader of the target sees whole transactions only. */
	task->commit = !one || applier->flying->whole;
	write_rows_of(applier, 0, &applier->writes[0], NULL);
	applier->commits = task->commit;
	run_prepare(applier->run, 1);
	/* Waking the lane's thread and being woken by it would take longer than the work. */
	applier->here = kind == TASK_SHARE && applier->flying->row_count < SMALL_BATCH;
	task->at_once = applier->here && task->commit && is_guardable(applier->flying);
	task->positions = asks_positions(applier, applier->here);
	if (applier->here)
		lane_do(applier->lanes[0], applier->run, task);
	else
		lane_begin(applier->lanes[0], applier->run, task);
}

static int
find_shares(const Batch *batch, bool *has_share)
{
	int count = 0;

	for (int i = 0; i < batch->lanes; i++) {
		const Row *row = batch->shares[i].first;
		while (row != NULL && (row->op == NET_GONE || row->op == NET_NEW))
			row = row->next;
		has_share[i] = row != NULL;
		count += has_share[i];
	}
	return count;
}

/* The first lane with a share also writes the rows of those without one: they have nothing
 * to do up to the batch's end. */
static void
dispatch_shares(Applier *applier, const bool *has_share, int count)
{
	int first = -1;

	applier->commits = true;
	applier->here = false;
	run_prepare(applier->run, count);
	for (int i = 0; i < applier->ledger.lanes; i++) {
		if (!has_share[i])
			continue;
		Task *task = task_of(applier, i, TASK_SHARE);
		bool *writes = &applier->writes[(size_t)i * (size_t)applier->ledger.lanes];
		task->limited = true;
		writes[i] = true;
		if (first < 0) {
			first = i;
			write_rows_of(applier, i, writes, has_share);
		}
		lane_begin(applier->lanes[i], applier->run, task);
	}
}

void
dispatch_batch(Applier *applier, TaskKind kind)
{
	const Batch *batch = applier->flying;
	bool has_share[APPLIER_MOST_LANES] = {false};

	CHECK(applier->ledger.lanes <= APPLIER_MOST_LANES);
	applier->in_flight = true;
	applier->kind = kind;
	if (kind == TASK_REPLAY || applier->ledger.lanes == 1 || batch->row_count < SMALL_BATCH) {
		dispatch_alone(applier, kind);
		return;
	}
	int count = find_shares(batch, has_share);
	if (count < 2)
		dispatch_alone(applier, kind);
	else
		dispatch_shares(applier, has_share, count);
}

void
dispatch_flush(Applier *applier)
{
	CHECK(applier->flying == NULL && !applier->open_tx);
	applier->in_flight = true;
	applier->kind = TASK_FLUSH;
	applier->commits = true;
	applier->here = false;
	const Task *task = task_of(applier, 0, TASK_FLUSH);
	write_rows_of(applier, 0, &applier->writes[0], NULL);
	run_prepare(applier->run, 1);
	lane_begin(applier->lanes[0], applier->run, task);
}
