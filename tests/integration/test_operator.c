/*
 * What an operator meets at night: settings of roles and databases that spoil a session,
 * names that need quotes, two migrations from one database, servers restarted while nobody
 * looked, pause and cancel at odd moments.
 */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/compare.h"
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
	char source_uri[400];
	char target_uri[400];
} Sides;

static void
open_sides(Sides *sides, const char *database, const char *schema)
{
	db_create(source_cluster, database);
	db_create(target_cluster, database);
	sides->source = db_connect(source_cluster, database);
	sides->target = db_connect(target_cluster, database);
	snprintf(sides->source_uri, sizeof(sides->source_uri), "%s",
	         cluster_uri(source_cluster, database));
	snprintf(sides->target_uri, sizeof(sides->target_uri), "%s",
	         cluster_uri(target_cluster, database));
	db_exec(sides->source, "%s", schema);
}

static void
close_sides(Sides *sides)
{
	PQfinish(sides->source);
	PQfinish(sides->target);
}

static Pgbaton *
begin(const Sides *sides, const char *target_uri, const char *name)
{
	const char *args[] = {"--name", name, NULL};

	return pgbaton_start(
		&(PgbatonOptions){.source = sides->source_uri, .target = target_uri, .args = args});
}

static void
command(Pgbaton *p, const char *what)
{
	char *out;
	int code = pgbaton_cli(p, &out, 60, what, NULL);

	ck_assert_msg(code == 0, "%s: exit %d: %s\n%s", what, code, out, pgbaton_log(p));
	free(out);
}

static void
nothing_left(PGconn *source, const char *name)
{
	char *left = db_rows(source,
	                     "SELECT slot_name FROM pg_replication_slots WHERE slot_name = '%s'"
	                     " UNION ALL SELECT pubname FROM pg_publication WHERE pubname LIKE '%s%%'"
	                     " UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = '%s'"
	                     " UNION ALL SELECT tgname FROM pg_trigger WHERE tgname LIKE '%s%%'",
	                     name, name, name, name);

	ck_assert_msg(left == NULL || left[0] == '\0', "left on the source: %s", left);
	free(left);
}

/* ---- settings and names ---- */

static const char spoilers[] =
	"DROP ROLE IF EXISTS \"mo ver%\"; CREATE ROLE \"mo ver%\" SUPERUSER REPLICATION LOGIN;"
	"ALTER ROLE \"mo ver%\" SET statement_timeout = '30ms';"
	"ALTER ROLE \"mo ver%\" SET lock_timeout = '1ms';"
	"ALTER ROLE \"mo ver%\" SET idle_in_transaction_session_timeout = '100ms';"
	"ALTER ROLE \"mo ver%\" SET datestyle = 'German';"
	"ALTER ROLE \"mo ver%\" SET intervalstyle = 'sql_standard';"
	"ALTER ROLE \"mo ver%\" SET timezone = 'Asia/Kolkata';"
	"ALTER ROLE \"mo ver%\" SET search_path = public, nowhere;"
	"ALTER ROLE \"mo ver%\" SET bytea_output = 'escape';"
	"ALTER ROLE \"mo ver%\" SET extra_float_digits = 0;"
	"ALTER ROLE \"mo ver%\" SET client_encoding = 'LATIN1';"
	"ALTER ROLE \"mo ver%\" SET default_transaction_isolation = 'serializable';"
	"ALTER ROLE \"mo ver%\" SET standard_conforming_strings = off;"
	"ALTER ROLE \"mo ver%\" SET array_nulls = off;"
	"ALTER ROLE \"mo ver%\" SET row_security = off;"
	"ALTER ROLE \"mo ver%\" SET quote_all_identifiers = on;"
	"ALTER ROLE \"mo ver%\" SET transform_null_equals = on;";

/* cluster_uri's text is no place for such a database: a conninfo string is. */
static void
odd_uri(Cluster *cluster, const char *user, char *uri, size_t size)
{
	snprintf(uri, size, "host=%s port=%d user='%s' dbname='we ird%%\\'\xc3\xbc'",
	         cluster_socket_dir(cluster), cluster_port(cluster), user);
}

static PGconn *
odd_connect(Cluster *cluster)
{
	char uri[400];

	odd_uri(cluster, "postgres", uri, sizeof(uri));
	return db_connect_uri(uri);
}

static void
spoil(Cluster *cluster, PGconn *conn, const char *database, char *uri, size_t size)
{
	char *name = PQescapeIdentifier(conn, database, strlen(database));

	db_exec(conn, "%s", spoilers);
	db_exec(conn, "ALTER DATABASE %s SET session_replication_role = replica", name);
	db_exec(conn, "ALTER DATABASE %s SET client_min_messages = error", name);
	PQfreemem(name);
	odd_uri(cluster, "mo ver%", uri, size);
}

START_TEST(settings_and_names)
{
	static const char database[] = "we ird%'\xc3\xbc";
	Sides sides;

	db_create(source_cluster, database);
	db_create(target_cluster, database);
	char source_uri[400];
	char target_uri[400];
	PGconn *admin = db_connect(source_cluster, NULL);
	spoil(source_cluster, admin, database, source_uri, sizeof(source_uri));
	PQfinish(admin);
	admin = db_connect(target_cluster, NULL);
	spoil(target_cluster, admin, database, target_uri, sizeof(target_uri));
	PQfinish(admin);
	snprintf(sides.source_uri, sizeof(sides.source_uri), "%s", source_uri);
	sides.source = db_connect_uri(source_uri);
	sides.target = db_connect_uri(target_uri);
	db_exec(sides.source, "RESET search_path; SET statement_timeout = 0; SET lock_timeout = 0;"
	                      "SET search_path = public; SET client_encoding = 'UTF8'");
	db_exec(sides.target, "SET statement_timeout = 0; SET client_encoding = 'UTF8'");
	db_exec(
		sides.source,
		"CREATE TABLE no_key (a int[], f float8);"
		"CREATE TABLE \"T a'b\\c%%s\" (\"I d\" int PRIMARY KEY, t timestamptz, i interval, f float8,"
		" b bytea, a int[], \"s\"\"\" text, n text[], r regclass);"
		"INSERT INTO \"T a'b\\c%%s\" SELECT g, now() + g * interval '1 day', g * interval '1 min',"
		" g / 7.0, decode(md5(g::text), 'hex'), ARRAY[g, NULL], 'ü' || g, ARRAY['NULL', NULL],"
		" 'no_key' FROM generate_series(1, 500) g;"
		"INSERT INTO no_key SELECT ARRAY[NULL, g], g / 3.0 FROM generate_series(1, 10) g");

	Pgbaton *p = begin(&sides, target_uri, "spoiled");
	pgbaton_wait_state(p, "following", 60);
	db_exec(
		sides.source,
		"UPDATE \"T a'b\\c%%s\" SET f = f / 3, t = t - interval '3 years', i = -i WHERE \"I d\" %% 2 = 0;"
		"DELETE FROM \"T a'b\\c%%s\" WHERE \"I d\" %% 7 = 0; UPDATE no_key SET f = f / 11;"
		"DELETE FROM no_key WHERE a[2] = 3");
	command(p, "verify");
	command(p, "cutover");

	/* Also a session that is a replica by a setting of the database is refused. */
	free(db_expect_error(sides.source, "25006", "INSERT INTO no_key VALUES (NULL, 1)"));
	PGconn *source = odd_connect(source_cluster);
	PGconn *target = odd_connect(target_cluster);
	compare_databases(source, target, &(CompareOptions){.own_schema = "spoiled"});
	command(p, "finish");
	nothing_left(source, "spoiled");
	PQfinish(source);
	PQfinish(target);
	pgbaton_free(p);
	close_sides(&sides);
}
END_TEST

/* ---- event triggers ---- */

/* One that notes each statement in a table that is migrated, as an audit does. */
static const char audit[] =
	"CREATE TABLE ddl (what text); CREATE TABLE t (id int PRIMARY KEY);"
	"CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS"
	" $$BEGIN INSERT INTO public.ddl VALUES (tg_event || ' ' || tg_tag); END$$;"
	"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
	"CREATE TRIGGER act BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION act();"
	"ALTER TABLE t ENABLE ALWAYS TRIGGER act;"
	"CREATE EVENT TRIGGER ended ON ddl_command_end EXECUTE FUNCTION note();"
	"CREATE EVENT TRIGGER dropped ON sql_drop EXECUTE FUNCTION note()";

START_TEST(event_triggers_rest)
{
	static const char ddl[] = "CREATE TABLE made (a int); DROP TABLE made";
	static const char noted[] = "SELECT count(*) FROM ddl";
	Sides sides;

	open_sides(&sides, "audit", audit);
	Pgbaton *p = begin(&sides, sides.target_uri, "audit");
	pgbaton_wait_state(p, "following", 60);
	db_exec(sides.source, ddl);
	command(p, "verify");
	command(p, "cutover");
	compare_databases(sides.source, sides.target, &(CompareOptions){.own_schema = "audit"});
	command(p, "finish");
	nothing_left(sides.source, "audit");

	/* CREATE, DROP and sql_drop; none for what was made for the migration. */
	ck_assert_int_eq(db_int(sides.source, noted), 3);
	ck_assert_int_eq(db_int(sides.target, noted), 3);
	db_exec(sides.target, ddl);
	ck_assert_int_eq(db_int(sides.target, noted), 6);
	pgbaton_free(p);
	close_sides(&sides);
}
END_TEST

/* They come with the triggers, and the checks of foreign keys come after that. */
START_TEST(event_triggers_rest_offline)
{
	const char *args[] = {"--mode", "offline", NULL};
	Sides sides;

	open_sides(&sides, "audit_offline", audit);
	db_exec(sides.source,
	        "INSERT INTO t VALUES (1); CREATE TABLE child (a int REFERENCES t);"
	        "INSERT INTO child VALUES (1); CREATE MATERIALIZED VIEW seen AS SELECT a FROM child;"
	        "TRUNCATE ddl");
	Pgbaton *p = pgbaton_start(
		&(PgbatonOptions){.source = sides.source_uri, .target = sides.target_uri, .args = args});
	int code = pgbaton_wait_exit(p, 60);
	ck_assert_msg(code == 0, "%s", pgbaton_log(p));
	compare_databases(sides.source, sides.target, &(CompareOptions){0});
	ck_assert_int_eq(db_int(sides.target, "SELECT count(*) FROM ddl"), 0);
	ck_assert_int_eq(
		db_int(sides.target, "SELECT count(*) FROM pg_event_trigger WHERE evtenabled = 'O'"), 2);
	pgbaton_free(p);
	close_sides(&sides);
}
END_TEST

/* ---- roles ---- */

/* What names a role that the target lacks would fail when all rows are in: it blocks beforehand. */
START_TEST(a_policy_needs_its_role)
{
	Sides sides;
	char *out;

	open_sides(&sides, "policies",
	           "CREATE ROLE only_here; CREATE TABLE guarded (id int PRIMARY KEY);"
	           "CREATE POLICY few ON guarded TO only_here USING (true);"
	           "CREATE TABLE plain (id int PRIMARY KEY); GRANT SELECT ON plain TO only_here");
	const char *all[] = {"check", "--source", sides.source_uri, "--target", sides.target_uri, NULL};
	const char *part[] = {"check",          "--source",        sides.source_uri, "--target",
	                      sides.target_uri, "--exclude-table", "guarded",        NULL};
	ck_assert_int_eq(pgbaton_run(all, NULL, 60, &out), 3);
	ck_assert_msg(strstr(out, "policy few on table public.guarded cannot be made") != NULL, "%s",
	              out);
	free(out);
	ck_assert_int_eq(pgbaton_run(part, NULL, 60, &out), 0);
	free(out);
	db_exec(sides.target, "CREATE ROLE only_here");
	ck_assert_int_eq(pgbaton_run(all, NULL, 60, &out), 0);
	free(out);
	db_exec(sides.target, "DROP ROLE only_here");
	close_sides(&sides);
}
END_TEST

/* ---- two migrations from one database ---- */

START_TEST(two_from_one_database)
{
	Sides sides;

	open_sides(&sides, "shared",
	           "CREATE TABLE no_key (a int); INSERT INTO no_key VALUES (1), (2);"
	           "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)");
	db_create(target_cluster, "shared_too");
	char second_uri[160];
	snprintf(second_uri, sizeof(second_uri), "%s", cluster_uri(target_cluster, "shared_too"));
	Pgbaton *first = begin(&sides, sides.target_uri, "first");
	pgbaton_wait_state(first, "following", 60);
	Pgbaton *second = begin(&sides, second_uri, "second");
	pgbaton_wait_state(second, "following", 60);

	/* The end of one must not take from the other what lets the application write. */
	command(first, "cancel");
	ck_assert_int_eq(pgbaton_wait_exit(first, 30), 0);
	nothing_left(sides.source, "first");
	ck_assert_ptr_nonnull(strstr(pgbaton_log(first), "its replica identity stays FULL"));
	db_exec(sides.source, "UPDATE no_key SET a = a + 1; DELETE FROM no_key WHERE a = 2;"
	                      "INSERT INTO t VALUES (1000)");

	command(second, "cutover");
	PGconn *target = db_connect(target_cluster, "shared_too");
	compare_databases(sides.source, target, &(CompareOptions){.own_schema = "second"});
	command(second, "finish");
	nothing_left(sides.source, "second");
	PQfinish(target);
	pgbaton_free(first);
	pgbaton_free(second);
	close_sides(&sides);
}
END_TEST

/* ---- both servers restarted while it follows ---- */

START_TEST(cutover_after_silent_restarts)
{
	Sides sides;

	open_sides(&sides, "restarted", "CREATE TABLE t (id int PRIMARY KEY, v text)");
	Pgbaton *p = begin(&sides, sides.target_uri, "restarted");
	pgbaton_wait_state(p, "following", 60);
	cluster_restart(source_cluster, CLUSTER_FAST);
	cluster_restart(target_cluster, CLUSTER_IMMEDIATE);
	close_sides(&sides);
	sides.source = db_connect(source_cluster, "restarted");
	sides.target = db_connect(target_cluster, "restarted");
	db_exec(sides.source, "INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g");

	command(p, "cutover");
	ck_assert_int_eq(pgbaton_status_int(p, "stream.inserts"), 1000); /* kept after the switch */
	ck_assert_int_eq(pgbaton_status_int(p, "lag.received_bytes"), 0);
	compare_databases(sides.source, sides.target, &(CompareOptions){.own_schema = "restarted"});
	command(p, "finish");
	ck_assert_int_eq(pgbaton_wait_exit(p, 30), 0);
	/* Once more: it is what was wanted. */
	ck_assert_int_eq(pgbaton_cli(p, NULL, 60, "finish", "--state-dir", pgbaton_state_dir(p), NULL),
	                 0);
	nothing_left(sides.source, "restarted");
	/* Started again, as a supervisor does: no new migration, and what is known of this one stays. */
	for (int i = 0; i < 2; i++) {
		pgbaton_again(p);
		ck_assert_int_eq(pgbaton_wait_exit(p, 30), 3);
		ck_assert_ptr_nonnull(strstr(pgbaton_log(p), "migration restarted is finished, since 2"));
	}
	nothing_left(sides.source, "restarted");
	pgbaton_free(p);
	close_sides(&sides);
}
END_TEST

/* ---- pause and cancel at odd moments ---- */

START_TEST(pause_while_catching_up)
{
	Sides sides;

	open_sides(&sides, "paused",
	           "CREATE TABLE t (id int PRIMARY KEY, v text);"
	           "INSERT INTO t SELECT g, g FROM generate_series(1, 10000) g");
	Pgbaton *p = begin(&sides, sides.target_uri, "paused");
	pgbaton_wait_state(p, "checking", 30);
	command(p, "pause");
	pgbaton_wait_state(p, "catching_up", 60);
	db_exec(sides.source, "UPDATE t SET v = 'new'");
	db_wait_until(sides.source,
	              "SELECT confirmed_flush_lsn >= pg_current_wal_flush_lsn() - 1000"
	              " FROM pg_replication_slots WHERE slot_name = 'paused'",
	              30);
	ck_assert(!pgbaton_reached(p, "following"));
	ck_assert_int_eq(db_int(sides.target, "SELECT count(*) FROM t WHERE v = 'new'"), 0);

	command(p, "resume");
	pgbaton_wait_state(p, "following", 60);
	command(p, "verify");
	command(p, "cancel");
	nothing_left(sides.source, "paused");
	pgbaton_free(p);
	close_sides(&sides);
}
END_TEST

/* Before anything was made: cancelled all the same, and nothing is left. */
START_TEST(cancel_at_once)
{
	Sides sides;

	open_sides(&sides, "at_once", "CREATE TABLE t (id int PRIMARY KEY)");
	Pgbaton *p = begin(&sides, sides.target_uri, "at_once");
	pgbaton_wait_state(p, "checking", 30);
	command(p, "cancel");
	ck_assert_int_eq(pgbaton_wait_exit(p, 30), 0);
	nothing_left(sides.source, "at_once");
	pgbaton_free(p);
	close_sides(&sides);
}
END_TEST

/* ---- how many lanes ---- */

static int
recorded_lanes(const Sides *sides)
{
	return (int)db_int(sides->target, "SELECT lanes FROM many_lanes.migration");
}

/* Chosen once by the target's cores; then what is recorded stays until another is given. */
START_TEST(lanes_stay)
{
	static const char *const given[] = {NULL, "3", NULL};
	char *state_dir = scratch_dir_new("lanes");
	Sides sides;

	open_sides(&sides, "many_lanes", "CREATE TABLE t (id int PRIMARY KEY)");
	for (int i = 0; i < 3; i++) {
		const char *args[] = {"--name", "many_lanes", given[i] != NULL ? "--lanes" : NULL, given[i],
		                      NULL};
		Pgbaton *p = pgbaton_start(&(PgbatonOptions){.source = sides.source_uri,
		                                             .target = sides.target_uri,
		                                             .args = args,
		                                             .state_dir = state_dir});
		pgbaton_wait_state(p, "following", 60);
		ck_assert_int_eq(strstr(pgbaton_log(p), "lanes: ") != NULL, i == 0);
		int lanes = recorded_lanes(&sides);
		if (i == 0)
			ck_assert(lanes >= 1 && lanes <= 8);
		else
			ck_assert_int_eq(lanes, 3);
		ck_assert_int_eq(db_int(sides.target, "SELECT count(*) FROM many_lanes.progress"), lanes);
		pgbaton_stop(p, SIGTERM);
		pgbaton_free(p);
	}
	scratch_dir_free(state_dir);
	close_sides(&sides);
}
END_TEST

static Suite *
operator_suite(void)
{
	Suite *suite = suite_create("operator");
	TCase *tc = tcase_create("operator");
	TCase *schema = tcase_create("schema");

	tcase_set_timeout(tc, 120);
	tcase_add_unchecked_fixture(tc, start_clusters, stop_clusters);
	tcase_add_test(tc, settings_and_names);
	tcase_add_test(tc, event_triggers_rest);
	tcase_add_test(tc, two_from_one_database);
	tcase_add_test(tc, cutover_after_silent_restarts);
	tcase_add_test(tc, pause_while_catching_up);
	tcase_add_test(tc, cancel_at_once);
	tcase_add_test(tc, lanes_stay);
	suite_add_tcase(suite, tc);
	tcase_set_timeout(schema, 120);
	tcase_add_unchecked_fixture(schema, start_clusters, stop_clusters);
	tcase_add_test(schema, event_triggers_rest_offline);
	tcase_add_test(schema, a_policy_needs_its_role);
	suite_add_tcase(suite, schema);
	return suite;
}
TEST_SUITE(operator_suite)
