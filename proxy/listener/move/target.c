/*
 * A connection to the other server, logged in as the session's client.
 *
 * With the client's own parameters and with what it has proved in its login; the other
 * server's verifier of the role is the same. Opened ahead of the hold, since a login costs
 * milliseconds and a process there.
 */
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/memory.h"
#include "protocol/message/message.h"
#include "proxy/listener/move/move.h"

/* What is kept of notifications until the session is there. */
enum { FOR_CLIENT_MAX = 16 * 1024, REPORTED_MAX = 16 * 1024 };

static void
touch(Session *session)
{
	session->move->target.used_ms = (int64_t)(ev_now(session->loop->ev) * 1000.0);
}

/* ---- ending ---- */

void
target_close(Target *target, Loop *loop)
{
	if (target->state == TARGET_CLOSED)
		return;
	ev_io_stop(loop->ev, &target->readable);
	ev_io_stop(loop->ev, &target->writable);
	channel_close(&target->channel);
	if (target->endpoint != NULL)
		loop_process_ended(loop, target->endpoint->route, target->pid);
	endpoint_release(target->endpoint);
	auth_free(target->auth);
	frame_reader_free(&target->in);
	mem_wipe(target->out.data, target->out.len);
	buffer_free(&target->out);
	buffer_free(&target->reported);
	buffer_free(&target->for_client);
	buffer_free(&target->unnamed);
	mem_wipe(target->key, sizeof(target->key));
	carried_free(&target->have);
	carried_free(&target->answer);
	plan_free(&target->plan);
	*target = (Target){.channel = {.fd = -1}};
}

void
target_fail(Session *session, const char *fmt, ...)
{
	Target *target = &session->move->target;
	char reason[LISTENER_REASON_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(reason, sizeof(reason), fmt, args);
	va_end(args);
	log_debug("listener", "%s: %s", session->who, reason);
	target_close(target, session->loop);
	reason_set(target->reason, "%s", reason);
	move_step(session);
}

/* One that is kept for the next try is opened anew then: its end is nothing to be told. In a hold
 * nobody asks again. */
static void
target_lost(Session *session, const char *why)
{
	Target *target = &session->move->target;

	if (target->state == TARGET_OPEN && session->move->wish == WISH_NONE && !session->loop->holding)
		target_close(target, session->loop);
	else
		target_fail(session, "its new connection has ended: %s", why);
}

/* ---- sending ---- */

void
target_flush(Session *session)
{
	Target *target = &session->move->target;
	Error err = ERROR_INIT;

	while (target->out_pos < target->out.len) {
		ssize_t n = target->channel.ops->write(&target->channel, target->out.data + target->out_pos,
		                                       target->out.len - target->out_pos, &err);
		if (n < 0) {
			target_fail(session, "its new connection has ended: %s", err.message);
			return;
		}
		if (n == 0)
			break;
		target->out_pos += (size_t)n;
	}
	bool all = target->out_pos == target->out.len;
	if (all) {
		mem_wipe(target->out.data, target->out.len);
		buffer_free(&target->out);
		target->out_pos = 0;
	}
	watch_io(session->loop, &target->writable, !all);
	watch_io(session->loop, &target->readable, true);
}

/* ---- what a server says unasked ---- */

void
target_note(Target *target, const Frame *frame)
{
	if (frame->type == 'S' && target->reported.len + frame->payload.len <= REPORTED_MAX) {
		buffer_put_slice(&target->reported, frame->payload);
	} else if (frame->type == 'A' &&
	           target->for_client.len + frame->payload.len + FRAME_HEADER_SIZE <= FOR_CLIENT_MAX) {
		buffer_put_u8(&target->for_client, 'A');
		buffer_put_u32(&target->for_client, (uint32_t)frame->payload.len + 4);
		buffer_put_slice(&target->for_client, frame->payload);
	}
}

/* ---- the login ---- */

static void
begin_login(Session *session)
{
	Move *move = session->move;
	Target *target = &move->target;
	Error err = ERROR_INIT;

	target->state = TARGET_LOGIN;
	frame_reader_init(&target->in, (FrameLimits){64 * 1024, CARRIED_BYTES_MAX});
	bool keys = move->md5_secret == NULL && move->password == NULL && !move->keyless;
	/* Who has nothing to be kept from a wrong server is asked for nothing either. */
	const ConnInfo *demands = move->keyless ? NULL : target->endpoint->info;
	target->auth = auth_new(
		&(AuthOptions){.user = move->startup.user,
	                   .password = move->password,
	                   .scram_keys = keys ? &move->keys : NULL,
	                   .md5_secret = move->md5_secret,
	                   .channel_binding = demands ? conninfo_get(demands, "channel_binding") : NULL,
	                   .require_auth = demands ? conninfo_get(demands, "require_auth") : NULL,
	                   .tls = tls_is(&target->channel),
	                   .binding_data = tls_binding_data(&target->channel)},
		&err);
	if (target->auth == NULL) {
		target_fail(session, "it cannot log in on the other server: %s", err.message);
		return;
	}
	startup_put_for_server(
		&move->startup, login_database(session->loop->listener, &move->startup, target->endpoint),
		&target->out);
	target_flush(session);
}

/* What a session has at its beginning, as far as the plan must know it. */
static void
logged_in(Session *session)
{
	Move *move = session->move;
	Target *target = &move->target;
	ByteReader r = reader_of(buffer_slice(&target->reported));
	const char *encoding = NULL;

	while (reader_left(&r) > 0) {
		const char *name = read_cstr(&r), *value = read_cstr(&r);
		if (name == NULL || value == NULL)
			break;
		if (strcmp(name, "client_encoding") == 0)
			encoding = value;
	}
	auth_free(target->auth);
	target->auth = NULL;
	carried_init(&target->have);
	carried_add(&target->have, CARRIED_REPORT, "role", "none");
	carried_add(&target->have, CARRIED_REPORT, "session_authorization", move->startup.user);
	if (encoding != NULL)
		carried_add(&target->have, CARRIED_REPORT, "client_encoding", encoding);
	carried_complete(&target->have);
	target->state = TARGET_OPEN;
	touch(session);
	move_step(session);
}

static void
refused(Session *session, const Frame *frame)
{
	ServerReport report;
	Error err = ERROR_INIT;
	const char *text = "(no message)", *code = "?????";

	if (message_parse_report(frame->payload, &report, &err)) {
		text = report.message != NULL ? report.message : text;
		code = report.sqlstate != NULL ? report.sqlstate : code;
	}
	target_fail(session, "the other server refuses its login: %s (%s)", text, code);
}

static void
login_frame(Session *session, const Frame *frame)
{
	Target *target = &session->move->target;
	Error err = ERROR_INIT;
	uint32_t pid;
	Slice key;

	switch (frame->type) {
	case 'R':
		if (auth_step(target->auth, frame->payload, &target->out, &err) == AUTH_FAILED)
			target_fail(session, "the other server refuses its login: %s",
			            session->move->keyless ? "it asks for a password, and the client was let "
			                                     "in without one"
			                                   : err.message);
		else
			target_flush(session);
		break;
	case 'K':
		if (!message_parse_key(frame->payload, &pid, &key, &err) || key.len != SERVER_KEY_MAX) {
			target_fail(session, "the other server has sent a cancel key that cannot be");
			break;
		}
		target->pid = pid;
		memcpy(target->key, key.data, key.len);
		break;
	case 'S':
		target_note(target, frame);
		break;
	case 'E':
		refused(session, frame);
		break;
	case 'Z':
		logged_in(session);
		break;
	default:
		break;
	}
}

/* ---- what happens to its socket ---- */

static void
take_frame(Session *session, const Frame *frame)
{
	Target *target = &session->move->target;

	switch (target->state) {
	case TARGET_LOGIN:
		login_frame(session, frame);
		break;
	case TARGET_LEVELLING:
		level_frame(session, frame);
		break;
	default:
		if (frame->type == 'E')
			target_lost(session, "the other server has closed it");
		else
			target_note(target, frame);
	}
}

static void
read_target(Session *session)
{
	Target *target = &session->move->target;
	Error err = ERROR_INIT;
	size_t room, n;
	Frame frame;

	do {
		uint8_t *at = frame_reader_room(&target->in, &room);
		ssize_t got = target->channel.ops->read(&target->channel, at, room, &err);
		if (got < 0) {
			target_lost(session, err.message);
			return;
		}
		n = (size_t)got;
		frame_reader_received(&target->in, n);
		for (;;) {
			FrameResult result = frame_reader_next(&target->in, &frame, &err);
			if (result == FRAME_MORE)
				break;
			if (result == FRAME_BAD) {
				target_fail(session, "the other server sent what is no message: %s", err.message);
				return;
			}
			take_frame(session, &frame);
			/* It may be closed, and even be another one. */
			if (target->state < TARGET_LOGIN)
				return;
		}
	} while (n == room);
	if (frame_reader_buffered(&target->in) == 0 && target->state == TARGET_OPEN)
		frame_reader_free(&target->in); /* an idle one holds nothing */
}

void
target_look(Session *session)
{
	if (session->move->target.state == TARGET_OPEN)
		read_target(session);
}

static void link_went(Session *session, LinkResult result, const Error *err);

static void
on_target(struct ev_loop *ev UNUSED, ev_io *io, int events)
{
	Session *session = io->data;
	Target *target = &session->move->target;
	Error err = ERROR_INIT;

	if (target->state == TARGET_LINKING) {
		link_went(session, link_step(&target->link, &err), &err);
		return;
	}
	if ((events & EV_WRITE) != 0)
		target_flush(session);
	if ((events & EV_READ) != 0 && session_alive(session) && target->state >= TARGET_LOGIN)
		read_target(session);
}

static void
link_went(Session *session, LinkResult result, const Error *err)
{
	Target *target = &session->move->target;

	if (result == LINK_FAILED) {
		target_fail(session, "the other server cannot be reached: %s", err->message);
		return;
	}
	bool write = target->channel.read_wants == POLLOUT;
	watch_io(session->loop, &target->writable, result == LINK_WAIT && write);
	watch_io(session->loop, &target->readable, result == LINK_WAIT && !write);
	if (result == LINK_READY)
		begin_login(session);
}

void
target_open(Session *session, Endpoint *endpoint)
{
	Target *target = &session->move->target;
	Error err = ERROR_INIT;

	CHECK(target->state == TARGET_CLOSED);
	*target = (Target){.state = TARGET_LINKING, .channel = {.fd = -1}};
	target->endpoint = endpoint_share(endpoint);
	LinkResult result = link_begin(&target->link, &target->channel, target->endpoint, &err);
	ev_io_init(&target->readable, on_target, target->channel.fd, EV_READ);
	ev_io_init(&target->writable, on_target, target->channel.fd, EV_WRITE);
	target->readable.data = target->writable.data = session;
	touch(session);
	link_went(session, result, &err);
}
