/* The listener as a whole: start and stop, route, hold, status. */
#include "proxy/listener/listener.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/listener/move/move.h"

const char *
listener_route_name(ListenerRoute route)
{
	static const char *const names[] = {
		[ROUTE_NONE] = "none", [ROUTE_SOURCE] = "source", [ROUTE_TARGET] = "target"};

	return names[route];
}

/* ---- start and stop ---- */

/* Two descriptors a session, and some for the rest of the process. */
static void
fit_descriptors(Listener *listener)
{
	enum { OTHERS = 256 };
	struct rlimit limit;
	rlim_t wanted = (rlim_t)listener->options.max_clients * 2 + OTHERS;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
		return;
	limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur >= wanted)
		return;
	int most = limit.rlim_cur > OTHERS + 2 ? (int)((limit.rlim_cur - OTHERS) / 2) : 1;
	log_warning("listener",
	            "the limit of open files (%llu) allows %d clients only, not the %d of "
	            "--listen-max-clients",
	            (unsigned long long)limit.rlim_cur, most, listener->options.max_clients);
	listener->options.max_clients = most;
}

static bool
start_parts(Listener *listener, Error *err)
{
	const ListenerOptions *o = &listener->options;

	if (o->tls != LISTEN_TLS_OFF) {
		listener->tls = tls_server_new(o->tls_cert, o->tls_key, o->tls_ca, err);
		if (listener->tls == NULL)
			return error_add_context(err, "--listen-tls");
	}
	listener->trust = trust_new(o->trust, o->trust_count, err);
	if (listener->trust == NULL || !accept_bind(listener, err))
		return false;
	listener->upstream = upstream_start(o, err);
	return listener->upstream != NULL;
}

static bool
start_loops(Listener *listener, Error *err)
{
	size_t count = (size_t)listener->options.threads;

	listener->loops = mem_zalloc(count * sizeof(Loop));
	for (size_t i = 0; i < count; i++) {
		if (!loop_start(&listener->loops[i], listener, (int)i, err))
			return false;
		listener->loop_count++;
	}
	return true;
}

static void
begin_accepting(Loop *loop, void *arg UNUSED)
{
	if (loop->index == 0)
		accept_begin(loop);
}

Listener *
listener_start(const ListenerOptions *options, Error *err)
{
	Listener *listener = mem_zalloc(sizeof(Listener));

	listener->options = *options;
	pthread_mutex_init(&listener->lock, NULL);
	pthread_cond_init(&listener->changed, NULL);
	mover_init(listener);
	fit_descriptors(listener);
	if (!start_parts(listener, err) || !start_loops(listener, err)) {
		listener_stop(listener);
		return NULL;
	}
	loops_call(listener, begin_accepting, NULL);
	for (size_t i = 0; i < options->address_count; i++) {
		const ListenAddress *a = &options->addresses[i];
		if (a->host != NULL)
			log_info("listener", "listening on %s:%d", a->host, a->port);
		else
			log_info("listener", "listening on %s", a->path);
	}
	return listener;
}

static void
end_loop(Loop *loop, void *arg UNUSED)
{
	Session *next;

	loop->ending = true;
	if (loop->accepting != NULL)
		accept_end(loop);
	free(loop->accepting);
	loop->accepting = NULL;
	ev_timer_stop(loop->ev, &loop->tick);
	for (Session *session = loop->sessions; session != NULL; session = next) {
		next = session->next;
		session_farewell(session, "terminating connection due to administrator command");
		session_close(session);
	}
}

void
listener_stop(Listener *listener)
{
	if (listener == NULL)
		return;
	mover_stop(listener);
	if (listener->loop_count > 0)
		loops_call(listener, end_loop, NULL);
	upstream_stop(listener->upstream);
	for (size_t i = 0; i < listener->loop_count; i++)
		loop_join(&listener->loops[i]);
	for (size_t i = 0; i < listener->loop_count; i++)
		loop_destroy(&listener->loops[i]);
	mover_free(listener);
	accept_close(listener);
	free(listener->loops);
	trust_free(listener->trust);
	tls_server_free(listener->tls);
	pthread_mutex_destroy(&listener->lock);
	pthread_cond_destroy(&listener->changed);
	free(listener);
}

/* ---- route ---- */

static void
change_route(Loop *loop, void *arg)
{
	Session *next;

	loop->route = *(const ListenerRoute *)arg;
	for (Session *session = loop->sessions; session != NULL; session = next) {
		next = session->next;
		if (session->route == ROUTE_NONE || session->state >= SESSION_CLOSING)
			continue;
		session->end_wanted = session->route != loop->route;
		relay_progress(session);
	}
}

void
listener_set_route(Listener *listener, ListenerRoute route)
{
	if (atomic_exchange(&listener->route, (int)route) == (int)route)
		return;
	log_info("listener", "route is now %s", listener_route_name(route));
	loops_call(listener, change_route, &route);
	upstream_set_route(listener->upstream, route);
}

ListenerRoute
listener_route(const Listener *listener)
{
	return (ListenerRoute)atomic_load(&listener->route);
}

/* ---- hold ---- */

static void
begin_hold(Loop *loop, void *arg)
{
	Session *next;

	loop->holding = true;
	loop->second_phase = *(const bool *)arg;
	for (Session *session = loop->sessions; session != NULL; session = next) {
		next = session->next;
		relay_progress(session);
	}
}

static void
shut_hold(Loop *loop, void *arg UNUSED)
{
	loop->second_phase = false;
}

static void
end_hold(Loop *loop, void *arg UNUSED)
{
	Session *next;

	loop->holding = loop->second_phase = false;
	for (Session *session = loop->sessions; session != NULL; session = next) {
		next = session->next;
		if (session->state == SESSION_WAITING)
			login_connect(session);
		else
			relay_progress(session);
	}
}

/* Sessions that have something under way on the server. */
static size_t
not_held(const Listener *listener)
{
	static const SessionState busy[] = {SESSION_CONNECTING, SESSION_SERVER_LOGIN, SESSION_RELAYING};
	size_t count = 0;

	for (size_t i = 0; i < listener->loop_count; i++)
		for (size_t k = 0; k < sizeof(busy) / sizeof(busy[0]); k++)
			count += atomic_load(&listener->loops[i].states[busy[k]]);
	return count;
}

typedef struct {
	pthread_mutex_t lock;
	Buffer names;
	size_t count;
} Laggards;

static const char *
doing(const Session *session)
{
	if (session->state != SESSION_RELAYING)
		return "logging in";
	if (session->replicates)
		return "replicating";
	if (session->to_client.data != NULL)
		return "waiting for its client to read";
	if (!track_client_between(&session->track))
		return "waiting for the rest of its client's message";
	if (session->track.status != 'I')
		return "in a transaction";
	if (track_awaits_sync(&session->track))
		return "waiting for its client's Sync";
	return "running a request";
}

static void
name_laggards(Loop *loop, void *arg)
{
	enum { NAMED = 5 };
	Laggards *laggards = arg;
	int64_t now = (int64_t)(ev_now(loop->ev) * 1000.0);

	pthread_mutex_lock(&laggards->lock);
	for (Session *session = loop->sessions; session != NULL; session = session->next) {
		if (session->state < SESSION_CONNECTING || session->state > SESSION_RELAYING)
			continue;
		if (laggards->count++ < NAMED)
			buffer_printf(&laggards->names, "%s%s (pid %u, %s for %.1f s)",
			              laggards->names.len > 0 ? "; " : "", session->who, session->server_pid,
			              doing(session), (double)(now - session->since_ms) / 1000.0);
	}
	pthread_mutex_unlock(&laggards->lock);
}

static bool
say_laggards(Listener *listener, Error *err)
{
	Laggards laggards = {.names = BUFFER_INIT};

	pthread_mutex_init(&laggards.lock, NULL);
	loops_call(listener, name_laggards, &laggards);
	error_set(err, ERROR_TIMEOUT,
	          "%zu session%s did not come to the end of a transaction in time: %s", laggards.count,
	          laggards.count == 1 ? "" : "s", buffer_cstr(&laggards.names));
	error_set_hint(err,
	               "try again when they have ended, end them (SELECT pg_terminate_backend(PID)), or"
	               " allow a longer --hold-timeout");
	buffer_free(&laggards.names);
	pthread_mutex_destroy(&laggards.lock);
	return false;
}

/* Waits for a change that may have completed the hold; a short wait, since a stop does not
 * signal it. */
static void
wait_changed(Listener *listener, int64_t deadline_ms)
{
	enum { STOP_EVERY_MS = 50 };
	struct timespec until;
	int left = deadline_left_ms(deadline_ms);

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += (left < STOP_EVERY_MS ? left : STOP_EVERY_MS) * INT64_C(1000000);
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&listener->changed, &listener->lock, &until);
}

/* Until all are held; else they are released. */
static bool
wait_held(Listener *listener, int64_t deadline_ms, const Stop *stop, Error *err)
{
	pthread_mutex_lock(&listener->lock);
	listener->hold_waits = true;
	while (not_held(listener) > 0 && !stop_requested(stop) && deadline_left_ms(deadline_ms) > 0)
		wait_changed(listener, deadline_ms);
	bool held = not_held(listener) == 0;
	listener->hold_waits = false;
	pthread_mutex_unlock(&listener->lock);
	if (held)
		return true;
	if (stop_requested(stop))
		error_set(err, ERROR_CANCELLED, "stopped while holding the sessions");
	else
		say_laggards(listener, err);
	listener_release(listener);
	return false;
}

static bool
hold(Listener *listener, bool two_phase, int64_t deadline_ms, const Stop *stop, Error *err)
{
	pthread_mutex_lock(&listener->lock);
	CHECK(!listener->holding);
	listener->holding = true;
	pthread_mutex_unlock(&listener->lock);
	loops_call(listener, begin_hold, &two_phase);
	return wait_held(listener, deadline_ms, stop, err);
}

bool
listener_hold(Listener *listener, int64_t deadline_ms, const Stop *stop, Error *err)
{
	return hold(listener, false, deadline_ms, stop, err);
}

bool
listener_hold_two_phase(Listener *listener, int64_t deadline_ms, const Stop *stop, Error *err)
{
	return hold(listener, true, deadline_ms, stop, err);
}

bool
listener_hold_shut(Listener *listener, int64_t deadline_ms, const Stop *stop, Error *err)
{
	loops_call(listener, shut_hold, NULL);
	return wait_held(listener, deadline_ms, stop, err);
}

void
listener_release(Listener *listener)
{
	pthread_mutex_lock(&listener->lock);
	bool was = listener->holding;
	listener->holding = false;
	pthread_mutex_unlock(&listener->lock);
	if (was)
		loops_call(listener, end_hold, NULL);
}

/* ---- status ---- */

static size_t
in_state(const Listener *listener, SessionState state)
{
	size_t count = 0;

	for (size_t i = 0; i < listener->loop_count; i++)
		count += atomic_load_explicit(&listener->loops[i].states[state], memory_order_relaxed);
	return count;
}

void
listener_state(const Listener *listener, ListenerState *out)
{
	*out = (ListenerState){.listening = true, .route = listener_route(listener)};
	for (SessionState state = SESSION_GREETING; state < SESSION_RELAYING; state++)
		if (state != SESSION_CANCELLING)
			out->logins += in_state(listener, state);
	out->sessions = in_state(listener, SESSION_RELAYING) + in_state(listener, SESSION_HELD);
	out->held = in_state(listener, SESSION_HELD) + in_state(listener, SESSION_WAITING);
	for (size_t i = 0; i < listener->loop_count; i++)
		out->unmovable += atomic_load(&listener->loops[i].unmovable);
	out->accepted = atomic_load(&listener->accepted);
	out->refused = atomic_load(&listener->refused);
	out->cancels = atomic_load(&listener->cancels);
}
