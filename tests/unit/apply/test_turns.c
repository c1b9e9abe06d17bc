/*
 * The order in which checks of foreign keys are taken: against a model that looks at all.
 */
#include <check.h>
#include <stdlib.h>

#include "apply/schema/turns.h"
#include "tests/unit/runner.h"

enum { MANY = 300, TABLES = 6, RUNNING = 4 };

typedef enum { WAITS, RUNS, ENDED } State;

typedef struct {
	Turn turns[MANY];
	State states[MANY];
	char tables[TABLES];
	int running;
} Model;

static bool
collides(const Turn *a, const Turn *b)
{
	for (int i = 0; i < 4; i++)
		if (a->tables[i / 2] != NULL && a->tables[i / 2] == b->tables[i % 2])
			return true;
	return false;
}

/* The first that waits and collides with nothing that runs; -1: none. */
static int
expected(const Model *model)
{
	for (int i = 0; i < MANY; i++) {
		bool taken = model->states[i] != WAITS;
		for (int j = 0; j < MANY && !taken; j++)
			taken = model->states[j] == RUNS && collides(&model->turns[i], &model->turns[j]);
		if (!taken)
			return i;
	}
	return -1;
}

/* Half of the ends are of small tables. */
static const void *
some_table(const Model *model)
{
	return random() % 2 == 0 ? NULL : &model->tables[random() % TABLES];
}

static void
end_one(Turns *turns, Model *model)
{
	long skip = random() % model->running;
	int i = 0;

	while (model->states[i] != RUNS || skip-- > 0)
		i++;
	turns_end(turns, &model->turns[i]);
	model->states[i] = ENDED;
	model->running--;
}

START_TEST(the_first_that_collides_with_none)
{
	Turns turns = {0};
	Model model = {0};
	int passed_over = 0;

	srandom((unsigned)_i);
	for (int i = 0; i < MANY; i++) {
		model.turns[i].tables[0] = some_table(&model);
		model.turns[i].tables[1] = some_table(&model);
		turns_add(&turns, &model.turns[i]);
	}
	for (int next = 0; turns_any_waits(&turns) || model.running > 0;) {
		int best = expected(&model);
		if (model.running < RUNNING && best >= 0) {
			ck_assert_ptr_eq(turns_take(&turns), &model.turns[best]);
			model.states[best] = RUNS;
			model.running++;
			passed_over += best < next;
			next = best;
			continue;
		}
		if (best < 0)
			ck_assert_ptr_null(turns_take(&turns));
		end_one(&turns, &model);
	}
	ck_assert_int_gt(passed_over, 0);
	for (int i = 0; i < MANY; i++)
		ck_assert_int_eq(model.states[i], ENDED);
}
END_TEST

/* One is added when the last of those that wait has gone, from either end. */
START_TEST(one_is_added_after_the_last_was_taken)
{
	Turns turns = {0};
	char table = 0;
	Turn a = {.tables = {&table}};
	Turn b = {.tables = {&table}};
	Turn c = {.tables = {NULL}};
	Turn d = {.tables = {NULL}};

	turns_add(&turns, &a);
	ck_assert_ptr_eq(turns_take(&turns), &a);
	turns_add(&turns, &b);
	turns_add(&turns, &c);
	ck_assert_ptr_eq(turns_take(&turns), &c);
	turns_add(&turns, &d);
	ck_assert_ptr_eq(turns_take(&turns), &d);
	ck_assert_ptr_null(turns_take(&turns));
	turns_end(&turns, &a);
	ck_assert_ptr_eq(turns_take(&turns), &b);
	ck_assert(!turns_any_waits(&turns));
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("schema/turns");
	TCase *tcase = tcase_create("turns");

	tcase_add_loop_test(tcase, the_first_that_collides_with_none, 0, 20);
	tcase_add_test(tcase, one_is_added_after_the_last_was_taken);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
