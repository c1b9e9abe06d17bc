/*
 * load_rig.h: an initial copy between two databases of one server, with or without the
 * schema, for the tests of apply/copy and apply/schema/build.
 */
#ifndef PGBATON_TESTS_UNIT_APPLY_LOAD_RIG_H
#define PGBATON_TESTS_UNIT_APPLY_LOAD_RIG_H

#include <pthread.h>

#include "apply/copy/copy.h"
#include "tests/unit/apply/servers.h"

typedef struct {
	Cluster *cluster;
	PGconn *source;
	PGconn *target;
	Sql *sql; /* on the target */
	Ledger ledger;
	Catalog *catalog;
	ConnInfo *source_info;
	ConnInfo *target_info;
	Stop *stop;
	char state_dir[64];
	Selection selection;
	SchemaWork work;
	CopyOptions options;
} Load;

/* tables: SQL for the source, rows included. definitions: they come to the target by the
 * schema's own way (pre-data); else by the same SQL, emptied. */
void load_open(Load *load, Cluster *cluster, const char *tables, bool definitions);
void load_close(Load *load);
/* What a new process finds: the catalogue and the ledger are read again. */
void load_restart(Load *load);

Table *load_table(const Load *load, const char *name);
/* The query gives the same rows on both sides, and some. */
void load_same(const Load *load, const char *query);
/* pg_dump's text of both schemas. */
void load_same_dumps(const Load *load);

/* Rows, indexes, and what is left of the schema. */
MUST_CHECK bool load_run(Load *load, Error *err);

/* copy_tables in a thread, for tests that act in the middle. */
typedef struct {
	const Load *load;
	pthread_t thread;
	bool ok;
	Error err;
} Loader;

void loader_start(Loader *loader, const Load *load);
void loader_join(Loader *loader);

/* A session that makes a copy into t stand still at the row with a = 500, until it is closed;
 * and whether one stands there. */
PGconn *load_hold(const Load *load);
extern const char load_held[];

#endif
