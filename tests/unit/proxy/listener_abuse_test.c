/* Clients that are wrong, slow, silent or hostile: they are told so where they can be, and
 * nobody else notices. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/process.h"
#include "tests/harness/tls.h"
#include "tests/unit/proxy/listener_fixture.h"

#define BYTES(text) slice_of(text, sizeof(text) - 1)

static ListenerState
state_now(void)
{
	ListenerState state;
	listener_state(fixture_listener, &state);
	return state;
}

#define WAIT_FOR(cond)                                     \
	do {                                                   \
		int64_t deadline = deadline_in_ms(30000);          \
		while (!(cond) && deadline_left_ms(deadline) > 0)  \
			usleep(2000);                                  \
		ck_assert_msg(cond, "not within 30 s: %s", #cond); \
	} while (0)

/* Sends the bytes on a connection of its own and reads to the end; what came, to be freed. */
static char *
answer_to(Slice bytes, size_t *len)
{
	char *text = calloc(1, 4096);
	int fd = fixture_raw();

	fixture_send(fd, bytes.data, bytes.len);
	*len = fixture_recv(fd, text, 4095);
	close(fd);
	return text;
}

static void
listen_plain(void)
{
	fixture_listen(NULL);
}

START_TEST(wrong_first_packets)
{
	static const struct {
		Slice bytes;
		const char *words; /* NULL: no answer, the end */
	} cases[] = {
		{{(const uint8_t *)"\0\0\0\0", 4}, "C08P01"},
		{{(const uint8_t *)"\0\0\0\7", 4}, "invalid length of startup packet"},
		{{(const uint8_t *)"\0\0\x27\x11", 4}, "invalid length of startup packet"},
		{{(const uint8_t *)"\xff\xff\xff\xff", 4}, "invalid length of startup packet"},
		{{(const uint8_t *)"GET / HTTP/1.1\r\n\r\n", 18}, "invalid length of startup packet"},
		{{(const uint8_t *)"\0\0\0\x10\0\1\0\0user\0a\0\0", 16},
	     "unsupported frontend protocol 1.0"},
		{{(const uint8_t *)"\0\0\0\x09\0\3\0\0\0", 9}, "no PostgreSQL user name"},
		{{(const uint8_t *)"\0\0\0\x10\0\3\0\0user\0a\0x", 16}, "expected terminator"},
		{{(const uint8_t *)"\0\0\0\x09\x04\xd2\x16\x2f\0", 9}, "invalid length"},
		{{(const uint8_t *)"\x16\x03\x01\0\5hello", 10}, "invalid length"}, /* TLS, and it is off */
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t len;
		char *text = answer_to(cases[i].bytes, &len);
		ck_assert_msg(len > 0 && memmem(text, len, cases[i].words, strlen(cases[i].words)) != NULL,
		              "case %zu: %.*s", i, (int)len, text + 5);
		free(text);
	}
	PQfinish(fixture_session());
	ck_assert_uint_eq(state_now().logins, 0);
}
END_TEST

/* Cut anywhere, then the end: closed, and nothing is kept. */
START_TEST(truncated_startup)
{
	static const char whole[] = "\0\0\0\x26\0\3\0\0user\0scram\0database\0postgres\0\0";

	for (size_t len = 0; len < sizeof(whole) - 1; len++) {
		int fd = fixture_raw();
		fixture_send(fd, whole, len);
		shutdown(fd, SHUT_WR);
		char byte;
		ck_assert_uint_eq(fixture_recv(fd, &byte, 1), 0);
		close(fd);
	}
	WAIT_FOR(state_now().logins == 0);
}
END_TEST

/* A login's messages: not a password, too long, in pieces of one byte. */
START_TEST(wrong_passwords_messages)
{
	static const char startup[] = "\0\0\0\x14\0\3\0\0user\0scram\0\0";
	static const struct {
		Slice bytes;
		const char *words;
	} cases[] = {
		{{(const uint8_t *)"Q\0\0\0\x0dSELECT 1\0", 14},
	     "expected password response, got message type 81"},
		{{(const uint8_t *)"p\0\0\0\3", 5}, "invalid message length"},
		{{(const uint8_t *)"p\0\1\0\0", 5}, "invalid message length"},
		{{(const uint8_t *)"p\xff\xff\xff\xff", 5}, "invalid message length"},
		{{(const uint8_t *)"p\0\0\0\x0cNO-SASL\0", 13}, "malformed SCRAM message"},
		{{(const uint8_t *)"p\0\0\0\x12NO-SCRAM\0\xff\xff\xff\xff\0", 19}, "invalid SASL"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[512] = "";
		int fd = fixture_raw();
		fixture_send(fd, startup, sizeof(startup) - 1);
		ck_assert_uint_eq(fixture_recv(fd, text, 24), 24);
		for (size_t k = 0; k < cases[i].bytes.len; k++)
			fixture_send(fd, cases[i].bytes.data + k, 1);
		size_t len = fixture_recv(fd, text, sizeof(text) - 1);
		ck_assert_msg(memmem(text, len, cases[i].words, strlen(cases[i].words)) != NULL,
		              "case %zu: %.*s", i, (int)len, text + 5);
		close(fd);
	}
}
END_TEST

/* After the login it is the server that judges: it closes, of a type that is none it says so. */
START_TEST(wrong_messages_in_a_session)
{
	static const Slice cases[] = {
		{(const uint8_t *)"Q\0\0\0\3", 5},
		{(const uint8_t *)"Q\xff\xff\xff\xff", 5},
		{(const uint8_t *)"~\0\0\0\4", 5},
		{(const uint8_t *)"S\0\0\x7f\xff", 5},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[512] = "";
		PGconn *conn = fixture_session();
		fixture_send(PQsocket(conn), cases[i].data, cases[i].len);
		size_t len = fixture_recv(PQsocket(conn), text, sizeof(text));
		ck_assert(cases[i].data[0] != '~' || memmem(text, len, "C08P01", 6) != NULL);
		PQfinish(conn);
	}
	WAIT_FOR(state_now().sessions == 0);
	PQfinish(fixture_session());
}
END_TEST

static char tls_dir[256];

static void
with_tls(ListenerOptions *options)
{
	static char cert[300], key[300];

	snprintf(cert, sizeof(cert), "%s/server.crt", tls_dir);
	snprintf(key, sizeof(key), "%s/server.key", tls_dir);
	options->tls = LISTEN_TLS_ALLOW;
	options->tls_cert = cert;
	options->tls_key = key;
}

/* CVE-2021-23214: what stands behind SSLRequest came before the encryption. */
START_TEST(bytes_behind_ssl_request)
{
	char *dir = scratch_dir_new("tls");
	char text[256] = "";
	size_t len;

	snprintf(tls_dir, sizeof(tls_dir), "%s", dir);
	tls_make_files(tls_dir);
	fixture_listen(with_tls);
	char *answer = answer_to(BYTES("\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x14\0\3\0\0user\0scram\0\0"),
	                         &len);
	ck_assert_ptr_nonnull(memmem(answer, len, "received unencrypted data", 25));
	free(answer);
	/* Plain bytes where the handshake should begin. */
	int fd = fixture_raw();
	fixture_send(fd, "\0\0\0\x08\x04\xd2\x16\x2f", 8);
	ck_assert_uint_eq(fixture_recv(fd, text, 1), 1);
	ck_assert_int_eq(text[0], 'S');
	fixture_send(fd, "\0\0\0\x14\0\3\0\0user\0scram\0\0", 20);
	fixture_recv(fd, text, sizeof(text)); /* an alert, perhaps, and the end */
	close(fd);
	/* GSS is refused with one byte, and the other encryption may be asked for then. */
	fd = fixture_raw();
	fixture_send(fd, "\0\0\0\x08\x04\xd2\x16\x30", 8);
	ck_assert(fixture_recv(fd, text, 1) == 1 && text[0] == 'N');
	fixture_send(fd, "\0\0\0\x08\x04\xd2\x16\x2f", 8);
	ck_assert(fixture_recv(fd, text, 1) == 1 && text[0] == 'S');
	close(fd);
	WAIT_FOR(state_now().logins == 0);
	fixture_unlisten();
	free(dir);
}
END_TEST

static void
impatient(ListenerOptions *options)
{
	options->login_timeout_ms = 1000;
}

START_TEST(slow_logins_end)
{
	char byte;

	fixture_listen(impatient);
	PGconn *session = fixture_session();
	int silent = fixture_raw(), begun = fixture_raw(), asked = fixture_raw();
	fixture_send(begun, "\0\0\0\x14\0", 5);
	fixture_send(asked, "\0\0\0\x14\0\3\0\0user\0scram\0\0", 20);
	ck_assert_uint_eq(fixture_recv(silent, &byte, 1), 0);
	ck_assert_uint_eq(fixture_recv(begun, &byte, 1), 0);
	while (fixture_recv(asked, &byte, 1) > 0)
		;
	WAIT_FOR(state_now().logins == 0);
	ck_assert_uint_eq(state_now().refused, 3);
	ck_assert_int_eq(db_int(session, "SELECT 1"), 1); /* whoever is in stays */
	PQfinish(session);
	close(silent);
	close(begun);
	close(asked);
	fixture_unlisten();
}
END_TEST

static void
small(ListenerOptions *options)
{
	options->max_clients = 20;
	options->threads = 1;
}

/* Thousands of connections that say nothing keep nobody out. */
START_TEST(half_open_connections)
{
	enum { MANY = 1000, OPEN = 200 };
	int fds[OPEN];

	fixture_listen(small);
	for (int i = 0; i < OPEN; i++)
		fds[i] = -1;
	for (int i = 0; i < MANY; i++) {
		if (fds[i % OPEN] >= 0)
			close(fds[i % OPEN]);
		fds[i % OPEN] = fixture_raw();
		if (i % 250 == 249) {
			PGconn *conn = fixture_session();
			ck_assert_int_eq(db_int(conn, "SELECT 1"), 1);
			PQfinish(conn);
		}
	}
	ck_assert_uint_le(state_now().logins, 21);
	for (int i = 0; i < OPEN; i++)
		close(fds[i]);
	fixture_unlisten();
}
END_TEST

START_TEST(too_many_clients)
{
	PGconn *conns[20];

	fixture_listen(small);
	for (int i = 0; i < 20; i++)
		conns[i] = fixture_session();
	PGconn *more = fixture_client("user=scram password=secret");
	ck_assert_int_eq(PQstatus(more), CONNECTION_BAD);
	ck_assert_msg(strstr(PQerrorMessage(more), "too many clients") != NULL, "%s",
	              PQerrorMessage(more));
	PQfinish(more);
	PQfinish(conns[0]);
	WAIT_FOR(state_now().sessions == 19);
	conns[0] = fixture_session();
	for (int i = 0; i < 20; i++)
		PQfinish(conns[i]);
	fixture_unlisten();
}
END_TEST

/* It asks for gigabytes and reads none of it: its server waits, others do not, and memory is
 * not used for it. */
START_TEST(client_that_never_reads)
{
	static const char query[] = "SELECT repeat('x', 1000000) FROM generate_series(1, 2000)";
	PGconn *admin = fixture_admin();
	PGconn *deaf = fixture_session(), *other = fixture_session();
	uint32_t length = htobe32(sizeof(query) + 4);

	fixture_send(PQsocket(deaf), "Q", 1);
	fixture_send(PQsocket(deaf), &length, 4);
	fixture_send(PQsocket(deaf), query, sizeof(query));
	char *stuck = mem_printf(
		"SELECT wait_event = 'ClientWrite' FROM pg_stat_activity WHERE pid = %d",
		PQbackendPID(deaf));
	db_wait_until(admin, stuck, 30);
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(db_int(other, "SELECT %d", i), i);
	db_wait_until(admin, stuck, 30);
	/* It can be cancelled, and it can go. */
	char text[256] = "";
	PGcancel *cancel = PQgetCancel(deaf);
	ck_assert_int_eq(PQcancel(cancel, text, sizeof(text)), 1);
	PQfreeCancel(cancel);
	PQfinish(deaf);
	WAIT_FOR(state_now().sessions == 1);
	PQfinish(other);
	PQfinish(admin);
	free(stuck);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("listener_abuse");
	TCase *plain = tcase_create("listener_abuse");
	TCase *special = tcase_create("listener_limits");

	tcase_add_unchecked_fixture(plain, fixture_server_start, fixture_server_stop);
	tcase_add_checked_fixture(plain, listen_plain, fixture_unlisten);
	tcase_add_test(plain, wrong_first_packets);
	tcase_add_test(plain, truncated_startup);
	tcase_add_test(plain, wrong_passwords_messages);
	tcase_add_test(plain, wrong_messages_in_a_session);
	tcase_add_test(plain, client_that_never_reads);
	suite_add_tcase(suite, plain);
	tcase_add_unchecked_fixture(special, fixture_server_start, fixture_server_stop);
	tcase_add_test(special, bytes_behind_ssl_request);
	tcase_add_test(special, slow_logins_end);
	tcase_add_test(special, half_open_connections);
	tcase_add_test(special, too_many_clients);
	suite_add_tcase(suite, special);
	return suite;
}

TEST_SUITE(make)
