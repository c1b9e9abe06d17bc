/*
 * source.h: what is made on the source: replica identities, our schema with the marker
 * table (before 14), the publication, the slot, and when the migration has caught up the
 * fence's triggers. In that order (a publication that covers a table without identity
 * breaks the application's updates), each recorded in the ledger before (S2), each lock
 * asked for with a short lock_timeout and retried with jitter, blockers named (S1).
 * Everything is idempotent: a second run goes on where the first one ended.
 */
#ifndef PGBATON_APPLY_SETUP_SOURCE_H
#define PGBATON_APPLY_SETUP_SOURCE_H

#include "apply/catalog/catalog.h"
#include "apply/ledger.h"
#include "apply/sql.h"
#include "common/stop.h"
#include "protocol/conninfo.h"

typedef struct {
	Sql *source;
	Sql *target; /* for the ledger */
	Book book;   /* where it is recorded; sql NULL: in that ledger, as of the source */
	const ConnInfo *source_info;
	const Ledger *ledger;
	Catalog *catalog;             /* key and key_needs_full are brought up to date */
	const char *replica_identity; /* full | refuse | insert-only */
	int64_t slot_timeout_ms;      /* for running transactions to end */
	int64_t lock_timeout_ms;      /* of one try; 0: 500 ms */
	int64_t lock_patience_ms;     /* of all tries of one lock; 0: 60 s */
	const Stop *stop;
} SourceSetup;

/* The publication of tables without a usable replica identity, written to out, which it returns; the
 * other one has the ledger's name. */
const char *source_insert_only_name(const Ledger *ledger, char out[80]);

/* REPLICA IDENTITY FULL where needed; under "refuse" ERROR_CONFIG with the list;
 * under "insert-only" KEY_NOTHING. */
MUST_CHECK bool source_setup_identities(const SourceSetup *setup, Error *err);
/* Our schema with table marker(id, content) for sources before 14 (published), and
 * the publication: one for all tables, publish insert, update, delete, truncate;
 * tables with KEY_NOTHING go to a second publication NAME_insert_only with
 * publish = 'insert, truncate' (both are given to START_REPLICATION). */
MUST_CHECK bool source_setup_publication(const SourceSetup *setup, Error *err);
/* Tables that are not yet published are added to the publication; apart: of those that are
 * apart alone, for what somebody took out of a publication that a slot has begun to read must
 * not come back unseen. A second publication (insert-only) that is not there yet cannot be
 * added to: the slot is older than it. */
MUST_CHECK bool source_extend_publication(const SourceSetup *setup, bool apart, Error *err);
/* C2, of a table that is published later: returns when every transaction that is running now
 * has ended. on_wait: told from time to time who is waited for. */
MUST_CHECK bool source_wait_running(Sql *source, const Stop *stop,
                                    void (*on_wait)(void *arg, const char *blockers), void *arg,
                                    Error *err);
/* C1. Transactions that the slot waits for are logged and named in the timeout's error.
 * An existing slot of ours is kept; *created tells. *start: consistent point or the
 * slot's confirmed position. */
MUST_CHECK bool source_setup_slot(const SourceSetup *setup, bool *created, Lsn *start, Error *err);

/* What goes into the receiver's publication option: "a" or "a,b". */
void source_publications(const Ledger *ledger, const Catalog *catalog, char *out, size_t size);

typedef struct {
	bool exists;
	bool active;
	bool lost;           /* wal_status lost, or invalidated */
	char why[128];       /* invalidation reason or wal_status */
	char wal_status[16]; /* reserved, extended, unreserved, lost; "" before 13 */
	Lsn confirmed;
	Lsn restart;
	uint64_t kept_bytes;   /* WAL held back on the source by the slot */
	int64_t safe_bytes;    /* until max_slot_wal_keep_size hurts, 0: it does; -1: no limit */
	Lsn read;              /* how far the walsender has read; 0: there is none */
	uint64_t unread_bytes; /* from there to the end of the WAL */
	int64_t spilled_bytes; /* of transactions, onto its own disk, ever (14+); -1: not known */
	double reading_s;      /* since when it only reads and sends nothing; 0: it is not so.
	                        * The monitor's, not source_slot_health's. */
} SlotHealth;

MUST_CHECK bool source_slot_health(Sql *source, const Ledger *ledger, SlotHealth *out, Error *err);
/* S3: is the slot close to being lost: less than a quarter of max_slot_wal_keep_size is left,
 * or the next checkpoint may take what it needs? side: "source" or "target", for the text. */
bool source_slot_warning(const SlotHealth *slot, const char *side, char *out, size_t size);
/* There is WAL that the walsender has to read before it can send what is new. After a restart it
 * reads from restart_lsn on, decodes large transactions once more, and does not send again
 * what was confirmed: that can take minutes. */
bool source_slot_has_to_read(const SlotHealth *slot);
/* It has only read for at_least_s or longer: what to tell. */
bool source_slot_reading(const SlotHealth *slot, double at_least_s, const char *side, char *out,
                         size_t size);
/* Takes out of the publication what is not in the catalogue (any more): an addition that the target
 * has lost. */
MUST_CHECK bool source_trim_publication(const SourceSetup *setup, Error *err);
/* The publication is there and still covers exactly our tables; else ERROR_CONFIG naming
 * what is different. */
MUST_CHECK bool source_check_publication(Sql *source, const Ledger *ledger, const Catalog *catalog,
                                         Error *err);

/* ---- sessions of others ---- */

enum { SESSION_GROUPS_MAX = 16 };

typedef struct {
	char user[64];
	char application[64];
	char address[64]; /* of the client; "local": a Unix socket */
	uint64_t sessions;
	uint64_t writing; /* of these, in a transaction that has written */
} SessionGroup;

typedef struct {
	SessionGroup groups[SESSION_GROUPS_MAX]; /* the largest first */
	size_t count;
	uint64_t sessions; /* all, also those that found no group's place */
	uint64_t writing;
} SessionGroups;

/* What stands in front of the server: its sessions there have the application's names, and are known
 * by their processes, also for a while after their end. NULL instead of it: there is none. */
typedef struct {
	size_t (*pids)(void *arg, uint32_t **pids); /* the caller's to free() */
	void *arg;
	const Stop *stop;
} OurSessions;

/* Client sessions in the session's database that are not ours (application_name
 * "pgbaton ...", or what ours names), by user, application and address: after the switch their
 * writes get 25006. While there are any, ours is asked again for 200 ms. */
MUST_CHECK bool source_sessions(Sql *sql, const OurSessions *ours, SessionGroups *out, Error *err);
/* "3 of user "app", application "psql", from 10.0.0.5". */
void source_sessions_describe(const SessionGroup *group, char *out, size_t size);

/* ---- the fence and the marker (K2, K3) ---- */

/* Function NAME.refuse_writes() raising 25006 and, on every table and partitioned
 * parent, a disabled statement trigger before insert, update, delete, truncate. The way
 * back, which sets pgbaton.writer to the migration's id, is let through. */
MUST_CHECK bool source_fence_prepare(const SourceSetup *setup, Error *err);
/* Ahead of source_fence_lock, which else does it: BEGIN and the deadline, while nobody has to
 * wait for it yet. A transaction without locks. */
MUST_CHECK bool source_fence_begin(Sql *fence, int64_t deadline_ms, Error *err);
/* Then, still ahead of it: has the session's server process open every table once, so that what
 * it reads of the catalogue for one (half of the cost of switching its trigger) is there. */
MUST_CHECK bool source_fence_warm(Sql *fence, const Ledger *ledger, Error *err);
/* In the given session: BEGIN, the deadline as idle_in_transaction_session_timeout,
 * LOCK TABLE ... IN EXCLUSIVE MODE on all tables and parents, a statement each. After a
 * deadlock again in another order, until the deadline. On failure rolled back, with the
 * blockers named. */
MUST_CHECK bool source_fence_lock(Sql *fence, const Catalog *catalog, int64_t deadline_ms,
                                  Error *err);
/* The same for the marked tables alone: who writes to others goes on. */
MUST_CHECK bool source_fence_lock_marked(Sql *fence, const Catalog *catalog, int64_t deadline_ms,
                                         Error *err);
/* Enables the triggers (ALWAYS: also for the replica role) in the open transaction; the
 * caller commits. */
MUST_CHECK bool source_fence_enable(Sql *fence, const Ledger *ledger, const Catalog *catalog,
                                    Error *err);
/* The same in two: sent, and waited for. In between the session is busy. */
MUST_CHECK bool source_fence_enable_begin(Sql *fence, const Ledger *ledger, const Catalog *catalog,
                                          Error *err);
MUST_CHECK bool source_fence_enable_end(Sql *fence, Error *err);
/* Disables every enabled trigger of ours (undo of a committed fence). catalog may be NULL
 * (after a crash it is not read yet): the triggers are found by their name in pg_trigger.
 * Waits for a fence transaction that is still ending (its locks), so its outcome is seen. */
MUST_CHECK bool source_fence_disable(Sql *source, const Ledger *ledger, const Catalog *catalog,
                                     Error *err);
/* The statements alone, for a caller's own transaction: failback takes the old source's
 * fence off in the one that commits its journal. */
MUST_CHECK bool source_fence_disable_sql(Sql *source, const Ledger *ledger, Buffer *sql,
                                         int *tables, Error *err);
/* Who waits at the committed fence for the switch's outcome goes on: it will not be. To be called on
 * the fence's own session before that is closed: when it ends without a word they wait until
 * another session says it, or, from the transaction's deadline on, for 30 s. */
MUST_CHECK bool source_fence_open_gate(Sql *sql, const Ledger *ledger, Error *err);
/* They are refused. Only sent, the session is of no other use any more; where it is lost, they are
 * refused later. */
void source_fence_shut_gate(Sql *fence, const Ledger *ledger);
/* Whether the fence is on (a trigger of ours enabled anywhere). */
MUST_CHECK bool source_fence_state(Sql *source, const Ledger *ledger, bool *on, Error *err);
/* Commits the marker on a second session; content comes back through the stream: as a
 * transactional message whose prefix is the migration's name (14+), or as a row of
 * NAME.marker(id, content). */
MUST_CHECK bool source_emit_marker(Sql *source, const Ledger *ledger, const char *content,
                                   Error *err);

#endif
