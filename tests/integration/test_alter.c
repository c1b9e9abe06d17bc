/*
 * The source's schema changes while its rows are followed: what goes on by itself, and what
 * stops with the column named and goes on when pgbaton is started again (it reads both
 * catalogues only then). Nothing is lost either way.
 */
#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
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
	Pgbaton *p;
	int steps; /* rows in the table step */
	int written;
} Case;

static void
case_open(Case *c, const char *name)
{
	char source_uri[160];
	char target_uri[160];

	memset(c, 0, sizeof(*c));
	db_create(source_cluster, name);
	db_create(target_cluster, name);
	snprintf(source_uri, sizeof(source_uri), "%s", cluster_uri(source_cluster, name));
	snprintf(target_uri, sizeof(target_uri), "%s", cluster_uri(target_cluster, name));
	c->source = db_connect_uri(source_uri);
	c->target = db_connect_uri(target_uri);
	db_exec(c->source, "CREATE TABLE keyed (id int PRIMARY KEY, a text, b int);"
	                   "CREATE TABLE bare (a text, b int); CREATE TABLE step (id int PRIMARY KEY);"
	                   "CREATE TYPE mood AS ENUM ('calm');"
	                   "CREATE TABLE felt (id int PRIMARY KEY, m mood);"
	                   "INSERT INTO keyed SELECT i, 'a', i FROM generate_series(1, 500) i;"
	                   "INSERT INTO bare SELECT 'a', i %% 9 FROM generate_series(1, 100) i;"
	                   "CREATE TABLE twin (LIKE keyed INCLUDING ALL);"
	                   "INSERT INTO twin SELECT i, 'twin', i FROM generate_series(1, 500) i");
	db_exec(
		c->source,
		"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW old AS SELECT 1;"
		"CREATE SEQUENCE s; CREATE INDEX kept ON keyed (b)");
	/* Of which the target's must not act while rows are applied, and the source's identity is FULL. */
	db_exec(c->source,
	        "CREATE TABLE aside (id int GENERATED ALWAYS AS IDENTITY, a text);"
	        "INSERT INTO aside (a) VALUES ('first');"
	        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS"
	        " 'BEGIN NEW.a := NEW.a || ''!''; RETURN NEW; END';"
	        "CREATE TRIGGER stamp BEFORE INSERT ON aside FOR EACH ROW EXECUTE FUNCTION stamp();"
	        "ALTER TABLE aside ENABLE ALWAYS TRIGGER stamp");
	const char *args[] = {"--name", name, NULL};
	c->p = pgbaton_start(
		&(PgbatonOptions){.source = source_uri, .target = target_uri, .args = args});
	pgbaton_wait_state(c->p, "following", 60);
}

static void
case_close(Case *c)
{
	pgbaton_free(c->p);
	PQfinish(c->source);
	PQfinish(c->target);
}

/* a: the name of the text column by now. */
static void
write_some(Case *c, const char *a)
{
	int n = ++c->written;

	db_exec(c->source,
	        "INSERT INTO keyed (id, %s) VALUES (%d, 'x'); UPDATE keyed SET %s = 'w%d'"
	        " WHERE id %% 3 = %d; DELETE FROM keyed WHERE id = %d;"
	        "INSERT INTO bare (%s) VALUES ('y'), ('y'); UPDATE bare SET %s = 'z%d' WHERE %s = 'y'",
	        a, 1000 + n, a, n, n % 3, n, a, a, n, a);
}

/* A batch begins when the one before is committed on all lanes. */
static void
case_sync(Case *c)
{
	char sql[80];

	for (int i = 0; i < 2; i++) {
		db_exec(c->source, "INSERT INTO step VALUES (%d)", ++c->steps);
		snprintf(sql, sizeof(sql), "SELECT count(*) = 1 FROM step WHERE id = %d", c->steps);
		db_wait_until(c->target, sql, 30);
	}
}

static void
case_equal(Case *c, const char *name)
{
	case_sync(c);
	compare_databases(c->source, c->target, &(CompareOptions){.own_schema = name});
}

/* It has stopped, and says at what, and what to do. */
static void
wait_failed(Case *c, const char *word, const char *hint)
{
	int64_t deadline = deadline_in_ms(30000);
	char *error = NULL;
	bool failed = false;

	while (!failed) {
		char *state = pgbaton_status_text(c->p, "state");
		failed = strcmp(state, "failed") == 0;
		free(state);
		ck_assert_msg(failed || deadline_left_ms(deadline) > 0, "goes on\n%s", pgbaton_log(c->p));
		poll(NULL, 0, failed ? 0 : 10);
	}
	error = pgbaton_status_text(c->p, "error.message");
	ck_assert_msg(strstr(error, word) != NULL, "%s", error);
	ck_assert_ptr_nonnull(strstr(pgbaton_log(c->p), hint));
	free(error);
}

static void
start_again(Case *c)
{
	pgbaton_stop(c->p, SIGTERM);
	pgbaton_again(c->p);
	pgbaton_wait_state(c->p, "following", 60);
}

/* The target knows the column before the first row has it. */
START_TEST(add_column)
{
	static const char ddl[] = "ALTER TABLE keyed ADD COLUMN c int DEFAULT 7;"
							  "ALTER TABLE bare ADD COLUMN c text";
	Case c;

	case_open(&c, "adds");
	write_some(&c, "a");
	db_exec(c.target, "%s", ddl);
	write_some(&c, "a");
	case_sync(&c);
	db_exec(c.source, "%s", ddl);
	write_some(&c, "a");
	db_exec(c.source,
	        "UPDATE keyed SET c = id WHERE id %% 2 = 0; INSERT INTO bare VALUES ('n', 1, 'c')");
	wait_failed(&c, "\"c\"", "start pgbaton again");
	start_again(&c);
	case_equal(&c, "adds");
	write_some(&c, "a");
	case_equal(&c, "adds");
	case_close(&c);
}
END_TEST

/* The source stops sending the column; the target keeps it until nothing names it any more. */
START_TEST(drop_column)
{
	static const char ddl[] = "ALTER TABLE keyed DROP COLUMN b; ALTER TABLE bare DROP COLUMN b";
	Case c;

	case_open(&c, "drops");
	write_some(&c, "a");
	db_exec(c.source, "%s", ddl);
	write_some(&c, "a");
	case_sync(&c);
	/* A comparison cannot be made, and says why. */
	char *out;
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "verify", NULL), 1);
	ck_assert_msg(strstr(out, "column b of \"public\".\"keyed\" is gone") != NULL, "%s", out);
	free(out);
	db_exec(c.target, "%s", ddl);
	write_some(&c, "a");
	case_equal(&c, "drops");
	case_close(&c);
}
END_TEST

START_TEST(rename_column)
{
	static const char ddl[] =
		"ALTER TABLE keyed RENAME a TO renamed; ALTER TABLE bare RENAME a TO renamed";
	Case c;

	case_open(&c, "renames");
	write_some(&c, "a");
	db_exec(c.source, "%s", ddl);
	write_some(&c, "renamed");
	wait_failed(&c, "\"renamed\"", "start pgbaton again");
	/* What came before it is applied. */
	ck_assert_int_eq(db_int(c.target, "SELECT count(*) FROM keyed WHERE id = 1001"), 1);
	db_exec(c.target, "%s", ddl);
	start_again(&c);
	write_some(&c, "renamed");
	case_equal(&c, "renames");
	case_close(&c);
}
END_TEST

START_TEST(add_value)
{
	static const char ddl[] = "ALTER TYPE mood ADD VALUE 'cross'";
	Case c;

	case_open(&c, "values_");
	db_exec(c.source, "%s", ddl);
	db_exec(c.source, "INSERT INTO felt VALUES (1, 'cross')");
	wait_failed(&c, "\"cross\"", "ADD VALUE");
	db_exec(c.target, "%s", ddl);
	ck_assert_int_eq(pgbaton_cli(c.p, NULL, 60, "resume", NULL), 0);
	write_some(&c, "a");
	case_equal(&c, "values_");
	case_close(&c);
}
END_TEST

/* Two tables exchange their names: the target's rows are where they were, and what the source
 * changes reaches them by the table, not by its name. A start would not know that. */
START_TEST(names_change_hands)
{
	static const char hands[] = "BEGIN; ALTER TABLE keyed RENAME TO third; ALTER TABLE twin RENAME"
								" TO keyed; ALTER TABLE third RENAME TO twin; COMMIT";
	Case c;
	char *out;

	case_open(&c, "hands");
	write_some(&c, "a");
	db_exec(c.source, "%s", hands);
	db_exec(c.source,
	        "UPDATE keyed SET a = 'was twin' WHERE id = 7; DELETE FROM twin WHERE id = 8");
	case_sync(&c);
	ck_assert(db_true(c.target, "SELECT a = 'was twin' FROM twin WHERE id = 7"));
	ck_assert(db_true(c.target, "SELECT a <> 'was twin' FROM keyed WHERE id = 7"));
	ck_assert(db_true(c.target, "SELECT count(*) = 0 FROM keyed WHERE id = 8"));
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "cutover", NULL), 1);
	ck_assert_msg(strstr(out, "public\".\"keyed") != NULL, "%s", out);
	free(out);

	pgbaton_stop(c.p, SIGTERM);
	pgbaton_again(c.p);
	ck_assert_int_eq(pgbaton_wait_exit(c.p, 60), 1);
	ck_assert_msg(strstr(pgbaton_log(c.p), "is not the one that was copied") != NULL, "%s",
	              pgbaton_log(c.p));
	db_exec(c.source, "%s", hands);
	pgbaton_again(c.p);
	pgbaton_wait_state(c.p, "following", 60);
	write_some(&c, "a");
	case_equal(&c, "hands");
	ck_assert_int_eq(pgbaton_cli(c.p, NULL, 60, "cutover", NULL), 0);
	case_close(&c);
}
END_TEST

/* A table of the same name is not the same table. It is published again by somebody, so nothing
 * else tells. */
START_TEST(made_anew)
{
	Case c;

	case_open(&c, "anew");
	db_exec(
		c.source,
		"BEGIN; DROP TABLE twin; CREATE TABLE twin (LIKE keyed INCLUDING ALL);"
		"ALTER PUBLICATION anew ADD TABLE twin; COMMIT; INSERT INTO twin VALUES (1000, 'new', 1)");
	wait_failed(&c, "public.twin is not the one that was copied", "cancel and begin again");
	pgbaton_stop(c.p, SIGTERM);
	pgbaton_again(c.p);
	ck_assert_int_eq(pgbaton_wait_exit(c.p, 60), 1);
	ck_assert_msg(strstr(pgbaton_log(c.p), "is not the one that was copied") != NULL, "%s",
	              pgbaton_log(c.p));
	ck_assert(db_true(c.target, "SELECT count(*) = 500 FROM twin"));
	case_close(&c);
}
END_TEST

/* What else than tables has changed is named before the switch and at it, each thing once;
 * what the target has by the same name by now is not. */
START_TEST(definitions_are_named)
{
	static const char on_both[] = "CREATE INDEX made ON keyed (a); CREATE TYPE pair AS (a int);"
								  "ALTER TABLE keyed ADD CONSTRAINT c CHECK (b > -1)";
	static const char *const named[] = {
		"new: index public.more",
		"new: view public.v",
		"new: function public.g(integer)",
		"new: trigger t on public.keyed",
		"new: table constraint lonely on public.felt",
		"changed: function public.f()",
		"changed: sequence public.s",
		"changed: type public.mood",
		"changed: table public.bare", /* its privileges */
		"gone: view public.old",
	};
	enum { NAMED = sizeof(named) / sizeof(named[0]) };
	Case c;
	char *out;

	case_open(&c, "defs");
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "cutover", "--rehearse", NULL), 0);
	ck_assert_msg(strstr(out, "definitions") == NULL, "%s", out);
	free(out);
	db_exec(c.target, "%s", on_both);
	db_exec(c.source, "%s", on_both);
	db_exec(c.source,
	        "CREATE INDEX more ON keyed (b, a); CREATE VIEW v AS SELECT * FROM keyed;"
	        "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
	        "CREATE FUNCTION g(int) RETURNS int LANGUAGE sql AS 'SELECT 1';"
	        "CREATE TRIGGER t BEFORE DELETE ON keyed FOR EACH STATEMENT EXECUTE FUNCTION g();"
	        "ALTER TABLE felt ADD CONSTRAINT lonely CHECK (id > 0);"
	        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2';"
	        "ALTER SEQUENCE s INCREMENT 5; ALTER TYPE mood ADD VALUE 'wild';"
	        "GRANT SELECT ON bare TO PUBLIC; DROP VIEW old; REINDEX INDEX kept");
	db_exec(c.source, "VACUUM ANALYZE keyed");
	for (int round = 0; round < 2; round++) {
		const char *how = round == 0 ? "--rehearse" : NULL;
		ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "cutover", how, NULL), 0);
		for (int i = 0; i < NAMED; i++)
			ck_assert_msg(strstr(out, named[i]) != NULL, "no \"%s\":\n%s", named[i], out);
		free(out);
		ck_assert_int_eq(pgbaton_status_int(c.p, "cutover.definitions_changed"),
		                 NAMED + 1); /* and g() */
	}
	case_close(&c);
}
END_TEST

/* 1: it is refused, with word in what is said. */
static void
rehearse(Case *c, int code, const char *word)
{
	char *out;

	ck_assert_msg(pgbaton_cli(c->p, &out, 60, "cutover", "--rehearse", NULL) == code, "%s", out);
	ck_assert_msg(strstr(out, word) != NULL, "no \"%s\":\n%s", word, out);
	free(out);
}

static void
must(Case *c, const char *command, const char *option, const char *value)
{
	char *out;

	ck_assert_msg(pgbaton_cli(c->p, &out, 60, command, option, value, NULL) == 0, "%s", out);
	free(out);
}

/* Copied afresh it follows like the others, and a cutover would pass. */
static void
recopy_cures(Case *c, const char *table, const char *name)
{
	must(c, "recopy", table, NULL);
	write_some(c, "a");
	rehearse(c, 0, "rehears");
	case_equal(c, name);
	case_close(c);
}

/* The stream knows it by its oid; only a cutover has to be asked for when both sides call it the same. */
START_TEST(renamed_table)
{
	Case c;

	case_open(&c, "renamed_");
	db_exec(c.source,
	        "ALTER TABLE twin RENAME TO other; UPDATE other SET a = 'as other' WHERE id = 7");
	write_some(&c, "a");
	case_sync(&c);
	ck_assert(db_true(c.target, "SELECT a = 'as other' FROM twin WHERE id = 7"));
	rehearse(&c, 1, "table \"public\".\"twin\" is gone; table \"public\".\"other\" is new");
	db_exec(c.source, "ALTER TABLE other RENAME TO twin; DELETE FROM twin WHERE id = 8");
	rehearse(&c, 0, "rehears");
	case_equal(&c, "renamed_");
	case_close(&c);
}
END_TEST

/* Nothing of it is missing from the stream: it goes on. Only the target must not be left with rows
 * that the source has not any more, as a partition's would be. */
START_TEST(dropped)
{
	Case c;
	char *out;

	case_open(&c, "dropped");
	db_exec(c.source, "CREATE TABLE later (id int PRIMARY KEY)");
	must(&c, "add-table", "public.later", NULL);
	write_some(&c, "a");
	db_exec(c.source, "INSERT INTO later VALUES (1); DELETE FROM twin WHERE id > 400;"
	                  "DROP TABLE later");
	write_some(&c, "a");
	case_sync(&c);
	rehearse(&c, 1, "table \"public\".\"later\" is gone");
	/* With changes of it that a new start still has to come by. */
	must(&c, "pause", NULL, NULL);
	db_exec(c.source, "DELETE FROM twin WHERE id > 300; TRUNCATE twin; DROP TABLE twin");
	start_again(&c);
	write_some(&c, "a");
	case_sync(&c);
	rehearse(&c, 1, "on the target, DROP TABLE \"public\".\"later\", \"public\".\"twin\"");
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "verify", NULL), 1);
	ck_assert_msg(strstr(out, "\"public\".\"twin\"") != NULL, "%s", out);
	free(out);
	must(&c, "verify", "--table", "keyed");
	db_exec(c.target, "DROP TABLE twin, later");
	rehearse(&c, 0, "rehears");
	must(&c, "verify", NULL, NULL);
	case_equal(&c, "dropped");
	case_close(&c);
}
END_TEST

/* What was switched off on the target, to be put back at the switch, is there no more. */
START_TEST(dropped_on_both_sides)
{
	static const char *const ddl[] = {
		"DROP TABLE aside",
		"DROP TRIGGER stamp ON aside; ALTER TABLE aside DROP COLUMN id",
		"ALTER TABLE aside ALTER id DROP IDENTITY; ALTER TRIGGER stamp ON aside RENAME TO other",
	};
	Case c;
	char name[20];

	snprintf(name, sizeof(name), "both_%d", _i);
	case_open(&c, name);
	db_exec(c.source, "%s", ddl[_i]);
	db_exec(c.target, "%s", ddl[_i]);
	write_some(&c, "a");
	case_sync(&c);
	start_again(&c);
	must(&c, "cutover", NULL, NULL);
	ck_assert(db_true(c.target,
	                  "SELECT count(*) = %d FROM pg_trigger WHERE tgname = 'other'"
	                  " AND tgenabled = 'A'",
	                  _i == 2));
	must(&c, "finish", NULL, NULL);
	case_close(&c);
}
END_TEST

/* A start finds it by its oid, with its copy, what was switched off on it, and its identity. */
START_TEST(renamed_on_both_sides)
{
	static const char ddl[] =
		"ALTER TABLE aside RENAME TO beside; ALTER TRIGGER stamp ON beside RENAME TO stamped;"
		"CREATE SCHEMA away; ALTER TABLE keyed SET SCHEMA away; ALTER TABLE away.keyed RENAME TO twin";
	Case c;

	case_open(&c, "two_sides");
	write_some(&c, "a");
	case_sync(&c);
	/* With a backlog under the names before. */
	must(&c, "pause", NULL, NULL);
	write_some(&c, "a");
	db_exec(c.source, "INSERT INTO aside (a) VALUES ('second')");
	pgbaton_stop(c.p, SIGTERM);
	db_exec(c.source, "%s", ddl);
	pgbaton_again(c.p);
	ck_assert_int_eq(pgbaton_wait_exit(c.p, 60), 1);
	ck_assert_msg(strstr(pgbaton_log(c.p), "renamed there, too") != NULL, "%s", pgbaton_log(c.p));
	db_exec(c.target, "%s", ddl);
	pgbaton_again(c.p);
	pgbaton_wait_state(c.p, "following", 60);
	db_exec(c.source,
	        "INSERT INTO beside (a) VALUES ('third'); UPDATE away.twin SET a = 'as twin'");
	case_equal(&c, "two_sides");
	must(&c, "verify", NULL, NULL);
	must(&c, "cutover", NULL, NULL);
	ck_assert(db_true(c.target, "SELECT tgenabled = 'A' FROM pg_trigger WHERE tgname = 'stamped'"));
	ck_assert(db_true(c.target, "SELECT attidentity = 'a' FROM pg_attribute WHERE attname ="
	                            " 'id' AND attrelid = 'beside'::regclass"));
	must(&c, "finish", NULL, NULL);
	ck_assert(
		db_true(c.source, "SELECT relreplident = 'd' FROM pg_class WHERE relname = 'beside'"));
	case_close(&c);
}
END_TEST

/* Every row is another, and neither the stream nor the catalogue says so. */
START_TEST(rewritten)
{
	Case c;

	case_open(&c, "rewrites");
	db_exec(c.source, "ALTER TABLE keyed ALTER b TYPE int USING b + 1;"
	                  "ALTER TABLE bare ALTER a TYPE text USING upper(a)");
	write_some(&c, "a");
	case_sync(&c);
	rehearse(&c, 1,
	         "\"keyed\" was rewritten (column b), \"public\".\"bare\" was rewritten (column a)");
	start_again(&c);
	rehearse(&c, 1, "pgbaton recopy");
	must(&c, "recopy", "bare", NULL);
	rehearse(&c, 1, "carries: \"public\".\"keyed\" was rewritten (column b)\n");
	recopy_cures(&c, "keyed", "rewrites");
}
END_TEST

/* The same name and type, but not the same values, and nobody was there to see it. */
START_TEST(column_made_anew)
{
	Case c;

	case_open(&c, "columns");
	pgbaton_stop(c.p, SIGTERM);
	db_exec(c.source, "ALTER TABLE keyed DROP b; ALTER TABLE keyed ADD b int DEFAULT 5");
	pgbaton_again(c.p);
	pgbaton_wait_state(c.p, "following", 60);
	rehearse(&c, 1, "carries: \"public\".\"keyed\" was rewritten (column b)\n");
	recopy_cures(&c, "keyed", "columns");
}
END_TEST

/* Put back before anybody could see it. The rehearsal sees it all the same. */
START_TEST(out_of_the_publication)
{
	Case c;
	char *out;

	case_open(&c, "out_of_it");
	db_exec(c.source, "BEGIN; ALTER PUBLICATION out_of_it DROP TABLE bare;"
	                  "INSERT INTO bare VALUES ('unheard', 1);"
	                  "ALTER PUBLICATION out_of_it ADD TABLE ONLY bare; COMMIT");
	write_some(&c, "a");
	rehearse(
		&c, 1,
		"carries: \"public\".\"bare\" was out of the publication, or that was altered, for a time\n");
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "verify", NULL), 1);
	free(out);
	rehearse(&c, 1, "pgbaton recopy");
	recopy_cures(&c, "bare", "out_of_it");
}
END_TEST

/* The publication itself, which looks as it did: every table may lack something, and one does. */
START_TEST(publication_altered_and_back)
{
	Case c;

	case_open(&c, "published");
	db_exec(c.source, "BEGIN; ALTER PUBLICATION published SET (publish = 'insert');"
	                  "UPDATE twin SET a = 'unheard' WHERE id = 7; ALTER PUBLICATION published SET"
	                  " (publish = 'insert, update, delete, truncate'); COMMIT");
	case_sync(&c);
	rehearse(&c, 1, "\"public\".\"twin\" was out of the publication, or that was altered");
	ck_assert_int_eq(pgbaton_cli(c.p, NULL, 60, "verify", NULL), 1);
	rehearse(&c, 1, "pgbaton recopy");
	must(&c, "recopy", "twin", NULL);
	must(&c, "verify", NULL, NULL);
	rehearse(&c, 0, "rehearsed");
	case_equal(&c, "published");
	case_close(&c);
}
END_TEST

/* A new file, or a column's other row in the catalogue: no rewrite. Both: its rows are compared. */
START_TEST(not_rewritten)
{
	Case c;

	case_open(&c, "files");
	db_exec(c.source, "VACUUM FULL keyed");
	db_exec(c.source,
	        "ALTER TABLE twin ALTER a SET STATISTICS 10; TRUNCATE step;"
	        "ALTER TABLE felt ALTER m SET NOT NULL; ALTER TABLE felt ALTER m DROP NOT NULL;"
	        "ALTER TABLE bare ADD later int; ALTER TABLE bare DROP later");
	write_some(&c, "a");
	rehearse(&c, 0, "rehears");
	db_exec(c.source, "ALTER TABLE keyed ALTER a SET STATISTICS 10");
	rehearse(&c, 1, "pgbaton verify");
	must(&c, "verify", "--table", "twin");
	rehearse(&c, 1, "carries: \"public\".\"keyed\" was rewritten (column a)\n");
	must(&c, "verify", "--table", "keyed");
	rehearse(&c, 0, "rehears");
	case_equal(&c, "files");
	case_close(&c);
}
END_TEST

/* What identifies a row changes between one change and the next: to another index, to the whole
 * row, to a key where there was none, and back. The target has no such index. */
static void
change_identities(Case *c)
{
	db_exec(c->source,
	        "DROP INDEX IF EXISTS keyed_b; ALTER TABLE bare DROP CONSTRAINT IF EXISTS bare_pkey;"
	        "ALTER TABLE bare REPLICA IDENTITY FULL; ALTER TABLE keyed ALTER b SET NOT NULL;"
	        "UPDATE keyed SET a = 'by id' WHERE id %% 3 = 0; DELETE FROM bare;"
	        "INSERT INTO bare SELECT 'b', i FROM generate_series(1, 300) i;"
	        "UPDATE bare SET a = 'whole' WHERE b < 100");
	db_exec(c->source,
	        "CREATE UNIQUE INDEX keyed_b ON keyed (b);"
	        "ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_b;"
	        "UPDATE keyed SET a = 'by b', id = -id WHERE id < 100; UPDATE keyed SET b = b + 5000"
	        " WHERE b %% 7 = 0; DELETE FROM keyed WHERE b %% 50 = 11");
	db_exec(c->source,
	        "ALTER TABLE bare ADD PRIMARY KEY (b); ALTER TABLE bare REPLICA IDENTITY DEFAULT;"
	        "UPDATE bare SET a = 'by b' WHERE b > 90; UPDATE bare SET b = b + 1000 WHERE b < 20;"
	        "DELETE FROM bare WHERE b %% 10 = 3");
	db_exec(c->source, "ALTER TABLE keyed REPLICA IDENTITY FULL; UPDATE keyed SET a = a || '.'"
	                   " WHERE b %% 2 = 0; DELETE FROM keyed WHERE b %% 50 = 12");
	db_exec(
		c->source,
		"ALTER TABLE keyed REPLICA IDENTITY DEFAULT; UPDATE keyed SET a = a || '!'"
		" WHERE b %% 5 = 0; DELETE FROM keyed WHERE b %% 50 = 13; DROP INDEX keyed_b;"
		"BEGIN; ALTER TABLE twin DROP CONSTRAINT twin_pkey; ALTER TABLE twin ADD PRIMARY KEY"
		" (b, id); UPDATE twin SET a = 'two' WHERE id < 50; UPDATE twin SET b = b + 1;"
		"ALTER TABLE twin DROP CONSTRAINT twin_pkey; ALTER TABLE twin ADD PRIMARY KEY (id);"
		"UPDATE twin SET a = 'one' WHERE id < 20; DELETE FROM twin WHERE id %% 50 = 11; COMMIT");
}

START_TEST(identity_changes)
{
	Case c;

	case_open(&c, "identities");
	pgbaton_stop(c.p, SIGTERM);
	change_identities(&c);
	pgbaton_again(c.p);
	pgbaton_wait_state(c.p, "following", 60);
	case_equal(&c, "identities");
	change_identities(&c);
	case_equal(&c, "identities");
	ck_assert_ptr_nonnull(
		strstr(pgbaton_log(c.p), "identifies rows of \"public\".\"keyed\" by (b)"));
	rehearse(&c, 0, "rehears");
	case_close(&c);
}
END_TEST

/* Neither name of the column fits all that is under way: the tables are copied afresh. While one
 * is, the apply fails at the other, which joins it. */
START_TEST(renamed_with_a_backlog)
{
	char *out;
	static const char ddl[] =
		"ALTER TABLE keyed RENAME a TO renamed; ALTER TABLE bare RENAME a TO renamed";
	Case c;

	case_open(&c, "backlog");
	pgbaton_stop(c.p, SIGTERM);
	write_some(&c, "a");
	db_exec(c.source, "%s", ddl);
	db_exec(c.target, "%s", ddl);
	write_some(&c, "renamed");
	pgbaton_again(c.p);
	pgbaton_wait_state(c.p, "failed", 60);
	wait_failed(&c, "\"a\"", "pgbaton recopy");
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "recopy", "keyed", NULL), 1);
	ck_assert_msg(strstr(out, "public.bare") != NULL, "%s", out);
	free(out);
	pgbaton_wait_state(c.p, "failed", 60);
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "recopy", "keyed", NULL), 1);
	ck_assert_msg(strstr(out, "is being copied afresh already") != NULL, "%s", out);
	free(out);
	must(&c, "recopy", "bare", NULL);
	ck_assert_int_eq(pgbaton_status_int(c.p, "addition.tables"), 2);
	write_some(&c, "renamed");
	case_equal(&c, "backlog");
	rehearse(&c, 0, "rehears");
	case_close(&c);
}
END_TEST

/* No row is wrong: the target was given what the source has not. */
START_TEST(target_demands_more)
{
	static const struct {
		const char *more, *write, *word, *hint, *less;
	} cases[] = {
		{"ALTER TABLE keyed ADD CONSTRAINT demand CHECK (b < 9000)",
	     "UPDATE keyed SET b = 9001 WHERE id = 7", "check constraint", "drop that constraint there",
	     "ALTER TABLE keyed DROP CONSTRAINT demand"},
		{"ALTER TABLE keyed ALTER b SET NOT NULL", "UPDATE keyed SET b = NULL WHERE id = 8",
	     "not-null constraint", "drop that constraint there",
	     "ALTER TABLE keyed ALTER b DROP NOT NULL"},
		{"CREATE UNIQUE INDEX demand ON keyed (b)", "UPDATE keyed SET b = 10 WHERE id = 9",
	     "unique constraint", "if the source has none such", "DROP INDEX demand"},
	};
	Case c;

	case_open(&c, "demands");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		db_exec(c.target, "%s", cases[i].more);
		db_exec(c.source, "%s", cases[i].write);
		wait_failed(&c, cases[i].word, cases[i].hint);
		db_exec(c.target, "%s", cases[i].less);
		must(&c, "resume", NULL, NULL);
		case_equal(&c, "demands");
	}
	case_close(&c);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("alter");
	TCase *tcase = tcase_create("alter");

	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_set_timeout(tcase, 120);
	tcase_add_test(tcase, add_column);
	tcase_add_test(tcase, drop_column);
	tcase_add_test(tcase, rename_column);
	tcase_add_test(tcase, add_value);
	tcase_add_test(tcase, names_change_hands);
	tcase_add_test(tcase, made_anew);
	tcase_add_test(tcase, definitions_are_named);
	tcase_add_test(tcase, renamed_table);
	tcase_add_test(tcase, dropped);
	tcase_add_loop_test(tcase, dropped_on_both_sides, 0, 3);
	tcase_add_test(tcase, renamed_on_both_sides);
	tcase_add_test(tcase, rewritten);
	tcase_add_test(tcase, column_made_anew);
	tcase_add_test(tcase, out_of_the_publication);
	tcase_add_test(tcase, publication_altered_and_back);
	tcase_add_test(tcase, not_rewritten);
	tcase_add_test(tcase, identity_changes);
	tcase_add_test(tcase, renamed_with_a_backlog);
	tcase_add_test(tcase, target_demands_more);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
