/* admin_internal.h: shared by the files of the admin port. */
#ifndef PGBATON_PROXY_ADMIN_ADMIN_INTERNAL_H
#define PGBATON_PROXY_ADMIN_ADMIN_INTERNAL_H

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "proxy/admin/admin.h"

json_t *json_count(uint64_t n);
/* Mended where it is no UTF-8. */
json_t *json_text(const char *text);
/* {"class","message","context","sqlstate","hint"}, or null for no error. */
json_t *error_json(const Error *error);
/* "queued", "copying", "copied", "errored". */
const char *table_state_name(int state);
pthread_mutex_t *catalog_mutex(const Catalog *catalog);

/* ---- the tables of a status (status_tables.c) ---- */

/* As admin.h says; match is borrowed from the request. */
void status_tables_default(StatusTables *out);
/* One parameter of the request. False: the key is unknown, or the value no good. */
MUST_CHECK bool status_tables_set(StatusTables *which, const char *key, const char *value,
                                  Error *err);
/* The list; *matching: how many tables there are of what is asked for. catalog may be NULL. */
json_t *status_tables_json(const Catalog *catalog, const StatusTables *which, size_t *matching);

/* The page at /. */
extern const char admin_page[];

/* ---- who may ask (guard.c) ---- */

typedef struct {
	char host[256]; /* as configured, without brackets */
	int port;       /* as bound */
	bool loopback;
	bool wildcard; /* 0.0.0.0 or :: */
	char *token;   /* NULL: none is asked for */
} AdminGuard;

/* Host names the address listened on, with its port. */
bool guard_host_ok(const AdminGuard *guard, const char *host);
/* Origin is absent (NULL) or the very address that Host names. */
bool guard_origin_ok(const char *origin, const char *host);
/* "Bearer TOKEN", or "Basic" with the token as its password (for browsers). In constant
 * time but for the token's length. True when no token is asked for. */
bool guard_token_ok(const AdminGuard *guard, const char *authorization);

#endif
