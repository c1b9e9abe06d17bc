/*
 * types.sql is complete on every major, and one value of 50 MB travels through the
 * copy, the log and the apply.
 */
#include <check.h>
#include <stdlib.h>

#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/skip.h"
#include "tests/integration/move.h"
#include "tests/unit/runner.h"

enum { LARGE_MB = 50 };

/* A type that a new major brings must be added to types.sql, or named here as one
 * that has no input. */
static const char missing_sql[] =
	"SELECT t.typname FROM pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace"
	" AND t.typtype IN ('b', 'r', 'm') AND t.typcategory <> 'A' AND t.typname !~ '^_'"
	" AND t.typname !~ '^(gtsvector|pg_ndistinct|pg_dependencies|pg_mcv_list|pg_node_tree"
	"|pg_brin_.*)$'"
	" AND NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
	"  WHERE c.relnamespace = 'types'::regnamespace AND c.relname ~ '^t[0-9]+$'"
	"  AND a.atttypid = t.oid)";

START_TEST(every_type_is_there)
{
	TEST_NEEDS_MAJOR(_i);
	Cluster *cluster = cluster_start(&(ClusterOptions){.major = _i});
	PGconn *conn = db_connect(cluster, NULL);

	workload_load(conn, "objects.sql", _i);
	workload_load(conn, "types.sql", _i);
	char *missing = db_rows(conn, "%s", missing_sql);
	ck_assert_str_eq(missing, "");
	free(missing);
	PQfinish(conn);
	cluster_free(cluster);
}
END_TEST

static void
wait_body(Move *m, int id, const char *condition)
{
	char *sql = db_value(
		m->source,
		"SELECT format('SELECT EXISTS (SELECT FROM shop.big WHERE id = %%s AND %%s)',"
		" %d, $c$%s$c$)",
		id, condition);

	db_wait_until(m->target, sql, 90);
	free(sql);
}

START_TEST(one_large_value)
{
	static const char make[] = "INSERT INTO shop.big SELECT %d, string_agg(md5((g * %d)::text), '')"
							   " FROM generate_series(1, %d::bigint * 32768) g";
	Move m;

	move_open(&m, &(MoveOptions){.sessions = 1, .per_second = 10});
	db_exec(m.source, "ALTER TABLE shop.big ALTER v SET STORAGE EXTERNAL");
	db_exec(m.source, make, 1, 1, LARGE_MB);
	move_run(&m);
	pgbaton_wait_state(m.p, "following", 120);
	/* By the stream: inserted, its neighbour left as it is, and its key moved. */
	db_exec(m.source, make, 2, 2, LARGE_MB);
	wait_body(&m, 2, "length(v) > 1000000");
	db_exec(m.source, "BEGIN; UPDATE shop.big SET id = id + 10; UPDATE shop.big SET id = id + 10;"
	                  " INSERT INTO shop.big VALUES (1, 'small'); COMMIT");
	wait_body(&m, 1, "v = 'small'");
	move_cutover(&m);
	move_check(&m);
	move_close(&m);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("types");
	TCase *complete = tcase_create("complete");
	TCase *large = tcase_create("large");

	tcase_add_loop_test(complete, every_type_is_there, CLUSTER_OLDEST, CLUSTER_NEWEST + 1);
	tcase_add_test(large, one_large_value);
	tcase_set_timeout(large, 300);
	suite_add_tcase(suite, complete);
	suite_add_tcase(suite, large);
	return suite;
}
TEST_SUITE(make)
