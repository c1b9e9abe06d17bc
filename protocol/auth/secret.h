/*
 * secret.h: what a server keeps to recognise a role: a rolpassword of pg_authid,
 * or the second word of a line in pgbouncer's userlist.txt.
 *
 * "SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY", "md5" and 32 hex digits,
 * or the password itself. PostgreSQL documentation, "pg_authid"; its
 * src/backend/libpq/crypt.c decides which of the three it is. Whoever holds one
 * wipes it.
 */
#ifndef PGBATON_PROTOCOL_SECRET_H
#define PGBATON_PROTOCOL_SECRET_H

#include <stdbool.h>

#include "common/error.h"
#include "protocol/auth/scram.h"

typedef enum { SECRET_NONE, SECRET_SCRAM, SECRET_MD5, SECRET_PLAIN } SecretKind;

enum { SECRET_SALT_MAX = 128, SECRET_PLAIN_MAX = 1024 };

typedef struct {
	SecretKind kind;
	/* SCRAM, and PLAIN after secret_add_verifier */
	int iterations;
	char salt[SECRET_SALT_MAX]; /* base64, as it is sent */
	uint8_t stored_key[SCRAM_KEY_SIZE];
	uint8_t server_key[SCRAM_KEY_SIZE];
	char md5[33];                 /* MD5: the digits */
	char plain[SECRET_PLAIN_MAX]; /* PLAIN */
} Secret;

/* NULL or empty text: SECRET_NONE. False when it is too long to be kept. */
MUST_CHECK bool secret_parse(const char *text, Secret *out);
/* Makes a SCRAM verifier of a PLAIN secret with a random salt; costs some ms. */
MUST_CHECK bool secret_add_verifier(Secret *secret, Error *err);
/* What a role that is not there is asked with: the same salt each time, so that
 * nobody learns from it whether the role exists. As PostgreSQL's
 * scram_mock_salt: a hash of the name and of a nonce nobody knows. */
void secret_mock(const char *user, const uint8_t nonce[SCRAM_KEY_SIZE], Secret *out);
void secret_wipe(Secret *secret);

#endif
