/*
 * durable.h: which commits the target has flushed (P6).
 *
 * The lanes commit without waiting for the disk. After a batch the target says where its WAL
 * ends, and how far it has been flushed; a batch is durable when the latter has reached the
 * former of its own, or of a later one: small batches ask only now and then (dispatch.c).
 */
#ifndef PGBATON_APPLY_STREAM_DURABLE_H
#define PGBATON_APPLY_STREAM_DURABLE_H

#include <stddef.h>

#include "common/lsn.h"

typedef struct {
	Lsn wal;    /* target: its commits end before this */
	Lsn commit; /* source: the last whole transaction in it */
	Lsn end;
} DurableEntry;

typedef struct {
	DurableEntry *entries; /* a ring that grows, oldest first */
	size_t head;
	size_t count;
	size_t capacity;
	DurableEntry unplaced; /* behind them; wal not known yet. commit LSN_INVALID: none */
	Lsn commit;            /* all up to here are durable */
	Lsn end;
} Durable;

void durable_free(Durable *durable);
/* An entry at the same position as the last one takes its place. wal LSN_INVALID: the next
 * one's position will do. */
void durable_add(Durable *durable, Lsn wal, Lsn commit, Lsn end);
/* Something is not known to be durable. */
bool durable_waits(const Durable *durable);
/* The target has flushed that far. True: commit and end moved. */
bool durable_flushed(Durable *durable, Lsn flushed);
/* A commit that waited for the disk came after all of them. */
bool durable_all(Durable *durable);
/* The target was restarted or the session lost: what was not flushed may be gone. */
void durable_forget(Durable *durable);

#endif
