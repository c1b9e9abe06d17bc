/*
 * lobs.h: large objects: copied once, then compared and brought up to date.
 *
 * No stream carries them, so what was written after the copy is found by comparing: both
 * sides hash every object in units of 1 MiB (on the server; only hashes travel), and what
 * differs is written again. All work goes by ranges of OIDs with a few hundred objects each
 * (RANGE_OBJECTS: whoever alters or removes a large object holds a lock on it until commit,
 * and max_locks_per_transaction has to do), on `jobs` pairs of sessions.
 *
 * There are two ways to reach the bytes. Pages: both sides' pg_largeobject itself, where the
 * one may be read and the other written (superusers), and both have pages of one size; then
 * holes of sparse objects stay holes. Contents: lo_get and lo_put, for all others; holes
 * become zeros, which is what everybody has read there. Owners, privileges and comments are
 * of the catalogue in both.
 */
#ifndef PGBATON_APPLY_LOBS_LOBS_H
#define PGBATON_APPLY_LOBS_LOBS_H

#include <stdatomic.h>

#include "apply/ledger.h"
#include "apply/sql.h"
#include "common/stop.h"
#include "protocol/conninfo.h"

/* Of the copy, for the status; from any thread. bytes_total is what they take on disk until
 * all are in, then what they are. */
typedef struct {
	_Atomic uint64_t objects;
	_Atomic uint64_t objects_total;
	_Atomic uint64_t bytes;
	_Atomic uint64_t bytes_total;
} LobProgress;

/* Of a comparison. */
typedef struct {
	uint64_t objects; /* on `from` */
	uint64_t bytes;
	uint64_t created; /* on `from` only */
	uint64_t dropped; /* on `to` only */
	uint64_t changed; /* contents, or owner, privileges, comment */
	char first[80];   /* one of those that differ, for people */
} LobDifference;

/* All of it is borrowed. */
typedef struct {
	const ConnInfo *from;
	const ConnInfo *to;
	const char *from_side; /* "source" or "target", for people */
	const char *to_side;
	int jobs;
	bool no_owner;      /* what is created belongs to our user on `to` */
	bool no_privileges; /* none are given */
	bool contents_only; /* owner, privileges and comment of what is on both sides stay (way back) */
	const Stop *stop;
	/* A session on `from` whose transaction has locked the large objects (source_fence_lock), or
	 * sees the state that is meant; NULL: none. lo_get of any other session would wait for
	 * those locks, so contents are then read through this one alone. */
	Sql *holder;
	bool held; /* nobody writes to them: no snapshot is needed */
	int64_t
		deadline_ms; /* of what is asked through holder (clock.h), whose own stop knows none; 0: none */
} LobWork;

/* Copies all ranges that the ledger does not have as copied, each in one transaction with
 * its record (C3). Can be run again after any failure. progress may be NULL. */
MUST_CHECK bool lobs_copy(const LobWork *work, Sql *to, const Ledger *ledger, LobProgress *progress,
                          Error *err);

/* Compares; with write, brings `to` up to date, some hundred objects a transaction: what is
 * undone afterwards leaves newer objects on a side that nobody uses yet. */
MUST_CHECK bool lobs_compare(const LobWork *work, bool write, LobDifference *out, Error *err);
static inline uint64_t
lobs_differ(const LobDifference *difference)
{
	return difference->created + difference->dropped + difference->changed;
}

/* *pages: which of the two ways it would be. */
MUST_CHECK bool lobs_by_pages(Sql *from, Sql *to, bool *pages, Error *err);
/* Seconds that a comparison takes, on the slow side of what was seen. */
double lobs_estimate_s(bool pages, uint64_t objects, uint64_t bytes);

#endif
