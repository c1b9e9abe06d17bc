#include "apply/stream/fold.h"

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
key_bytes(Arena *arena, const Plan *plan, const Value *values, size_t count)
{
	size_t size = KEY_PREFIX;

	for (size_t i = 0; i < count; i++)
		size += value_size(&values[i]);
	uint8_t *out = arena_alloc(arena, size);
	memcpy(out, &plan->id, KEY_PREFIX);
	size_t at = KEY_PREFIX;
	for (size_t i = 0; i < count; i++)
		at += put_value(out + at, &values[i]);
	return slice_of(out, size);
}

static Value *
key_values(Arena *arena, const Plan *plan, const Value *row)
{
	Value *out = arena_new_array(arena, Value, plan->key_count);

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

static Row *
row_find(Batch *batch, const Plan *plan, Slice key)
{
	bool found;
	void **slot = map_slot(batch->by_key, key, &found);

	if (found)
		return *slot;
	Row *row = arena_zalloc(batch->arena, sizeof(Row));
	*slot = row;
	row->plan = plan;
	row->key = key;
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

/* What the change does not say, the batch may know. */
static void
merge_values(const Plan *plan, Value *into, const Value *from)
{
	for (unsigned i = 0; i < plan->count; i++)
		if (from[i].kind != VALUE_UNCHANGED)
			into[i] = from[i];
}

static Value *
copy_values(Arena *arena, const Plan *plan, const Value *from)
{
	return arena_memdup(arena, from, plan->count * sizeof(Value));
}

static void
row_insert(Batch *batch, Row *row, const Value *values)
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
	row->values = copy_values(batch->arena, row->plan, values);
}

static void
row_update(Batch *batch, Row *row, const Value *values)
{
	switch (row->op) {
	case NET_NEW:
		row->op = NET_UPDATE;
		row->values = copy_values(batch->arena, row->plan, values);
		break;
	case NET_INSERT:
	case NET_UPDATE:
	case NET_REPLACE:
		merge_values(row->plan, row->values, values);
		break;
	default:
		batch->ordered = true; /* N5 */
	}
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
	uint64_t *tag = arena_alloc(batch->arena, KEY_PREFIX);
	bool found;

	*tag = plan->id;
	void **slot = map_slot(batch->by_key, slice_of(tag, KEY_PREFIX), &found);
	if (!found)
		*slot = arena_zalloc(batch->arena, plan->key_count);
	uint8_t *forms = *slot;
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
change_key(Batch *batch, const Change *change, Slice old_key, Slice new_key, Value *old_values,
           Value *new_values)
{
	const Plan *plan = change->plan;
	Row *known = map_get(batch->by_key, old_key);
	Value *values = copy_values(batch->arena, plan, change->new_row);

	if (known != NULL && known->values != NULL && known->op != NET_DELETE && known->op != NET_GONE)
		for (unsigned i = 0; i < plan->count; i++)
			if (values[i].kind == VALUE_UNCHANGED)
				values[i] = known->values[i];
	if (!all_known(plan, values))
		return stand_alone(batch);
	Row *from = row_find(batch, plan, old_key);
	from->key_values = old_values;
	from->last = change;
	row_delete(batch, from);
	Row *to = row_find(batch, plan, new_key);
	to->key_values = new_values;
	to->last = change;
	row_insert(batch, to, values);
	return BATCH_ADDED;
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
	Slice old_key = key_bytes(batch->arena, plan, old_values, plan->key_count);

	if (change->kind == PGO_UPDATE && new_values != old_values) {
		Slice new_key = key_bytes(batch->arena, plan, new_values, plan->key_count);
		if (!slice_eq(old_key, new_key))
			return change_key(batch, change, old_key, new_key, old_values, new_values);
	}
	Row *row = row_find(batch, plan, old_key);
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
	Row *row = row_find(batch, plan, key_bytes(batch->arena, plan, values, plan->count));

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
