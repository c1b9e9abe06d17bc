#include "apply/stream/early.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "apply/batch/plan.h"
#include "apply/lane/group.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/memory.h"
#include "decoder/relation.h"

/* Smaller than the lanes' batches, for they are two more in memory. */
enum { EARLY_ROWS = 20000, EARLY_BYTES = 8 * 1024 * 1024 };

struct Early {
	EarlyOptions options;
	TxLogEarly *tx;
	Stop *stop;
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	Lsn applied; /* under the lock, as all down to `error` */
	uint64_t bytes;
	bool ending;
	bool finishing;
	TxLogStreamed met; /* this and from stay once it is finishing */
	Progress from;
	EarlyState state;
	Error error;

	/* of its own thread until state is another than EARLY_WORKS */
	PgoContext context;
	RelationMap *relations;
	Arena *plans;
	Arena *message;
	Lane *lane;
	Run *run;
	Task task;
	bool *writes;
	Batch *filling;
	Batch *flying;      /* NULL: nothing is with the lane */
	uint64_t flying_to; /* bytes of the side file up to its end */
	Batch *spare;
	Tally *tally;
	bool begun; /* the target transaction is open */
	Lsn wal;
	Lsn flushed;
};

static bool
give_up(Error *err, const char *why)
{
	return error_set(err, ERROR_CANCELLED, "%s", why);
}

/* ---- waiting for the applier ---- */

/* False: it is to end. */
static bool
wait_applied(Early *early, Lsn commit)
{
	pthread_mutex_lock(&early->lock);
	while (!early->ending && !early->finishing && lsn_cmp(early->applied, commit) < 0)
		pthread_cond_wait(&early->changed, &early->lock);
	bool go = !early->ending;
	pthread_mutex_unlock(&early->lock);
	return go;
}

static bool
wait_finish(Early *early)
{
	pthread_mutex_lock(&early->lock);
	while (!early->ending && !early->finishing)
		pthread_cond_wait(&early->changed, &early->lock);
	bool go = !early->ending;
	pthread_mutex_unlock(&early->lock);
	return go;
}

/* ---- batches ---- */

static void
on_run_done(void *arg)
{
	(void)arg; /* it is waited for */
}

static void
run_task(Early *early, TaskKind kind, const Batch *batch, bool commit)
{
	early->task = (Task){
		.kind = kind,
		.batch = batch,
		.share = GROUP_ALL_LANES,
		.begin = !early->begun,
		.commit = commit,
		.positions = commit,
		.ledger = early->options.ledger,
		.writes = early->writes, /* none before the commit */
	};
	if (commit) {
		early->task.from = early->from;
		early->task.progress = (Progress){early->met.commit, LEDGER_WHOLE};
	}
	run_prepare(early->run, 1);
	lane_begin(early->lane, early->run, &early->task);
}

/* What is with the lane is done. A conflict may be one among its own changes: in order, then. */
static bool
land(Early *early, Error *err)
{
	if (early->flying == NULL)
		return true;
	run_wait(early->run);
	RunOutcome outcome = run_outcome(early->run, &early->wal, &early->flushed, err);
	if (outcome == RUN_CONFLICT) {
		error_clear(err);
		run_task(early, TASK_REPLAY, early->flying, false);
		run_wait(early->run);
		outcome = run_outcome(early->run, &early->wal, &early->flushed, err);
	}
	if (outcome != RUN_OK)
		return false;
	if (!early->begun)
		FAULT_POINT("early_begin");
	FAULT_POINT("early_chunk");
	early->begun = true;
	tally_add(early->tally, early->flying);
	pthread_mutex_lock(&early->lock);
	early->bytes = early->flying_to;
	pthread_mutex_unlock(&early->lock);
	early->spare = early->flying;
	early->flying = NULL;
	return true;
}

static bool
hand_over(Early *early, Error *err)
{
	if (early->filling->change_count == 0)
		return true;
	if (!land(early, err))
		return false;
	if (!wait_applied(early, txlog_early_after(early->tx)))
		return give_up(err, "it is not wanted any more");
	early->flying = early->filling;
	early->flying_to = txlog_early_bytes(early->tx);
	early->filling = early->spare;
	early->spare = NULL;
	if (early->filling == NULL)
		early->filling = batch_new(1);
	else
		batch_reset(early->filling, 1);
	run_task(early, early->flying->ordered ? TASK_REPLAY : TASK_SHARE, early->flying, false);
	return true;
}

/* ---- messages ---- */

/* What the lanes would leave out, or do in another way than one after the other, is theirs. */
static bool
check_plan(const Early *early, const Plan *plan, Error *err)
{
	if (plan->marker)
		return give_up(err, "it writes a marker");
	if (plan->elsewhere)
		return give_up(err, "one of its tables is being copied");
	/* Its commit lies behind all that had come before (T3). */
	if (lsn_cmp(plan->level_lsn, txlog_early_after(early->tx)) > 0 ||
	    (plan->has_snapshot && snapshot_sees(&plan->snapshot, txlog_early_xid(early->tx))))
		return give_up(err, "a part of it came with a table's copy");
	return true;
}

static const Plan *
plan_of(Early *early, uint32_t oid, Error *err)
{
	Relation *relation = relation_map_get(early->relations, oid);

	if (relation == NULL) {
		give_up(err, "it changes a table that it has not described");
		return NULL;
	}
	if (relation->user != NULL)
		return relation->user;
	Plan *plan = plan_new(early->options.catalog, early->options.name, false, &relation->def,
	                      early->plans, err);
	if (plan == NULL || !check_plan(early, plan, err) || !plan_fits(plan, err))
		return NULL;
	relation->user = plan;
	return plan;
}

static bool
take_change(Early *early, Slice bytes, Error *err)
{
	ByteReader r = reader_of(bytes);
	uint8_t kind = read_u8(&r);
	const Plan *plan = plan_of(early, read_u32(&r), err);

	if (plan == NULL)
		return false;
	/* One pass over the table a batch, and these batches are small. */
	if (plan->key != KEY_INDEX && kind != PGO_INSERT)
		return give_up(err, "it changes rows of a table without a key");
	for (;;) {
		switch (batch_add(early->filling, plan, &early->context, bytes, LSN_INVALID,
		                  txlog_early_xid(early->tx), err)) {
		case BATCH_BAD:
			return false;
		case BATCH_CLOSE_FIRST:
			if (early->filling->change_count == 0)
				return give_up(err, "a change of it fits into no batch");
			if (!hand_over(early, err))
				return false;
			continue;
		case BATCH_ADDED:
			break;
		}
		break;
	}
	if (early->filling->closed || early->filling->ordered ||
	    early->filling->change_count >= early->options.batch_rows ||
	    batch_bytes(early->filling) >= EARLY_BYTES)
		return hand_over(early, err);
	return true;
}

static bool
take_other(Early *early, Slice bytes, Error *err)
{
	PgoMessage message;

	arena_reset(early->message);
	if (!pgoutput_parse(&early->context, bytes, early->message, &message, err))
		return false;
	if (message.kind == PGO_RELATION) {
		const Relation *old = relation_map_get(early->relations, message.relation.oid);
		const Relation *now = relation_map_put(early->relations, &message.relation);
		return old == NULL || old == now || give_up(err, "it changes a table's definition");
	}
	if (message.kind == PGO_TRUNCATE)
		return give_up(err, "it truncates a table");
	if (message.kind == PGO_MESSAGE && strcmp(message.message.prefix, early->options.name) == 0)
		return give_up(err, "it writes a marker");
	return true;
}

static bool
take(Early *early, Slice bytes, Error *err)
{
	uint8_t kind = bytes.data[0];

	if (kind == PGO_INSERT || kind == PGO_UPDATE || kind == PGO_DELETE)
		return take_change(early, bytes, err);
	return take_other(early, bytes, err);
}

/* ---- the thread ---- */

static bool
apply_all(Early *early, Error *err)
{
	Slice bytes;

	for (;;) {
		/* The lane had better work than wait for a full batch. */
		if (!txlog_early_ready(early->tx) && !hand_over(early, err))
			return false;
		switch (txlog_early_next(early->tx, &bytes, err)) {
		case TXLOG_EARLY_MESSAGE:
			if (!take(early, bytes, err))
				return false;
			break;
		case TXLOG_EARLY_END:
			return hand_over(early, err) && land(early, err);
		case TXLOG_EARLY_GONE:
			return give_up(err, "it was rolled back on the source, or a part of it");
		case TXLOG_EARLY_ERROR:
			return false;
		}
	}
}

/* P1, P2. An answer that is not a clear refusal leaves it open what came of it. */
static EarlyState
commit(Early *early, Error *err)
{
	if (!wait_finish(early)) {
		give_up(err, "it is not wanted any more");
		return EARLY_GIVEN_UP;
	}
	if (early->met.bytes != txlog_early_bytes(early->tx)) {
		give_up(err, "what was read is not what has committed");
		return EARLY_GIVEN_UP;
	}
	for (int i = 0; i < early->options.ledger->lanes; i++)
		early->writes[i] = true;
	FAULT_POINT("early_commit");
	run_task(early, TASK_SHARE, early->filling, true);
	run_wait(early->run);
	RunOutcome outcome = run_outcome(early->run, &early->wal, &early->flushed, err);
	if (outcome == RUN_OK)
		FAULT_POINT("early_committed");
	switch (outcome) {
	case RUN_OK:
		return EARLY_COMMITTED;
	case RUN_CONFLICT:
	case RUN_FAILED:
		return EARLY_GIVEN_UP;
	case RUN_LOST:
	case RUN_CANCELLED:
		break;
	}
	return EARLY_UNKNOWN;
}

static void *
early_main(void *arg)
{
	Early *early = arg;
	Error err = ERROR_INIT;
	EarlyState state = EARLY_GIVEN_UP;

	early->lane = lane_start(early->options.target, early->options.ledger, LANE_EARLY, early->stop,
	                         &err);
	if (early->lane != NULL && apply_all(early, &err))
		state = commit(early, &err);
	lane_end(early->lane);
	pthread_mutex_lock(&early->lock);
	early->state = state;
	early->error = err;
	pthread_cond_broadcast(&early->changed);
	pthread_mutex_unlock(&early->lock);
	txlog_wake(early->options.log);
	return NULL;
}

/* ---- for the applier's thread ---- */

Early *
early_start(const EarlyOptions *options, TxLogEarly *tx, Lsn applied)
{
	Early *early = mem_zalloc(sizeof(Early));

	early->options = *options;
	if (early->options.batch_rows == 0 || early->options.batch_rows > EARLY_ROWS)
		early->options.batch_rows = EARLY_ROWS;
	early->tx = tx;
	early->applied = applied;
	early->stop = stop_new();
	early->context.proto_version = options->proto_version;
	early->relations = relation_map_new();
	early->plans = arena_new(0);
	early->message = arena_new(0);
	early->run = run_new(on_run_done, NULL);
	early->writes = mem_zalloc(sizeof(bool) * (size_t)options->ledger->lanes);
	early->filling = batch_new(1);
	early->tally = tally_new();
	pthread_mutex_init(&early->lock, NULL);
	cond_init_monotonic(&early->changed);
	CHECK(pthread_create(&early->thread, NULL, early_main, early) == 0);
	return early;
}

void
early_end(Early *early)
{
	if (early == NULL)
		return;
	pthread_mutex_lock(&early->lock);
	early->ending = true;
	pthread_cond_broadcast(&early->changed);
	bool works = early->state == EARLY_WORKS;
	pthread_mutex_unlock(&early->lock);
	if (works) {
		txlog_early_break(early->tx);
		stop_request(early->stop);
	}
	pthread_join(early->thread, NULL);

	txlog_early_close(early->tx);
	run_free(early->run);
	batch_free(early->filling);
	batch_free(early->flying);
	batch_free(early->spare);
	relation_map_free(early->relations);
	arena_free(early->plans);
	arena_free(early->message);
	tally_free(early->tally);
	free(early->writes);
	stop_free(early->stop);
	pthread_cond_destroy(&early->changed);
	pthread_mutex_destroy(&early->lock);
	free(early);
}

uint64_t
early_stream(const Early *early)
{
	return txlog_early_stream(early->tx);
}

uint32_t
early_xid(const Early *early)
{
	return txlog_early_xid(early->tx);
}

void
early_applied(Early *early, Lsn commit)
{
	pthread_mutex_lock(&early->lock);
	early->applied = commit;
	pthread_cond_broadcast(&early->changed);
	pthread_mutex_unlock(&early->lock);
}

uint64_t
early_bytes(Early *early)
{
	pthread_mutex_lock(&early->lock);
	uint64_t bytes = early->bytes;
	pthread_mutex_unlock(&early->lock);
	return bytes;
}

void
early_finish(Early *early, const TxLogStreamed *met, Progress from)
{
	pthread_mutex_lock(&early->lock);
	early->met = *met;
	early->from = from;
	early->finishing = true;
	pthread_cond_broadcast(&early->changed);
	pthread_mutex_unlock(&early->lock);
}

EarlyState
early_state(Early *early, int64_t wait_ms, Error *err)
{
	int64_t until_ms = deadline_in_ms(wait_ms);
	struct timespec until = {
		.tv_sec = until_ms / 1000,
		.tv_nsec = until_ms % 1000 * 1000000,
	};

	pthread_mutex_lock(&early->lock);
	while (early->state == EARLY_WORKS && wait_ms > 0 &&
	       pthread_cond_timedwait(&early->changed, &early->lock, &until) == 0)
		;
	EarlyState state = early->state;
	if (state != EARLY_WORKS && state != EARLY_COMMITTED && err != NULL)
		*err = early->error;
	pthread_mutex_unlock(&early->lock);
	return state;
}

Tally *
early_result(Early *early, Lsn *wal, Lsn *flushed)
{
	*wal = early->wal;
	*flushed = early->flushed;
	return early->tally;
}
