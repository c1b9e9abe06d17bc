/*
 * The comparison of both sides: equal for every type and every order, different for
 * one changed, missing, surplus or doubled row.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/schema/target.h"
#include "tests/harness/skip.h"
#include "tests/unit/apply/servers.h"
#include "tests/unit/runner.h"

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, NULL);
}

static void
stop(void)
{
	cluster_free(cluster);
}

typedef struct {
	Sql *from;
	Sql *to;
	PGconn *target;
	Catalog *catalog;
} Job;

static void
job_open(Job *job, const char *source_sql, const char *target_sql)
{
	servers_clean(cluster);
	PGconn *source = db_connect(cluster, "source");
	db_exec(source, "%s", source_sql);
	PQfinish(source);
	job->target = db_connect(cluster, "target");
	db_exec(job->target, "%s", target_sql);
	job->from = servers_open(cluster, "source");
	job->to = servers_open(cluster, "target");
	job->catalog = servers_catalog(job->from);
}

static void
job_close(Job *job)
{
	catalog_free(job->catalog);
	sql_close(job->from);
	sql_close(job->to);
	PQfinish(job->target);
}

static const char types[] =
	"CREATE TYPE pair AS (a int, b text); CREATE TABLE nothing ();"
	"CREATE TABLE t (id int, t text, b bytea, n numeric, f float8, g float4, ts timestamptz,"
	" iv interval, j json, x xml, p pair, m money, pt point, r regclass, a text[],"
	" twice int GENERATED ALWAYS AS (id * 2) STORED);"
	"CREATE TABLE \"Q t\" (\"select\" int)";
static const char types_moved[] = /* another order of columns */
	"CREATE TYPE pair AS (a int, b text); CREATE TABLE nothing ();"
	"CREATE TABLE t (a text[], r regclass, twice int, pt point, m money, p pair, x xml, j json,"
	" iv interval, ts timestamptz, g float4, f float8, n numeric, b bytea, t text, id int);"
	"CREATE TABLE \"Q t\" (\"select\" int)";
static const char row1[] =
	"INSERT INTO t (id, t, b, n, f, g, ts, iv, j, x, p, m, pt, r, a) VALUES (1, 'a', '\\x00', 1.10,"
	" 0.1, 0.1, '2020-01-01 12:00+05', '1 mon', '{\"a\" : 1}', '<a/>', '(1,)', 12.34, '(0.1,2)',"
	" 'pg_class', '{a,NULL}');";
static const char row2[] = "INSERT INTO t (id) VALUES (2); INSERT INTO nothing DEFAULT VALUES;";

static bool
verify(const Job *job, VerifyKind kind, Error *err)
{
	*err = (Error)ERROR_INIT;
	return verify_tables(job->from, job->to, job->catalog, kind, false, err);
}

START_TEST(equal_whatever_the_order)
{
	char source[4000];
	char target[4000];
	Error err;
	Job job;

	snprintf(source, sizeof(source), "%s;%s%s", types, row1, row2);
	snprintf(target, sizeof(target), "%s;%s%s", types_moved, row2, row1);
	job_open(&job, source, target);
	ck_assert_msg(verify(&job, VERIFY_COUNTS, &err), "%s", servers_error(&err));
	ck_assert_msg(verify(&job, VERIFY_CHECKSUMS, &err), "%s", servers_error(&err));
	job_close(&job);
}
END_TEST

/* Counts equal, rows not: only checksums see it. */
static void
assert_seen(const char *change, bool by_counts)
{
	char source[4000];
	Error err;
	Job job;

	snprintf(source, sizeof(source), "%s;%s%s", types, row1, row2);
	job_open(&job, source, source);
	db_exec(job.target, "%s", change);
	ck_assert_msg(verify(&job, VERIFY_COUNTS, &err) == !by_counts, "counts, %s", change);
	ck_assert_msg(!verify(&job, VERIFY_CHECKSUMS, &err), "checksums, %s", change);
	ck_assert_int_eq(err.class, ERROR_DIVERGENCE);
	ck_assert_msg(strstr(err.message, "1 tables") != NULL &&
	                  strstr(err.message, "public.t") != NULL,
	              "%s", err.message);
	ck_assert(catalog_find(job.catalog, "public", "t")->error[0] != '\0');
	ck_assert(catalog_find(job.catalog, "public", "Q t")->error[0] == '\0');
	job_close(&job);
}

START_TEST(one_difference_is_seen)
{
	assert_seen("UPDATE t SET t = 'b' WHERE id = 1", false);
	assert_seen("UPDATE t SET t = '' WHERE id = 2", false); /* NULL is not '' */
	assert_seen(
		"UPDATE t SET f = 0.1 + 1e-17 WHERE id = 1; UPDATE t SET f = 0.10000000000000002 WHERE id = 1",
		false);
	assert_seen("UPDATE t SET n = 1.1 WHERE id = 1", false);
	assert_seen("DELETE FROM t WHERE id = 1", true);
	assert_seen("INSERT INTO t (id) VALUES (2)", true);
	assert_seen("INSERT INTO t (id) VALUES (3), (3)", true); /* an even number: xor is blind */
	assert_seen("DELETE FROM t WHERE id = 1; INSERT INTO t (id) VALUES (2)", false);
}
END_TEST

START_TEST(every_table_is_looked_at_and_sessions_stay_usable)
{
	Error err;
	Job job;

	job_open(&job,
	         "CREATE TABLE a (x int); CREATE TABLE b (x int); CREATE TABLE c (x int);"
	         "INSERT INTO a VALUES (1); INSERT INTO c VALUES (1)",
	         "CREATE TABLE a (x int); CREATE TABLE c (x int)");
	/* b is not on the target: an error of the query, not a difference. */
	ck_assert(!verify(&job, VERIFY_COUNTS, &err));
	ck_assert_str_eq(err.sqlstate, "42P01");
	db_exec(job.target, "CREATE TABLE b (x int)");
	ck_assert(!verify(&job, VERIFY_COUNTS, &err));
	ck_assert_msg(strstr(err.message, "2 tables") != NULL, "%s", err.message);
	ck_assert(strstr(catalog_find(job.catalog, "public", "c")->error, "1 rows on the source, 0") !=
	          NULL);
	job_close(&job);
}
END_TEST

/* The oldest source against the newest target that are here. */
START_TEST(majors_and_encodings_do_not_matter)
{
	char tables[4000];
	Error err;

	TEST_NEEDS_MAJOR(CLUSTER_OLDEST);
	TEST_NEEDS_MAJOR(CLUSTER_NEWEST);
	Cluster *old = servers_start(CLUSTER_OLDEST, NULL);
	Cluster *new = servers_start(CLUSTER_NEWEST, NULL);
	PGconn *admin = db_connect(old, "postgres");
	db_exec(admin, "DROP DATABASE source");
	db_exec(
		admin,
		"CREATE DATABASE source ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
	PQfinish(admin);
	snprintf(tables, sizeof(tables), "%s;%s%s UPDATE t SET t = chr(228)", types, row1, row2);
	PGconn *source = db_connect(old, "source");
	PGconn *target = db_connect(new, "target");
	db_exec(source, "SET client_encoding = 'UTF8'; %s", tables);
	db_exec(target, "%s", tables);
	Sql *from = servers_open(old, "source");
	Sql *to = servers_open(new, "target");
	Catalog *catalog = servers_catalog(from);
	ASSERT_OK(verify_tables(from, to, catalog, VERIFY_CHECKSUMS, false, &err));
	db_exec(target, "UPDATE t SET t = 'a'");
	ck_assert(!verify_tables(from, to, catalog, VERIFY_CHECKSUMS, false, &err));
	catalog_free(catalog);
	sql_close(from);
	sql_close(to);
	PQfinish(source);
	PQfinish(target);
	cluster_free(old);
	cluster_free(new);
}
END_TEST

static Suite *
make_verify(void)
{
	Suite *suite = suite_create("verify");
	TCase *tc = tcase_create("verify");

	tcase_add_unchecked_fixture(tc, start, stop);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, equal_whatever_the_order);
	tcase_add_test(tc, one_difference_is_seen);
	tcase_add_test(tc, every_table_is_looked_at_and_sessions_stay_usable);
	tcase_add_test(tc, majors_and_encodings_do_not_matter);
	suite_add_tcase(suite, tc);
	return suite;
}

TEST_SUITE(make_verify)
