#include "tests/harness/db.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/memory.h"

static void
ignore_notice(void *arg UNUSED, const PGresult *res UNUSED)
{
}

NORETURN static void
abort_sql(const char *sql, const char *sqlstate, const char *message)
{
	ck_abort_msg("SQL failed: %.1500s\n%.1500s(SQLSTATE %s)", sql, message, sqlstate);
	abort();
}

static const char *
state_of(const PGconn *conn, const PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	if (state != NULL)
		return state;
	return PQstatus(conn) == CONNECTION_BAD ? "08006" : "XX000";
}

static bool
succeeded(const PGresult *res)
{
	switch (PQresultStatus(res)) {
	case PGRES_COMMAND_OK:
	case PGRES_TUPLES_OK:
	case PGRES_EMPTY_QUERY:
		return true;
	default:
		return false;
	}
}

PGconn *
db_connect_uri(const char *conninfo)
{
	PGconn *conn = PQconnectdb(conninfo);

	if (PQstatus(conn) != CONNECTION_OK)
		ck_abort_msg("cannot connect: %s", PQerrorMessage(conn));
	PQsetNoticeReceiver(conn, ignore_notice, NULL);
	db_exec(conn, "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres';"
	              "SET extra_float_digits = 3; SET bytea_output = 'hex'; SET timezone = 'UTC'");
	return conn;
}

PGconn *
db_connect(Cluster *cluster, const char *db)
{
	return db_connect_uri(cluster_uri(cluster, db));
}

void
db_create(Cluster *cluster, const char *name)
{
	PGconn *conn = db_connect(cluster, NULL);
	char *quoted = PQescapeIdentifier(conn, name, strlen(name));

	db_exec(conn, "CREATE DATABASE %s TEMPLATE template0", quoted);
	PQfreemem(quoted);
	PQfinish(conn);
}

static char *format(const char *fmt, va_list args) PRINTF_LIKE(1, 0);
static PGresult *query(PGconn *conn, const char *fmt, va_list args) PRINTF_LIKE(2, 0);

static char *
format(const char *fmt, va_list args)
{
	char *out = NULL;

	if (vasprintf(&out, fmt, args) < 0)
		abort();
	return out;
}

/* The result of the last statement; ends the test on a failure. */
static PGresult *
query(PGconn *conn, const char *fmt, va_list args)
{
	char *sql = format(fmt, args);
	PGresult *res = PQexec(conn, sql);

	if (!succeeded(res))
		abort_sql(sql, state_of(conn, res), PQerrorMessage(conn));
	free(sql);
	return res;
}

void
db_exec(PGconn *conn, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	PQclear(query(conn, fmt, args));
	va_end(args);
}

static char *
first_value(PGresult *res)
{
	char *out = NULL;

	if (PQntuples(res) > 0 && PQnfields(res) > 0 && !PQgetisnull(res, 0, 0))
		out = mem_strdup(PQgetvalue(res, 0, 0));
	PQclear(res);
	return out;
}

char *
db_value(PGconn *conn, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	char *out = first_value(query(conn, fmt, args));
	va_end(args);
	return out;
}

int64_t
db_int(PGconn *conn, const char *fmt, ...)
{
	va_list args;
	char *end = NULL;

	va_start(args, fmt);
	char *text = first_value(query(conn, fmt, args));
	va_end(args);
	int64_t out = text != NULL ? strtoll(text, &end, 10) : 0;
	if (text == NULL || end == text || *end != '\0')
		ck_abort_msg("not a number: \"%s\" from %.1000s", text != NULL ? text : "NULL", fmt);
	free(text);
	return out;
}

bool
db_true(PGconn *conn, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	char *text = first_value(query(conn, fmt, args));
	va_end(args);
	bool out = text != NULL && strcmp(text, "t") == 0;
	free(text);
	return out;
}

char *
db_rows(PGconn *conn, const char *fmt, ...)
{
	Buffer text = BUFFER_INIT;
	va_list args;

	va_start(args, fmt);
	PGresult *res = query(conn, fmt, args);
	va_end(args);
	for (int row = 0; row < PQntuples(res); row++)
		for (int col = 0; col < PQnfields(res); col++) {
			buffer_put_text(&text, PQgetvalue(res, row, col));
			if (col + 1 < PQnfields(res))
				buffer_put_u8(&text, '|');
			else if (row + 1 < PQntuples(res))
				buffer_put_u8(&text, '\n');
		}
	PQclear(res);
	return buffer_cstr(&text);
}

char *
db_expect_error(PGconn *conn, const char *sqlstate, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	char *sql = format(fmt, args);
	va_end(args);
	PGresult *res = PQexec(conn, sql);
	if (succeeded(res))
		ck_abort_msg("expected SQLSTATE %s, but it worked: %.1500s", sqlstate, sql);
	if (strcmp(state_of(conn, res), sqlstate) != 0) {
		fprintf(stderr, "expected SQLSTATE %s\n", sqlstate);
		abort_sql(sql, state_of(conn, res), PQerrorMessage(conn));
	}
	char *message = mem_strdup(PQerrorMessage(conn));
	PQclear(res);
	free(sql);
	return message;
}

bool
db_try(PGconn *conn, char sqlstate[6], const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	char *sql = format(fmt, args);
	va_end(args);
	PGresult *res = PQexec(conn, sql);
	bool ok = succeeded(res);
	snprintf(sqlstate, 6, "%s", ok ? "" : state_of(conn, res));
	PQclear(res);
	free(sql);
	return ok;
}

/* What the server's sessions do, and for whom they wait. */
static void
show_activity(PGconn *conn)
{
	PGresult *rows = PQexec(
		conn, "SELECT pid, application_name, state, wait_event_type || '/' || wait_event,"
			  " pg_blocking_pids(pid), left(query, 120) FROM pg_stat_activity"
			  " WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY pid");

	for (int i = 0; i < PQntuples(rows); i++) {
		for (int k = 0; k < PQnfields(rows); k++)
			fprintf(stderr, "%s%s", k == 0 ? "--- " : " | ", PQgetvalue(rows, i, k));
		fprintf(stderr, "\n");
	}
	PQclear(rows);
}

void
db_wait_until(PGconn *conn, const char *sql, int timeout_s)
{
	int64_t deadline = deadline_in_ms((int64_t)timeout_s * 1000);

	for (;;) {
		char *value = db_value(conn, "%s", sql);
		bool done = value != NULL && strcmp(value, "t") == 0;
		if (!done && deadline_left_ms(deadline) == 0) {
			show_activity(conn);
			ck_abort_msg("not true within %d s (last: %.500s): %.1500s", timeout_s,
			             value != NULL ? value : "NULL", sql);
		}
		free(value);
		if (done)
			return;
		poll(NULL, 0, 10);
	}
}
