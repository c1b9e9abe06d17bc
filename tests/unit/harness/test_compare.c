/*
 * The comparison must see every kind of difference, or the tests that stand on
 * it prove nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "tests/harness/cluster.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/skip.h"
#include "tests/unit/runner.h"

/* Two databases with this content, in one server unless the majors differ. */
typedef struct {
	Cluster *source_server;
	Cluster *target_server;
	PGconn *source;
	PGconn *target;
} Sides;

static Sides
sides_new(int source_major, int target_major)
{
	Sides sides = {.source_server = cluster_start(&(ClusterOptions){.major = source_major})};

	sides.target_server = source_major == target_major
	                          ? sides.source_server
	                          : cluster_start(&(ClusterOptions){.major = target_major});
	db_create(sides.source_server, "source");
	db_create(sides.target_server, "target");
	sides.source = db_connect(sides.source_server, "source");
	sides.target = db_connect(sides.target_server, "target");
	return sides;
}

static void
sides_free(Sides *sides)
{
	PQfinish(sides->source);
	PQfinish(sides->target);
	if (sides->target_server != sides->source_server)
		cluster_free(sides->target_server);
	cluster_free(sides->source_server);
}

static void
on_both(Sides *sides, const char *sql)
{
	db_exec(sides->source, "%s", sql);
	db_exec(sides->target, "%s", sql);
}

static const char *const awkward =
	"CREATE SCHEMA \"Odd \"\"Schema\";"
	"CREATE TYPE mood AS ENUM ('sad', 'ok');"
	"CREATE TYPE pair AS (a float8, b text);"
	"CREATE DOMAIN small AS int CHECK (VALUE < 100);"
	"CREATE TABLE \"Odd \"\"Schema\".\"T%1\" (id int PRIMARY KEY, f4 float4, f8 float8, n numeric,"
	" t text, b bytea, j json, x xml, p point, i interval, ts timestamptz, d date, m mood, c pair,"
	" s small, a int[], u mood[], mo money, r int4range, g int GENERATED ALWAYS AS (id * 2) "
	"STORED);"
	"INSERT INTO \"Odd \"\"Schema\".\"T%1\" VALUES"
	" (1, 0.1, 1e-300 / 3, 'NaN', 'a,\"b\"\n\\', '\\xdeadbeef', '{\"a\" : 1}', '<a/>', '(1.1,2)',"
	"  '1 year -2 days 00:00:01.5', '2024-02-29 12:00:00.123456+05', 'infinity', 'ok',"
	"  ROW(0.1, NULL), 7, '{{1,2},{3,NULL}}', '{sad,ok}', 12.34, '[1,5)'),"
	" (2, NULL, NULL, NULL, '', '', NULL, NULL, NULL, NULL, '-infinity', '0044-03-15 BC', NULL,"
	"  NULL, NULL, '{}', NULL, NULL, 'empty');"
	"CREATE TABLE twins (v text); INSERT INTO twins VALUES ('a'), ('a'), ('b'), (NULL);"
	"CREATE TABLE nothing ();"
	"INSERT INTO nothing DEFAULT VALUES;"
	"CREATE TABLE parts (k int, v text) PARTITION BY LIST (k);"
	"CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);"
	"CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);"
	"INSERT INTO parts VALUES (1, 'one'), (2, 'two');"
	"CREATE TABLE parent (v int); CREATE TABLE child () INHERITS (parent);"
	"INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2);"
	"CREATE UNLOGGED TABLE scratch (v int);"
	"CREATE SCHEMA pgbaton; CREATE TABLE pgbaton.progress (v int);"
	"CREATE SEQUENCE up; CREATE SEQUENCE down INCREMENT -1;";

START_TEST(equal_between_majors)
{
	static const int pairs[][2] = {{12, 15}, {13, 16}, {14, 17}, {15, 18}, {15, 15}};
	int source = pairs[_i][0];
	int target = pairs[_i][1];

	TEST_NEEDS_MAJOR(source);
	TEST_NEEDS_MAJOR(target);
	Sides sides = sides_new(source, target);
	on_both(&sides, awkward);
	/* What does not count: other sessions' settings, the own schema, unlogged. */
	db_exec(sides.target, "ALTER DATABASE target SET datestyle = 'German'");
	db_exec(sides.target, "SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Tokyo'");
	db_exec(sides.target,
	        "INSERT INTO pgbaton.progress VALUES (1); INSERT INTO scratch VALUES (1)");
	compare_databases(sides.source, sides.target, &(CompareOptions){.sequences = SEQUENCES_EQUAL});
	char *style = db_value(sides.target, "SHOW datestyle");
	ck_assert_str_eq(style, "SQL, DMY"); /* the session is as it was */
	free(style);
	sides_free(&sides);
}
END_TEST

/* Changes on one side, what the report then says, and how it is undone. */
static const struct {
	const char *change;
	const char *reported;
} differences[] = {
	{"DELETE FROM twins WHERE v IS NULL", "twins: 4 rows"},
	{"INSERT INTO twins VALUES ('a')", "only on the target: (a)"},
	{"DELETE FROM twins WHERE ctid = (SELECT min(ctid) FROM twins WHERE v = 'a')",
     "only on the source: (a)"},
	{"UPDATE twins SET v = '' WHERE v IS NULL", "only on the source: ()"},
	{"UPDATE twins SET v = 'b' WHERE v = 'a'", "2 rows only on the source, 2 only on the target"},
	{"UPDATE \"Odd \"\"Schema\".\"T%1\" SET f4 = 0.10000001 WHERE id = 1", "Odd \"Schema.T%1: "},
	{"UPDATE \"Odd \"\"Schema\".\"T%1\" SET f8 = f8 * (1 + 3e-16) WHERE id = 1", "T%1: 2 rows"},
	{"UPDATE \"Odd \"\"Schema\".\"T%1\" SET j = '{\"a\":1}' WHERE id = 1", "T%1: 2 rows"},
	{"UPDATE \"Odd \"\"Schema\".\"T%1\" SET a = NULL WHERE id = 2", "T%1: 2 rows"},
	{"UPDATE parts SET v = 'x' WHERE k = 2", "parts_2: 1 rows"},
	{"UPDATE ONLY child SET v = 3", "child: 1 rows"},
	{"INSERT INTO nothing DEFAULT VALUES", "nothing: 1 rows"},
	{"DROP TABLE child", "table public.child: only on the source"},
	{"CREATE TABLE more (v int)", "table public.more: only on the target"},
	{"ALTER TABLE twins ADD w int", "public.twins: the columns differ"},
	{"ALTER TABLE twins RENAME v TO w", "public.twins: the columns differ"},
	{"SELECT nextval('up')", "sequence public.up: 1 false on the source, 1 true on the target"},
	{"DROP SEQUENCE up", "sequence public.up: only on the source"},
};

START_TEST(every_difference_is_seen)
{
	enum { COUNT = sizeof(differences) / sizeof(differences[0]) };
	Sides sides = sides_new(0, 0);

	on_both(&sides, awkward);
	PQfinish(sides.target);
	for (int i = 0; i < COUNT; i++) {
		Buffer report = BUFFER_INIT;
		PGconn *admin = db_connect(sides.target_server, NULL);
		db_exec(admin, "DROP DATABASE IF EXISTS changed");
		db_exec(admin, "CREATE DATABASE changed TEMPLATE target");
		PQfinish(admin);
		PGconn *changed = db_connect(sides.target_server, "changed");
		db_exec(changed, "%s", differences[i].change);
		bool equal = databases_equal(sides.source, changed,
		                             &(CompareOptions){.sequences = SEQUENCES_EQUAL}, &report);
		ck_assert_msg(!equal, "not seen: %s", differences[i].change);
		ck_assert_msg(strstr(buffer_cstr(&report), differences[i].reported) != NULL,
		              "%s: expected \"%s\" in: %s", differences[i].change, differences[i].reported,
		              buffer_cstr(&report));
		buffer_free(&report);
		PQfinish(changed);
	}
	sides.target = db_connect(sides.target_server, "target");
	sides_free(&sides);
}
END_TEST

START_TEST(sequences_may_be_ahead)
{
	Sides sides = sides_new(0, 0);
	Buffer report = BUFFER_INIT;
	const CompareOptions at_least = {.sequences = SEQUENCES_AT_LEAST};

	on_both(&sides, awkward);
	db_exec(sides.source, "SELECT setval('up', 10), setval('down', -10)");
	ck_assert(!databases_equal(sides.source, sides.target, &at_least, &report));
	ck_assert_ptr_nonnull(strstr(buffer_cstr(&report), "up: next is 11 on the source, 1 on"));
	ck_assert_ptr_nonnull(strstr(buffer_cstr(&report), "down: next is -11 on the source, -1 on"));
	ck_assert(databases_equal(sides.source, sides.target, NULL, &report));
	/* 11, not called: the next value is the same. */
	db_exec(sides.target, "SELECT setval('up', 11, false), setval('down', -500)");
	compare_databases(sides.source, sides.target, &at_least);
	buffer_free(&report);
	sides_free(&sides);
}
END_TEST

START_TEST(skipped_tables_and_empty_databases)
{
	Sides sides = sides_new(0, 0);
	Buffer report = BUFFER_INIT;
	const char *const skip[] = {"public.one", NULL};

	db_exec(sides.source, "CREATE TABLE one (v int)");
	ck_assert(!databases_equal(sides.source, sides.target, NULL, &report));
	ck_assert(databases_equal(sides.source, sides.target, &(CompareOptions){.skip_tables = skip},
	                          &report));
	buffer_free(&report);
	sides_free(&sides);
}
END_TEST

static Suite *
make_compare(void)
{
	Suite *suite = suite_create("compare");
	TCase *tcase = tcase_create("compare");

	tcase_set_timeout(tcase, 120);
	tcase_add_loop_test(tcase, equal_between_majors, 0, 5);
	tcase_add_test(tcase, every_difference_is_seen);
	tcase_add_test(tcase, sequences_may_be_ahead);
	tcase_add_test(tcase, skipped_tables_and_empty_databases);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make_compare)
