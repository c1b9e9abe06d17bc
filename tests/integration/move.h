/*
 * move.h: a migration of the workload's database between two servers, in the
 * steps that the test programs share.
 *
 *   Move m;
 *   move_open(&m, &(MoveOptions){.source_major = 13, .target_major = 16, ...});
 *   move_run(&m);                    pgbaton begins, under the writer
 *   pgbaton_wait_state(m.p, "following", 60);
 *   move_cutover(&m);
 *   move_check(&m);                  rows, sequences, book, nothing left behind
 *   move_close(&m);
 *
 * The schema is copied where this machine's pg_dump can (a source of up to 15);
 * otherwise it is made on both sides for the older of the two majors.
 */
#ifndef PGBATON_TESTS_INTEGRATION_MOVE_H
#define PGBATON_TESTS_INTEGRATION_MOVE_H

#include "tests/harness/cluster.h"
#include "tests/harness/pgbaton.h"
#include "tests/integration/workload.h"

typedef struct {
	int source_major; /* 0: the default of the machine */
	int target_major;
	const char *source_conf;
	const char *target_conf;
	const char *const *args; /* more arguments of run */
	int sessions;            /* of the writer; 0: 3 */
	int per_second;          /* each; 0: 40 */
	bool types;
	bool durable; /* fsync on both servers */
} MoveOptions;

typedef struct {
	MoveOptions options;
	uint64_t seed;
	Cluster *source_cluster;
	Cluster *target_cluster;
	PGconn *source;
	PGconn *target;
	char source_uri[160];
	char target_uri[160];
	char *traces; /* of the source before */
	Workload *writer;
	Pgbaton *p;
	const char *args[32];
	int cutovers; /* asked for */
} Move;

/* Both servers, both databases, the schema, and the writer at work. */
void move_open(Move *m, const MoveOptions *options);
/* Starts pgbaton. */
void move_run(Move *m);
/* Asks for the cutover until it happens: one that was undone is asked for again, at
 * most ten times, and the application must have been able to write in between.
 * Prints hold_ms. */
void move_cutover(Move *m);
/* After the switch: stops the writer; the source refuses; rows, sequences and book
 * are right; then finish, and nothing is left of us on either side. */
void move_check(Move *m);
void move_close(Move *m);

/* New connections for checks, after a server was restarted. */
void move_reconnect(Move *m);

#endif
