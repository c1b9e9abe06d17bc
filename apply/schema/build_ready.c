/*
 * The tasks that can be taken: a binary heap, since a start that goes on with thousands of tables
 * whose rows are in makes all their indexes ready at once, and every worker that looks for work
 * asks, whatever it takes in the end.
 */
#include "apply/schema/build_plan.h"

/* Keys first, then the largest; else in the order of the plan. */
static bool
comes_before(const BuildTask *a, const BuildTask *b)
{
	bool a_key = a->item != NULL && a->item->key;
	bool b_key = b->item != NULL && b->item->key;

	if (a_key != b_key)
		return a_key;
	return a->bytes != b->bytes ? a->bytes > b->bytes : a < b;
}

void
build_ready_add(Build *build, BuildTask *task)
{
	size_t at = build->ready_count++;

	task->state = TASK_READY;
	while (at > 0 && comes_before(task, build->ready[(at - 1) / 2])) {
		build->ready[at] = build->ready[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	build->ready[at] = task;
}

BuildTask *
build_ready_take(Build *build)
{
	if (build->ready_count == 0)
		return NULL;
	BuildTask *first = build->ready[0];
	BuildTask *last = build->ready[--build->ready_count];
	size_t at = 0;

	for (size_t child; (child = 2 * at + 1) < build->ready_count; at = child) {
		if (child + 1 < build->ready_count &&
		    comes_before(build->ready[child + 1], build->ready[child]))
			child++;
		if (comes_before(last, build->ready[child]))
			break;
		build->ready[at] = build->ready[child];
	}
	build->ready[at] = last;
	first->state = TASK_RUNS;
	return first;
}
