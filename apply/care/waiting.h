/*
 * waiting.h: who waits for our readers. A copy's ACCESS SHARE lock keeps neither readers nor
 * writers out, but an ALTER TABLE by somebody else waits for it, and whatever comes after that one
 * queues behind (S1).
 */
#ifndef PGBATON_APPLY_CARE_WAITING_H
#define PGBATON_APPLY_CARE_WAITING_H

#include "apply/sql.h"

/* out: "process 123 of user "x" (psql) waits for a lock of the copy: ALTER TABLE ...", of the one
 * that waits longest; "": nobody does, or we may not see it. */
MUST_CHECK bool waiting_read(Sql *source, char *out, size_t size, Error *err);

#endif
