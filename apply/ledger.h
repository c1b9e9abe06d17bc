/*
 * ledger.h: what has to survive us, in a schema of our own on the target.
 *
 * The schema is named after the migration (--name, default pgbaton):
 *   migration  one row: id, source, mode, lanes, state, journal
 *   relation   a row for each table: state, attempt, snapshot, LSN, rows, bytes (C2, C3)
 *   large_object  a row for each range of them: copied or not (lobs/record.c)
 *   progress   a row for each lane: commit LSN, position (P1-P4)
 *   object     everything made or changed, recorded before it is done (S2), with
 *              the statement that undoes it
 *   post_data  schema steps that are done
 *   way_back   one row, where a way back was asked for (K5): where it starts
 *
 * The way back has a ledger of its own, NAME_back on the source, for its progress rows and
 * its journal; what is made for it is recorded here like everything else.
 * All functions use the session they are given; the Ledger itself holds no
 * connection and is immutable after open but for ledger_set_lanes, for which the
 * applier has a copy of its own; so any thread may use it.
 */
#ifndef PGBATON_APPLY_LEDGER_H
#define PGBATON_APPLY_LEDGER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "apply/catalog/catalog.h"
#include "apply/sql.h"
#include "common/arena.h"
#include "common/bytes.h"
#include "common/error.h"
#include "common/lsn.h"
#include "common/map.h"

typedef struct {
	char name[64];      /* schema, slot and publication are called so */
	char schema[136];   /* quoted */
	char id[40];        /* of this migration: a UUID made at creation */
	char system_id[24]; /* source's system identifier */
	char source_db[256];
	char mode[16]; /* online | offline */
	int lanes;     /* P4: what the progress rows were written with */
	/* The server's when what is known of it was read; NULL, or 0: nobody asks. */
	const _Atomic uint32_t *timeline;
} Ledger;

typedef enum {
	JOURNAL_NONE,
	JOURNAL_SWITCHING, /* a cutover has begun: undo it on start */
	JOURNAL_SWITCHED   /* K4: the point of no return is behind us */
} Journal;

/* A letter, then at most 40 of a-z, 0-9 and _; not pg_...: else ERROR_CONFIG. Such a name
 * needs no quoting in SQL, but reserved words need it. */
MUST_CHECK bool ledger_name_check(const char *name, Error *err);

/* Takes the session advisory lock that elects the one process which works on
 * this migration (held as long as the session lives): ERROR_CONFIG naming the
 * pid and client of the holder when it is taken, and still is after three seconds. */
MUST_CHECK bool ledger_lock(Sql *target, const char *name, Error *err);

/* True in *exists when the schema is there and is ours (a schema of that name
 * that is not: ERROR_CONFIG). */
MUST_CHECK bool ledger_exists(Sql *target, const char *name, bool *exists, Error *err);
/* Creates the schema, tables and the migration row in one transaction. */
MUST_CHECK bool ledger_create(Sql *target, Ledger *ledger, Error *err);
MUST_CHECK bool ledger_load(Sql *target, const char *name, Ledger *out, Error *err);
/* Drops the schema. */
MUST_CHECK bool ledger_drop(Sql *target, const char *name, Error *err);

/* state: as in the status ("copying", ...). */
MUST_CHECK bool ledger_set_state(Sql *target, const Ledger *ledger, const char *state, Error *err);
MUST_CHECK bool ledger_get_state(Sql *target, const Ledger *ledger, char out[32], Error *err);

/*
 * Which of its timelines a server writes. Another one than before is a standby that was promoted, or
 * a backup: it may lack what was committed last, and what a process knows as done is done only if
 * the ledger there says so.
 */
#define LEDGER_TIMELINE_SQL                                                                    \
	"SELECT ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), " \
	"8))::bit(32)::int8"
/* By it; 0: a service does not let us know. A standby has none yet: ERROR_NETWORK, since it may be
 * promoted. */
MUST_CHECK bool ledger_read_timeline(Sql *server, uint32_t *out, Error *err);
/* What the query's failure on that side means: true, and no error, when it only is not known. */
MUST_CHECK bool ledger_no_timeline(const char *side, Error *err);
/* ERROR_NETWORK: it may be that of Ledger.timeline again, or become that. */
MUST_CHECK bool ledger_same_timeline(const Ledger *ledger, uint32_t now, Error *err);
/* What was confirmed to the source, on which of its timelines: noted durably before that is done
 * (--confirm applied). applied: the last commit that is in. 0: not yet. */
MUST_CHECK bool ledger_note_confirmed(Sql *target, const Ledger *ledger, uint32_t timeline,
                                      Lsn confirmed, Error *err);
MUST_CHECK bool ledger_get_confirmed(Sql *target, const Ledger *ledger, uint32_t *timeline,
                                     Lsn *confirmed, Lsn *applied, Error *err);
/* The slot's consistent point: where the stream starts. */
MUST_CHECK bool ledger_set_start(Sql *target, const Ledger *ledger, Lsn start, Error *err);
MUST_CHECK bool ledger_get_start(Sql *target, const Ledger *ledger, Lsn *start, Error *err);
/* What was chosen when the migration began: the first call records the selection, a later
 * one with another is ERROR_CONFIG naming the difference. */
MUST_CHECK bool ledger_keep_selection(Sql *target, const Ledger *ledger, const Selection *selection,
                                      Error *err);

MUST_CHECK bool ledger_journal(Sql *target, const Ledger *ledger, Journal *out, Error *err);
/* The statement that sets it, for a caller's own transaction. */
void ledger_journal_sql(const Ledger *ledger, Journal journal, Buffer *sql);

/* ---- tables (ledger_tables.c) ---- */

/* Tables that were copied, and that the catalogue does not have any more but the target has, quoted and
 * with commas; empty: none. */
MUST_CHECK bool ledger_list_dropped(Sql *target, const Ledger *ledger, const Catalog *catalog,
                                    Buffer *list, Error *err);
/* Tables that were renamed on both sides since they were copied keep what is known of them, under
 * their new names. False also when a table of the catalogue is another one, by oid, than was copied
 * under its name: it is named, and no row has changed. The catalogue is matched with the target. */
MUST_CHECK bool ledger_check_tables(Sql *target, const Ledger *ledger, const Catalog *catalog,
                                    Error *err);
/* Adds rows for tables that have none; loads state, snapshot, LSN, counts of the
 * others into the catalogue. A table that was copying is queued again; rows_remain says
 * that some of its rows may have been committed. */
MUST_CHECK bool ledger_sync_tables(Sql *target, const Ledger *ledger, Catalog *catalog, Error *err);
/* Only catalog_note_copied, which whoever looks at the source's timeline needs before all else. */
MUST_CHECK bool ledger_note_copied(Sql *target, const Ledger *ledger, Catalog *catalog, Error *err);
typedef struct {
	const Table *table;
	const char *snapshot;
	Lsn lsn;
	uint64_t rows;
	uint64_t bytes;
	const char *stamp; /* copy/rewrite.h */
} LedgerCopied;

/* C3: the statement that records finished copies, for their transaction; as many rows as count. */
void ledger_copied_sql(const Ledger *ledger, const LedgerCopied *copied, size_t count, Buffer *sql);
/* Two statements for a transaction that is rolled back: the first waits for one that is
 * recording the table's copy, the second asks whether it has recorded that snapshot. */
void ledger_outcome_sql(const Ledger *ledger, const Table *table, const char *snapshot,
                        Buffer *wait, Buffer *ask);

/*
 * A table that is copied in several transactions (copy/split.h). The first statement says,
 * before the first of them, that rows in the table are ours, and returns the attempt's
 * number; each of them locks the row by the second, which returns its xid, or nothing once
 * another attempt has begun; the third records the end and finds its row under the same condition.
 */
void ledger_copying_sql(const Ledger *ledger, const Table *table, Buffer *sql);
void ledger_attempt_sql(const Ledger *ledger, const Table *table, const char *attempt, Buffer *sql);
void ledger_attempt_copied_sql(const Ledger *ledger, const char *attempt,
                               const LedgerCopied *copied, Buffer *sql);

/* Schema, name and stamp (copy/rewrite.h) of those that are copied, and the same rows the other
 * way: NULL and false on error. */
PGresult *ledger_stamps(Sql *target, const Ledger *ledger, Error *err);
MUST_CHECK bool ledger_set_stamps(Sql *target, const Ledger *ledger, const PGresult *stamps,
                                  Error *err);
/* The publication's row was written by us: by transaction `before`, now by `after`. */
MUST_CHECK bool ledger_republished(Sql *target, const Ledger *ledger, const char *before,
                                   const char *after, Error *err);

/* ---- tables that are copied beside the others: add-table, recopy (ledger_apart.c) ---- */

/*
 * From the transaction that begins it to the one that ends it the tables are apart: copied (C2)
 * and followed by an applier of its own, whose progress lies in schema NAME_apart. The others'
 * applier passes over them. At the end they join: level_lsn says up to which commit their
 * changes are in.
 */
typedef enum { APART_NONE, APART_ADD, APART_RECOPY } ApartKind;

enum { LEDGER_APART_NAME_MAX = 35 }; /* NAME_apart has to be a name, too */

typedef struct {
	ApartKind kind; /* NONE: nothing is apart */
	int number;     /* of those ever begun */
	Lsn from;       /* the others had all up to this commit when it began: read behind it */
	int64_t turn;   /* who read this last may begin or end it */
} Apart;

/*
 * How it stands. Takes the turn: a transaction that began or ended it under an earlier turn has
 * either been seen here, or fails when it arrives (a lost connection, a killed process whose
 * last words are still on their way). So this settles an outcome that is not known.
 */
MUST_CHECK bool ledger_apart(Sql *target, const Ledger *ledger, Apart *out, Error *err);
/* The turn as it is recorded, not taken. */
MUST_CHECK bool ledger_apart_turn(Sql *target, const Ledger *ledger, int64_t *turn, Error *err);
/* The tables that are, in a catalogue that may know nothing else of the ledger yet. */
MUST_CHECK bool ledger_apart_tables(Sql *target, const Ledger *ledger, Catalog *catalog,
                                    Error *err);
/* The patterns that add-table has added, into selection; strings in the arena. */
MUST_CHECK bool ledger_added(Sql *target, const Ledger *ledger, Arena *arena, Selection *selection,
                             Error *err);
/* Statements for the transaction that begins it, in which no applier may be at work: these
 * tables are apart, those of a recopy with rows that are to be replaced. selection: with the
 * new patterns; NULL: as it was. */
void ledger_apart_begin_sql(const Ledger *ledger, ApartKind kind, int64_t turn,
                            const Selection *selection, Buffer *sql);
void ledger_apart_table_sql(const Ledger *ledger, ApartKind kind, const Table *table, Buffer *sql);
/* Schema NAME_apart, made where it is not there yet. */
MUST_CHECK bool ledger_apart_open(Sql *target, const Ledger *ledger, Ledger *out, Error *err);
/* They join, and schema NAME_apart goes. All up to its progress is in: *level. Nobody writes
 * to it any more. */
MUST_CHECK bool ledger_apart_end(Sql *target, const Ledger *ledger, const Ledger *apart,
                                 int64_t turn, Lsn *level, Error *err);

/* ---- objects (S2) ---- */

typedef struct {
	int64_t id;
	char side[8];   /* source | target */
	char kind[32];  /* slot, publication, replica_identity, schema, fence, trigger, identity */
	char what[300]; /* for people: "replica identity of public.t" */
	char *undo;     /* SQL; malloc'd */
	bool found;     /* undo is the SELECT that gives the statement, or no row */
} LedgerObject;

/* Before the thing is done. Whoever finds it undone again has found its latest state: that undo
 * replaces the one of an equal record (side, kind, what). */
MUST_CHECK bool ledger_record(Sql *target, const Ledger *ledger, const char *side, const char *kind,
                              const char *what, const char *undo, Error *err);
/* Newest first, replica identities after all else. kind NULL: all. Free with ledger_objects_free. */
MUST_CHECK bool ledger_objects(Sql *target, const Ledger *ledger, const char *side,
                               const char *kind, LedgerObject **out, size_t *count, Error *err);
/* "source: slot pgbaton, 12 fences; target: ..." of all that is recorded, cut at size. */
MUST_CHECK bool ledger_objects_sum(Sql *target, const Ledger *ledger, char *out, size_t size,
                                   Error *err);
/* Makes the undo of each that is to be found its statement, "" where there is nothing left to undo. */
MUST_CHECK bool ledger_find(Sql *side, LedgerObject *objects, size_t count, Error *err);
void ledger_objects_free(LedgerObject *objects, size_t count);
MUST_CHECK bool ledger_forget(Sql *target, const Ledger *ledger, int64_t id, Error *err);
/* Runs the undo statements of one side's objects (kind NULL: all), newest first,
 * each with lock_timeout and retries (S1), and forgets each one done. What cannot be
 * undone is named with its statement in the error; the rest is undone all the same. */
MUST_CHECK bool ledger_undo(Sql *target, Sql *side_session, const Ledger *ledger, const char *side,
                            const char *kind, Error *err);

/* Where what is made or changed on a side is recorded: one ledger has it all, so that its end
 * needs no other. */
typedef struct {
	Sql *sql;
	const Ledger *ledger;
	const char *side; /* source | target: where it is made */
} Book;

MUST_CHECK bool book_record(const Book *book, const char *kind, const char *what, const char *undo,
                            Error *err);
/* For what others may rename or drop until it is undone: a SELECT that finds it by its oid, with
 * names of pg_catalog qualified, and gives the statement. */
MUST_CHECK bool book_record_found(const Book *book, const char *kind, const char *what,
                                  const char *select, Error *err);

/* ---- the way back (K5) ---- */

enum { LEDGER_BACK_NAME_MAX = 36 }; /* NAME_back has to be a name, too */

/* "NAME_back". */
void ledger_back_name(const char *name, char out[64]);
/* Makes table way_back, where it is not yet. */
MUST_CHECK bool ledger_way_back_create(Sql *target, const Ledger *ledger, Error *err);
/* *start: the target's WAL position behind which every commit is the application's;
 * LSN_INVALID: there is no way back, or no switch yet. */
MUST_CHECK bool ledger_way_back_start(Sql *target, const Ledger *ledger, Lsn *start, Error *err);
/* The statement that sets it to where the target's WAL ends now, for the switch's own
 * transaction. */
void ledger_way_back_start_sql(const Ledger *ledger, Buffer *sql);

/* ---- steps that are done once (schema sections, indexes, constraints) ---- */

MUST_CHECK bool ledger_step_done(Sql *target, const Ledger *ledger, const char *step, bool *done,
                                 Error *err);
/* All that are done: name -> itself. Free with map_free. */
Map *ledger_steps(Sql *target, const Ledger *ledger, Arena *arena, Error *err);
/* The statement, for the step's own transaction where there is one. */
void ledger_step_sql(const Ledger *ledger, const char *step, Buffer *sql);
/* Several: the values are put one by one, then the statement, if there are any. */
void ledger_steps_add(const char *step, Buffer *values);
void ledger_steps_sql(const Ledger *ledger, const Buffer *values, Buffer *sql);

/* ---- progress (P1, P2) ---- */

typedef struct {
	Lsn commit_lsn;   /* all transactions below it are in */
	int64_t position; /* changes of that transaction that are in; LEDGER_WHOLE: all */
} Progress;

#define LEDGER_WHOLE INT64_MAX

/* progress[lanes]; missing rows are created at (start, LEDGER_WHOLE). Lanes of an earlier
 * process or connection may still be inside a COMMIT: their sessions are ended where that is
 * allowed, and waited for, so that what is read is what all of them came to. */
MUST_CHECK bool ledger_load_progress(Sql *target, const Ledger *ledger, Lsn start,
                                     Progress *progress, Error *err);
/* P4: only when all lanes are level. */
MUST_CHECK bool ledger_set_lanes(Sql *target, Ledger *ledger, int lanes, Error *err);
/* Once in a session, before what ledger_move names. */
MUST_CHECK bool ledger_prepare_progress(Sql *target, const Ledger *ledger, Error *err);

enum { LEDGER_MOVE_VALUES = 7 };

/* A prepared statement and its parameters, all binary. They stand in it: not to be copied. */
typedef struct {
	const char *statement;
	int count;
	const char *values[LEDGER_MOVE_VALUES];
	int lengths[LEDGER_MOVE_VALUES];
	uint8_t bytes[LEDGER_MOVE_VALUES * 8];
} LedgerMove;

/* UPDATE progress for lanes [first, first + count). Where a row is not at `from` any more the
 * statement fails with LEDGER_MOVED: somebody else has applied what follows it. */
void ledger_move(const Ledger *ledger, int first, int count, Progress from, Progress to,
                 LedgerMove *move);
#define LEDGER_MOVED "22012" /* division_by_zero */

#endif
