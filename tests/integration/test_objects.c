/*
 * Everything that lives in a database arrives: pg_dump says the same of both sides.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/memory.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/harness/skip.h"
#include "tests/integration/workload.h"
#include "tests/unit/runner.h"

typedef struct {
	Cluster *clusters[2];
	PGconn *conns[2];
	char uris[2][160];
	Pgbaton *p;
} Pair;

static void
pair_open_empty(Pair *pair, int source_major, int target_major)
{
	const int majors[] = {source_major, target_major};
	const char *names[] = {"source", "target"};

	memset(pair, 0, sizeof(*pair));
	for (int i = 0; i < 2; i++) {
		pair->clusters[i] = cluster_start(&(ClusterOptions){.major = majors[i], .name = names[i]});
		db_create(pair->clusters[i], "full");
		snprintf(pair->uris[i], sizeof(pair->uris[i]), "%s",
		         cluster_uri(pair->clusters[i], "full"));
		pair->conns[i] = db_connect_uri(pair->uris[i]);
	}
}

static void
pair_open(Pair *pair, int source_major, int target_major)
{
	pair_open_empty(pair, source_major, target_major);
	for (int i = 0; i < 2; i++)
		db_exec(pair->conns[i], "CREATE ROLE mover_reader");
	workload_load(pair->conns[0], "objects.sql", source_major);
	workload_load(pair->conns[0], "others.sql", source_major);
}

static void
pair_close(Pair *pair)
{
	pgbaton_free(pair->p);
	/* A database with a subscription refuses to be dropped, a server to forget it. */
	for (int i = 0; i < 2; i++) {
		PQfinish(pair->conns[i]);
		cluster_free(pair->clusters[i]);
	}
}

/* Without what differs between any two dumps, and between the majors they are of. */
static char *
dump_of(const char *uri)
{
	char *program = cluster_program(cluster_default_major(), "pg_dump");
	const char *argv[] = {
		program, "--schema-only", "--no-publications", "--no-subscriptions", "-d", uri, NULL};
	char *out;
	Buffer kept = BUFFER_INIT;

	ck_assert_int_eq(process_run(argv, NULL, 60, &out), 0);
	for (char *line = strtok(out, "\n"); line != NULL; line = strtok(NULL, "\n")) {
		if (line[0] != '\\' && strncmp(line, "-- Dumped", 9) != 0)
			buffer_printf(&kept, "%s\n", line);
	}
	char *text = mem_strdup(buffer_cstr(&kept));
	buffer_free(&kept);
	free(out);
	free(program);
	return text;
}

/* Names the first line that differs: the whole is too long to read. */
static void
assert_same_dump(const char *wanted, const char *uri)
{
	char *got = dump_of(uri);
	size_t at = 0;

	while (wanted[at] != '\0' && wanted[at] == got[at])
		at++;
	size_t from = at > 300 ? at - 300 : 0;
	ck_assert_msg(wanted[at] == got[at], "the source has\n%.700s\n--- and the target\n%.700s",
	              wanted + from, got + from);
	ck_assert_uint_gt(strlen(got), 20000);
	free(got);
}

static void
assert_named(const Pair *pair)
{
	const char *args[] = {"check", "--source", pair->uris[0], "--target", pair->uris[1], NULL};
	char *out;

	ck_assert_int_eq(pgbaton_run(args, NULL, 60, &out), 0);
	const char *names[] = {"publication theirs", "subscription ours", "1 foreign tables"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		ck_assert_msg(strstr(out, names[i]) != NULL, "%s is not named:\n%s", names[i], out);
	free(out);
}

/* Online: what was set up for the stream and the fence is gone again from both sides. */
START_TEST(arrives_online)
{
	Pair pair;
	char *out;

	pair_open(&pair, cluster_default_major(), cluster_default_major());
	char *before = dump_of(pair.uris[0]);
	assert_named(&pair);
	pair.p = pgbaton_start(&(PgbatonOptions){.source = pair.uris[0], .target = pair.uris[1]});
	pgbaton_wait_state(pair.p, "following", 60);
	int code = pgbaton_cli(pair.p, &out, 60, "cutover", NULL);
	ck_assert_msg(code == 0, "%s\n%s", out, pgbaton_log(pair.p));
	/* Nothing that we set up counts as a change. */
	ck_assert_msg(strstr(out, "definitions have changed") == NULL, "%s", out);
	free(out);
	ck_assert_int_eq(pgbaton_cli(pair.p, &out, 60, "finish", NULL), 0);
	free(out);
	ck_assert_int_eq(pgbaton_wait_exit(pair.p, 30), 0);
	assert_same_dump(before, pair.uris[1]);
	assert_same_dump(before, pair.uris[0]);
	ck_assert_int_eq(db_int(pair.conns[1], "SELECT count(*) FROM pg_publication"), 0);
	ck_assert_int_eq(db_int(pair.conns[1], "SELECT count(subname) FROM pg_subscription"), 0);
	free(before);
	pair_close(&pair);
}
END_TEST

START_TEST(arrives_offline_from_14)
{
	const char *args[] = {"--mode", "offline", NULL};
	Pair pair;

	TEST_NEEDS_MAJOR(14);
	pair_open(&pair, 14, cluster_default_major());
	char *before = dump_of(pair.uris[0]);
	pair.p = pgbaton_start(
		&(PgbatonOptions){.source = pair.uris[0], .target = pair.uris[1], .args = args});
	int code = pgbaton_wait_exit(pair.p, 60);
	ck_assert_msg(code == 0, "%s", pgbaton_log(pair.p));
	assert_same_dump(before, pair.uris[1]);
	free(before);
	pair_close(&pair);
}
END_TEST

/* Owners and privileges are left out when asked for, and nothing else is. */
START_TEST(arrives_without_owners)
{
	const char *args[] = {"--mode", "offline", "--no-owner", "--no-privileges", NULL};
	Pair pair;

	pair_open(&pair, cluster_default_major(), cluster_default_major());
	pair.p = pgbaton_start(
		&(PgbatonOptions){.source = pair.uris[0], .target = pair.uris[1], .args = args});
	int code = pgbaton_wait_exit(pair.p, 60);
	ck_assert_msg(code == 0, "%s", pgbaton_log(pair.p));
	ck_assert_int_eq(db_int(pair.conns[1], "SELECT count(*) FROM pg_class WHERE relowner ="
	                                       " 'mover_reader'::regrole"),
	                 0);
	ck_assert_int_eq(db_int(pair.conns[1], "SELECT count(*) FROM pg_default_acl"), 0);
	ck_assert(db_true(pair.conns[1], "SELECT bool_and(relacl IS NULL) FROM pg_class c WHERE"
	                                 " relnamespace = 'misc'::regnamespace"));
	ck_assert_int_eq(db_int(pair.conns[1], "SELECT count(*) FROM pg_policy"), 2);
	pair_close(&pair);
}
END_TEST

/* ---- generated columns ---- */

/* Keys that no stream carries, and a table without any. */
static const char generated[] =
	"CREATE TABLE by_key (a int, k int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY, v text);"
	"CREATE TABLE by_index (a int, k int GENERATED ALWAYS AS (a * 3) STORED NOT NULL UNIQUE, v text);"
	"ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_k_key;"
	"CREATE TABLE keyless (a int, g text GENERATED ALWAYS AS (repeat(v, 3)) STORED, v text)";
static const char fill_generated[] =
	"INSERT INTO by_key (a, v) SELECT i, 'v' FROM generate_series(1, 100) i;"
	"INSERT INTO by_index (a, v) SELECT i, 'v' FROM generate_series(1, 100) i;"
	"INSERT INTO keyless (a, v) SELECT i / 2, repeat(md5(i::text), 90) FROM generate_series(1, 100) i";
static const char change_generated[] =
	"UPDATE by_key SET v = 'w' WHERE a % 3 = 0; UPDATE by_key SET a = a + 1000 WHERE a % 5 = 0;"
	"DELETE FROM by_key WHERE a % 7 = 0; INSERT INTO by_key (a, v) VALUES (-1, 'new');"
	"UPDATE by_index SET v = 'w' WHERE a % 3 = 0; UPDATE by_index SET a = a + 1000 WHERE a % 5 = 0;"
	"DELETE FROM by_index WHERE a % 7 = 0; UPDATE keyless SET a = a + 1 WHERE a % 2 = 0;"
	"UPDATE keyless SET v = 'x' WHERE a = 5; DELETE FROM keyless WHERE a = 10;"
	"INSERT INTO keyless (a, v) VALUES (1, NULL)";

static void
move_generated(int major, const char *const *args)
{
	Pair pair;
	char *out;

	pair_open_empty(&pair, major, major);
	db_exec(pair.conns[0], "%s", generated);
	db_exec(pair.conns[0], "%s", fill_generated);
	if (args != NULL)
		db_exec(pair.conns[1], "%s", generated);
	pair.p = pgbaton_start(
		&(PgbatonOptions){.source = pair.uris[0], .target = pair.uris[1], .args = args});
	pgbaton_wait_state(pair.p, "following", 60);
	db_exec(pair.conns[0], "%s", change_generated);
	int code = pgbaton_cli(pair.p, &out, 60, "cutover", NULL);
	ck_assert_msg(code == 0, "%s\n%s", out, pgbaton_log(pair.p));
	free(out);
	compare_databases(pair.conns[0], pair.conns[1], NULL);
	ck_assert_int_eq(pgbaton_cli(pair.p, &out, 60, "finish", NULL), 0);
	free(out);
	ck_assert_int_eq(pgbaton_wait_exit(pair.p, 30), 0);
	for (int i = 0; i < 2; i++) {
		char *identities = db_value(pair.conns[i],
		                            "SELECT string_agg(relreplident::text, ' ' ORDER BY relname)"
		                            " FROM pg_class WHERE relkind = 'r' AND relnamespace ="
		                            " 'public'::regnamespace");
		ck_assert_str_eq(identities, "i d d");
		free(identities);
	}
	pair_close(&pair);
}

START_TEST(generated_columns_as_keys)
{
	move_generated(cluster_default_major(), NULL);
}
END_TEST

/* From 18 on the server looks at what is published before it lets the application write. */
START_TEST(generated_columns_from_18)
{
	static const char *const args[] = {"--schema", "none", NULL};

	TEST_NEEDS_MAJOR(18);
	move_generated(18, args);
}
END_TEST

/* Then the publication is altered for a table that is added: by us, with nothing lost. */
START_TEST(generated_column_of_an_added_table)
{
	static const char *const args[] = {"--schema", "none", NULL};
	static const char later[] =
		"CREATE TABLE later (a int, g int GENERATED ALWAYS AS (a + 1) STORED)";
	Pair pair;
	char *out;

	TEST_NEEDS_MAJOR(18);
	pair_open_empty(&pair, 18, 18);
	for (int i = 0; i < 2; i++)
		db_exec(pair.conns[i], "CREATE TABLE fine (a int PRIMARY KEY)");
	pair.p = pgbaton_start(
		&(PgbatonOptions){.source = pair.uris[0], .target = pair.uris[1], .args = args});
	pgbaton_wait_state(pair.p, "following", 60);
	for (int i = 0; i < 2; i++)
		db_exec(pair.conns[i], "%s", later);
	db_exec(pair.conns[0], "INSERT INTO later VALUES (1), (2)");
	ck_assert_msg(pgbaton_cli(pair.p, &out, 60, "add-table", "later", NULL) == 0, "%s", out);
	free(out);
	db_exec(pair.conns[0], "UPDATE later SET a = 3 WHERE a = 2; INSERT INTO fine VALUES (1)");
	ck_assert_msg(pgbaton_cli(pair.p, &out, 60, "cutover", NULL) == 0, "%s", out);
	free(out);
	compare_databases(pair.conns[0], pair.conns[1], NULL);
	pair_close(&pair);
}
END_TEST

START_TEST(a_virtual_column_needs_a_key)
{
	Pair pair;
	char *out;

	TEST_NEEDS_MAJOR(18);
	pair_open_empty(&pair, 18, 18);
	for (int i = 0; i < 2; i++)
		db_exec(pair.conns[i],
		        "CREATE TABLE fine (a int PRIMARY KEY, g int GENERATED ALWAYS AS (a + 1) VIRTUAL);"
		        "CREATE TABLE unfit (a int, g int GENERATED ALWAYS AS (a + 1) VIRTUAL)");
	const char *args[] = {"check",      "--source", pair.uris[0], "--target",
	                      pair.uris[1], "--schema", "none",       NULL};
	ck_assert_int_eq(pgbaton_run(args, NULL, 60, &out), 3);
	ck_assert_msg(strstr(out, "public.unfit") != NULL && strstr(out, "public.fine") == NULL, "%s",
	              out);
	free(out);
	pair_close(&pair);
}
END_TEST

static Suite *
make_objects(void)
{
	Suite *suite = suite_create("objects");
	TCase *tests = tcase_create("objects");

	tcase_set_timeout(tests, 120);
	tcase_add_test(tests, arrives_online);
	tcase_add_test(tests, arrives_offline_from_14);
	tcase_add_test(tests, arrives_without_owners);
	tcase_add_test(tests, generated_columns_as_keys);
	tcase_add_test(tests, generated_columns_from_18);
	tcase_add_test(tests, generated_column_of_an_added_table);
	tcase_add_test(tests, a_virtual_column_needs_a_key);
	suite_add_tcase(suite, tests);
	return suite;
}
TEST_SUITE(make_objects)
