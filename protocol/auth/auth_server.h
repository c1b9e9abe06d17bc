/*
 * auth_server.h: the server's half of a login, against a role's Secret. No socket.
 *
 * SCRAM-SHA-256 and, where there is a certificate, SCRAM-SHA-256-PLUS (RFC 5802,
 * 5929); md5 for roles whose secret is one, as PostgreSQL does. What it refuses
 * it refuses with PostgreSQL's SQLSTATEs and texts, in Error's sqlstate and
 * message, so that the client cannot tell the two apart.
 *
 * A client that has proved itself in SCRAM has told us its ClientKey: proof XOR
 * HMAC(StoredKey, AuthMessage). With it we log in as that client wherever the
 * verifier is the same.
 */
#ifndef PGBATON_PROTOCOL_AUTH_SERVER_H
#define PGBATON_PROTOCOL_AUTH_SERVER_H

#include <stdbool.h>

#include "common/bytes.h"
#include "common/error.h"
#include "protocol/auth/auth.h"
#include "protocol/auth/secret.h"

typedef struct AuthServer AuthServer;

typedef struct {
	const char *user;     /* for the texts; copied */
	const Secret *secret; /* SCRAM, MD5, or PLAIN with its verifier; copied */
	bool doomed;          /* goes through all steps and is refused (mock, expired) */
	bool tls;             /* the client's connection is encrypted */
	Slice binding_data;   /* tls-server-end-point of our certificate; empty: no PLUS; copied */
	const char *nonce;    /* NULL: random; for tests */
} AuthServerOptions;

/* Appends the first request to `request`. NULL without random bytes. */
AuthServer *auth_server_new(const AuthServerOptions *options, Buffer *request, Error *err);
void auth_server_free(AuthServer *auth); /* wipes */

/* payload of one 'p' message. AUTH_DONE: the client is who it says; AuthenticationOk
 * is not in reply yet. AUTH_FAILED: err has the SQLSTATE to answer with. */
AuthStep auth_server_step(AuthServer *auth, Slice payload, Buffer *reply, Error *err);

/* What the client has proved to know: how to log in as it. Exactly one is set, the
 * others are NULL. Lives as long as auth; only after AUTH_DONE. */
void auth_server_proved(const AuthServer *auth, const ScramKeys **keys, const char **md5_secret,
                        const char **password);

#endif
