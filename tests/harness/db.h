/*
 * db.h: SQL in a line or two, for tests.
 *
 * Every function ends the test with ck_abort_msg when the server says no; the
 * text has the statement, the server's message and its SQLSTATE. Sessions have
 * the output settings that make values comparable between majors (datestyle
 * ISO, intervalstyle postgres, extra_float_digits 3, bytea_output hex, timezone
 * UTC). Texts that are returned are the caller's to free.
 */
#ifndef PGBATON_TESTS_HARNESS_DB_H
#define PGBATON_TESTS_HARNESS_DB_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/attr.h"
#include "tests/harness/cluster.h"

/* db NULL: postgres. Close with PQfinish. */
PGconn *db_connect(Cluster *cluster, const char *db);
PGconn *db_connect_uri(const char *conninfo);

/* CREATE DATABASE name (quoted), from template0. */
void db_create(Cluster *cluster, const char *name);

/* One or several statements; the results are dropped. */
void db_exec(PGconn *conn, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The first column of the first row; NULL when that is NULL or there is no row. */
char *db_value(PGconn *conn, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The same as a number; ends the test when it is none. */
int64_t db_int(PGconn *conn, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The same as a boolean: 't' is true, NULL and no row are false. */
bool db_true(PGconn *conn, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* All rows, as psql -At prints them: columns joined by '|', rows by '\n'. */
char *db_rows(PGconn *conn, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Expects the statement to fail with this SQLSTATE; the server's message is
 * returned. The transaction, if any, is the caller's to end. */
char *db_expect_error(PGconn *conn, const char *sqlstate, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The SQLSTATE of the failure, or "" when it worked: for writers that must live
 * with refusals. sqlstate[6] is filled; "08006" when the connection is gone. */
bool db_try(PGconn *conn, char sqlstate[6], const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Asks every 10 ms until the query's first value is true; ends the test after
 * timeout_s seconds, with the query and what it returned last. */
void db_wait_until(PGconn *conn, const char *sql, int timeout_s);

#endif
