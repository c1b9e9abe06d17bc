/* The login's other half: the connection to the server, and what it says until ReadyForQuery. */
#include <openssl/rand.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/memory.h"
#include "protocol/message/backend.h"
#include "protocol/message/message.h"
#include "proxy/listener/login.h"
#include "proxy/listener/move/move.h"

/* ---- connecting ---- */

bool
login_flush_server(Session *session)
{
	Login *login = session->login;
	Error err = ERROR_INIT;

	while (login->to_server_pos < login->to_server.len) {
		ssize_t n = session->server.ops->write(&session->server,
		                                       login->to_server.data + login->to_server_pos,
		                                       login->to_server.len - login->to_server_pos, &err);
		if (n < 0) {
			error_set_sqlstate(&err, "08006");
			session_refuse(session, &err);
			return false;
		}
		if (n == 0)
			break;
		login->to_server_pos += (size_t)n;
	}
	bool all = login->to_server_pos == login->to_server.len;
	if (all) {
		mem_wipe(login->to_server.data, login->to_server.len);
		buffer_reset(&login->to_server);
		login->to_server_pos = 0;
	}
	watch_io(session->loop, &session->server_write, !all);
	return true;
}

static void
watch_server(Session *session)
{
	short wants = session->server.read_wants;

	ev_io_stop(session->loop->ev, &session->server_read);
	ev_io_stop(session->loop->ev, &session->server_write);
	ev_io_set(&session->server_read, session->server.fd, EV_READ);
	ev_io_set(&session->server_write, session->server.fd, EV_WRITE);
	watch_io(session->loop, &session->server_read, wants == POLLIN);
	watch_io(session->loop, &session->server_write, wants == POLLOUT);
}

void
login_cannot_connect(Session *session, const Error *why)
{
	Error err = ERROR_INIT;

	watch_io(session->loop, &session->server_read, false);
	watch_io(session->loop, &session->server_write, false);
	log_info("listener", "%s: %s", session->who, why->message);
	error_set(&err, ERROR_NETWORK, "the database server cannot be reached: %s", why->message);
	error_set_sqlstate(&err, "57P03");
	login_refuse(session, &err);
}

static void
begin_server_login(Session *session)
{
	Login *login = session->login;
	const ConnInfo *info = login->endpoint->info;
	Error err = ERROR_INIT;

	session_set_state(session, SESSION_SERVER_LOGIN);
	frame_reader_init(&login->server_in, FRAME_LIMITS_STARTUP);
	if (!login->passed) {
		login->server_auth = auth_new(
			&(AuthOptions){.user = login->startup.user,
		                   .password = login->password,
		                   .scram_keys = login->md5_secret == NULL && login->password == NULL
		                                     ? &login->keys
		                                     : NULL,
		                   .md5_secret = login->md5_secret,
		                   .channel_binding = conninfo_get(info, "channel_binding"),
		                   .require_auth = conninfo_get(info, "require_auth"),
		                   .tls = tls_is(&session->server),
		                   .binding_data = tls_binding_data(&session->server)},
			&err);
		if (login->server_auth == NULL) {
			login_cannot_connect(session, &err);
			return;
		}
	}
	startup_put_for_server(
		&login->startup, login_database(session->loop->listener, &login->startup, login->endpoint),
		&login->to_server);
	if (login_flush_server(session))
		watch_server(session);
}

static void
link_went(Session *session, LinkResult result, Error *err)
{
	if (result == LINK_FAILED)
		login_cannot_connect(session, err);
	else if (result == LINK_READY)
		begin_server_login(session);
	else
		watch_server(session);
}

static const char *
moved_database(const Listener *listener)
{
	return conninfo_database(listener->options.source);
}

/* Another one of the same name on the target would be without its rows. */
static bool
is_migrated(const Session *session)
{
	return strcmp(session->login->startup.database, moved_database(session->loop->listener)) == 0;
}

/* Clients know the source's name of it, on both sides. */
const char *
login_database(const Listener *listener, const Startup *startup, const Endpoint *endpoint)
{
	const char *there = conninfo_database(endpoint->info);
	bool other_name = strcmp(startup->database, there) != 0 &&
	                  strcmp(startup->database, moved_database(listener)) == 0;

	return other_name ? there : NULL;
}

void
login_connect(Session *session)
{
	Login *login = session->login;
	Error err = ERROR_INIT;

	if (session->loop->holding) {
		session_set_state(session, SESSION_WAITING);
		return;
	}
	/* The route may have changed while it waited. */
	if (login->endpoint->route != session->loop->route) {
		login_begin(session);
		return;
	}
	if (login->endpoint->route == ROUTE_TARGET && !login->startup.replication &&
	    !is_migrated(session)) {
		char text[160];
		snprintf(text, sizeof(text),
		         "database \"%.80s\" is not the one that was moved to this server",
		         login->startup.database);
		login_refuse_with(session, "3D000", text, "connect to that database's own server");
		return;
	}
	session_set_state(session, SESSION_CONNECTING);
	session->route = login->endpoint->route;
	link_went(session, link_begin(&login->link, &session->server, login->endpoint, &err), &err);
}

/* ---- the server's messages ---- */

static void
put_frame(Buffer *out, const Frame *frame)
{
	buffer_put_u8(out, (uint8_t)frame->type);
	buffer_put_u32(out, (uint32_t)(frame->payload.len + 4));
	buffer_put_slice(out, frame->payload);
}

/* The server's offer without -PLUS: what it would bind to is our connection, not the
 * client's. */
static void
pass_mechanisms(Login *login, Slice list)
{
	ByteReader r = reader_of(list);
	Buffer kept = BUFFER_INIT;

	while (reader_left(&r) > 1) {
		const char *name = read_cstr(&r);
		if (r.failed)
			break;
		size_t len = strlen(name);
		if (len < 5 || strcmp(name + len - 5, "-PLUS") != 0)
			buffer_put_cstr(&kept, name);
	}
	buffer_put_u8(&kept, 0);
	backend_put_auth(&login->out, AUTH_REQUEST_SASL, buffer_slice(&kept));
	buffer_free(&kept);
}

/* The address alone does not do. What the client would tell the server we could not log in with on the
 * other one, so it proves itself to us instead, as from any address. */
static void
trust_no_more(Session *session)
{
	Login *login = session->login;

	login->trusted = login->passed = false;
	watch_io(session->loop, &session->server_read, false);
	watch_io(session->loop, &session->server_write, false);
	channel_close(&session->server);
	frame_reader_free(&login->server_in);
	login_begin(session);
}

static bool
pass_auth(Session *session, const Frame *frame)
{
	Login *login = session->login;
	ByteReader r = reader_of(frame->payload);
	uint32_t code = read_u32(&r);

	if ((code == AUTH_REQUEST_SASL || code == AUTH_REQUEST_MD5) && login->trusted &&
	    login->has_secret) {
		trust_no_more(session);
		return false;
	}
	if (code == AUTH_REQUEST_OK && !login->asked && !login->trusted) {
		/* The server trusts this host, not the client behind it. */
		login_refuse_with(
			session, "28000", "the server would let this role in from here without a password",
			"let pg_hba.conf ask for scram-sha-256 from pgbaton's address, or name the "
			"client's address with --listen-trust");
		return false;
	}
	if (code == AUTH_REQUEST_OK)
		login->proved = true;
	else
		login->asked = true;
	if (code == AUTH_REQUEST_SASL)
		pass_mechanisms(login, read_bytes(&r, reader_left(&r)));
	else
		put_frame(&login->out, frame);
	return true;
}

static bool
answer_auth(Session *session, const Frame *frame)
{
	Login *login = session->login;
	Error err = ERROR_INIT;

	if (login->passed)
		return pass_auth(session, frame);
	if (auth_step(login->server_auth, frame->payload, &login->to_server, &err) == AUTH_FAILED) {
		log_warning("listener", "%s: %s", session->who, err.message);
		error_set_sqlstate(&err, "28000");
		login_refuse(session, &err);
		return false;
	}
	return login_flush_server(session);
}

static bool
take_key(Session *session, const Frame *frame)
{
	Login *login = session->login;
	Error err = ERROR_INIT;
	Slice key;

	if (!message_parse_key(frame->payload, &session->pid, &key, &err) ||
	    key.len != SERVER_KEY_MAX) {
		session_close(session);
		return false;
	}
	memcpy(session->server_key, key.data, key.len);
	session->server_pid = session->pid;
	session->key_len = startup_key_size(&login->startup);
	CHECK(session->key_len <= KEY_MAX && RAND_bytes(session->key, (int)session->key_len) == 1);
	backend_put_key(&login->out, session->pid, slice_of(session->key, session->key_len));
	return true;
}

/* Whom the server has let in without asking anything, the other one may let in likewise; what
 * a client has answered to the server itself we do not know. */
static const char *
why_unmovable(const Session *session)
{
	const Login *login = session->login;

	if (login->startup.replication)
		return "it is a replication connection";
	if (!is_migrated(session))
		return "its database is not the one that is migrated";
	return login->passed && login->asked ? login->reason : NULL;
}

static void
logged_in(Session *session)
{
	Login *login = session->login;
	FrameReader *reader = &login->server_in;
	Slice from_client = buffer_slice(&login->in);
	Slice from_server = slice_of(reader->data + reader->pos, frame_reader_buffered(reader));

	session->unmovable = why_unmovable(session);
	if (session->unmovable != NULL)
		atomic_fetch_add(&session->loop->unmovable, 1);
	session->replicates = login->startup.replication;
	session->endpoint = endpoint_share(login->endpoint);
	move_keep(session);
	relay_begin(session,
	            slice_of(login->out.data + login->out_pos, login->out.len - login->out_pos),
	            from_server, from_client);
}

/* False: the session is not in its login any more. */
static bool
server_message(Session *session, const Frame *frame)
{
	Login *login = session->login;

	switch (frame->type) {
	case 'R':
		if (!login->proved || !login->passed)
			return answer_auth(session, frame);
		session_close(session);
		return false;
	case 'K':
		return take_key(session, frame);
	case 'E':
		put_frame(&login->out, frame);
		log_info("listener", "%s: refused by the server", session->who);
		atomic_fetch_add(&session->loop->listener->refused, 1);
		session_end(session);
		return false;
	case 'S':
	case 'N':
		put_frame(&login->out, frame);
		return true;
	case 'Z':
		put_frame(&login->out, frame);
		logged_in(session);
		return false;
	case 'v': /* we have asked for 3.0 and no extension */
		return true;
	default: {
		Error err = ERROR_INIT;
		error_set(&err, ERROR_PROTOCOL, "the server sent message '%c' in a login", frame->type);
		error_set_sqlstate(&err, "08P01");
		session_refuse(session, &err);
		return false;
	}
	}
}

static bool
take_frames(Session *session)
{
	Login *login = session->login;
	Error err = ERROR_INIT;
	Frame frame;

	for (;;) {
		FrameResult result = frame_reader_next(&login->server_in, &frame, &err);
		if (result == FRAME_MORE)
			return login_flush(session);
		if (result == FRAME_BAD) {
			error_set_sqlstate(&err, "08P01");
			session_refuse(session, &err);
			return false;
		}
		if (!server_message(session, &frame))
			return false;
	}
}

static void
read_server(Session *session)
{
	Login *login = session->login;
	Error err = ERROR_INIT;
	size_t room, n;

	do {
		uint8_t *at = frame_reader_room(&login->server_in, &room);
		ssize_t got = session->server.ops->read(&session->server, at, room, &err);
		if (got < 0) {
			error_set_sqlstate(&err, "08006");
			session_refuse(session, &err);
		}
		if (got <= 0)
			return;
		n = (size_t)got;
		frame_reader_received(&login->server_in, n);
		if (!take_frames(session))
			return;
	} while (n == room);
	login_pass_passwords(session);
}

void
login_server_event(Session *session)
{
	Login *login = session->login;
	Error err = ERROR_INIT;

	if (session->state == SESSION_CONNECTING)
		link_went(session, link_step(&login->link, &err), &err);
	else if (login_flush_server(session))
		read_server(session);
}
