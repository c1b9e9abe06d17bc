#include "apply/batch/batch.h"

#include <stdlib.h>

#include "apply/batch/fold.h"
#include "common/memory.h"

enum { EXPECTED_ROWS = 256 };

static void
begin(Batch *batch, int lanes)
{
	batch->lanes = lanes;
	batch->whole = true;
	batch->shares = arena_new_array(batch->arena, Share, lanes);
	for (int i = 0; i < lanes; i++)
		batch->shares[i].end = &batch->shares[i].first;
}

Batch *
batch_new(int lanes)
{
	Batch *batch = mem_zalloc(sizeof(Batch));

	batch->arena = arena_new(256 * 1024);
	batch->by_key = map_new(EXPECTED_ROWS);
	begin(batch, lanes);
	return batch;
}

void
batch_free(Batch *batch)
{
	if (batch == NULL)
		return;
	free(batch->rows);
	free(batch->changes);
	free(batch->markers);
	buffer_free(&batch->key);
	map_free(batch->by_key);
	arena_free(batch->arena);
	free(batch);
}

void
batch_reset(Batch *batch, int lanes)
{
	Batch kept = *batch;

	arena_recycle(kept.arena);
	map_clear(kept.by_key);
	free(kept.markers);
	*batch = (Batch){
		.arena = kept.arena,
		.by_key = kept.by_key,
		.key = kept.key,
		.rows = kept.rows,
		.row_capacity = kept.row_capacity,
		.changes = kept.changes,
		.change_capacity = kept.change_capacity,
	};
	begin(batch, lanes);
}

size_t
batch_bytes(const Batch *batch)
{
	return arena_used(batch->arena);
}

static void
push_change(Batch *batch, Change *change)
{
	if (batch->change_count == batch->change_capacity) {
		batch->change_capacity = batch->change_capacity * 2 + 64;
		batch->changes = mem_realloc(batch->changes, batch->change_capacity * sizeof(Change *));
	}
	batch->changes[batch->change_count++] = change;
	batch->any = true;
}

/* A tuple must have the columns that its relation has. */
static bool
check_tuple(const Plan *plan, const Tuple *tuple, Error *err)
{
	return tuple->values == NULL || tuple->count == plan->count ||
	       error_set(err, ERROR_PROTOCOL, "a row of %s has %u columns, its relation %u",
	                 plan->table->qualified, tuple->count, plan->count);
}

/* Only what can be TOASTed can be unchanged: STMT_UPDATE relies on it (put_set). */
static bool
check_unchanged(const Plan *plan, const Tuple *tuple, Error *err)
{
	for (unsigned i = 0; tuple->values != NULL && i < tuple->count; i++) {
		const Column *column = plan->columns[i].column;
		if (tuple->values[i].kind == VALUE_UNCHANGED && column != NULL && !column->varlena)
			return error_set(err, ERROR_PROTOCOL, "column \"%s\" of %s came as unchanged",
			                 column->name, plan->table->qualified);
	}
	return true;
}

static Change *
change_new(Batch *batch, const Plan *plan, const PgoMessage *message, Error *err)
{
	Change *change = arena_zalloc(batch->arena, sizeof(Change));

	if (!check_tuple(plan, &message->change.old_row, err) ||
	    !check_tuple(plan, &message->change.new_row, err) ||
	    !check_unchanged(plan, &message->change.new_row, err))
		return NULL;
	change->plan = plan;
	change->kind = message->kind;
	change->old_kind = message->change.old_kind;
	if (change->old_kind != OLD_NONE)
		change->old_row = message->change.old_row.values;
	if (change->kind != PGO_DELETE)
		change->new_row = message->change.new_row.values;
	return change;
}

/* With the whole old row at hand nothing is unknown: an unchanged value is in it. And an
 * unchanged key is the old key. */
static void
resolve_unchanged(Change *change)
{
	if (change->kind != PGO_UPDATE || change->old_row == NULL)
		return;
	for (unsigned i = 0; i < change->plan->count; i++)
		if (change->new_row[i].kind == VALUE_UNCHANGED &&
		    (change->old_kind == OLD_FULL || change->plan->columns[i].key))
			change->new_row[i] = change->old_row[i];
}

BatchAdd
batch_add_in_place(Batch *batch, const Plan *plan, const PgoContext *context, Slice bytes,
                   Lsn commit_lsn, uint32_t xid, Error *err)
{
	PgoMessage message;

	if (batch->closed)
		return BATCH_CLOSE_FIRST;
	if (!pgoutput_parse(context, bytes, batch->arena, &message, err))
		return BATCH_BAD;
	Change *change = change_new(batch, plan, &message, err);
	if (change == NULL)
		return BATCH_BAD;
	change->commit_lsn = commit_lsn;
	change->xid = xid;
	resolve_unchanged(change);

	BatchAdd result = fold_change(batch, change, err);
	if (result == BATCH_ADDED)
		push_change(batch, change);
	return result;
}

BatchAdd
batch_add(Batch *batch, const Plan *plan, const PgoContext *context, Slice bytes, Lsn commit_lsn,
          uint32_t xid, Error *err)
{
	return batch_add_in_place(batch, plan, context, arena_slice(batch->arena, bytes), commit_lsn,
	                          xid, err);
}

void
batch_add_truncate(Batch *batch, Table *const *tables, uint32_t count, bool restart_identity,
                   Lsn commit_lsn, uint32_t xid)
{
	Change *change = arena_zalloc(batch->arena, sizeof(Change));

	CHECK(batch->change_count == 0);
	*change = (Change){
		.kind = PGO_TRUNCATE,
		.commit_lsn = commit_lsn,
		.xid = xid,
		.tables = arena_memdup(batch->arena, tables, count * sizeof(*tables)),
		.table_count = count,
		.restart_identity = restart_identity,
	};
	push_change(batch, change);
	batch->ordered = true;
	batch->closed = true;
}

void
batch_add_marker(Batch *batch, Slice content)
{
	batch->markers = mem_realloc(batch->markers,
	                             (batch->marker_count + 1) * sizeof(*batch->markers));
	batch->markers[batch->marker_count++] = arena_strndup(batch->arena, (const char *)content.data,
	                                                      content.len);
}
