#include "apply/batch/fold.h"

#include "common/memory.h"

/* ---- keys ---- */

static size_t
put_value(uint8_t *out, const Value *value)
{
	uint32_t len = value->kind == VALUE_NULL ? 0 : (uint32_t)value->bytes.len;

	out[0] = (uint8_t)value->kind;
	memcpy(out + 1, &len, sizeof(len));
	if (len > 0)
		memcpy(out + 5, value->bytes.data, len);
	return 5 + (size_t)len;
}

static size_t
value_size(const Value *value)
{
	return 5 + (value->kind == VALUE_NULL ? 0 : value->bytes.len);
}

/* What P4 routes by and N1 finds by: table, then kind, length, bytes of each value. The
 * first eight bytes (the plan) are left out of the routing hash: they do not last. */
enum { KEY_PREFIX = sizeof(uint64_t) };

static Slice
key_bytes(Buffer *key, const Plan *plan, const Value *values, size_t count)
{
	size_t size = KEY_PREFIX;

	for (size_t i = 0; i < count; i++)
		size += value_size(&values[i]);
	buffer_reset(key);
	uint8_t *out = buffer_reserve(key, size);
	memcpy(out, &plan->id, KEY_PREFIX);
	size_t at = KEY_PREFIX;
	for (size_t i = 0; i < count; i++)
		at += put_value(out + at, &values[i]);
	return slice_of(out, size);
}

static Value *
key_values(Arena *arena, const Plan *plan, Value *row)
{
	if (plan->key_count == 1)
		return &row[plan->key_columns[0]];
	Value *out = arena_alloc(arena, plan->key_count * sizeof(Value));
	for (unsigned i = 0; i < plan->key_count; i++)
		out[i] = row[plan->key_columns[i]];
	return out;
}

/* A key is NOT NULL and always sent. */
static bool
check_key(const Plan *plan, const Value *values, Error *err)
{
	for (unsigned i = 0; i < plan->key_count; i++)
		if (values[i].kind != VALUE_TEXT && values[i].kind != VALUE_BINARY)
			return error_set(err, ERROR_PROTOCOL, "a row of %s came without its key",
			                 plan->table->qualified);
	return true;
}

/* ---- rows ---- */

/* The row of this key, which is borrowed; a new one if there is none. */
static Row *
row_find(Batch *batch, const Plan *plan, Slice key)
{
	Row *row = map_get(batch->by_key, key);

	if (row != NULL)
		return row;
	row = arena_zalloc(batch->arena, sizeof(Row));
	row->plan = plan;
	row->key = key = arena_slice(batch->arena, key);
	map_put(batch->by_key, key, row);
	bool keyed = plan->key == KEY_INDEX;
	row->lane = plan_lane(
		plan, keyed ? slice_of(key.data + KEY_PREFIX, key.len - KEY_PREFIX) : SLICE_EMPTY,
		batch->lanes);
	if (batch->row_count == batch->row_capacity) {
		batch->row_capacity = batch->row_capacity * 2 + 64;
		batch->rows = mem_realloc(batch->rows, batch->row_capacity * sizeof(Row *));
	}
	batch->rows[batch->row_count++] = row;
	Share *share = &batch->shares[row->lane];
	*share->end = row;
	share->end = &row->next;
	return row;
}

static bool
all_known(const Plan *plan, const Value *values)
{
	for (unsigned i = 0; i < plan->count; i++)
		if (values[i].kind == VALUE_UNCHANGED)
			return false;
	return true;
}

/* What the change does not say, the batch may know. The change itself gets to know it: when
 * it is replayed, the row has these very values. */
static void
fill_values(const Plan *plan, Value *values, const Value *known)
{
	for (unsigned i = 0; i < plan->count; i++)
		if (values[i].kind == VALUE_UNCHANGED)
			values[i] = known[i];
}

/* Rows borrow their values from the change that has them. */
static void
row_insert(Batch *batch, Row *row, Value *values)
{
	switch (row->op) {
	case NET_NEW:
	case NET_GONE:
		row->op = NET_INSERT;
		break;
	case NET_DELETE:
		row->op = NET_REPLACE;
		break;
	default:
		batch->ordered = true; /* N5 */
		return;
	}
	row->values = values;
}

static void
row_update(Batch *batch, Row *row, Value *values)
{
	switch (row->op) {
	case NET_NEW:
		row->op = NET_UPDATE;
		break;
	case NET_INSERT:
	case NET_UPDATE:
	case NET_REPLACE:
		fill_values(row->plan, values, row->values);
		break;
	default:
		batch->ordered = true; /* N5 */
		return;
	}
	row->values = values;
}

static void
row_delete(Batch *batch, Row *row)
{
	switch (row->op) {
	case NET_NEW:
	case NET_UPDATE:
	case NET_REPLACE:
		row->op = NET_DELETE;
		break;
	case NET_INSERT:
		row->op = NET_GONE;
		break;
	default:
		batch->ordered = true; /* N5 */
	}
}

/* ---- tables with a key ---- */

/* N1: the form of a plan's key columns in this batch, remembered under a key that no row
 * has. False: it changes here. */
static bool
same_form(Batch *batch, const Plan *plan, const Value *values)
{
	uint8_t *forms = map_get(batch->by_key, slice_of(&plan->id, sizeof(plan->id)));

	if (forms == NULL) {
		forms = arena_zalloc(batch->arena, plan->key_count);
		map_put(batch->by_key, slice_of(&plan->id, sizeof(plan->id)), forms);
	}
	for (unsigned i = 0; i < plan->key_count; i++) {
		if (forms[i] == 0)
			forms[i] = (uint8_t)values[i].kind;
		else if (forms[i] != (uint8_t)values[i].kind)
			return false;
	}
	return true;
}

/* A change that cannot be folded is a batch of its own. */
static BatchAdd
stand_alone(Batch *batch)
{
	if (batch->change_count > 0)
		return BATCH_CLOSE_FIRST;
	batch->ordered = true;
	batch->closed = true;
	return BATCH_ADDED;
}

/* N3. The old row's values that this batch knows fill what the new one does not say. */
static BatchAdd
change_key(Batch *batch, const Change *change, Value *old_values, Value *new_values)
{
	const Plan *plan = change->plan;
	Slice key = key_bytes(&batch->key, plan, old_values, plan->key_count);
	Row *from = map_get(batch->by_key, key);

	if (from != NULL && from->values != NULL && from->op != NET_DELETE && from->op != NET_GONE)
		fill_values(plan, change->new_row, from->values);
	if (!all_known(plan, change->new_row))
		return stand_alone(batch);
	from = row_find(batch, plan, key);
	from->key_values = old_values;
	from->last = change;
	row_delete(batch, from);
	Row *to = row_find(batch, plan, key_bytes(&batch->key, plan, new_values, plan->key_count));
	to->key_values = new_values;
	to->last = change;
	row_insert(batch, to, change->new_row);
	return BATCH_ADDED;
}

static bool
same_key(const Plan *plan, const Value *a, const Value *b)
{
	for (unsigned i = 0; i < plan->key_count; i++)
		if (a[i].kind != b[i].kind || !slice_eq(a[i].bytes, b[i].bytes))
			return false;
	return true;
}

static BatchAdd
fold_keyed(Batch *batch, const Change *change, Error *err)
{
	const Plan *plan = change->plan;
	Value *new_values = change->new_row != NULL ? key_values(batch->arena, plan, change->new_row)
	                                            : NULL;
	Value *old_values = change->old_row != NULL ? key_values(batch->arena, plan, change->old_row)
	                                            : new_values;

	if (!check_key(plan, old_values, err) ||
	    (new_values != NULL && !check_key(plan, new_values, err)))
		return BATCH_BAD;
	if (!same_form(batch, plan, old_values) ||
	    (new_values != NULL && !same_form(batch, plan, new_values)))
		return stand_alone(batch);
	if (change->kind == PGO_UPDATE && !same_key(plan, old_values, new_values))
		return change_key(batch, change, old_values, new_values);
	Row *row = row_find(batch, plan, key_bytes(&batch->key, plan, old_values, plan->key_count));
	row->key_values = old_values;
	row->last = change;
	if (change->kind == PGO_INSERT)
		row_insert(batch, row, change->new_row);
	else if (change->kind == PGO_UPDATE)
		row_update(batch, row, change->new_row);
	else
		row_delete(batch, row);
	return BATCH_ADDED;
}

/* ---- tables without ---- */

static void
count_image(Batch *batch, const Change *change, Value *values, int64_t by)
{
	const Plan *plan = change->plan;
	Row *row = row_find(batch, plan, key_bytes(&batch->key, plan, values, plan->count));

	row->op = NET_IMAGE;
	row->values = values;
	row->net += by;
	row->last = change;
}

static BatchAdd
fold_image(Batch *batch, const Change *change, Error *err)
{
	const Plan *plan = change->plan;

	if (change->kind != PGO_INSERT && (plan->key != KEY_FULL || change->old_kind != OLD_FULL)) {
		error_set(err, ERROR_PROTOCOL, "%s: update or delete without the old row",
		          plan->table->qualified);
		return BATCH_BAD;
	}
	if ((change->new_row != NULL && !all_known(plan, change->new_row)) ||
	    (change->old_row != NULL && !all_known(plan, change->old_row))) {
		error_set(err, ERROR_PROTOCOL, "%s: a row came without all of its values",
		          plan->table->qualified);
		return BATCH_BAD;
	}
	if (change->old_row != NULL)
		count_image(batch, change, change->old_row, -1);
	if (change->new_row != NULL)
		count_image(batch, change, change->new_row, 1);
	return BATCH_ADDED;
}

BatchAdd
fold_change(Batch *batch, const Change *change, Error *err)
{
	return change->plan->key == KEY_INDEX ? fold_keyed(batch, change, err)
	                                      : fold_image(batch, change, err);
}
