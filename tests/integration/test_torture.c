/*
 * pgbaton is killed (kill -9) at random moments while it prepares, copies, catches
 * up, follows and cuts over, and started again, under a writer that keeps book of
 * what it was told. At the end nothing is lost and nothing is there twice; and
 * whenever it has not switched, the application can write.
 *
 * KILLS=1000 (make torture) for longer; 30 without. PGBATON_SEED repeats the choices,
 * not the moments.
 */
#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/harness/db.h"
#include "tests/integration/move.h"
#include "tests/unit/runner.h"

enum { DEFAULT_KILLS = 30, KILLS_A_MOVE = 6, STATE_WITHIN_S = 90, ALIVE_COMMITS = 10 };

typedef struct {
	Move m;
	uint64_t random;
	int killed[8]; /* by the state in which it was, for the summary */
} Torture;

static const char *const phases[] = {"start",     "preparing",    "copying", "catching_up",
                                     "following", "cutting_over", "switched"};

/* The random part of the moment; everything else waits for conditions. */
static void
some_ms(Torture *t, uint64_t below)
{
	poll(NULL, 0, (int)random_below(&t->random, below));
}

static void
kill_and_resume(Torture *t, int phase)
{
	ck_assert_msg(!pgbaton_ended(t->m.p), "ended by itself:\n%s", pgbaton_log(t->m.p));
	pgbaton_stop(t->m.p, SIGKILL);
	t->killed[phase]++;
	pgbaton_again(t->m.p);
}

/* Reaches it, or finds the process ended, or is late: whatever comes first. */
static void
reach(Torture *t, const char *state)
{
	pgbaton_wait_state(t->m.p, state, STATE_WITHIN_S);
}

static void
kill_in_phase(Torture *t)
{
	int phase = (int)random_below(&t->random, 5);

	if (phase > 0)
		reach(t, phases[phase]);
	/* A start takes a few 100 ms until the copy; a batch is a matter of a few ms. */
	some_ms(t, phase == 0 ? 600 : phase == 4 ? 300 : 100);
	kill_and_resume(t, phase);
}

/* True when the switch had happened before the kill. */
static bool
kill_in_cutover(Torture *t)
{
	reach(t, "following");
	Process *cutover = pgbaton_cli_start(t->m.p, "cutover", "--hold-timeout", "10", NULL);
	while (!pgbaton_reached(t->m.p, "cutting_over") && !process_ended(cutover))
		poll(NULL, 0, 1);
	some_ms(t, 120);
	kill_and_resume(t, 5);
	process_free(cutover);
	reach(t, "following");
	return pgbaton_reached(t->m.p, "switched");
}

/* Not switched means that the source is the application's. */
static void
check_alive(Torture *t)
{
	workload_wait_commits(t->m.writer, ALIVE_COMMITS, 60);
}

static void
one_move(Torture *t, int kills)
{
	bool switched = false;

	move_open(&t->m, &(MoveOptions){.sessions = 3, .per_second = 60});
	workload_wait_commits(t->m.writer, 10, 30);
	move_run(&t->m);
	for (int i = 0; i < kills && !switched; i++) {
		if (i >= kills / 2 && random_below(&t->random, 2) == 0)
			switched = kill_in_cutover(t);
		else
			kill_in_phase(t);
		if (!switched)
			check_alive(t);
	}
	if (!switched) {
		reach(t, "following");
		check_alive(t);
		move_cutover(&t->m);
	}
	/* What has switched stays switched. */
	some_ms(t, 50);
	kill_and_resume(t, 6);
	reach(t, "switched");
	move_check(&t->m);
	move_close(&t->m);
}

START_TEST(killed_at_random)
{
	const char *wanted = getenv("KILLS");
	int left = wanted != NULL && wanted[0] != '\0' ? atoi(wanted) : DEFAULT_KILLS;
	Torture t = {.random = workload_seed()};

	while (left > 0) {
		int before = 0;
		int after = 0;
		for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++)
			before += t.killed[i];
		one_move(&t, left < KILLS_A_MOVE ? left : KILLS_A_MOVE);
		for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++)
			after += t.killed[i];
		left -= after - before;
	}
	for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++)
		printf("  killed %d times: %s\n", t.killed[i], phases[i]);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("torture");
	TCase *tcase = tcase_create("kill");

	tcase_add_test(tcase, killed_at_random);
	tcase_set_timeout(tcase, getenv("KILLS") != NULL ? 86400 : 600);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make)
