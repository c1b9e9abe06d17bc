/*
 * auth.h: answers to the server's Authentication messages. No socket.
 *
 * trust, cleartext, md5, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS; GSS, SSPI and
 * Kerberos are refused with ERROR_AUTH. `require_auth` and `channel_binding`
 * are libpq's (documentation, "Parameter Key Words"). PostgreSQL documentation,
 * "Message Flow: Start-up" and "SASL Authentication".
 */
#ifndef PGBATON_PROTOCOL_AUTH_H
#define PGBATON_PROTOCOL_AUTH_H

#include <stdbool.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/slice.h"
#include "protocol/auth/scram.h"

typedef struct Auth Auth;

typedef struct {
	const char *user;
	const char *password;        /* NULL: none. Must outlive the Auth. */
	const ScramKeys *scram_keys; /* answers SCRAM without a password; or NULL. Must outlive. */
	const char *md5_secret;      /* 32 hex digits of a pg_authid entry, answers md5; or NULL */
	const char *channel_binding; /* disable, prefer, require; NULL: prefer */
	const char *require_auth;    /* "scram-sha-256,md5", "!password"; NULL: any */
	bool tls;
	Slice binding_data; /* tls-server-end-point; empty: not available. Must outlive. */
	const char *nonce;  /* NULL: random; for tests */
} AuthOptions;

/* ERROR_CONFIG when the options contradict each other. */
Auth *auth_new(const AuthOptions *options, Error *err);
void auth_free(Auth *auth);

typedef enum {
	AUTH_CONTINUE, /* send what was appended to reply (perhaps nothing), go on */
	AUTH_DONE,     /* AuthenticationOk, and it was earned as the options demand */
	AUTH_FAILED
} AuthStep;

/* payload: of one 'R' message. reply may hold secrets: wipe it once sent. */
AuthStep auth_step(Auth *auth, Slice payload, Buffer *reply, Error *err);

#endif
