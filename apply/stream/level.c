#include "apply/stream/level.h"

#include <stdlib.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"

/*
 * What the interrupted batch held: everything from `from` to exactly `to`. It was one batch
 * then, so it is one now, whatever its size: the lane's share was accepted as a whole
 * beside its neighbours' once, and in pieces it might not be.
 */
static Batch *
read_range(const FeedOptions *options, Progress from, Progress to, int lanes, Feed **feed,
           Error *err)
{
	FeedOptions unlimited = *options;
	unlimited.batch_bytes = UINT64_MAX;
	unlimited.batch_rows = UINT32_MAX;
	unlimited.whole = false;

	*feed = feed_open(&unlimited, from, err);
	if (*feed == NULL)
		return NULL;
	Batch *batch = batch_new(lanes);
	FeedNext next = FEED_MORE;
	while (next != FEED_ERROR && (!batch->any || progress_cmp(batch->end, to) < 0)) {
		if (next != FEED_MORE) {
			error_set(err, ERROR_BUG,
			          "the lanes stand at %s, %lld and %s, %lld, but the log has no batch "
			          "between them",
			          LSN_STR(from.commit_lsn), (long long)from.position, LSN_STR(to.commit_lsn),
			          (long long)to.position);
			next = FEED_ERROR;
			break;
		}
		next = feed_next(*feed, batch, NULL, 1, err);
	}
	if (next != FEED_ERROR && progress_cmp(batch->end, to) == 0)
		return batch;
	if (next != FEED_ERROR)
		error_set(err, ERROR_BUG, "the log has no position %s, %lld", LSN_STR(to.commit_lsn),
		          (long long)to.position);
	batch_free(batch);
	return NULL;
}

static RunOutcome
run_share(Lane *lane, Run *run, const Ledger *ledger, const Batch *batch, int number, Progress from,
          Progress to, TaskKind kind, Error *err)
{
	bool *writes = mem_zalloc(sizeof(bool) * (size_t)ledger->lanes);
	Lsn wal;
	Lsn flushed;

	writes[number] = true;
	Task task = {
		.kind = kind,
		.batch = batch,
		.share = number,
		.begin = true,
		.commit = true,
		.ledger = ledger,
		.from = from,
		.progress = to,
		.writes = writes,
	};
	run_prepare(run, 1);
	lane_begin(lane, run, &task);
	run_wait(run);
	RunOutcome outcome = run_outcome(run, &wal, &flushed, err);
	free(writes);
	return outcome;
}

/*
 * The share must succeed. It did, beside its neighbours', before the crash: none of them had
 * committed, so neither met a unique value, a row or a range that the other took or freed
 * (it would have waited, and failed at its lock_timeout), and what does not meet can be done
 * in any order. Deferred checks do not happen in the replica role. So an ordered replay is
 * never needed here, and would be wrong: an intermediate value of the source may now be a
 * neighbour's final one.
 *
 * What can differ is the order of rows within one statement (another plan), which matters
 * when unique values wander between them, and what somebody else did to the target since.
 * Row by row the order is the batch's own, that of the arrays then; and what is not as it
 * was is named.
 */
static bool
take_share(Lane *lane, Run *run, const Ledger *ledger, const Batch *batch, int number,
           Progress from, Progress to, Error *err)
{
	RunOutcome outcome = run_share(lane, run, ledger, batch, number, from, to, TASK_SHARE, err);

	if (outcome == RUN_CONFLICT) {
		error_clear(err);
		outcome = run_share(lane, run, ledger, batch, number, from, to, TASK_ROWS, err);
	}
	return outcome == RUN_OK;
}

static bool
level_one(Lane *lane, Run *run, const Ledger *ledger, const FeedOptions *options, int number,
          Progress from, Progress to, Error *err)
{
	Feed *feed = NULL;
	Batch *batch = read_range(options, from, to, ledger->lanes, &feed, err);
	bool ok = batch != NULL && take_share(lane, run, ledger, batch, number, from, to, err);

	batch_free(batch);
	feed_close(feed);
	if (ok)
		log_info("applier", "lane %d brought level at %s", number, LSN_STR(to.commit_lsn));
	return ok || error_add_context(err, "bringing lane %d level", number);
}

bool
level_lanes(Lane *lane, Run *run, Ledger *ledger, const FeedOptions *options, Lsn start, int wanted,
            Progress *level, Error *err)
{
	Progress *rows = mem_zalloc(sizeof(Progress) * (size_t)ledger->lanes);
	/* The slot's consistent point may be the very position of the first commit that it
	 * sends: what is in at the start ends before it. */
	Lsn before = lsn_make(start.v > 0 ? start.v - 1 : 0);
	bool ok = ledger_load_progress(lane_sql(lane), ledger, before, rows, err);
	Progress furthest = rows[0];

	FAULT_POINT("level_read");
	for (int i = 1; ok && i < ledger->lanes; i++)
		if (progress_cmp(rows[i], furthest) > 0)
			furthest = rows[i];
	for (int i = 0; ok && i < ledger->lanes; i++)
		if (progress_cmp(rows[i], furthest) < 0) {
			FAULT_POINT("level_lane");
			ok = level_one(lane, run, ledger, options, i, rows[i], furthest, err);
		}
	free(rows);
	FAULT_POINT("level_done");
	if (ok && wanted != ledger->lanes)
		ok = ledger_set_lanes(lane_sql(lane), ledger, wanted, err);
	*level = furthest;
	return ok;
}
