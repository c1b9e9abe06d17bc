/*
 * From the startup packet to ReadyForQuery: the client. The server is login_server.c's.
 *
 * The client proves itself to us first, against the secret that the server keeps for its
 * role; what it has proved with logs us in on the server as that role. Where we have no
 * secret the server's own exchange is passed through. What the server says of the database,
 * of limits, of pg_hba.conf goes to the client as it came.
 */
#include "proxy/listener/login.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/memory.h"
#include "protocol/message/backend.h"
#include "protocol/message/message.h"

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

void
login_refuse(Session *session, const Error *err)
{
	atomic_fetch_add(&session->loop->listener->refused, 1);
	session_refuse(session, err);
}

void
login_refuse_with(Session *session, const char *sqlstate, const char *message, const char *hint)
{
	Error err = ERROR_INIT;

	error_set(&err, ERROR_AUTH, "%s", message);
	error_set_sqlstate(&err, sqlstate);
	if (hint != NULL)
		error_set_hint(&err, "%s", hint);
	login_refuse(session, &err);
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
		login_cannot_connect(session, &answer->err);
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
		login_refuse(session, &err);
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
		login_refuse_with(session, "08P01", text, NULL);
		return false;
	}
	if (in->len < FRAME_HEADER_SIZE)
		return false;
	ByteReader r = reader_of(slice_of(in->data + 1, 4));
	uint32_t length = read_u32(&r);
	if (length < 4 || length > LOGIN_INPUT_MAX - 1) {
		login_refuse_with(session, "08P01", "invalid message length", NULL);
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
			login_refuse(session, &err);
		} else if (step == AUTH_DONE) {
			client_proved(session);
		} else if (!login_flush(session)) {
			return;
		}
	}
}

void
login_pass_passwords(Session *session)
{
	Login *login = session->login;
	Slice payload;

	while (session->state == SESSION_SERVER_LOGIN && !login->proved && login->asked &&
	       password_message(session, &payload)) {
		buffer_put(&login->to_server, login->in.data, payload.len + FRAME_HEADER_SIZE);
		drop_message(login, payload.len);
		if (!login_flush_server(session))
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
		login_pass_passwords(session);
}
