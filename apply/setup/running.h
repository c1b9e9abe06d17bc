/*
 * running.h: transactions that a hold would have to wait for, found while nobody is held.
 *
 * They hold a lock of a table with a fence that the fence's own would wait for, or belong to given
 * server processes: the listener's, whose sessions are held at the end of their transactions. Each is
 * known by its virtual number (pg_locks.virtualtransaction; "-1/XID" of one that is prepared), which
 * everybody may see. Left out: what the server cancels for the fence (autovacuum), and replication.
 */
#ifndef PGBATON_APPLY_SETUP_RUNNING_H
#define PGBATON_APPLY_SETUP_RUNNING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "apply/ledger.h"
#include "apply/sql.h"
#include "common/error.h"

/* Those that there are now, as an array's text ("{3/12,-1/731}"); of `of` only, unless that is NULL.
 * The caller's to free(); NULL: an error. */
char *running_now(Sql *sql, const Ledger *ledger, const uint32_t *pids, size_t pid_count,
                  const char *of, Error *err);
bool running_none(const char *which);

/* As blockers are named (locked.h); empty where they have ended or the server cannot be asked. */
void running_describe(Sql *sql, const char *which, char *out, size_t size);

#endif
