/*
 * pace.h: how much is left of a copy, and how long it will take: arithmetic only.
 *
 * What a table takes on disk is not what it takes on the wire: headers, dead rows and holes are
 * not sent, TOAST is sent decompressed. So what is expected of a table comes from its own rows
 * as soon as some of them are over (bytes a row so far, times the planner's estimate of rows),
 * before that from what the other tables have shown (wire bytes for each byte on disk).
 *
 * Time is told in work: bytes for each second that one worker is at it. What was never measured
 * is not guessed: then there is no time, but a reason.
 */
#ifndef PGBATON_APPLY_CARE_PACE_H
#define PGBATON_APPLY_CARE_PACE_H

#include <stddef.h>

#include "apply/catalog/catalog.h"

/* What one more table costs, as bytes: thousands of small ones would else take no time. */
enum { PACE_TABLE_COST = 64 * 1024 };

/* Sets expected_bytes of every table; never less than was copied already. */
void pace_expect(const Catalog *catalog);

/* Of a copy, at one moment. */
typedef struct {
	int64_t at_ms;
	double copied;     /* work that is done: bytes, and PACE_TABLE_COST for each table that is in */
	double indexed;    /* bytes of indexes that are built */
	double copying_s;  /* seconds that workers have spent on rows, all of them added up */
	double indexing_s; /* and on indexes */
	Lsn applied;
	Lsn source;
} PaceSample;

enum { PACE_SAMPLES = 60 };

/* The last samples. Start from zero. */
typedef struct {
	PaceSample samples[PACE_SAMPLES];
	size_t count; /* ever */
	/* Bytes for each second of one worker; 0: never measured. */
	double copy_rate;
	double index_rate;
} Pace;

void pace_add(Pace *pace, const PaceSample *sample);
/* Bytes of rows a second, all workers, of late; 0: not known. */
double pace_rate(const Pace *pace);

/* What is left. */
typedef struct {
	double copy;         /* as PaceSample.copied */
	double copy_longest; /* of that, the most that one worker has to do alone */
	double index;
	double index_longest;
	int jobs;
	const char *held; /* why the copy rests; NULL: it does not */
} PaceLeft;

/* Seconds until the rows are in; -1 and why: not known. */
double pace_copy_eta(const Pace *pace, const PaceLeft *left, const char **why);
/* Until rows and indexes are. */
double pace_eta(const Pace *pace, const PaceLeft *left, const char **why);
/* Until what is applied has come so close to the source as this. */
double pace_lag_eta(const Pace *pace, uint64_t close_bytes, const char **why);

/* A row of pg_stat_progress_create_index (PostgreSQL documentation, "CREATE INDEX Progress
 * Reporting"). */
typedef struct {
	char phase[64];
	int64_t blocks_done, blocks_total;
	int64_t tuples_done, tuples_total;
} IndexProgress;

/* How much of it is done, 0 to 1. The scan of a b-tree counts as half of its work, the sort as a
 * tenth; so it was on the machines it was tried on, and the order is right on all. */
double pace_index_share(const IndexProgress *progress);
/* One that is being built: adds what is done of it; longest (PaceLeft) is at least what is not. */
void pace_add_index(double bytes, double share, double *done, double *longest);

#endif
