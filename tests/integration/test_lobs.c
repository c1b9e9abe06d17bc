/*
 * Large objects in a whole migration: what was written to them before, during and after the
 * copy is on the target when it becomes live, whoever we are there, however often we are
 * killed; and on the source again after a failback.
 */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/harness/skip.h"
#include "tests/unit/runner.h"

static Cluster *source_cluster;
static Cluster *target_cluster;

static void
start_majors(int source, int target)
{
	source_cluster = cluster_start(&(ClusterOptions){.name = "source", .major = source});
	target_cluster = cluster_start(&(ClusterOptions){.name = "target", .major = target});
}

static void
start_clusters(void)
{
	start_majors(0, 0);
}

static void
stop_clusters(void)
{
	cluster_free(source_cluster);
	cluster_free(target_cluster);
	source_cluster = target_cluster = NULL;
}

typedef struct {
	PGconn *source;
	PGconn *target;
	char source_uri[160];
	char target_uri[160];
	char *state_dir;
	Pgbaton *p;
	int code; /* of a cutover in another thread */
} Case;

/* The application's own kind: a row says which object it is. */
static const char schema[] =
	"CREATE TABLE doc (id int PRIMARY KEY, body oid); CREATE EXTENSION lo;"
	"INSERT INTO doc SELECT i, lo_from_bytea(1000 + i, decode(repeat(md5(i::text), i * 7), 'hex'))"
	" FROM generate_series(1, 300) i;"
	"SELECT lo_from_bytea(5000, decode(repeat('ab', 3000000), 'hex'));"
	"SELECT lo_from_bytea(5001, 'a'), lo_put(5001, 2500000, 'behind a hole'); SELECT lo_create(5002);"
	"ALTER LARGE OBJECT 1001 OWNER TO clerk; GRANT SELECT ON LARGE OBJECT 1002 TO PUBLIC;"
	"COMMENT ON LARGE OBJECT 1003 IS 'it''s one'";

static const char writes[] =
	"SELECT lo_put(5000, 2000000, 'changed'); SELECT lo_put(5001, 100, 'in the hole');"
	"SELECT lo_put(5002, 0, 'no longer empty'); SELECT lo_unlink(1010);"
	"DELETE FROM doc WHERE id = 10; INSERT INTO doc VALUES (900, lo_from_bytea(9000, 'new'));"
	"ALTER LARGE OBJECT 9000 OWNER TO clerk; REVOKE SELECT ON LARGE OBJECT 1002 FROM PUBLIC;"
	"COMMENT ON LARGE OBJECT 1003 IS NULL; ALTER LARGE OBJECT 1004 OWNER TO clerk;"
	"BEGIN; SELECT lo_truncate64(lo_open(1300, 131072), 100); COMMIT;";

static const char all_sql[] =
	"SELECT m.oid, pg_get_userbyid(m.lomowner), length(lo_get(m.oid)), md5(lo_get(m.oid)),"
	" obj_description(m.oid, 'pg_largeobject'), (SELECT string_agg(concat_ws('/',"
	" pg_get_userbyid(a.grantee), a.privilege_type), ' ' ORDER BY a.grantee, a.privilege_type)"
	" FROM aclexplode(coalesce(m.lomacl, acldefault('L', m.lomowner))) a)"
	" FROM pg_largeobject_metadata m ORDER BY m.oid";

static void
make_roles(Cluster *cluster)
{
	PGconn *conn = db_connect(cluster, "postgres");

	db_exec(conn, "DO $$ BEGIN CREATE ROLE clerk; EXCEPTION WHEN duplicate_object THEN END $$");
	PQfinish(conn);
}

static void
case_open(Case *c, const char *name)
{
	memset(c, 0, sizeof(*c));
	c->state_dir = scratch_dir_new(name);
	make_roles(source_cluster);
	make_roles(target_cluster);
	db_create(source_cluster, name);
	db_create(target_cluster, name);
	snprintf(c->source_uri, sizeof(c->source_uri), "%s", cluster_uri(source_cluster, name));
	snprintf(c->target_uri, sizeof(c->target_uri), "%s", cluster_uri(target_cluster, name));
	c->source = db_connect_uri(c->source_uri);
	c->target = db_connect_uri(c->target_uri);
	db_exec(c->source, "%s", schema);
}

static void
case_run(Case *c, const char *const *args, const char *const *env)
{
	c->p = pgbaton_start(&(PgbatonOptions){
		.source = c->source_uri,
		.target = c->target_uri,
		.args = args,
		.env = env,
		.state_dir = c->state_dir,
	});
}

static void
case_close(Case *c)
{
	pgbaton_free(c->p);
	PQfinish(c->source);
	PQfinish(c->target);
	scratch_dir_free(c->state_dir);
}

static void
expect_cli(Case *c, const char *command, const char *option)
{
	char *out;
	bool holds = strcmp(command, "cutover") == 0 || strcmp(command, "failback") == 0;
	/* All is compared in the hold, and a busy machine may take more than the usual time. */
	int code = holds ? pgbaton_cli(c->p, &out, 120, command, "--hold-timeout", "30", option, NULL)
	                 : pgbaton_cli(c->p, &out, 60, command, option, NULL);

	ck_assert_msg(code == 0, "%s: %s\n%s", command, out, pgbaton_log(c->p));
	free(out);
}

static void
assert_same(const Case *c)
{
	char *from = db_rows(c->source, "%s", all_sql);
	char *to = db_rows(c->target, "%s", all_sql);

	ck_assert_str_eq(from, to);
	free(from);
	free(to);
}

/* ---- the whole way, there and back ---- */

static void
there_and_back(const char *name)
{
	const char *args[] = {"--name", name, "--verify=checksums", "--failback", NULL};
	Case c;

	case_open(&c, name);
	case_run(&c, args, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	ck_assert_int_eq(pgbaton_status_int(c.p, "large_objects.objects"), 303);
	ck_assert_int_eq(pgbaton_status_int(c.p, "large_objects.objects_total"), 303);
	assert_same(&c);
	db_exec(c.source, "%s", writes);
	expect_cli(&c, "verify", NULL);

	expect_cli(&c, "cutover", "--rehearse");
	ck_assert_int_gt(pgbaton_status_int(c.p, "cutover.large_objects_differed"), 8);
	ck_assert_int_eq(db_int(c.target, "SELECT count(*) FROM pg_largeobject_metadata"), 303);
	ck_assert(db_true(c.target, "SELECT lo_get(5002) = ''"));

	expect_cli(&c, "cutover", NULL);
	ck_assert_int_eq(pgbaton_status_int(c.p, "cutover.large_objects"), 303);
	ck_assert_int_eq(pgbaton_status_int(c.p, "cutover.large_objects_differed"), 0);
	assert_same(&c);
	ck_assert(db_true(c.target, "SELECT lo_get(9000) = 'new'"));

	db_exec(c.target, "SELECT lo_put(5000, 10, 'there'); SELECT lo_unlink(1011);"
	                  "INSERT INTO doc VALUES (901, lo_from_bytea(9001, 'new there'))");
	db_wait_until(c.source, "SELECT EXISTS (SELECT 1 FROM doc WHERE id = 901)", 30);
	expect_cli(&c, "failback", NULL);
	assert_same(&c);
	ck_assert(db_true(c.source, "SELECT lo_get(9001) = 'new there'"));
	expect_cli(&c, "finish", NULL);
	case_close(&c);
}

START_TEST(changed_ones_arrive_and_return)
{
	there_and_back("lobs_way");
}
END_TEST

START_TEST(other_majors)
{
	TEST_NEEDS_MAJOR(12);
	TEST_NEEDS_MAJOR(18);
	start_majors(12, 18);
	there_and_back("lobs_majors");
	stop_clusters();
}
END_TEST

/* ---- as an ordinary user of the target ---- */

START_TEST(as_an_ordinary_user)
{
	const char *args[] = {"--name", "lobs_plain", "--verify=checksums", NULL};
	const char *check[] = {"check", "--source", NULL, "--target", NULL, NULL};
	char *out;
	Case c;

	case_open(&c, "lobs_plain");
	db_exec(c.target, "CREATE ROLE plain LOGIN; GRANT clerk, postgres TO plain;"
	                  "GRANT CREATE ON DATABASE lobs_plain TO plain; GRANT CREATE ON SCHEMA public"
	                  " TO plain; GRANT SET ON PARAMETER session_replication_role TO plain;"
	                  "CREATE EXTENSION lo");
	snprintf(c.target_uri, sizeof(c.target_uri), "%s user=plain",
	         cluster_socket_uri(target_cluster, "lobs_plain"));
	check[2] = c.source_uri;
	check[4] = c.target_uri;
	pgbaton_run(check, NULL, 60, &out);
	ck_assert_msg(strstr(out, "by lo_get") != NULL, "%s", out);
	free(out);
	db_exec(c.source, "DROP EXTENSION lo");
	case_run(&c, args, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	assert_same(&c);
	db_exec(c.source, "%s", writes);
	expect_cli(&c, "cutover", NULL);
	assert_same(&c);
	expect_cli(&c, "finish", NULL);
	case_close(&c);
}
END_TEST

/* ---- held ---- */

/* Somebody has the target's large objects for ever: the hold ends in time, the source goes on. */
static void
nothing_while_the_target_is_locked(Case *c)
{
	char *out;

	db_exec(c->target, "BEGIN; LOCK TABLE pg_catalog.pg_largeobject IN ACCESS EXCLUSIVE MODE");
	int code = pgbaton_cli(c->p, &out, 60, "cutover", "--rehearse", "--hold-timeout", "1.5", NULL);
	ck_assert_msg(code == 1 && strstr(out, "large objects") != NULL &&
	                  strstr(out, "--hold-timeout") != NULL,
	              "%s", out);
	free(out);
	db_exec(c->target, "ROLLBACK");
	db_exec(c->source, "SELECT lo_put(5002, 0, 'goes on'); INSERT INTO doc VALUES (800, 5002)");
}

static void *
ask_for_cutover(void *arg)
{
	Case *c = arg;

	c->code = pgbaton_cli(c->p, NULL, 60, "cutover", NULL);
	return NULL;
}

/* A transaction that has written nothing but a large object, open as the cutover begins. */
START_TEST(open_writers_are_waited_for)
{
	const char *args[] = {"--name", "lobs_held", "--hold-timeout", "30", NULL};
	Case c;

	case_open(&c, "lobs_held");
	case_run(&c, args, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	nothing_while_the_target_is_locked(&c);
	db_exec(c.source, "BEGIN; SELECT lo_put(5000, 10, 'at the last moment')");
	pthread_t thread;
	PGconn *watch = db_connect_uri(c.source_uri);
	ck_assert_int_eq(pthread_create(&thread, NULL, ask_for_cutover, &c), 0);
	db_wait_until(watch,
	              "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted"
	              " AND relation = 'pg_largeobject'::regclass)",
	              30);
	db_exec(c.source, "COMMIT");
	pthread_join(thread, NULL);
	ck_assert_msg(c.code == 0, "%s", pgbaton_log(c.p));
	assert_same(&c);
	ck_assert_int_eq(pgbaton_status_int(c.p, "cutover.large_objects_differed"), 1);
	expect_cli(&c, "finish", NULL);
	PQfinish(watch);
	case_close(&c);
}
END_TEST

/* ---- under a writer ---- */

typedef struct {
	Case *c;
	long acknowledged;
	char refused[6];
} Writer;

/* New ones, changed ones and gone ones, each with a row, until the old server refuses. */
static void *
write_on(void *arg)
{
	Writer *w = arg;
	PGconn *conn = db_connect_uri(w->c->source_uri);
	bool ok = true;

	for (long k = 1; ok; k++) {
		ok = db_try(conn, w->refused,
		            "BEGIN; SELECT lo_from_bytea((20000 + %ld)::oid, '%ld'),"
		            " lo_put(5000, (%ld * 4099) %% 2900000, '%ld');"
		            "SELECT lo_unlink(20000 + %ld) WHERE %ld %% 3 = 1;"
		            "INSERT INTO doc VALUES (20000 + %ld, 20000 + %ld); COMMIT",
		            k, k, k, k, k - 1, k - 1, k, k);
		if (ok)
			w->acknowledged = k;
	}
	PQfinish(conn);
	return NULL;
}

START_TEST(what_was_acknowledged_is_there)
{
	const char *args[] = {"--name", "lobs_written", "--hold-timeout", "10", NULL};
	pthread_t thread;
	Case c;

	case_open(&c, "lobs_written");
	Writer writer = {.c = &c};
	ck_assert_int_eq(pthread_create(&thread, NULL, write_on, &writer), 0);
	case_run(&c, args, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	expect_cli(&c, "cutover", NULL);
	pthread_join(thread, NULL);
	ck_assert_str_eq(writer.refused, "25006");
	ck_assert_int_gt(writer.acknowledged, 10);
	assert_same(&c);
	ck_assert_int_eq(db_int(c.target, "SELECT max(id) FROM doc"), 20000 + writer.acknowledged);
	ck_assert_int_eq(db_int(c.target,
	                        "SELECT count(*) FROM doc JOIN (SELECT oid, lo_get(oid) AS bytes FROM"
	                        " pg_largeobject_metadata WHERE oid > 20000 OFFSET 0) m ON m.oid = body"
	                        " WHERE m.bytes = convert_to((id - 20000)::text, 'UTF8')"),
	                 writer.acknowledged - (writer.acknowledged + 1) / 3);
	expect_cli(&c, "finish", NULL);
	case_close(&c);
}
END_TEST

/* ---- killed ---- */

static const char *const points[] = {"lobs_committed:1", "cutover_lobs"};

START_TEST(killed_and_gone_on)
{
	char name[32];
	char fault[64];
	Case c;

	snprintf(name, sizeof(name), "lobs_killed_%d", _i);
	snprintf(fault, sizeof(fault), "PGBATON_FAULT=%s", points[_i]);
	const char *args[] = {"--name", name, "--verify=checksums", NULL};
	const char *env[] = {fault, NULL};
	case_open(&c, name);
	case_run(&c, args, env);
	if (strncmp(points[_i], "cutover", 7) == 0) {
		pgbaton_wait_state(c.p, "following", 60);
		db_exec(c.source, "%s", writes);
		pgbaton_cli(c.p, NULL, 60, "cutover", NULL);
	}
	ck_assert_int_eq(pgbaton_wait_exit(c.p, 60), 128 + SIGKILL);
	pgbaton_free(c.p);
	case_run(&c, args, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	db_exec(c.source, "SELECT lo_put(1200, 0, 'after all')");
	expect_cli(&c, "cutover", NULL);
	assert_same(&c);
	expect_cli(&c, "finish", NULL);
	case_close(&c);
}
END_TEST

/* ---- offline ---- */

START_TEST(offline_ones_arrive)
{
	const char *args[] = {"--name",  "lobs_offline",       "--mode",
	                      "offline", "--verify=checksums", NULL};
	Case c;

	case_open(&c, "lobs_offline");
	case_run(&c, args, NULL);
	ck_assert_int_eq(pgbaton_wait_exit(c.p, 60), 0);
	assert_same(&c);
	case_close(&c);
}
END_TEST

/* ---- left out ---- */

START_TEST(skipped_and_named)
{
	const char *args[] = {"--name", "lobs_skipped", "--large-objects", "skip", NULL};
	char *out;
	Case c;

	case_open(&c, "lobs_skipped");
	db_exec(c.target, "SELECT lo_from_bytea(1001, 'mine')");
	const char *check[] = {"check", "--source", c.source_uri, "--target", c.target_uri, NULL};
	ck_assert_int_eq(pgbaton_run(check, NULL, 60, &out), 3);
	ck_assert_msg(strstr(out, "it has 1 large objects") != NULL, "%s", out);
	free(out);
	const char *skip[] = {"check",      "--source",        c.source_uri, "--target",
	                      c.target_uri, "--large-objects", "skip",       NULL};
	ck_assert_int_eq(pgbaton_run(skip, NULL, 60, &out), 0);
	ck_assert_msg(strstr(out, "303 large objects are left out, as asked for") != NULL, "%s", out);
	free(out);
	case_run(&c, args, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	expect_cli(&c, "cutover", NULL);
	ck_assert_int_eq(db_int(c.target, "SELECT count(*) FROM pg_largeobject_metadata"), 1);
	ck_assert(db_true(c.target, "SELECT lo_get(1001) = 'mine'"));
	expect_cli(&c, "finish", NULL);
	case_close(&c);
}
END_TEST

static Suite *
make_lobs(void)
{
	Suite *suite = suite_create("lobs");
	TCase *tests = tcase_create("lobs");
	TCase *majors = tcase_create("majors");

	tcase_add_unchecked_fixture(tests, start_clusters, stop_clusters);
	tcase_set_timeout(tests, 120);
	tcase_add_test(tests, changed_ones_arrive_and_return);
	tcase_add_test(tests, as_an_ordinary_user);
	tcase_add_test(tests, open_writers_are_waited_for);
	tcase_add_test(tests, what_was_acknowledged_is_there);
	tcase_add_loop_test(tests, killed_and_gone_on, 0, sizeof(points) / sizeof(points[0]));
	tcase_add_test(tests, offline_ones_arrive);
	tcase_add_test(tests, skipped_and_named);
	suite_add_tcase(suite, tests);
	tcase_set_timeout(majors, 120);
	tcase_add_test(majors, other_majors);
	suite_add_tcase(suite, majors);
	return suite;
}
TEST_SUITE(make_lobs)
