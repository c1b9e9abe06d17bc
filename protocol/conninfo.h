/*
 * conninfo.h: what a connection string says, after all of libpq's defaults.
 *
 * Parsing is libpq's (PQconninfoParse and its environment, service file and
 * password file rules; PostgreSQL documentation, "Database Connection Control
 * Functions"); the connecting is ours (wire.h) or libpq's own (apply/sql.h).
 * The object owns its strings; password and key passphrase are wiped on free.
 */
#ifndef PGBATON_PROTOCOL_CONNINFO_H
#define PGBATON_PROTOCOL_CONNINFO_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

typedef struct ConnInfo ConnInfo;

/* text: a URI or keyword=value string. On failure NULL with ERROR_CONFIG, and
 * a message that never contains the string itself (it may hold a password). */
ConnInfo *conninfo_parse(const char *text, Error *err);
ConnInfo *conninfo_copy(const ConnInfo *info);
void conninfo_free(ConnInfo *info);

/* The effective value of a libpq keyword ("user", "sslmode", ...); NULL when
 * there is none. Lives as long as info or the next conninfo_set of it. */
const char *conninfo_get(const ConnInfo *info, const char *keyword);
/* The database that is asked for; as the server does, the user's name where none is said. */
const char *conninfo_database(const ConnInfo *info);
/* value NULL takes it out. keyword must be one of libpq's. */
void conninfo_set(ConnInfo *info, const char *keyword, const char *value);

/* "host:port/dbname as user", several hosts joined by commas; never a secret.
 * Lives as long as info. */
const char *conninfo_display(const ConnInfo *info);

/* One place to try, in order ("host=a,b port=5432,5433"). host starting with
 * '/' or '@' is a Unix socket directory. password: from the string, PGPASSWORD
 * or the password file's line for that very host; NULL: none. */
typedef struct {
	const char *host;     /* name for TLS and messages; never NULL */
	const char *hostaddr; /* numeric address to connect to instead, or NULL */
	const char *port;
	const char *password;
} ConnHost;

size_t conninfo_host_count(const ConnInfo *info);
ConnHost conninfo_host(const ConnInfo *info, size_t index);

/* NULL-terminated arrays for PQconnectStartParams, pointing into info;
 * free both arrays with free(). The service and password file have already
 * been resolved where they can be. */
void conninfo_libpq_params(const ConnInfo *info, const char ***keywords, const char ***values);

#endif
