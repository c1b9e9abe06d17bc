#include <stdlib.h>

#include "apply/lane/describe.h"
#include "apply/lane/share.h"
#include "common/memory.h"
#include "protocol/replication.h"

/* Changes in flight before the results are looked at. */
enum { REPLAY_STEP = 2000 };

/* Older ones know no foreign keys to partitioned tables. */
enum { KEYS_TO_PARTITIONED = 120000 };

static void
blame(Pipe *pipe, const Change *change, Error *err)
{
	describe_failure(change, err);
	pipe_blame(pipe, describe_table(change));
}

/* Finishes the pipe; tags are Changes. */
static PipeEnd
finish_changes(Pipe *pipe, Error *err)
{
	const void *failed;
	PipeEnd end = pipe_finish(pipe, &failed, err);

	if (end != PIPE_OK && failed != NULL)
		blame(pipe, failed, err);
	return end;
}

/* ---- tables without a key ---- */

typedef struct {
	uint32_t *deleted;
	uint32_t count;
	uint32_t base;
	uint32_t step;
} Deleted;

static void
count_deleted(void *arg, const PGresult *result)
{
	Deleted *d = arg;

	for (int i = 0; i < PQntuples(result); i++) {
		uint32_t at = d->base + (uint32_t)sql_get_int(result, i, 0);
		CHECK(at < d->count);
		d->deleted[at]++;
	}
	d->base += d->step;
}

/* What the one pass did not find is looked for row by row, with equality instead of
 * identity; what is not found then either is named. */
static bool
send_missing(Pipe *pipe, const Group *group, const uint32_t *deleted, Error *err)
{
	Shape shape = group->shape;

	shape.op = STMT_DELETE_ONE_IMAGE;
	shape.key_forms = group->shape.forms;
	shape.forms = mem_zalloc(group->shape.plan->count + 1u);
	bool ok = true;
	for (uint32_t i = 0; ok && i < group->count; i++) {
		const Row *row = group->rows[i];
		for (int64_t n = deleted[i]; ok && n < -row->net; n++)
			ok = share_send_one(pipe, &shape, row->values, row->values, row->last, err);
	}
	free(shape.forms);
	return ok;
}

static PipeEnd
replay_deletes(Pipe *pipe, const Group *group, Error *err)
{
	Deleted found = {
		.deleted = mem_zalloc(sizeof(uint32_t) * group->count),
		.count = group->count,
		.step = share_image_step(group),
	};
	const void *failed;

	PipeEnd end = share_group(pipe, group, count_deleted, &found, err);
	if (end == PIPE_OK) {
		end = pipe_finish(pipe, &failed, err);
		if (end != PIPE_OK && failed != NULL)
			blame(pipe, group->rows[0]->last, err);
	}
	if (end == PIPE_OK)
		end = send_missing(pipe, group, found.deleted, err) ? finish_changes(pipe, err)
		                                                    : PIPE_ERROR;
	free(found.deleted);
	return end;
}

static PipeEnd
replay_rows(Pipe *pipe, const Group *group, Error *err)
{
	Shape shape = group->shape;

	for (uint32_t i = 0; i < group->count; i++) {
		const Row *row = group->rows[i];
		if (!share_send_one(pipe, &shape, row->key_values, row->values, row->last, err))
			return PIPE_ERROR;
		if (i % REPLAY_STEP == REPLAY_STEP - 1) {
			PipeEnd end = finish_changes(pipe, err);
			if (end != PIPE_OK)
				return end;
		}
	}
	return finish_changes(pipe, err);
}

static PipeEnd
replay_groups(Pipe *pipe, const Groups *groups, Error *err)
{
	for (size_t i = 0; i < groups->count; i++) {
		const Group *group = groups->groups[i];
		PipeEnd end = group->shape.op == STMT_DELETE_IMAGE ? replay_deletes(pipe, group, err)
		                                                   : replay_rows(pipe, group, err);
		if (end != PIPE_OK)
			return end;
	}
	return PIPE_OK;
}

PipeEnd
replay_share(Pipe *pipe, const Batch *batch, int lane, Arena *arena, Error *err)
{
	return replay_groups(pipe, groups_build(batch, lane, GROUP_ALL_TABLES, arena), err);
}

static PipeEnd
replay_keyless(Pipe *pipe, const Batch *batch, Arena *arena, Error *err)
{
	return replay_groups(pipe, groups_build(batch, GROUP_ALL_LANES, GROUP_KEYLESS, arena), err);
}

/* ---- tables with a key ---- */

static bool
key_changed(const Change *change)
{
	const Plan *plan = change->plan;

	if (change->kind != PGO_UPDATE || change->old_row == NULL)
		return false;
	for (unsigned i = 0; i < plan->key_count; i++) {
		unsigned at = plan->key_columns[i];
		if (!slice_eq(change->old_row[at].bytes, change->new_row[at].bytes))
			return true;
	}
	return false;
}

static bool
send_keyed(Pipe *pipe, const Change *change, Arena *arena, Error *err)
{
	const Plan *plan = change->plan;
	const Value *old = change->old_row != NULL ? change->old_row : change->new_row;
	Value *key = arena_new_array(arena, Value, plan->key_count);
	bool moved = key_changed(change);
	Shape shape = {.plan = plan};

	shape.op = change->kind == PGO_INSERT   ? STMT_INSERT
	           : change->kind == PGO_UPDATE ? STMT_UPDATE
	                                        : STMT_DELETE;
	shape.key_forms = arena_zalloc(arena, plan->key_count);
	shape.forms = arena_zalloc(arena, plan->count);
	for (unsigned i = 0; i < plan->key_count; i++) {
		key[i] = old[plan->key_columns[i]];
		shape.key_forms[i] = (uint8_t)key[i].kind;
	}
	for (unsigned i = 0; shape.op != STMT_DELETE && i < plan->count; i++) {
		const PlanColumn *column = &plan->columns[i];
		bool unchanged = change->new_row[i].kind == VALUE_UNCHANGED;
		shape.masked = shape.masked || unchanged;
		if (column->column != NULL && (shape.op == STMT_INSERT || moved || !column->key))
			shape.forms[i] = unchanged || change->new_row[i].kind == VALUE_NULL
			                     ? column->form
			                     : (uint8_t)change->new_row[i].kind;
	}
	return share_send_one(pipe, &shape, key, change->new_row, change, err);
}

static void
take_list(void *arg, const PGresult *result)
{
	Buffer *list = arg;

	for (int i = 0; i < PQntuples(result); i++)
		buffer_printf(list, "%s%s", i > 0 ? ", " : "", PQgetvalue(result, i, 0));
}

/*
 * ONLY: the message lists each table by itself, and of partitioned ones the leaves. But a
 * foreign key between partitioned tables is one of the tables above the leaves, too, and the
 * server refuses to truncate what a table refers to that is not in the list: where all leaves
 * below a table are, it takes their place.
 */
static bool
put_truncated(Pipe *pipe, const Change *change, Buffer *list, Error *err)
{
	Buffer ask = BUFFER_INIT;
	Buffer names = BUFFER_INIT;
	bool partitions = false;
	const void *failed;

	for (uint32_t i = 0; i < change->table_count; i++) {
		buffer_printf(list, "%sONLY %s", i > 0 ? ", " : "", change->tables[i]->qualified);
		buffer_put_text(&names, i > 0 ? "," : "");
		sql_put_literal(&names, change->tables[i]->qualified);
		partitions = partitions || change->tables[i]->is_partition;
	}
	if (!partitions || pipe_server_version(pipe) < KEYS_TO_PARTITIONED) {
		buffer_free(&names);
		return true;
	}
	buffer_printf(
		&ask,
		"WITH named AS MATERIALIZED (SELECT pg_catalog.unnest(ARRAY[%s]::pg_catalog.regclass[])"
		" AS relid), whole AS MATERIALIZED (SELECT DISTINCT a.relid FROM named n CROSS JOIN"
		" LATERAL pg_catalog.pg_partition_ancestors(n.relid) a WHERE a.relid <> n.relid AND NOT"
		" EXISTS (SELECT FROM pg_catalog.pg_partition_tree(a.relid) t WHERE t.isleaf AND t.relid"
		" NOT IN (SELECT relid FROM named)))"
		" SELECT DISTINCT coalesce((SELECT a.relid::text FROM"
		" pg_catalog.pg_partition_ancestors(n.relid) WITH ORDINALITY a JOIN whole USING (relid)"
		" ORDER BY a.ordinality DESC LIMIT 1), 'ONLY ' || n.relid::text) FROM named n",
		buffer_cstr(&names));
	buffer_reset(list);
	bool ok = pipe_query(pipe, err, buffer_cstr(&ask), take_list, list) &&
	          pipe_finish(pipe, &failed, err) == PIPE_OK;
	buffer_free(&ask);
	buffer_free(&names);
	return ok;
}

/* No CASCADE: what it would reach on the source is in the list already. */
static bool
send_truncate(Pipe *pipe, const Change *change, Error *err)
{
	Buffer list = BUFFER_INIT;
	bool ok = put_truncated(pipe, change, &list, err) &&
	          pipe_textf(pipe, err, "TRUNCATE %s%s", buffer_cstr(&list),
	                     change->restart_identity ? " RESTART IDENTITY" : "");

	buffer_free(&list);
	return ok;
}

static PipeEnd
replay_change(Pipe *pipe, const Change *change, Arena *arena, Error *err)
{
	if (change->plan != NULL) {
		if (change->plan->key != KEY_INDEX)
			return PIPE_OK; /* replay_keyless did it */
		return send_keyed(pipe, change, arena, err) ? PIPE_OK : PIPE_ERROR;
	}
	const void *failed;
	PipeEnd end = send_truncate(pipe, change, err) ? pipe_finish(pipe, &failed, err) : PIPE_ERROR;
	if (end != PIPE_OK)
		blame(pipe, change, err);
	return end;
}

PipeEnd
replay_run(Pipe *pipe, const Batch *batch, Arena *arena, Error *err)
{
	PipeEnd end = replay_keyless(pipe, batch, arena, err);

	for (size_t i = 0; end == PIPE_OK && i < batch->change_count; i++) {
		end = replay_change(pipe, batch->changes[i], arena, err);
		if (end == PIPE_OK && i % REPLAY_STEP == REPLAY_STEP - 1)
			end = finish_changes(pipe, err);
	}
	return end == PIPE_OK ? finish_changes(pipe, err) : end;
}
