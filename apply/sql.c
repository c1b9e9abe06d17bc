#include "apply/sql.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"

struct Sql {
	PGconn *conn;
	const Stop *stop;
	char side[16];
	int64_t timeout_ms;
};

/* How long the server gets to end a statement that we cancelled. */
enum { CANCEL_GRACE_MS = 5000 };

/* Role and database settings of the user must not change what we read or write.
 * 42501 or 22023 here would be a server we do not know: an error. */
static const char session_settings[] =
	"SET statement_timeout = 0; SET lock_timeout = 0;"
	"SET idle_in_transaction_session_timeout = 0;"
	/* Of a session that lost us nobody hears for two hours, with all that it has locked. */
	"SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;"
	"SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';"
	"SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C';"
	"SET search_path = ''; SET row_security = off; SET default_transaction_read_only = off;"
	"SET default_transaction_isolation = 'read committed';"
	"SET standard_conforming_strings = on; SET array_nulls = on; SET xmloption = content;"
	"SET check_function_bodies = off;"
	/* Catalogue queries are estimated dear and run short: compiling them takes seconds. */
	"SET synchronous_commit = on; SET jit = off; SET client_min_messages = notice;";

static bool
silent(const char *text)
{
	return text == NULL || text[0] == '\0';
}

/* libpq's texts end in a newline and may have several lines: one line here. */
static void
put_line(char *out, size_t size, const char *text)
{
	size_t n = 0;
	for (; *text != '\0' && n + 1 < size; text++) {
		bool gap = *text == '\n' || *text == '\t';
		if (!gap || (n > 0 && out[n - 1] != ' '))
			out[n++] = gap ? ' ' : *text;
	}
	while (n > 0 && out[n - 1] == ' ')
		n--;
	out[n] = '\0';
}

/* The server has ended the session with it (57P01 and its like). libpq may not have read yet that the
 * connection is closed. */
static bool
is_last_word(const PGresult *result)
{
	const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);

	return severity != NULL && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0);
}

bool
sql_error_of(Sql *sql, const PGresult *result, Error *err)
{
	char line[900];
	const char *state = result != NULL ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
	bool lost = PQstatus(sql->conn) == CONNECTION_BAD || is_last_word(result);

	if (state == NULL) {
		put_line(line, sizeof(line), PQerrorMessage(sql->conn));
		error_set(err, lost ? ERROR_NETWORK : ERROR_PROTOCOL, "%s",
		          silent(line) ? "connection to the server was lost" : line);
		return error_add_context(err, "%s", sql->side);
	}

	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
	const char *context = PQresultErrorField(result, PG_DIAG_CONTEXT);
	char text[1400];

	snprintf(text, sizeof(text), "%s%s%s%s%s%s", silent(primary) ? "error" : primary,
	         silent(detail) ? "" : " (", silent(detail) ? "" : detail, silent(detail) ? "" : ")",
	         silent(context) ? "" : ", in ", silent(context) ? "" : context);
	put_line(line, sizeof(line), text);
	error_set(err, lost ? ERROR_NETWORK : ERROR_SQL, "%s", line);
	error_set_sqlstate(err, state);
	if (!silent(hint))
		error_set_hint(err, "%s", hint);
	return error_add_context(err, "%s", sql->side);
}

static bool
set_all(Sql *sql, Error *err)
{
	if (!sql_exec(sql, err, session_settings))
		return false;
	if (sql_server_version(sql) >= 170000 && !sql_exec(sql, err, "SET transaction_timeout = 0"))
		return false;
	return sql_server_version(sql) < 140000 || sql_exec(sql, err, "SET idle_session_timeout = 0");
}

bool
sql_rest_event_triggers(Sql *sql, Error *err)
{
	Error refused = ERROR_INIT;
	const char *text = sql_server_version(sql) >= 170000
	                       ? "SET session_replication_role = replica; SET event_triggers = off"
	                       : "SET session_replication_role = replica";

	if (sql_exec(sql, &refused, text) || error_has_sqlstate(&refused, "42501"))
		return true;
	if (err != NULL)
		*err = refused;
	return false;
}

/* libpq would print notices on stderr as they are: ours is one line an event. */
static void
on_notice(void *arg, const PGresult *result)
{
	const Sql *sql = arg;
	char line[900];
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	put_line(line, sizeof(line), primary != NULL ? primary : "");
	/* Our own statements' warnings are for the operator. */
	log_event(strncmp(line, "pgbaton: ", 9) == 0 ? LOG_WARNING : LOG_DEBUG, "sql", "%s: %s",
	          sql->side, line);
}

static bool
finish_connecting(Sql *sql, int64_t deadline_ms, Error *err)
{
	if (PQstatus(sql->conn) == CONNECTION_BAD)
		return false;

	for (PostgresPollingStatusType want = PGRES_POLLING_WRITING; want != PGRES_POLLING_OK;) {
		if (want == PGRES_POLLING_FAILED)
			return false;
		short events = want == PGRES_POLLING_READING ? POLLIN : POLLOUT;
		if (!stop_wait_fd(sql->stop, PQsocket(sql->conn), events, deadline_ms, err))
			return false;
		want = PQconnectPoll(sql->conn);
	}
	return true;
}

/* libpq's asynchronous connect does not keep connect_timeout: we do, for all
 * hosts together. */
static int64_t
connect_deadline(const ConnInfo *info)
{
	const char *text = conninfo_get(info, "connect_timeout");
	int64_t seconds = text != NULL ? atoll(text) : 0;

	if (seconds <= 0)
		return 0;
	if (seconds < 2)
		seconds = 2; /* as libpq */
	return deadline_in_ms(seconds * 1000 * (int64_t)conninfo_host_count(info));
}

Sql *
sql_connect(const ConnInfo *info, const char *side, const char *purpose, const Stop *stop,
            Error *err)
{
	Sql *sql = mem_zalloc(sizeof(Sql));
	ConnInfo *own = conninfo_copy(info);
	char name[64];
	const char **keywords;
	const char **values;
	const char *options = conninfo_get(info, "options");
	/* At the start already: a very short one would end session_settings. */
	char *all_options = mem_printf("%s%s-c statement_timeout=0", options != NULL ? options : "",
	                               options != NULL ? " " : "");

	snprintf(sql->side, sizeof(sql->side), "%s", side);
	sql->stop = stop;
	snprintf(name, sizeof(name), "pgbaton %s", purpose);
	conninfo_set(own, "application_name", name);
	conninfo_set(own, "client_encoding", "UTF8");
	conninfo_set(own, "options", all_options);
	conninfo_libpq_params(own, &keywords, &values);
	sql->conn = PQconnectStartParams(keywords, values, 0);
	CHECK(sql->conn != NULL);
	PQsetNoticeReceiver(sql->conn, on_notice, sql);
	free(keywords);
	free(values);
	free(all_options);
	conninfo_free(own);

	Error local = ERROR_INIT;
	bool ok = finish_connecting(sql, connect_deadline(info), &local);
	if (!ok && local.class == ERROR_NONE) {
		char line[900];
		put_line(line, sizeof(line), PQerrorMessage(sql->conn));
		error_set(&local, ERROR_NETWORK, "%s", line);
	}
	if (!ok)
		error_add_context(&local, "%s %s", side, conninfo_display(info));
	if (ok)
		ok = set_all(sql, &local);
	if (!ok) {
		if (err != NULL)
			*err = local;
		sql_close(sql);
		return NULL;
	}
	return sql;
}

void
sql_close(Sql *sql)
{
	if (sql == NULL)
		return;
	PQfinish(sql->conn);
	free(sql);
}

PGconn *
sql_pgconn(Sql *sql)
{
	return sql->conn;
}

int
sql_server_version(const Sql *sql)
{
	return PQserverVersion(sql->conn);
}

const char *
sql_side(const Sql *sql)
{
	return sql->side;
}

void
sql_set_timeout_ms(Sql *sql, int64_t timeout_ms)
{
	sql->timeout_ms = timeout_ms;
}

/* Cancels what runs and reads it to its end, so that the session can be used
 * again; a server that does not answer in time costs the session. */
static void
cancel_and_drain(Sql *sql)
{
	char ignored[256];
	PGcancel *cancel = PQgetCancel(sql->conn);
	int64_t deadline = deadline_in_ms(CANCEL_GRACE_MS);

	if (cancel != NULL)
		PQcancel(cancel, ignored, sizeof(ignored));
	PQfreeCancel(cancel);

	for (;;) {
		while (PQisBusy(sql->conn)) {
			if (!stop_wait_fd(NULL, PQsocket(sql->conn), POLLIN, deadline, NULL) ||
			    !PQconsumeInput(sql->conn))
				return;
		}
		PGresult *result = PQgetResult(sql->conn);
		ExecStatusType status = PQresultStatus(result);
		if (result == NULL)
			return;
		PQclear(result);
		if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH)
			return;
	}
}

bool
sql_next_result(Sql *sql, PGresult **result, Error *err)
{
	int64_t deadline = sql->timeout_ms > 0 ? deadline_in_ms(sql->timeout_ms) : 0;

	*result = NULL;
	for (;;) {
		int unsent = PQflush(sql->conn);
		if (unsent < 0)
			return sql_error_of(sql, NULL, err);
		if (unsent == 0 && !PQisBusy(sql->conn))
			break;
		short events = unsent > 0 ? POLLIN | POLLOUT : POLLIN;
		if (!stop_wait_fd(sql->stop, PQsocket(sql->conn), events, deadline, err)) {
			cancel_and_drain(sql);
			return error_add_context(err, "%s", sql->side);
		}
		if (!PQconsumeInput(sql->conn))
			return sql_error_of(sql, NULL, err);
	}
	*result = PQgetResult(sql->conn);
	return true;
}

/* Reads every result, keeps the last one; the first error wins. */
static PGresult *
collect(Sql *sql, Error *err)
{
	PGresult *last = NULL;
	bool failed = false;

	for (;;) {
		PGresult *next;
		if (!sql_next_result(sql, &next, failed ? NULL : err)) {
			PQclear(last);
			return NULL;
		}
		if (next == NULL)
			break;
		ExecStatusType status = PQresultStatus(next);
		if (status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE) {
			if (!failed)
				sql_error_of(sql, next, err);
			failed = true;
		} else if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT) {
			error_set(err, ERROR_BUG, "COPY through sql_query");
			PQclear(next);
			PQclear(last);
			return NULL;
		}
		PQclear(last);
		last = next;
	}
	if (failed || last == NULL) {
		if (!failed)
			sql_error_of(sql, NULL, err);
		PQclear(last);
		return NULL;
	}
	return last;
}

bool
sql_send(Sql *sql, Error *err, const char *text)
{
	return PQsendQuery(sql->conn, text) || sql_error_of(sql, NULL, err);
}

PGresult *
sql_receive(Sql *sql, Error *err)
{
	return collect(sql, err);
}

PGresult *
sql_query(Sql *sql, Error *err, const char *text)
{
	return sql_send(sql, err, text) ? sql_receive(sql, err) : NULL;
}

PGresult *
sql_query_params(Sql *sql, Error *err, const char *text, int count, const char *const *values)
{
	if (!PQsendQueryParams(sql->conn, text, count, NULL, values, NULL, NULL, 0)) {
		sql_error_of(sql, NULL, err);
		return NULL;
	}
	return collect(sql, err);
}

bool
sql_prepare(Sql *sql, Error *err, const char *name, const char *text)
{
	if (!PQsendPrepare(sql->conn, name, text, 0, NULL))
		return sql_error_of(sql, NULL, err);
	PGresult *result = collect(sql, err);
	PQclear(result);
	return result != NULL;
}

bool
sql_exec(Sql *sql, Error *err, const char *text)
{
	PGresult *result = sql_query(sql, err, text);
	if (result == NULL)
		return false;
	PQclear(result);
	return true;
}

bool
sql_execf(Sql *sql, Error *err, const char *fmt, ...)
{
	char *text;
	va_list args;

	va_start(args, fmt);
	int len = vasprintf(&text, fmt, args);
	va_end(args);
	CHECK(len >= 0);
	bool ok = sql_exec(sql, err, text);
	free(text);
	return ok;
}

PGresult *
sql_queryf(Sql *sql, Error *err, const char *fmt, ...)
{
	char *text;
	va_list args;

	va_start(args, fmt);
	int len = vasprintf(&text, fmt, args);
	va_end(args);
	CHECK(len >= 0);
	PGresult *result = sql_query(sql, err, text);
	free(text);
	return result;
}

bool
sql_value(Sql *sql, Error *err, char *out, size_t out_size, const char *text)
{
	PGresult *result = sql_query(sql, err, text);
	if (result == NULL)
		return false;
	bool one = PQntuples(result) == 1 && PQnfields(result) >= 1;
	if (one)
		snprintf(out, out_size, "%s", PQgetvalue(result, 0, 0));
	else
		error_set(err, ERROR_BUG, "%d rows where one was expected", PQntuples(result));
	PQclear(result);
	return one;
}

const char *
sql_get(const PGresult *result, int row, int column)
{
	return PQgetisnull(result, row, column) ? NULL : PQgetvalue(result, row, column);
}

int64_t
sql_get_int(const PGresult *result, int row, int column)
{
	return strtoll(PQgetvalue(result, row, column), NULL, 10);
}

bool
sql_get_bool(const PGresult *result, int row, int column)
{
	return PQgetvalue(result, row, column)[0] == 't';
}

Lsn
sql_get_lsn(const PGresult *result, int row, int column)
{
	Lsn lsn;
	return lsn_parse(PQgetvalue(result, row, column), &lsn) ? lsn : LSN_INVALID;
}
