#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "decoder/receiver/internal.h"
#include "tests/unit/runner.h"

enum { SECOND_US = 1000000 };

/* Two ends of a TCP connection over loopback. */
static void
connect_pair(int ends[2])
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	int on = 1;

	int listener = socket(AF_INET, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, len), 0);
	ck_assert_int_eq(listen(listener, 1), 0);
	ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &len), 0);
	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	ck_assert_int_eq(connect(ends[0], (struct sockaddr *)&address, len), 0);
	ends[1] = accept(listener, NULL, NULL);
	ck_assert_int_ge(ends[1], 0);
	ck_assert_int_eq(setsockopt(ends[1], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), 0);
	close(listener);
}

static bool
wakes(int socket, int timeout_ms)
{
	struct pollfd fd = {.fd = socket, .events = POLLIN};
	return poll(&fd, 1, timeout_ms) == 1;
}

static int
low_water(int socket)
{
	int bytes = 0;
	socklen_t len = sizeof(bytes);

	ck_assert_int_eq(getsockopt(socket, SOL_SOCKET, SO_RCVLOWAT, &bytes, &len), 0);
	return bytes;
}

START_TEST(what_is_behind_comes_in_large_pieces)
{
	Backlog backlog = {0};
	int ends[2];
	char *much = calloc(1, 512 * 1024);

	connect_pair(ends);
	backlog_begin(&backlog, 0, SECOND_US);
	backlog_turn(&backlog, ends[0], true);
	ck_assert_int_gt(low_water(ends[0]), 1);
	ck_assert_int_lt(backlog_wait_ms(&backlog, 10000), 10000);
	ck_assert_int_eq(backlog_wait_ms(&backlog, 1), 1);
	/* A packet does not wake us, a piece of what was asked for does. */
	ck_assert_int_eq(write(ends[1], much, 100), 100);
	ck_assert(!wakes(ends[0], 0));
	for (int left = low_water(ends[0]); left > 0;) {
		ssize_t n = write(ends[1], much, (size_t)left);
		ck_assert_int_gt(n, 0);
		left -= (int)n;
	}
	ck_assert(wakes(ends[0], -1));
	close(ends[0]);
	close(ends[1]);
	free(much);
}
END_TEST

START_TEST(who_is_later_waits_longer)
{
	Backlog backlog = {0};
	int ends[2];

	connect_pair(ends);
	backlog_begin(&backlog, 0, SECOND_US / 5);
	backlog_turn(&backlog, ends[0], true);
	int64_t wait_ms = backlog_wait_ms(&backlog, 10000);
	ck_assert_int_le(wait_ms, 200 / 8); /* nothing beside what it is late already */
	backlog_begin(&backlog, 0, 3600 * (int64_t)SECOND_US);
	ck_assert_int_gt(backlog_wait_ms(&backlog, 10000), wait_ms);
	ck_assert_int_lt(backlog_wait_ms(&backlog, 10000), 100);
	close(ends[0]);
	close(ends[1]);
}
END_TEST

START_TEST(its_end_is_taken_without_a_piece)
{
	Backlog backlog = {0};
	int ends[2];

	connect_pair(ends);
	backlog_begin(&backlog, 0, SECOND_US);
	backlog_turn(&backlog, ends[0], true);
	/* The next transaction is not late any more, but what it left is read by the timer. */
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	ck_assert_int_lt(backlog_wait_ms(&backlog, 10000), 10000);
	backlog_turn(&backlog, ends[0], false);
	ck_assert_int_eq(low_water(ends[0]), 1);
	ck_assert(wakes(ends[0], -1));
	ck_assert_int_lt(backlog_wait_ms(&backlog, 10000), 10000); /* once more, for old kernels */
	backlog_turn(&backlog, ends[0], true);
	ck_assert_int_eq(backlog_wait_ms(&backlog, 10000), 10000);
	close(ends[0]);
	close(ends[1]);
}
END_TEST

START_TEST(what_comes_at_once_wakes_at_once)
{
	Backlog backlog = {0};
	int ends[2];

	connect_pair(ends);
	backlog_begin(&backlog, SECOND_US, SECOND_US + 1000);
	backlog_turn(&backlog, ends[0], true);
	ck_assert_int_eq(low_water(ends[0]), 1);
	ck_assert_int_eq(backlog_wait_ms(&backlog, 10000), 10000);
	/* A backlog ends with the first transaction that is not late. */
	backlog_begin(&backlog, 0, SECOND_US);
	backlog_turn(&backlog, ends[0], true);
	backlog_begin(&backlog, SECOND_US, SECOND_US + 1000);
	backlog_turn(&backlog, ends[0], true);
	ck_assert_int_eq(low_water(ends[0]), 1);
	/* No socket at all: nothing is waited for in vain. */
	backlog_begin(&backlog, 0, SECOND_US);
	backlog_turn(&backlog, -1, true);
	ck_assert_int_eq(backlog_wait_ms(&backlog, 10000), 10000);
	close(ends[0]);
	close(ends[1]);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("receiver backlog");
	TCase *tcase = tcase_create("backlog");
	tcase_add_test(tcase, what_is_behind_comes_in_large_pieces);
	tcase_add_test(tcase, its_end_is_taken_without_a_piece);
	tcase_add_test(tcase, who_is_later_waits_longer);
	tcase_add_test(tcase, what_comes_at_once_wakes_at_once);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
