/* What differs between majors, on each that is here. */
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/skip.h"
#include "tests/unit/protocol/wire_fixture.h"

static void
check_stream(const char *base)
{
	Wire *wire = fixture_connect_with((WireOptions){.replication = true}, "%s", base);
	Error err = ERROR_INIT;
	SystemIdentity id;
	Lsn point;
	Buffer sql = BUFFER_INIT;
	StartReplication how = {.slot = "s", .publication = "p"};
	int version = wire_server_version(wire);

	ck_assert_msg(replication_identify(wire, &id, &err), "%s", fixture_text(&err));
	ck_assert_str_eq(id.dbname, "postgres");
	ck_assert_msg(replication_create_slot(wire, "s", deadline_in_ms(20000), &point, &err), "%s",
	              fixture_text(&err));
	free(fixture_value(wire, "CREATE PUBLICATION p FOR ALL TABLES"));
	how.start = point;
	how.proto_version = replication_proto_version(version);
	how.binary = how.messages = how.streaming = version >= 140000;
	replication_start_command(&how, &sql);
	ck_assert_msg(wire_copy_both_start(wire, buffer_cstr(&sql), &err), "%s", fixture_text(&err));
	ck_assert_msg(wire_copy_both_end(wire, deadline_in_ms(20000), &err), "%s", fixture_text(&err));
	/* One version more is one too many: the table in the header is right. */
	buffer_reset(&sql);
	how.proto_version++;
	replication_start_command(&how, &sql);
	bool ok = wire_copy_both_start(wire, buffer_cstr(&sql), &err);
	ck_assert(!ok);
	ck_assert_msg(err.class == ERROR_SQL && strcmp(err.sqlstate, "0A000") == 0, "%s",
	              fixture_text(&err));
	ck_assert_msg(replication_drop_slot(wire, "s", &err), "%s", fixture_text(&err));
	buffer_free(&sql);
	wire_close(wire);
}

START_TEST(every_major)
{
	TEST_NEEDS_MAJOR(_i);
	Cluster *cluster = cluster_start(&(ClusterOptions){
		.major = _i, .tls = true, .hba = "hostssl all r_scram 127.0.0.1/32 scram-sha-256\n"});
	PGconn *conn = db_connect(cluster, NULL);
	const char *root = cluster_tls_file(cluster, "root.crt");
	Error err = ERROR_INIT;

	db_exec(conn, "SET password_encryption = 'scram-sha-256';"
	              "CREATE ROLE r_scram LOGIN SUPERUSER PASSWORD 'hunter2'");
	PQfinish(conn);
	char *base = mem_printf("host=127.0.0.1 port=%d dbname=postgres user=r_scram "
	                        "password=hunter2 sslmode=verify-full sslrootcert=%s "
	                        "channel_binding=require",
	                        cluster_port(cluster), root);
	Wire *wire = fixture_connect("%s", base);
	ck_assert_int_eq(wire_server_version(wire) / 10000, _i);
	ck_assert(!wire_query(wire, "SELECT pg_sleep(60)", deadline_in_ms(100), NULL, &err));
	ck_assert_msg(err.class == ERROR_TIMEOUT, "%s", fixture_text(&err));
	free(fixture_value(wire, "SELECT 1"));
	wire_close(wire);

	if (_i >= 17) {
		wire = fixture_connect("%s sslnegotiation=direct", base);
		ck_assert(wire_uses_tls(wire));
		ck_assert(!wire_query(wire, "SELECT pg_sleep(60)", deadline_in_ms(100), NULL, &err));
		ck_assert_msg(err.class == ERROR_TIMEOUT, "%s", fixture_text(&err));
		free(fixture_value(wire, "SELECT 1"));
		wire_close(wire);
	} else {
		fixture_refused(ERROR_NETWORK, &err, "%s sslnegotiation=direct", base);
	}
	check_stream(base);
	free(base);
	cluster_free(cluster);
}
END_TEST

static Suite *
wire_majors_suite(void)
{
	Suite *suite = suite_create("protocol/wire majors");
	TCase *tcase = tcase_create("majors");

	tcase_set_timeout(tcase, 120);
	tcase_add_loop_test(tcase, every_major, CLUSTER_OLDEST, CLUSTER_NEWEST + 1);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(wire_majors_suite)
