/*
 * Sessions moved from every major to a newer one and back, over plain connections and over TLS:
 * what they carry, what clients are told, and which settings only one of the two has.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/harness/skip.h"
#include "tests/unit/proxy/listener_move_fixture.h"

static const struct {
	int source, target;
	bool tls;
	bool binding; /* demanded of the servers: then there is nobody with an md5 password */
} pairs[] = {
	{12, 18, true, false}, {12, 15, false, false}, {13, 16, false, false}, {14, 17, false, false},
	{15, 15, true, true},  {16, 18, false, false}, {17, 18, true, true},   {18, 15, false, false},
};
enum { PAIRS = sizeof(pairs) / sizeof(pairs[0]) };

static void
open_servers(int pair)
{
	char uri[2][600];
	Cluster *clusters[2];

	move_servers_start_of(pairs[pair].source, pairs[pair].target, pairs[pair].tls);
	if (!pairs[pair].tls) {
		move_listen();
		return;
	}
	clusters[0] = move_source;
	clusters[1] = move_target;
	for (int i = 0; i < 2; i++)
		snprintf(uri[i], sizeof(uri[i]),
		         "host=localhost hostaddr=127.0.0.1 port=%d dbname=postgres user=root "
		         "password=secret sslmode=verify-full sslrootcert=%s channel_binding=%s",
		         cluster_port(clusters[i]), cluster_tls_file(clusters[i], "root.crt"),
		         pairs[pair].binding ? "require" : "prefer");
	move_listen_between(uri[0], uri[1]);
}

static void
close_servers(void)
{
	move_unlisten();
	move_servers_stop();
}

static void
equals(PGconn *conn, const char *expected, const char *sql)
{
	char *value = db_value(conn, "%s", sql);

	ck_assert_msg(value != NULL && strcmp(value, expected) == 0, "%s: %s instead of %s", sql, value,
	              expected);
	free(value);
}

/* ---- a client that speaks protocol 3.2; this machine's libpq may not ---- */

typedef struct {
	int fd;
	uint8_t pid[4], key[32];
} Newer;

static int
newer_connect(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/.s.PGSQL.5432", move_socket_dir());
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void
read_all(int fd, uint8_t *out, size_t len)
{
	for (size_t at = 0; at < len;) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};
		ck_assert_int_eq(poll(&ready, 1, 60000), 1);
		ssize_t n = read(fd, out + at, len - at);
		ck_assert_int_gt(n, 0);
		at += (size_t)n;
	}
}

/* The payload of the next message of that type; the others are passed over. */
static size_t
newer_until(Newer *newer, char type, uint8_t *payload, size_t most)
{
	for (;;) {
		uint8_t header[5];
		read_all(newer->fd, header, sizeof(header));
		size_t len = ((size_t)header[3] << 8 | header[4]) - 4;
		ck_assert_uint_le(len, most);
		read_all(newer->fd, payload, len);
		if ((char)header[0] == type)
			return len;
		ck_assert_msg(header[0] != 'E' || type == 'Z', "refused: %s", payload);
	}
}

static void
newer_open(Newer *newer)
{
	static const char packet[] = "\0\0\0\x26\0\x03\0\x02user\0guest\0database\0postgres\0";
	uint8_t payload[4096];

	newer->fd = newer_connect();
	_Static_assert(sizeof(packet) == 0x26, "the startup packet's own length");
	ck_assert_int_eq(write(newer->fd, packet, sizeof(packet)), sizeof(packet));
	ck_assert_uint_eq(newer_until(newer, 'K', payload, sizeof(payload)), 36);
	memcpy(newer->pid, payload, 4);
	memcpy(newer->key, payload + 4, 32);
	newer_until(newer, 'Z', payload, sizeof(payload));
}

/* Its key of 32 bytes cancels, wherever the session is by now. */
static void
newer_cancels(Newer *newer, Cluster *where)
{
	static const char query[] = "Q\0\0\0\x18SELECT pg_sleep(99)";
	uint8_t payload[4096], request[44] = {0, 0, 0, 44, 4, 0xd2, 0x16, 0x2e};
	PGconn *admin = move_admin(where);

	_Static_assert(sizeof(query) == 0x18 + 1, "the query's own length");
	memcpy(request + 8, newer->pid, 4);
	memcpy(request + 12, newer->key, 32);
	ck_assert_int_eq(write(newer->fd, query, sizeof(query)), sizeof(query));
	db_wait_until(admin,
	              "SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = 'guest' AND state = "
	              "'active' AND query LIKE '%%pg_sleep(99)%%'",
	              30);
	int fd = newer_connect();
	ck_assert_int_eq(write(fd, request, sizeof(request)), sizeof(request));
	newer_until(newer, 'Z', payload, sizeof(payload));
	close(fd);
	PQfinish(admin);
}

/* ---- what is carried ---- */

/* The next command of text is its end. */
static void
prepare_unnamed(PGconn *conn)
{
	PQclear(PQprepare(conn, "", "SELECT $1::int + 100", 1, NULL));
}

static void
fill(PGconn *conn)
{
	db_exec(conn, "SET work_mem = '11MB'; SET app.colour TO 'blue'");
	db_exec(conn, "SELECT become('me')");
	db_exec(conn, "SET client_encoding = 'LATIN1'; SET datestyle = 'SQL, DMY'");
	db_exec(conn, "SET search_path = other, public");
	db_exec(conn, "SET default_transaction_read_only = on");
	db_exec(conn, "SET ROLE boss");
	db_exec(conn, "LISTEN channel");
	db_exec(conn, "PREPARE by_sql (int) AS SELECT $1 + 1");
	PQclear(PQprepare(conn, "by_mood", "SELECT id FROM public.item WHERE mood = $1", 0, NULL));
	prepare_unnamed(conn);
}

static void
check(PGconn *conn)
{
	static const char *const one[] = {"1"}, *const mood[] = {"happy"};

	PGresult *r = PQexecPrepared(conn, "", 1, one, NULL, NULL, 0);
	ck_assert_msg(PQresultStatus(r) == PGRES_TUPLES_OK, "%s", PQresultErrorMessage(r));
	ck_assert_str_eq(PQgetvalue(r, 0, 0), "101");
	PQclear(r);
	r = PQexecPrepared(conn, "by_mood", 1, mood, NULL, NULL, 0);
	ck_assert_msg(PQresultStatus(r) == PGRES_TUPLES_OK, "%s", PQresultErrorMessage(r));
	ck_assert_str_eq(PQgetvalue(r, 0, 0), "1");
	PQclear(r);
	equals(conn, "11MB", "SHOW work_mem");
	equals(conn, "blue", "SHOW app.colour");
	equals(conn, "me", "SELECT current_setting('app.hidden')");
	equals(conn, "boss", "SELECT current_user");
	equals(conn, "app", "SELECT session_user");
	equals(conn, "other, public", "SHOW search_path");
	equals(conn, "LATIN1", "SHOW client_encoding");
	equals(conn, "SQL, DMY", "SHOW datestyle");
	equals(conn, "on", "SHOW default_transaction_read_only");
	equals(conn, "5", "EXECUTE by_sql(4)");
	equals(conn, "channel", "SELECT pg_listening_channels()");
}

/* As if the client had logged in there: what only newer servers tell is told at the move. */
static void
check_told(PGconn *conn, Cluster *where)
{
	static const struct {
		int since;
		const char *name, *value;
	} told[] = {{14, "in_hot_standby", "off"},
	            {14, "default_transaction_read_only", "on"},
	            {16, "scram_iterations", "4096"},
	            {18, "search_path", "other, public"}};

	for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
		const char *value = PQparameterStatus(conn, told[i].name);
		if (cluster_major(where) >= told[i].since)
			ck_assert_msg(value != NULL && strcmp(value, told[i].value) == 0, "%s: %s",
			              told[i].name, value);
	}
	ck_assert_int_eq(PQserverVersion(conn) / 10000, cluster_major(where));
	ck_assert_int_eq(move_where(conn), cluster_port(where));
}

START_TEST(there_and_back)
{
	TEST_NEEDS_MAJOR(pairs[_i].source);
	TEST_NEEDS_MAJOR(pairs[_i].target);
	open_servers(_i);
	PGconn *conn = move_session("");
	PGconn *md5 = pairs[_i].binding ? NULL : move_session("user=hashed");
	PGconn *guest = move_trusted("guest");
	Newer newer;

	newer_open(&newer);
	newer_cancels(&newer, move_source);
	fill(conn);
	for (int turn = 0; turn < 3; turn++) {
		Cluster *where = turn % 2 == 0 ? move_target : move_source;
		move_all_to(turn % 2 == 0 ? ROUTE_TARGET : ROUTE_SOURCE);
		check(conn);
		check_told(conn, where);
		prepare_unnamed(conn);
		ck_assert_int_eq(move_where(guest), cluster_port(where));
		equals(guest, pairs[_i].tls ? "t" : "f",
		       "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
		if (md5 != NULL)
			ck_assert_int_eq(move_where(md5), cluster_port(where));
		newer_cancels(&newer, where);
	}
	close(newer.fd);
	PQfinish(conn);
	PQfinish(md5);
	PQfinish(guest);
	close_servers();
}
END_TEST

/* ---- settings that one of the two does not have ---- */

/* One that any role may SET; NULL: none. */
static char *
setting_only_of(Cluster *has, Cluster *lacks)
{
	PGconn *a = move_admin(has), *b = move_admin(lacks);
	char *known = db_value(b, "SELECT string_agg(name, ',') FROM pg_settings");
	char *found = db_value(a,
	                       "SELECT min(name) FROM pg_settings WHERE context = 'user' AND name <> "
	                       "ALL (string_to_array('%s', ','))",
	                       known);

	free(known);
	PQfinish(a);
	PQfinish(b);
	if (found != NULL && found[0] == '\0') {
		free(found);
		return NULL;
	}
	return found;
}

static void
set_to_itself(PGconn *conn, const char *setting)
{
	db_exec(conn, "SELECT set_config('%s', current_setting('%s'), false)", setting, setting);
}

/* listener_sessions says it, and so does prepare. With RESET the session is free again. */
static void
stays_with(PGconn *conn, const char *setting, ListenerRoute to)
{
	MoveReport report;
	Error err = ERROR_INIT;

	set_to_itself(conn, setting);
	if (to == ROUTE_TARGET)
		ck_assert_msg(strstr(move_reason_of(conn), setting) != NULL, "%s: \"%s\"", setting,
		              move_reason_of(conn));
	ck_assert(listener_move_prepare(move_listener, to, deadline_in_ms(30000), NULL, &report, &err));
	ck_assert_uint_eq(report.unmovable, 1);
	ck_assert_msg(strstr(report.which[0].reason, setting) != NULL, "%s", report.which[0].reason);
	move_report_free(&report);
	db_exec(conn, "RESET %s", setting);
}

START_TEST(settings_of_one_version)
{
	static const int both[][2] = {{12, 18}, {18, 15}};

	TEST_NEEDS_MAJOR(both[_i][0]);
	TEST_NEEDS_MAJOR(both[_i][1]);
	move_servers_start_of(both[_i][0], both[_i][1], false);
	move_listen();
	PGconn *conn = move_session("");
	char *gone = setting_only_of(move_source, move_target);
	char *added = setting_only_of(move_target, move_source);

	ck_assert_ptr_nonnull(gone);
	stays_with(conn, gone, ROUTE_TARGET);
	move_all();
	if (added != NULL)
		stays_with(conn, added, ROUTE_SOURCE);
	move_all_to(ROUTE_SOURCE);
	ck_assert_int_eq(move_where(conn), cluster_port(move_source));
	free(gone);
	free(added);
	PQfinish(conn);
	close_servers();
}
END_TEST

static Suite *
listener_majors_suite(void)
{
	Suite *suite = suite_create("listener_majors");
	TCase *tcase = tcase_create("listener_majors");

	tcase_set_timeout(tcase, 120);
	tcase_add_loop_test(tcase, there_and_back, 0, PAIRS);
	tcase_add_loop_test(tcase, settings_of_one_version, 0, 2);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(listener_majors_suite)
