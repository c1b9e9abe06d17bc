#include "apply/stream/group.h"

/* Rows at least that large go one at a time: their arrays would be large copies, and the
 * server's limit for one parameter is 1 GB. */
enum { BIG_ROW = 1024 * 1024 };

typedef struct {
	const Batch *batch;
	Arena *arena;
	Groups *groups;
	Map *by_columns;
	Buffer key; /* scratch */
} Builder;

static size_t
row_bytes(const Row *row)
{
	size_t bytes = 0;

	for (unsigned i = 0; row->values != NULL && i < row->plan->count; i++)
		if (row->values[i].kind == VALUE_TEXT || row->values[i].kind == VALUE_BINARY)
			bytes += row->values[i].bytes.len;
	return bytes;
}

/* Is this column a parameter of that operation? */
static bool
takes_column(const Row *row, StmtOp op, unsigned i)
{
	const PlanColumn *column = &row->plan->columns[i];

	switch (op) {
	case STMT_UPDATE:
		return column->column != NULL && !column->key && row->values[i].kind != VALUE_UNCHANGED;
	case STMT_INSERT:
	case STMT_DELETE_IMAGE:
		return column->column != NULL;
	default:
		return false;
	}
}

/* Can a column that had this form so far take this value? */
static bool
fits(uint8_t form, ValueKind kind)
{
	return form == FORM_ABSENT || form == VALUE_NULL || kind == VALUE_NULL || form == (uint8_t)kind;
}

static bool
row_fits(const Group *group, const Row *row)
{
	const Plan *plan = row->plan;

	for (unsigned i = 0; i < shape_key_count(&group->shape); i++)
		if (!fits(group->shape.key_forms[i], row->key_values[i].kind))
			return false;
	for (unsigned i = 0; i < plan->count; i++)
		if (group->shape.forms[i] != FORM_ABSENT &&
		    !fits(group->shape.forms[i], row->values[i].kind))
			return false;
	return true;
}

static void
group_add(Group *group, const Row *row, Arena *arena)
{
	if (group->count == group->capacity) {
		const Row **old = group->rows;
		group->capacity = group->capacity * 2 + 4;
		group->rows = arena_alloc(arena, group->capacity * sizeof(*group->rows));
		if (group->count > 0)
			memcpy(group->rows, old, group->count * sizeof(*group->rows));
	}
	group->rows[group->count++] = row;
	for (unsigned i = 0; i < shape_key_count(&group->shape); i++)
		group->shape.key_forms[i] = (uint8_t)row->key_values[i].kind;
	for (unsigned i = 0; i < row->plan->count; i++)
		if (group->shape.forms[i] == VALUE_NULL)
			group->shape.forms[i] = (uint8_t)row->values[i].kind;
}

static Group *
group_new(Builder *b, const Row *row, StmtOp op, bool big)
{
	Group *group = arena_zalloc(b->arena, sizeof(Group));
	const Plan *plan = row->plan;
	Groups *all = b->groups;

	group->shape = (Shape){.plan = plan, .op = op};
	group->shape.key_forms = arena_zalloc(b->arena, plan->key_count);
	group->shape.forms = arena_zalloc(b->arena, plan->count);
	group->big = big;
	for (unsigned i = 0; i < plan->count; i++)
		if (takes_column(row, op, i))
			group->shape.forms[i] = VALUE_NULL;
	if (all->count == all->capacity) {
		Group **old = all->groups;
		all->capacity = all->capacity * 2 + 16;
		all->groups = arena_alloc(b->arena, all->capacity * sizeof(*all->groups));
		if (all->count > 0)
			memcpy(all->groups, old, all->count * sizeof(*all->groups));
	}
	all->groups[all->count++] = group;
	return group;
}

static Group *
group_for(Builder *b, const Row *row, StmtOp op)
{
	bool big = row_bytes(row) >= BIG_ROW;
	Group *group;

	buffer_reset(&b->key);
	buffer_put_u64(&b->key, row->plan->id);
	buffer_put_u8(&b->key, (uint8_t)op);
	buffer_put_u8(&b->key, big);
	for (unsigned i = 0; i < row->plan->count; i++)
		buffer_put_u8(&b->key, takes_column(row, op, i));

	Group *first = map_get(b->by_columns, buffer_slice(&b->key));
	for (group = first; group != NULL; group = group->next_alike)
		if (row_fits(group, row))
			return group;
	group = group_new(b, row, op, big);
	if (first != NULL) {
		group->next_alike = first->next_alike;
		first->next_alike = group;
	} else {
		map_put(b->by_columns, arena_slice(b->arena, buffer_slice(&b->key)), group);
	}
	return group;
}

/* How often the row takes part in a pass (0: not at all). */
static int64_t
times(const Row *row, StmtOp pass)
{
	switch (row->op) {
	case NET_INSERT:
		return pass == STMT_INSERT;
	case NET_UPDATE:
		return pass == STMT_UPDATE;
	case NET_DELETE:
		return pass == STMT_DELETE;
	case NET_REPLACE:
		return pass == STMT_DELETE || pass == STMT_INSERT;
	case NET_IMAGE:
		if (pass == STMT_DELETE)
			return row->net < 0;
		return pass == STMT_INSERT && row->net > 0 ? row->net : 0;
	default:
		return 0;
	}
}

static void
add_pass(Builder *b, int lane, GroupWhich which, StmtOp pass)
{
	for (size_t i = 0; i < b->batch->row_count; i++) {
		const Row *row = b->batch->rows[i];
		if ((lane != GROUP_ALL_LANES && row->lane != lane) ||
		    (which == GROUP_KEYLESS && row->op != NET_IMAGE))
			continue;
		int64_t count = times(row, pass);
		if (count == 0)
			continue;
		bool image = pass == STMT_DELETE && row->op == NET_IMAGE;
		Group *group = group_for(b, row, image ? STMT_DELETE_IMAGE : pass);
		for (int64_t n = 0; n < count; n++)
			group_add(group, row, b->arena);
	}
}

Groups *
groups_build(const Batch *batch, int lane, GroupWhich which, Arena *arena)
{
	Builder b = {
		.batch = batch,
		.arena = arena,
		.groups = arena_zalloc(arena, sizeof(Groups)),
		.by_columns = map_new(64),
		.key = BUFFER_INIT,
	};

	add_pass(&b, lane, which, STMT_DELETE);
	add_pass(&b, lane, which, STMT_UPDATE);
	add_pass(&b, lane, which, STMT_INSERT);
	map_free(b.by_columns);
	buffer_free(&b.key);
	return b.groups;
}

bool
group_is_flat(const Group *group)
{
	const Shape *shape = &group->shape;

	for (unsigned i = 0; i < shape_key_count(shape); i++)
		if (shape->key_forms[i] == VALUE_BINARY &&
		    !shape->plan->columns[shape->plan->key_columns[i]].flat)
			return false;
	for (unsigned i = 0; i < shape->plan->count; i++)
		if (shape->forms[i] == VALUE_BINARY && !shape->plan->columns[i].flat)
			return false;
	return true;
}

bool
group_is_binary(const Group *group)
{
	for (unsigned i = 0; i < group->shape.plan->count; i++)
		if (group->shape.forms[i] == VALUE_TEXT)
			return false;
	return true;
}
