/*
 * What can be wrong from outside: each has a clear error (what, where, what to do), the right
 * exit code or state, and loses nothing.
 */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/harness/skip.h"
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

/* ---- before anything is begun: exit codes and texts ---- */

static void
expect_text(const char *out, const char *wanted)
{
	ck_assert_msg(strcasestr(out, wanted) != NULL, "\"%s\" is not in: %s", wanted, out);
}

/* `run` must end by itself with the code, and say each of the texts (NULL at the end). */
static void
expect_run(int code, const char *source, const char *target, const char *const args[],
           const char *const texts[])
{
	Pgbaton *p = pgbaton_start(&(PgbatonOptions){.source = source, .target = target, .args = args});
	int ended = pgbaton_wait_exit(p, 60);
	const char *log = pgbaton_log(p);

	ck_assert_msg(ended == code, "exit %d instead of %d: %s", ended, code, log);
	for (int i = 0; texts[i] != NULL; i++)
		expect_text(log, texts[i]);
	pgbaton_free(p);
}

static PGconn *
new_pair(const char *name, const char *sql)
{
	db_create(source_cluster, name);
	db_create(target_cluster, name);
	PGconn *conn = db_connect(source_cluster, name);
	db_exec(conn, "%s", sql);
	return conn;
}

static void
expect_blocked(const char *name, const char *const texts[])
{
	const char *args[] = {"--name", name, NULL};
	char *source = strdup(cluster_uri(source_cluster, name));
	char *target = strdup(cluster_uri(target_cluster, name));

	expect_run(3, source, target, args, texts);
	free(source);
	free(target);
}

#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

START_TEST(usage)
{
	char *out;

	ck_assert_int_eq(pgbaton_run(TEXTS("run", "--frobnicate"), NULL, 20, &out), 2);
	expect_text(out, "frobnicate");
	free(out);
	ck_assert_int_eq(pgbaton_run(TEXTS("mgirate"), NULL, 20, &out), 2);
	free(out);
	ck_assert_int_eq(pgbaton_run(TEXTS("run", "--source", "host=x"), NULL, 20, &out), 2);
	expect_text(out, "target");
	free(out);
	ck_assert_int_eq(
		pgbaton_run(TEXTS("run", "--source", "host=x nonsense=1", "--target", "host=y"), NULL, 20,
	                &out),
		2);
	expect_text(out, "unknown keyword");
	free(out);
}
END_TEST

START_TEST(unreachable)
{
	char dead[80];
	char place[32];

	snprintf(place, sizeof(place), "127.0.0.1:%d", free_port());
	snprintf(dead, sizeof(dead), "postgresql://nobody:hidden@%s/none", place);
	expect_run(1, cluster_uri(source_cluster, NULL), dead, NULL, TEXTS("target", place));
	expect_run(1, dead, cluster_uri(target_cluster, NULL), NULL, TEXTS("source", place));
}
END_TEST

START_TEST(refused)
{
	cluster_allow(source_cluster, "host all stranger 127.0.0.1/32 scram-sha-256\n");
	PGconn *conn = db_connect(source_cluster, NULL);
	db_exec(conn, "CREATE ROLE stranger LOGIN PASSWORD 'right'");
	char uri[160];
	snprintf(uri, sizeof(uri), "postgresql://stranger:wrong@127.0.0.1:%d/postgres",
	         cluster_port(source_cluster));
	Pgbaton *p = pgbaton_start(
		&(PgbatonOptions){.source = uri, .target = cluster_uri(target_cluster, NULL)});
	ck_assert_int_eq(pgbaton_wait_exit(p, 30), 1);
	expect_text(pgbaton_log(p), "password authentication failed");
	ck_assert_ptr_null(strstr(pgbaton_log(p), "wrong@"));
	pgbaton_free(p);
	PQfinish(conn);
}
END_TEST

START_TEST(old_target)
{
	TEST_NEEDS_MAJOR(12);
	Cluster *old = cluster_start(&(ClusterOptions){.major = 12, .name = "old"});
	char *uri = strdup(cluster_uri(old, NULL));
	PGconn *conn = new_pair("for_old", "CREATE TABLE t (id int PRIMARY KEY)");

	expect_run(3, cluster_uri(source_cluster, "for_old"), uri, NULL,
	           TEXTS("12", "15 is the oldest"));
	PQfinish(conn);
	free(uri);
	cluster_free(old);
}
END_TEST

START_TEST(not_logical)
{
	Cluster *replica = cluster_start(&(ClusterOptions){
		.name = "replica", .conf = "wal_level = replica\nmax_replication_slots = 0\n"});
	char *uri = strdup(cluster_uri(replica, NULL));
	expect_run(3, uri, cluster_uri(target_cluster, NULL), NULL,
	           TEXTS("wal_level", "ALTER SYSTEM SET wal_level", "slot"));
	free(uri);
	cluster_free(replica);
}
END_TEST

START_TEST(no_free_slot)
{
	Cluster *full = cluster_start(
		&(ClusterOptions){.name = "full", .conf = "max_replication_slots = 1\n"});
	PGconn *conn = db_connect(full, NULL);
	db_exec(conn, "SELECT pg_create_physical_replication_slot('taken')");
	char *uri = strdup(cluster_uri(full, NULL));
	expect_run(3, uri, cluster_uri(target_cluster, NULL), NULL,
	           TEXTS("slot", "max_replication_slots"));
	free(uri);
	PQfinish(conn);
	cluster_free(full);
}
END_TEST

START_TEST(missing_privileges)
{
	PGconn *conn = new_pair("poor", "CREATE TABLE secret (id int PRIMARY KEY);"
	                                "CREATE ROLE poor LOGIN");
	char uri[160];
	snprintf(uri, sizeof(uri), "postgresql://poor@127.0.0.1:%d/poor", cluster_port(source_cluster));
	expect_run(3, uri, cluster_uri(target_cluster, "poor"), NULL,
	           TEXTS("REPLICATION", "public.secret", "GRANT SELECT"));
	PQfinish(conn);
}
END_TEST

START_TEST(row_security)
{
	PGconn *conn = new_pair(
		"guarded",
		"CREATE ROLE mover LOGIN REPLICATION; CREATE TABLE t (id int PRIMARY KEY, who text);"
		"ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (who = current_user);"
		"GRANT SELECT ON t TO mover; INSERT INTO t VALUES (1, 'other')");
	char uri[160];
	snprintf(uri, sizeof(uri), "postgresql://mover@127.0.0.1:%d/guarded",
	         cluster_port(source_cluster));
	expect_run(3, uri, cluster_uri(target_cluster, "guarded"), NULL,
	           TEXTS("row", "BYPASSRLS", "public.t"));
	PQfinish(conn);
}
END_TEST

/* It was copied, since the policy comes after the rows, and stopped at the first change. */
START_TEST(row_security_of_the_target)
{
	static const char table[] = "CREATE TABLE t (id int PRIMARY KEY, who text);"
								"ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
								"CREATE POLICY p ON t USING (who = current_user)";
	PGconn *conn = new_pair("guarded_there", table);
	PGconn *target = db_connect(target_cluster, "guarded_there");
	const char *none[] = {"--schema", "none", NULL};
	char *source_uri = strdup(cluster_uri(source_cluster, "guarded_there"));
	const char *const *texts = TEXTS("public.t: row level security would keep writer",
	                                 "ALTER ROLE writer BYPASSRLS");
	char uri[160];

	db_exec(target, "CREATE ROLE writer LOGIN; GRANT CREATE ON DATABASE guarded_there TO writer");
	snprintf(uri, sizeof(uri), "postgresql://writer@127.0.0.1:%d/guarded_there",
	         cluster_port(target_cluster));
	expect_run(3, source_uri, uri, NULL, texts);
	/* The target's own table, which belongs to somebody else. */
	db_exec(target, "%s; ALTER TABLE t NO FORCE ROW LEVEL SECURITY; GRANT ALL ON t TO writer",
	        table);
	expect_run(3, source_uri, uri, none, texts);
	free(source_uri);
	PQfinish(target);
	PQfinish(conn);
}
END_TEST

START_TEST(target_not_empty)
{
	PGconn *conn = new_pair("occupied", "CREATE TABLE t (id int PRIMARY KEY)");
	PGconn *target = db_connect(target_cluster, "occupied");
	db_exec(target, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (77)");
	expect_blocked("occupied", TEXTS("public.t", "--schema none"));
	ck_assert_int_eq(db_int(target, "SELECT id FROM t"), 77);

	/* With the schema there, rows in it are still not overwritten. */
	db_exec(conn, "INSERT INTO t VALUES (1)");
	const char *args[] = {"--name", "occupied", "--schema", "none", NULL};
	char *source_uri = strdup(cluster_uri(source_cluster, "occupied"));
	expect_run(3, source_uri, cluster_uri(target_cluster, "occupied"), args,
	           TEXTS("public.t", "rows"));
	ck_assert_int_eq(db_int(target, "SELECT id FROM t"), 77);

	/* Mended, it goes. */
	db_exec(target, "DELETE FROM t");
	Pgbaton *p = pgbaton_start(&(PgbatonOptions){
		.source = source_uri, .target = cluster_uri(target_cluster, "occupied"), .args = args});
	pgbaton_wait_state(p, "following", 60);
	ck_assert_int_eq(db_int(target, "SELECT id FROM t"), 1);
	ck_assert_int_eq(pgbaton_cli(p, NULL, 60, "cancel", NULL), 0);
	pgbaton_free(p);
	free(source_uri);
	PQfinish(target);
	PQfinish(conn);
}
END_TEST

START_TEST(same_database)
{
	PGconn *conn = new_pair("same", "CREATE TABLE t (id int PRIMARY KEY)");
	char *uri = strdup(cluster_uri(source_cluster, "same"));
	char other[160];
	snprintf(other, sizeof(other), "postgresql://postgres@localhost:%d/same",
	         cluster_port(source_cluster));
	expect_run(3, uri, other, NULL, TEXTS("same"));
	free(uri);
	PQfinish(conn);
}
END_TEST

START_TEST(no_usable_identity)
{
	PGconn *conn = new_pair("keyless", "CREATE TABLE plain (a int)");
	const char *args[] = {"--name", "keyless", "--replica-identity", "refuse", NULL};
	expect_run(3, cluster_uri(source_cluster, "keyless"), cluster_uri(target_cluster, "keyless"),
	           args, TEXTS("public.plain", "REPLICA IDENTITY"));
	PQfinish(conn);
}
END_TEST

/* ---- while it runs ---- */

typedef struct {
	PGconn *source;
	PGconn *target;
	Pgbaton *p;
	char name[32];
	char *state_dir;
	const char *args[16];
	PgbatonOptions options;
	char source_uri[128];
	char target_uri[128];
} Running;

static const char plain_schema[] =
	"CREATE TABLE t (id int PRIMARY KEY, v text, w int);"
	"INSERT INTO t SELECT g, 'v' || g, g FROM generate_series(1, 100) g;";

/* Following, with 100 rows in t. */
static void
running_start(Running *r, const char *name, const char *const more[])
{
	int n = 0;

	memset(r, 0, sizeof(*r));
	snprintf(r->name, sizeof(r->name), "%s", name);
	r->source = new_pair(name, plain_schema);
	r->target = db_connect(target_cluster, name);
	r->args[n++] = "--name";
	r->args[n++] = r->name;
	for (int i = 0; more != NULL && more[i] != NULL; i++)
		r->args[n++] = more[i];
	snprintf(r->source_uri, sizeof(r->source_uri), "%s", cluster_uri(source_cluster, name));
	snprintf(r->target_uri, sizeof(r->target_uri), "%s", cluster_uri(target_cluster, name));
	r->state_dir = scratch_dir_new(name);
	r->options = (PgbatonOptions){.source = r->source_uri,
	                              .target = r->target_uri,
	                              .args = r->args,
	                              .state_dir = r->state_dir};
	r->p = pgbaton_start(&r->options);
	pgbaton_wait_state(r->p, "following", 60);
}

static void
running_end(Running *r)
{
	pgbaton_free(r->p);
	PQfinish(r->source);
	PQfinish(r->target);
	scratch_dir_free(r->state_dir);
}

static void
expect_failed(Running *r, const char *const texts[])
{
	pgbaton_wait_state(r->p, "failed", 60);
	char *out;
	ck_assert_int_eq(pgbaton_cli(r->p, &out, 20, "status", "--json", NULL), 0);
	for (int i = 0; texts[i] != NULL; i++)
		expect_text(out, texts[i]);
	free(out);
	ck_assert_int_eq(pgbaton_cli(r->p, NULL, 20, "wait", "--for", "following", NULL), 1);
}

static void
cut_over_and_compare(Running *r)
{
	char *out;
	int code = pgbaton_cli(r->p, &out, 60, "cutover", NULL);
	ck_assert_msg(code == 0, "%s\n%s", out, pgbaton_log(r->p));
	free(out);
	compare_databases(r->source, r->target, &(CompareOptions){.own_schema = r->name});
	ck_assert_int_eq(pgbaton_cli(r->p, NULL, 60, "finish", NULL), 0);
}

static void
resume_and_compare(Running *r)
{
	ck_assert_int_eq(pgbaton_cli(r->p, NULL, 20, "resume", NULL), 0);
	db_wait_until(r->target, "SELECT count(*) > 0 FROM t WHERE v = 'last'", 30);
	pgbaton_wait_state(r->p, "following", 30);
	cut_over_and_compare(r);
}

START_TEST(duplicate_on_target)
{
	Running r;
	running_start(&r, "dup_key", NULL);
	db_exec(r.target, "INSERT INTO t VALUES (500, 'mine')");
	db_exec(r.source, "INSERT INTO t VALUES (499, 'fine'); INSERT INTO t VALUES (500, 'theirs');"
	                  "INSERT INTO t VALUES (501, 'last')");
	expect_failed(&r, TEXTS("t_pkey", "(id)=(500)", "resume"));
	/* Nothing is applied past it, nothing of what stands there is overwritten. */
	ck_assert_int_eq(db_int(r.target, "SELECT count(*) FROM t WHERE id = 501"), 0);
	ck_assert_int_eq(db_int(r.target, "SELECT count(*) FROM t WHERE v = 'mine'"), 1);
	db_exec(r.target, "DELETE FROM t WHERE id = 500");
	resume_and_compare(&r);
	running_end(&r);
}
END_TEST

START_TEST(row_missing_on_target)
{
	Running r;
	running_start(&r, "missing", NULL);
	db_exec(r.target, "DELETE FROM t WHERE id = 42");
	db_exec(r.source,
	        "UPDATE t SET v = 'changed' WHERE id = 42; INSERT INTO t VALUES (501, 'last')");
	expect_failed(&r, TEXTS("\"t\\\"", "(id)=(42)", "divergence"));
	ck_assert_int_eq(db_int(r.target, "SELECT count(*) FROM t WHERE id = 501"), 0);
	db_exec(r.target, "INSERT INTO t VALUES (42, 'v42', 42)");
	resume_and_compare(&r);
	running_end(&r);
}
END_TEST

START_TEST(column_dropped_on_target)
{
	Running r;
	running_start(&r, "less", NULL);
	db_exec(r.target, "ALTER TABLE t DROP COLUMN w");
	db_exec(r.source, "UPDATE t SET w = w + 1; INSERT INTO t VALUES (501, 'last', 5)");
	expect_failed(&r, TEXTS("t", "w"));
	/* Put back with what the source had before the update. */
	db_exec(r.target, "ALTER TABLE t ADD COLUMN w int; UPDATE t SET w = id");
	resume_and_compare(&r);
	running_end(&r);
}
END_TEST

START_TEST(column_added_on_source)
{
	Running r;
	running_start(&r, "more", NULL);
	db_exec(r.source,
	        "ALTER TABLE t ADD COLUMN extra int; INSERT INTO t VALUES (501, 'last', 5, 6)");
	expect_failed(&r, TEXTS("public.t", "extra"));
	ck_assert_int_eq(db_int(r.target, "SELECT count(*) FROM t WHERE id = 501"), 0);
	running_end(&r);
}
END_TEST

START_TEST(slot_dropped)
{
	Running r;
	running_start(&r, "no_slot", NULL);
	pgbaton_stop(r.p, SIGTERM);
	db_exec(r.source,
	        "SELECT pg_drop_replication_slot('no_slot'); INSERT INTO t VALUES (501, 'last', 5)");
	pgbaton_again(r.p);
	ck_assert_int_eq(pgbaton_wait_exit(r.p, 60), 1);
	expect_text(pgbaton_log(r.p), "no_slot");
	expect_text(pgbaton_log(r.p), "cancel");
	running_end(&r);
}
END_TEST

START_TEST(slot_dropped_while_running)
{
	Running r;
	running_start(&r, "slotless", NULL);
	db_exec(
		r.source,
		"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'slotless'");
	for (char state[6]; !db_try(r.source, state, "SELECT pg_drop_replication_slot('slotless')");)
		db_exec(
			r.source,
			"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'slotless' AND active");
	expect_failed(&r, TEXTS("slotless"));
	/* No use, but no harm either, however often it is tried. */
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(pgbaton_cli(r.p, NULL, 20, "resume", NULL), 0);
		expect_failed(&r, TEXTS("slotless"));
	}
	running_end(&r);
}
END_TEST

START_TEST(slot_invalidated)
{
	Running r;
	running_start(&r, "invalid", NULL);
	pgbaton_stop(r.p, SIGTERM);
	cluster_configure(source_cluster, "max_slot_wal_keep_size = 1MB\n");
	for (int i = 0; i < 6; i++)
		db_exec(r.source, "INSERT INTO t VALUES (%d, 'x', 1); SELECT pg_switch_wal(); CHECKPOINT;",
		        1000 + i);
	db_wait_until(
		r.source,
		"SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = 'invalid'", 30);
	pgbaton_again(r.p);
	ck_assert_int_eq(pgbaton_wait_exit(r.p, 60), 1);
	expect_text(pgbaton_log(r.p), "max_slot_wal_keep_size");
	cluster_configure(source_cluster, "max_slot_wal_keep_size = -1\n");
	running_end(&r);
}
END_TEST

START_TEST(publication_altered)
{
	Running r;
	running_start(&r, "altered", NULL);
	db_exec(r.source, "ALTER PUBLICATION altered DROP TABLE t");
	expect_failed(&r, TEXTS("altered", "public.t"));
	running_end(&r);
}
END_TEST

START_TEST(other_state_directory)
{
	Running r;
	Running other;
	running_start(&r, "dir_a", NULL);
	running_start(&other, "dir_b", NULL);
	pgbaton_stop(r.p, SIGTERM);
	pgbaton_stop(other.p, SIGTERM);
	pgbaton_free(r.p);
	r.options.state_dir = other.state_dir;
	r.p = pgbaton_start(&r.options);
	ck_assert_int_eq(pgbaton_wait_exit(r.p, 30), 1);
	expect_text(pgbaton_log(r.p), "another migration");

	/* A state directory that is gone is lost changes, not a fresh start. */
	pgbaton_free(r.p);
	char *empty = scratch_dir_new("empty");
	r.options.state_dir = empty;
	r.p = pgbaton_start(&r.options);
	ck_assert_int_eq(pgbaton_wait_exit(r.p, 30), 1);
	expect_text(pgbaton_log(r.p), "state-dir");

	pgbaton_free(r.p);
	r.options.state_dir = r.state_dir;
	r.p = pgbaton_start(&r.options);
	pgbaton_wait_state(r.p, "following", 60);
	cut_over_and_compare(&r);
	running_end(&r);
	running_end(&other);
	scratch_dir_free(empty);
}
END_TEST

START_TEST(second_process)
{
	Running r;
	running_start(&r, "twice", NULL);
	PgbatonOptions options = r.options;
	options.state_dir = NULL;
	Pgbaton *second = pgbaton_start(&options);
	ck_assert_int_eq(pgbaton_wait_exit(second, 30), 1);
	expect_text(pgbaton_log(second), "another process");
	pgbaton_free(second);
	cut_over_and_compare(&r);
	running_end(&r);
}
END_TEST

/* ---- full disks ---- */

/* A file system of its own, so that only what is under test runs full. NULL: not allowed here. */
static char *
small_disk(const char *name, const char *size)
{
	char *path = scratch_dir_new(name);
	char options[96];
	struct stat owner;

	/* A tablespace must belong to the user of the server. */
	ck_assert_int_eq(stat(cluster_data_dir(target_cluster), &owner), 0);
	snprintf(options, sizeof(options), "size=%s,mode=0777,uid=%u,gid=%u", size, owner.st_uid,
	         owner.st_gid);
	if (mount("none", path, "tmpfs", 0, options) == 0)
		return path;
	scratch_dir_free(path);
	return NULL;
}

static void
small_disk_free(char *path)
{
	umount2(path, MNT_DETACH);
	scratch_dir_free(path);
}

START_TEST(target_disk_full)
{
	char *disk = small_disk("target_disk", "24m");
	if (disk == NULL)
		TEST_SKIP("no right to mount a small file system");
	Running r;
	PGconn *admin = db_connect(target_cluster, NULL);
	db_exec(admin, "CREATE TABLESPACE small LOCATION '%s'", disk);
	running_start(&r, "disk_full", NULL);
	db_exec(r.target, "ALTER TABLE t SET TABLESPACE small");
	db_exec(
		r.source,
		"INSERT INTO t SELECT g, repeat(md5(g::text), 20), g FROM generate_series(1000, 60000) g;"
		"INSERT INTO t VALUES (501, 'last', 5)");
	expect_failed(&r, TEXTS("space"));
	db_exec(r.target, "ALTER TABLE t SET TABLESPACE pg_default");
	resume_and_compare(&r);
	running_end(&r);
	db_exec(admin, "DROP TABLESPACE small");
	PQfinish(admin);
	small_disk_free(disk);
}
END_TEST

START_TEST(log_disk_full)
{
	char *disk = small_disk("log_disk", "8m");
	if (disk == NULL)
		TEST_SKIP("no right to mount a small file system");
	char state[128];
	Running r;
	snprintf(state, sizeof(state), "%s/state", disk);
	running_start(&r, "log_full", NULL);
	ck_assert_int_eq(pgbaton_cli(r.p, NULL, 60, "cancel", NULL), 0);
	pgbaton_wait_exit(r.p, 30);
	pgbaton_free(r.p);
	db_exec(r.target, "DROP TABLE t");
	r.options.state_dir = state;
	r.p = pgbaton_start(&r.options);
	pgbaton_wait_state(r.p, "following", 60);
	ck_assert_int_eq(pgbaton_cli(r.p, NULL, 30, "pause", NULL), 0);
	db_exec(
		r.source,
		"INSERT INTO t SELECT g, repeat(md5(g::text), 20), g FROM generate_series(1000, 30000) g;"
		"INSERT INTO t VALUES (501, 'last', 5)");
	expect_failed(&r, TEXTS("log", "space"));
	/* More room, and it goes on where it was. */
	ck_assert_int_eq(mount("none", disk, "tmpfs", MS_REMOUNT, "size=200m"), 0);
	resume_and_compare(&r);
	running_end(&r);
	small_disk_free(disk);
}
END_TEST

static Suite *
bad_input_suite(void)
{
	Suite *suite = suite_create("bad_input");
	TCase *tc = tcase_create("bad_input");

	tcase_set_timeout(tc, 180);
	tcase_add_unchecked_fixture(tc, start_clusters, stop_clusters);
	tcase_add_test(tc, usage);
	tcase_add_test(tc, unreachable);
	tcase_add_test(tc, refused);
	tcase_add_test(tc, old_target);
	tcase_add_test(tc, not_logical);
	tcase_add_test(tc, no_free_slot);
	tcase_add_test(tc, missing_privileges);
	tcase_add_test(tc, row_security);
	tcase_add_test(tc, row_security_of_the_target);
	tcase_add_test(tc, target_not_empty);
	tcase_add_test(tc, same_database);
	tcase_add_test(tc, no_usable_identity);
	tcase_add_test(tc, duplicate_on_target);
	tcase_add_test(tc, row_missing_on_target);
	tcase_add_test(tc, column_dropped_on_target);
	tcase_add_test(tc, column_added_on_source);
	tcase_add_test(tc, slot_dropped);
	tcase_add_test(tc, slot_dropped_while_running);
	tcase_add_test(tc, slot_invalidated);
	tcase_add_test(tc, publication_altered);
	tcase_add_test(tc, other_state_directory);
	tcase_add_test(tc, second_process);
	tcase_add_test(tc, target_disk_full);
	tcase_add_test(tc, log_disk_full);
	suite_add_tcase(suite, tc);
	return suite;
}
TEST_SUITE(bad_input_suite)
