/*
 * From the startup packet to ReadyForQuery.
 *
 * The client proves itself to us first, against the secret that the server keeps for its
 * role; what it has proved with logs us in on the server as that role. Where we have no
 * secret the server's own exchange is passed through. What the server says of the database,
 * of limits, of pg_hba.conf goes to the client as it came.
 */
#include "proxy/listener/login.h"

#include <openssl/rand.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "protocol/message/backend.h"
#include "protocol/message/message.h"
#include "proxy/listener/move/move.h"

static void
buffer_wipe_free(Buffer *buf)
{
	mem_wipe(buf->data, buf->len);
	buffer_free(buf);
}

void
login_new(Session *session)
{
	Login *login = mem_zalloc(sizeof(Login));
	struct sockaddr_storage peer = {0};
	socklen_t length = sizeof(peer);

	login->started_ms = session->since_ms;
	if (getpeername(session->client.fd, (struct sockaddr *)&peer, &length) == 0)
		login->trusted = trust_has(session->loop->listener->trust, &peer);
	session->login = login;
}

static void
free_answer(LoginAnswer *answer)
{
	secret_wipe(&answer->secret);
	endpoint_release(answer->endpoint);
	answer->endpoint = NULL;
}

void
login_free(Session *session)
{
	Login *login = session->login;

	if (login == NULL)
		return;
	if (login->ask != NULL)
		login->ask->session = NULL;
	buffer_wipe_free(&login->in);
	buffer_wipe_free(&login->out);
	buffer_free(&login->packet);
	buffer_wipe_free(&login->to_server);
	auth_server_free(login->client_auth);
	auth_free(login->server_auth);
	mem_wipe_free_cstr(login->md5_secret);
	mem_wipe_free_cstr(login->password);
	mem_wipe(&login->keys, sizeof(login->keys));
	frame_reader_free(&login->server_in);
	endpoint_release(login->endpoint);
	free(login);
	session->login = NULL;
}

/* ---- to the client ---- */

bool
login_flush(Session *session)
{
	Login *login = session->login;
	Error err = ERROR_INIT;

	while (login->out_pos < login->out.len) {
		ssize_t n = session->client.ops->write(&session->client, login->out.data + login->out_pos,
		                                       login->out.len - login->out_pos, &err);
		if (n < 0) {
			session_close(session);
			return false;
		}
		if (n == 0)
			break;
		login->out_pos += (size_t)n;
	}
	bool all = login->out_pos == login->out.len;
	if (all) {
		mem_wipe(login->out.data, login->out.len);
		buffer_reset(&login->out);
		login->out_pos = 0;
	}
	watch_io(session->loop, &session->client_write, !all);
	if (all && session->state == SESSION_CLOSING)
		session_flushed(session);
	return session_alive(session);
}

void
login_client_writable(Session *session)
{
	(void)login_flush(session);
}

static void
refuse(Session *session, const Error *err)
{
	atomic_fetch_add(&session->loop->listener->refused, 1);
	session_refuse(session, err);
}

static void
refuse_with(Session *session, const char *sqlstate, const char *message, const char *hint)
{
	Error err = ERROR_INIT;

	error_set(&err, ERROR_AUTH, "%s", message);
	error_set_sqlstate(&err, sqlstate);
	if (hint != NULL)
		error_set_hint(&err, "%s", hint);
	refuse(session, &err);
}

/* ---- to the server ---- */

static bool
flush_server(Session *session)
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

static void
cannot_connect(Session *session, const Error *why)
{
	Error err = ERROR_INIT;

	watch_io(session->loop, &session->server_read, false);
	watch_io(session->loop, &session->server_write, false);
	log_info("listener", "%s: %s", session->who, why->message);
	error_set(&err, ERROR_NETWORK, "the database server cannot be reached: %s", why->message);
	error_set_sqlstate(&err, "57P03");
	refuse(session, &err);
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
			cannot_connect(session, &err);
			return;
		}
	}
	startup_put_for_server(
		&login->startup, login_database(session->loop->listener, &login->startup, login->endpoint),
		&login->to_server);
	if (flush_server(session))
		watch_server(session);
}

static void
link_went(Session *session, LinkResult result, Error *err)
{
	if (result == LINK_FAILED)
		cannot_connect(session, err);
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
		refuse_with(session, "3D000", text, "connect to that database's own server");
		return;
	}
	session_set_state(session, SESSION_CONNECTING);
	session->route = login->endpoint->route;
	link_went(session, link_begin(&login->link, &session->server, login->endpoint, &err), &err);
}

/* ---- what the upstream knows of the role ---- */

/* Which way the client is authenticated, and what we shall log in with. */
static void
take_answer(Session *session, LoginAnswer *answer)
{
	Login *login = session->login;
	Error err = ERROR_INIT;
	bool tls = tls_is(&session->client);

	if (answer->kind == LOGIN_UNREACHABLE) {
		cannot_connect(session, &answer->err);
		return;
	}
	endpoint_release(login->endpoint);
	login->endpoint = endpoint_share(answer->endpoint);
	if (login->proved || login->passed) { /* asked once more, since the route has changed */
		login_connect(session);
		return;
	}
	if (startup_negotiates(&login->startup) && !login->negotiated)
		startup_put_negotiate(&login->startup, &login->out);
	login->negotiated = true;
	login->has_secret = answer->kind == LOGIN_VERIFIED;
	if (answer->kind == LOGIN_PASSED || (login->trusted && answer->secret.kind != SECRET_PLAIN)) {
		login->passed = true;
		login->reason = answer->kind == LOGIN_PASSED
		                    ? answer->reason
		                    : "its address is trusted, but its server has asked for a password";
		login_connect(session);
		return;
	}
	if (login->trusted && answer->kind == LOGIN_VERIFIED) {
		login->password = mem_strdup(answer->secret.plain);
		login->proved = true;
		backend_put_auth(&login->out, AUTH_REQUEST_OK, SLICE_EMPTY);
		if (login_flush(session))
			login_connect(session);
		return;
	}
	session_set_state(session, SESSION_AUTHENTICATING);
	login->client_auth = auth_server_new(
		&(AuthServerOptions){.user = login->startup.user,
	                         .secret = &answer->secret,
	                         .doomed = answer->kind == LOGIN_DOOMED,
	                         .tls = tls,
	                         .binding_data = tls ? tls_server_binding(session->loop->listener->tls)
	                                             : SLICE_EMPTY},
		&login->out, &err);
	if (login->client_auth == NULL)
		refuse(session, &err);
	else if (login_flush(session))
		login_client_readable(session); /* TLS may have bytes that epoll cannot see */
}

static void
run_answer(Loop *loop UNUSED, Job *job)
{
	Ask *ask = (Ask *)((char *)job - offsetof(Ask, job));
	Session *session = ask->session;

	if (session != NULL) {
		session->login->ask = NULL;
		take_answer(session, &ask->question.answer);
	}
	free_answer(&ask->question.answer);
	free(ask);
}

/* On the upstream's thread. */
static void
answered(Question *question)
{
	Ask *ask = (Ask *)question;

	loop_post(ask->loop, &ask->job);
}

void
login_begin(Session *session)
{
	Login *login = session->login;
	Ask *ask = mem_zalloc(sizeof(Ask));

	session_set_state(session, SESSION_ASKING);
	ask->question.done = answered;
	ask->job.run = run_answer;
	ask->loop = session->loop;
	ask->session = session;
	snprintf(ask->question.user, sizeof(ask->question.user), "%s", login->startup.user);
	login->ask = ask;
	upstream_ask(session->loop->listener->upstream, &ask->question);
}

/* ---- the client's answers ---- */

static void
client_proved(Session *session)
{
	Login *login = session->login;
	const ScramKeys *keys;
	const char *md5_secret, *password;

	auth_server_proved(login->client_auth, &keys, &md5_secret, &password);
	if (keys != NULL)
		login->keys = *keys;
	login->md5_secret = md5_secret != NULL ? mem_strdup(md5_secret) : NULL;
	login->password = password != NULL ? mem_strdup(password) : NULL;
	auth_server_free(login->client_auth);
	login->client_auth = NULL;
	login->proved = true;
	backend_put_auth(&login->out, AUTH_REQUEST_OK, SLICE_EMPTY);
	if (login_flush(session))
		login_connect(session);
}

/* One whole 'p' message in `in`: payload without header; false: not here, or refused. */
static bool
password_message(Session *session, Slice *payload)
{
	const Buffer *in = &session->login->in;

	if (in->len > 0 && in->data[0] != 'p') {
		char text[80];
		snprintf(text, sizeof(text), "expected password response, got message type %d",
		         in->data[0]);
		refuse_with(session, "08P01", text, NULL);
		return false;
	}
	if (in->len < FRAME_HEADER_SIZE)
		return false;
	ByteReader r = reader_of(slice_of(in->data + 1, 4));
	uint32_t length = read_u32(&r);
	if (length < 4 || length > LOGIN_INPUT_MAX - 1) {
		refuse_with(session, "08P01", "invalid message length", NULL);
		return false;
	}
	if (in->len - 1 < length)
		return false;
	*payload = slice_of(in->data + FRAME_HEADER_SIZE, length - 4);
	return true;
}

static void
drop_message(Login *login, size_t payload)
{
	mem_wipe(login->in.data, payload + FRAME_HEADER_SIZE);
	buffer_consume(&login->in, payload + FRAME_HEADER_SIZE);
}

static void
authenticate(Session *session)
{
	Login *login = session->login;
	Slice payload;

	while (session->state == SESSION_AUTHENTICATING && password_message(session, &payload)) {
		Error err = ERROR_INIT;
		AuthStep step = auth_server_step(login->client_auth, payload, &login->out, &err);

		drop_message(login, payload.len);
		if (step == AUTH_FAILED) {
			log_info("listener", "%s: %s", session->who, err.message);
			refuse(session, &err);
		} else if (step == AUTH_DONE) {
			client_proved(session);
		} else if (!login_flush(session)) {
			return;
		}
	}
}

static void
pass_passwords_on(Session *session)
{
	Login *login = session->login;
	Slice payload;

	while (session->state == SESSION_SERVER_LOGIN && !login->proved && login->asked &&
	       password_message(session, &payload)) {
		buffer_put(&login->to_server, login->in.data, payload.len + FRAME_HEADER_SIZE);
		drop_message(login, payload.len);
		if (!flush_server(session))
			return;
	}
}

void
login_client_readable(Session *session)
{
	enum { CHUNK = 4096 };
	Login *login = session->login;
	Error err = ERROR_INIT;
	ssize_t n;

	do {
		if (login->in.len + CHUNK > LOGIN_INPUT_MAX) {
			watch_io(session->loop, &session->client_read, false);
			return;
		}
		uint8_t *room = buffer_reserve(&login->in, CHUNK);
		n = session->client.ops->read(&session->client, room, CHUNK, &err);
		if (n < 0) {
			session_close(session);
			return;
		}
		login->in.len += (size_t)n;
	} while (n == CHUNK);
	if (session->state == SESSION_AUTHENTICATING)
		authenticate(session);
	else
		pass_passwords_on(session);
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
		refuse_with(session, "28000",
		            "the server would let this role in from here without a password",
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
		refuse(session, &err);
		return false;
	}
	return flush_server(session);
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
	pass_passwords_on(session);
}

void
login_server_event(Session *session)
{
	Login *login = session->login;
	Error err = ERROR_INIT;

	if (session->state == SESSION_CONNECTING)
		link_went(session, link_step(&login->link, &err), &err);
	else if (flush_server(session))
		read_server(session);
}
