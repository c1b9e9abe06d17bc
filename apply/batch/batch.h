/*
 * batch.h: changes of the stream, folded to one net change per row.
 *
 * A batch holds both forms: `changes`, all of them in the source's order (for the ordered
 * replay), and `rows`, the net effect (for the set-based statements). Everything lives in
 * the batch's arena, the messages' bytes included. Filled by the applier's thread; once it
 * is handed to the lanes nobody writes to it.
 *
 * Net changes
 *  N1 A row of a table with a key is found by the bytes of its identity's values. Within a
 *     batch a key column comes in one form only (text or binary): the same row cannot hide
 *     behind two images. Where the form changes, the batch ends.
 *  N2 The first change of a row says whether it was there before the batch. insert+update =
 *     insert, update+update = update, update+delete = delete, insert+delete = nothing,
 *     delete+insert = replace.
 *  N3 A changed key is the delete of the old row and the insert of the new one, if all of
 *     the new row is known. If not (an unchanged TOAST value), the change must be an UPDATE
 *     of the key: it is a batch of its own, `ordered`.
 *  N4 A table without a key is a multiset of row images: each image has the count of its
 *     inserts less its deletes.
 *  N5 What the source cannot have done (insert of a row that is there) makes the batch
 *     `ordered`: the replay finds out what the target says to it.
 */
#ifndef PGBATON_APPLY_BATCH_BATCH_H
#define PGBATON_APPLY_BATCH_BATCH_H

#include "apply/batch/plan.h"
#include "apply/ledger.h"
#include "common/arena.h"
#include "common/bytes.h"
#include "common/map.h"

typedef struct {
	const Plan *plan; /* NULL: TRUNCATE */
	PgoKind kind;
	OldKind old_kind;
	Value *old_row; /* plan->count values; NULL: none */
	Value *new_row;
	Lsn commit_lsn;
	uint32_t xid;
	Table **tables; /* TRUNCATE */
	uint32_t table_count;
	bool restart_identity;
} Change;

typedef enum {
	NET_NEW, /* just made: nothing is known yet */
	NET_INSERT,
	NET_UPDATE,
	NET_DELETE,
	NET_REPLACE, /* delete, then insert */
	NET_GONE,    /* was not there before the batch, and is not after it */
	NET_IMAGE    /* N4: `net` copies more (or fewer) */
} NetOp;

typedef struct Row {
	const Plan *plan;
	NetOp op;
	int lane;         /* P4 */
	struct Row *next; /* of the same lane */
	int64_t net;
	Slice key;          /* in the map */
	Value *key_values;  /* plan->key_count */
	Value *values;      /* plan->count; VALUE_UNCHANGED: not known, left as it is */
	const Change *last; /* the last change that touched it, for messages */
} Row;

typedef struct {
	Row *first;
	Row **end; /* where the next one is hung */
} Share;

typedef struct {
	Arena *arena;
	Map *by_key;
	Buffer key; /* scratch: of the row that is looked for */
	Row **rows;
	size_t row_count;
	size_t row_capacity;
	Share *shares; /* [lanes]: the same rows, those of each lane */
	Change **changes;
	size_t change_count;
	size_t change_capacity;
	int lanes;    /* routed for that many */
	bool ordered; /* to be replayed in order */
	bool closed;  /* takes no more changes */

	/* what the batch covers; kept by the reader of the log (feed.c) */
	bool any; /* it covers something, even if no change is left of it */
	Progress end;
	Lsn end_lsn; /* of the last whole transaction in it; invalid: none */
	Lsn commit_lsn;
	int64_t commit_time_us;
	uint64_t transactions;
	bool whole;     /* ends at a transaction's end */
	bool continues; /* begins inside one whose target transaction is open */
	char **markers;
	size_t marker_count;
} Batch;

Batch *batch_new(int lanes);
void batch_free(Batch *batch);
/* Empty as a new one; keeps memory for as many changes as it had. */
void batch_reset(Batch *batch, int lanes);
size_t batch_bytes(const Batch *batch);

typedef enum {
	BATCH_ADDED,
	BATCH_CLOSE_FIRST, /* nothing was done: the change belongs to the next batch */
	BATCH_BAD          /* the message is not what the protocol says: *err */
} BatchAdd;

/* message: an I, U or D of this plan's relation, parsed from bytes that may go away: bytes
 * is copied and parsed again into the batch's arena. */
BatchAdd batch_add(Batch *batch, const Plan *plan, const PgoContext *context, Slice bytes,
                   Lsn commit_lsn, uint32_t xid, Error *err);
/* The same without a copy: the bytes stay where they are as long as the batch (arena_adopt,
 * once they were added). */
BatchAdd batch_add_in_place(Batch *batch, const Plan *plan, const PgoContext *context, Slice bytes,
                            Lsn commit_lsn, uint32_t xid, Error *err);
/* P5: tables (copied) truncated together; the batch must be empty of changes, and takes no
 * more afterwards. */
void batch_add_truncate(Batch *batch, Table *const *tables, uint32_t count, bool restart_identity,
                        Lsn commit_lsn, uint32_t xid);
void batch_add_marker(Batch *batch, Slice content);

#endif
