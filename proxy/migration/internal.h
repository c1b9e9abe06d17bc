/*
 * internal.h: what the files of proxy/migration share. Nobody else includes it.
 */
#ifndef PGBATON_PROXY_MIGRATION_INTERNAL_H
#define PGBATON_PROXY_MIGRATION_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "apply/care/standbys.h"
#include "apply/care/throttle.h"
#include "apply/copy/copy.h"
#include "apply/ledger.h"
#include "apply/lobs/lobs.h"
#include "apply/schema/build.h"
#include "apply/schema/schema.h"
#include "common/queue.h"
#include "common/stop.h"
#include "proxy/migration/migration.h"

typedef struct Monitor Monitor;
typedef struct ProgressWatch ProgressWatch;
typedef struct Adder Adder;

/*
 * One direction, as a value: the changes go from one side to the other, and what steers them
 * lies on `to`: ledger (progress, journal). Forth is source to target. What both directions
 * do (drain, hold, switch) is written once, for a Way.
 */
typedef struct {
	Migration *m;
	const Stop *stop; /* of whoever waits on it: the migration's, or a cutover's */
	bool back;
	const char *from_side; /* "source" or "target", for people */
	const char *to_side;
	const ConnInfo *from_info;
	const ConnInfo *to_info;
	const Ledger *ledger;
	Catalog *catalog; /* read on from, matched with to */
	Applier *applier; /* NULL when there is none */
	Receiver *receiver;
	Monitor *monitor;
} Way;

/*
 * The way back (way_back.c): from the target to the source. Its ledger is NAME_back on the
 * source; its log DIR/log_back.
 */
typedef struct {
	bool loaded;        /* whether there is one is known; the thread's own */
	WayBackState state; /* under the lock, as all down to `monitor` */
	TxLog *log;
	Receiver *receiver;
	Applier *applier;
	SlotHealth slot;
	Lsn from_lsn;
	Error error;

	/* the thread's own */
	Monitor *monitor;
	Ledger ledger;    /* id empty: not loaded */
	Catalog *catalog; /* read on the target, matched with the source */
	Lsn start;        /* where the application's changes begin on the target */
	int64_t next_try_ms;
	int64_t pause_ms;
	int64_t next_warning_ms;
} WayBack;

/* Up to where an applier does not need the log any more. */
typedef struct {
	Lsn commit;
	Lsn end;
} Passed;

/* `lock` guards what the status shows; the rest belongs to the migration's thread. */
struct Migration {
	const Config *config;
	Stop *stop; /* SIGTERM or cancel: everything under way ends; by migration_request_stop */
	atomic_bool auto_ended; /* --cutover auto: one was aborted, so no other one begins by itself */
	atomic_bool cancel_wanted;
	atomic_bool end_wanted; /* SIGTERM */
	atomic_bool pause_wanted;
	Queue *requests;    /* MigrationRequest *, for the thread */
	Listener *listener; /* NULL: none. Runs by itself; here it is told the route */
	Throttle *throttle; /* of the copy */
	CopyWorkers workers;
	pthread_t thread;
	int exit_code;

	pthread_mutex_t lock;
	MigrationState state;
	MigrationState resumes_in; /* FAILED that waits for resume: the state then; else FAILED */
	int64_t since_us;
	char detail[160];
	Error error;
	bool retrying;
	CutoverStatus cutover;
	Stop *cutover_stop; /* of the one that is running or waits for its turn; NULL: none */
	VerifyStatus verify;
	char removed[1024]; /* by finish or cancel */
	SlotHealth slot;
	Lsn source_lsn;
	double oldest_snapshot_s;
	char waiting[256];       /* who waits for a lock of the copy */
	char apply_waiting[256]; /* for whom the apply waits */
	Standbys standbys;       /* of the source */
	LagLimit lag_limit;
	Pace pace;
	IndexStatus index;
	double index_longest; /* bytes of the largest one that is not built */
	Ledger ledger;        /* written once, before catalog */
	Catalog *catalog;     /* set once */
	Build *build;         /* while rows are copied: set and taken out under the lock */
	TxLog *log;           /* the same */
	Receiver *receiver;
	Applier *applier;
	ReceiverState last_receiver; /* of the three when they were stopped */
	ApplierState last_applier;
	TxLogState last_log;
	WayBack back;
	LobProgress lobs;   /* needs no lock */
	bool addition_rest; /* joined, but for foreign keys and triggers */
	bool addition_back; /* the way back has not taken them in yet */
	Apart apart;        /* tables that are copied beside the others (addition.c) */
	Passed passed[2];   /* by the others' applier, by that of the tables apart */
	AdditionStatus addition;

	/* the thread's own */
	Sql *source;
	Sql *target;
	Sql *lock_session; /* holds the migration's advisory lock */
	Monitor *monitor;
	ProgressWatch *progress;
	Adder *adder;
	int64_t addition_next_ms; /* when it is tried again */
	Selection selection;      /* the configuration's, and what was added */
	Arena *arena;             /* of its strings */
	Catalog **old_catalogs;   /* somebody may still look at their tables */
	size_t old_count;
	Lsn start;   /* the slot's consistent point */
	bool fresh;  /* no copy was begun yet: a failure leaves nothing behind */
	bool paused; /* the applier is paused for pause_wanted */
	char system_id[24];
	_Atomic uint32_t target_timeline; /* that what is known as done was done on; lanes look at it */
	SchemaTools tools;
};

/* ---- migration.c ---- */

/* The state changes, and is recorded in the ledger where there is one. */
MUST_CHECK bool migration_set_state(Migration *m, MigrationState state, Error *err);
/* Not recorded: it is known otherwise, or cannot be now. */
void migration_enter_state(Migration *m, MigrationState state);
void migration_clear_error(Migration *m);
/* At once, so that `resume` and then `wait` does not see the failure that is being resumed. */
void migration_leave_failed(Migration *m);
void migration_set_detail(Migration *m, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Whatever is under way ends, a cutover among it. Any thread. */
void migration_request_stop(Migration *m);
/* The caller holds the lock. */
void migration_stream_states(Migration *m, TxLogState *log, ReceiverState *receiver,
                             ApplierState *applier);
SourceSetup migration_source_setup(Migration *m);
/* Where the listener's new sessions go, and those that wait in their login. */
void migration_tell_route(Migration *m, ListenerRoute route);

/* ---- connect.c ---- */

/* A session on which event triggers rest: what they write because of what we set up or take
 * away can meet a table that is fenced, or would be rows that the other side does not have.
 * NULL on error. */
Sql *migration_control_session(const ConnInfo *info, const char *side, const char *purpose,
                               const Stop *stop, Error *err);
/* Reopens the control sessions that are lost. */
MUST_CHECK bool migration_connect(Migration *m, Error *err);
MUST_CHECK bool migration_connect_source(Migration *m, Error *err);
MUST_CHECK bool migration_connect_target(Migration *m, Error *err);
/* Whether another server has taken the target's place since Migration.target_timeline was noted
 * (ledger.h), by a session of its own; *now is its timeline. Then the control session is a new one. */
MUST_CHECK bool migration_look_at_target(Migration *m, uint32_t *now, bool *other, Error *err);
/* ERROR_NETWORK: another one has, or it is away. What was done meanwhile may be undone. */
MUST_CHECK bool migration_same_target(Migration *m, Error *err);
/* The same where the control session is lost, once a second, by *next_ms. */
MUST_CHECK bool migration_keep_target(Migration *m, int64_t *next_ms, Error *err);
/* Looks once a second, by *next_ms, whether the migration's lock is still ours. False: another
 * process works on it; the streams were stopped. */
MUST_CHECK bool migration_keep_lock(Migration *m, int64_t *next_ms, Error *err);

/* ---- way.c ---- */

/* As things stand: to be taken anew after something of it was started or stopped. */
Way way_forth(Migration *m);
Way way_back(Migration *m);
/* The control sessions, as they are now (migration_connect may open them anew). */
Sql *way_from(const Way *way);
Sql *way_to(const Way *way);
/* Reopens the session of one side alone. */
MUST_CHECK bool way_connect_from(const Way *way, Error *err);
MUST_CHECK bool way_connect_to(const Way *way, Error *err);
SourceSetup way_setup(const Way *way);
/* The listener's on `from`, which has to be there; the way has to outlive it. */
OurSessions way_our_sessions(Way *way);
/* Where what is made on `from`, and what is switched off on `to`, is recorded. */
Book way_book_from(const Way *way);
Book way_book_to(const Way *way);
Receiver *way_start_receiver(const Way *way, TxLog *log, Lsn start, Error *err);
Applier *way_start_applier(const Way *way, TxLog *log, Lsn start, Error *err);
/* The one of the tables that are apart, whose ledger that is. */
Applier *way_start_apart(Migration *m, const Ledger *ledger, Error *err);
/* What stopped the stream for good, if anything: receiver, applier, slot, publication. */
bool way_failed(const Way *way, Error *err);
enum { WAY_MARKER_SIZE = 40 };
/* Commits a marker on `from`, whose name is put into marker. */
MUST_CHECK bool way_send_marker(const Way *way, char marker[WAY_MARKER_SIZE], Error *err);
/* Waits until everything before it is applied (K3). */
MUST_CHECK bool way_wait_marker(const Way *way, const char *marker, int64_t deadline_ms,
                                bool may_pause, Error *err);
/* Both. */
MUST_CHECK bool way_drain_to_marker(const Way *way, int64_t deadline_ms, bool may_pause,
                                    Error *err);

SchemaWork migration_schema_work(Migration *m);
/* Time may heal it: the connection was lost, the server is starting or full. */
bool migration_is_retryable(const Error *err);
/* Pauses the applier or lets it go on, as was asked for last. */
void migration_follow_pause(Migration *m);
bool migration_online(const Migration *m);

/* ---- phases.c, prepare.c: each may be run again after a failure or restart ---- */

MUST_CHECK bool phase_open(Migration *m, Error *err); /* sessions, lock, ledger, journal */
/* A ledger that was not there when phase_open looked. */
MUST_CHECK bool phase_take_up(Migration *m, Error *err);
/* *blocked: findings of the check that block; they were logged. */
MUST_CHECK bool phase_check(Migration *m, bool *blocked, Error *err);
MUST_CHECK bool phase_prepare(Migration *m, Error *err);
MUST_CHECK bool phase_copy(Migration *m, Error *err);
MUST_CHECK bool phase_offline_end(Migration *m, Error *err);
MUST_CHECK bool phase_catch_up(Migration *m, Error *err);
void phase_stop_stream(Migration *m);
MUST_CHECK bool phase_start_applier(Migration *m, Error *err);
/* Takes over the catalogue; the old one lives on for who looks at it. */
void phase_keep_catalog(Migration *m, Catalog *catalog);
/* Ahead of time, since its locks may have to wait for long transactions; a cutover makes
 * what could not be made now. */
void phase_prepare_fence(Migration *m);
/* Another server in the target's place has to have come to that state; where that is COPYING, it is
 * taken as it is. ERROR_CONFIG: it has lost something; only a new start reads anew what it has. */
MUST_CHECK bool phase_settle_target(Migration *m, MigrationState state, Error *err);
/* The check with this selection; findings that block: ERROR_CONFIG naming the first. */
MUST_CHECK bool phase_check_selection(Migration *m, const Selection *selection, Catalog **catalog,
                                      Error *err);

/* ---- copy_watch.c ---- */

typedef struct CopyWatch CopyWatch;
/* From now on copy_watch_stop's is requested with the migration's, and when the way forth has failed. */
CopyWatch *copy_watch_begin(Migration *m, Error *err);
const Stop *copy_watch_stop(const CopyWatch *watch);
/* Frees it. False: why the way has failed (err may be NULL). */
MUST_CHECK bool copy_watch_end(CopyWatch *watch, Error *err);

/* ---- cutover/ ---- */

/* One cutover, or its rehearsal, with its attempts. False: aborted, everything undone, `from`
 * goes on; or *outcome is UNKNOWN, and the process is stopping. */
MUST_CHECK bool cutover_run(const Way *way, const MigrationRequest *request,
                            CutoverOutcome *outcome, Error *err);
/* Start after a crash: undoes what a switch before its journal left. *at: SWITCHED or
 * FAILED_BACK when a journal says so, else CHECKING. */
MUST_CHECK bool cutover_recover(Migration *m, MigrationState *at, Error *err);
/* Compares source and target at one and the same state (a short hold on the source): the tables
 * that the request names, or all; out->tables of them. Of a new table out->differs tells. */
MUST_CHECK bool cutover_verify(Migration *m, const MigrationRequest *request, VerifyStatus *out,
                               Error *err);

/* ---- large_objects.c ---- */

/* Nothing where they are not to be moved, as in the others. */
MUST_CHECK bool large_objects_copy(Migration *m, Error *err);
/* Both sides at rest, or seen through holder: any difference is ERROR_DIVERGENCE. */
MUST_CHECK bool large_objects_verify(const Way *way, Sql *holder, bool held, Error *err);

/* ---- way_back.c (K5) ---- */

/* Ahead of time, beside the apply: the source's ledger of the way back; identities,
 * publication and fence (off) on the target, of whatever has none of it yet. */
MUST_CHECK bool way_back_prepare(Migration *m, Error *err);
bool way_back_wanted(const Migration *m);
/* Before a switch: the slot on the target. Undone when the switch is. */
MUST_CHECK bool way_back_arm(Migration *m, Error *err);
MUST_CHECK bool way_back_disarm(Migration *m, Error *err);
/* Its fence is on: a failback has begun. Asks the target alone. */
MUST_CHECK bool way_back_fenced(Migration *m, bool *fenced, Error *err);
/* Its ledger, on the source. */
MUST_CHECK bool way_back_open(Migration *m, Error *err);
/* Whether there is one: loads where it starts (known once it has switched). */
MUST_CHECK bool way_back_load(Migration *m, Error *err);
/* Switched: starts it, tries again when that failed, notes what stopped it. A server that
 * does not answer may cost a connection's timeout; the application on the target waits for
 * none of it. */
void way_back_tend(Migration *m);
void way_back_retry(Migration *m); /* after resume */
/* The old source follows the target, or is about to. The caller holds the lock, or is the
 * migration's thread. */
bool way_back_may_come(const Migration *m);
bool way_back_refused(const Migration *m, Error *err); /* false, and why */
/* Until it follows: right after the switch that takes a moment. False: it does not, or the
 * failback that waits was given up. */
MUST_CHECK bool way_back_await(Migration *m, Error *err);
/* Another process has the migration's lock: we must not go on. */
void way_back_lost(Migration *m, const Error *err);
void way_back_stop(Migration *m);
/* Stopped for good: failed back, or finish has begun to take its things away. */
void way_back_end(Migration *m);
/* The caller holds the lock. */
void way_back_status(Migration *m, WayBackStatus *out);

/* ---- cleanup.c ---- */

/* finish and cancel, on open sessions: the source's objects, the target's, the ledger,
 * the log. What could not be removed is named. */
MUST_CHECK bool cleanup_all(Migration *m, bool finish, Error *err);

/* ---- monitor.c: watches `from` on a session of its own ---- */

/* The slot's health and the end of the WAL are put there, under the migration's lock. Of the
 * way forth also what the copy costs the source: it holds the copy while standbys are too far
 * behind. */
Monitor *monitor_start(const Way *way, SlotHealth *slot, Lsn *from_lsn);
void monitor_stop(Monitor *monitor);
/* Something that cannot come right by itself (slot lost, publication altered). */
bool monitor_failed(Monitor *monitor, Error *err);

/* ---- addition.c: add-table and recopy, beside all else (C2) ---- */

/* In FOLLOWING, or FAILED with the apply stopped: writes it down and, where the stream runs,
 * starts it anew with these tables apart. On failure before it was written down nothing has
 * changed, and *err is the request's; else *begun. */
MUST_CHECK bool addition_begin(Migration *m, const MigrationRequest *request, bool *begun,
                               Error *err);
/* At a start: what an earlier process has begun. */
MUST_CHECK bool addition_load(Migration *m, const Ledger *ledger, Error *err);
/* Some tables are not yet like the others: no cutover, no comparison, no further addition. */
bool addition_is_on(const Migration *m);
/* Goes on with what is written down: starts the thread that copies, tries again, lets the
 * tables join. False: the migration has failed. */
MUST_CHECK bool addition_tend(Migration *m, Error *err);
/* The operator wants another try. */
void addition_retry(Migration *m);
/* Ends the thread and its applier; NULL-safe. What was done is recorded. */
void addition_stop(Migration *m);
/* For prepare_source, before the publication is looked at. */
MUST_CHECK bool addition_publish(Migration *m, Error *err);

/* ---- progress.c: looks each second how far copy, indexes and apply have come ---- */

/* Close enough to begin a cutover: what is left is applied within its hold. */
enum { FOLLOWING_LAG_BYTES = 16 * 1024 * 1024 };

ProgressWatch *progress_start(Migration *m);
void progress_stop(ProgressWatch *progress);
/* What is left and how long it takes. The caller holds the lock; the rest of the status is
 * filled already. */
void progress_status(const Migration *m, MigrationStatus *out);

#endif
