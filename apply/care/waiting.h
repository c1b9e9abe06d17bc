/*
 * waiting.h: who waits for us, and whom we wait for.
 *
 * Who waits for our readers. A copy's ACCESS SHARE lock keeps neither readers nor
 * writers out, but an ALTER TABLE by somebody else waits for it, and whatever comes after that one
 * queues behind (S1).
 *
 * Whom our lanes wait for. Somebody's lock on the target, or a synchronous standby that is missing,
 * stops the apply without an error, and the source keeps its WAL or we keep a log for as long.
 */
#ifndef PGBATON_APPLY_CARE_WAITING_H
#define PGBATON_APPLY_CARE_WAITING_H

#include "apply/sql.h"

/* out: "process 123 of user "x" (psql) waits for a lock of the copy: ALTER TABLE ...", of the one
 * that waits longest; "": nobody does, or we may not see it. */
MUST_CHECK bool waiting_read(Sql *source, char *out, size_t size, Error *err);

/* out: "the apply waits on the TARGET for process 123 of user "x" (psql), idle in transaction:
 * LOCK TABLE ..."; "": it waits for nobody else, or not for so long. */
MUST_CHECK bool waiting_lanes_read(Sql *target, const char *side, int at_least_s, char *out,
                                   size_t size, Error *err);

#endif
