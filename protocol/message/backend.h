/*
 * backend.h: messages of the server's side as whole messages in a buffer.
 *
 * PostgreSQL documentation, "Message Formats" and "Error and Notice Message
 * Fields".
 */
#ifndef PGBATON_PROTOCOL_BACKEND_H
#define PGBATON_PROTOCOL_BACKEND_H

#include <stdint.h>

#include "common/bytes.h"
#include "common/slice.h"

/* Authentication request codes. */
enum {
	AUTH_REQUEST_OK = 0,
	AUTH_REQUEST_MD5 = 5,
	AUTH_REQUEST_SASL = 10,
	AUTH_REQUEST_SASL_CONTINUE = 11,
	AUTH_REQUEST_SASL_FINAL = 12
};

/* 'E' with severity FATAL: the session ends behind it. hint may be NULL. */
void backend_put_fatal(Buffer *out, const char *sqlstate, const char *message, const char *hint);
/* 'R'; rest: what stands behind the code. */
void backend_put_auth(Buffer *out, uint32_t code, Slice rest);
/* 'K' */
void backend_put_key(Buffer *out, uint32_t pid, Slice key);
/* 'v'; options: zero-terminated names, one after the other. */
void backend_put_negotiate(Buffer *out, uint32_t newest_version, uint32_t option_count,
                           Slice options);

#endif
