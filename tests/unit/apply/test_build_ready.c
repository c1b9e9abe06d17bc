/*
 * The tasks that can be taken: against a model that looks at all of them.
 */
#include <check.h>
#include <stdlib.h>

#include "apply/schema/build_plan.h"
#include "common/memory.h"
#include "tests/unit/runner.h"

enum { TASKS = 400 };

static const Item key = {.key = true};
static const Item other = {.key = false};

/* A key before an index, the larger first, else the first in the plan. */
static BuildTask *
model_best(BuildTask *tasks)
{
	BuildTask *best = NULL;

	for (int i = 0; i < TASKS; i++) {
		BuildTask *task = &tasks[i];
		if (task->state != TASK_READY)
			continue;
		bool task_key = task->item == &key;
		bool best_key = best != NULL && best->item == &key;
		if (best == NULL || (task_key && !best_key) ||
		    (task_key == best_key && task->bytes > best->bytes))
			best = task;
	}
	return best;
}

static void
compare_take(Build *build, BuildTask *tasks)
{
	BuildTask *expected = model_best(tasks);
	size_t left = build->ready_count - (expected != NULL);
	size_t ready = 0;
	BuildTask *task = build_take(build, &ready);

	ck_assert_ptr_eq(task, expected);
	ck_assert_uint_eq(ready, left);
	if (task != NULL)
		ck_assert_int_eq(task->state, TASK_RUNS);
}

START_TEST(the_best_is_taken)
{
	BuildTask *tasks = mem_zalloc(sizeof(BuildTask) * TASKS);
	Build build = {.ready = mem_zalloc(sizeof(BuildTask *) * TASKS)};
	int added = 0;

	srandom((unsigned)_i);
	for (int i = 0; i < TASKS; i++) {
		long kind = random() % 5;
		tasks[i].item = kind == 0 ? &key : kind == 1 ? NULL : &other;
		tasks[i].bytes = (uint64_t)(random() % 40);
	}
	while (added < TASKS) {
		for (long n = random() % 30; n > 0 && added < TASKS; n--)
			build_ready_add(&build, &tasks[added++]);
		for (long n = random() % 20; n > 0; n--)
			compare_take(&build, tasks);
	}
	while (build.ready_count > 0)
		compare_take(&build, tasks);
	compare_take(&build, tasks);
	free(build.ready);
	free(tasks);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("schema/build_ready");
	TCase *tcase = tcase_create("build_ready");

	tcase_add_loop_test(tcase, the_best_is_taken, 0, 20);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
