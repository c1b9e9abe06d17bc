/*
 * login.h: what a session needs until it is logged in, and not after. Shared by greet.c,
 * login.c and login_server.c only.
 */
#ifndef PGBATON_PROXY_LISTENER_LOGIN_H
#define PGBATON_PROXY_LISTENER_LOGIN_H

#include "protocol/auth/auth.h"
#include "protocol/auth/auth_server.h"
#include "protocol/message/frame.h"
#include "protocol/message/startup.h"
#include "proxy/listener/internal.h"
#include "proxy/listener/link.h"

/* Of a client that is not known yet: one SASL message is no longer on any server. */
enum { LOGIN_INPUT_MAX = 65536 };

/* Posted as a job when the question is answered; outlives a session that has gone. */
typedef struct {
	Question question; /* first: the question's address is this one's */
	Job job;
	Loop *loop;
	Session *session; /* NULL: it has gone meanwhile */
} Ask;

struct Login {
	int64_t started_ms;
	bool trusted;   /* its address is one of --listen-trust */
	bool tls_asked; /* SSLRequest and GSSENCRequest: each once */
	bool gss_asked;
	bool negotiated;    /* NegotiateProtocolVersion is sent, where it is due */
	bool has_secret;    /* we could authenticate the client */
	bool passed;        /* the server asks the client, we pass it on */
	bool asked;         /* passed: the server has asked for something */
	const char *reason; /* passed: why; static */
	bool proved;        /* the client has had its AuthenticationOk */
	Buffer in;          /* from the client, not yet understood */
	Buffer out;         /* for the client; out_pos of it is sent */
	size_t out_pos;
	Buffer packet; /* the startup packet; startup points into it */
	Startup startup;
	Ask *ask;
	Endpoint *endpoint;
	AuthServer *client_auth;     /* the client proves itself to us */
	Auth *server_auth;           /* we, as the client, to the server */
	char *md5_secret, *password; /* what server_auth points to; wiped */
	ScramKeys keys;
	Link link;
	FrameReader server_in;
	Buffer to_server;
	size_t to_server_pos;
};

void login_new(Session *session);
/* Sends what is in out; false: the session is closed. */
bool login_flush(Session *session);
/* Ends the session with an error of ours, and counts it. */
void login_refuse(Session *session, const Error *err);
void login_refuse_with(Session *session, const char *sqlstate, const char *message,
                       const char *hint);

/* What the client has answered to the server's own questions goes there. */
void login_pass_passwords(Session *session);

/* ---- login_server.c ---- */

/* Sends what is in to_server; false: the session is closed. */
bool login_flush_server(Session *session);
void login_cannot_connect(Session *session, const Error *why);

#endif
