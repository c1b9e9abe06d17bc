/*
 * scram_keys.h: what both halves of SCRAM-SHA-256 compute and read alike.
 *
 * RFC 5802, section 3; hashes are OpenSSL's. Whoever gets a key wipes it.
 */
#ifndef PGBATON_PROTOCOL_SCRAM_KEYS_H
#define PGBATON_PROTOCOL_SCRAM_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/attr.h"
#include "common/slice.h"

enum { SCRAM_KEY_SIZE = 32, SCRAM_SALT_MAX = 1024, SCRAM_NONCE_RAW = 18 };

/* False only when OpenSSL refuses (FIPS mode, out of memory). */
MUST_CHECK bool scram_hmac(const uint8_t key[SCRAM_KEY_SIZE], Slice text,
                           uint8_t out[SCRAM_KEY_SIZE]);
MUST_CHECK bool scram_sha256(Slice bytes, uint8_t out[SCRAM_KEY_SIZE]);
/* ClientKey and ServerKey of a password that saslprep has prepared. */
MUST_CHECK bool scram_derive(const char *prepared, Slice salt, int iterations,
                             uint8_t client_key[SCRAM_KEY_SIZE],
                             uint8_t server_key[SCRAM_KEY_SIZE]);

/* Allocated. */
char *scram_base64(Slice bytes);
/* The length, at most size; strict: -1 when it is not base64, empty or too long. */
int scram_base64_decode(Slice text, uint8_t *out, size_t size);
/* A nonce of printable characters, allocated; NULL without random bytes. */
char *scram_random_nonce(void);

/* Takes "x=value" up to the next comma off *rest; false if it is not there. */
MUST_CHECK bool scram_take_attribute(Slice *rest, char name, Slice *value);
/* Digits, 1 to 2^31 - 1. */
MUST_CHECK bool scram_parse_iterations(Slice text, int *out);

#endif
