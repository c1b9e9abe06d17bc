/*
 * workload.h: an application that does not stop: schema, random writer, and the
 * book of what it was told.
 *
 * The schema comes from objects.sql and types.sql beside this file (test programs
 * run from the repository's root). The writer is some sessions in threads of this
 * process; each runs random transactions over all of it, with savepoints,
 * sub-transactions, updates of keys, swaps of unique values and truncates, all
 * decided by the seed. What belongs to an application's life (deadlocks, lost
 * connections, refusals by the fence) is met by trying again; anything else stops
 * the session and fails the test in workload_stop.
 *
 * Every transaction inserts (session, number) into hist.commits. The sessions
 * remember which commits were acknowledged and of which the outcome is not known,
 * so that workload_check_book can tell what was lost, doubled or invented.
 */
#ifndef PGBATON_TESTS_INTEGRATION_WORKLOAD_H
#define PGBATON_TESTS_INTEGRATION_WORKLOAD_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/attr.h"

/* PGBATON_SEED, or a new one. Printed by the caller's failure: workload_stop and
 * workload_check_book name the writer's. */
uint64_t workload_seed(void);
/* The next number of a sequence that only the seed decides (splitmix64). */
uint64_t random_next(uint64_t *state);
/* 0 <= result < below */
uint64_t random_below(uint64_t *state, uint64_t below);

/* Runs tests/integration/FILE in one transaction. Lines "--NN: text" count as
 * "text" when level >= NN: level is the major for which the schema is made. */
void workload_load(PGconn *conn, const char *file, int level);

typedef struct Workload Workload;

typedef struct {
	const char *uri; /* kept as a copy */
	uint64_t seed;
	int sessions;
	int per_second; /* commits a second and session at most; 0: no limit */
	bool types;     /* also the tables of types.sql */
} WorkloadOptions;

/* The tables are there. Returns at once. */
Workload *workload_start(const WorkloadOptions *options);
/* Waits until so many more transactions are committed; ends the test after
 * timeout_s: then somebody keeps the application from writing. */
void workload_wait_commits(Workload *w, long more, int timeout_s);
long workload_commits(const Workload *w);
/* How often a statement was refused by the fence (25006). */
long workload_refusals(const Workload *w);
/* Ends the sessions after the transaction they are in; fails the test when one
 * of them met what no application should meet. Idempotent. */
void workload_stop(Workload *w);
/* After workload_stop: every acknowledged transaction is in hist.commits once,
 * and none that was rolled back. */
void workload_check_book(Workload *w, PGconn *conn);
void workload_free(Workload *w);

/* What a migration may leave on a source: replica identities, triggers,
 * publications, slots, schemas, functions, event triggers. Equal texts before and
 * after say that nothing was left. The caller frees it. */
char *source_traces(PGconn *source);

#endif
