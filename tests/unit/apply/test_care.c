/* Care for the source: the copy's throttle, its standbys' lag, the slot's danger. */
#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "apply/care/standbys.h"
#include "apply/care/throttle.h"
#include "apply/setup/source.h"
#include "common/clock.h"
#include "tests/unit/runner.h"

/* ---- throttle ---- */

enum { TAKERS = 4, TAKES = 20, CHUNK = 10000 };

typedef struct {
	Throttle *throttle;
	const Stop *stop;
	int takes;
	pthread_t thread;
	atomic_bool done;
	bool ok;
	Error err;
} Taker;

static void *
taker_main(void *arg)
{
	Taker *taker = arg;

	taker->ok = true;
	for (int i = 0; i < taker->takes && taker->ok; i++)
		taker->ok = throttle_take(taker->throttle, CHUNK, taker->stop, &taker->err);
	atomic_store(&taker->done, true);
	return NULL;
}

static void
taker_start(Taker *taker, Throttle *throttle, const Stop *stop, int takes)
{
	*taker = (Taker){.throttle = throttle, .stop = stop, .takes = takes};
	ck_assert_int_eq(pthread_create(&taker->thread, NULL, taker_main, taker), 0);
}

/* Never faster than the rate, however many there are; a slow machine is only slower. */
START_TEST(the_rate_is_of_all_together)
{
	enum { RATE = 2000000 };
	Throttle *throttle = throttle_new();
	Taker takers[TAKERS];

	throttle_set_rate(throttle, RATE);
	int64_t began_us = clock_mono_us();
	for (int i = 0; i < TAKERS; i++)
		taker_start(&takers[i], throttle, NULL, TAKES);
	for (int i = 0; i < TAKERS; i++) {
		pthread_join(takers[i].thread, NULL);
		ck_assert(takers[i].ok);
	}
	double took = (double)(clock_mono_us() - began_us) / 1e6;
	/* Each of them may have taken one run ahead, and the bucket held a burst. */
	double passed = (double)TAKERS * TAKES * CHUNK - (double)TAKERS * CHUNK - RATE * 0.1;
	ck_assert_msg(took >= passed / RATE, "%.0f bytes in %.3f s", passed, took);
	throttle_free(throttle);
}
END_TEST

static void
wait_for_waits(Throttle *throttle, uint64_t waits)
{
	ThrottleState state;

	do {
		sched_yield();
		throttle_state(throttle, &state);
	} while (state.waits < waits);
}

START_TEST(a_hold_lets_nobody_through)
{
	Throttle *throttle = throttle_new();
	ThrottleState state;
	Taker taker;

	throttle_hold(throttle, "a standby is far behind");
	throttle_state(throttle, &state);
	ck_assert_str_eq(state.held, "a standby is far behind");
	taker_start(&taker, throttle, NULL, 1);
	wait_for_waits(throttle, 1);
	ck_assert(!atomic_load(&taker.done));
	throttle_hold(throttle, NULL);
	pthread_join(taker.thread, NULL);
	ck_assert(taker.ok);
	throttle_state(throttle, &state);
	ck_assert_str_eq(state.held, "");
	throttle_free(throttle);
}
END_TEST

/* A worker that pays for a large run at a low rate does not notice a new one too late. */
START_TEST(a_new_rate_ends_an_old_wait)
{
	Throttle *throttle = throttle_new();
	Error err = ERROR_INIT;
	Taker taker;

	throttle_set_rate(throttle, 1);
	ck_assert(throttle_take(throttle, UINT64_C(1) << 40, NULL, &err)); /* 34,865 years ahead */
	taker_start(&taker, throttle, NULL, 1);
	wait_for_waits(throttle, 1);
	ck_assert(!atomic_load(&taker.done));
	throttle_set_rate(throttle, 0);
	pthread_join(taker.thread, NULL);
	ck_assert(taker.ok);
	throttle_free(throttle);
}
END_TEST

START_TEST(a_stop_ends_a_wait)
{
	Throttle *throttle = throttle_new();
	Stop *stop = stop_new();
	Taker taker;

	throttle_hold(throttle, "held");
	taker_start(&taker, throttle, stop, 1);
	wait_for_waits(throttle, 1);
	stop_request(stop);
	pthread_join(taker.thread, NULL);
	ck_assert(!taker.ok);
	ck_assert_int_eq(taker.err.class, ERROR_CANCELLED);
	ck_assert(throttle_take(NULL, 1, NULL, &taker.err)); /* none: nobody waits */
	stop_free(stop);
	throttle_free(throttle);
}
END_TEST

/* ---- standbys ---- */

START_TEST(standbys_have_a_limit)
{
	static const struct {
		Standbys standbys;
		LagLimit limit;
		bool held;
		bool hold;
	} cases[] = {
		{{.count = 1, .seconds = 1e6, .bytes = 1 << 30}, {0, 0}, false, false},
		{{.count = 1, .seconds = 30}, {30000, 0}, false, false},
		{{.count = 1, .seconds = 30.1}, {30000, 0}, false, true},
		{{.count = 1, .seconds = 15.1}, {30000, 0}, true, true},
		{{.count = 1, .seconds = 15}, {30000, 0}, true, false},
		{{.count = 1, .bytes = 1000}, {0, 1000}, false, false},
		{{.count = 1, .bytes = 1001}, {0, 1000}, false, true},
		{{.count = 1, .bytes = 501}, {0, 1000}, true, true},
		{{.count = 1, .bytes = 500}, {0, 1000}, true, false},
		{{.count = 0}, {1, 1}, true, false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char reason[200] = "";
		bool hold = standbys_too_far(&cases[i].standbys, &cases[i].limit, cases[i].held, reason,
		                             sizeof(reason));
		ck_assert_msg(hold == cases[i].hold, "case %zu", i);
		ck_assert_msg(hold == (strstr(reason, "behind") != NULL), "case %zu: %s", i, reason);
	}
}
END_TEST

/* ---- the slot ---- */

START_TEST(a_slot_in_danger_is_told)
{
	static const struct {
		SlotHealth slot;
		const char *part; /* NULL: no warning */
	} cases[] = {
		{{.exists = false, .kept_bytes = 100, .safe_bytes = 0}, NULL},
		{{.exists = true, .kept_bytes = 1 << 30, .safe_bytes = -1}, NULL},
		{{.exists = true, .wal_status = "reserved", .kept_bytes = 75, .safe_bytes = 25}, NULL},
		{{.exists = true, .wal_status = "extended", .kept_bytes = 76, .safe_bytes = 24},
	     "24 bytes from"},
		{{.exists = true, .wal_status = "extended", .kept_bytes = 100, .safe_bytes = 0},
	     "0 bytes from"},
		{{.exists = true, .wal_status = "unreserved", .kept_bytes = 100, .safe_bytes = -1},
	     "next checkpoint"},
		{{.exists = true, .lost = true, .wal_status = "lost", .kept_bytes = 9, .safe_bytes = 0},
	     NULL},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[256] = "";
		bool warned = source_slot_warning(&cases[i].slot, "source", text, sizeof(text));
		ck_assert_msg(warned == (cases[i].part != NULL), "case %zu", i);
		ck_assert_msg(!warned || strstr(text, cases[i].part) != NULL, "case %zu: %s", i, text);
		ck_assert_msg(!warned || strstr(text, "source") != NULL, "case %zu: %s", i, text);
	}
}
END_TEST

/* More than a segment to read, or what was confirmed already; told from some seconds on. */
START_TEST(a_source_that_only_reads_is_told)
{
	static const struct {
		SlotHealth slot;
		bool reads;
		const char *part; /* after 20 s; NULL: nothing */
	} cases[] = {
		{{.exists = true, .active = true, .confirmed = {90}, .read = {100}}, false, NULL},
		{{.exists = true,
	      .active = true,
	      .confirmed = {90},
	      .read = {100},
	      .unread_bytes = 16 << 20,
	      .reading_s = 9},
	     false,
	     NULL},
		{{.exists = true,
	      .active = true,
	      .confirmed = {90},
	      .read = {100},
	      .unread_bytes = (16 << 20) + 1,
	      .reading_s = 20},
	     true,
	     "no change for 20 s: it decodes WAL at 0/64, 16777217 bytes before its end; changes"},
		{{.exists = true, .active = true, .confirmed = {90}, .read = {80}, .reading_s = 21},
	     true,
	     "once more"},
		{{.exists = true, .active = true, .confirmed = {90}, .read = {80}}, true, NULL},
		{{.exists = true, .confirmed = {90}, .unread_bytes = 1 << 30}, false, NULL},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[256] = "";
		bool told = source_slot_reading(&cases[i].slot, 20, "source", text, sizeof(text));
		ck_assert_msg(source_slot_has_to_read(&cases[i].slot) == cases[i].reads, "case %zu", i);
		ck_assert_msg(told == (cases[i].part != NULL), "case %zu", i);
		ck_assert_msg(!told || strstr(text, cases[i].part) != NULL, "case %zu: %s", i, text);
	}
}
END_TEST

static Suite *
make_care(void)
{
	Suite *suite = suite_create("care");
	TCase *tc = tcase_create("care");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, the_rate_is_of_all_together);
	tcase_add_test(tc, a_hold_lets_nobody_through);
	tcase_add_test(tc, a_new_rate_ends_an_old_wait);
	tcase_add_test(tc, a_stop_ends_a_wait);
	tcase_add_test(tc, standbys_have_a_limit);
	tcase_add_test(tc, a_slot_in_danger_is_told);
	tcase_add_test(tc, a_source_that_only_reads_is_told);
	suite_add_tcase(suite, tc);
	return suite;
}

TEST_SUITE(make_care)
