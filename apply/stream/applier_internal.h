/*
 * applier_internal.h: what applier.c (for other threads) and follow.c (its own thread)
 * share. Nobody else includes it.
 */
#ifndef PGBATON_APPLY_STREAM_APPLIER_INTERNAL_H
#define PGBATON_APPLY_STREAM_APPLIER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "apply/lane/lane.h"
#include "apply/stream/applier.h"
#include "apply/stream/durable.h"
#include "apply/stream/early.h"
#include "apply/stream/feed.h"
#include "apply/stream/tally.h"

enum { MARKERS_KEPT = 64, APPLIER_MOST_LANES = 256 };

/*
 *             connect            error that may pass
 *  (start) -> RETRYING* -> RUNNING ----------> RETRYING -> (connect again)
 *                           |   ^ |
 *               pause       v   | | any other error
 *                        PAUSED-+ +----------> FAILED -> (resume: connect again)
 *  * RETRYING without an error is the first connect. The arrows are in follow.c and
 *    applier.c's thread_main; applier_set_phase is the only writer.
 */
struct Applier {
	ApplierOptions options;
	ConnInfo *target;
	Ledger ledger; /* own copy: lanes change */
	Stop *stop;    /* cancels what runs */
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	ApplierState state; /* under the lock, as all down to `markers` */
	bool stopping;
	bool ended;
	int pauses;
	uint64_t resumes;            /* how often resume was called: wakes FAILED */
	char *markers[MARKERS_KEPT]; /* a ring */
	uint64_t marker_count;

	/* of the applier's thread only */
	Lane **lanes;
	Run *run;
	Task *tasks;
	bool *writes; /* [lane * lanes + row] */
	Feed *feed;
	Batch *filling;
	Batch *flying; /* with the lanes; NULL while a flush is in flight too */
	Batch *spare;  /* the one that flew last, to be filled again */
	bool in_flight;
	/* It is done in the applier's own thread. Lanes that have just finished read it, when the
	 * applier may have moved on already. */
	atomic_bool here;
	int64_t flush_ms;     /* when what was committed is flushed if nothing comes; 0: not set */
	TaskKind kind;        /* of what is in flight */
	bool commits;         /* what is in flight ends its target transaction */
	bool open_tx;         /* one lane: a source transaction larger than a batch */
	int64_t positions_ms; /* when a small batch asks again for the target's WAL positions */
	Tally *tally;
	Durable durable;
	Progress progress; /* committed on the target by all lanes */
	Lsn opened_wal;    /* target's position when the sessions were opened */
	Lsn passed_end;    /* of the old transaction read last */
	Lsn applied_end;   /* as in the state, without its lock */
	Table *errored;    /* shown as such; NULL: none */
	Early *early;      /* ahead.h; NULL: none */
	bool met;          /* its commit is what comes next */

	atomic_bool early_allowed;
};

/* Runs until stop or error: connects, levels, follows. False: *retry says whether it may
 * pass by itself. True: stopped. Leaves nothing open. */
MUST_CHECK bool follow(Applier *applier, bool *retry, Error *err);

void applier_set_phase(Applier *applier, ApplierPhase phase, const Error *err);
bool applier_stopping(Applier *applier);
/* Waits while paused (phase PAUSED) or until the stop. */
void applier_wait_paused(Applier *applier);
bool applier_paused(Applier *applier);
void applier_announce(Applier *applier, const char *marker);

#endif
