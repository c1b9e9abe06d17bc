/* common/stop.c and common/clock.c; also run with SAN=thread. */
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/stop.h"
#include "tests/unit/runner.h"

START_TEST(ready_descriptor)
{
	Stop *stop = stop_new();
	Error err = ERROR_INIT;
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	ck_assert(stop_wait_fd(stop, fds[1], POLLOUT, 0, &err));
	ck_assert(stop_wait_fd(NULL, fds[1], POLLOUT, 0, &err));
	ck_assert(!stop_wait_fd(stop, fds[0], POLLIN, deadline_in_ms(20), &err));
	ck_assert_int_eq(err.class, ERROR_TIMEOUT);
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	ck_assert(stop_wait_fd(stop, fds[0], POLLIN, 0, &err));
	close(fds[1]);
	close(fds[0]);
	stop_free(stop);
	stop_free(NULL);
}
END_TEST

/* A peer that has gone away is an event too: the read that follows says so. */
START_TEST(hang_up_counts_as_ready)
{
	Error err = ERROR_INIT;
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	close(fds[1]);
	ck_assert(stop_wait_fd(NULL, fds[0], POLLIN, deadline_in_ms(10000), &err));
	close(fds[0]);
}
END_TEST

START_TEST(requested_stays_requested)
{
	Stop *stop = stop_new();
	Error err = ERROR_INIT;

	ck_assert(!stop_requested(stop));
	ck_assert(!stop_requested(NULL));
	ck_assert_int_eq(stop_fd(NULL), -1);
	for (int i = 0; i < 3; i++) {
		stop_request(stop);
		ck_assert(stop_requested(stop));
		ck_assert(!stop_wait_fd(stop, -1, 0, 0, &err));
		ck_assert_int_eq(err.class, ERROR_CANCELLED);
		ck_assert(!stop_sleep_ms(stop, 60000, &err));
		ck_assert_int_eq(err.class, ERROR_CANCELLED);
		ck_assert(!stop_sleep_ms(stop, 60000, NULL));
	}
	struct pollfd fd = {.fd = stop_fd(stop), .events = POLLIN};
	ck_assert_int_eq(poll(&fd, 1, 0), 1);
	stop_free(stop);
}
END_TEST

START_TEST(sleep_sleeps)
{
	Stop *stop = stop_new();
	Error err = ERROR_INIT;

	int64_t before = clock_mono_ms();
	ck_assert(stop_sleep_ms(stop, 30, &err));
	ck_assert_int_ge(clock_mono_ms() - before, 29);
	ck_assert_int_eq(err.class, ERROR_NONE);
	ck_assert(stop_sleep_ms(NULL, 1, NULL));
	ck_assert(stop_sleep_ms(stop, 0, &err));
	ck_assert(stop_sleep_ms(stop, -5, &err));
	stop_free(stop);
}
END_TEST

static void *
sleep_long(void *arg)
{
	Error err = ERROR_INIT;

	if (stop_sleep_ms(arg, 600000, &err))
		return NULL;
	return err.class == ERROR_CANCELLED ? arg : NULL;
}

START_TEST(request_wakes_every_thread)
{
	Stop *stop = stop_new();
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, sleep_long, stop);
	stop_request(stop);
	for (int i = 0; i < 4; i++) {
		void *result;
		pthread_join(threads[i], &result);
		ck_assert_ptr_eq(result, stop);
	}
	stop_free(stop);
}
END_TEST

static Stop *stop_of_handler;

static void
on_signal(int sig UNUSED)
{
	stop_request(stop_of_handler);
}

START_TEST(request_from_a_signal_handler)
{
	Error err = ERROR_INIT;

	stop_of_handler = stop_new();
	signal(SIGALRM, on_signal);
	ualarm(20000, 0);
	ck_assert(!stop_sleep_ms(stop_of_handler, 600000, &err));
	ck_assert_int_eq(err.class, ERROR_CANCELLED);
	signal(SIGALRM, SIG_DFL);
	stop_free(stop_of_handler);
}
END_TEST

START_TEST(deadlines)
{
	ck_assert_int_eq(deadline_left_ms(0), INT_MAX);
	ck_assert_int_eq(deadline_left_ms(1), 0);
	int left = deadline_left_ms(deadline_in_ms(60000));
	ck_assert_int_gt(left, 50000);
	ck_assert_int_le(left, 60000);
	ck_assert_int_eq(deadline_left_ms(deadline_in_ms(INT64_C(1) << 40)), INT_MAX);
	ck_assert_int_eq(deadline_left_ms(deadline_in_ms(-5)), 0);
}
END_TEST

START_TEST(clocks_and_jitter)
{
	int64_t mono = clock_mono_us();
	ck_assert_int_ge(clock_mono_us(), mono);
	/* 2000-01-01 is 30 years and 7 leap days after 1970-01-01. */
	ck_assert_int_eq(CLOCK_PG_EPOCH_US, INT64_C(1000000) * 86400 * (30 * 365 + 7));
	int64_t apart = clock_wall_us() - clock_pg_us() - CLOCK_PG_EPOCH_US;
	ck_assert_int_le(apart, 0);
	ck_assert_int_gt(apart, -60000000);

	int64_t low = INT64_MAX;
	int64_t high = 0;
	for (int i = 0; i < 10000; i++) {
		int64_t ms = clock_jitter_ms(1000);
		ck_assert_int_ge(ms, 500);
		ck_assert_int_lt(ms, 1500);
		low = ms < low ? ms : low;
		high = ms > high ? ms : high;
	}
	/* It uses its range, or retries would march in step. */
	ck_assert_int_lt(low, 600);
	ck_assert_int_gt(high, 1400);
}
END_TEST

static Suite *
make_stop(void)
{
	Suite *suite = suite_create("stop");
	TCase *stop = tcase_create("stop");
	TCase *clock = tcase_create("clock");

	tcase_add_test(stop, ready_descriptor);
	tcase_add_test(stop, hang_up_counts_as_ready);
	tcase_add_test(stop, requested_stays_requested);
	tcase_add_test(stop, sleep_sleeps);
	tcase_add_test(stop, request_wakes_every_thread);
	tcase_add_test(stop, request_from_a_signal_handler);
	suite_add_tcase(suite, stop);
	tcase_add_test(clock, deadlines);
	tcase_add_test(clock, clocks_and_jitter);
	suite_add_tcase(suite, clock);
	return suite;
}
TEST_SUITE(make_stop)
