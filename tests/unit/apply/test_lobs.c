/*
 * Large objects: whatever was done to them on one side is on the other afterwards, by both
 * ways of reaching them; a copy goes on where it was broken off; what is locked can be read.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply/lobs/lobs.h"
#include "common/clock.h"
#include "common/memory.h"
#include "tests/unit/apply/servers.h"
#include "tests/unit/runner.h"

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, NULL);
	PGconn *conn = db_connect(cluster, "postgres");
	db_exec(conn, "CREATE ROLE \"Al ice\"; CREATE ROLE bob; CREATE ROLE \"ca rol\";"
	              "CREATE ROLE small LOGIN; GRANT \"Al ice\", bob TO small");
	PQfinish(conn);
}

static void
stop(void)
{
	cluster_free(cluster);
}

/* Both databases as SQL, and what moves the large objects between them. */
typedef struct {
	PGconn *source;
	PGconn *target;
	ConnInfo *from;
	ConnInfo *to;
	LobWork work;
} Rig;

/* user: whom the target is written as; not a superuser: by contents. */
static void
rig_open(Rig *rig, const char *user)
{
	servers_clean(cluster);
	rig->source = db_connect(cluster, "source");
	rig->target = db_connect(cluster, "target");
	db_exec(rig->target, "GRANT CREATE ON DATABASE target TO small");
	rig->from = servers_info(cluster, "source", NULL);
	rig->to = servers_info(cluster, "target", user);
	rig->work = (LobWork){
		.from = rig->from,
		.to = rig->to,
		.from_side = "source",
		.to_side = "target",
		.jobs = 3,
	};
}

static void
rig_close(Rig *rig)
{
	PQfinish(rig->source);
	PQfinish(rig->target);
	conninfo_free(rig->from);
	conninfo_free(rig->to);
}

/* Contents, length, owner, privileges, comment of all. */
static const char all_sql[] =
	"SELECT m.oid, m.lomowner::regrole, length(lo_get(m.oid)), md5(lo_get(m.oid)),"
	" obj_description(m.oid, 'pg_largeobject'), (SELECT string_agg(concat_ws('/',"
	" a.grantee::regrole, a.privilege_type, a.is_grantable), ' ' ORDER BY a.grantee,"
	" a.privilege_type) FROM aclexplode(coalesce(m.lomacl, acldefault('L', m.lomowner))) a)"
	" FROM pg_largeobject_metadata m ORDER BY m.oid";
static const char pages_sql[] = "SELECT count(*), md5(string_agg(concat_ws('/', loid, pageno,"
								" md5(data)), ' ' ORDER BY loid, pageno)) FROM pg_largeobject";

static void
assert_same(const Rig *rig, const char *sql)
{
	char *from = db_rows(rig->source, "%s", sql);
	char *to = db_rows(rig->target, "%s", sql);

	ck_assert_str_eq(from, to);
	free(from);
	free(to);
}

static LobDifference
compare(const Rig *rig, bool write)
{
	Error err;
	LobDifference found;

	ASSERT_OK(lobs_compare(&rig->work, write, &found, &err));
	return found;
}

/* Once as a superuser, once as somebody who is none. */
static const char *const users[] = {NULL, "small"};

/* Every length at which something could go wrong, holes, an empty last page. */
static const char kinds[] =
	"SELECT lo_create(10); SELECT lo_from_bytea(11, 'x');"
	"SELECT lo_from_bytea(12, decode(repeat('ab', 2047), 'hex'));"
	"SELECT lo_from_bytea(13, decode(repeat('ab', 2048), 'hex'));"
	"SELECT lo_from_bytea(14, decode(repeat('ab', 2049), 'hex'));"
	"SELECT lo_from_bytea(15, decode(repeat('cd', 1048576), 'hex'));"
	"SELECT lo_from_bytea(16, decode(repeat('cd', 1048577), 'hex'));"
	"SELECT lo_from_bytea(17, ''), lo_put(17, 5000001, 'behind a hole');"
	"SELECT lo_create(18); BEGIN; SELECT lo_truncate64(lo_open(18, 131072), 8192); COMMIT;"
	"SELECT lo_from_bytea(19, 'ab'), lo_put(19, 1048576, 'cd');"
	"SELECT lo_from_bytea(4294967295, 'the last');"
	"ALTER LARGE OBJECT 11 OWNER TO \"Al ice\"; GRANT SELECT ON LARGE OBJECT 11 TO PUBLIC;"
	"GRANT ALL ON LARGE OBJECT 11 TO bob WITH GRANT OPTION;"
	"COMMENT ON LARGE OBJECT 11 IS 'it''s \\ one'; ALTER LARGE OBJECT 12 OWNER TO bob;"
	"COMMENT ON LARGE OBJECT 12 IS 'x';"
	"ALTER LARGE OBJECT 10 OWNER TO bob; ALTER LARGE OBJECT 13 OWNER TO bob;"
	"ALTER LARGE OBJECT 14 OWNER TO bob; ALTER LARGE OBJECT 15 OWNER TO bob;"
	"ALTER LARGE OBJECT 16 OWNER TO bob; ALTER LARGE OBJECT 17 OWNER TO bob;"
	"ALTER LARGE OBJECT 18 OWNER TO bob; ALTER LARGE OBJECT 19 OWNER TO bob;"
	"ALTER LARGE OBJECT 4294967295 OWNER TO \"Al ice\"";

START_TEST(all_kinds_arrive)
{
	Rig rig;
	Error err;
	LobProgress progress = {0};

	rig_open(&rig, users[_i]);
	db_exec(rig.source, "%s", kinds);
	/* Only a superuser can then write it. */
	if (users[_i] == NULL)
		db_exec(rig.source, "REVOKE ALL ON LARGE OBJECT 12 FROM bob");
	Sql *target = servers_open(cluster, "target");
	Ledger ledger = servers_ledger(target, "moved");
	db_exec(rig.target, "GRANT ALL ON SCHEMA moved TO small; ALTER SCHEMA moved OWNER TO small");
	Sql *writer = servers_open_as(cluster, "target", users[_i] != NULL ? users[_i] : "postgres");
	ASSERT_OK(lobs_copy(&rig.work, writer, &ledger, &progress, &err));
	assert_same(&rig, all_sql);
	if (users[_i] == NULL)
		assert_same(&rig, pages_sql);
	ck_assert_uint_eq(progress.objects, 11);
	ck_assert_uint_eq(progress.objects_total, 11);
	ck_assert_uint_eq(progress.bytes, progress.bytes_total);
	ck_assert_uint_gt(progress.bytes, 2 << 20);
	LobDifference none = compare(&rig, false);
	ck_assert_uint_eq(none.objects, 11);
	ck_assert_msg(lobs_differ(&none) == 0, "%s", none.first);

	/* Again: nothing is copied that was. */
	db_exec(rig.target, "SELECT lo_put(13, 5, 'mine')");
	ASSERT_OK(lobs_copy(&rig.work, writer, &ledger, &progress, &err));
	ck_assert_uint_eq(progress.objects, 11);
	ck_assert(db_true(rig.target, "SELECT lo_get(13, 5, 4) = 'mine'"));

	/* One byte, in the last unit of a large one. */
	db_exec(rig.target, "SELECT lo_put(16, 1048576, 'x')");
	LobDifference found = compare(&rig, false);
	ck_assert_uint_eq(found.changed, 2);
	ck_assert_uint_eq(lobs_differ(&found), 2);
	ck_assert_ptr_nonnull(strstr(found.first, "13"));
	found = compare(&rig, true);
	ck_assert_uint_eq(found.changed, 2);
	assert_same(&rig, all_sql);
	sql_close(writer);
	sql_close(target);
	rig_close(&rig);
}
END_TEST

/* ---- at random ---- */

static uint64_t
next(uint64_t *seed, uint64_t below)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (*seed >> 33) % below;
}

/* Around pages and units as often as anywhere. */
static uint64_t
place(uint64_t *seed)
{
	uint64_t near = next(seed, 3) == 0 ? 1048576 : 2048;
	uint64_t at = near * next(seed, 4) + next(seed, 5);

	return next(seed, 3) == 0 ? next(seed, 3000000) : at > 2 ? at - 2 : at;
}

static void
something(PGconn *conn, uint64_t *seed, unsigned oid, bool owners)
{
	switch (next(seed, owners ? 9 : 6)) {
	case 0:
		db_exec(conn, "SELECT lo_unlink(%u)", oid);
		break;
	case 1:
	case 2:
		db_exec(conn, "SELECT lo_put(%u, %llu, decode(repeat('%02x', %llu), 'hex'))", oid,
		        (unsigned long long)place(seed), (unsigned)next(seed, 256),
		        (unsigned long long)(1 + next(seed, 6000)));
		break;
	case 3:
	case 4:
		db_exec(conn, "BEGIN; SELECT lo_truncate64(lo_open(%u, 131072), %llu); COMMIT", oid,
		        (unsigned long long)place(seed));
		break;
	case 5:
		db_exec(conn, "COMMENT ON LARGE OBJECT %u IS '%u'", oid, (unsigned)next(seed, 3));
		break;
	case 6:
		db_exec(conn, "ALTER LARGE OBJECT %u OWNER TO %s", oid,
		        next(seed, 2) ? "bob" : "\"Al ice\"");
		break;
	case 7:
		db_exec(conn, "GRANT SELECT ON LARGE OBJECT %u TO %s", oid,
		        next(seed, 2) ? "PUBLIC" : "\"ca rol\"");
		break;
	default:
		db_exec(conn, "REVOKE SELECT ON LARGE OBJECT %u FROM %s", oid,
		        next(seed, 2) ? "PUBLIC" : "\"ca rol\"");
		break;
	}
}

static void
do_anything(PGconn *conn, uint64_t *seed)
{
	unsigned oid = 100 + (unsigned)next(seed, 40);

	if (db_true(conn, "SELECT EXISTS (SELECT 1 FROM pg_largeobject_metadata WHERE oid = %u)", oid))
		something(conn, seed, oid, true);
	else
		db_exec(conn, "SELECT lo_create(%u); ALTER LARGE OBJECT %u OWNER TO bob", oid, oid);
}

START_TEST(whatever_was_done)
{
	Rig rig;
	const char *given = getenv("PGBATON_SEED");
	uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : (uint64_t)getpid();

	printf("lobs: PGBATON_SEED=%llu\n", (unsigned long long)seed);
	rig_open(&rig, users[_i]);
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < 60; i++)
			do_anything(rig.source, &seed);
		LobDifference found = compare(&rig, true);
		ck_assert_uint_gt(lobs_differ(&found), 0);
		assert_same(&rig, all_sql);
		if (users[_i] == NULL)
			assert_same(&rig, pages_sql);
		LobDifference none = compare(&rig, false);
		ck_assert_msg(lobs_differ(&none) == 0, "%s", none.first);
	}
	rig_close(&rig);
}
END_TEST

/* ---- broken off ---- */

START_TEST(goes_on_where_it_was)
{
	Rig rig;
	Error err = ERROR_INIT;
	LobProgress progress = {0};

	rig_open(&rig, NULL);
	db_exec(rig.source, "SELECT lo_from_bytea(i, i::text::bytea) FROM generate_series(1001, 2200)"
	                    " AS g(i)");
	Sql *target = servers_open(cluster, "target");
	Ledger ledger = servers_ledger(target, "moved");
	/* Somebody else's object is in the way of the last of three ranges. */
	db_exec(rig.target, "SELECT lo_from_bytea(2100, 'theirs')");
	rig.work.jobs = 1;
	ck_assert(!lobs_copy(&rig.work, target, &ledger, &progress, &err));
	ck_assert_msg(error_has_sqlstate(&err, "23505"), "%s", servers_error(&err));
	ck_assert(db_true(rig.target, "SELECT lo_get(2100) = 'theirs'"));
	ck_assert_int_eq(db_int(rig.target, "SELECT count(*) FROM pg_largeobject_metadata"), 1001);
	ck_assert_int_eq(db_int(rig.target, "SELECT count(*) FROM moved.large_object WHERE copied"), 2);

	db_exec(rig.target, "SELECT lo_unlink(2100), lo_put(1001, 0, 'kept')");
	ASSERT_OK(lobs_copy(&rig.work, target, &ledger, &progress, &err));
	ck_assert_uint_eq(progress.objects, 1200);
	ck_assert(db_true(rig.target, "SELECT lo_get(1001) = 'kept'"));
	LobDifference found = compare(&rig, true);
	ck_assert_uint_eq(lobs_differ(&found), 1);
	assert_same(&rig, all_sql);
	sql_close(target);
	rig_close(&rig);
}
END_TEST

/* More than one transaction may hold locks on, so they are several. */
START_TEST(thousands_go)
{
	Rig rig;

	rig_open(&rig, NULL);
	db_exec(rig.target, "SELECT lo_from_bytea(i, 'x') FROM generate_series(1001, 9000) AS g(i)");
	LobDifference found = compare(&rig, true);
	ck_assert_uint_eq(found.dropped, 8000);
	ck_assert_int_eq(db_int(rig.target, "SELECT count(*) FROM pg_largeobject_metadata"), 0);
	ck_assert_int_eq(db_int(rig.target, "SELECT count(*) FROM pg_largeobject"), 0);
	rig_close(&rig);
}
END_TEST

/* ---- locked ---- */

START_TEST(locked_ones_are_read_by_the_holder)
{
	Rig rig;

	rig_open(&rig, users[_i]);
	db_exec(rig.source, "SELECT lo_from_bytea(10, 'a'); ALTER LARGE OBJECT 10 OWNER TO bob");
	Sql *holder = servers_open(cluster, "source");
	Error err;
	ASSERT_OK(sql_exec(holder, &err,
	                   "BEGIN; LOCK TABLE pg_catalog.pg_largeobject_metadata,"
	                   " pg_catalog.pg_largeobject IN EXCLUSIVE MODE"));
	rig.work.holder = holder;
	rig.work.held = true;
	LobDifference found = compare(&rig, true);
	ck_assert_uint_eq(found.created, 1);
	char state[6];
	db_exec(rig.source, "SET lock_timeout = '100ms'");
	ck_assert(!db_try(rig.source, state, "SELECT lo_put(10, 0, 'b')"));
	ck_assert_str_eq(state, "55P03");
	ASSERT_OK(sql_exec(holder, &err, "ROLLBACK"));
	assert_same(&rig, all_sql);
	sql_close(holder);
	rig_close(&rig);
}
END_TEST

/* The holder's statement is ended in time: nothing else of ours would end it before 17. */
START_TEST(the_holder_has_a_deadline)
{
	Rig rig;
	Error err = ERROR_INIT;
	LobDifference found;

	rig_open(&rig, "small");
	db_exec(rig.source, "SELECT lo_from_bytea(10, 'a'); ALTER LARGE OBJECT 10 OWNER TO bob");
	Sql *holder = servers_open(cluster, "source");
	ASSERT_OK(sql_exec(holder, &err, "BEGIN"));
	/* What it asks for cannot be had. */
	db_exec(rig.source, "BEGIN; LOCK TABLE pg_catalog.pg_largeobject IN EXCLUSIVE MODE");
	rig.work.holder = holder;
	rig.work.deadline_ms = deadline_in_ms(200);
	ck_assert(!lobs_compare(&rig.work, true, &found, &err));
	ck_assert_msg(err.class == ERROR_TIMEOUT, "%s", servers_error(&err));
	db_exec(rig.source, "ROLLBACK");
	sql_close(holder);
	rig_close(&rig);
}
END_TEST

/* A server without a place for one more session, or a cancel meanwhile: nothing but an error. */
START_TEST(without_a_session_it_is_an_error)
{
	Rig rig;
	Error err = ERROR_INIT;
	LobDifference found;

	rig_open(&rig, NULL);
	db_exec(rig.target, "ALTER DATABASE source ALLOW_CONNECTIONS false");
	ck_assert(!lobs_compare(&rig.work, true, &found, &err));
	ck_assert_msg(strstr(err.message, "not currently accepting") != NULL, "%s",
	              servers_error(&err));
	db_exec(rig.target, "ALTER DATABASE source ALLOW_CONNECTIONS true");
	rig_close(&rig);
}
END_TEST

/* ---- rights, roles ---- */

START_TEST(what_may_not_be_read_is_an_error)
{
	Rig rig;
	Error err = ERROR_INIT;
	LobDifference found;

	rig_open(&rig, "small");
	db_exec(rig.source, "SELECT lo_create(10)");
	conninfo_set(rig.from, "user", "small");
	ck_assert(!lobs_compare(&rig.work, true, &found, &err));
	ck_assert_msg(error_has_sqlstate(&err, "42501"), "%s", servers_error(&err));
	ck_assert_int_eq(db_int(rig.target, "SELECT count(*) FROM pg_largeobject_metadata"), 0);
	rig_close(&rig);
}
END_TEST

START_TEST(owners_can_be_left_out)
{
	Rig rig;

	rig_open(&rig, "small");
	rig.work.no_owner = rig.work.no_privileges = true;
	db_exec(rig.source, "SELECT lo_from_bytea(10, 'a'); GRANT SELECT ON LARGE OBJECT 10 TO bob;"
	                    "SELECT lo_from_bytea(11, 'a'); ALTER LARGE OBJECT 11 OWNER TO \"Al ice\"");
	compare(&rig, true);
	ck_assert_int_eq(db_int(rig.target, "SELECT count(*) FROM pg_largeobject_metadata WHERE"
	                                    " lomowner = 'small'::regrole AND lomacl IS NULL"),
	                 2);
	LobDifference none = compare(&rig, false);
	ck_assert_msg(lobs_differ(&none) == 0, "%s", none.first);
	rig_close(&rig);
}
END_TEST

static Suite *
make_lobs(void)
{
	Suite *suite = suite_create("lobs");
	TCase *tests = tcase_create("lobs");

	tcase_add_unchecked_fixture(tests, start, stop);
	tcase_set_timeout(tests, 120);
	tcase_add_loop_test(tests, all_kinds_arrive, 0, 2);
	tcase_add_loop_test(tests, whatever_was_done, 0, 2);
	tcase_add_test(tests, goes_on_where_it_was);
	tcase_add_test(tests, thousands_go);
	tcase_add_loop_test(tests, locked_ones_are_read_by_the_holder, 0, 2);
	tcase_add_test(tests, the_holder_has_a_deadline);
	tcase_add_test(tests, without_a_session_it_is_an_error);
	tcase_add_test(tests, what_may_not_be_read_is_an_error);
	tcase_add_test(tests, owners_can_be_left_out);
	suite_add_tcase(suite, tests);
	return suite;
}
TEST_SUITE(make_lobs)
