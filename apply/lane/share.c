#include "apply/lane/share.h"

#include <stdlib.h>

#include "apply/lane/encode.h"
#include "common/memory.h"

enum {
	FEW_ROWS = 4,    /* below, a statement a row costs the server less than arrays */
	COPY_ROWS = 256, /* from here on COPY's extra round trip pays */
	AWKWARD_COPY_ROWS = 16,
	STATEMENT_ROWS = 1000, /* in one statement's arrays */
	VALUES_ROWS = 200,     /* images in one list of VALUES */
	MASK_SIZE = PLAN_MOST_COLUMNS / 8,
};

/* ---- one row ---- */

typedef struct {
	const char **values;
	int *lengths;
	int count;
} Params;

static Params
params_new(int capacity)
{
	return (Params){
		.values = mem_alloc(sizeof(char *) * (size_t)(capacity + 1)),
		.lengths = mem_alloc(sizeof(int) * (size_t)(capacity + 1)),
	};
}

static void
params_free(Params *params)
{
	free(params->values);
	free(params->lengths);
}

static void
params_add(Params *params, const Value *value)
{
	bool null = value->kind == VALUE_NULL || value->kind == VALUE_UNCHANGED;
	/* An empty value is not NULL, whatever its pointer. */
	const char *data = value->bytes.data != NULL ? (const char *)value->bytes.data : "";

	params->values[params->count] = null ? NULL : data;
	params->lengths[params->count++] = null ? 0 : (int)value->bytes.len;
}

/* Which of the row's values are known; get_bit counts from the lowest bit. */
static void
put_mask(uint8_t *mask, const Plan *plan, const Value *values)
{
	memset(mask, 0, (plan->count + 7u) / 8);
	for (unsigned i = 0; i < plan->count; i++)
		if (values[i].kind != VALUE_UNCHANGED)
			mask[i / 8] |= (uint8_t)(1u << i % 8);
}

bool
share_send_one(Pipe *pipe, Shape *shape, const Value *key_values, const Value *values,
               const void *tag, Error *err)
{
	unsigned keys = shape_key_count(shape);
	Params params = params_new((int)keys + 1 + shape->plan->count);
	uint8_t mask[MASK_SIZE];

	shape->rows = 1;
	for (unsigned i = 0; i < keys; i++)
		if (shape->key_forms[i] != FORM_ABSENT)
			params_add(&params, &key_values[i]);
	if (shape->masked) {
		put_mask(mask, shape->plan, values);
		params_add(&params, &(Value){VALUE_BINARY, slice_of(mask, (shape->plan->count + 7u) / 8)});
	}
	for (unsigned i = 0; i < shape->plan->count; i++)
		if (shape->forms[i] != FORM_ABSENT)
			params_add(&params, &values[i]);
	bool ok = pipe_shape(pipe, shape, params.values, params.lengths, 1, tag, NULL, NULL, err);
	params_free(&params);
	return ok;
}

static bool
send_each(Pipe *pipe, const Group *group, Error *err)
{
	Shape shape = group->shape;

	for (uint32_t i = 0; i < group->count; i++)
		if (!share_send_one(pipe, &shape, group->rows[i]->key_values, group->rows[i]->values, group,
		                    err))
			return false;
	return true;
}

/* ---- arrays ---- */

/* A statement's arrays, one behind the other. */
typedef struct {
	Buffer *bytes;
	size_t *ends;
	int count;
} Arrays;

static Buffer *
array_begin(Arrays *arrays, uint32_t element, uint32_t count)
{
	encode_array_begin(arrays->bytes, element, count);
	return arrays->bytes;
}

static void
array_end(Arrays *arrays)
{
	arrays->ends[arrays->count++] = arrays->bytes->len;
}

static uint32_t
element_oid(const Column *column, uint8_t form)
{
	return form == VALUE_BINARY ? column->target_type_oid : 25 /* text */;
}

static void
put_key_arrays(Arrays *arrays, const Group *group, const Row *const *rows, uint32_t count)
{
	const Plan *plan = group->shape.plan;

	for (unsigned k = 0; k < shape_key_count(&group->shape); k++) {
		const Column *column = plan->columns[plan->key_columns[k]].column;
		Buffer *out = array_begin(arrays, element_oid(column, group->shape.key_forms[k]), count);
		for (uint32_t i = 0; i < count; i++)
			encode_value(out, &rows[i]->key_values[k]);
		array_end(arrays);
	}
}

static void
put_masks(Arrays *arrays, const Plan *plan, const Row *const *rows, uint32_t count)
{
	uint8_t mask[MASK_SIZE];
	Value value = {VALUE_BINARY, slice_of(mask, (plan->count + 7u) / 8)};

	Buffer *out = array_begin(arrays, 17 /* bytea */, count);
	for (uint32_t i = 0; i < count; i++) {
		put_mask(mask, plan, rows[i]->values);
		encode_value(out, &value);
	}
	array_end(arrays);
}

static void
put_arrays(Arrays *arrays, const Group *group, const Row *const *rows, uint32_t count)
{
	const Plan *plan = group->shape.plan;

	for (unsigned c = 0; c < plan->count; c++) {
		if (group->shape.forms[c] == FORM_ABSENT)
			continue;
		const Column *column = plan->columns[c].column;
		Buffer *out = array_begin(arrays, element_oid(column, group->shape.forms[c]), count);
		for (uint32_t i = 0; i < count; i++)
			encode_value(out, &rows[i]->values[c]);
		array_end(arrays);
	}
}

/* Ordinals and how many copies of each image go; the total is returned. */
static int64_t
put_counts(Arrays *arrays, const Row *const *rows, uint32_t count)
{
	int64_t total = 0;
	Buffer *out = array_begin(arrays, 23 /* int4 */, count);

	for (uint32_t i = 0; i < count; i++)
		encode_int4(out, (int32_t)i);
	array_end(arrays);
	out = array_begin(arrays, 20 /* int8 */, count);
	for (uint32_t i = 0; i < count; i++) {
		encode_int8(out, -rows[i]->net);
		total -= rows[i]->net;
	}
	array_end(arrays);
	return total;
}

static bool
send_rows(Pipe *pipe, const Group *group, Arrays *arrays, Params *params, const Row *const *rows,
          uint32_t count, PipeResult result, void *arg, Error *err)
{
	Shape shape = group->shape;
	int64_t expected = count;
	size_t at = 0;

	arrays->bytes = pipe_scratch(pipe);
	arrays->count = params->count = 0;
	shape.rows = 0;
	if (shape.op == STMT_DELETE_IMAGE)
		expected = put_counts(arrays, rows, count);
	put_key_arrays(arrays, group, rows, count);
	if (shape.masked)
		put_masks(arrays, shape.plan, rows, count);
	put_arrays(arrays, group, rows, count);
	for (int i = 0; i < arrays->count; i++) {
		Value value = {VALUE_BINARY, slice_of(arrays->bytes->data + at, arrays->ends[i] - at)};
		params_add(params, &value);
		at = arrays->ends[i];
	}
	if (result != NULL)
		expected = PIPE_ANY_COUNT;
	else if (shape.guarded)
		expected = 1;
	return pipe_shape(pipe, &shape, params->values, params->lengths, expected, group, result, arg,
	                  err);
}

/* Several statements where the rows are many: the server works on the first while the next
 * is written, and each side's copies of them stay small enough for the processor's caches.
 * But one where each is a pass over the table. */
static bool
send_arrays(Pipe *pipe, const Group *group, PipeResult result, void *arg, Error *err)
{
	uint32_t step = group->shape.op == STMT_DELETE_IMAGE ? group->count : STATEMENT_ROWS;
	size_t most = (size_t)shape_key_count(&group->shape) + group->shape.plan->count + 3;
	Arrays arrays = {.ends = mem_alloc(most * sizeof(size_t))};
	Params params = params_new((int)most);
	bool ok = true;

	for (uint32_t at = 0; ok && at < group->count; at += step) {
		uint32_t count = group->count - at < step ? group->count - at : step;
		ok = send_rows(pipe, group, &arrays, &params, group->rows + at, count, result, arg, err);
	}
	free(arrays.ends);
	params_free(&params);
	return ok;
}

/* ---- images whose columns cannot be arrays' elements ---- */

static bool
send_values(Pipe *pipe, const Group *group, uint32_t first, uint32_t count, PipeResult result,
            void *arg, Error *err)
{
	const Plan *plan = group->shape.plan;
	Shape shape = group->shape;
	Params params = params_new((int)count * (plan->count + 1));
	uint8_t *counts = mem_alloc(8 * (size_t)count);
	int64_t total = 0;

	shape.rows = count;
	for (uint32_t i = 0; i < count; i++) {
		const Row *row = group->rows[first + i];
		Buffer eight = {counts + 8 * (size_t)i, 0, 8};
		buffer_put_u64(&eight, (uint64_t)-row->net);
		Value n = {VALUE_BINARY, slice_of(counts + 8 * (size_t)i, 8)};
		params_add(&params, &n);
		for (unsigned c = 0; c < plan->count; c++)
			if (shape.forms[c] != FORM_ABSENT)
				params_add(&params, &row->values[c]);
		total -= row->net;
	}
	if (result != NULL)
		total = PIPE_ANY_COUNT;
	bool ok = pipe_shape(pipe, &shape, params.values, params.lengths, total, group, result, arg,
	                     err);
	params_free(&params);
	free(counts);
	return ok;
}

/* ---- COPY ---- */

static void
put_identifier(Buffer *sql, const char *name)
{
	buffer_put_u8(sql, '"');
	for (; *name != '\0'; name++) {
		if (*name == '"')
			buffer_put_u8(sql, '"');
		buffer_put_u8(sql, (uint8_t)*name);
	}
	buffer_put_u8(sql, '"');
}

static void
copy_statement(const Group *group, Buffer *sql, uint16_t *fields)
{
	const Plan *plan = group->shape.plan;

	*fields = 0;
	buffer_printf(sql, "COPY %s (", plan->table->qualified);
	for (unsigned c = 0; c < plan->count; c++) {
		if (group->shape.forms[c] == FORM_ABSENT)
			continue;
		if ((*fields)++ > 0)
			buffer_put_text(sql, ", ");
		put_identifier(sql, plan->columns[c].column->name);
	}
	buffer_put_text(sql, ") FROM STDIN WITH (FORMAT binary)");
}

/* COPY cannot be part of a pipeline: what is queued runs first. */
static PipeEnd
run_copy(Pipe *pipe, const Group *group, const void **failed, Error *err)
{
	Buffer sql = BUFFER_INIT;
	Buffer *rows = pipe_scratch(pipe);
	uint16_t fields;
	PipeEnd end = pipe_finish(pipe, failed, err);

	if (end != PIPE_OK)
		return end;
	copy_statement(group, &sql, &fields);
	encode_copy_begin(rows);
	for (uint32_t i = 0; i < group->count; i++) {
		encode_copy_row(rows, fields);
		for (unsigned c = 0; c < group->shape.plan->count; c++)
			if (group->shape.forms[c] != FORM_ABSENT)
				encode_value(rows, &group->rows[i]->values[c]);
	}
	encode_copy_end(rows);
	bool ok = pipe_copy(pipe, buffer_cstr(&sql), buffer_slice(rows), group->count, err);
	buffer_free(&sql);
	*failed = ok ? NULL : group;
	return ok ? PIPE_OK : PIPE_ERROR;
}

/* ---- groups ---- */

uint32_t
share_image_step(const Group *group)
{
	uint32_t most = (uint32_t)(60000 / (group->shape.plan->count + 1));

	if (group_is_flat(group) && !group->big)
		return group->count;
	return most < VALUES_ROWS ? most : VALUES_ROWS;
}

/* Deletes without a key are the only statements that may scan a table: once a batch. */
static PipeEnd
send_images(Pipe *pipe, const Group *group, PipeResult result, void *arg, Error *err)
{
	uint32_t step = share_image_step(group);

	if (!pipe_text(pipe, err, "SET LOCAL enable_hashjoin = on") ||
	    !pipe_text(pipe, err, "SET LOCAL enable_seqscan = on"))
		return PIPE_ERROR;
	if (group_is_flat(group) && !group->big) {
		if (!send_arrays(pipe, group, result, arg, err))
			return PIPE_ERROR;
	} else {
		for (uint32_t at = 0; at < group->count; at += step) {
			uint32_t count = group->count - at < step ? group->count - at : step;
			if (!send_values(pipe, group, at, count, result, arg, err))
				return PIPE_ERROR;
		}
	}
	return pipe_text(pipe, err, "SET LOCAL enable_hashjoin = off") &&
	               pipe_text(pipe, err, "SET LOCAL enable_seqscan = off")
	           ? PIPE_OK
	           : PIPE_ERROR;
}

static bool
wants_copy(const Group *group)
{
	uint32_t least = group_is_flat(group) ? COPY_ROWS : AWKWARD_COPY_ROWS;

	return group->shape.op == STMT_INSERT && group->shape.plan->count > 0 &&
	       group->count >= least && group_is_binary(group);
}

PipeEnd
share_group(Pipe *pipe, const Group *group, PipeResult result, void *arg, Error *err)
{
	if (group->shape.op == STMT_DELETE_IMAGE)
		return send_images(pipe, group, result, arg, err);
	bool no_columns = group->shape.op == STMT_INSERT && group->shape.plan->count == 0;
	bool each = group->big || group->count < FEW_ROWS || no_columns || !group_is_flat(group);
	bool ok = each ? send_each(pipe, group, err) : send_arrays(pipe, group, result, arg, err);
	return ok ? PIPE_OK : PIPE_ERROR;
}

PipeEnd
share_run(Pipe *pipe, const Batch *batch, int lane, bool guarded, Arena *arena, Error *err)
{
	Groups *groups = groups_build(batch, lane, GROUP_ALL_TABLES, arena);
	const void *failed = NULL;

	for (size_t i = 0; i < groups->count; i++) {
		Group *group = groups->groups[i];
		group->shape.guarded = guarded &&
		                       (group->shape.op == STMT_UPDATE || group->shape.op == STMT_DELETE);
		PipeEnd end = wants_copy(group) ? run_copy(pipe, group, &failed, err)
		                                : share_group(pipe, group, NULL, NULL, err);
		if (end != PIPE_OK)
			return end;
	}
	return PIPE_OK;
}
