/*
 * migration.h: one migration, from checking to finished.
 *
 * An object with a thread of its own that walks through the phases (state diagram in
 * migration.c). It owns the sessions, the log, receiver and applier; everything else
 * (admin port, signals) talks to it through the functions below, from any thread.
 */
#ifndef PGBATON_PROXY_MIGRATION_MIGRATION_H
#define PGBATON_PROXY_MIGRATION_MIGRATION_H

#include <stdbool.h>
#include <stdint.h>

#include "apply/care/pace.h"
#include "apply/care/standbys.h"
#include "apply/care/throttle.h"
#include "apply/catalog/catalog.h"
#include "apply/schema/definitions.h"
#include "apply/setup/check.h"
#include "apply/setup/source.h"
#include "apply/stream/applier.h"
#include "common/error.h"
#include "decoder/receiver/receiver.h"
#include "decoder/txlog/txlog.h"
#include "proxy/config.h"

typedef struct Migration Migration;

typedef enum {
	STATE_CHECKING,
	STATE_PREPARING,
	STATE_COPYING,
	STATE_CATCHING_UP,
	STATE_FOLLOWING,
	STATE_CUTTING_OVER,
	STATE_SWITCHED,
	STATE_FAILING_BACK,
	STATE_FAILED_BACK, /* the old source is live again; only finish leads on */
	STATE_FINISHED,
	STATE_FAILED,
	STATE_CANCELLED
} MigrationState;

const char *migration_state_name(MigrationState state);
MUST_CHECK bool migration_state_parse(const char *text, MigrationState *out);

typedef enum {
	COMMAND_CUTOVER,
	COMMAND_REHEARSE,
	COMMAND_VERIFY,
	COMMAND_FAILBACK,
	COMMAND_FINISH,
	COMMAND_CANCEL,
	COMMAND_PAUSE,
	COMMAND_RESUME,
	COMMAND_THROTTLE,
	COMMAND_ADD_TABLE,
	COMMAND_RECOPY,
	COMMAND_ABORT /* the cutover, failback or rehearsal under way, unless it has switched */
} MigrationCommand;

typedef struct {
	MigrationCommand command;
	int64_t hold_timeout_ms; /* CUTOVER, REHEARSE, FAILBACK; 0: the configuration's */
	bool unmovable_given;    /* the same three; false: the configuration's */
	UnmovablePolicy unmovable;
	char pattern[CONFIG_PATTERN_SIZE];                   /* ADD_TABLE, RECOPY */
	char tables[CONFIG_TABLES_MAX][CONFIG_PATTERN_SIZE]; /* VERIFY: patterns */
	size_t table_count;                                  /* 0: all */
	bool set_copy_rate; /* THROTTLE: what is to be changed, until the process ends */
	uint64_t copy_rate;
	bool set_lag_limit;
	LagLimit lag_limit;
} MigrationRequest;

/* The thread starts at once. */
Migration *migration_start(const Config *config, Error *err);
/* Asks it to stop cleanly (SIGTERM); a later start goes on. Async-signal-safe. */
void migration_stop(Migration *migration);
/* Waits for the end and returns the exit code: 0 done or stopped on request, 1 failed,
 * 3 check failed. */
int migration_wait(Migration *migration);
/* After migration_wait; nobody may ask for the status any more. */
void migration_free(Migration *migration);

/*
 * Hands a command over. False with ERROR_CONFIG when the state does not allow it (the
 * text says what does). True: accepted; *ticket then names the run in the status
 * (cutover.id for CUTOVER, REHEARSE, FAILBACK; verify.id for VERIFY; addition.id for ADD_TABLE,
 * RECOPY); its end is seen there.
 */
MUST_CHECK bool migration_command(Migration *migration, const MigrationRequest *request,
                                  uint64_t *ticket, Error *err);

typedef enum {
	CUTOVER_NONE,
	CUTOVER_RUNNING,
	CUTOVER_SWITCHED,
	CUTOVER_ABORTED,
	CUTOVER_REHEARSED, /* all but the switch; the source goes on */
	CUTOVER_UNKNOWN    /* stopped while only the journal knows; the next start reads it */
} CutoverOutcome;

enum { CUTOVER_UNMOVABLE_NAMED = 16 };

/* Of the last cutover, rehearsal or failback. */
typedef struct {
	uint64_t id;   /* 0: never */
	bool failback; /* from the target to the old source */
	CutoverOutcome outcome;
	char step[32];     /* prepare, sessions, hold, fence, drain, verify, sequences, commit */
	double prepare_ms; /* before anyone was held */
	double hold_ms;    /* from the hold, or the first lock asked for, to the switch or release */
	double quiet_ms;   /* until every session of the listener was held */
	double fence_ms;   /* until the locks were held */
	double marker_ms;  /* until the marker was committed */
	double drain_ms;   /* from the marker's commit until it was applied */
	double sequences_ms;
	double verify_ms;
	double large_objects_ms; /* compared, and what differed written again */
	double sessions_ms; /* from the hold until all were ready on the other side; beside the rest */
	double commit_ms;   /* fence and journal */
	uint64_t sessions_moved;     /* of a rehearsal: that would have been */
	uint64_t sessions_closed;    /* the same */
	uint64_t sessions_unmovable; /* those that are closed among them */
	ListenerSession unmovable[CUTOVER_UNMOVABLE_NAMED];
	size_t unmovable_count;
	uint64_t sequences;
	uint64_t large_objects;          /* compared within the hold */
	uint64_t large_objects_differed; /* of them, and of those that are gone */
	int attempts;
	SessionGroups bypassing; /* connected to the side that is left, as the cutover began */
	/* Made on the source since its schema was dumped, and not on the target. Of a failback: none. */
	DefinitionChanges definitions;
	Error error; /* of an aborted one */
} CutoverStatus;

typedef enum {
	WAY_BACK_NONE,
	WAY_BACK_STARTING,  /* also: tried again, see error */
	WAY_BACK_FOLLOWING, /* the old source follows the target */
	WAY_BACK_FAILED     /* for good, or until resume: see error */
} WayBackState;

/* K5, after the switch: what flows from the target to the old source. */
typedef struct {
	WayBackState state;
	uint64_t received_bytes; /* lag, as of the way forth */
	uint64_t applied_bytes;
	ReceiverState receiver;
	ApplierState applier;
	TxLogState log;
	SlotHealth slot; /* on the target */
	Lsn target_lsn;
	Error error;
} WayBackStatus;

typedef enum { VERIFY_NEVER, VERIFY_RUNNING, VERIFY_EQUAL, VERIFY_FAILED } VerifyOutcome;

typedef struct {
	uint64_t id; /* of the last one; 0: never */
	VerifyOutcome outcome;
	double took_ms;
	size_t tables; /* compared */
	/* What of the source's tables is other than at their copy: a new one is not compared. */
	char differs[400];
	Error error; /* FAILED: what differs, or why it could not be compared */
} VerifyStatus;

typedef enum { ADDITION_NONE, ADDITION_RUNNING, ADDITION_DONE, ADDITION_FAILED } AdditionOutcome;

/* Of the last add-table or recopy. */
typedef struct {
	uint64_t id; /* 0: never */
	bool recopy;
	AdditionOutcome outcome;
	char step[160];
	size_t tables;
	Error error; /* FAILED: tried again by resume where it had begun; or what is tried again */
} AdditionStatus;

enum { INDEXES_SHOWN = 16 };

/* An index that is being built. */
typedef struct {
	char name[160];
	const Table *table;
	char phase[64];
	double share; /* of it that is done, 0 to 1 */
} IndexRunning;

/* The index phase; of tables whose indexes do not come with their rows (schema/build.h). */
typedef struct {
	size_t done, count; /* steps, small tables' among them; count 0: not planned (any more) */
	double bytes_done;  /* by the size of the source's indexes */
	double bytes_total;
	IndexRunning running[INDEXES_SHOWN];
	size_t running_count;
} IndexStatus;

typedef struct {
	MigrationState state;
	bool online;
	bool paused;
	int64_t since_us; /* wall clock at which the state was entered */
	char name[64];
	char id[40];
	char detail[160]; /* what it is doing, for people: "indexes 12 of 40" */
	Error error;      /* why it failed; or the trouble being retried */
	bool retrying;    /* error is of something that is tried again */

	/* lag: source's end as last known -> received -> applied */
	uint64_t received_bytes; /* not yet received */
	uint64_t applied_bytes;  /* received, not yet applied */
	double lag_seconds;      /* age of the oldest commit not yet applied; 0: none */
	uint64_t pending_transactions;

	ReceiverState receiver; /* zero when there is none (yet) */
	ApplierState applier;
	TxLogState log;
	SlotHealth slot;
	char slot_warning[256];   /* it is in danger; "": it is not */
	Lsn source_lsn;           /* pg_current_wal_lsn() when last asked */
	double oldest_snapshot_s; /* age of our oldest snapshot on the source */
	char waiting[256];        /* who waits on the source for a lock of the copy; "": nobody */
	char apply_waiting[256];  /* for whom the apply waits on the side it writes to; "": nobody */
	ThrottleState throttle;   /* of the copy */
	Standbys standbys;        /* of the source */
	LagLimit lag_limit;

	uint64_t copy_rows;
	uint64_t copy_bytes;
	uint64_t copy_bytes_total;
	double copy_eta_seconds; /* of the rows; -1: unknown */
	double copy_rate;        /* bytes a second, of late; 0: unknown */
	IndexStatus index;
	double eta_seconds;    /* of all until eta_until; -1: unknown, and why */
	const char *eta_until; /* copied, following; NULL: there is nothing to wait for */
	char eta_why[200];
	struct {
		uint64_t objects, objects_total;
		uint64_t bytes, bytes_total;
	} large_objects; /* copied */
	size_t tables_queued, tables_copying, tables_copied, tables_errored;

	ListenerState listener;
	CutoverStatus cutover;
	VerifyStatus verify;
	AdditionStatus addition;
	WayBackStatus way_back;
	char removed[1024];     /* what finish or cancel has removed, for people; "" before */
	const Catalog *catalog; /* NULL before it is read; lives as long as the migration */
} MigrationStatus;

void migration_status(Migration *migration, MigrationStatus *out);
/* The listener's sessions (listener.h, listener_sessions): asked, so it may take a second.
 * *out is the caller's to free(). ERROR_CONFIG: there is no listener. */
MUST_CHECK bool migration_sessions(Migration *migration, ListenerSession **out, size_t *count,
                                   Error *err);

/* Without a running process (finish, cancel when nobody works on it): undoes what is on
 * the source and removes our schema from the target, taking the migration's lock.
 * finish: only after the switch. */
MUST_CHECK bool migration_cleanup(const Config *config, bool finish, Error *err);

#endif
