/*
 * The cutover: design.md K1-K4. Written for a Way: to the target, and back.
 *
 *   prepare    triggers made (disabled), materialised views, the listener's sessions opened
 *              on `to` ahead of time, a first drain; nobody is held
 *   await      long transactions come to their end; nobody is held
 *   journal    SWITCHING on `to`: a start after a crash undoes what follows
 *   hold       the listener's sessions, each at its boundary; beside the next steps they are
 *              brought level on `to` (sessions.c)
 *   fence      one transaction on `from` locks all tables (K2); from here all other writers
 *              wait, too
 *   marker     committed by another session (K3)
 *   sequences  read after the marker, set on `to`
 *   drain      the marker is waited for in the stream (K3)
 *   late       unlogged tables copied again, large objects compared: no stream carries them
 *   commit     transaction on `to` made ready, fence committed, journal committed (K4)
 *   move       the listener's sessions go on at `to`
 *
 * Until the journal's commit every failure ends in cutover_undo: the fence session is rolled
 * back, the triggers are off, the sessions are released, the journal is NONE, `from` goes on.
 * Its idle_in_transaction_session_timeout lets the server of `from` end the fence by itself when
 * this process stops in between (K1); then the fence's COMMIT fails and the undo follows.
 *
 * A rehearsal does the same but for what could outlive it: no journal, sequences are read
 * and not set, and instead of the two commits there are two rollbacks.
 */
#include <stdio.h>
#include <string.h>

#include "apply/schema/target.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "proxy/migration/cutover/internal.h"

enum { ATTEMPTS = 3, ATTEMPT_PAUSE_MS = 1000 };

double
cutover_ms_since(int64_t start_us)
{
	return (double)(clock_mono_us() - start_us) / 1000.0;
}

bool
cutover_wanted(const Cutover *c, Error *err)
{
	return !stop_requested(c->way.stop) || error_set(err, ERROR_CANCELLED, "stopped on request");
}

void
cutover_publish(Cutover *c, const char *step)
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

/* ---- the hold ---- */

static bool
open_sessions(Cutover *c, Error *err)
{
	const Way *way = &c->way;
	char purpose[80];

	snprintf(purpose, sizeof(purpose), "fence %s", way->ledger->name);
	c->fence = sql_connect(way->from_info, way->from_side, purpose, c->way.stop, err);
	c->switcher = c->fence != NULL
	                  ? sql_connect(way->to_info, way->to_side, "switch", c->m->stop, err)
	                  : NULL;
	/* As in control_session(). */
	if (c->switcher == NULL || !sql_rest_event_triggers(c->fence, err) ||
	    !sql_rest_event_triggers(c->switcher, err))
		return false;
	c->switcher_pid = PQbackendPID(sql_pgconn(c->switcher));
	return true;
}

/* In this order. The listener's sessions come first: one of them that is in a transaction
 * would wait for the fence, and the hold for it. */
static bool
steps(Cutover *c, Error *err)
{
	return sessions_hold(c, err) && steps_lock_tables(c, err) && steps_enable_triggers(c, err) &&
	       steps_send_marker(c, err) && cutover_refuse_late_ddl(c, err) &&
	       steps_move_sequences(c, err) && steps_drain(c, err) && steps_copy_late(c, err) &&
	       steps_compare_large_objects(c, err) && steps_compare_rows(c, err) &&
	       sessions_wait_open(c, err) && switch_over(c, err);
}

/* Any step may be the one that finds the time gone, also a fast one behind a slow one. */
static bool
blame_hold(const Cutover *c, Error *err)
{
	if (err->class != ERROR_TIMEOUT || err->hint[0] != '\0' || deadline_left_ms(c->deadline_ms) > 0)
		return false;
	error_set_hint(err, "allow a longer --hold-timeout");
	return error_add_context(
		err,
		"the hold's %lld ms were over at step \"%s\" (sessions held after %.0f "
		"ms, locks on all tables %.0f ms)",
		(long long)c->timeout_ms, c->now.step, c->now.quiet_ms, c->now.fence_ms);
}

static bool
hold(Cutover *c, Error *err)
{
	if (!open_sessions(c, err) || !switch_plan(c, err) || !sessions_refresh(c, err))
		return false;
	c->deadline_ms = deadline_in_ms(c->timeout_ms);
	if (!source_fence_begin(c->fence, c->deadline_ms, err) ||
	    !source_fence_warm(c->fence, c->way.ledger, err))
		return false;
	c->held_since_us = clock_mono_us();
	if (!steps(c, err))
		return blame_hold(c, err);
	if (c->rehearsal)
		sessions_release(c);
	else
		sessions_move(c);
	c->now.hold_ms = cutover_ms_since(c->held_since_us);
	return true;
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
attempt(Cutover *c, Error *err)
{
	if (!begin_journal(c, err))
		return false;
	FAULT_POINT("cutover_journal_begun");
	if (hold(c, err))
		return true;
	if (c->outcome_unknown)
		sessions_keep(c);
	else
		cutover_undo(c);
	return false;
}

static bool
attempts(Cutover *c, Error *err)
{
	while (cutover_await_running(c, err)) {
		c->now.attempts++;
		if (attempt(c, err))
			return true;
		if (c->now.attempts == ATTEMPTS || !worth_another_attempt(err))
			return false;
		log_failure(LOG_WARNING, "cutover", err);
		if (!stop_sleep_ms(c->way.stop, clock_jitter_ms(ATTEMPT_PAUSE_MS * c->now.attempts), err))
			return false;
		if (!migration_connect(c->m, err) || !sessions_prepare(c, err) ||
		    !cutover_drain_before_hold(c, err))
			return false;
	}
	return false;
}

/* A failure to record it changes nothing: the next start reads the journal. Either server may have
 * gone since, and its control session with it. */
static void
back_to_following(Cutover *c)
{
	MigrationState before = c->way.back ? STATE_SWITCHED : STATE_FOLLOWING;
	Error err = ERROR_INIT;

	if (c->rehearsal || c->outcome_unknown)
		return;
	if (!migration_connect_target(c->m, &err) || !migration_set_state(c->m, before, &err)) {
		log_failure(LOG_WARNING, "cutover", &err);
		migration_enter_state(c->m, before);
	}
}

/* A slot that nobody reads keeps the target's WAL. What cannot be removed now is removed by
 * the next start, by cancel or by finish: it is recorded. */
static void
end_way_back(Cutover *c)
{
	Error err = ERROR_INIT;

	if (cutover_has_way_back(c) && !c->outcome_unknown &&
	    (!migration_connect_target(c->m, &err) || !way_back_disarm(c->m, &err)))
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

/* The switch's own sessions, the lanes and the walsender cost their servers milliseconds each to end,
 * and all moved sessions want to be answered now. */
static void
let_clients_go_first(const Cutover *c)
{
	enum { A_MOMENT_MS = 300 };

	if (c->now.sessions_moved > 0)
		(void)!stop_sleep_ms(c->m->stop, A_MOMENT_MS, NULL);
}

bool
cutover_run(const Way *way, const MigrationRequest *request, CutoverOutcome *outcome, Error *err)
{
	Migration *m = way->m;
	Cutover c = {
		.m = m,
		.way = *way,
		.rehearsal = request->command == COMMAND_REHEARSE,
		.unmovable = request->unmovable_given ? request->unmovable : m->config->unmovable,
		.timeout_ms = request->hold_timeout_ms > 0 ? request->hold_timeout_ms
	                                               : m->config->hold_timeout_ms,
	};
	c.way.stop = m->cutover_stop;
	bool ok = cutover_prepare(&c, err) && attempts(&c, err);

	*outcome = c.outcome_unknown ? CUTOVER_UNKNOWN
	           : !ok             ? CUTOVER_ABORTED
	           : c.rehearsal     ? CUTOVER_REHEARSED
	                             : CUTOVER_SWITCHED;
	steps_unbound(&c);
	if (*outcome == CUTOVER_ABORTED && stop_requested(c.way.stop) && !stop_requested(m->stop))
		error_set(err, ERROR_CANCELLED, "given up at step \"%s\", as asked", c.now.step);
	cutover_publish(&c, c.outcome_unknown ? "unknown"
	                    : !ok             ? "aborted"
	                    : c.rehearsal     ? "rehearsed"
	                                      : "switched");
	if (ok && !c.rehearsal)
		let_clients_go_first(&c);
	sql_close(c.switcher);
	sql_close(c.fence);
	c.switcher = c.fence = NULL;
	buffer_free(&c.opening);
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
