/*
 * admin.h: the admin port: HTTP (libmicrohttpd) for status, metrics and commands.
 *
 *   GET  /v1/status   JSON (design.md, "The outside"); of the tables as many as the parameters say:
 *                     tables=N or all (default 100), offset=N, state=errored,copying,
 *                     match=TEXT (part of "schema.name"); 400 for others
 *   GET  /v1/sessions the listener's sessions, with what keeps one from being moved; asks
 *                     them, so it may take a second; 409 without a listener
 *   GET  /metrics     Prometheus text format
 *   GET  /healthz     200 while the process works, 503 after it failed
 *   GET  /readyz      200 when following or later, else 503
 *   GET  /            a page to watch it on
 *   POST /v1/{cutover,rehearse,verify,failback,finish,cancel,pause,resume,abort}
 *        202 {"accepted":true,"id":N}; 409 {"error":{...}}
 *   POST /v1/throttle {"copy_rate": BYTES a second, "max_source_lag_seconds": N or
 *        "max_source_lag_bytes": N}; what is not named stays, 0 is no limit
 *   POST /v1/{add-table,recopy} {"pattern": TEXT}
 *
 * Loopback needs no token; anywhere else --admin-token-file does, sent as
 * "Authorization: Bearer TOKEN". Host must be the address listened on or localhost, and an
 * Origin, if sent, its own: a page in a browser must not steer a migration. A request may say
 * which migration it means, in the headers below: 421 from another one.
 */
#ifndef PGBATON_PROXY_ADMIN_ADMIN_H
#define PGBATON_PROXY_ADMIN_ADMIN_H

#include <jansson.h>

#include "proxy/config.h"
#include "proxy/migration/migration.h"

#define ADMIN_HEADER_NAME "Pgbaton-Name"           /* --name */
#define ADMIN_HEADER_STATE_DIR "Pgbaton-State-Dir" /* as the status has it */

typedef struct Admin Admin;

/* Port 0 takes a free one; the port is logged and written to STATE_DIR/admin.port. */
Admin *admin_start(const Config *config, Migration *migration, Error *err);
int admin_port(const Admin *admin);
void admin_stop(Admin *admin);

/*
 * Which tables a status lists: of those that match, the `limit` first after `offset` in the order
 * errored, copying, queued, copied, within each the largest first. The list itself has the
 * largest first.
 */
typedef struct {
	size_t limit;
	size_t offset;
	unsigned states;   /* bits 1 << TableState; 0: all */
	const char *match; /* NULL: all */
} StatusTables;

/* The status document with all tables, or some; the caller owns the reference. */
json_t *status_json(const MigrationStatus *status);
json_t *status_json_some(const MigrationStatus *status, const StatusTables *which);
/* A list, for GET /v1/sessions. */
json_t *listener_sessions_json(const ListenerSession *sessions, size_t count);
/* malloc'd Prometheus text. */
char *status_metrics(const MigrationStatus *status);

#endif
