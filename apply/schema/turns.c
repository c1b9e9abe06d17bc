#include "apply/schema/turns.h"

#include <stddef.h>

void
turns_add(Turns *turns, Turn *turn)
{
	turn->next = NULL;
	if (turns->waiting == NULL)
		turns->waiting = turn;
	else
		turns->last->next = turn;
	turns->last = turn;
}

static bool
shares_table(const Turn *a, const Turn *b)
{
	for (int i = 0; i < TURN_TABLES; i++)
		for (int j = 0; j < TURN_TABLES; j++)
			if (a->tables[i] != NULL && a->tables[i] == b->tables[j])
				return true;
	return false;
}

static bool
can_run(const Turns *turns, const Turn *turn)
{
	for (const Turn *running = turns->running; running != NULL; running = running->next)
		if (shares_table(running, turn))
			return false;
	return true;
}

Turn *
turns_take(Turns *turns)
{
	Turn *before = NULL;

	for (Turn *turn = turns->waiting; turn != NULL; before = turn, turn = turn->next) {
		if (!can_run(turns, turn))
			continue;
		if (before == NULL)
			turns->waiting = turn->next;
		else
			before->next = turn->next;
		if (turns->last == turn)
			turns->last = before;
		turn->next = turns->running;
		turns->running = turn;
		return turn;
	}
	return NULL;
}

void
turns_end(Turns *turns, Turn *turn)
{
	Turn **at = &turns->running;

	while (*at != turn)
		at = &(*at)->next;
	*at = turn->next;
	turn->next = NULL;
}

bool
turns_any_waits(const Turns *turns)
{
	return turns->waiting != NULL;
}
