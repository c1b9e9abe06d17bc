/*
 * The listener's sessions in a cutover: held, opened on the other side beside the other steps,
 * and either moved or released, exactly one of the two.
 *
 * A Keeper is a thread for one hold. It opens the sessions on `to`, and then sees to the
 * deadline: whatever the migration's thread waits for (a server that does not answer, not even
 * a cancel), the sessions go on at `from` in time (K1). The two threads agree on one word
 * under one lock:
 *
 *   HOLDING                                      two-phase commits come to their end
 *      v
 *   OPENING --> OPEN ------------> DECIDED       sessions_decide; the deadline has no say any
 *      |          |                              more: an outcome is waited for (K4)
 *      v          v
 *   FAILED --> RELEASED                          at the deadline, by the keeper (also from
 *                                                HOLDING); what follows finds it, and commits
 *                                                nothing
 *
 * So nobody is released to `from` once its fence's COMMIT may have been sent, and no COMMIT is
 * sent once somebody was released. Writes of sessions that the keeper releases meet the
 * fence's locks, which the server of `from` lets go at the same deadline (K2).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/setup/locked.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/migration/cutover/internal.h"

typedef enum {
	KEEPER_HOLDING,
	KEEPER_OPENING,
	KEEPER_OPEN,
	KEEPER_FAILED,
	KEEPER_DECIDED,
	KEEPER_RELEASED
} KeeperState;

struct Keeper {
	Listener *listener;
	ListenerRoute to;
	UnmovablePolicy policy;
	int64_t deadline_ms;
	int64_t held_us;
	Stop *stop; /* of the opening */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	KeeperState state;
	bool ending; /* the migration's thread has no more use for it */
	Error error; /* FAILED */
	MoveReport report;
	double opened_ms;
};

static ListenerRoute
route_to(const Cutover *c)
{
	return c->way.back ? ROUTE_SOURCE : ROUTE_TARGET;
}

/* ---- what the status and the errors say of them ---- */

static void
note_report(Cutover *c, const MoveReport *report)
{
	CutoverStatus *now = &c->now;
	size_t named = sizeof(now->unmovable) / sizeof(now->unmovable[0]);

	now->sessions_moved = report->moved;
	now->sessions_unmovable = report->unmovable;
	now->sessions_closed = c->unmovable == UNMOVABLE_CLOSE ? report->unmovable : 0;
	now->unmovable_count = report->unmovable < named ? report->unmovable : named;
	for (size_t i = 0; i < now->unmovable_count; i++)
		now->unmovable[i] = report->which[i];
}

static bool
refuse_unmovable(const MoveReport *report, ErrorClass class, Error *err)
{
	enum { NAMED = 3 };
	Buffer names = BUFFER_INIT;

	for (size_t i = 0; i < report->unmovable && i < NAMED; i++)
		buffer_printf(&names, "%s%s (pid %u): %s", i > 0 ? "; " : "", report->which[i].who,
		              report->which[i].pid, report->which[i].reason);
	error_set(err, class, "%zu session%s cannot be moved: %s", report->unmovable,
	          report->unmovable == 1 ? "" : "s", buffer_cstr(&names));
	buffer_free(&names);
	return error_set_hint(err, "%s", move_report_hint(report));
}

/* ---- ahead of the hold ---- */

/* One look, and what it means. *again: it may be better in a moment. */
static bool
prepare_once(Cutover *c, bool *again, Error *err)
{
	enum { PREPARE_MS = 10000, PREPARE_EACH_MS = 20 };
	ListenerState state;
	MoveReport report = {.moved = 0};

	*again = false;
	listener_state(c->m->listener, &state);
	int64_t deadline_ms = deadline_in_ms(PREPARE_MS + PREPARE_EACH_MS * (int64_t)state.sessions);
	bool ok = listener_move_prepare(c->m->listener, route_to(c), deadline_ms, c->way.stop, &report,
	                                err);
	if (ok)
		note_report(c, &report);
	if (ok && report.unmovable > 0 && c->unmovable == UNMOVABLE_ABORT)
		ok = refuse_unmovable(&report, ERROR_CONFIG, err);
	if (ok && report.unmovable > 0 && c->unmovable == UNMOVABLE_WAIT && !c->rehearsal) {
		*again = true;
		ok = refuse_unmovable(&report, ERROR_CONFIG, err);
	}
	move_report_free(&report);
	return ok;
}

/* A rehearsal waits for nobody: it says who would be waited for. */
bool
sessions_prepare(Cutover *c, Error *err)
{
	enum { LOOK_EVERY_MS = 200, PATIENCE = 5 };
	int64_t until_ms = deadline_in_ms(PATIENCE * c->timeout_ms);
	bool again;

	if (c->m->listener == NULL)
		return true;
	cutover_publish(c, "sessions");
	while (!prepare_once(c, &again, err)) {
		if (!again || deadline_left_ms(until_ms) == 0)
			return error_add_context(err, "sessions");
		error_clear(err);
		if (!stop_sleep_ms(c->way.stop, LOOK_EVERY_MS, err))
			return false;
	}
	return true;
}

bool
sessions_refresh(Cutover *c, Error *err)
{
	enum { REFRESH_MS = 3000 };

	return c->m->listener == NULL ||
	       listener_move_refresh(c->m->listener, deadline_in_ms(REFRESH_MS), c->way.stop, err) ||
	       error_add_context(err, "sessions");
}

/* ---- the keeper ---- */

static void
open_all(Keeper *keeper)
{
	bool ok = listener_move_open(keeper->listener, keeper->to, keeper->policy, keeper->deadline_ms,
	                             keeper->stop, &keeper->report, &keeper->error);

	keeper->opened_ms = cutover_ms_since(keeper->held_us);
	pthread_mutex_lock(&keeper->lock);
	keeper->state = ok ? KEEPER_OPEN : KEEPER_FAILED;
	pthread_cond_broadcast(&keeper->changed);
	pthread_mutex_unlock(&keeper->lock);
}

static void
wait_changed(Keeper *keeper)
{
	struct timespec until = {.tv_sec = keeper->deadline_ms / 1000,
	                         .tv_nsec = keeper->deadline_ms % 1000 * 1000000};

	pthread_cond_timedwait(&keeper->changed, &keeper->lock, &until);
}

static void *
keeper_main(void *arg)
{
	Keeper *keeper = arg;

	pthread_mutex_lock(&keeper->lock);
	while (!keeper->ending && keeper->state == KEEPER_HOLDING &&
	       deadline_left_ms(keeper->deadline_ms) > 0)
		wait_changed(keeper);
	bool opens = keeper->state == KEEPER_OPENING;
	pthread_mutex_unlock(&keeper->lock);
	if (opens)
		open_all(keeper);
	pthread_mutex_lock(&keeper->lock);
	while (!keeper->ending && keeper->state != KEEPER_DECIDED &&
	       deadline_left_ms(keeper->deadline_ms) > 0)
		wait_changed(keeper);
	bool release = !keeper->ending && keeper->state != KEEPER_DECIDED;
	if (release)
		keeper->state = KEEPER_RELEASED;
	pthread_mutex_unlock(&keeper->lock);
	if (release) {
		listener_move_abort(keeper->listener);
		listener_release(keeper->listener);
		log_warning("cutover", "the hold's deadline has passed: the sessions are released");
	}
	return NULL;
}

static Keeper *
keeper_new(Cutover *c)
{
	Keeper *keeper = mem_zalloc(sizeof(Keeper));

	keeper->listener = c->m->listener;
	keeper->to = route_to(c);
	/* Nothing is closed by a rehearsal, whatever it finds. */
	keeper->policy = c->rehearsal && c->unmovable == UNMOVABLE_WAIT ? UNMOVABLE_CLOSE
	                                                                : c->unmovable;
	keeper->deadline_ms = c->deadline_ms;
	keeper->held_us = clock_mono_us();
	keeper->stop = stop_new();
	pthread_mutex_init(&keeper->lock, NULL);
	cond_init_monotonic(&keeper->changed);
	return keeper;
}

static void
keeper_free(Keeper *keeper)
{
	move_report_free(&keeper->report);
	stop_free(keeper->stop);
	pthread_mutex_destroy(&keeper->lock);
	pthread_cond_destroy(&keeper->changed);
	free(keeper);
}

/* Its thread ends; what it has found is noted. True: it has released the sessions. */
static bool
keeper_end(Cutover *c)
{
	Keeper *keeper = c->keeper;

	pthread_mutex_lock(&keeper->lock);
	keeper->ending = true;
	pthread_cond_broadcast(&keeper->changed);
	pthread_mutex_unlock(&keeper->lock);
	stop_request(keeper->stop);
	pthread_join(keeper->thread, NULL);
	bool released = keeper->state == KEEPER_RELEASED;
	bool opened = keeper->opened_ms > 0;
	if (opened && (keeper->state != KEEPER_FAILED || keeper->report.unmovable > 0))
		note_report(c, &keeper->report);
	c->now.sessions_ms = keeper->opened_ms;
	keeper_free(keeper);
	c->keeper = NULL;
	return released;
}

/* ---- the hold ---- */

/* What the steps after it are left of the hold's time. */
static int64_t
hold_deadline(const Cutover *c)
{
	enum { REST_MOST_MS = 500 };
	int64_t rest_ms = c->timeout_ms / 4 < REST_MOST_MS ? c->timeout_ms / 4 : REST_MOST_MS;

	return c->deadline_ms - rest_ms;
}

static bool
begin_keeper(Cutover *c, Error *err)
{
	c->keeper = keeper_new(c);
	if (pthread_create(&c->keeper->thread, NULL, keeper_main, c->keeper) == 0)
		return true;
	keeper_free(c->keeper);
	c->keeper = NULL;
	listener_release(c->m->listener);
	return error_set(err, ERROR_BUG, "cannot start a thread");
}

static bool
begin_opening(Keeper *keeper, Error *err)
{
	pthread_mutex_lock(&keeper->lock);
	bool in_time = keeper->state == KEEPER_HOLDING;
	if (in_time)
		keeper->state = KEEPER_OPENING;
	pthread_cond_broadcast(&keeper->changed);
	pthread_mutex_unlock(&keeper->lock);
	return in_time || error_set(err, ERROR_TIMEOUT,
	                            "the hold's deadline has passed: the sessions were released");
}

/* What is prepared holds locks that the fence waits for, and what ends it comes through the listener:
 * that still goes out until nothing is left which was prepared when all were held. From then on nobody
 * who is held can prepare anything. */
static bool
let_prepared_end(Cutover *c, Error *err)
{
	if (!c->two_phase)
		return true;
	FAULT_POINT("cutover_prepared");
	steps_bound(c);
	return locked_await_prepared(way_from(&c->way), hold_deadline(c), c->way.stop, err) &&
	       listener_hold_shut(c->m->listener, hold_deadline(c), c->way.stop, err);
}

bool
sessions_hold(Cutover *c, Error *err)
{
	int64_t start_us = clock_mono_us();
	Listener *listener = c->m->listener;

	if (listener == NULL)
		return true;
	cutover_publish(c, "hold");
	bool ok = c->two_phase ? listener_hold_two_phase(listener, hold_deadline(c), c->way.stop, err)
	                       : listener_hold(listener, hold_deadline(c), c->way.stop, err);
	ok = ok && begin_keeper(c, err) && let_prepared_end(c, err);
	c->now.quiet_ms = cutover_ms_since(start_us);
	FAULT_POINT("cutover_held");
	return ok && begin_opening(c->keeper, err);
}

/* Of the state that the caller has waited for; the lock is held. */
static bool
open_or_error(const Keeper *keeper, Error *err)
{
	if (keeper->state == KEEPER_OPEN)
		return true;
	if (keeper->error.class == ERROR_NONE)
		return error_set(err, ERROR_TIMEOUT,
		                 "the hold's deadline has passed: the sessions were released");
	*err = keeper->error;
	/* Whoever is waited for may come to be movable before the next attempt. */
	if (keeper->policy == UNMOVABLE_WAIT && err->class == ERROR_CONFIG)
		err->class = ERROR_TIMEOUT;
	return error_add_context(err, "sessions");
}

bool
sessions_wait_open(Cutover *c, Error *err)
{
	Keeper *keeper = c->keeper;

	if (keeper == NULL)
		return true;
	cutover_publish(c, "sessions");
	pthread_mutex_lock(&keeper->lock);
	while (keeper->state == KEEPER_OPENING)
		pthread_cond_wait(&keeper->changed, &keeper->lock);
	bool ok = open_or_error(keeper, err);
	pthread_mutex_unlock(&keeper->lock);
	FAULT_POINT("cutover_opened");
	return ok && steps_in_time(c, err);
}

/* From here on a session whose new connection has ended can only be closed: so they are looked at once
 * more. Who was released meanwhile counts as lost, too, and then that is the reason. */
bool
sessions_decide(Cutover *c, Error *err)
{
	Keeper *keeper = c->keeper;
	Error lost = ERROR_INIT;

	if (keeper == NULL)
		return true;
	bool all = listener_move_still_open(c->m->listener, &lost);
	pthread_mutex_lock(&keeper->lock);
	bool ok = open_or_error(keeper, err);
	if (ok && !all) {
		*err = lost;
		ok = error_add_context(err, "sessions");
	}
	if (ok)
		keeper->state = KEEPER_DECIDED;
	pthread_cond_broadcast(&keeper->changed);
	pthread_mutex_unlock(&keeper->lock);
	return ok;
}

void
sessions_move(Cutover *c)
{
	if (c->keeper == NULL)
		return;
	listener_move_commit(c->m->listener);
	FAULT_POINT("cutover_moved");
	(void)keeper_end(c);
}

void
sessions_release(Cutover *c)
{
	if (c->keeper == NULL)
		return;
	Listener *listener = c->m->listener;
	if (keeper_end(c))
		return;
	listener_move_abort(listener);
	listener_release(listener);
}

void
sessions_keep(Cutover *c)
{
	if (c->keeper != NULL)
		(void)keeper_end(c);
}
