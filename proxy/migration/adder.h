/*
 * adder.h: the thread of tables that are apart (addition.c): copies them, makes their indexes,
 * follows them; and when they have joined makes the rest of their definitions: foreign keys of
 * two tables that two appliers follow would be found broken all the time.
 *
 * Belongs to the migration's thread, which starts it while the others' stream runs and frees it
 * before that is stopped.
 */
#ifndef PGBATON_PROXY_MIGRATION_ADDER_H
#define PGBATON_PROXY_MIGRATION_ADDER_H

#include "proxy/migration/internal.h"

typedef enum { ADDER_WORKS, ADDER_READY, ADDER_FAILED } AdderState;

/* rest: they have joined; what is left is to be made. */
Adder *adder_start(Migration *m, bool rest);
/* Ends thread and applier; NULL is allowed. */
void adder_free(Adder *adder);
/* READY: all is in and followed closely, or the rest is made; FAILED: *err. */
AdderState adder_state(Adder *adder, Error *err);
/* READY: until their applier has come to this marker. */
MUST_CHECK bool adder_wait_marker(Adder *adder, const char *marker, int64_t deadline_ms,
                                  Error *err);

/* ---- addition.c ---- */

void addition_step(Migration *m, const char *step);
SchemaWork addition_work(Migration *m, Sql *target);

#endif
