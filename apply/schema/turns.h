/*
 * turns.h: which of many pieces of work goes next, where no two may have a table in common.
 *
 * In the order in which they were added, but one whose tables are taken is passed over. A turn
 * belongs to the caller and stays where it is until turns_end. Taking one costs as much as
 * there are running and passed over: what has ended is not looked at again. No lock of its own.
 */
#ifndef PGBATON_APPLY_SCHEMA_TURNS_H
#define PGBATON_APPLY_SCHEMA_TURNS_H

#include <stdbool.h>

enum { TURN_TABLES = 2 };

typedef struct Turn {
	const void *tables[TURN_TABLES]; /* only compared; NULL: none */
	struct Turn *next;
} Turn;

typedef struct {
	Turn *waiting; /* in their order */
	Turn *last;    /* of the waiting; undefined where none waits */
	Turn *running;
} Turns;

void turns_add(Turns *turns, Turn *turn);
/* NULL: none waits, or each of them for one that runs. */
Turn *turns_take(Turns *turns);
void turns_end(Turns *turns, Turn *turn);
bool turns_any_waits(const Turns *turns);

#endif
