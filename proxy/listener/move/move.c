/*
 * All sessions: each loop sees to its own, a few at a time, and the caller waits until none has a
 * wish any more.
 */
#include "proxy/listener/move/move.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"

/* ---- on the loops ---- */

static void
collect_names(Loop *loop, void *arg)
{
	Mover *mover = arg;

	pthread_mutex_lock(&mover->lock);
	for (Session *session = loop->sessions; session != NULL; session = session->next) {
		const Buffer *names = session->move != NULL ? &session->move->statements.mentions.names
		                                            : NULL;
		for (size_t at = 0; names != NULL && at < names->len;) {
			Slice name = slice_cstr((const char *)names->data + at);
			mentions_add(&mover->names, name);
			at += name.len + 1;
		}
	}
	pthread_mutex_unlock(&mover->lock);
}

static void
begin_wishes(Loop *loop, void *arg)
{
	queue_begin(loop, *(const Wish *)arg);
}

static void
forget_wishes(Loop *loop, void *arg UNUSED)
{
	queue_give_up(loop);
}

typedef struct {
	const uint32_t *pids; /* sorted */
	size_t count;
} Locks;

static int
compare_pids(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* A transaction's own advisory locks end with it: only who is between two is looked at. */
static void
note_locks(Loop *loop, void *arg)
{
	const Locks *locks = arg;

	for (Session *session = loop->sessions; session != NULL; session = session->next)
		if (session->move != NULL && track_at_boundary(&session->track))
			session->move->locks = bsearch(&session->server_pid, locks->pids, locks->count,
			                               sizeof(uint32_t), compare_pids) != NULL;
}

/* ---- waiting ---- */

static bool
given_up(const Mover *mover, const Stop *stop, int64_t deadline_ms)
{
	return stop_requested(stop) || stop_requested(mover->stop) ||
	       deadline_left_ms(deadline_ms) == 0;
}

static void
wait_a_moment(Mover *mover, int left_ms)
{
	enum { STOP_EVERY_MS = 20 };
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += (left_ms < STOP_EVERY_MS ? left_ms : STOP_EVERY_MS) * INT64_C(1000000);
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&mover->changed, &mover->lock, &until);
}

/* True: no session has a wish any more. A short wait each, since a stop does not signal. Where only
 * sessions at work are left they are given PATIENCE_MS to come to a boundary. */
static bool
wait_wishes(Mover *mover, int64_t deadline_ms, const Stop *stop)
{
	enum { PATIENCE_MS = 50 };
	int64_t patient_ms = deadline_in_ms(PATIENCE_MS);

	pthread_mutex_lock(&mover->lock);
	while (mover->waiting > 0 && !given_up(mover, stop, deadline_ms)) {
		if (mover->waiting > mover->at_work)
			patient_ms = deadline_in_ms(PATIENCE_MS);
		else if (deadline_left_ms(patient_ms) == 0)
			break;
		wait_a_moment(mover, deadline_left_ms(deadline_ms));
	}
	bool done = mover->waiting == 0;
	pthread_mutex_unlock(&mover->lock);
	return done;
}

static bool
look_for_locks(Listener *listener, int64_t deadline_ms, Error *err)
{
	Locks locks;
	uint32_t *pids = NULL;

	if (!outside_connect(listener, listener->mover->from, deadline_ms, err) ||
	    !outside_locks(listener, &pids, &locks.count, err))
		return false;
	locks.pids = pids;
	loops_call(listener, note_locks, &locks);
	free(pids);
	return true;
}

/* The wish, for all; what is not there at the deadline is given up. *in_time: all of it is.
 * The server is asked about locks meanwhile. */
static bool
run_wish(Listener *listener, Wish wish, int64_t deadline_ms, const Stop *stop, bool *in_time,
         Error *err)
{
	Mover *mover = listener->mover;

	loops_call(listener, collect_names, mover);
	loops_call(listener, begin_wishes, &wish);
	bool ok = look_for_locks(listener, deadline_ms, err);
	*in_time = wait_wishes(mover, deadline_ms, stop);
	if (!*in_time)
		loops_call(listener, forget_wishes, NULL);
	if (stop_requested(stop) || stop_requested(mover->stop))
		return error_set(err, ERROR_CANCELLED, "stopped while preparing the sessions' move");
	return ok;
}

/* ---- phases ---- */

static bool
begin_phase(Listener *listener, int64_t deadline_ms, Error *err)
{
	Mover *mover = listener->mover;
	int64_t until_ms = clock_wall_us() / 1000 + deadline_left_ms(deadline_ms);
	struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = (until_ms % 1000) * 1000000};

	if (pthread_mutex_timedlock(&mover->phase, &until) != 0)
		return error_set(err, ERROR_TIMEOUT, "the sessions are being looked at by another command");
	if (stop_requested(mover->stop)) {
		pthread_mutex_unlock(&mover->phase);
		return error_set(err, ERROR_CANCELLED, "the listener is stopping");
	}
	mover->from = listener_route(listener);
	return true;
}

static void
end_phase(Listener *listener)
{
	pthread_mutex_unlock(&listener->mover->phase);
}

static bool
any(const Session *session UNUSED)
{
	return true;
}

static bool
is_holding(Listener *listener)
{
	pthread_mutex_lock(&listener->lock);
	bool holding = listener->holding;
	pthread_mutex_unlock(&listener->lock);
	return holding;
}

bool
listener_sessions(Listener *listener, int64_t deadline_ms, ListenerSession **out, size_t *count,
                  Error *err)
{
	Error ignored = ERROR_INIT;
	bool in_time;

	*out = NULL;
	*count = 0;
	if (stop_requested(listener->mover->stop))
		return error_set(err, ERROR_CANCELLED, "the listener is stopping");
	/* A hold is not made longer by questions for people; another's answers are as good. */
	if (listener_route(listener) != ROUTE_NONE && !is_holding(listener) &&
	    begin_phase(listener, deadline_ms, &ignored)) {
		if (listener->mover->from == ROUTE_SOURCE) /* the old source may be gone */
			outside_known(listener, ROUTE_TARGET, deadline_ms);
		if (!run_wish(listener, WISH_KNOW, deadline_ms, NULL, &in_time, &ignored))
			log_failure(LOG_WARNING, "listener", &ignored);
		end_phase(listener);
	}
	*count = report_rows(listener, any, out, NULL);
	return true;
}

static bool
stays(const Session *session)
{
	return session->state >= SESSION_RELAYING && move_reason(session)[0] != '\0';
}

static bool
is_not_ready(const Session *session)
{
	return session->state >= SESSION_RELAYING && !move_is_ready(session);
}

static void
fill_report(Listener *listener, RowFilter filter, int64_t began_us, MoveReport *report)
{
	report->unmovable = report_rows(listener, filter, &report->which, &report->moved);
	report->took_us = clock_mono_us() - began_us;
}

static bool
prepare(Listener *listener, ListenerRoute to, int64_t deadline_ms, const Stop *stop, Error *err)
{
	Mover *mover = listener->mover;
	bool in_time;

	if (mover->from == ROUTE_NONE || to == mover->from)
		return error_set(err, ERROR_BUG, "the sessions cannot be moved from %s to %s",
		                 listener_route_name(mover->from), listener_route_name(to));
	mover->to = to;
	if (!outside_connect(listener, mover->from, deadline_ms, err) ||
	    !outside_endpoint(listener, to, deadline_ms, err))
		return false;
	loops_call(listener, leaving_make_room, &to);
	loops_call(listener, collect_names, mover); /* theirs first, if there are too many */
	outside_names(listener, &mover->names);
	outside_sets(listener);
	outside_known(listener, to, deadline_ms);
	return run_wish(listener, WISH_PREPARE, deadline_ms, stop, &in_time, err);
}

bool
listener_move_prepare(Listener *listener, ListenerRoute to, int64_t deadline_ms, const Stop *stop,
                      MoveReport *report, Error *err)
{
	enum { ANEW_MS = 500 };
	Mover *mover = listener->mover;
	int64_t began_us = clock_mono_us();

	*report = (MoveReport){0};
	if (!begin_phase(listener, deadline_ms, err))
		return false;
	mover->open = false;
	/* An operator may have changed something there since, as the command before told them to. Who
	 * only waits for a session to become movable asks again sooner. */
	mover->anew = clock_mono_ms() - mover->prepared_ms > ANEW_MS;
	bool ok = prepare(listener, to, deadline_ms, stop, err);
	mover->anew = false;
	mover->prepared_ms = clock_mono_ms();
	if (ok)
		fill_report(listener, stays, began_us, report);
	end_phase(listener);
	return ok;
}

/* What was executed during one pass is what the next one has to ask about. */
static bool
refresh(Listener *listener, int64_t deadline_ms, const Stop *stop, Error *err)
{
	enum { SHORT_US = 10000 };
	int64_t last_us = INT64_MAX, took_us = INT64_MAX;
	bool in_time = true;

	do {
		int64_t began_us = clock_mono_us();
		last_us = took_us;
		if (!run_wish(listener, WISH_PREPARE, deadline_ms, stop, &in_time, err))
			return false;
		took_us = clock_mono_us() - began_us;
	} while (in_time && took_us > SHORT_US && took_us < last_us - last_us / 4);
	return true;
}

bool
listener_move_refresh(Listener *listener, int64_t deadline_ms, const Stop *stop, Error *err)
{
	Mover *mover = listener->mover;

	if (!begin_phase(listener, deadline_ms, err)) {
		bool busy = err->class == ERROR_TIMEOUT; /* somebody else is having them asked */
		if (busy)
			error_clear(err);
		return busy;
	}
	bool ok = mover->endpoint == NULL || mover->endpoint->route == mover->from ||
	          refresh(listener, deadline_ms, stop, err);
	end_phase(listener);
	return ok;
}

static void
promise(Loop *loop, void *arg UNUSED)
{
	for (Session *session = loop->sessions; session != NULL; session = session->next)
		if (session->move != NULL)
			session->move->promised = move_is_ready(session);
}

static bool
open_all(Listener *listener, ListenerRoute to, UnmovablePolicy policy, int64_t deadline_ms,
         const Stop *stop, MoveReport *report, Error *err)
{
	Mover *mover = listener->mover;
	int64_t began_us = clock_mono_us();
	bool in_time;

	if (mover->from == ROUTE_NONE || to == mover->from)
		return error_set(err, ERROR_BUG, "the sessions cannot be moved from %s to %s",
		                 listener_route_name(mover->from), listener_route_name(to));
	if (mover->endpoint == NULL || mover->endpoint->route != to) {
		mover->to = to;
		if (!outside_endpoint(listener, to, deadline_ms, err))
			return false;
	}
	if (!run_wish(listener, WISH_OPEN, deadline_ms, stop, &in_time, err))
		return false;
	loops_call(listener, promise, NULL); /* first: what ends in between is in the report */
	fill_report(listener, is_not_ready, began_us, report);
	if (policy == UNMOVABLE_CLOSE && in_time) {
		report->closed = report->unmovable;
		return true;
	}
	if (report->unmovable == 0)
		return true;
	report_unmovable(report, err);
	if (!in_time)
		err->class = ERROR_TIMEOUT;
	return false;
}

bool
listener_move_open(Listener *listener, ListenerRoute to, UnmovablePolicy policy,
                   int64_t deadline_ms, const Stop *stop, MoveReport *report, Error *err)
{
	*report = (MoveReport){0};
	CHECK(is_holding(listener));
	if (!begin_phase(listener, deadline_ms, err))
		return false;
	listener->mover->open = false;
	bool ok = open_all(listener, to, policy, deadline_ms, stop, report, err);
	listener->mover->open = ok;
	end_phase(listener);
	return ok;
}

static void
look_again(Loop *loop, void *arg UNUSED)
{
	for (Session *session = loop->sessions; session != NULL; session = session->next)
		if (session->move != NULL && session->move->promised)
			target_look(session);
}

static bool
is_lost(const Session *session)
{
	return session->move != NULL && session->move->promised && !move_is_ready(session);
}

bool
listener_move_still_open(Listener *listener, Error *err)
{
	MoveReport lost = {0};

	loops_call(listener, look_again, NULL);
	fill_report(listener, is_lost, clock_mono_us(), &lost);
	bool ok = lost.unmovable == 0;
	if (!ok) {
		report_unmovable(&lost, err);
		err->class = ERROR_TIMEOUT; /* the next attempt opens them again */
	}
	move_report_free(&lost);
	return ok;
}

/* ---- the end ---- */

static void
commit(Loop *loop, void *arg)
{
	Session *next;

	loop->route = *(const ListenerRoute *)arg;
	loop->holding = false;
	for (Session *session = loop->sessions; session != NULL; session = next) {
		next = session->next;
		if (session->state == SESSION_HELD)
			move_swap(session);
		if (session->state == SESSION_WAITING)
			login_connect(session);
		else
			relay_progress(session);
	}
}

void
listener_move_commit(Listener *listener)
{
	ListenerRoute to = listener->mover->to;

	CHECK(listener->mover->open);
	listener->mover->open = false;
	upstream_set_route(listener->upstream, to);
	atomic_store(&listener->route, (int)to);
	log_info("listener", "route is now %s; the sessions go on there", listener_route_name(to));
	pthread_mutex_lock(&listener->lock);
	listener->holding = false;
	pthread_mutex_unlock(&listener->lock);
	loops_call(listener, commit, &to);
}

void
listener_move_abort(Listener *listener)
{
	listener->mover->open = false;
}
