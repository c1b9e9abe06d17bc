/*
 * tally.h: what the source did, counted when the target has committed it.
 */
#ifndef PGBATON_APPLY_STREAM_TALLY_H
#define PGBATON_APPLY_STREAM_TALLY_H

#include "apply/batch/batch.h"

typedef struct {
	uint64_t inserts;
	uint64_t updates;
	uint64_t deletes;
	uint64_t truncates;
} Counts;

typedef struct Tally Tally;

Tally *tally_new(void);
void tally_free(Tally *tally);
void tally_add(Tally *tally, const Batch *batch);
/* All of `from`, which is empty then. */
void tally_take(Tally *tally, Tally *from);
void tally_clear(Tally *tally); /* it was rolled back */
/* Into the tables' counters; *total gets more by the sum. Clears. */
void tally_commit(Tally *tally, Counts *total);

#endif
