#include "apply/stream/share.h"

#include <stdlib.h>

#include "apply/stream/encode.h"
#include "common/memory.h"

enum {
	FEW_ROWS = 4,    /* below, a statement a row costs the server less than arrays */
	COPY_ROWS = 256, /* from here on COPY's extra round trip pays */
	AWKWARD_COPY_ROWS = 16,
	VALUES_ROWS = 200 /* images in one list of VALUES */
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
	bool null = value->kind == VALUE_NULL;
	/* An empty value is not NULL, whatever its pointer. */
	const char *data = value->bytes.data != NULL ? (const char *)value->bytes.data : "";

	params->values[params->count] = null ? NULL : data;
	params->lengths[params->count++] = null ? 0 : (int)value->bytes.len;
}

bool
share_send_one(Pipe *pipe, Shape *shape, const Value *key_values, const Value *values,
               const void *tag, Error *err)
{
	unsigned keys = shape_key_count(shape);
	Params params = params_new((int)keys + shape->plan->count);

	shape->rows = 1;
	for (unsigned i = 0; i < keys; i++)
		if (shape->key_forms[i] != FORM_ABSENT)
			params_add(&params, &key_values[i]);
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

typedef struct {
	Buffer *buffers;
	int count;
} Arrays;

static Buffer *
array_begin(Arrays *arrays, uint32_t element, uint32_t count)
{
	Buffer *out = &arrays->buffers[arrays->count++];
	*out = BUFFER_INIT;
	encode_array_begin(out, element, count);
	return out;
}

static uint32_t
element_oid(const Column *column, uint8_t form)
{
	return form == VALUE_BINARY ? column->target_type_oid : 25 /* text */;
}

static void
put_key_arrays(Arrays *arrays, const Group *group)
{
	const Plan *plan = group->shape.plan;

	for (unsigned k = 0; k < shape_key_count(&group->shape); k++) {
		const Column *column = plan->columns[plan->key_columns[k]].column;
		Buffer *out = array_begin(arrays, element_oid(column, group->shape.key_forms[k]),
		                          group->count);
		for (uint32_t i = 0; i < group->count; i++)
			encode_value(out, &group->rows[i]->key_values[k]);
	}
}

static void
put_arrays(Arrays *arrays, const Group *group)
{
	const Plan *plan = group->shape.plan;

	for (unsigned c = 0; c < plan->count; c++) {
		if (group->shape.forms[c] == FORM_ABSENT)
			continue;
		const Column *column = plan->columns[c].column;
		Buffer *out = array_begin(arrays, element_oid(column, group->shape.forms[c]), group->count);
		for (uint32_t i = 0; i < group->count; i++)
			encode_value(out, &group->rows[i]->values[c]);
	}
}

/* Ordinals and how many copies of each image go; the total is returned. */
static int64_t
put_counts(Arrays *arrays, const Group *group)
{
	int64_t total = 0;
	Buffer *ord = array_begin(arrays, 23 /* int4 */, group->count);

	for (uint32_t i = 0; i < group->count; i++)
		encode_int4(ord, (int32_t)i);
	Buffer *n = array_begin(arrays, 20 /* int8 */, group->count);
	for (uint32_t i = 0; i < group->count; i++) {
		encode_int8(n, -group->rows[i]->net);
		total -= group->rows[i]->net;
	}
	return total;
}

static bool
send_arrays(Pipe *pipe, const Group *group, PipeResult result, void *arg, Error *err)
{
	Shape shape = group->shape;
	size_t most = (size_t)shape_key_count(&shape) + shape.plan->count + 2;
	Arrays arrays = {.buffers = mem_alloc(most * sizeof(Buffer))};
	Params params = params_new((int)most);
	int64_t rows = group->count;

	shape.rows = 0;
	if (shape.op == STMT_DELETE_IMAGE)
		rows = put_counts(&arrays, group);
	put_key_arrays(&arrays, group);
	put_arrays(&arrays, group);
	for (int i = 0; i < arrays.count; i++) {
		Value value = {VALUE_BINARY, buffer_slice(&arrays.buffers[i])};
		params_add(&params, &value);
	}
	if (result != NULL)
		rows = PIPE_ANY_COUNT;
	bool ok = pipe_shape(pipe, &shape, params.values, params.lengths, rows, group, result, arg,
	                     err);
	for (int i = 0; i < arrays.count; i++)
		buffer_free(&arrays.buffers[i]);
	free(arrays.buffers);
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
	Buffer rows = BUFFER_INIT;
	uint16_t fields;
	PipeEnd end = pipe_finish(pipe, failed, err);

	if (end != PIPE_OK)
		return end;
	copy_statement(group, &sql, &fields);
	encode_copy_begin(&rows);
	for (uint32_t i = 0; i < group->count; i++) {
		encode_copy_row(&rows, fields);
		for (unsigned c = 0; c < group->shape.plan->count; c++)
			if (group->shape.forms[c] != FORM_ABSENT)
				encode_value(&rows, &group->rows[i]->values[c]);
	}
	encode_copy_end(&rows);
	bool ok = pipe_copy(pipe, buffer_cstr(&sql), buffer_slice(&rows), group->count, err);
	buffer_free(&sql);
	buffer_free(&rows);
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
share_run(Pipe *pipe, const Batch *batch, int lane, Arena *arena, Error *err)
{
	Groups *groups = groups_build(batch, lane, GROUP_ALL_TABLES, arena);
	const void *failed = NULL;

	for (size_t i = 0; i < groups->count; i++) {
		const Group *group = groups->groups[i];
		PipeEnd end = wants_copy(group) ? run_copy(pipe, group, &failed, err)
		                                : share_group(pipe, group, NULL, NULL, err);
		if (end != PIPE_OK)
			return end;
	}
	return PIPE_OK;
}
