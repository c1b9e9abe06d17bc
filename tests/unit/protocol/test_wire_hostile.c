/* A server that is none: what it sends first decides how we fail. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/protocol/wire_fixture.h"

#define SCRIPT(text) text, sizeof(text) - 1

typedef struct {
	const char *mode; /* sslmode */
	const char *script;
	size_t length;
	ErrorClass class;
	const char *word; /* in the error, or its SQLSTATE */
} Case;

/* Answers each connection's first bytes with the script and waits for its end. */
static pid_t
fake_server(const Case *c, int *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, length), 0);
	ck_assert_int_eq(listen(fd, 5), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	*port = ntohs(address.sin_port);
	pid_t pid = fork();
	if (pid == 0) {
		char room[4096];
		for (;;) {
			int client = accept(fd, NULL, NULL);
			if (client < 0 || read(client, room, sizeof(room)) < 0 ||
			    write(client, c->script, c->length) < 0)
				_exit(1);
			shutdown(client, SHUT_WR);
			while (read(client, room, sizeof(room)) > 0)
				;
			close(client);
		}
	}
	close(fd);
	return pid;
}

static const Case cases[] = {
	/* Bytes stuffed behind the answer to SSLRequest are never the session's:
	 * they reach the handshake, which refuses them. */
	{"require", SCRIPT("SR\0\0\0\x08\0\0\0\0Z\0\0\0\5I"), ERROR_NETWORK, "TLS"},
	{"require", SCRIPT("N"), ERROR_AUTH, "does not support TLS"},
	{"require", SCRIPT("E\0\0\0\x20Mgive me your money\0\0"), ERROR_NETWORK, "did not answer"},
	{"require", SCRIPT(""), ERROR_NETWORK, "closed"},
	{"disable", SCRIPT(""), ERROR_NETWORK, "closed"},
	{"disable", SCRIPT("HTTP/1.1 400 Bad Request\r\n\r\n"), ERROR_PROTOCOL, "length"},
	{"disable", SCRIPT("R\x7f\xff\xff\xff"), ERROR_PROTOCOL, "length"},
	{"disable", SCRIPT("R\0\0\0\x08\0\0\0\0R\0\0\0\x08\0\0\0\0"), ERROR_PROTOCOL, "'R'"},
	{"disable", SCRIPT("Z\0\0\0\5I"), ERROR_PROTOCOL, "'Z'"},
	{"disable", SCRIPT("K\0\0\0\x0c\0\0\0\1\0\0\0\2"), ERROR_PROTOCOL, "'K'"},
	{"disable", SCRIPT("D\0\0\0\x06\0\0"), ERROR_PROTOCOL, "type"},
	{"disable", SCRIPT("v\0\0\0\x0c\0\2\0\0\0\0\0\0"), ERROR_PROTOCOL, "2.0"},
	{"disable", SCRIPT("R\0\0\0\x08\0\0\0\7"), ERROR_AUTH, "GSS"},
	{"disable", SCRIPT("R\0\0\0\x08\0\0\0\x09"), ERROR_AUTH, "SSPI"},
	{"disable", SCRIPT("R\0\0\0\x08\0\0\0\2"), ERROR_AUTH, "Kerberos"},
	{"disable", SCRIPT("R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0R\0\0\0\x08\0\0\0\0"), ERROR_AUTH,
     "without proving"},
	{"disable", SCRIPT("E\0\0\0\x24SFATAL\0VFATAL\0C57P03\0Mstarting\0\0"), ERROR_SQL, "57P03"},
	{"disable", SCRIPT("E\0\0\0\x24SFATAL\0VFATAL\0C53300\0Mtoo many\0\0"), ERROR_SQL, "53300"},
	{"disable", SCRIPT("E\0\0\0\x24SFATAL\0VFATAL\0C28000\0Mnot you.\0\0"), ERROR_AUTH, "28000"},
	{"disable", SCRIPT("E\0\0\0\x08XXXX"), ERROR_PROTOCOL, "malformed"},
};

START_TEST(hostile)
{
	const Case *c = &cases[_i];
	Error err = ERROR_INIT;
	int port;
	pid_t pid = fake_server(c, &port);

	fixture_refused(c->class, &err,
	                "host=127.0.0.1 port=%d user=u dbname=d password=hunter2 "
	                "sslmode=%s connect_timeout=20",
	                port, c->mode);
	ck_assert_msg(strstr(fixture_text(&err), c->word) != NULL, "%s", fixture_text(&err));
	ck_assert_ptr_null(strstr(fixture_text(&err), "money"));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}
END_TEST

static Suite *
wire_hostile_suite(void)
{
	Suite *suite = suite_create("protocol/wire hostile");
	TCase *tcase = tcase_create("hostile");

	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, hostile, 0, (int)(sizeof(cases) / sizeof(cases[0])));
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(wire_hostile_suite)
