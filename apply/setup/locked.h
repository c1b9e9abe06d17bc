/*
 * locked.h: statements that need a lock stronger than a reader's (S1).
 *
 * The application queues behind whoever waits for a strong lock, so each try
 * waits only lock_timeout_ms, is given up, and is tried again after a pause with
 * jitter, until patience_ms are over. Who is in the way is logged, and named in
 * the error of the last try.
 */
#ifndef PGBATON_APPLY_SETUP_LOCKED_H
#define PGBATON_APPLY_SETUP_LOCKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "apply/sql.h"
#include "common/error.h"
#include "common/stop.h"

enum { LOCKED_TIMEOUT_MS = 500, LOCKED_PATIENCE_MS = 60000 };

typedef struct {
	Sql *sql;
	const char *what;        /* for people: "replica identity of public.t" */
	uint32_t relation;       /* whose lock is wanted, to name blockers; 0: any */
	int64_t lock_timeout_ms; /* 0: LOCKED_TIMEOUT_MS */
	int64_t patience_ms;     /* 0: LOCKED_PATIENCE_MS */
	const Stop *stop;        /* may be NULL */
} Locked;

/* Runs the statements (one implicit transaction). The session must not be in a
 * transaction. Errors other than lock waits and deadlocks are returned at once;
 * a lock that was not had in time is ERROR_TIMEOUT with SQLSTATE 55P03. */
MUST_CHECK bool locked_exec(const Locked *locked, const char *statements, Error *err);

/* Who holds or waits for locks on the relation (0: who has been in a transaction
 * that holds locks on tables here): "pid 12 (app as bob, idle in transaction for
 * 31 s: UPDATE t ...)", at most four, and as many prepared transactions. only_autovacuum (may be NULL) tells that nobody else
 * does. Empty when nobody is found or the server cannot be asked. */
void locked_blockers(Sql *sql, uint32_t relation, char *out, size_t size, bool *only_autovacuum);

/* A session as blockers are named: appends one to out. The columns are pid, user,
 * application, state, transaction's age in s, first 60 characters of the query. */
#define LOCKED_SESSION_COLUMNS                                                           \
	"a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''),"                  \
	" coalesce(a.state, a.backend_type, ''),"                                            \
	" coalesce(floor(extract(epoch FROM clock_timestamp() - a.xact_start)), 0)::bigint," \
	" left(regexp_replace(coalesce(a.query, ''), '\\s+', ' ', 'g'), 60), a.backend_type"

void locked_describe(const PGresult *sessions, int row, char *out, size_t size);

/* Prepared transactions likewise, all rows: "prepared transaction 'g' (of bob in shop, for 31 s)". */
#define LOCKED_PREPARED_COLUMNS                  \
	"quote_literal(p.gid), p.owner, p.database," \
	" floor(extract(epoch FROM clock_timestamp() - p.prepared))::bigint"

void locked_describe_prepared(const PGresult *prepared, char *out, size_t size);

/* Waits until those prepared transactions that now hold tables of this database have ended; later
 * ones are not waited for. ERROR_TIMEOUT names who is left at the deadline; ERROR_CANCELLED at stop. */
MUST_CHECK bool locked_await_prepared(Sql *sql, int64_t deadline_ms, const Stop *stop, Error *err);

/* For hints: how to end both. */
#define LOCKED_ENDING "SELECT pg_terminate_backend(PID), ROLLBACK PREPARED 'GID'"

#endif
