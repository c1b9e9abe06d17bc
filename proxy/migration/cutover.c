/*
 * The cutover: design.md K1-K4, without a listener. Written for a Way: to the target, and back.
 *
 *   prepare    triggers made (disabled), materialised views, a first drain; nobody is held
 *   journal    SWITCHING on `to`: a start after a crash undoes what follows
 *   fence      one transaction on `from` locks all tables (K2); from here writers wait
 *   marker     committed by another session, waited for in the stream (K3)
 *   late       unlogged tables copied again: no stream carries them
 *   sequences  read after the marker, set on `to`
 *   commit     transaction on `to` made ready, fence committed, journal committed (K4)
 *
 * Until the journal's commit every failure ends in undo(): the fence session is rolled back,
 * the triggers are off, the journal is NONE, `from` goes on. Its
 * idle_in_transaction_session_timeout lets the server of `from` end the fence by itself when this
 * process stops in between (K1); then the fence's COMMIT fails and undo() follows.
 *
 * A rehearsal does the same but for what could outlive it: no journal, sequences are read
 * and not set, and instead of the two commits there are two rollbacks.
 */
#include <stdio.h>
#include <string.h>

#include "apply/finish/late.h"
#include "apply/schema/target.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "proxy/migration/cutover_internal.h"

enum {
	ATTEMPTS = 3,
	ATTEMPT_PAUSE_MS = 1000,
	FIRST_DRAIN_MS = 60000,    /* for all drains before the hold */
	QUICK_DRAIN_MS = 250,      /* what the hold may then take about again */
	FENCE_PATIENCE_MS = 10000, /* for triggers that could not be made ahead of time */
	UNDO_PAUSE_MS = 200
};

static double
ms_since(int64_t start_us)
{
	return (double)(clock_mono_us() - start_us) / 1000.0;
}

static void
publish(Cutover *c, const char *step)
{
	Migration *m = c->m;

	snprintf(c->now.step, sizeof(c->now.step), "%s", step);
	pthread_mutex_lock(&m->lock);
	c->now.id = m->cutover.id;
	c->now.outcome = m->cutover.outcome;
	c->now.failback = c->way.back;
	m->cutover = c->now;
	pthread_mutex_unlock(&m->lock);
	log_info("cutover", "%s", step);
}

static bool
in_time(const Cutover *c, Error *err)
{
	if (stop_requested(c->m->stop))
		return error_set(err, ERROR_CANCELLED, "stopped on request");
	if (deadline_left_ms(c->deadline_ms) > 0)
		return true;
	return error_set(err, ERROR_TIMEOUT, "the hold's deadline has passed");
}

/* ---- before anybody is held ---- */

/*
 * What is behind now need not be drained while writers wait. A long drain leaves behind what
 * was written during it, so it is drained again until there is next to nothing; when the
 * source writes as fast as the target applies, the last one has to do.
 */
static bool
drain_before_hold(const Way *way, Error *err)
{
	int64_t deadline_ms = deadline_in_ms(FIRST_DRAIN_MS);

	for (;;) {
		int64_t start_us = clock_mono_us();
		if (!way_drain_to_marker(way, deadline_ms, false, err))
			return error_add_context(err, "draining before the hold");
		if (ms_since(start_us) < QUICK_DRAIN_MS ||
		    deadline_left_ms(deadline_ms) < FIRST_DRAIN_MS / 2)
			return true;
	}
}

/* Named beforehand: the switch ends nobody's session, but their writes are refused after it. */
static bool
name_sessions(Cutover *c, Error *err)
{
	SessionGroups *found = &c->now.bypassing;
	char text[256];

	if (!source_sessions(way_from(&c->way), found, err))
		return false;
	for (size_t i = 0; i < found->count; i++) {
		source_sessions_describe(&found->groups[i], text, sizeof(text));
		log_event(c->rehearsal ? LOG_INFO : LOG_WARNING, "cutover",
		          "sessions on the %s whose writes are refused (25006) after the switch: %s",
		          c->way.from_side, text);
	}
	return true;
}

/* Only the way forth has one. */
static bool
has_way_back(const Cutover *c)
{
	return !c->way.back && way_back_wanted(c->m);
}

static bool
prepare(Cutover *c, Error *err)
{
	SourceSetup setup = way_setup(&c->way);
	int64_t start_us = clock_mono_us();

	setup.lock_patience_ms = FENCE_PATIENCE_MS;

	publish(c, "prepare");
	if (!name_sessions(c, err) || !cutover_refuse_ddl(c, err) ||
	    !source_fence_prepare(&setup, err) ||
	    !target_refresh_matviews(way_to(&c->way), c->m->catalog, err))
		return false;
	/* K5: the slot waits for transactions that run on the target; nobody waits for it yet. */
	if (has_way_back(c) && !way_back_arm(c->m, err))
		return false;
	if (!drain_before_hold(&c->way, err))
		return false;
	c->now.prepare_ms = ms_since(start_us);
	return true;
}

/* ---- the hold ---- */

static bool
open_sessions(Cutover *c, Error *err)
{
	const Way *way = &c->way;
	char purpose[80];

	snprintf(purpose, sizeof(purpose), "fence %s", way->ledger->name);
	c->fence = sql_connect(way->from_info, way->from_side, purpose, c->m->stop, err);
	c->switcher = c->fence != NULL
	                  ? sql_connect(way->to_info, way->to_side, "switch", c->m->stop, err)
	                  : NULL;
	if (c->switcher == NULL)
		return false;
	c->switcher_pid = PQbackendPID(sql_pgconn(c->switcher));
	return true;
}

static bool
lock_tables(Cutover *c, Error *err)
{
	publish(c, "fence");
	c->held_since_us = clock_mono_us();
	c->deadline_ms = clock_mono_ms() + (c->deadline_ms > 0 ? c->deadline_ms : 0);
	bool ok = source_fence_lock(c->fence, c->way.catalog, c->deadline_ms, err);
	c->now.fence_ms = ms_since(c->held_since_us);
	FAULT_POINT("cutover_locked");
	return ok;
}

static bool
drain(Cutover *c, Error *err)
{
	int64_t start_us = clock_mono_us();

	publish(c, "drain");
	bool ok = way_drain_to_marker(&c->way, c->deadline_ms, false, err);
	c->now.drain_ms = ms_since(start_us);
	FAULT_POINT("cutover_drained");
	return ok || error_add_context(err, "draining");
}

/* What the stream does not carry. On the way back it stays as it was at the switch: the
 * check has said so. */
static bool
copy_late(Cutover *c, Error *err)
{
	const Way *way = &c->way;

	if (way->back)
		return true;
	LateCopy late = {
		.source = way->from_info,
		.target = way->to_info,
		.target_sql = way_to(way),
		.ledger = way->ledger,
		.catalog = way->catalog,
		.jobs = c->m->config->jobs,
		.deadline_ms = c->deadline_ms,
		.stop = c->m->stop,
	};

	bool ok = late_copy(&late, err);
	FAULT_POINT("cutover_late");
	return ok && in_time(c, err);
}

/* --verify, under the locks: neither side changes. It sees rows; new tables are
 * cutover_refuse_late_ddl's business. */
static bool
compare_rows(Cutover *c, Error *err)
{
	Migration *m = c->m;
	int64_t start_us = clock_mono_us();

	if (m->config->verify == VERIFY_OFF)
		return true;
	publish(c, "verify");
	bool ok = verify_tables(way_from(&c->way), way_to(&c->way), c->way.catalog,
	                        m->config->verify_kind, err);
	c->now.verify_ms = ms_since(start_us);
	return ok && in_time(c, err);
}

/* By the forward catalogue in both directions: their names are the same on both sides. */
static bool
move_sequences(Cutover *c, Error *err)
{
	Migration *m = c->m;
	Sql *from = way_from(&c->way);
	Sql *to = way_to(&c->way);
	int64_t start_us = clock_mono_us();
	size_t count = 0;

	publish(c, "sequences");
	bool ok = c->rehearsal ? target_check_sequences(from, to, m->catalog, &count, err)
	                       : target_set_sequences(from, to, m->catalog, m->config->sequence_margin,
	                                              &count, err);
	c->now.sequences = count;
	c->now.sequences_ms = ms_since(start_us);
	FAULT_POINT("cutover_sequences");
	return ok && in_time(c, err);
}

/* What `to` was not allowed to do while it followed; and, on the way back, the old source's
 * fence off: in the journal's own transaction, so that not a moment lies between the two. */
static bool
put_opening(Cutover *c, Buffer *sql, Error *err)
{
	const Way *way = &c->way;
	Book book = way_book_to(way);
	int tables;

	if (!target_restore_booked_sql(&book, sql, err))
		return false;
	if (way->back)
		return source_fence_disable_sql(way_to(way), &c->m->ledger, sql, &tables, err);
	buffer_printf(
		sql, "; DELETE FROM %s.object WHERE side = 'target' AND kind IN ('trigger', 'identity');",
		way->ledger->schema);
	if (has_way_back(c))
		ledger_way_back_start_sql(way->ledger, sql);
	return true;
}

/* The transaction on `to`: all that the switch changes there, open until the fence is in. */
static bool
ready_target(Cutover *c, Error *err)
{
	Buffer sql = BUFFER_INIT;

	buffer_printf(&sql, "BEGIN; SET LOCAL lock_timeout = %d; SET LOCAL synchronous_commit = on;",
	              deadline_left_ms(c->deadline_ms));
	bool ok = put_opening(c, &sql, err);
	if (ok) {
		ledger_journal_sql(c->way.ledger, JOURNAL_SWITCHED, &sql);
		ok = sql_exec(c->switcher, err, buffer_cstr(&sql));
	}
	buffer_free(&sql);
	return ok && in_time(c, err);
}

static bool
enable_fence(Cutover *c, Error *err)
{
	/* The server's own deadline counts idle time anew after each statement: give it what
	 * is left now. */
	if (!sql_execf(c->fence, err, "SET LOCAL idle_in_transaction_session_timeout = %d",
	               deadline_left_ms(c->deadline_ms)) ||
	    !source_fence_enable(c->fence, c->way.ledger, c->way.catalog, err))
		return false;
	FAULT_POINT("cutover_fence_enabled");
	return in_time(c, err);
}

static bool
commit_fence(Cutover *c, Error *err)
{
	c->fence_enabled = true;
	bool ok = sql_exec(c->fence, err, "COMMIT");
	FAULT_POINT("cutover_fence_committed");
	return ok || error_add_context(err, "committing the fence");
}

/* What a rehearsal does instead of the commits; the writers go on when it returns. */
static bool
give_back(Cutover *c, Error *err)
{
	return sql_exec(c->fence, err, "ROLLBACK") && sql_exec(c->switcher, err, "ROLLBACK");
}

static bool
switch_over(Cutover *c, Error *err)
{
	publish(c, "commit");
	int64_t start_us = clock_mono_us();
	bool ok = ready_target(c, err) && enable_fence(c, err) &&
	          (c->rehearsal ? give_back(c, err) : commit_fence(c, err) && journal_commit(c, err));
	c->now.commit_ms = ms_since(start_us);
	FAULT_POINT("cutover_switched");
	return ok;
}

static bool
hold(Cutover *c, int64_t hold_timeout_ms, Error *err)
{
	c->deadline_ms = hold_timeout_ms;
	if (!open_sessions(c, err))
		return false;
	bool ok = lock_tables(c, err) && cutover_refuse_late_ddl(c, err) && drain(c, err) &&
	          copy_late(c, err) && compare_rows(c, err) && move_sequences(c, err) &&
	          switch_over(c, err);
	c->now.hold_ms = ms_since(c->held_since_us);
	return ok;
}

/* ---- back to where it was ---- */

/* `from` first, and without `to`: its writers wait for nothing else. */
static bool
undo_once(Cutover *c, Error *err)
{
	const Way *way = &c->way;

	/* The fence's session may have been cut during its COMMIT; disabling waits for its
	 * locks and so sees what became of it. */
	if (c->fence_enabled) {
		if (!way_connect_from(way, err) ||
		    !source_fence_disable(way_from(way), way->ledger, way->catalog, err))
			return false;
		c->fence_enabled = false;
		log_info("cutover", "the %s takes writes again", way->from_side);
	}
	if (c->rehearsal)
		return true;
	/* On the way back a start asks the target's fence first, which is off: the old source may
	 * be gone, and must not keep the target's operator waiting. */
	bool ok = migration_connect(c->m, err) && journal_set(way, JOURNAL_NONE, err);
	if (!ok && way->back) {
		log_failure(LOG_WARNING, "cutover", err);
		error_clear(err);
	}
	return ok || way->back;
}

/* Everything as it was before the hold. What cannot be undone now (a server is away) is
 * tried again until it can, or by the next start: nothing else is done before. */
static void
undo(Cutover *c)
{
	Migration *m = c->m;

	sql_close(c->switcher); /* rolls back */
	sql_close(c->fence);
	c->switcher = c->fence = NULL;
	if (c->held_since_us != 0)
		c->now.hold_ms = ms_since(c->held_since_us);

	for (;;) {
		Error err = ERROR_INIT;
		if (undo_once(c, &err))
			break;
		if (stop_requested(m->stop))
			return;
		log_failure(LOG_ERROR, "cutover", &err);
		migration_set_detail(m, "undoing the cutover: %s", err.message);
		if (!stop_sleep_ms(m->stop, UNDO_PAUSE_MS, NULL))
			return;
	}
	log_info("cutover", "undone after %.1f ms: the %s goes on", c->now.hold_ms, c->way.from_side);
}

/* Locks that were not to be had may be had a moment later; other failures stay. */
static bool
worth_another_attempt(const Error *err)
{
	return err->class == ERROR_TIMEOUT || error_has_sqlstate(err, "55P03") ||
	       error_has_sqlstate(err, "40P01") || error_has_sqlstate(err, "57014");
}

/* A rehearsal has nothing that a start after a crash would have to undo: the servers end
 * both transactions by themselves. */
static bool
begin_journal(Cutover *c, Error *err)
{
	return c->rehearsal ||
	       (migration_set_state(c->m, c->way.back ? STATE_FAILING_BACK : STATE_CUTTING_OVER, err) &&
	        journal_set(&c->way, JOURNAL_SWITCHING, err));
}

static bool
attempt(Cutover *c, int64_t hold_timeout_ms, Error *err)
{
	if (!begin_journal(c, err))
		return false;
	FAULT_POINT("cutover_journal_begun");
	if (hold(c, hold_timeout_ms, err))
		return true;
	if (!c->outcome_unknown)
		undo(c);
	return false;
}

static bool
attempts(Cutover *c, int64_t timeout_ms, Error *err)
{
	for (c->now.attempts = 1;; c->now.attempts++) {
		if (attempt(c, timeout_ms, err))
			return true;
		if (c->now.attempts == ATTEMPTS || !worth_another_attempt(err))
			return false;
		log_failure(LOG_WARNING, "cutover", err);
		if (!stop_sleep_ms(c->m->stop, clock_jitter_ms(ATTEMPT_PAUSE_MS * c->now.attempts), err))
			return false;
		c->held_since_us = 0;
		if (!drain_before_hold(&c->way, err))
			return false;
	}
}

/* A failure to say so changes nothing: the next start reads the journal. */
static void
back_to_following(Cutover *c)
{
	MigrationState before = c->way.back ? STATE_SWITCHED : STATE_FOLLOWING;
	Error err = ERROR_INIT;

	if (!c->rehearsal && !migration_set_state(c->m, before, &err))
		log_failure(LOG_WARNING, "cutover", &err);
}

/* A slot that nobody reads keeps the target's WAL. What cannot be removed now is removed by
 * the next start, by cancel or by finish: it is recorded. */
static void
end_way_back(Cutover *c)
{
	Error err = ERROR_INIT;

	if (has_way_back(c) && !c->outcome_unknown && !way_back_disarm(c->m, &err))
		log_failure(LOG_WARNING, "cutover", &err);
}

/* What the switch has made true, and needs to be known at once. */
static void
take_up(Cutover *c)
{
	Error err = ERROR_INIT;
	Book book = way_book_to(&c->way);

	if (!c->way.back) {
		if (!way_back_wanted(c->m))
			log_info("cutover", "there is no way back: --failback was not given");
	} else if (!target_forget_restored(&book, &err)) {
		log_failure(LOG_WARNING, "cutover", &err);
	}
}

bool
cutover_run(const Way *way, const MigrationRequest *request, Error *err)
{
	Migration *m = way->m;
	Cutover c = {.m = m, .way = *way, .rehearsal = request->command == COMMAND_REHEARSE};
	int64_t timeout_ms = request->hold_timeout_ms > 0 ? request->hold_timeout_ms
	                                                  : m->config->hold_timeout_ms;
	bool ok = prepare(&c, err) && attempts(&c, timeout_ms, err);

	sql_close(c.switcher);
	sql_close(c.fence);
	publish(&c, !ok ? "aborted" : c.rehearsal ? "rehearsed" : "switched");
	if (!ok || c.rehearsal)
		end_way_back(&c);
	if (!ok) {
		back_to_following(&c);
		return false;
	}
	if (!c.rehearsal)
		take_up(&c);
	if (c.rehearsal)
		log_info("cutover", "rehearsed: writes were held for %.1f ms, nothing was changed",
		         c.now.hold_ms);
	else
		log_info("cutover", "the %s is live; writes were held for %.1f ms", way->to_side,
		         c.now.hold_ms);
	return true;
}
