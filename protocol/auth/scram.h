/*
 * scram.h: the client's half of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS.
 *
 * RFC 5802, RFC 7677, RFC 5929 (tls-server-end-point). No socket; hashes and
 * random bytes are OpenSSL's. Every key is wiped when it is no longer needed.
 */
#ifndef PGBATON_PROTOCOL_SCRAM_H
#define PGBATON_PROTOCOL_SCRAM_H

#include <stdbool.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/slice.h"
#include "protocol/auth/scram_keys.h"

/* A hostile server could otherwise keep us busy for hours before we know that
 * it is one. PostgreSQL's default is 4,096. */
#define SCRAM_ITERATIONS_MAX 1000000

typedef enum {
	SCRAM_BIND_UNSUPPORTED, /* "n": we cannot bind (no TLS, or told not to) */
	SCRAM_BIND_NOT_OFFERED, /* "y": we could, the server did not offer it; a server
	                           that did sees here that somebody cut its offer away */
	SCRAM_BIND_TLS          /* "p=tls-server-end-point" */
} ScramBinding;

typedef struct Scram Scram;

/* What a password comes down to for one salt and iteration count: enough to log in
 * wherever the verifier is byte for byte the same. */
typedef struct {
	uint8_t client_key[SCRAM_KEY_SIZE];
	uint8_t server_key[SCRAM_KEY_SIZE];
} ScramKeys;

typedef struct {
	const char *user;      /* PostgreSQL takes it from the startup message: "" */
	const char *password;  /* borrowed only during the call; SASLprep is done here */
	const ScramKeys *keys; /* instead of the password; copied */
	ScramBinding binding;
	Slice binding_data; /* for SCRAM_BIND_TLS: the certificate's hash; copied */
	const char *nonce;  /* NULL: random. For tests with an RFC's vectors. */
} ScramOptions;

Scram *scram_new(const ScramOptions *options, Error *err);
void scram_free(Scram *scram);

/* client-first-message */
void scram_first(const Scram *scram, Buffer *out);
/* server-first-message in, client-final-message out. */
MUST_CHECK bool scram_continue(Scram *scram, Slice server_first, Buffer *out, Error *err);
/* server-final-message: false unless it proves that the server knows the key. */
MUST_CHECK bool scram_finish(Scram *scram, Slice server_final, Error *err);

#endif
