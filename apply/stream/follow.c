/*
 * The applier's thread at work. One batch is with the lanes ("flying") while the next one
 * is filled; a batch is handed over when no other is in flight and it is worth a round of
 * the lanes: it is closed, or large enough, or the log has nothing more for now. So an idle
 * system has batches of one transaction, and a backlog makes large ones by itself; no
 * batch waits for time to pass (only the flush of an idle target does).
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "apply/stream/ahead.h"
#include "apply/stream/applier_internal.h"
#include "apply/stream/dispatch.h"
#include "apply/stream/level.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"

enum { FLUSH_AFTER_MS = 50 };

static void
on_run_done(void *arg)
{
	Applier *applier = arg;
	if (!applier->here)
		txlog_wake(applier->options.log);
}

static void
on_old_marker(void *arg, const char *content)
{
	applier_announce(arg, content);
}

/* ---- sessions ---- */

static FeedOptions
feed_options(const Applier *applier)
{
	return (FeedOptions){
		.log = applier->options.log,
		.catalog = applier->options.catalog,
		.name = applier->options.stream_name != NULL ? applier->options.stream_name
	                                                 : applier->ledger.name,
		.apart = applier->options.apart,
		.proto_version = applier->options.proto_version,
		.batch_bytes = applier->options.batch_bytes,
		.batch_rows = applier->options.batch_rows,
		.whole = applier->options.lanes == 1,
	};
}

/* Everything that is on the target by now was committed before this position. */
static bool
read_position(Applier *applier, Error *err)
{
	char text[LSN_TEXT_SIZE];

	if (!sql_value(lane_sql(applier->lanes[0]), err, text, sizeof(text),
	               "SELECT pg_catalog.pg_current_wal_insert_lsn()"))
		return false;
	return lsn_parse(text, &applier->opened_wal) ||
	       error_set(err, ERROR_PROTOCOL, "not a position: %s", text);
}

static bool
open_all(Applier *applier, Progress *level, Error *err)
{
	FeedOptions options = feed_options(applier);
	int wanted = applier->options.lanes;

	applier->run = run_new(on_run_done, applier);
	applier->lanes = mem_zalloc(sizeof(Lane *) * (size_t)wanted);
	applier->tasks = mem_zalloc(sizeof(Task) * (size_t)wanted);
	applier->writes = mem_zalloc(sizeof(bool) * (size_t)wanted * (size_t)wanted);
	applier->lanes[0] = lane_start(applier->target, &applier->ledger, 0, applier->stop, err);
	if (applier->lanes[0] == NULL ||
	    !level_lanes(applier->lanes[0], applier->run, &applier->ledger, &options,
	                 applier->options.start, wanted, level, err))
		return false;
	if (!read_position(applier, err))
		return false;
	for (int i = 1; i < wanted; i++) {
		applier->lanes[i] = lane_start(applier->target, &applier->ledger, i, applier->stop, err);
		if (applier->lanes[i] == NULL)
			return false;
	}
	applier->feed = feed_open(&options, *level, err);
	if (applier->feed == NULL)
		return false;
	feed_on_old_marker(applier->feed, on_old_marker, applier);
	return true;
}

static void
close_all(Applier *applier)
{
	ahead_drop(applier, "the lanes' sessions are closed");
	for (int i = 0; applier->lanes != NULL && i < applier->options.lanes; i++)
		lane_end(applier->lanes[i]);
	free(applier->lanes);
	free(applier->tasks);
	free(applier->writes);
	run_free(applier->run);
	batch_free(applier->filling);
	batch_free(applier->flying);
	batch_free(applier->spare);
	feed_close(applier->feed);
	applier->lanes = NULL;
	applier->tasks = NULL;
	applier->writes = NULL;
	applier->run = NULL;
	applier->filling = applier->flying = applier->spare = NULL;
	applier->feed = NULL;
	applier->in_flight = applier->open_tx = false;
	applier->flush_ms = 0;
	tally_clear(applier->tally);
	durable_forget(&applier->durable);
}

/* ---- positions ---- */

static void
tell_durable(Applier *applier)
{
	pthread_mutex_lock(&applier->lock);
	applier->state.durable_end = applier->durable.end;
	pthread_cond_broadcast(&applier->changed);
	pthread_mutex_unlock(&applier->lock);
	FAULT_POINT("apply_durable");
	if (applier->options.on_passed != NULL)
		applier->options.on_passed(applier->options.arg, applier->durable.commit,
		                           applier->durable.end);
	else
		txlog_release(applier->options.log, applier->durable.commit);
	FAULT_POINT("apply_released");
	if (applier->options.on_durable != NULL)
		applier->options.on_durable(applier->options.arg, applier->durable.end);
}

/* Where the log's transactions that are on the target already end: known only when their
 * commits have been read again. They are committed, but perhaps not flushed. */
static void
take_passed(Applier *applier)
{
	FeedPassed passed = feed_passed(applier->feed);

	if (lsn_cmp(passed.end, applier->durable.end) > 0 &&
	    lsn_cmp(passed.end, applier->passed_end) > 0)
		durable_add(&applier->durable, applier->opened_wal, passed.commit, passed.end);
	applier->passed_end = passed.end;
	if (lsn_cmp(passed.end, applier->applied_end) <= 0)
		return;
	applier->applied_end = passed.end;
	pthread_mutex_lock(&applier->lock);
	applier->state.applied_end = passed.end;
	applier->state.applied_time_us = passed.time_us;
	pthread_cond_broadcast(&applier->changed);
	pthread_mutex_unlock(&applier->lock);
}

/* A barrier is always done in order: that is no replay. */
static bool
is_truncate(const Batch *batch)
{
	return batch->change_count > 0 && batch->changes[0]->kind == PGO_TRUNCATE;
}

static void
account(Applier *applier, const Batch *batch, Lsn wal, Lsn flushed)
{
	Counts total = {0};

	tally_add(applier->tally, batch);
	if (applier->commits) {
		tally_commit(applier->tally, &total);
		applier->progress = batch->end;
	}
	pthread_mutex_lock(&applier->lock);
	ApplierState *state = &applier->state;
	state->batches++;
	state->replays += applier->kind == TASK_REPLAY && !is_truncate(batch);
	state->transactions += batch->transactions;
	state->inserts += total.inserts;
	state->updates += total.updates;
	state->deletes += total.deletes;
	state->truncates += total.truncates;
	if (applier->commits && batch->transactions > 0) {
		state->applied_commit = batch->commit_lsn;
		state->applied_end = applier->applied_end = batch->end_lsn;
		state->applied_time_us = batch->commit_time_us;
	}
	pthread_cond_broadcast(&applier->changed);
	pthread_mutex_unlock(&applier->lock);

	ahead_account(applier, batch);
	if (applier->commits && batch->transactions > 0)
		durable_add(&applier->durable, wal, batch->commit_lsn, batch->end_lsn);
	if (applier->commits && durable_flushed(&applier->durable, flushed))
		tell_durable(applier);
	for (size_t i = 0; i < batch->marker_count; i++)
		applier_announce(applier, batch->markers[i]);
}

/* ---- what came of a run ---- */

static void
run_succeeded(Applier *applier, Lsn wal, Lsn flushed)
{
	if (applier->kind == TASK_FLUSH) {
		if (durable_all(&applier->durable))
			tell_durable(applier);
		return;
	}
	applier->open_tx = !applier->commits;
	account(applier, applier->flying, wal, flushed);
	CHECK(applier->spare == NULL);
	applier->spare = applier->flying;
	applier->flying = NULL;
}

/* False: the sessions must go, with *err; *retry as in follow(). */
static bool
land(Applier *applier, bool *retry, Error *err)
{
	Lsn wal;
	Lsn flushed;
	RunOutcome outcome = run_outcome(applier->run, &wal, &flushed, err);

	applier->in_flight = false;
	switch (outcome) {
	case RUN_OK:
		FAULT_POINT("apply_batch_done");
		run_succeeded(applier, wal, flushed);
		return true;
	case RUN_CONFLICT:
		/* It may have waited for the early one's locks, for which no lane waits twice. */
		if (applier->early != NULL) {
			ahead_drop(applier, err->message);
			error_clear(err);
			dispatch_batch(applier, applier->kind);
			return true;
		}
		log_debug("applier", "batch up to %s is replayed in order: %s",
		          LSN_STR(applier->flying->end.commit_lsn), err->message);
		error_clear(err);
		dispatch_batch(applier, TASK_REPLAY);
		return true;
	case RUN_LOST:
		*retry = true;
		return false;
	case RUN_FAILED:
	case RUN_CANCELLED:
		break;
	}
	*retry = false;
	return false;
}

/* ---- the loop ---- */

static void
new_batch(Applier *applier, bool continues)
{
	applier->filling = applier->spare;
	applier->spare = NULL;
	if (applier->filling == NULL)
		applier->filling = batch_new(applier->ledger.lanes);
	else
		batch_reset(applier->filling, applier->ledger.lanes);
	applier->filling->continues = continues;
}

static void
launch(Applier *applier)
{
	applier->flying = applier->filling;
	applier->flush_ms = 0;
	new_batch(applier, applier->options.lanes == 1 && !applier->flying->whole);
	if (applier->flying->ordered) /* would wait for its locks without a limit */
		ahead_drop(applier, "a batch is applied in order");
	dispatch_batch(applier, applier->flying->ordered ? TASK_REPLAY : TASK_SHARE);
}

/* From here on the lanes had better begin than wait for more. */
enum { WORTH_CHANGES = 5000 };

static bool
is_worth(const Batch *batch, bool more)
{
	return batch->any &&
	       (batch->closed || !more || (batch->whole && batch->change_count >= WORTH_CHANGES));
}

/* Hands over what can be. True: something was. */
static bool
hand_over(Applier *applier)
{
	const Batch *batch = applier->filling;
	bool more = feed_ready(applier->feed);

	if (is_worth(batch, more)) {
		launch(applier);
		return true;
	}
	if (!batch->any && !more && applier->flush_ms != 0 && clock_mono_ms() >= applier->flush_ms) {
		applier->flush_ms = 0;
		dispatch_flush(applier);
		return true;
	}
	return false;
}

/* The target's walwriter makes the commits durable by itself, and the next one's answer
 * says so: only where none comes is it asked for, so that no transaction finds a lane that
 * waits for the disk. */
static int64_t
idle_deadline(Applier *applier)
{
	bool idle = !applier->in_flight && !applier->open_tx && !applier->filling->any;

	if (!idle || !durable_waits(&applier->durable))
		return 0;
	if (applier->flush_ms == 0)
		applier->flush_ms = deadline_in_ms(FLUSH_AFTER_MS);
	return applier->flush_ms;
}

static bool
read_some(Applier *applier, bool wait, Error *err)
{
	int64_t deadline = wait ? idle_deadline(applier) : 1;

	FeedNext next = feed_next(applier->feed, applier->filling, applier->stop, deadline, err);
	take_passed(applier);
	if (next == FEED_MET)
		applier->met = true;
	return next != FEED_ERROR;
}

/* A transaction that was applied early has come to its commit, a barrier (P5). False: perhaps
 * committed. */
static bool
meet(Applier *applier, bool *retry, Error *err)
{
	Lsn wal;
	Lsn flushed;

	if (applier->in_flight) {
		run_wait(applier->run);
		return true;
	}
	if (applier->filling->any) {
		launch(applier);
		return true;
	}
	applier->met = false;
	switch (ahead_finish(applier, applier->filling, &wal, &flushed, err)) {
	case EARLY_COMMITTED:
		applier->kind = TASK_SHARE;
		applier->commits = true;
		account(applier, applier->filling, wal, flushed);
		batch_reset(applier->filling, applier->ledger.lanes);
		return true;
	case EARLY_UNKNOWN:
		*retry = true;
		return false;
	case EARLY_WORKS:
	case EARLY_GIVEN_UP:
		break;
	}
	return true;
}

/* While a giant row is with the lanes (which have a second copy of it in libpq's buffer),
 * what follows waits in the log: it may be another one. */
static bool
flying_is_giant(const Applier *applier)
{
	return applier->in_flight && applier->flying != NULL &&
	       batch_bytes(applier->flying) / 2 > applier->options.batch_bytes;
}

/* One step; false: *err. */
static bool
step(Applier *applier, bool *retry, Error *err)
{
	if (applier->in_flight && run_done(applier->run))
		return land(applier, retry, err);
	ahead_tend(applier);
	if (!applier->in_flight && !applier->open_tx && applier_paused(applier)) {
		ahead_drop(applier, "it is paused");
		applier_wait_paused(applier);
		return true;
	}
	if (applier->met)
		return meet(applier, retry, err);
	if (!applier->in_flight && hand_over(applier))
		return true;
	if (applier->filling->closed || flying_is_giant(applier)) {
		run_wait(applier->run);
		return true;
	}
	*retry = false;
	return read_some(applier, !feed_ready(applier->feed), err);
}

/* The batch in hand is finished; what an open target transaction holds is rolled back with
 * its session. */
static bool
finish_flying(Applier *applier, bool *retry, Error *err)
{
	while (applier->in_flight) {
		run_wait(applier->run);
		if (!land(applier, retry, err))
			return false;
	}
	return true;
}

/* For what did not come from a run: is it worth another try? */
static bool
may_pass(const Error *err)
{
	if (err->class == ERROR_NETWORK || err->class == ERROR_TIMEOUT)
		return true;
	return err->class == ERROR_SQL &&
	       (strncmp(err->sqlstate, "08", 2) == 0 || strncmp(err->sqlstate, "57", 2) == 0 ||
	        strncmp(err->sqlstate, "40", 2) == 0 || error_has_sqlstate(err, "55P03") ||
	        error_has_sqlstate(err, "53300"));
}

static void
blame_table(Applier *applier, Table *table, const Error *err)
{
	if (table == NULL)
		return;
	table_set_error(applier->options.catalog, table, err);
	atomic_store(&table->state, TABLE_ERRORED);
	applier->errored = table;
}

static void
absolve_table(Applier *applier)
{
	if (applier->errored == NULL)
		return;
	atomic_store(&applier->errored->state, TABLE_COPIED);
	table_set_error(applier->options.catalog, applier->errored, NULL);
	applier->errored = NULL;
}

/* A target that crashed may have lost commits that it had not flushed: then what was
 * applied is less than what we said. */
static void
start_from(Applier *applier, Progress level)
{
	pthread_mutex_lock(&applier->lock);
	ApplierState *state = &applier->state;
	if (lsn_cmp(level.commit_lsn, state->applied_commit) < 0)
		state->applied_end = applier->durable.end;
	if (level.position == LEDGER_WHOLE)
		state->applied_commit = level.commit_lsn;
	applier->applied_end = state->applied_end;
	pthread_mutex_unlock(&applier->lock);
	applier->progress = level;
	applier->passed_end = LSN_INVALID;
	applier_set_phase(applier, APPLIER_RUNNING, NULL);
	new_batch(applier, false);
}

bool
follow(Applier *applier, bool *retry, Error *err)
{
	Progress level;
	absolve_table(applier);
	bool ok = open_all(applier, &level, err);

	*retry = !ok && may_pass(err);
	if (ok) {
		log_info("applier", "applying from %s with %d lane%s", LSN_STR(level.commit_lsn),
		         applier->ledger.lanes, applier->ledger.lanes == 1 ? "" : "s");
		start_from(applier, level);
	}
	while (ok && !applier_stopping(applier))
		ok = step(applier, retry, err);
	if (ok)
		ok = finish_flying(applier, retry, err);
	if (!ok && !*retry && applier->run != NULL)
		blame_table(applier, run_blamed(applier->run), err);
	close_all(applier);
	return ok;
}
