/*
 * The first bytes of a client: which kind of connection it wants.
 *
 * TLS from the first byte (0x16), SSLRequest, GSSENCRequest (refused with N, the client
 * then asks for something else), CancelRequest, or the startup packet.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "protocol/message/message.h"
#include "proxy/listener/login.h"

enum { TLS_HELLO = 0x16, CHUNK = 1024 };

static void
refuse(Session *session, const char *sqlstate, const char *message, const char *hint)
{
	Error err = ERROR_INIT;

	error_set(&err, ERROR_PROTOCOL, "%s", message);
	error_set_sqlstate(&err, sqlstate);
	if (hint != NULL)
		error_set_hint(&err, "%s", hint);
	atomic_fetch_add(&session->loop->listener->refused, 1);
	session_refuse(session, &err);
}

/* ---- TLS ---- */

static void
handshake(Session *session)
{
	Error err = ERROR_INIT;
	TlsStep step = tls_handshake(&session->client, &err);

	if (step == TLS_STEP_WAIT) {
		bool write = session->client.read_wants == POLLOUT;
		watch_io(session->loop, &session->client_write, write);
		watch_io(session->loop, &session->client_read, !write);
		return;
	}
	watch_io(session->loop, &session->client_write, false);
	watch_io(session->loop, &session->client_read, true);
	bool direct = !session->login->tls_asked;
	if (step == TLS_STEP_DONE && direct && !tls_alpn_chosen(&session->client))
		error_set(&err, ERROR_PROTOCOL,
		          "direct TLS connection request without ALPN protocol negotiation");
	if (err.class != ERROR_NONE) {
		log_info("listener", "%s: %s", session->who, err.message);
		atomic_fetch_add(&session->loop->listener->refused, 1);
		session_close(session);
		return;
	}
	session->login->tls_asked = true;
	tls_read_ahead(&session->client);
	session_set_state(session, SESSION_GREETING);
	greet_readable(session);
}

static void
begin_handshake(Session *session)
{
	session_set_state(session, SESSION_TLS_HANDSHAKE);
	tls_server_begin(&session->client, session->loop->listener->tls);
	handshake(session);
}

/* The one byte that answers a request for encryption. */
static bool
answer_byte(Session *session, char answer)
{
	buffer_put_u8(&session->login->out, (uint8_t)answer);
	return login_flush(session);
}

static bool
may_use_tls(const Session *session)
{
	int family = 0;
	socklen_t length = sizeof(family);

	/* Never over a Unix socket, as on PostgreSQL. */
	return session->loop->listener->tls != NULL &&
	       getsockopt(session->client.fd, SOL_SOCKET, SO_DOMAIN, &family, &length) == 0 &&
	       family != AF_UNIX;
}

/* Exactly this packet may have come: what stands behind it was sent before the encryption,
 * by who knows whom (CVE-2021-23214). */
static void
take_ssl_request(Session *session)
{
	Login *login = session->login;
	bool offered = may_use_tls(session);

	if (login->in.len > 0) {
		refuse(session, "08P01", "received unencrypted data after SSL request",
		       "This could be either a client-software bug or evidence of an attempted "
		       "man-in-the-middle attack.");
		return;
	}
	login->tls_asked = true;
	if (answer_byte(session, offered ? 'S' : 'N') && offered)
		begin_handshake(session);
}

/* ---- the startup packet ---- */

static bool
tls_demanded(const Session *session)
{
	return session->loop->listener->options.tls == LISTEN_TLS_REQUIRE && may_use_tls(session) &&
	       !tls_is(&session->client);
}

static void
name_session(Session *session)
{
	const Startup *startup = &session->login->startup;
	char *who = mem_printf("%s@%s from %s", startup->user, startup->database, session->who);

	free(session->who);
	session->who = who;
}

static void
take_startup(Session *session)
{
	const Startup *startup = &session->login->startup;

	if (startup->kind == STARTUP_CANCEL) {
		cancel_begin(session, startup->pid, startup->key);
		return;
	}
	name_session(session);
	if (session->surplus)
		refuse(session, "53300", "sorry, too many clients already", NULL);
	else if (tls_demanded(session))
		refuse(session, "28000", "this listener takes only connections with TLS",
		       "use sslmode=require");
	else
		login_begin(session);
}

/* The packet leaves `in`; false: not understood or not all here. */
static bool
take_packet(Session *session)
{
	Login *login = session->login;
	Error err = ERROR_INIT;
	size_t used = 0;

	switch (startup_parse(buffer_slice(&login->in), &used, &login->startup, &err)) {
	case STARTUP_MORE:
		return false;
	case STARTUP_BAD:
		atomic_fetch_add(&session->loop->listener->refused, 1);
		session_refuse(session, &err);
		return false;
	case STARTUP_READY:
		break;
	}
	/* Parsed again where it stays: the strings point into it. */
	buffer_reset(&login->packet);
	buffer_put(&login->packet, login->in.data, used);
	buffer_consume(&login->in, used);
	CHECK(startup_parse(buffer_slice(&login->packet), &used, &login->startup, &err) ==
	      STARTUP_READY);
	return true;
}

static void
take_packets(Session *session)
{
	Login *login = session->login;

	while (session->state == SESSION_GREETING && take_packet(session)) {
		if (login->startup.kind == STARTUP_SSL && !login->tls_asked) {
			take_ssl_request(session);
		} else if (login->startup.kind == STARTUP_GSS && !login->gss_asked) {
			login->gss_asked = true;
			if (!answer_byte(session, 'N'))
				return;
		} else if (login->startup.kind == STARTUP_SSL || login->startup.kind == STARTUP_GSS) {
			refuse(session, "0A000",
			       "unsupported frontend protocol: encryption was asked for "
			       "already",
			       NULL);
		} else {
			take_startup(session);
		}
	}
}

/* 1: TLS at once; 0: not yet known; -1: no. Nothing is taken from the socket. */
static int
begins_with_tls(const Session *session)
{
	uint8_t first;
	ssize_t n = recv(session->client.fd, &first, 1, MSG_PEEK);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	return n == 1 && first == TLS_HELLO ? 1 : -1;
}

void
greet_readable(Session *session)
{
	Login *login = session->login;
	Error err = ERROR_INIT;

	if (session->state == SESSION_TLS_HANDSHAKE) {
		handshake(session);
		return;
	}
	if (login->in.len == 0 && !login->tls_asked && !login->gss_asked) {
		int tls = begins_with_tls(session);
		if (tls == 1 && may_use_tls(session))
			begin_handshake(session);
		if (tls == 0 || session->state != SESSION_GREETING)
			return;
	}
	while (session->state == SESSION_GREETING && login->in.len <= STARTUP_MAX) {
		uint8_t *room = buffer_reserve(&login->in, CHUNK);
		ssize_t n = session->client.ops->read(&session->client, room, CHUNK, &err);
		if (n < 0)
			session_close(session);
		if (n <= 0)
			return;
		login->in.len += (size_t)n;
		take_packets(session);
	}
}
