/*
 * Lanes that stand at different places after a crash (P3, P4), and a target that does not let
 * the lanes rest triggers and foreign keys (C4).
 */
#include <check.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "apply/batch/plan.h"
#include "apply/lane/cores.h"
#include "common/clock.h"
#include "tests/unit/apply/test_stream_rig.h"
#include "tests/unit/runner.h"

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, "max_connections = 60");
}

static void
stop(void)
{
	cluster_free(cluster);
}

/* The lane of an int key that the stream sends as text. */
static int
lane_of(const Rig *rig, int id, int lanes)
{
	Plan plan = {
		.route = plan_route((uint32_t)db_int(rig->source, "SELECT 'lv'::regclass::oid::bigint"))};
	char text[16];
	uint8_t key[32];
	uint32_t len = (uint32_t)snprintf(text, sizeof(text), "%d", id);

	key[0] = 't';
	memcpy(key + 1, &len, sizeof(len));
	memcpy(key + 5, text, len);
	return plan_lane(&plan, slice_of(key, 5 + len), lanes);
}

enum { LANES = 3, ROWS = 600 };

/*
 * Leaves the target as a crash between the lanes' commits does: lane `behind`'s share of a
 * batch is taken back by hand, with its progress row. The applier is stopped then.
 */
static void
take_back_share(Rig *rig, int behind)
{
	Error err = ERROR_INIT;
	int touched = 0;

	rig_open(rig, cluster, "CREATE TABLE lv (id int PRIMARY KEY, v int)",
	         (RigOptions){.lanes = LANES});
	rig_start(rig);
	db_exec(rig->source, "INSERT INTO lv SELECT i, 0 FROM generate_series(1, %d) i", ROWS);
	rig_sync(rig);
	db_exec(rig->target, "CREATE SCHEMA saved; CREATE TABLE saved.lv AS TABLE lv;"
	                     "CREATE TABLE saved.progress AS TABLE pgbaton.progress");
	/* One transaction, so one batch: updates, deletes, moved keys, inserts. */
	db_exec(rig->source, "BEGIN; UPDATE lv SET v = v + 1 WHERE id <= 200;"
	                     "DELETE FROM lv WHERE id BETWEEN 201 AND 300;"
	                     "UPDATE lv SET id = id + 1000 WHERE id BETWEEN 301 AND 400;"
	                     "INSERT INTO lv SELECT i, 5 FROM generate_series(2000, 2100) i;"
	                     "SELECT pg_logical_emit_message(true, 'pgbaton', 'moved'); COMMIT");
	ASSERT_OK(applier_wait_marker(rig->applier, "moved", deadline_in_ms(30000), &err));
	rig_stop_applier(rig);
	for (int id = 1; id <= 2100; id++) {
		if (lane_of(rig, id, LANES) != behind)
			continue;
		db_exec(rig->target,
		        "DELETE FROM lv WHERE id = %d;"
		        "INSERT INTO lv SELECT * FROM saved.lv WHERE id = %d",
		        id, id);
		touched++;
	}
	ck_assert_int_gt(touched, 500);
	db_exec(rig->target,
	        "UPDATE pgbaton.progress p SET commit_lsn = s.commit_lsn,"
	        " position = s.position FROM saved.progress s WHERE s.lane = p.lane AND p.lane = %d;"
	        "DROP SCHEMA saved CASCADE",
	        behind);
	ck_assert_int_eq(db_int(rig->target, "SELECT count(DISTINCT commit_lsn) FROM pgbaton.progress"),
	                 2);
}

/* The share holds each kind of net change, and P3 must bring back exactly it: a row of another
 * lane that were done again would be a duplicate or missing. */
START_TEST(levels_after_crash)
{
	Rig rig;

	take_back_share(&rig, _i);
	/* Another lane count at once: it may change only after they are level (P4). */
	rig_start_applier(&rig, 1 + _i);
	rig_compare(&rig);
	ck_assert_int_eq(db_int(rig.target, "SELECT count(*) FROM pgbaton.progress"), 1 + _i);
	ck_assert_int_eq(db_int(rig.target, "SELECT count(DISTINCT (commit_lsn, position))"
	                                    " FROM pgbaton.progress"),
	                 1);
	rig_close(&rig);
}
END_TEST

/* The target was changed by somebody else while the lanes were not level: the row is named,
 * nothing is applied, and when it is mended the levelling goes on. */
START_TEST(levelling_meets_a_difference)
{
	Rig rig;
	int id = 1;
	char expected[32];

	take_back_share(&rig, 1);
	while (lane_of(&rig, id, LANES) != 1)
		id++;
	db_exec(rig.target, "DELETE FROM lv WHERE id = %d", id);
	rig_start_applier(&rig, LANES);
	Error err = rig_wait_failed(&rig);
	ck_assert_int_eq(err.class, ERROR_DIVERGENCE);
	snprintf(expected, sizeof(expected), "(id)=(%d) of", id);
	ck_assert_msg(strstr(err.message, expected) != NULL, "%s", err.message);
	ck_assert_msg(strstr(err.context, "bringing lane 1 level") != NULL, "%s", err.context);
	ck_assert_int_eq(db_int(rig.target, "SELECT count(DISTINCT commit_lsn) FROM pgbaton.progress"),
	                 2);
	db_exec(rig.target, "INSERT INTO lv VALUES (%d, 0)", id);
	applier_resume(rig.applier);
	rig_compare(&rig);
	rig_close(&rig);
}
END_TEST

/* C4: a user who may not set session_replication_role does not go on with triggers acting. */
START_TEST(replica_role_refused)
{
	Rig rig;

	rig_open(&rig, cluster, "CREATE TABLE r (id int PRIMARY KEY)", (RigOptions){.lanes = 2});
	db_exec(rig.target,
	        "CREATE ROLE plain LOGIN; GRANT USAGE ON SCHEMA pgbaton TO plain;"
	        "GRANT ALL ON ALL TABLES IN SCHEMA pgbaton TO plain; GRANT ALL ON r TO plain");
	conninfo_free(rig.target_info);
	rig.target_info = servers_info(cluster, "target", "plain");
	rig_start(&rig);
	db_exec(rig.source, "INSERT INTO r VALUES (1)");
	Error err = rig_wait_failed(&rig);
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	ck_assert_msg(strstr(err.message, "\"plain\"") != NULL, "%s", err.message);
	ck_assert_msg(strstr(err.hint, "GRANT SET ON PARAMETER session_replication_role") != NULL, "%s",
	              err.hint);
	ck_assert_int_eq(db_int(rig.target, "SELECT count(*) FROM r"), 0);
	db_exec(rig.target, "GRANT SET ON PARAMETER session_replication_role TO plain");
	applier_resume(rig.applier);
	rig_compare(&rig);
	rig_stop_applier(&rig);
	db_exec(rig.target, "DROP OWNED BY plain; DROP ROLE plain");
	rig_close(&rig);
}
END_TEST

/* --lanes when it is not given. */
START_TEST(lanes_by_cores)
{
	Error err;
	int cores;
	int seen;

	servers_clean(cluster);
	Sql *super = servers_open(cluster, "target");
	ASSERT_OK(cores_of_target(super, &cores, &err));
	ck_assert_int_ge(cores, 1);
	ck_assert_int_le(cores, (int)sysconf(_SC_NPROCESSORS_CONF));
	ASSERT_OK(sql_exec(super, &err, "CREATE ROLE plain LOGIN"));
	Sql *plain = servers_open_as(cluster, "target", "plain");
	ASSERT_OK(cores_of_target(plain, &seen, &err));
	ck_assert_int_eq(seen, 0);
	/* The function alone would fail at the path. */
	ASSERT_OK(sql_exec(super, &err,
	                   "GRANT EXECUTE ON FUNCTION"
	                   " pg_catalog.pg_read_file(text, bigint, bigint, boolean) TO plain"));
	ASSERT_OK(cores_of_target(plain, &seen, &err));
	ck_assert_int_eq(seen, 0);
	ASSERT_OK(sql_exec(super, &err, "GRANT pg_read_server_files TO plain"));
	ASSERT_OK(cores_of_target(plain, &seen, &err));
	ck_assert_int_eq(seen, cores);
	sql_close(plain);
	ASSERT_OK(sql_exec(super, &err, "DROP OWNED BY plain; DROP ROLE plain"));
	sql_close(super);

	ck_assert_int_eq(cores_lanes(0), 4);
	ck_assert_int_eq(cores_lanes(1), 1);
	ck_assert_int_eq(cores_lanes(8), 8);
	ck_assert_int_eq(cores_lanes(64), 8);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("stream/level");
	TCase *tcase = tcase_create("stream_level");

	tcase_add_unchecked_fixture(tcase, start, stop);
	tcase_set_timeout(tcase, 300);
	tcase_add_loop_test(tcase, levels_after_crash, 0, LANES);
	tcase_add_test(tcase, levelling_meets_a_difference);
	tcase_add_test(tcase, replica_role_refused);
	tcase_add_test(tcase, lanes_by_cores);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
