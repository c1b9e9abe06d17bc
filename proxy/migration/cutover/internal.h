/*
 * internal.h: what the files of one cutover share. cutover.c has the order, prepare.c and await.c
 * what comes before anybody is held, ddl.c what must not have changed, sessions.c the listener's
 * part, steps.c what is done under the locks, large_objects.c what no stream carries of them, switch.c the two commits, journal.c the point
 * of no return, undo.c the way back to where it was.
 */
#ifndef PGBATON_PROXY_MIGRATION_CUTOVER_INTERNAL_H
#define PGBATON_PROXY_MIGRATION_CUTOVER_INTERNAL_H

#include "proxy/migration/internal.h"

typedef struct Keeper Keeper;

typedef struct {
	Migration *m;
	Way way;
	bool rehearsal; /* everything up to the two commits, then back */
	bool two_phase; /* `from` knows PREPARE TRANSACTION */
	UnmovablePolicy unmovable;
	int64_t timeout_ms; /* --hold-timeout */
	Keeper *keeper;     /* NULL: no session of the listener is held */
	Sql *fence;         /* the session on `from` that holds the locks */
	Sql *switcher;      /* the session on `to` that commits the journal */
	int switcher_pid;
	Buffer opening;        /* what the switch changes on `to` */
	int64_t deadline_ms;   /* K1; 0: nobody is held */
	int64_t held_since_us; /* 0: nobody is held */
	bool fence_enabled;    /* the fence's COMMIT was tried */
	bool outcome_unknown;  /* the journal's: neither undone nor switched until it is known (K4) */
	char tables[64];       /* which relations there were before the hold, in short */
	char marker[WAY_MARKER_SIZE]; /* sent in the hold */
	CutoverStatus now;
} Cutover;

/* ---- cutover.c ---- */

/* False: to be given up, on request or because the process ends. */
MUST_CHECK bool cutover_wanted(const Cutover *c, Error *err);
/* The step as the status shows it. */
void cutover_publish(Cutover *c, const char *step);
double cutover_ms_since(int64_t start_us);

/* ---- prepare.c ---- */

/* Nobody is held: triggers, materialised views, the way back's slot, sessions on `to`, a
 * first drain. */
MUST_CHECK bool cutover_prepare(Cutover *c, Error *err);
/* Before another attempt: what is behind by now need not be drained in the hold. */
MUST_CHECK bool cutover_drain_before_hold(Cutover *c, Error *err);
/* Only the way forth has one. */
bool cutover_has_way_back(const Cutover *c);

/* ---- await.c ---- */

/* Before each attempt: five hold timeouts at most, 10 s at most. ERROR_TIMEOUT names those that have been
 * there longer than the hold would last. */
MUST_CHECK bool cutover_await_running(Cutover *c, Error *err);

/* ---- ddl.c ---- */

/* Before the hold: publication and catalogue are still those of the start. */
MUST_CHECK bool cutover_refuse_ddl(Cutover *c, Error *err);
/* Copied tables that an earlier process of ours has seen, which the target has and the source has not. */
MUST_CHECK bool cutover_refuse_dropped(const Migration *m, Error *err);
/* What else has been defined on the source since then: for c->now. */
MUST_CHECK bool cutover_name_definitions(Cutover *c, Error *err);
/* Under the locks: no table came or changed since. */
MUST_CHECK bool cutover_refuse_late_ddl(Cutover *c, Error *err);

/* ---- sessions.c: those of the listener. Without one all of it is nothing ---- */

/* Ahead of the hold: opened on `to`, and those that cannot be moved waited for (WAIT) or
 * refused (ABORT), for they would only cost the hold. */
MUST_CHECK bool sessions_prepare(Cutover *c, Error *err);
/* Once more, right ahead of the hold: only those that have executed something since. */
MUST_CHECK bool sessions_refresh(Cutover *c, Error *err);
/* All are held at a boundary, and are being opened on `to` beside what follows. From now on
 * they are released to `from` at the hold's deadline, whatever becomes of this thread (K1),
 * until sessions_decide. */
MUST_CHECK bool sessions_hold(Cutover *c, Error *err);
/* Waits until all are ready on `to`; an error of theirs. */
MUST_CHECK bool sessions_wait_open(Cutover *c, Error *err);
/* Before the first commit: from now on nobody but this thread lets them go (K4).
 * ERROR_TIMEOUT: they have been released. */
MUST_CHECK bool sessions_decide(Cutover *c, Error *err);
/* The journal is committed: they go on at `to`. */
void sessions_move(Cutover *c);
/* They go on at `from`. Harmless when that has happened, and when none is held. */
void sessions_release(Cutover *c);
/* Their outcome is not known: they stay held until the process ends. */
void sessions_keep(Cutover *c);

/* ---- steps.c: in the hold, in this order ---- */

/* No statement of the hold waits past its deadline. */
void steps_bound(Cutover *c);
void steps_unbound(Cutover *c);
MUST_CHECK bool steps_in_time(const Cutover *c, Error *err);
MUST_CHECK bool steps_lock_tables(Cutover *c, Error *err);
/* Begun; switch_over waits for the end. */
MUST_CHECK bool steps_enable_triggers(Cutover *c, Error *err);
MUST_CHECK bool steps_send_marker(Cutover *c, Error *err);
MUST_CHECK bool steps_move_sequences(Cutover *c, Error *err);
MUST_CHECK bool steps_drain(Cutover *c, Error *err);
MUST_CHECK bool steps_copy_late(Cutover *c, Error *err);
MUST_CHECK bool steps_compare_large_objects(Cutover *c, Error *err);
MUST_CHECK bool steps_compare_rows(Cutover *c, Error *err);

/* ---- large_objects.c ---- */

/* Before the hold: brings `to` up to date, so that the hold has little to write. */
MUST_CHECK bool cutover_large_objects_ahead(Cutover *c, Error *err);
/* Under the locks: once more (a rehearsal only compares). */
MUST_CHECK bool cutover_large_objects(Cutover *c, Error *err);

/* ---- switch.c, journal.c ---- */

/* Ahead of the hold: what the switch will change on `to`, as statements. */
MUST_CHECK bool switch_plan(Cutover *c, Error *err);
/* Both transactions made ready, then committed; of a rehearsal rolled back. */
MUST_CHECK bool switch_over(Cutover *c, Error *err);
/* The journal's row lies on `to`. */
MUST_CHECK bool journal_set(const Way *way, Journal journal, Error *err);
/* Ends fence sessions on `from` that are not this one's any more: then it is known whether the
 * fence is committed. */
MUST_CHECK bool journal_end_fence(const Way *way, Error *err);
/* K4: commits the switcher's transaction; an unknown outcome is asked for until it is known. */
MUST_CHECK bool journal_commit(Cutover *c, Error *err);

/* ---- undo.c ---- */

/* Everything as it was before the hold. What cannot be undone now (a server is away) is
 * tried again until it can, or by the next start: nothing else is done before. */
void cutover_undo(Cutover *c);

#endif
