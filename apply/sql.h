/*
 * sql.h: a libpq session that can be stopped and says errors our way.
 *
 * For catalogue queries, set-up and the lanes. One owner at a time. Every call
 * waits for the socket together with the stop (common/stop.h): a request to
 * stop cancels the statement on the server and returns ERROR_CANCELLED. A lost
 * connection is ERROR_NETWORK (with SQLSTATE where the server has said why it
 * ends the session), any other ErrorResponse ERROR_SQL with SQLSTATE, and its
 * detail and hint in the Error. Sessions are opened with
 * statement/lock/idle timeouts off, DateStyle ISO, IntervalStyle postgres,
 * extra_float_digits 3, bytea_output hex, lc_monetary C, client_encoding UTF8, an empty
 * search_path and row_security off (C5), whatever role and database say.
 */
#ifndef PGBATON_APPLY_SQL_H
#define PGBATON_APPLY_SQL_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/lsn.h"
#include "common/stop.h"
#include "protocol/conninfo.h"

typedef struct Sql Sql;

/* purpose ends up in application_name: "pgbaton PURPOSE". side ("source" or
 * "target") is named in errors. stop may be NULL and must outlive the session. */
Sql *sql_connect(const ConnInfo *info, const char *side, const char *purpose, const Stop *stop,
                 Error *err);
void sql_close(Sql *sql); /* NULL is allowed */

PGconn *sql_pgconn(Sql *sql);
int sql_server_version(const Sql *sql); /* 150018 style */
const char *sql_side(const Sql *sql);

/* Applies to every later call until changed; 0: none. At the deadline the
 * statement is cancelled: ERROR_TIMEOUT. */
void sql_set_timeout_ms(Sql *sql, int64_t timeout_ms);

/* Runs one or several statements, wants no rows. */
MUST_CHECK bool sql_exec(Sql *sql, Error *err, const char *text);
MUST_CHECK bool sql_execf(Sql *sql, Error *err, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Event triggers do not fire for this session from here on, as far as its user may ask for
 * that (before 17 those that are ENABLE ALWAYS do). */
MUST_CHECK bool sql_rest_event_triggers(Sql *sql, Error *err);
/* The last result; PQclear it. NULL on error. values: text parameters. */
PGresult *sql_query(Sql *sql, Error *err, const char *text);
/* The same in two halves, for what else can be done while the server works on it. */
MUST_CHECK bool sql_send(Sql *sql, Error *err, const char *text);
PGresult *sql_receive(Sql *sql, Error *err);
PGresult *sql_query_params(Sql *sql, Error *err, const char *text, int count,
                           const char *const *values);
PGresult *sql_queryf(Sql *sql, Error *err, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* One statement of any kind, also those that PREPARE does not take (BEGIN). */
MUST_CHECK bool sql_prepare(Sql *sql, Error *err, const char *name, const char *text);

/* First column of the only row, as text into out; false also when there is not
 * exactly one row. NULL gives "". */
MUST_CHECK bool sql_value(Sql *sql, Error *err, char *out, size_t out_size, const char *text);

/* Waits for the next result of what was sent with PQsendQuery... on
 * sql_pgconn, observing stop and timeout. *result NULL when there is no more. */
MUST_CHECK bool sql_next_result(Sql *sql, PGresult **result, Error *err);
/* Fills err from a failed result, or from the connection (result NULL). */
bool sql_error_of(Sql *sql, const PGresult *result, Error *err);

/* Text of row/column; NULL for SQL NULL. */
const char *sql_get(const PGresult *result, int row, int column);
int64_t sql_get_int(const PGresult *result, int row, int column); /* NULL: 0 */
bool sql_get_bool(const PGresult *result, int row, int column);
Lsn sql_get_lsn(const PGresult *result, int row, int column); /* NULL or bad: LSN_INVALID */

#endif
