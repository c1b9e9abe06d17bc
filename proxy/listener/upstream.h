/*
 * upstream.h: the server that the route leads to: where it is, and what it keeps of a role.
 *
 * A thread with a libpq session of the migration's own role. libpq finds the server (several
 * hosts, target_session_attrs, names); the sessions then go to the very address, and with
 * TLS or without, as that session did. Each login is looked up in pg_authid anew, so a new
 * password counts at once; logins that wait at the same time are one query.
 */
#ifndef PGBATON_PROXY_LISTENER_UPSTREAM_H
#define PGBATON_PROXY_LISTENER_UPSTREAM_H

#include <libpq-fe.h>
#include <stdbool.h>

#include "protocol/auth/secret.h"
#include "protocol/channel/channel.h"
#include "protocol/channel/tls.h"
#include "proxy/listener/listener.h"

typedef struct Upstream Upstream;

/* A server's address. Shared and read only; the last one to release it frees it. */
typedef struct {
	ListenerRoute route;
	ChannelAddress address;
	const ConnInfo *info;
	char *host;     /* as libpq was told: for the certificate */
	TlsConfig *tls; /* NULL: connect without TLS */
	int users;      /* atomic */
} Endpoint;

Endpoint *endpoint_share(Endpoint *endpoint);
void endpoint_release(Endpoint *endpoint); /* NULL is allowed */
/* Where libpq's session ended up. */
Endpoint *endpoint_of(PGconn *conn, const ConnInfo *info, ListenerRoute route, Error *err);

typedef enum {
	LOGIN_VERIFIED,    /* we authenticate the client against `secret` */
	LOGIN_DOOMED,      /* no such role, or its password has expired: it is asked and refused */
	LOGIN_PASSED,      /* the server asks the client itself; `reason` says why */
	LOGIN_UNREACHABLE, /* `err` */
} LoginKind;

typedef struct {
	LoginKind kind;
	Secret secret;
	const char *reason;
	Endpoint *endpoint; /* a share; NULL when UNREACHABLE */
	Error err;
} LoginAnswer;

/* One question; done is called once, on the upstream's thread. */
typedef struct Question Question;
struct Question {
	Question *next;
	char user[64]; /* longer names are cut, as PostgreSQL does */
	void (*done)(Question *question);
	LoginAnswer answer;
};

/* options: trust and addresses are not looked at. */
Upstream *upstream_start(const ListenerOptions *options, Error *err);
/* Questions that wait are answered as unreachable first. */
void upstream_stop(Upstream *upstream);
void upstream_set_route(Upstream *upstream, ListenerRoute route);
/* The server process of the thread's own session, if it is on that route; else 0. */
uint32_t upstream_pid_on(Upstream *upstream, ListenerRoute route);
/* Waits while the route is NONE. */
void upstream_ask(Upstream *upstream, Question *question);

#endif
