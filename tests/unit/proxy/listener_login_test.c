/* Who gets in through the listener, how, and what those who do not are told. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"
#include "tests/harness/process.h"
#include "tests/harness/tls.h"
#include "tests/unit/proxy/listener_fixture.h"

static char file[256];
static char tls_dir[256];

static void
listen_plain(void)
{
	fixture_listen(NULL);
}

static void
gets_in(PGconn *conn, const char *user)
{
	ck_assert_msg(PQstatus(conn) == CONNECTION_OK, "%s: %s", user, PQerrorMessage(conn));
	char *who = db_value(conn, "SELECT session_user");
	ck_assert_str_eq(who, user);
	free(who);
	PQfinish(conn);
}

static void
is_refused(PGconn *conn, const char *words)
{
	ck_assert_msg(PQstatus(conn) == CONNECTION_BAD, "%s: got in", words);
	ck_assert_msg(strstr(PQerrorMessage(conn), words) != NULL, "\"%s\" is not in: %s", words,
	              PQerrorMessage(conn));
	PQfinish(conn);
}

START_TEST(stored_secrets)
{
	gets_in(fixture_client("user=scram password=secret"), "scram");
	gets_in(fixture_client("user=hashed password=secret"), "hashed");
	gets_in(
		fixture_client("user=scram password=secret host=%s port=5432 hostaddr=", fixture_socket),
		"scram");
}
END_TEST

START_TEST(refusals_as_from_the_server)
{
	is_refused(fixture_client("user=scram password=wrong"),
	           "FATAL:  password authentication failed for user \"scram\"");
	is_refused(fixture_client("user=hashed password=wrong"),
	           "FATAL:  password authentication failed for user \"hashed\"");
	is_refused(fixture_client("user=nobody password=x"),
	           "FATAL:  password authentication failed for user \"nobody\"");
	is_refused(fixture_client("user=late password=secret"),
	           "FATAL:  password authentication failed for user \"late\"");
	is_refused(fixture_client("user=locked password=secret"),
	           "FATAL:  role \"locked\" is not permitted to log in");
	is_refused(fixture_client("user=scram password=secret dbname=nowhere"),
	           "FATAL:  database \"nowhere\" does not exist");
	is_refused(fixture_client("user=scram"), "no password supplied");
	is_refused(fixture_client("user=open"), "--listen-trust");
}
END_TEST

/* Whoever asks twice for a role that is not there sees the same salt, as with one that is. */
START_TEST(unknown_role_looks_known)
{
	static const char startup[] = "\0\0\0\x14\0\3\0\0user\0ghost\0\0";
	static const char first[] = "p\0\0\0\x2cSCRAM-SHA-256\0\0\0\0\x16n,,n=,r=clientnonce123";
	char salts[2][64] = {"", ""};

	for (int i = 0; i < 2; i++) {
		char answer[200] = "";
		int fd = fixture_raw();
		uint32_t length;

		fixture_send(fd, startup, 20);
		ck_assert_uint_eq(fixture_recv(fd, answer, 24), 24);
		ck_assert(answer[0] == 'R' && answer[8] == 10);
		fixture_send(fd, first, 45);
		ck_assert_uint_eq(fixture_recv(fd, answer, 9), 9);
		memcpy(&length, answer + 1, 4);
		ck_assert_int_eq(answer[8], 11);
		fixture_recv(fd, answer, be32toh(length) - 8);
		answer[be32toh(length) - 8] = '\0';
		ck_assert_ptr_nonnull(strstr(answer, ",i=4096"));
		snprintf(salts[i], sizeof(salts[i]), "%.26s", strstr(answer, ",s="));
		close(fd);
	}
	ck_assert_str_eq(salts[0], salts[1]);
}
END_TEST

START_TEST(password_that_changes)
{
	PGconn *admin = fixture_admin();

	gets_in(fixture_client("user=scram password=secret"), "scram");
	db_exec(admin, "ALTER ROLE scram PASSWORD 'other'");
	is_refused(fixture_client("user=scram password=secret"), "password authentication failed");
	gets_in(fixture_client("user=scram password=other"), "scram");
	db_exec(admin, "ALTER ROLE scram PASSWORD 'secret'");
	PQfinish(admin);
}
END_TEST

START_TEST(parameters_reach_the_server)
{
	PGconn *conn = fixture_client("user=scram password=secret application_name=shop "
	                              "options='-c work_mem=7MB -c geqo=off' client_encoding=LATIN1");
	char *values = db_rows(conn, "SELECT current_setting('work_mem'), current_setting('geqo'), "
	                             "current_setting('application_name')");

	ck_assert_str_eq(values, "7MB|off|shop");
	ck_assert_str_eq(PQparameterStatus(conn, "client_encoding"), "LATIN1");
	ck_assert_str_eq(PQparameterStatus(conn, "is_superuser"), "off");
	ck_assert_int_ge(PQserverVersion(conn), 120000);
	/* What the application sees as its backend is the server's. */
	ck_assert_int_eq(db_int(conn, "SELECT pg_backend_pid()"), PQbackendPID(conn));
	free(values);
	PQfinish(conn);
}
END_TEST

/* ---- trust ---- */

static void
trust_loopback(ListenerOptions *options)
{
	static const char *const blocks[] = {"127.0.0.0/8"};
	options->trust = blocks;
	options->trust_count = 1;
}

START_TEST(trusted_addresses)
{
	ListenerState state;

	fixture_listen(trust_loopback);
	gets_in(fixture_client("user=open"), "open");
	/* Who would be asked by the server still is: by us, so that the session can be moved. */
	gets_in(fixture_client("user=scram password=secret"), "scram");
	gets_in(fixture_client("user=hashed password=secret"), "hashed");
	is_refused(fixture_client("user=scram password=wrong"), "password authentication failed");
	is_refused(fixture_client("user=scram"), "no password supplied");
	PGconn *conn = fixture_client("user=scram password=secret");
	listener_state(fixture_listener, &state);
	ck_assert_uint_eq(state.sessions, 1);
	ck_assert_uint_eq(state.unmovable, 0);
	PQfinish(conn);
	is_refused(fixture_client("user=open host=%s port=5432", fixture_socket), "--listen-trust");
	fixture_unlisten();
}
END_TEST

/* ---- the file, and the server's own exchange, where pg_authid may not be read ---- */

static void
as_plain_role(ListenerOptions *options)
{
	static ConnInfo *info;
	Error err = ERROR_INIT;

	char *uri = mem_printf("%s", cluster_uri(fixture_server, NULL));
	info = conninfo_parse(uri, &err);
	conninfo_set(info, "user", "open");
	free(uri);
	options->source = info;
	options->auth_file = file[0] != '\0' ? file : NULL;
}

static void
write_file(const char *text, mode_t mode)
{
	char *dir = scratch_dir_new("authfile");

	snprintf(file, sizeof(file), "%s/users", dir);
	FILE *out = fopen(file, "w");
	ck_assert_ptr_nonnull(out);
	fputs(text, out);
	fclose(out);
	chmod(file, mode);
	free(dir);
}

START_TEST(passed_through)
{
	ListenerState state;

	file[0] = '\0';
	fixture_listen(as_plain_role);
	gets_in(fixture_client("user=hashed password=secret"), "hashed");
	is_refused(fixture_client("user=scram password=wrong"), "password authentication failed");
	PGconn *conn = fixture_client("user=scram password=secret");
	ck_assert_msg(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
	listener_state(fixture_listener, &state);
	ck_assert_uint_eq(state.unmovable, 1);
	PQfinish(conn);
	fixture_unlisten();
}
END_TEST

START_TEST(auth_file)
{
	PGconn *admin = fixture_admin();
	char *stored = db_value(admin, "SELECT rolpassword FROM pg_authid WHERE rolname = 'scram'");
	char *text = mem_printf("; pgbouncer's form\n\"hashed\" \"secret\" \"\"\n"
	                        "# and a verifier\n\"scram\" \"%s\"\r\n\"quoted\"\"name\" \"x\"\n",
	                        stored);
	ListenerState state;

	write_file(text, 0600);
	fixture_listen(as_plain_role);
	gets_in(fixture_client("user=hashed password=secret"), "hashed");
	is_refused(fixture_client("user=hashed password=wrong"), "password authentication failed");
	PGconn *conn = fixture_client("user=scram password=secret");
	ck_assert_msg(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
	listener_state(fixture_listener, &state);
	ck_assert_uint_eq(state.unmovable, 0);
	PQfinish(conn);
	PQfinish(admin);
	free(stored);
	free(text);
	fixture_unlisten();
}
END_TEST

static ConnInfo *demanding;

static void
with_demands(ListenerOptions *options)
{
	options->source = demanding;
}

/* What our own connection string demands of the server holds for the clients' secrets, too. */
START_TEST(demands_of_the_connection_string)
{
	static const struct {
		const char *demand, *words;
	} cases[] = {
		{"require_auth=!md5", "require_auth"},
		{"channel_binding=require", "channel binding"},
	};
	PGconn *admin = fixture_admin();

	db_exec(admin, "SET password_encryption = 'scram-sha-256';"
	               "CREATE ROLE demands SUPERUSER LOGIN PASSWORD 'secret'");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Error err = ERROR_INIT;
		char *text = mem_printf("host=127.0.0.1 port=%d user=demands password=secret"
		                        " dbname=postgres sslmode=require %s",
		                        cluster_port(fixture_server), cases[i].demand);
		demanding = conninfo_parse(text, &err);
		ck_assert_msg(demanding != NULL, "%s", err.message);
		fixture_listen(with_demands);
		gets_in(fixture_client("user=scram password=secret"), "scram");
		is_refused(fixture_client("user=hashed password=secret"), cases[i].words);
		fixture_unlisten();
		conninfo_free(demanding);
		free(text);
	}
	db_exec(admin, "DROP ROLE demands");
	PQfinish(admin);
}
END_TEST

START_TEST(auth_file_wrong)
{
	static const struct {
		const char *text;
		mode_t mode;
		const char *words;
	} cases[] = {
		{"\"a\" \"b\"\n\"c\" d\n", 0600, "line 2"},
		{"\"a\" \"b\n", 0600, "line 1"},
		{"\"a\" \"topsecret\"\n", 0644, "others cannot read"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Error err = ERROR_INIT;
		ListenAddress address = {.host = "127.0.0.1", .port = 0};
		write_file(cases[i].text, cases[i].mode);
		ListenerOptions options = {.addresses = &address,
		                           .address_count = 1,
		                           .threads = 1,
		                           .max_clients = 10,
		                           .auth_file = file};
		ck_assert_ptr_null(listener_start(&options, &err));
		char whole[2048];
		error_format(&err, whole, sizeof(whole));
		ck_assert_msg(strstr(whole, cases[i].words) != NULL, "%s", whole);
		ck_assert_ptr_null(strstr(whole, "topsecret"));
	}
}
END_TEST

/* ---- TLS ---- */

static ListenTls tls_mode;
static bool tls_ca;

static void
with_tls(ListenerOptions *options)
{
	static char cert[300], key[300], ca[300];

	snprintf(cert, sizeof(cert), "%s/server.crt", tls_dir);
	snprintf(key, sizeof(key), "%s/server.key", tls_dir);
	snprintf(ca, sizeof(ca), "%s/root.crt", tls_dir);
	options->tls = tls_mode;
	options->tls_cert = cert;
	options->tls_key = key;
	options->tls_ca = tls_ca ? ca : NULL;
}

static void
make_certificates(void)
{
	char *dir = scratch_dir_new("tls");
	snprintf(tls_dir, sizeof(tls_dir), "%s", dir);
	tls_make_files(tls_dir);
	free(dir);
}

START_TEST(tls_and_channel_binding)
{
	make_certificates();
	tls_mode = LISTEN_TLS_ALLOW;
	fixture_listen(with_tls);
	PGconn *conn = fixture_client("user=scram password=secret sslmode=verify-full "
	                              "sslrootcert=%s/root.crt channel_binding=require",
	                              tls_dir);
	ck_assert_msg(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
	ck_assert(PQsslInUse(conn));
	PQfinish(conn);
	gets_in(fixture_client("user=scram password=secret sslmode=disable"), "scram");
	gets_in(fixture_client("user=hashed password=secret sslmode=require"), "hashed");
	is_refused(fixture_client("user=scram password=wrong sslmode=require"),
	           "password authentication failed");
	gets_in(fixture_client("user=scram password=secret sslmode=require channel_binding=disable"),
	        "scram");
	fixture_unlisten();
}
END_TEST

START_TEST(tls_required)
{
	make_certificates();
	tls_mode = LISTEN_TLS_REQUIRE;
	fixture_listen(with_tls);
	is_refused(fixture_client("user=scram password=secret sslmode=disable"), "only connections "
	                                                                         "with TLS");
	gets_in(fixture_client("user=scram password=secret sslmode=prefer"), "scram");
	/* TLS has no meaning over a Unix socket. */
	gets_in(fixture_client("user=scram password=secret host=%s port=5432", fixture_socket),
	        "scram");
	fixture_unlisten();
}
END_TEST

START_TEST(tls_client_certificates)
{
	make_certificates();
	tls_mode = LISTEN_TLS_REQUIRE;
	tls_ca = true;
	fixture_listen(with_tls);
	is_refused(fixture_client("user=scram password=secret sslmode=require sslcert=/nowhere"),
	           "certificate required");
	gets_in(fixture_client("user=scram password=secret sslmode=require sslcert=%s/client.crt "
	                       "sslkey=%s/client.key",
	                       tls_dir, tls_dir),
	        "scram");
	fixture_unlisten();
}
END_TEST

START_TEST(tls_off)
{
	fixture_listen(NULL);
	is_refused(fixture_client("user=scram password=secret sslmode=require"),
	           "server does not support SSL");
	fixture_unlisten();
}
END_TEST

/* `openssl s_client` with the arguments; what it printed, to be freed. */
static char *
s_client(const char *first, const char *second)
{
	char to[64];
	char *out = NULL;

	snprintf(to, sizeof(to), "127.0.0.1:%d", fixture_port);
	const char *argv[] = {"openssl", "s_client", "-connect", to, first, second, NULL};
	process_run(argv, NULL, 30, &out);
	return out;
}

START_TEST(direct_tls)
{
	make_certificates();
	tls_mode = LISTEN_TLS_REQUIRE;
	fixture_listen(with_tls);
	char *out = s_client("-alpn", "postgresql");
	ck_assert_msg(strstr(out, "ALPN protocol: postgresql") != NULL, "%s", out);
	free(out);
	out = s_client("-alpn", "http/1.1");
	ck_assert_msg(strstr(out, "no application protocol") != NULL, "%s", out);
	free(out);
	/* By SSLRequest ALPN may be left out. */
	out = s_client("-starttls", "postgres");
	ck_assert_msg(strstr(out, "Verify return code") != NULL, "%s", out);
	free(out);
	fixture_unlisten();
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("listener_login");
	TCase *plain = tcase_create("listener_login");
	TCase *special = tcase_create("listener_login_ways");

	tcase_add_unchecked_fixture(plain, fixture_server_start, fixture_server_stop);
	tcase_add_checked_fixture(plain, listen_plain, fixture_unlisten);
	tcase_add_test(plain, stored_secrets);
	tcase_add_test(plain, refusals_as_from_the_server);
	tcase_add_test(plain, unknown_role_looks_known);
	tcase_add_test(plain, password_that_changes);
	tcase_add_test(plain, parameters_reach_the_server);
	suite_add_tcase(suite, plain);

	tcase_add_unchecked_fixture(special, fixture_server_start, fixture_server_stop);
	tcase_add_test(special, trusted_addresses);
	tcase_add_test(special, passed_through);
	tcase_add_test(special, auth_file);
	tcase_add_test(special, auth_file_wrong);
	tcase_add_test(special, demands_of_the_connection_string);
	tcase_add_test(special, tls_and_channel_binding);
	tcase_add_test(special, tls_required);
	tcase_add_test(special, tls_client_certificates);
	tcase_add_test(special, tls_off);
	tcase_add_test(special, direct_tls);
	suite_add_tcase(suite, special);
	return suite;
}

TEST_SUITE(make)
