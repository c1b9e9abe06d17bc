/*
 * A selection holds everywhere: in the schema, the copy, the stream, the fence and the
 * sequences; and for the whole of a migration.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
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

static const char schema[] =
	"CREATE SCHEMA shop; CREATE SCHEMA other;"
	"CREATE TABLE other.country (id int PRIMARY KEY);"
	"CREATE TABLE shop.customer (id serial PRIMARY KEY, country int"
	" CONSTRAINT lives REFERENCES other.country, v text);"
	"CREATE INDEX slow ON shop.customer (v);"
	"CREATE TABLE shop.log (id bigserial PRIMARY KEY, v text);"
	"CREATE TABLE shop.scrap (id int PRIMARY KEY, v text);"
	"CREATE TABLE shop.event (k int, v text) PARTITION BY LIST (k);"
	"CREATE TABLE shop.event1 PARTITION OF shop.event FOR VALUES IN (1);"
	"CREATE TABLE shop.event2 PARTITION OF shop.event FOR VALUES IN (2);"
	"CREATE SEQUENCE other.loose; CREATE SEQUENCE shop.loose;"
	"INSERT INTO other.country SELECT generate_series(1, 9);"
	"INSERT INTO shop.customer (country, v) SELECT i % 9 + 1, 'c' FROM generate_series(1, 300) i;"
	"INSERT INTO shop.log (v) SELECT 'l' FROM generate_series(1, 200);"
	"INSERT INTO shop.scrap SELECT i, 's' FROM generate_series(1, 20) i;"
	"INSERT INTO shop.event SELECT i % 2 + 1, 'e' FROM generate_series(1, 100) i";

/* All that there is, so also what the migration must not take. */
static const char writes[] =
	"INSERT INTO shop.customer (country, v) SELECT 1, 'new' FROM generate_series(1, 50);"
	"UPDATE shop.customer SET v = 'changed' WHERE id % 7 = 0; DELETE FROM shop.customer WHERE id = 3;"
	"INSERT INTO shop.log (v) VALUES ('more'); UPDATE shop.scrap SET v = 'x';"
	"INSERT INTO shop.event VALUES (1, 'one'), (2, 'two'); INSERT INTO other.country VALUES (100);"
	"SELECT nextval('other.loose'), nextval('shop.loose')";

static char *
write_filters(void)
{
	char *dir = scratch_dir_new("filters");
	char *path = mem_printf("%s/filters.ini", dir);
	FILE *out = fopen(path, "w");

	ck_assert_ptr_nonnull(out);
	fputs("[include-only-schema]\nshop\n[exclude-table]\nshop.scrap\nshop.event2\n"
	      "[exclude-table-data]\nshop.log\n[exclude-index]\nshop.slow\n",
	      out);
	fclose(out);
	free(dir);
	return path;
}

static void
assert_target(PGconn *target)
{
	char *tables = db_rows(target,
	                       "SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_class c"
	                       " JOIN pg_namespace n ON n.oid = c.relnamespace"
	                       " WHERE n.nspname IN ('shop', 'other') AND relkind IN ('r', 'p', 'S')");

	ck_assert_str_eq(tables, "customer customer_id_seq event event1 log log_id_seq loose");
	free(tables);
	ck_assert_int_eq(db_int(target, "SELECT count(*) FROM shop.log"), 0);
	ck_assert(db_true(target, "SELECT to_regclass('shop.slow') IS NULL"
	                          " AND to_regclass('shop.log_pkey') IS NOT NULL"));
	ck_assert_int_eq(db_int(target, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"), 0);
}

/* Stopped, begun again with another selection, and again with its own. */
static void
refuse_another_selection(Pgbaton *p, const char *source, const char *target)
{
	const char *args[] = {"run",
	                      "--source",
	                      source,
	                      "--target",
	                      target,
	                      "--include-schema",
	                      "shop",
	                      "--exclude-table",
	                      "shop.log",
	                      "--state-dir",
	                      pgbaton_state_dir(p),
	                      "--admin",
	                      "127.0.0.1:0",
	                      NULL};
	char *out;

	ck_assert_int_eq(pgbaton_stop(p, SIGTERM), 0);
	ck_assert_int_ne(pgbaton_run(args, NULL, 60, &out), 0);
	ck_assert_msg(strstr(out, "without --exclude-table shop.event2") != NULL, "%s", out);
	ck_assert_msg(strstr(out, "with --exclude-table shop.log") != NULL, "%s", out);
	free(out);
	pgbaton_again(p);
	pgbaton_wait_state(p, "following", 60);
}

static void
assert_cut_over(PGconn *source, PGconn *target)
{
	static const char *const skip[] = {"shop.log", "shop.scrap", "shop.event2", "other.country",
	                                   NULL};

	compare_databases(source, target, &(CompareOptions){.skip_tables = skip});
	ck_assert(db_true(target, "SELECT last_value = 350 FROM shop.customer_id_seq"));
	ck_assert(db_true(target, "SELECT last_value = 201 FROM shop.log_id_seq"));
	ck_assert(db_true(target, "SELECT is_called FROM shop.loose"));
	free(db_expect_error(source, "25006", "UPDATE shop.customer SET v = 'late'"));
	free(db_expect_error(source, "25006", "INSERT INTO shop.event VALUES (1, 'late')"));
	db_exec(source, "INSERT INTO shop.log (v) VALUES ('mine'); UPDATE shop.scrap SET v = 'mine';"
	                "INSERT INTO other.country VALUES (101)");
	assert_target(target);
}

START_TEST(holds_to_the_end)
{
	char source_uri[160];
	char target_uri[160];
	char *filters = write_filters();
	const char *args[] = {"--filters", filters, NULL};
	char *out;

	db_create(source_cluster, "chosen");
	db_create(target_cluster, "chosen");
	snprintf(source_uri, sizeof(source_uri), "%s", cluster_uri(source_cluster, "chosen"));
	snprintf(target_uri, sizeof(target_uri), "%s", cluster_uri(target_cluster, "chosen"));
	PGconn *source = db_connect_uri(source_uri);
	PGconn *target = db_connect_uri(target_uri);
	db_exec(source, "%s", schema);

	const char *check[] = {"check",    "--source",  source_uri, "--target",
	                       target_uri, "--filters", filters,    NULL};
	ck_assert_int_eq(pgbaton_run(check, NULL, 60, &out), 0);
	ck_assert_msg(strstr(out, "foreign key lives of \"shop\".\"customer\"") != NULL, "%s", out);
	free(out);

	Pgbaton *p = pgbaton_start(
		&(PgbatonOptions){.source = source_uri, .target = target_uri, .args = args});
	pgbaton_wait_state(p, "following", 60);
	assert_target(target);
	char *published = db_rows(source, "SELECT string_agg(tablename, ' ' ORDER BY tablename)"
	                                  " FROM pg_publication_tables WHERE pubname ~ '^pgbaton'");
	ck_assert_str_eq(published, "customer event1");
	free(published);
	refuse_another_selection(p, source_uri, target_uri);
	db_exec(source, "%s", writes);
	ck_assert_int_eq(pgbaton_cli(p, &out, 60, "cutover", NULL), 0);
	free(out);
	assert_cut_over(source, target);
	ck_assert_int_eq(pgbaton_cli(p, &out, 60, "finish", NULL), 0);
	free(out);
	pgbaton_free(p);
	PQfinish(source);
	PQfinish(target);
	free(filters);
}
END_TEST

/* A table without a key comes with its copy and its inserts, from a second publication; its
 * other changes, which the source goes on allowing, do not. */
START_TEST(insert_only)
{
	const char *args[] = {"--replica-identity", "insert-only", NULL};

	db_create(source_cluster, "inserts");
	db_create(target_cluster, "inserts");
	PGconn *source = db_connect(source_cluster, "inserts");
	PGconn *target = db_connect(target_cluster, "inserts");
	db_exec(source, "CREATE TABLE keyed (id int PRIMARY KEY, v int); CREATE TABLE bare (v int);"
	                "INSERT INTO keyed VALUES (1, 1); INSERT INTO bare VALUES (1), (2)");
	Pgbaton *p = pgbaton_start(&(PgbatonOptions){.source = cluster_uri(source_cluster, "inserts"),
	                                             .target = cluster_uri(target_cluster, "inserts"),
	                                             .args = args});
	pgbaton_wait_state(p, "following", 60);
	db_exec(source, "INSERT INTO bare VALUES (3); UPDATE bare SET v = 20 WHERE v = 2;"
	                "DELETE FROM bare WHERE v = 1; UPDATE keyed SET v = 2");
	db_wait_until(target, "SELECT v = 2 FROM keyed", 30);
	char *rows = db_rows(target, "SELECT v FROM bare ORDER BY v");
	ck_assert_str_eq(rows, "1\n2\n3");
	free(rows);
	ck_assert_int_eq(pgbaton_cli(p, NULL, 60, "cutover", NULL), 0);
	pgbaton_free(p);
	PQfinish(source);
	PQfinish(target);
}
END_TEST

static Suite *
make_selection(void)
{
	Suite *suite = suite_create("selection");
	TCase *tests = tcase_create("selection");

	tcase_add_unchecked_fixture(tests, start_clusters, stop_clusters);
	tcase_set_timeout(tests, 120);
	tcase_add_test(tests, holds_to_the_end);
	tcase_add_test(tests, insert_only);
	suite_add_tcase(suite, tests);
	return suite;
}
TEST_SUITE(make_selection)
