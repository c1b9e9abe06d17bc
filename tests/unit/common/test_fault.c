/*
 * common/fault.c. In a normal build a fault point must be nothing; with
 * `make TEST=1 unit-common` the points themselves are tested.
 */
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fault.h"
#include "tests/unit/runner.h"

/* A child that passes a, b, b, b with this choice; its status from waitpid. */
static int
pass_points(const char *choice)
{
	int status = 0;

	pid_t pid = fork();
	if (pid == 0) {
		setenv("PGBATON_FAULT", choice, 1);
		FAULT_POINT("a");
		for (int i = 0; i < 3; i++)
			FAULT_POINT("b");
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	if (WIFSTOPPED(status)) {
		int end;
		kill(pid, SIGCONT);
		ck_assert_int_eq(waitpid(pid, &end, 0), pid);
		ck_assert(WIFEXITED(end) && WEXITSTATUS(end) == 0);
	}
	return status;
}

#ifdef PGBATON_FAULTS

static bool
killed(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

START_TEST(chosen_point_and_passing)
{
	ck_assert(killed(pass_points("a")));
	ck_assert(killed(pass_points("b")));
	ck_assert(killed(pass_points("b:3")));
	ck_assert(!killed(pass_points("b:4")));
	ck_assert(!killed(pass_points("a:2")));
	ck_assert(!killed(pass_points("ab")));
	ck_assert(!killed(pass_points("")));
	ck_assert(WIFSTOPPED(pass_points("b:2:stop")));
}
END_TEST

static void *
pass_b(void *passed)
{
	FAULT_POINT("b");
	sem_post(passed);
	return NULL;
}

/* Of two threads that pass, one goes no further; the process does. */
START_TEST(a_thread_hangs)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		sem_t passed;
		pthread_t threads[2];
		setenv("PGBATON_FAULT", "b:1:hang", 1);
		sem_init(&passed, 0, 0);
		/* Detached: nobody can join the one that hangs, nor say which it is. */
		for (int i = 0; i < 2; i++)
			if (pthread_create(&threads[i], NULL, pass_b, &passed) != 0 ||
			    pthread_detach(threads[i]) != 0)
				_exit(2);
		sem_wait(&passed);
		_exit(sem_trywait(&passed) == 0 ? 1 : 0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
END_TEST

#else

START_TEST(points_are_nothing)
{
	ck_assert_int_eq(pass_points("a"), 0);
	ck_assert_int_eq(pass_points("b:2:stop"), 0);
}
END_TEST

#endif

static Suite *
make_fault(void)
{
	Suite *suite = suite_create("fault");
	TCase *tcase = tcase_create("fault");

#ifdef PGBATON_FAULTS
	tcase_add_test(tcase, chosen_point_and_passing);
	tcase_add_test(tcase, a_thread_hangs);
#else
	tcase_add_test(tcase, points_are_nothing);
#endif
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make_fault)
