/*
 * Every finding of check_run that can be provoked on a test server, by its code, object and
 * the words of its fix; and that a fit pair has none that block.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply/schema/schema.h"
#include "apply/setup/check.h"
#include "common/memory.h"
#include "tests/harness/skip.h"
#include "tests/unit/apply/servers.h"
#include "tests/unit/runner.h"

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, "max_prepared_transactions = 5\n");
}

static void
stop(void)
{
	cluster_free(cluster);
}

/* ---- a run ---- */

static CheckOptions options;

static Findings *
run_on(Cluster *on, const char *source_db, const char *target_db, const char *user)
{
	Error err;
	Findings *findings = findings_new();
	Catalog *catalog;
	Sql *source = servers_open_as(on, source_db, user);
	Sql *target = servers_open_as(on, target_db, user);
	ConnInfo *info = servers_info(on, source_db, user);

	ASSERT_OK(check_run(source, target, info, &options, findings, &catalog, &err));
	catalog_free(catalog);
	conninfo_free(info);
	sql_close(source);
	sql_close(target);
	return findings;
}

static Findings *
run(void)
{
	return run_on(cluster, "source", "target", NULL);
}

static const char *
listing(const Findings *findings)
{
	static char text[8000];
	size_t len = 0;

	text[0] = '\0';
	for (size_t i = 0; i < findings->count && len < sizeof(text); i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%d %s [%s] %s (%s)\n",
		                        (int)findings->items[i].severity, findings->items[i].code,
		                        findings->items[i].object, findings->items[i].message,
		                        findings->items[i].fix != NULL ? findings->items[i].fix : "");
	return text;
}

static const Finding *
find(const Findings *findings, const char *code, const char *object)
{
	for (size_t i = 0; i < findings->count; i++) {
		if (strcmp(findings->items[i].code, code) == 0 &&
		    strcmp(findings->items[i].object, object) == 0)
			return &findings->items[i];
	}
	return NULL;
}

/* fix NULL: whatever it is. */
static void
expect(const Findings *findings, Severity severity, const char *code, const char *object,
       const char *fix)
{
	const Finding *finding = find(findings, code, object);

	ck_assert_msg(finding != NULL, "no finding %s [%s] in:\n%s", code, object, listing(findings));
	ck_assert_msg(finding->severity == severity, "%s has severity %d", code, finding->severity);
	if (fix != NULL)
		ck_assert_msg(finding->fix != NULL && strstr(finding->fix, fix) != NULL,
		              "the fix of %s is: %s", code, finding->fix);
}

static void
expect_none(const Findings *findings, const char *code)
{
	for (size_t i = 0; i < findings->count; i++)
		ck_assert_msg(strcmp(findings->items[i].code, code) != 0, "unexpected:\n%s",
		              listing(findings));
}

/* Both databases anew, with these definitions. */
static void
fill(const char *source_sql, const char *target_sql)
{
	servers_clean(cluster);
	PGconn *source = db_connect(cluster, "source");
	PGconn *target = db_connect(cluster, "target");
	if (source_sql != NULL)
		db_exec(source, "%s", source_sql);
	if (target_sql != NULL)
		db_exec(target, "%s", target_sql);
	PQfinish(source);
	PQfinish(target);
	options = (CheckOptions){
		.online = true, .schema_copy = true, .replica_identity = "full", .name = "pgbaton"};
}

/* Roles outlive databases. */
static void
remake_role(const char *name, const char *attributes)
{
	PGconn *conn = db_connect(cluster, "postgres");

	db_exec(conn, "DROP ROLE IF EXISTS %s", name);
	db_exec(conn, "CREATE ROLE %s LOGIN %s", name, attributes);
	PQfinish(conn);
}

/* ---- tests ---- */

START_TEST(nothing_blocks_a_fit_pair)
{
	fill("CREATE TABLE t (id int PRIMARY KEY); CREATE SEQUENCE s", NULL);
	Findings *findings = run();

	ck_assert_msg(findings_count(findings, FINDING_BLOCKER) == 0, "%s", listing(findings));
	ck_assert_msg(findings_count(findings, FINDING_WARNING) == 0, "%s", listing(findings));
	expect(findings, FINDING_INFO, "same_server", "target", NULL);
	expect(findings, FINDING_INFO, "sequences", "source", NULL);
	findings_free(findings);
}
END_TEST

START_TEST(equal_findings_are_kept_once)
{
	Findings *findings = findings_new();

	for (int i = 0; i < 40; i++)
		findings_add(findings, FINDING_INFO, "code", i % 2 ? "a" : "b", NULL, "number %d", i);
	ck_assert_uint_eq(findings->count, 2);
	ck_assert_str_eq(findings->items[0].message, "number 0");
	findings_free(findings);
}
END_TEST

START_TEST(same_database_blocks)
{
	fill("CREATE TABLE t (id int PRIMARY KEY)", NULL);
	Findings *findings = run_on(cluster, "source", "source", NULL);

	expect(findings, FINDING_BLOCKER, "same_database", "target", NULL);
	findings_free(findings);
}
END_TEST

START_TEST(what_cannot_be_moved_as_it_is)
{
	fill("CREATE TABLE none (a int); CREATE TABLE alone (a int NOT NULL);"
	     "CREATE UNIQUE INDEX alone_a ON alone (a); CREATE UNLOGGED TABLE u (a int);"
	     "SELECT lo_create(0); CREATE MATERIALIZED VIEW m AS SELECT 1 AS a;"
	     "CREATE PUBLICATION p; CREATE TABLE pk (id int PRIMARY KEY);"
	     "CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
	     "CREATE TRIGGER tr AFTER INSERT ON pk EXECUTE FUNCTION tf();"
	     "ALTER TABLE pk ENABLE ALWAYS TRIGGER tr;"
	     "CREATE FUNCTION ef() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
	     "CREATE EVENT TRIGGER et ON ddl_command_end EXECUTE FUNCTION ef();"
	     "ALTER EVENT TRIGGER et ENABLE ALWAYS;"
	     "CREATE EVENT TRIGGER rests ON ddl_command_end EXECUTE FUNCTION ef();"
	     "CREATE EVENT TRIGGER replica ON ddl_command_end EXECUTE FUNCTION ef();"
	     "ALTER EVENT TRIGGER replica ENABLE REPLICA;"
	     "CREATE DOMAIN kept AS int CHECK (VALUE > 0);"
	     "CREATE DOMAIN loose AS int; ALTER DOMAIN loose ADD CHECK (VALUE > 0) NOT VALID;"
	     "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
	     "CREATE FOREIGN TABLE ft (a int) SERVER s",
	     NULL);
	Findings *findings = run();

	expect(findings, FINDING_WARNING, "replica_identity", "table public.none", "ADD PRIMARY KEY");
	expect(findings, FINDING_WARNING, "replica_identity", "table public.alone",
	       "REPLICA IDENTITY USING INDEX \"alone_a\"");
	expect(findings, FINDING_INFO, "unlogged", "table public.u", "--unlogged skip");
	expect(findings, FINDING_INFO, "large_objects", "source", NULL);
	expect(findings, FINDING_WARNING, "large_objects_fence", "source", "--listen");
	expect(findings, FINDING_INFO, "materialised_views", "source", NULL);
	expect(findings, FINDING_INFO, "publications", "publication p", NULL);
	expect(findings, FINDING_INFO, "triggers", "source", NULL);
	expect(findings, FINDING_INFO, "foreign_tables", "source", NULL);
	expect(findings, FINDING_WARNING, "event_trigger", "event trigger et", "DISABLE");
	expect(findings, FINDING_WARNING, "event_trigger", "event trigger replica", "DISABLE");
	expect(findings, FINDING_INFO, "event_trigger", "event trigger rests", NULL);
	expect(findings, FINDING_WARNING, "domain_constraint", "domain public.loose", "VALIDATE");
	ck_assert_msg(findings_count(findings, FINDING_BLOCKER) == 0, "%s", listing(findings));
	findings_free(findings);

	options.replica_identity = "refuse";
	findings = run();
	expect(findings, FINDING_BLOCKER, "replica_identity", "table public.none", NULL);
	findings_free(findings);

	/* Offline nothing is followed, so nothing has to be identified. */
	options.online = false;
	findings = run();
	expect_none(findings, "replica_identity");
	expect_none(findings, "unlogged");
	findings_free(findings);
}
END_TEST

typedef struct {
	atomic_bool end;
	pthread_t thread;
} TwoPhase;

static void *
commit_in_two_phases(void *arg)
{
	TwoPhase *app = arg;
	PGconn *conn = PQconnectdb(cluster_uri(cluster, "source"));

	while (!app->end) {
		PQclear(PQexec(conn, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'passing'"));
		usleep(1000);
		PQclear(PQexec(conn, "COMMIT PREPARED 'passing'"));
	}
	PQfinish(conn);
	return NULL;
}

/* An application that uses two-phase commit has at any moment something that is prepared. */
START_TEST(passing_prepared_transactions)
{
	TwoPhase app = {.end = false};

	fill("CREATE TABLE t (id int)", NULL);
	PGconn *conn = db_connect(cluster, "source");
	ck_assert_int_eq(pthread_create(&app.thread, NULL, commit_in_two_phases, &app), 0);
	for (int i = 0; i < 3; i++) {
		db_wait_until(conn, "SELECT count(*) > 0 FROM pg_prepared_xacts", 30);
		Findings *findings = run();
		expect_none(findings, "prepared_transaction");
		findings_free(findings);
	}
	app.end = true;
	pthread_join(app.thread, NULL);
	PQfinish(conn);
}
END_TEST

START_TEST(transactions_and_leftovers)
{
	fill("CREATE TABLE t (id int PRIMARY KEY); CREATE SCHEMA pgbaton;"
	     "CREATE PUBLICATION pgbaton_insert_only",
	     NULL);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(conn, "SELECT pg_create_logical_replication_slot('pgbaton', 'pgoutput')");
	db_exec(conn, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'it''s'");
	Findings *findings = run();

	expect(findings, FINDING_BLOCKER, "prepared_transaction", "it's", "ROLLBACK PREPARED 'it''s';");
	expect(findings, FINDING_BLOCKER, "name_taken", "source, replication slot pgbaton",
	       "SELECT pg_drop_replication_slot('pgbaton');");
	expect(findings, FINDING_BLOCKER, "name_taken", "source, publication pgbaton",
	       "DROP PUBLICATION pgbaton_insert_only;");
	expect(findings, FINDING_BLOCKER, "name_taken", "source, schema pgbaton", "--name");
	findings_free(findings);

	options.resuming = true;
	findings = run();
	expect_none(findings, "name_taken");
	expect_none(findings, "prepared_transaction");
	findings_free(findings);
	db_exec(conn, "ROLLBACK PREPARED 'it''s'");
	PQfinish(conn);
}
END_TEST

START_TEST(target_in_the_way)
{
	fill("CREATE TABLE t (id int PRIMARY KEY); CREATE SEQUENCE s; CREATE TYPE e AS ENUM ('a');"
	     "CREATE VIEW v AS SELECT 1; CREATE TABLE \"Odd\" (id int PRIMARY KEY)",
	     "CREATE VIEW t AS SELECT 1; CREATE SEQUENCE s; CREATE TYPE e AS ENUM ('a');"
	     "CREATE TABLE v (a int); CREATE TABLE \"Odd\" (); CREATE TABLE other (a int)");
	Findings *findings = run();

	expect(findings, FINDING_BLOCKER, "target_not_empty", "view public.t",
	       "DROP view \"public\".\"t\"");
	expect(findings, FINDING_BLOCKER, "target_not_empty", "sequence public.s", NULL);
	expect(findings, FINDING_BLOCKER, "target_not_empty", "type public.e", NULL);
	expect(findings, FINDING_BLOCKER, "target_not_empty", "table public.v", NULL);
	expect(findings, FINDING_BLOCKER, "target_not_empty", "table public.Odd", NULL);
	ck_assert_ptr_null(find(findings, "target_not_empty", "table public.other"));
	findings_free(findings);

	options.resuming = true;
	findings = run();
	expect_none(findings, "target_not_empty");
	findings_free(findings);
}
END_TEST

START_TEST(schema_that_is_there_must_fit_and_be_empty)
{
	fill("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE full_t (id int PRIMARY KEY)",
	     "CREATE TABLE full_t (id int PRIMARY KEY); INSERT INTO full_t VALUES (1)");
	options.schema_copy = false;
	Findings *findings = run();

	expect(findings, FINDING_BLOCKER, "schema_mismatch", "target", NULL);
	ck_assert_ptr_nonnull(
		strstr(find(findings, "schema_mismatch", "target")->message, "\"t\" is missing"));
	expect(findings, FINDING_BLOCKER, "target_not_empty", "table public.full_t", "TRUNCATE ONLY");
	findings_free(findings);
}
END_TEST

START_TEST(small_rights_are_named)
{
	remake_role("small", "NOREPLICATION");
	remake_role("owner_r", "");
	fill("CREATE SCHEMA hidden; CREATE TABLE hidden.h (id int PRIMARY KEY);"
	     "CREATE TABLE t (id int PRIMARY KEY); CREATE SEQUENCE s;"
	     "CREATE TABLE secret (id int PRIMARY KEY); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;"
	     "GRANT SELECT ON secret TO small; ALTER TABLE t OWNER TO owner_r",
	     NULL);
	Findings *findings = run_on(cluster, "source", "target", "small");

	expect(findings, FINDING_BLOCKER, "replication", "source", "ALTER ROLE \"small\" REPLICATION;");
	expect(findings, FINDING_BLOCKER, "publication_rights", "source",
	       "GRANT CREATE ON DATABASE \"source\" TO \"small\";");
	expect(findings, FINDING_BLOCKER, "select", "table public.t",
	       "GRANT SELECT ON TABLE public.t TO \"small\";");
	expect(findings, FINDING_BLOCKER, "select", "table hidden.h",
	       "GRANT USAGE ON SCHEMA hidden TO \"small\";");
	expect(findings, FINDING_BLOCKER, "select", "sequence public.s", "GRANT SELECT ON SEQUENCE");
	expect(findings, FINDING_BLOCKER, "row_security", "table public.secret", "BYPASSRLS");
	expect(findings, FINDING_BLOCKER, "ownership", "tables of role owner_r",
	       "GRANT \"owner_r\" TO \"small\";");
	expect(findings, FINDING_BLOCKER, "target_rights", "target", "GRANT CREATE ON DATABASE");
	expect(findings, FINDING_BLOCKER, "session_replication_role", "target",
	       "GRANT SET ON PARAMETER");
	ck_assert_ptr_null(find(findings, "select", "table public.secret"));
	expect_none(findings, "way_back_role");
	findings_free(findings);

	options.failback = true;
	findings = run_on(cluster, "source", "target", "small");
	expect_none(findings, "way_back_large_objects");
	expect(findings, FINDING_BLOCKER, "way_back_role", "source", "GRANT SET ON PARAMETER");
	expect(findings, FINDING_WARNING, "way_back_replication", "target", "REPLICATION");
	findings_free(findings);
	servers_clean(cluster);
}
END_TEST

START_TEST(tables_that_only_the_target_has)
{
	static const char *left_out[] = {"left_out"};

	fill("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE left_out (id int)",
	     "CREATE SCHEMA own; CREATE TABLE own.report (id int); CREATE TABLE left_out (id int)");
	options.selection.lists[EXCLUDE_TABLE] = (PatternList){left_out, 1};
	for (int back = 0; back < 2; back++) {
		options.failback = back;
		Findings *findings = run();
		if (back)
			expect(findings, FINDING_WARNING, "way_back_table", "target, table own.report",
			       "--exclude-table own.report");
		else
			expect_none(findings, "way_back_table");
		ck_assert_ptr_null(find(findings, "way_back_table", "target, table public.left_out"));
		findings_free(findings);
	}
}
END_TEST

START_TEST(large_objects_are_looked_at)
{
	remake_role("small", "REPLICATION");
	remake_role("owner_r", "");
	fill("CREATE TABLE t (id int PRIMARY KEY); SELECT lo_create(20), lo_create(21), lo_create(22);"
	     "ALTER LARGE OBJECT 21 OWNER TO owner_r; GRANT SELECT ON LARGE OBJECT 22 TO small",
	     "SELECT lo_create(20)");
	options.failback = true;
	Findings *findings = run_on(cluster, "source", "target", "small");
	expect(findings, FINDING_BLOCKER, "large_objects_rights", "source", "member of their owners");
	ck_assert_ptr_nonnull(
		strstr(find(findings, "large_objects_rights", "source")->message, "2 of 3"));
	expect(findings, FINDING_BLOCKER, "large_objects_target", "target", "lo_unlink");
	expect(findings, FINDING_WARNING, "large_objects_fence", "source", "superuser");
	expect(findings, FINDING_WARNING, "way_back_large_objects", "migration", "superusers");
	expect(findings, FINDING_BLOCKER, "target_membership", "target, role owner_r", "GRANT");
	ck_assert_ptr_nonnull(strstr(find(findings, "large_objects", "source")->message, "by lo_get"));
	findings_free(findings);

	/* Their numbers are ours once the copy has begun. */
	options.resuming = true;
	findings = run();
	expect_none(findings, "large_objects_target");
	expect_none(findings, "large_objects_rights");
	expect_none(findings, "way_back_large_objects");
	findings_free(findings);

	options.resuming = false;
	const char *chosen[] = {"public"};
	options.selection.lists[INCLUDE_SCHEMA] = (PatternList){chosen, 1};
	findings = run();
	expect(findings, FINDING_INFO, "large_objects", "source", "--large-objects copy");
	expect_none(findings, "large_objects_target");
	findings_free(findings);
	options.selection.large_objects = LARGE_OBJECTS_COPY;
	findings = run();
	expect(findings, FINDING_BLOCKER, "large_objects_target", "target", "lo_unlink");
	findings_free(findings);
	servers_clean(cluster);
}
END_TEST

/* No provider is packaged: what it would have said is put where it says it. */
START_TEST(security_labels)
{
	fill("CREATE TABLE t (id int PRIMARY KEY); SELECT lo_create(20); INSERT INTO pg_seclabel VALUES"
	     " ('t'::regclass, 'pg_class'::regclass, 0, 'mac', 'secret'),"
	     " (20, 'pg_largeobject'::regclass, 0, 'mac', 'secret')",
	     NULL);
	Findings *findings = run();
	expect(findings, FINDING_BLOCKER, "security_labels", "provider mac", "--no-security-labels");
	expect(findings, FINDING_WARNING, "large_object_labels", "provider mac", NULL);
	findings_free(findings);

	options.no_security_labels = true;
	findings = run();
	expect_none(findings, "security_labels");
	ck_assert_msg(findings_count(findings, FINDING_BLOCKER) == 0, "%s", listing(findings));
	findings_free(findings);
	servers_clean(cluster);
}
END_TEST

/* The fixes do what they say: applied, nothing blocks any more. */
START_TEST(fixes_mend)
{
	remake_role("small", "NOREPLICATION");
	fill("CREATE SCHEMA hidden; CREATE TABLE hidden.h (id int PRIMARY KEY);"
	     "CREATE TABLE secret (id int PRIMARY KEY); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;"
	     "CREATE SEQUENCE s",
	     NULL);
	PGconn *source = db_connect(cluster, "source");
	PGconn *target = db_connect(cluster, "target");

	for (int round = 0; round < 3; round++) {
		Findings *findings = run_on(cluster, "source", "target", "small");
		for (size_t i = 0; i < findings->count; i++) {
			const Finding *finding = &findings->items[i];
			if (finding->severity != FINDING_BLOCKER)
				continue;
			ck_assert_msg(finding->fix != NULL, "%s has no fix", finding->code);
			db_exec(strcmp(finding->object, "target") == 0 ? target : source, "%s", finding->fix);
		}
		findings_free(findings);
	}
	Findings *findings = run_on(cluster, "source", "target", "small");
	ck_assert_msg(findings_count(findings, FINDING_BLOCKER) == 0, "%s", listing(findings));
	findings_free(findings);
	db_exec(source, "REVOKE postgres FROM small");
	PQfinish(source);
	PQfinish(target);
	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "postgres");
	db_exec(conn, "REVOKE SET ON PARAMETER session_replication_role FROM small");
	PQfinish(conn);
}
END_TEST

START_TEST(target_settings_locale_encoding)
{
	fill("CREATE TABLE t (id int PRIMARY KEY, m money)", NULL);
	PGconn *conn = db_connect(cluster, "postgres");
	db_exec(conn, "DROP DATABASE target");
	db_exec(conn, "CREATE DATABASE target TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C'"
	              " LC_CTYPE 'C'");
	db_exec(conn, "ALTER DATABASE target SET default_transaction_read_only = on");
	Findings *findings = run();

	expect(findings, FINDING_WARNING, "encoding", "target", "'UTF8'");
	expect(findings, FINDING_BLOCKER, "target_read_only", "target",
	       "SET default_transaction_read_only = off;"
	       " ALTER DATABASE target RESET default_transaction_read_only");
	findings_free(findings);

	db_exec(conn, "DROP DATABASE source");
	db_exec(conn, "CREATE DATABASE source TEMPLATE template0 ENCODING 'SQL_ASCII'");
	db_exec(conn, "DROP DATABASE target");
	db_exec(conn, "CREATE DATABASE target TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C'"
	              " LC_CTYPE 'C.UTF-8'");
	findings = run();
	expect(findings, FINDING_WARNING, "locale", "target, character type", "LC_CTYPE 'C'");
	ck_assert_ptr_nonnull(strstr(find(findings, "encoding", "source")->message, "SQL_ASCII"));
	findings_free(findings);
	PQfinish(conn);
}
END_TEST

START_TEST(extensions_and_roles)
{
	fill("CREATE EXTENSION hstore; CREATE TABLE t (id int PRIMARY KEY)", NULL);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(conn, "UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'hstore'");
	Findings *findings = run();
	expect(findings, FINDING_WARNING, "extension_version", "extension hstore", "ALTER EXTENSION");
	findings_free(findings);

	options.schema_copy = false;
	findings = run();
	expect(findings, FINDING_WARNING, "extension", "extension hstore", "CREATE EXTENSION");
	findings_free(findings);

	options.schema_copy = true;
	db_exec(conn, "UPDATE pg_extension SET extname = 'nowhere' WHERE extname = 'hstore'");
	findings = run();
	expect(findings, FINDING_BLOCKER, "extension", "extension nowhere", NULL);
	findings_free(findings);
	PQfinish(conn);
}
END_TEST

/* What the check says of the settings of both servers, and the statements that mend it. */
static void
expect_settings(const Findings *findings, const char *object, const char *message, const char *fix)
{
	expect(findings, FINDING_WARNING, "settings", object, NULL);
	const Finding *finding = find(findings, "settings", object);
	ck_assert_str_eq(finding->message, message);
	ck_assert_str_eq(finding->fix, fix);
}

/* ALTER DATABASE and ALTER ROLE ... SET: no dump of the database has them, no session brings
 * them along. */
START_TEST(settings_of_roles_and_databases)
{
	static const char equal[] =
		"CREATE ROLE \"App-1\" LOGIN; ALTER ROLE \"App-1\" SET work_mem = '9MB';"
		"ALTER DATABASE %s SET work_mem = '5MB';"
		"ALTER ROLE \"App-1\" IN DATABASE %s SET datestyle = 'ISO, DMY'";
	Cluster *sides[2] = {servers_start(0, NULL), servers_start(0, NULL)};
	const char *const names[2] = {"source", "target"};
	ConnInfo *info = servers_info(sides[0], "source", NULL);
	PGconn *conn[2];
	Sql *sql[2];
	Catalog *catalog;
	Error err;

	fill(NULL, NULL);
	for (int i = 0; i < 2; i++) {
		conn[i] = db_connect(sides[i], names[i]);
		sql[i] = servers_open(sides[i], names[i]);
		db_exec(conn[i], equal, names[i], names[i]);
	}
	/* A role of one side alone, another database: nobody's business here. */
	db_exec(conn[0], "CREATE ROLE here; ALTER ROLE here SET work_mem = '7MB';"
	                 "ALTER DATABASE target SET work_mem = '8MB'");
	Findings *findings = findings_new();
	ASSERT_OK(check_run(sql[0], sql[1], info, &options, findings, &catalog, &err));
	expect_none(findings, "settings");
	findings_free(findings);
	catalog_free(catalog);

	db_exec(conn[0], "ALTER DATABASE source SET search_path = \"$user\", \"A b\", public;"
	                 "ALTER DATABASE source SET app.tenant = 'it''s \"x\"';"
	                 "ALTER DATABASE source SET work_mem = '6MB';"
	                 "ALTER ROLE \"App-1\" SET search_path = '';"
	                 "ALTER ROLE ALL SET application_name = 'all';"
	                 "ALTER ROLE \"App-1\" IN DATABASE source SET jit = off");
	db_exec(conn[1], "ALTER ROLE \"App-1\" SET statement_timeout = '3s'");
	findings = findings_new();
	ASSERT_OK(check_run(sql[0], sql[1], info, &options, findings, &catalog, &err));
	expect_settings(
		findings, "target, database target",
		"app.tenant is 'it's \"x\"' on the source and not set on the target; search_path is"
		" '\"$user\", \"A b\", public' on the source and not set on the target; work_mem is '6MB' on"
		" the source and '5MB' on the target: sessions have other defaults there",
		"ALTER DATABASE target SET app.tenant TO 'it''s \"x\"';"
		" ALTER DATABASE target SET search_path TO \"$user\", \"A b\", public;"
		" ALTER DATABASE target SET work_mem TO '6MB';");
	expect_settings(
		findings, "target, role App-1",
		"search_path is '\"\"' on the source and not set on the target; statement_timeout is not set"
		" on the source and '3s' on the target: sessions have other defaults there",
		"ALTER ROLE \"App-1\" SET search_path TO ''; ALTER ROLE \"App-1\" RESET statement_timeout;");
	expect_settings(
		findings, "target, all roles",
		"application_name is 'all' on the source and not set on the target: sessions have other"
		" defaults there",
		"ALTER ROLE ALL SET application_name TO 'all';");
	expect_settings(findings, "target, role App-1, database target",
	                "jit is 'off' on the source and not set on the target: sessions have other"
	                " defaults there",
	                "ALTER ROLE \"App-1\" IN DATABASE target SET jit TO 'off';");
	for (size_t i = 0; i < findings->count; i++) {
		if (strcmp(findings->items[i].code, "settings") == 0)
			db_exec(conn[1], "%s", findings->items[i].fix);
	}
	findings_free(findings);
	catalog_free(catalog);

	findings = findings_new();
	ASSERT_OK(check_run(sql[0], sql[1], info, &options, findings, &catalog, &err));
	expect_none(findings, "settings");
	findings_free(findings);
	catalog_free(catalog);
	conninfo_free(info);
	for (int i = 0; i < 2; i++) {
		sql_close(sql[i]);
		PQfinish(conn[i]);
		cluster_free(sides[i]);
	}
}
END_TEST

/* Each is let in by the source, and kept out by the target in its own way, but for the last two. What
 * mends it mends it. */
START_TEST(roles_of_the_listener)
{
	static const struct {
		const char *name, *source, *target, *why, *fix;
	} roles[] = {
		{"gone", "PASSWORD 'a'", NULL, "does not exist on the target", "pg_dumpall --roles-only"},
		{"shut", "PASSWORD 'a'", "NOLOGIN", "NOLOGIN", "ALTER ROLE \"shut\" LOGIN;"},
		{"kept", "PASSWORD 'a'", "PASSWORD 'a'", "may not connect",
	     "GRANT CONNECT ON DATABASE \"target\" TO \"kept\";"},
		{"late", "PASSWORD 'a'", "VALID UNTIL '2020-01-01'", "no longer valid", "VALID UNTIL"},
		{"many", "", "CONNECTION LIMIT 0", "CONNECTION LIMIT 0", "CONNECTION LIMIT -1"},
		{"bare", "PASSWORD 'a'", "", "no password there", "pg_dumpall --roles-only"},
		{"salt", "PASSWORD 'a'", "PASSWORD 'a'", "another salt", "pg_dumpall --roles-only"},
		{"hash", "PASSWORD 'a'", "PASSWORD 'md5d4fc5129cc2c25465a5370113ae9835f'", "another kind",
	     "pg_dumpall --roles-only"},
		{"same", "PASSWORD 'md5d4fc5129cc2c25465a5370113ae9835f'",
	     "PASSWORD 'md5d4fc5129cc2c25465a5370113ae9835f'", NULL, NULL},
		{"free", "", "", NULL, NULL},
	};
	enum { ROLES = sizeof(roles) / sizeof(roles[0]) };
	Cluster *sides[2] = {servers_start(0, NULL), servers_start(0, "max_connections = 8\n")};
	const char *const names[2] = {"source", "target"};
	ConnInfo *info = servers_info(sides[0], "source", NULL);
	PGconn *conn[2], *others[8];
	Sql *sql[2];
	Catalog *catalog;
	Error err;

	fill(NULL, NULL);
	options.listens = true;
	for (int i = 0; i < 2; i++) {
		conn[i] = db_connect(sides[i], names[i]);
		sql[i] = servers_open(sides[i], names[i]);
	}
	db_exec(conn[1], "REVOKE CONNECT ON DATABASE target FROM PUBLIC");
	for (int i = 0; i < ROLES; i++) {
		db_exec(conn[0], "CREATE ROLE %s LOGIN; ALTER ROLE %s %s", roles[i].name, roles[i].name,
		        *roles[i].source ? roles[i].source : "LOGIN");
		if (roles[i].target == NULL)
			continue;
		db_exec(conn[1], "CREATE ROLE %s LOGIN; ALTER ROLE %s %s", roles[i].name, roles[i].name,
		        *roles[i].target ? roles[i].target : "LOGIN");
		if (strcmp(roles[i].name, "kept") != 0)
			db_exec(conn[1], "GRANT CONNECT ON DATABASE target TO %s", roles[i].name);
	}
	for (int i = 0; i < 8; i++) {
		char *uri = mem_printf("postgresql://%s@127.0.0.1:%d/source", i == 0 ? "many" : "postgres",
		                       cluster_port(sides[0]));
		others[i] = db_connect_uri(uri);
		free(uri);
	}
	Findings *findings = findings_new();
	ASSERT_OK(check_run(sql[0], sql[1], info, &options, findings, &catalog, &err));
	catalog_free(catalog);
	for (int i = 0; i < ROLES; i++) {
		char object[32];
		snprintf(object, sizeof(object), "role %s", roles[i].name);
		const Finding *found = find(findings, "listener_role", object);
		ck_assert_msg((found != NULL) == (roles[i].why != NULL), "%s:\n%s", object,
		              listing(findings));
		if (roles[i].why != NULL)
			ck_assert_msg(strstr(found->message, roles[i].why) != NULL &&
			                  strstr(found->fix, roles[i].fix) != NULL,
			              "%s (%s)", found->message, found->fix);
	}
	expect(findings, FINDING_WARNING, "listener_connections", "target", "max_connections");
	expect_none(findings, "listener_auth");
	findings_free(findings);

	/* The migration's role may not look, there is no listener. */
	for (int with = 1; with >= 0; with--) {
		db_exec(conn[0], with ? "CREATE ROLE mover LOGIN REPLICATION" : "SELECT 1");
		Sql *mover = servers_open_as(sides[0], "source", "mover");
		options.listens = with;
		findings = findings_new();
		ASSERT_OK(check_run(mover, sql[1], info, &options, findings, &catalog, &err));
		catalog_free(catalog);
		if (with) {
			expect(findings, FINDING_WARNING, "listener_auth", "source", "GRANT SELECT");
			expect(findings, FINDING_WARNING, "listener_role", "role gone", NULL);
		} else {
			expect_none(findings, "listener_auth");
			expect_none(findings, "listener_role");
		}
		findings_free(findings);
		sql_close(mover);
	}
	conninfo_free(info);
	for (int i = 0; i < 8; i++)
		PQfinish(others[i]);
	for (int i = 0; i < 2; i++) {
		sql_close(sql[i]);
		PQfinish(conn[i]);
		cluster_free(sides[i]);
	}
}
END_TEST

/* Slots are of the whole server: that of a neighbour must not be proposed for removal. */
START_TEST(slot_of_another_database)
{
	fill("CREATE TABLE t (id int PRIMARY KEY)", NULL);
	PGconn *neighbour = db_connect(cluster, "target");
	db_exec(neighbour, "SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", options.name);
	char *object = mem_printf("source, replication slot %s", options.name);

	Findings *findings = run();
	expect(findings, FINDING_BLOCKER, "name_taken", object, "choose another --name");
	ck_assert_ptr_null(strstr(find(findings, "name_taken", object)->fix, "drop"));
	findings_free(findings);
	db_exec(neighbour, "SELECT pg_drop_replication_slot('%s')", options.name);
	PQfinish(neighbour);
	free(object);
}
END_TEST

START_TEST(owners_on_the_target)
{
	remake_role("small", "REPLICATION");
	fill("CREATE TABLE t (id int PRIMARY KEY)", NULL);
	Findings *findings = run_on(cluster, "source", "target", "small");
	expect(findings, FINDING_BLOCKER, "target_membership", "target, role postgres",
	       "GRANT \"postgres\" TO \"small\"");
	findings_free(findings);

	/* Other things have owners, too; not those of an extension or of the server itself. */
	remake_role("maker", "");
	fill("CREATE EXTENSION citext; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';"
	     "ALTER FUNCTION f() OWNER TO maker",
	     NULL);
	findings = run_on(cluster, "source", "target", "small");
	expect(findings, FINDING_BLOCKER, "target_membership", "target, role maker",
	       "GRANT \"maker\" TO \"small\"");
	ck_assert_ptr_null(find(findings, "target_membership", "target, role postgres"));
	findings_free(findings);

	options.no_owner = true;
	findings = run_on(cluster, "source", "target", "small");
	ck_assert_ptr_null(find(findings, "target_membership", "target, role postgres"));
	findings_free(findings);
	options.no_owner = false;
}
END_TEST

START_TEST(name_is_checked_first)
{
	Error err = ERROR_INIT;
	Catalog *catalog;
	static const char *const bad[] = {
		"", "1a", "Upper", "a b", "a'b", "pg_x", "a2345678901234567890123456789012345678901x"};

	fill(NULL, NULL);
	Sql *source = servers_open(cluster, "source");
	Sql *target = servers_open(cluster, "target");
	Findings *findings = findings_new();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		options.name = bad[i];
		ck_assert_msg(!check_run(source, target, NULL, &options, findings, &catalog, &err), "%s",
		              bad[i]);
		ck_assert_int_eq(err.class, ERROR_CONFIG);
	}
	findings_free(findings);
	sql_close(source);
	sql_close(target);
}
END_TEST

START_TEST(lost_server_is_an_error)
{
	Error err = ERROR_INIT;
	Catalog *catalog;

	fill("CREATE TABLE t (id int PRIMARY KEY)", NULL);
	Sql *source = servers_open(cluster, "source");
	Sql *target = servers_open(cluster, "target");
	ConnInfo *info = servers_info(cluster, "source", NULL);
	Findings *findings = findings_new();
	PGconn *conn = db_connect(cluster, "postgres");
	db_exec(conn, "SELECT pg_terminate_backend(%d)", PQbackendPID(sql_pgconn(target)));
	ck_assert(!check_run(source, target, info, &options, findings, &catalog, &err));
	ck_assert_int_eq(err.class, ERROR_NETWORK);
	ck_assert_ptr_null(catalog);
	findings_free(findings);
	conninfo_free(info);
	sql_close(source);
	sql_close(target);
	PQfinish(conn);
}
END_TEST

/* ---- servers of their own ---- */

START_TEST(server_settings_block)
{
	Cluster *own = servers_start(0, "wal_level = replica\nmax_slot_wal_keep_size = 100\n"
	                                "max_replication_slots = 0\nmax_wal_senders = 0\n"
	                                "wal_sender_timeout = 3s\n");

	options = (CheckOptions){.online = true,
	                         .schema_copy = true,
	                         .replica_identity = "full",
	                         .name = "pgbaton",
	                         .log_directory = "/nowhere"};
	Findings *findings = run_on(own, "source", "target", NULL);
	expect(findings, FINDING_BLOCKER, "wal_level", "source",
	       "ALTER SYSTEM SET wal_level = 'logical'; then restart");
	expect(findings, FINDING_BLOCKER, "replication_slots", "source", "max_replication_slots = '4'");
	expect(findings, FINDING_BLOCKER, "wal_senders", "source", "max_wal_senders = '4'");
	expect(findings, FINDING_WARNING, "max_slot_wal_keep_size", "source", "pg_reload_conf");
	expect(findings, FINDING_INFO, "wal_sender_timeout", "source", NULL);
	expect(findings, FINDING_WARNING, "log_disk", "/nowhere", NULL);
	expect_none(findings, "way_back_wal_level");
	findings_free(findings);

	options.failback = true;
	options.name = "a_name_of_thirty_seven_characters_123";
	findings = run_on(own, "source", "target", NULL);
	expect(findings, FINDING_BLOCKER, "way_back_name", "migration", NULL);
	expect(findings, FINDING_BLOCKER, "way_back_wal_level", "target", "wal_level = logical");
	expect(findings, FINDING_BLOCKER, "way_back_slots", "target", "max_replication_slots");
	expect(findings, FINDING_BLOCKER, "way_back_senders", "target", "max_wal_senders");
	findings_free(findings);
	cluster_free(own);
}
END_TEST

/* Locks on 40 tables fit here; 40 tables that are made at once with all that is theirs do not. */
START_TEST(lock_tables_are_measured)
{
	Cluster *own = servers_start(0, "max_locks_per_transaction = 10\nmax_connections = 10\n"
	                                "max_prepared_transactions = 0\n");
	PGconn *conn = db_connect(own, "source");

	db_exec(conn, "DO $$BEGIN FOR i IN 1..40 LOOP EXECUTE"
	              " 'CREATE TABLE t' || i || ' (id int PRIMARY KEY, v text)'; END LOOP; END$$");
	options = (CheckOptions){
		.online = true, .schema_copy = true, .replica_identity = "full", .name = "pgbaton"};
	Findings *findings = run_on(own, "source", "target", NULL);
	expect(findings, FINDING_WARNING, "lock_table", "target", "max_locks_per_transaction = '512'");
	ck_assert_msg(find(findings, "lock_table", "source") == NULL, "%s", listing(findings));
	findings_free(findings);

	db_exec(conn, "DO $$BEGIN FOR i IN 41..80 LOOP EXECUTE"
	              " 'CREATE TABLE t' || i || ' (id int PRIMARY KEY, v text)'; END LOOP; END$$");
	findings = run_on(own, "source", "target", NULL);
	expect(findings, FINDING_WARNING, "lock_table", "source", "max_locks_per_transaction = '512'");
	findings_free(findings);
	/* pg_dump does so offline, too. */
	options.online = false;
	findings = run_on(own, "source", "target", NULL);
	expect(findings, FINDING_WARNING, "lock_table", "source", NULL);
	findings_free(findings);
	/* The schema is there, and no fence will be. */
	options.schema_copy = false;
	findings = run_on(own, "source", "target", NULL);
	expect_none(findings, "lock_table");
	findings_free(findings);
	PQfinish(conn);
	cluster_free(own);
}
END_TEST

/* Every query runs on every version; on one server older than 15 that cannot be a target. */
static bool
has_pg_dump(int major)
{
	char dump[512], restore[512];
	Error err = ERROR_INIT;

	return schema_find_tools(major * 10000, dump, restore, sizeof(dump), &err);
}

/* The schema is taken by pg_dump, and an older one refuses: that is not to be found out by `run`. */
START_TEST(pg_dump_is_looked_for)
{
	int newest = CLUSTER_NEWEST;

	while (!cluster_available(newest))
		newest--;
	bool have = has_pg_dump(newest);
	Cluster *on = servers_start(newest, "");
	options = (CheckOptions){
		.online = true, .schema_copy = true, .replica_identity = "full", .name = "pgbaton"};
	Findings *findings = run_on(on, "source", "target", NULL);
	if (have)
		expect_none(findings, "pg_dump");
	else
		expect(findings, FINDING_BLOCKER, "pg_dump", "this machine", "--schema none");
	findings_free(findings);
	/* Nobody needs it where the schema is there. */
	options.schema_copy = false;
	findings = run_on(on, "source", "target", NULL);
	expect_none(findings, "pg_dump");
	findings_free(findings);
	cluster_free(on);
}
END_TEST

START_TEST(all_versions_can_be_asked)
{
	TEST_NEEDS_MAJOR(_i);
	Cluster *own = servers_start(_i, NULL);
	PGconn *conn = db_connect(own, "source");

	db_exec(conn, "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE n (a int)");
	options = (CheckOptions){
		.online = true, .schema_copy = true, .replica_identity = "full", .name = "pgbaton"};
	Findings *findings = run_on(own, "source", "target", NULL);
	expect_none(findings, "not_checked");
	expect_none(findings, "source_version");
	size_t expected = (_i < 15) + !has_pg_dump(_i);
	ck_assert_msg(findings_count(findings, FINDING_BLOCKER) == expected, "%s", listing(findings));
	if (_i < 15)
		expect(findings, FINDING_BLOCKER, "target_version", "target", NULL);
	findings_free(findings);
	PQfinish(conn);
	cluster_free(own);
}
END_TEST

static Suite *
make_check(void)
{
	Suite *suite = suite_create("check");
	TCase *found = tcase_create("found");
	TCase *servers = tcase_create("servers");

	tcase_add_unchecked_fixture(found, start, stop);
	tcase_set_timeout(found, 60);
	tcase_add_test(found, large_objects_are_looked_at);
	tcase_add_test(found, security_labels);
	tcase_add_test(found, nothing_blocks_a_fit_pair);
	tcase_add_test(found, equal_findings_are_kept_once);
	tcase_add_test(found, same_database_blocks);
	tcase_add_test(found, what_cannot_be_moved_as_it_is);
	tcase_add_test(found, passing_prepared_transactions);
	tcase_add_test(found, transactions_and_leftovers);
	tcase_add_test(found, target_in_the_way);
	tcase_add_test(found, schema_that_is_there_must_fit_and_be_empty);
	tcase_add_test(found, small_rights_are_named);
	tcase_add_test(found, fixes_mend);
	tcase_add_test(found, target_settings_locale_encoding);
	tcase_add_test(found, extensions_and_roles);
	tcase_add_test(found, settings_of_roles_and_databases);
	tcase_add_test(found, tables_that_only_the_target_has);
	tcase_add_test(found, roles_of_the_listener);
	tcase_add_test(found, slot_of_another_database);
	tcase_add_test(found, owners_on_the_target);
	tcase_add_test(found, name_is_checked_first);
	tcase_add_test(found, lost_server_is_an_error);
	suite_add_tcase(suite, found);

	tcase_set_timeout(servers, 60);
	tcase_add_test(servers, server_settings_block);
	tcase_add_test(servers, lock_tables_are_measured);
	tcase_add_test(servers, pg_dump_is_looked_for);
	tcase_add_loop_test(servers, all_versions_can_be_asked, CLUSTER_OLDEST, CLUSTER_NEWEST + 1);
	suite_add_tcase(suite, servers);
	return suite;
}
TEST_SUITE(make_check)
