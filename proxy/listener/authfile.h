/*
 * authfile.h: --auth-file: users and their secrets, as in pgbouncer's userlist.txt.
 *
 *   "user" "password, md5..., or SCRAM-SHA-256$..."
 *
 * one a line, a quote inside is doubled; what stands behind the second string is
 * ignored, and so are lines that begin with ; or #. Only the owner (and group) may
 * read the file.
 */
#ifndef PGBATON_PROXY_LISTENER_AUTHFILE_H
#define PGBATON_PROXY_LISTENER_AUTHFILE_H

#include <stdbool.h>

#include "protocol/auth/secret.h"

typedef struct AuthFile AuthFile;

/* ERROR_CONFIG names file and line, never a secret. */
AuthFile *authfile_load(const char *path, Error *err);
void authfile_free(AuthFile *file); /* wipes */
/* The user's secret, or NULL. A password gets its verifier when it is first asked for
 * (some ms). Not thread-safe. */
const Secret *authfile_find(AuthFile *file, const char *user);

#endif
