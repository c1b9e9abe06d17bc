/*
 * saslprep.h: a password as SCRAM hashes it (RFC 4013, as PostgreSQL has it).
 *
 * PostgreSQL hashes the password's bytes as they are when they are ASCII, are
 * not valid UTF-8, or hold what SASLprep forbids; otherwise their NFKC form.
 *
 * Limit: no library of ours normalizes Unicode. Passwords whose NFKC form is
 * certainly themselves (letters of the scripts in saslprep.c, precomposed) are
 * taken as they are; non-ASCII spaces become spaces and the characters that
 * are mapped to nothing vanish. Any other is refused with ERROR_AUTH, since to
 * guess would only look like a wrong password.
 */
#ifndef PGBATON_PROTOCOL_SASLPREP_H
#define PGBATON_PROTOCOL_SASLPREP_H

#include <stdbool.h>

#include "common/attr.h"
#include "common/error.h"

/* *out: allocated; free with mem_wipe_free_cstr. */
MUST_CHECK bool saslprep(const char *password, char **out, Error *err);

#endif
