/*
 * A session that is logged in: bytes from one side to the other.
 *
 * Read into a buffer of the loop's, shown to the Track, written on from there. What the
 * other side does not take stays in that buffer, which the session then keeps, and nothing
 * more is read from this side until it is gone: 64 KiB a direction is all that a session
 * can ever hold, and an idle one holds nothing. A message that begins a request is passed on when all
 * of it is here, if the buffer has room for it: a client that goes silent in the midst of it keeps
 * no hold waiting then.
 *
 * Gated (during a hold, and while a cancel is on its way) the client's next request stays
 * in the buffer; what belongs to a request under way passes, and as long as the hold wants them
 * to, COMMIT PREPARED and ROLLBACK PREPARED.
 */
#include <string.h>

#include "common/log.h"
#include "common/memory.h"
#include "proxy/listener/login.h"
#include "proxy/listener/move/move.h"

/* Full buffers read from one side before the loop turns to others. */
enum { ROUNDS = 8 };

static bool
gated(const Session *session)
{
	return session->loop->holding || session->cancelling != NULL || session->asking;
}

static bool
relaying(const Session *session)
{
	return session->state == SESSION_RELAYING || session->state == SESSION_HELD;
}

static size_t
room_of(Loop *loop, Flow *flow)
{
	if (flow->data == NULL)
		*flow = (Flow){.data = loop_take_buffer(loop)};
	return BUFFER_SIZE - flow->len;
}

/* False: the other side does not take bytes any more. */
static bool
write_flow(Loop *loop, Flow *flow, Channel *to, ev_io *writable)
{
	Error err;

	while (flow->pos < flow->admit) {
		ssize_t n = to->ops->write(to, flow->data + flow->pos, flow->admit - flow->pos, &err);
		if (n < 0)
			return false;
		if (n == 0)
			break;
		flow->pos += (uint32_t)n;
	}
	watch_io(loop, writable, flow->pos < flow->admit);
	if (flow->pos == flow->len && flow->data != NULL) {
		loop_give_buffer(loop, flow->data);
		*flow = (Flow){.data = NULL};
	}
	return true;
}

static void
watch_reading(Loop *loop, ev_io *io, bool on, bool *more)
{
	watch_io(loop, io, on);
	if (on && *more) {
		*more = false;
		ev_feed_event(loop->ev, io, EV_READ);
	}
}

/* Both directions are read as far as the other side takes what comes. */
static void
watch_flows(Session *session)
{
	const Flow *in = &session->to_server;
	/* make_room takes what has been written out of a buffer that is full to its end. */
	bool room = in->pos == in->admit && in->len - in->pos < BUFFER_SIZE;

	if (!relaying(session))
		return;
	watch_reading(session->loop, &session->client_read,
	              room && !session->client_ended && !session->server_deaf, &session->client_more);
	watch_reading(session->loop, &session->server_read, session->to_client.data == NULL,
	              &session->server_more);
}

/* ---- to the server ---- */

static Slice
not_admitted(const Flow *flow)
{
	return slice_of(flow->data + flow->admit, flow->len - flow->admit);
}

static void
admit_gated(Session *session)
{
	Flow *flow = &session->to_server;
	bool between_requests = session->cancelling != NULL || session->asking;

	flow->admit += (uint32_t)track_client_until(&session->track, not_admitted(flow),
	                                            between_requests);
}

/* The end of a prepared transaction, with what belongs to it: without it the hold would wait for
 * locks that nobody can let go. */
static void
admit_second_phase(Session *session)
{
	Flow *flow = &session->to_server;
	Slice rest = not_admitted(flow);

	if (session->cancelling != NULL || session->asking || session->end_wanted ||
	    !track_at_boundary(&session->track))
		return;
	size_t len = track_second_phase(&session->track, rest);
	if (len == 0)
		return;
	rest.len = len < rest.len ? len : rest.len;
	track_client(&session->track, rest);
	flow->admit += (uint32_t)rest.len;
	admit_gated(session);
	session_set_state(session, SESSION_RELAYING);
}

static void
admit(Session *session)
{
	Flow *flow = &session->to_server;

	if (flow->admit == flow->len)
		return;
	if (!gated(session)) {
		flow->admit += (uint32_t)track_client_whole(&session->track, not_admitted(flow),
		                                            BUFFER_SIZE);
		return;
	}
	admit_gated(session);
	if (session->loop->second_phase)
		admit_second_phase(session);
}

/* The server has closed its side. What it has said before comes to us by reading. */
static void
server_is_deaf(Session *session)
{
	Flow *flow = &session->to_server;

	session->server_deaf = true;
	watch_io(session->loop, &session->server_write, false);
	if (flow->data != NULL)
		loop_give_buffer(session->loop, flow->data);
	*flow = (Flow){.data = NULL};
}

/* What the client sent before it went is still the server's to do, also what must wait for its turn
 * here. Of half a request the rest will never come. */
static bool
leaves_work(const Session *session)
{
	const Flow *flow = &session->to_server;
	Slice rest = not_admitted(flow);

	return flow->pos < flow->admit || (rest.len > 0 && gated(session) &&
	                                   !track_client_partial(&session->track, rest, BUFFER_SIZE));
}

static void
pump_to_server(Session *session)
{
	Flow *flow = &session->to_server;

	if (flow->data == NULL)
		return;
	admit(session);
	if (!write_flow(session->loop, flow, &session->server, &session->server_write))
		server_is_deaf(session);
	if (session->client_ended && !leaves_work(session))
		session_close(session);
	else if (ask_sending(session))
		watch_io(session->loop, &session->server_write, true);
}

static void
client_gone(Session *session)
{
	session->client_ended = true;
	if (!leaves_work(session))
		session_close(session);
	else
		watch_io(session->loop, &session->client_read, false);
}

/* While bytes wait for their turn, more are put behind them. */
static void
make_room(Flow *flow)
{
	if (flow->data == NULL || flow->pos == 0)
		return;
	memmove(flow->data, flow->data + flow->pos, flow->len - flow->pos);
	flow->len -= flow->pos;
	flow->admit -= flow->pos;
	flow->pos = 0;
}

void
relay_client_readable(Session *session)
{
	Flow *flow = &session->to_server;
	Error err;

	make_room(flow);
	if (!track_busy(&session->track) && session->track.status == 'I')
		session->since_ms = (int64_t)(ev_now(session->loop->ev) * 1000.0);
	for (int round = 0; round < ROUNDS; round++) {
		size_t room = room_of(session->loop, flow);
		ssize_t n = room > 0 ? session->client.ops->read(&session->client, flow->data + flow->len,
		                                                 room, &err)
		                     : 0;
		if (n > 0)
			flow->len += (uint32_t)n;
		session->client_more = room > 0 && (size_t)n == room;
		pump_to_server(session);
		if (n < 0 && session_alive(session))
			client_gone(session);
		if (!session_alive(session) || (size_t)n < room || flow->data != NULL)
			break;
	}
	if (session->cancels != NULL && session_alive(session))
		cancel_consider(session);
	watch_flows(session);
}

void
relay_server_writable(Session *session)
{
	if (session->asking)
		ask_writable(session);
	pump_to_server(session);
	watch_flows(session);
}

/* ---- to the client ---- */

void
relay_client_writable(Session *session)
{
	if (!write_flow(session->loop, &session->to_client, &session->client, &session->client_write)) {
		session_close(session);
		return;
	}
	if (session->state == SESSION_CLOSING && session->to_client.data == NULL)
		session_flushed(session);
	watch_flows(session);
	if (session->to_client.data == NULL)
		move_step(session);
}

/* Shows the server's bytes to the Track and writes them on; false: the session is ending. */
static bool
pass_to_client(Session *session, size_t count)
{
	Flow *flow = &session->to_client;
	Slice bytes = slice_of(flow->data + flow->len, count);

	flow->len += (uint32_t)count;
	flow->admit = flow->len;
	if (!track_server(&session->track, bytes)) {
		log_warning("listener", "%s: the server sent what is no message; the session is closed",
		            session->who);
		session_close(session);
		return false;
	}
	if (!write_flow(session->loop, flow, &session->client, &session->client_write)) {
		session_close(session);
		return false;
	}
	if (gated(session) || session->end_wanted || session->at_work ||
	    session->to_server.data != NULL)
		relay_progress(session);
	return relaying(session);
}

void
relay_server_readable(Session *session)
{
	Flow *flow = &session->to_client;
	Error err;

	if (session->asking) {
		ask_readable(session);
		return;
	}
	/* What was passed may have come to a boundary at which we ask: what follows is our answer. */
	for (int round = 0; round < ROUNDS && flow->data == NULL && !session->asking; round++) {
		size_t room = room_of(session->loop, flow);
		ssize_t n = session->server.ops->read(&session->server, flow->data, room, &err);
		if (n <= 0) {
			loop_give_buffer(session->loop, flow->data);
			*flow = (Flow){.data = NULL};
			if (n < 0)
				session_end(session);
			break;
		}
		session->server_more = (size_t)n == room;
		if (!pass_to_client(session, (size_t)n))
			return;
		if ((size_t)n < room)
			break;
	}
	watch_flows(session);
}

bool
relay_server_bytes(Session *session, Slice bytes)
{
	Flow *flow = &session->to_client;

	if (bytes.len == 0)
		return relaying(session);
	if (room_of(session->loop, flow) < bytes.len) {
		/* Nobody gives as much as this at once. */
		session_close(session);
		return false;
	}
	memcpy(flow->data + flow->len, bytes.data, bytes.len);
	return pass_to_client(session, bytes.len);
}

bool
relay_put_client(Session *session, Slice messages)
{
	Flow *flow = &session->to_client;

	if (!track_server_between(&session->track) || room_of(session->loop, flow) < messages.len)
		return false;
	memcpy(flow->data + flow->len, messages.data, messages.len);
	flow->len += (uint32_t)messages.len;
	flow->admit = flow->len;
	watch_io(session->loop, &session->client_write, true);
	return true;
}

void
relay_watch(Session *session)
{
	watch_flows(session);
}

/* ---- holding and ending ---- */

/* A stream of replication never ends by itself, and writes nothing: no hold can or need wait
 * for it. It cannot be moved either, which is the policy's business. */
static bool
can_be_held(const Session *session)
{
	return track_at_boundary(&session->track) ||
	       (session->replicates && session->track.status == 'I');
}

void
relay_progress(Session *session)
{
	bool boundary;

	if (!relaying(session))
		return;
	if (session->cancels != NULL)
		cancel_consider(session);
	if (!session->loop->holding && session->state == SESSION_HELD)
		session_set_state(session, SESSION_RELAYING);
	boundary = track_at_boundary(&session->track);
	if (session->end_wanted && (boundary || session->replicates)) {
		session_farewell(session, "terminating connection: the database is served by another "
		                          "server now; connect again");
		return;
	}
	pump_to_server(session);
	if (!session_alive(session))
		return;
	if (session->cancels != NULL)
		cancel_consider(session);
	if (session->loop->holding && session->state == SESSION_RELAYING && can_be_held(session))
		session_set_state(session, SESSION_HELD);
	watch_flows(session);
	move_step(session);
}

/* ---- the beginning ---- */

static bool
put(Loop *loop, Flow *flow, Slice bytes)
{
	if (bytes.len == 0)
		return true;
	if (room_of(loop, flow) < bytes.len)
		return false;
	memcpy(flow->data + flow->len, bytes.data, bytes.len);
	flow->len += (uint32_t)bytes.len;
	return true;
}

void
relay_begin(Session *session, Slice greeting, Slice from_server, Slice from_client)
{
	Loop *loop = session->loop;

	bool ok = put(loop, &session->to_client, greeting) &&
	          put(loop, &session->to_client, from_server) &&
	          put(loop, &session->to_server, from_client) &&
	          track_server(&session->track, from_server);
	login_free(session);
	if (!ok) {
		session_close(session);
		return;
	}
	session->to_client.admit = session->to_client.len;
	session->client_more = session->server_more = true;
	session_set_state(session, SESSION_RELAYING);
	session->end_wanted = session->route != loop->route;
	relay_client_writable(session);
	relay_progress(session);
}
