/*
 * cutover_internal.h: what the files of one cutover share. cutover.c has the order,
 * cutover_ddl.c what must not have changed, journal.c the point of no return.
 */
#ifndef PGBATON_PROXY_MIGRATION_CUTOVER_INTERNAL_H
#define PGBATON_PROXY_MIGRATION_CUTOVER_INTERNAL_H

#include "proxy/migration/internal.h"

typedef struct {
	Migration *m;
	Way way;
	bool rehearsal; /* everything up to the two commits, then back */
	Sql *fence;     /* the session on `from` that holds the locks */
	Sql *switcher;  /* the session on `to` that commits the journal */
	int switcher_pid;
	int64_t deadline_ms;   /* K1 */
	int64_t held_since_us; /* 0: nobody is held */
	bool fence_enabled;    /* the fence's COMMIT was tried */
	bool outcome_unknown;  /* the journal's: neither undone nor switched until it is known (K4) */
	char tables[64];       /* which relations there were before the hold, in short */
	CutoverStatus now;
} Cutover;

/* Before the hold: publication and catalogue are still those of the start. */
MUST_CHECK bool cutover_refuse_ddl(Cutover *c, Error *err);
/* Under the locks: no table came or changed since. */
MUST_CHECK bool cutover_refuse_late_ddl(Cutover *c, Error *err);

/* The journal's row lies on `to`. */
MUST_CHECK bool journal_set(const Way *way, Journal journal, Error *err);
/* K4: commits the switcher's transaction; an unknown outcome is asked for until it is known. */
MUST_CHECK bool journal_commit(Cutover *c, Error *err);

#endif
