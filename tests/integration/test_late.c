/*
 * What no stream carries is on the target when it becomes live, and a cutover that cannot
 * bring it there is undone.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/unit/runner.h"

static Cluster *source_cluster;
static Cluster *target_cluster;

static void
start_clusters(void)
{
	source_cluster = cluster_start(&(ClusterOptions){.name = "source"});
	target_cluster = cluster_start(&(ClusterOptions){.name = "target"});
}

static void
stop_clusters(void)
{
	cluster_free(source_cluster);
	cluster_free(target_cluster);
}

typedef struct {
	PGconn *source;
	PGconn *target;
	char source_uri[160];
	char target_uri[160];
	Pgbaton *p;
} Case;

/* Triggers and keys that would act if the rows did not come in the replica role. */
static const char schema[] =
	"CREATE TABLE kept (id int PRIMARY KEY, v text);"
	"CREATE UNLOGGED TABLE fast (id int PRIMARY KEY, kept int REFERENCES kept, v text,"
	" twice int GENERATED ALWAYS AS (id * 2) STORED);"
	"CREATE UNLOGGED TABLE child (fast int REFERENCES fast, kind int) PARTITION BY LIST (kind);"
	"CREATE UNLOGGED TABLE child1 PARTITION OF child FOR VALUES IN (1);"
	"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
	" $$ BEGIN RAISE EXCEPTION 'the trigger acts'; END $$;"
	"CREATE TRIGGER refuse BEFORE TRUNCATE ON fast EXECUTE FUNCTION refuse();"
	"INSERT INTO kept SELECT i, 'k' FROM generate_series(1, 100) i;"
	"INSERT INTO fast SELECT i, i, 'before' FROM generate_series(1, 100) i;"
	"INSERT INTO child SELECT i, 1 FROM generate_series(1, 50) i;";

static const char writes[] =
	"UPDATE fast SET v = 'after' WHERE id % 2 = 0; DELETE FROM child WHERE fast < 20;"
	"DELETE FROM fast WHERE id = 1; INSERT INTO kept VALUES (200, 'new');"
	"INSERT INTO fast VALUES (200, 200, 'new'); INSERT INTO child VALUES (200, 1), (200, 1)";

static const char digest[] =
	"SELECT (SELECT md5(string_agg(f::text, ',' ORDER BY id)) FROM fast f),"
	" (SELECT string_agg(c::text, ',' ORDER BY fast) FROM child c)";

static void
case_open(Case *c, const char *name, const char *const *args)
{
	memset(c, 0, sizeof(*c));
	db_create(source_cluster, name);
	db_create(target_cluster, name);
	snprintf(c->source_uri, sizeof(c->source_uri), "%s", cluster_uri(source_cluster, name));
	snprintf(c->target_uri, sizeof(c->target_uri), "%s", cluster_uri(target_cluster, name));
	c->source = db_connect_uri(c->source_uri);
	c->target = db_connect_uri(c->target_uri);
	db_exec(c->source, "%s", schema);
	c->p = pgbaton_start(
		&(PgbatonOptions){.source = c->source_uri, .target = c->target_uri, .args = args});
	pgbaton_wait_state(c->p, "following", 60);
	db_exec(c->source, "%s", writes);
}

static void
case_finish(Case *c)
{
	char *out;

	ck_assert_int_eq(pgbaton_cli(c->p, &out, 60, "finish", NULL), 0);
	free(out);
	pgbaton_free(c->p);
	PQfinish(c->source);
	PQfinish(c->target);
}

static void
assert_equal(const Case *c)
{
	char *from = db_rows(c->source, "%s", digest);
	char *to = db_rows(c->target, "%s", digest);

	ck_assert_str_eq(from, to);
	ck_assert(strstr(from, "200") != NULL);
	free(from);
	free(to);
	/* A third one ENABLE ALWAYS or not: triggers are as they were. */
	free(db_expect_error(c->target, "P0001", "TRUNCATE fast CASCADE"));
	free(db_expect_error(c->source, "25006", "INSERT INTO fast VALUES (300, 1, 'late')"));
}

START_TEST(unlogged_rows_arrive)
{
	const char *args[] = {"--name", "late_rows", "--verify=checksums", NULL};
	char *out;
	Case c;

	case_open(&c, "late_rows", args);
	/* Behind by design: no difference to report. */
	int code = pgbaton_cli(c.p, &out, 60, "verify", NULL);
	ck_assert_msg(code == 0, "%s", out);
	free(out);
	code = pgbaton_cli(c.p, &out, 60, "cutover", NULL);
	ck_assert_msg(code == 0, "%s\n%s", out, pgbaton_log(c.p));
	free(out);
	assert_equal(&c);
	case_finish(&c);
}
END_TEST

/* Somebody reads the target's table for ever: the hold ends in time, the source goes on,
 * and the next cutover brings what was written since. */
START_TEST(undone_when_they_cannot_come)
{
	const char *args[] = {"--name", "late_undone", NULL};
	char *out;
	Case c;

	case_open(&c, "late_undone", args);
	db_exec(c.target, "BEGIN; SELECT count(*) FROM fast");
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "cutover", "--hold-timeout", "1.5", NULL), 1);
	ck_assert_msg(strstr(out, "unlogged tables") != NULL && strstr(out, "--hold-timeout") != NULL,
	              "%s", out);
	free(out);
	db_exec(c.source,
	        "INSERT INTO kept VALUES (201, 'x'); INSERT INTO fast VALUES (201, 201, 'x')");
	db_exec(c.target, "ROLLBACK");
	int code = pgbaton_cli(c.p, &out, 60, "cutover", NULL);
	ck_assert_msg(code == 0, "%s\n%s", out, pgbaton_log(c.p));
	free(out);
	assert_equal(&c);
	case_finish(&c);
}
END_TEST

START_TEST(skipped_and_named)
{
	const char *args[] = {"--name", "late_skipped", "--unlogged", "skip", NULL};
	char *out;
	Case c;

	case_open(&c, "late_skipped", args);
	const char *check[] = {"check",      "--source", c.source_uri, "--target", c.target_uri,
	                       "--unlogged", "skip",     "--name",     "other",    NULL};
	pgbaton_run(check, NULL, 60, &out);
	ck_assert_msg(strstr(out, "its rows are left out, as asked for") != NULL, "%s", out);
	free(out);
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "cutover", NULL), 0);
	free(out);
	ck_assert_int_eq(db_int(c.target, "SELECT count(*) FROM fast"), 0);
	ck_assert_int_eq(db_int(c.target, "SELECT count(*) FROM child"), 0);
	ck_assert_int_eq(db_int(c.target, "SELECT count(*) FROM kept"), 101);
	db_exec(c.source, "INSERT INTO fast VALUES (300, 1, 'mine')");
	case_finish(&c);
}
END_TEST

static Suite *
make_late(void)
{
	Suite *suite = suite_create("late");
	TCase *tests = tcase_create("late");

	tcase_add_unchecked_fixture(tests, start_clusters, stop_clusters);
	tcase_set_timeout(tests, 120);
	tcase_add_test(tests, unlogged_rows_arrive);
	tcase_add_test(tests, undone_when_they_cannot_come);
	tcase_add_test(tests, skipped_and_named);
	suite_add_tcase(suite, tests);
	return suite;
}
TEST_SUITE(make_late)
