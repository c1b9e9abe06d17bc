/* A session's life: its state, its watchers, its end. The diagram is in internal.h. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "protocol/message/backend.h"
#include "proxy/listener/login.h"
#include "proxy/listener/move/move.h"

/* How long a client may take to read its last message and to close. */
enum { LINGER_MS = 5000 };

static int64_t
now_ms(const Session *session)
{
	return (int64_t)(ev_now(session->loop->ev) * 1000.0);
}

/* Whoever waits for a hold learns of each change that may complete it. */
static void
tell_holder(Listener *listener)
{
	pthread_mutex_lock(&listener->lock);
	if (listener->hold_waits)
		pthread_cond_broadcast(&listener->changed);
	pthread_mutex_unlock(&listener->lock);
}

static void
count_state(Loop *loop, SessionState state, size_t change)
{
	/* Only this thread writes; others read. */
	size_t was = atomic_load_explicit(&loop->states[state], memory_order_relaxed);
	atomic_store_explicit(&loop->states[state], was + change, memory_order_release);
}

void
session_set_state(Session *session, SessionState state)
{
	Loop *loop = session->loop;

	if (session->state == state)
		return;
	CHECK(session->state != SESSION_CLOSED);
	count_state(loop, session->state, (size_t)-1);
	count_state(loop, state, 1);
	session->state = state;
	session->since_ms = now_ms(session);
	if (loop->holding)
		tell_holder(loop->listener);
}

/* ---- watchers ---- */

void
watch_io(Loop *loop, ev_io *io, bool on)
{
	if (on && !ev_is_active(io))
		ev_io_start(loop->ev, io);
	else if (!on && ev_is_active(io))
		ev_io_stop(loop->ev, io);
}

static void
closing_readable(Session *session)
{
	char waste[4096];
	Error err;
	ssize_t n;

	do {
		n = session->client.ops->read(&session->client, waste, sizeof(waste), &err);
	} while (n == (ssize_t)sizeof(waste));
	if (n < 0)
		session_close(session);
}

static void
on_client_read(struct ev_loop *ev UNUSED, ev_io *io, int events UNUSED)
{
	Session *session = io->data;

	switch (session->state) {
	case SESSION_RELAYING:
	case SESSION_HELD:
		relay_client_readable(session);
		break;
	case SESSION_GREETING:
	case SESSION_TLS_HANDSHAKE:
		greet_readable(session);
		break;
	case SESSION_CLOSING:
	case SESSION_CANCELLING:
		closing_readable(session);
		break;
	default:
		login_client_readable(session);
	}
}

static void
on_client_write(struct ev_loop *ev UNUSED, ev_io *io, int events UNUSED)
{
	Session *session = io->data;

	if (session->state == SESSION_TLS_HANDSHAKE)
		greet_readable(session);
	else if (session->login != NULL)
		login_client_writable(session);
	else
		relay_client_writable(session);
}

static void
on_server_read(struct ev_loop *ev UNUSED, ev_io *io, int events UNUSED)
{
	Session *session = io->data;

	if (session->login != NULL)
		login_server_event(session);
	else
		relay_server_readable(session);
}

static void
on_server_write(struct ev_loop *ev UNUSED, ev_io *io, int events UNUSED)
{
	Session *session = io->data;

	if (session->login != NULL)
		login_server_event(session);
	else
		relay_server_writable(session);
}

/* ---- beginning ---- */

static void
add_to_loop(Session *session)
{
	Loop *loop = session->loop;

	session->next = loop->sessions;
	if (loop->sessions != NULL)
		loop->sessions->prev = session;
	loop->sessions = session;
	count_state(loop, session->state, 1);
}

static void
remove_from_loop(Session *session)
{
	if (session->prev != NULL)
		session->prev->next = session->next;
	else
		session->loop->sessions = session->next;
	if (session->next != NULL)
		session->next->prev = session->prev;
}

static void
set_socket_options(int fd)
{
	static const int on = 1, idle = 60, interval = 10, count = 6;

	/* A Unix socket knows none of them, and needs none. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

void
session_new(Loop *loop, int fd, const char *from)
{
	Session *session = mem_zalloc(sizeof(Session));

	session->loop = loop;
	session->state = SESSION_GREETING;
	session->since_ms = now_ms(session);
	session->who = mem_strdup(from);
	session->server.fd = -1;
	set_socket_options(fd);
	channel_adopt(&session->client, fd);
	track_init(&session->track);
	ev_io_init(&session->client_read, on_client_read, fd, EV_READ);
	ev_io_init(&session->client_write, on_client_write, fd, EV_WRITE);
	ev_init(&session->server_read, on_server_read);
	ev_init(&session->server_write, on_server_write);
	session->client_read.data = session->client_write.data = session;
	session->server_read.data = session->server_write.data = session;
	add_to_loop(session);
	login_new(session);
	watch_io(loop, &session->client_read, true);
}

/* ---- ending ---- */

static void
drop_flow(Loop *loop, Flow *flow)
{
	if (flow->data != NULL)
		loop_give_buffer(loop, flow->data);
	*flow = (Flow){.data = NULL};
}

static void
stop_watching(Session *session)
{
	struct ev_loop *ev = session->loop->ev;

	ev_io_stop(ev, &session->client_read);
	ev_io_stop(ev, &session->client_write);
	ev_io_stop(ev, &session->server_read);
	ev_io_stop(ev, &session->server_write);
}

void
session_close(Session *session)
{
	Loop *loop = session->loop;

	if (session->state == SESSION_CLOSED)
		return;
	session_set_state(session, SESSION_CLOSED);
	count_state(loop, SESSION_CLOSED, (size_t)-1); /* it is no session any more */
	stop_watching(session);
	cancel_forget_session(session);
	login_free(session);
	move_free(session);
	channel_close(&session->client);
	channel_close(&session->server);
	loop_process_ended(loop, session->route, session->server_pid);
	drop_flow(loop, &session->to_server);
	drop_flow(loop, &session->to_client);
	track_free(&session->track);
	endpoint_release(session->endpoint);
	if (session->unmovable != NULL)
		atomic_fetch_sub(&loop->unmovable, 1);
	atomic_fetch_sub(&loop->listener->connections, 1);
	mem_wipe(session->server_key, sizeof(session->server_key));
	mem_wipe(session->key, sizeof(session->key));
	remove_from_loop(session);
	/* The callback that we are in may look at it once more. */
	session->next = loop->closed;
	loop->closed = session;
}

void
session_free_closed(Loop *loop)
{
	while (loop->closed != NULL) {
		Session *session = loop->closed;
		loop->closed = session->next;
		free(session->who);
		free(session);
	}
}

/* All has been sent. The client may read it in peace: closing a socket with unread bytes
 * in it would take the last message away from it. */
void
session_flushed(Session *session)
{
	if (session->client_ended) {
		session_close(session);
		return;
	}
	(void)shutdown(session->client.fd, SHUT_WR);
	watch_io(session->loop, &session->client_write, false);
	watch_io(session->loop, &session->client_read, true);
}

void
session_end(Session *session)
{
	if (session->state >= SESSION_CLOSING)
		return;
	session_set_state(session, SESSION_CLOSING);
	move_free(session);
	watch_io(session->loop, &session->server_read, false);
	watch_io(session->loop, &session->server_write, false);
	channel_close(&session->server);
	drop_flow(session->loop, &session->to_server);
	if (session->login != NULL)
		(void)login_flush(session);
	else
		relay_client_writable(session);
}

/* A relaying session's last message goes behind what is under way, if there is room. */
static void
append_to_flow(Session *session, Slice bytes)
{
	Flow *flow = &session->to_client;

	if (flow->data == NULL)
		*flow = (Flow){.data = loop_take_buffer(session->loop)};
	if (BUFFER_SIZE - flow->len < bytes.len)
		return;
	memcpy(flow->data + flow->len, bytes.data, bytes.len);
	flow->len += (uint32_t)bytes.len;
	flow->admit = flow->len;
}

void
session_refuse(Session *session, const Error *err)
{
	Buffer message = BUFFER_INIT;
	const char *sqlstate = err->sqlstate[0] != '\0' ? err->sqlstate : "08006";

	if (session->state >= SESSION_CLOSING)
		return;
	backend_put_fatal(&message, sqlstate, err->message, err->hint);
	if (session->login != NULL)
		buffer_put_slice(&session->login->out, buffer_slice(&message));
	else if (track_server_between(&session->track))
		append_to_flow(session, buffer_slice(&message));
	buffer_free(&message);
	log_debug("listener", "%s: ended: %s", session->who, err->message);
	session_end(session);
}

void
session_farewell(Session *session, const char *message)
{
	Error err = ERROR_INIT;

	error_set(&err, ERROR_CANCELLED, "%s", message);
	error_set_sqlstate(&err, "57P01");
	session_refuse(session, &err);
}

/* ---- once a second ---- */

static bool
in_login(const Session *session)
{
	return session->login != NULL && session->state < SESSION_CLOSING;
}

void
session_tick(Session *session, int64_t login_timeout_ms)
{
	int64_t now = now_ms(session);

	if (session->state == SESSION_CLOSING && now - session->since_ms >= LINGER_MS) {
		session_close(session);
	} else if (session->state == SESSION_WAITING || session->state == SESSION_ASKING) {
		session->login->started_ms = now; /* it is not the client that is slow */
	} else if (in_login(session) && now - session->login->started_ms >= login_timeout_ms) {
		log_info("listener", "%s: the login took longer than %lld s", session->who,
		         (long long)(login_timeout_ms / 1000));
		atomic_fetch_add(&session->loop->listener->refused, 1);
		session_close(session);
	}
}
