/* Ways to get in, and to be kept out, of a real server. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/unit/protocol/wire_fixture.h"

static Cluster *cluster;
static char home[] = "/tmp/pgbaton-wire-home-XXXXXX";

static const char hba[] = "local all r_scram scram-sha-256\n"
						  "host all r_clear 127.0.0.1/32 password\n"
						  "host all r_md5 127.0.0.1/32 md5\n"
						  "host all r_scram 127.0.0.1/32 scram-sha-256\n"
						  "hostssl all r_tls 127.0.0.1/32 scram-sha-256\n"
						  "hostnossl all r_plain 127.0.0.1/32 scram-sha-256\n"
						  "host all r_reject,r_tls,r_plain 127.0.0.1/32 reject\n";

static void
start(void)
{
	/* No file of whoever runs the tests may help or hinder. */
	ck_assert_ptr_nonnull(mkdtemp(home));
	setenv("HOME", home, 1);
	cluster = cluster_start(&(ClusterOptions){
		.name = "wire", .tls = true, .hba = hba, .conf = "max_connections = 30\n"});
	PGconn *conn = db_connect(cluster, NULL);
	db_exec(conn, "SET password_encryption = 'md5'; CREATE ROLE r_md5 LOGIN PASSWORD 'hunter2';"
	              "SET password_encryption = 'scram-sha-256'");
	static const char *const roles[] = {"r_clear", "r_scram", "r_tls", "r_plain", "r_reject"};
	for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++)
		db_exec(conn, "CREATE ROLE %s LOGIN PASSWORD 'hunter2'", roles[i]);
	PQfinish(conn);
}

static void
stop(void)
{
	cluster_free(cluster);
	rmdir(home);
}

static const char *
tcp(void)
{
	static char text[256];
	snprintf(text, sizeof(text), "host=127.0.0.1 dbname=postgres port=%d", cluster_port(cluster));
	return text;
}

static void
check_and_close(Wire *wire, const char *user)
{
	char *got = fixture_value(wire, "SELECT current_user");
	ck_assert_str_eq(got, user);
	free(got);
	wire_close(wire);
}

START_TEST(trust_and_parameters)
{
	WireOptions options = {.application_name = "tester", .options = "-c geqo=off"};
	Wire *wire = fixture_connect_with(options,
	                                  "%s user=postgres sslmode=disable "
	                                  "options='-c work_mem=77kB' client_encoding=LATIN1",
	                                  tcp());
	static const struct {
		const char *sql, *value;
	} cases[] = {
		{"SHOW application_name", "tester"},
		{"SHOW geqo", "off"},
		{"SHOW work_mem", "77kB"},
		{"SHOW client_encoding", "LATIN1"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *got = fixture_value(wire, cases[i].sql);
		ck_assert_str_eq(got, cases[i].value);
		free(got);
	}
	char *version = fixture_value(wire, "SHOW server_version_num");
	ck_assert_int_eq(wire_server_version(wire), atoi(version));
	free(version);
	char *pid = fixture_value(wire, "SELECT pg_backend_pid()");
	ck_assert_uint_eq(wire_backend_pid(wire), (uint32_t)atoi(pid));
	free(pid);
	ck_assert_str_eq(wire_parameter(wire, "client_encoding"), "LATIN1");
	ck_assert_ptr_null(wire_parameter(wire, "no_such"));
	ck_assert(!wire_uses_tls(wire));
	/* A changed parameter is reported and kept. */
	free(fixture_value(wire, "SET client_encoding = 'UTF8'"));
	ck_assert_str_eq(wire_parameter(wire, "client_encoding"), "UTF8");
	wire_close(wire);
}
END_TEST

START_TEST(every_password_method)
{
	static const char *const roles[] = {"r_clear", "r_md5", "r_scram"};
	static const char *const tls[] = {"disable", "require"};
	Error err = ERROR_INIT;

	for (size_t i = 0; i < 3; i++)
		for (size_t t = 0; t < 2; t++) {
			check_and_close(
				fixture_connect("%s user=%s password=hunter2 sslmode=%s", tcp(), roles[i], tls[t]),
				roles[i]);
			fixture_refused(ERROR_AUTH, &err, "%s user=%s password=hunter2x sslmode=%s", tcp(),
			                roles[i], tls[t]);
			ck_assert_str_eq(err.sqlstate, "28P01");
			fixture_refused(ERROR_AUTH, &err, "%s user=%s sslmode=%s", tcp(), roles[i], tls[t]);
		}
	check_and_close(fixture_connect("host=%s port=%d dbname=postgres user=r_scram "
	                                "password=hunter2",
	                                cluster_socket_dir(cluster), cluster_port(cluster)),
	                "r_scram");
}
END_TEST

START_TEST(binding_and_require_auth)
{
	Error err = ERROR_INIT;

	check_and_close(fixture_connect("%s user=r_scram password=hunter2 sslmode=require "
	                                "channel_binding=require",
	                                tcp()),
	                "r_scram");
	check_and_close(fixture_connect("%s user=r_scram password=hunter2 sslmode=require "
	                                "channel_binding=disable require_auth=scram-sha-256",
	                                tcp()),
	                "r_scram");
	fixture_refused(ERROR_AUTH, &err,
	                "%s user=r_scram password=hunter2 sslmode=disable "
	                "channel_binding=require",
	                tcp());
	fixture_refused(ERROR_AUTH, &err, "%s user=postgres sslmode=require channel_binding=require",
	                tcp());
	fixture_refused(ERROR_AUTH, &err, "%s user=r_clear password=hunter2 require_auth=!password",
	                tcp());
	fixture_refused(ERROR_AUTH, &err, "%s user=r_md5 password=hunter2 require_auth=scram-sha-256",
	                tcp());
	setenv("PGREQUIREAUTH", "scram-sha-256", 1);
	fixture_refused(ERROR_AUTH, &err, "%s user=postgres", tcp());
	check_and_close(fixture_connect("%s user=r_scram password=hunter2", tcp()), "r_scram");
}
END_TEST

START_TEST(tls_modes)
{
	static const struct {
		const char *user, *mode;
		int tls; /* -1: refused */
	} cases[] = {
		{"r_scram", "disable", 0},  {"r_scram", "allow", 0},   {"r_scram", "prefer", 1},
		{"r_scram", "require", 1},  {"r_tls", "disable", -1},  {"r_tls", "allow", 1},
		{"r_tls", "prefer", 1},     {"r_plain", "allow", 0},   {"r_plain", "prefer", 0},
		{"r_plain", "require", -1}, {"r_reject", "allow", -1}, {"r_reject", "prefer", -1},
	};
	Error err = ERROR_INIT;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (cases[i].tls < 0) {
			fixture_refused(ERROR_AUTH, &err, "%s user=%s password=hunter2 sslmode=%s", tcp(),
			                cases[i].user, cases[i].mode);
			ck_assert_str_eq(err.sqlstate, "28000");
			continue;
		}
		Wire *wire = fixture_connect("%s user=%s password=hunter2 sslmode=%s", tcp(), cases[i].user,
		                             cases[i].mode);
		ck_assert_int_eq(wire_uses_tls(wire), cases[i].tls);
		check_and_close(wire, cases[i].user);
	}
}
END_TEST

START_TEST(certificates)
{
	const char *root = cluster_tls_file(cluster, "root.crt");
	Error err = ERROR_INIT;
	int port = cluster_port(cluster);

	check_and_close(
		fixture_connect("%s user=postgres sslmode=verify-full sslrootcert=%s", tcp(), root),
		"postgres");
	check_and_close(fixture_connect("host=localhost hostaddr=127.0.0.1 port=%d dbname=postgres "
	                                "user=postgres sslmode=verify-full sslrootcert=%s",
	                                port, root),
	                "postgres");
	/* The right authority, another name. */
	check_and_close(fixture_connect("host=elsewhere hostaddr=127.0.0.1 port=%d dbname=postgres "
	                                "user=postgres sslmode=verify-ca sslrootcert=%s",
	                                port, root),
	                "postgres");
	fixture_refused(ERROR_AUTH, &err,
	                "host=elsewhere hostaddr=127.0.0.1 port=%d dbname=postgres "
	                "user=postgres sslmode=verify-full sslrootcert=%s",
	                port, root);
	ck_assert_ptr_nonnull(strstr(err.message, "elsewhere"));
	/* Another authority: the client's own certificate is none. */
	fixture_refused(ERROR_AUTH, &err, "%s user=postgres sslmode=verify-ca sslrootcert=%s", tcp(),
	                cluster_tls_file(cluster, "client.crt"));
	fixture_refused(ERROR_CONFIG, &err, "%s user=postgres sslmode=verify-ca", tcp());
	fixture_refused(ERROR_CONFIG, &err,
	                "%s user=postgres sslmode=verify-full "
	                "sslrootcert=/no/such/file",
	                tcp());
	fixture_refused(ERROR_CONFIG, &err, "%s user=postgres sslmode=verify-ca sslrootcert=system",
	                tcp());
	fixture_refused(ERROR_AUTH, &err, "%s user=postgres sslmode=verify-full sslrootcert=system",
	                tcp());
	/* A root in the home directory makes require as strict as verify-ca. */
	char *folder = mem_printf("%s/.postgresql", home);
	char *link = mem_printf("%s/root.crt", folder);
	ck_assert_int_eq(mkdir(folder, 0700), 0);
	ck_assert_int_eq(symlink(cluster_tls_file(cluster, "client.crt"), link), 0);
	fixture_refused(ERROR_AUTH, &err, "%s user=postgres sslmode=require", tcp());
	unlink(link);
	ck_assert_int_eq(symlink(root, link), 0);
	check_and_close(fixture_connect("%s user=postgres sslmode=require", tcp()), "postgres");
	unlink(link);
	rmdir(folder);
	free(folder);
	free(link);
}
END_TEST

START_TEST(client_certificate)
{
	const char *cert = cluster_tls_file(cluster, "client.crt");
	char *key = mem_printf("%s/key", home);
	char *copy = mem_printf("cp %s %s && chmod 600 %s", cluster_tls_file(cluster, "client.key"),
	                        key, key);
	Error err = ERROR_INIT;

	ck_assert_int_eq(system(copy), 0);
	cluster_allow(cluster, "hostssl all postgres 127.0.0.1/32 cert\n");
	check_and_close(
		fixture_connect("%s user=postgres sslmode=require sslcert=%s sslkey=%s", tcp(), cert, key),
		"postgres");
	fixture_refused(ERROR_AUTH, &err, "%s user=postgres sslmode=require", tcp());
	fixture_refused(ERROR_AUTH, &err,
	                "%s user=postgres sslmode=require sslcert=%s sslkey=%s "
	                "sslcertmode=disable",
	                tcp(), cert, key);
	ck_assert_int_eq(chmod(key, 0644), 0);
	fixture_refused(ERROR_CONFIG, &err, "%s user=postgres sslmode=require sslcert=%s sslkey=%s",
	                tcp(), cert, key);
	ck_assert_ptr_nonnull(strstr(err.message, "open to"));
	cluster_allow(cluster, "hostssl all postgres 127.0.0.1/32 trust\n");
	unlink(key);
	free(key);
	free(copy);
}
END_TEST

START_TEST(settings_that_cannot_be)
{
	static const char *const texts[] = {
		"gssencmode=require",
		"target_session_attrs=standby",
		"sslmode=perhaps",
		"connect_timeout=soon",
		"channel_binding=maybe",
		"require_auth=magic",
		"sslnegotiation=direct",
		"keepalives=yes",
		"ssl_min_protocol_version=SSLv3",
		"ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2 sslmode=require",
		"port=0",
		"port=65536",
		"port=x",
	};
	Error err = ERROR_INIT;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char *text = mem_printf("%s user=postgres %s", tcp(), texts[i]);
		ConnInfo *info = conninfo_parse(text, &err);
		Wire *wire = info != NULL ? wire_connect(&(WireOptions){.info = info}, &err) : NULL;
		ck_assert_msg(wire == NULL, "%s", texts[i]);
		ck_assert_msg(err.class == ERROR_CONFIG, "%s: %s", texts[i], fixture_text(&err));
		conninfo_free(info);
		free(text);
	}
}
END_TEST

/* A port of 127.0.0.1 on which nobody listens: bound, never listened on. */
static int
dead_port(int *fd)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t length = sizeof(address);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	*fd = socket(AF_INET, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(*fd, (struct sockaddr *)&address, length), 0);
	ck_assert_int_eq(getsockname(*fd, (struct sockaddr *)&address, &length), 0);
	return ntohs(address.sin_port);
}

START_TEST(several_hosts)
{
	Error err = ERROR_INIT;
	int fd, dead = dead_port(&fd), port = cluster_port(cluster);

	check_and_close(fixture_connect("host=127.0.0.1,/no/such/dir,127.0.0.1 port=%d,1,%d "
	                                "user=postgres dbname=postgres",
	                                dead, port),
	                "postgres");
	Wire *wire = fixture_connect("host=127.0.0.1,%s port=%d,%d user=postgres dbname=postgres "
	                             "target_session_attrs=read-write",
	                             cluster_socket_dir(cluster), dead, port);
	ck_assert_ptr_nonnull(strstr(wire_display(wire), cluster_socket_dir(cluster)));
	wire_close(wire);
	check_and_close(fixture_connect("%s user=postgres target_session_attrs=primary", tcp()),
	                "postgres");
	fixture_refused(ERROR_NETWORK, &err,
	                "%s user=postgres target_session_attrs=read-write "
	                "options='-c default_transaction_read_only=on'",
	                tcp());
	fixture_refused(ERROR_NETWORK, &err, "host=127.0.0.1,/no/such/dir port=%d,1 user=postgres",
	                dead);
	/* Each host's own reason. */
	ck_assert_ptr_nonnull(strstr(fixture_text(&err), "refused"));
	ck_assert_ptr_nonnull(strstr(fixture_text(&err), "No such file"));
	/* A wrong password is the end: the next host is not tried. */
	fixture_refused(ERROR_AUTH, &err,
	                "host=127.0.0.1,%s port=%d user=r_clear dbname=postgres "
	                "password=hunter2x",
	                cluster_socket_dir(cluster), port);
	close(fd);
}
END_TEST

START_TEST(server_refuses)
{
	Error err = ERROR_INIT;
	PGconn *conn = db_connect(cluster, NULL);

	fixture_refused(ERROR_SQL, &err, "host=127.0.0.1 port=%d user=postgres dbname=no_such",
	                cluster_port(cluster));
	ck_assert_str_eq(err.sqlstate, "3D000");
	db_exec(conn, "ALTER ROLE r_scram CONNECTION LIMIT 0");
	fixture_refused(ERROR_SQL, &err, "%s user=r_scram password=hunter2", tcp());
	ck_assert_str_eq(err.sqlstate, "53300");
	db_exec(conn, "ALTER ROLE r_scram CONNECTION LIMIT -1");
	PQfinish(conn);
}
END_TEST

/* Somebody accepts and never answers. */
START_TEST(connect_timeout)
{
	struct sockaddr_in address;
	socklen_t length = sizeof(address);
	Error err = ERROR_INIT;
	int fd, port = dead_port(&fd);

	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	ck_assert_int_eq(listen(fd, 5), 0);
	int64_t start_ms = clock_mono_ms();
	fixture_refused(ERROR_NETWORK, &err, "host=127.0.0.1 port=%d user=u connect_timeout=1", port);
	int64_t took = clock_mono_ms() - start_ms;
	ck_assert_msg(took >= 1900 && took < 20000, "%d ms", (int)took);

	Stop *please = stop_new();
	stop_request(please);
	ConnInfo *info = conninfo_parse("host=127.0.0.1 user=u", &err);
	char text[16];
	snprintf(text, sizeof(text), "%d", port);
	conninfo_set(info, "port", text);
	ck_assert_ptr_null(wire_connect(&(WireOptions){.info = info, .stop = please}, &err));
	ck_assert_int_eq(err.class, ERROR_CANCELLED);
	conninfo_free(info);
	stop_free(please);
	close(fd);
}
END_TEST

/* From 17 on: no SSLRequest, ALPN instead. */
START_TEST(direct_tls)
{
	Error err = ERROR_INIT;

	if (cluster_major(cluster) < 17) {
		fixture_refused(ERROR_NETWORK, &err,
		                "%s user=postgres sslmode=require "
		                "sslnegotiation=direct",
		                tcp());
		return;
	}
	Wire *wire = fixture_connect("%s user=r_scram password=hunter2 sslmode=verify-full "
	                             "sslnegotiation=direct channel_binding=require sslrootcert=%s",
	                             tcp(), cluster_tls_file(cluster, "root.crt"));
	ck_assert(wire_uses_tls(wire));
	check_and_close(wire, "r_scram");
}
END_TEST

static Suite *
wire_connect_suite(void)
{
	Suite *suite = suite_create("protocol/wire connect");
	TCase *tcase = tcase_create("connect");

	tcase_set_timeout(tcase, 60);
	tcase_add_unchecked_fixture(tcase, start, stop);
	tcase_add_test(tcase, trust_and_parameters);
	tcase_add_test(tcase, every_password_method);
	tcase_add_test(tcase, binding_and_require_auth);
	tcase_add_test(tcase, tls_modes);
	tcase_add_test(tcase, certificates);
	tcase_add_test(tcase, client_certificate);
	tcase_add_test(tcase, settings_that_cannot_be);
	tcase_add_test(tcase, several_hosts);
	tcase_add_test(tcase, server_refuses);
	tcase_add_test(tcase, connect_timeout);
	tcase_add_test(tcase, direct_tls);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(wire_connect_suite)
