/* Moving all sessions: what the caller of listener_move_* gets. */
#include "proxy/listener/move/move.h"

#include "common/clock.h"
#include "common/log.h"

const char *
move_reason(const Session *session)
{
	if (session->unmovable != NULL)
		return session->unmovable;
	return session->state < SESSION_RELAYING ? "" : "its state cannot be carried over yet";
}

uint32_t
move_pid_on(const Session *session UNUSED, ListenerRoute on UNUSED)
{
	return 0;
}

static bool
any(const Session *session UNUSED)
{
	return true;
}

static bool
stays(const Session *session)
{
	return session->state >= SESSION_RELAYING && move_reason(session)[0] != '\0';
}

bool
listener_sessions(Listener *listener, int64_t deadline_ms UNUSED, ListenerSession **out,
                  size_t *count, Error *err UNUSED)
{
	*count = report_rows(listener, any, out, NULL);
	return true;
}

static void
fill_report(Listener *listener, int64_t began_us, MoveReport *report)
{
	*report = (MoveReport){0};
	report->unmovable = report_rows(listener, stays, &report->which, &report->moved);
	report->took_us = clock_mono_us() - began_us;
}

bool
listener_move_prepare(Listener *listener, ListenerRoute to UNUSED, int64_t deadline_ms UNUSED,
                      const Stop *stop UNUSED, MoveReport *report, Error *err UNUSED)
{
	fill_report(listener, clock_mono_us(), report);
	return true;
}

bool
listener_move_open(Listener *listener, ListenerRoute to, UnmovablePolicy policy,
                   int64_t deadline_ms UNUSED, const Stop *stop UNUSED, MoveReport *report,
                   Error *err)
{
	pthread_mutex_lock(&listener->lock);
	CHECK(listener->holding);
	pthread_mutex_unlock(&listener->lock);
	fill_report(listener, clock_mono_us(), report);
	if (policy == UNMOVABLE_CLOSE)
		report->closed = report->unmovable;
	else if (report->unmovable > 0)
		return report_unmovable(report, err);
	listener->move_to = to;
	return true;
}

void
listener_move_commit(Listener *listener)
{
	CHECK(listener->move_to != ROUTE_NONE);
	listener_set_route(listener, listener->move_to);
	listener->move_to = ROUTE_NONE;
	listener_release(listener);
}

void
listener_move_abort(Listener *listener)
{
	listener->move_to = ROUTE_NONE;
}
