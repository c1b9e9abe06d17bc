#include "apply/lane/group.h"

#include <stdlib.h>

/* Rows at least that large go one at a time: their arrays would be large copies, and the
 * server's limit for one parameter is 1 GB. */
enum { BIG_ROW = 1024 * 1024 };

/* In the order in which they are sent. */
typedef enum { PASS_DELETE, PASS_UPDATE, PASS_INSERT, PASSES } Pass;

/* What decides which groups a row may join, but for its values' forms. */
typedef struct {
	const Plan *plan;
	uint32_t op;
	bool masked;
	bool big;
	uint16_t zero; /* no padding: compared by its bytes */
} Kind;

typedef struct {
	Kind kind;
	Group *first; /* and its next_alike */
} Alike;

typedef struct {
	Arena *arena;
	Map *by_kind;        /* Kind -> Alike */
	Alike *last[PASSES]; /* neighbours are often alike */
	Groups passes[PASSES];
} Builder;

static Kind
kind_of(const Row *row, StmtOp op)
{
	Kind kind = {.plan = row->plan, .op = op};
	size_t bytes = 0;

	if (op == STMT_DELETE)
		return kind;
	for (unsigned i = 0; i < row->plan->count; i++) {
		bytes += row->values[i].bytes.len;
		kind.masked = kind.masked || row->values[i].kind == VALUE_UNCHANGED;
	}
	kind.big = bytes >= BIG_ROW;
	return kind;
}

/* Is this column a parameter of that operation? */
static bool
takes_column(const PlanColumn *column, StmtOp op)
{
	switch (op) {
	case STMT_UPDATE:
		return column->column != NULL && !column->key;
	case STMT_INSERT:
	case STMT_DELETE_IMAGE:
		return column->column != NULL;
	default:
		return false;
	}
}

/* Says nothing of its column's form. */
static bool
is_formless(ValueKind kind)
{
	return kind == VALUE_NULL || kind == VALUE_UNCHANGED;
}

/* Can a column that had this form so far take this value? */
static bool
fits(uint8_t form, ValueKind kind)
{
	return form == (uint8_t)kind || form == FORM_ABSENT || form == VALUE_NULL || is_formless(kind);
}

static bool
row_fits(const Group *group, const Row *row)
{
	const Shape *shape = &group->shape;

	for (unsigned i = 0; i < shape_key_count(shape); i++)
		if (!fits(shape->key_forms[i], row->key_values[i].kind))
			return false;
	for (unsigned i = 0; shape->op != STMT_DELETE && i < row->plan->count; i++)
		if (!fits(shape->forms[i], row->values[i].kind))
			return false;
	return true;
}

static void
group_add(Group *group, const Row *row, Arena *arena)
{
	Shape *shape = &group->shape;

	if (group->count == group->capacity) {
		const Row **old = group->rows;
		group->capacity = group->capacity * 2 + 4;
		group->rows = arena_alloc(arena, group->capacity * sizeof(*group->rows));
		if (group->count > 0)
			memcpy(group->rows, old, group->count * sizeof(*group->rows));
	}
	group->rows[group->count++] = row;
	for (unsigned i = 0; i < shape_key_count(shape); i++)
		shape->key_forms[i] = (uint8_t)row->key_values[i].kind;
	for (unsigned i = 0; shape->op != STMT_DELETE && i < row->plan->count; i++)
		if (shape->forms[i] == VALUE_NULL && !is_formless(row->values[i].kind))
			shape->forms[i] = (uint8_t)row->values[i].kind;
}

static void
groups_add(Groups *all, Group *group, Arena *arena)
{
	if (all->count == all->capacity) {
		Group **old = all->groups;
		all->capacity = all->capacity * 2 + 16;
		all->groups = arena_alloc(arena, all->capacity * sizeof(*all->groups));
		if (all->count > 0)
			memcpy(all->groups, old, all->count * sizeof(*all->groups));
	}
	all->groups[all->count++] = group;
}

static Group *
group_new(Builder *b, const Kind *kind)
{
	Group *group = arena_zalloc(b->arena, sizeof(Group));
	const Plan *plan = kind->plan;

	group->shape = (Shape){.plan = plan, .op = (StmtOp)kind->op, .masked = kind->masked};
	group->shape.key_forms = arena_zalloc(b->arena, plan->key_count);
	group->shape.forms = arena_zalloc(b->arena, plan->count);
	group->big = kind->big;
	for (unsigned i = 0; i < plan->count; i++)
		if (takes_column(&plan->columns[i], group->shape.op))
			group->shape.forms[i] = VALUE_NULL;
	return group;
}

static Alike *
alike_of(Builder *b, const Row *row, StmtOp op, Pass pass)
{
	Kind kind = kind_of(row, op);
	Alike *last = b->last[pass];

	if (last != NULL && memcmp(&last->kind, &kind, sizeof(kind)) == 0)
		return last;
	Alike *alike = map_get(b->by_kind, slice_of(&kind, sizeof(kind)));
	if (alike == NULL) {
		alike = arena_zalloc(b->arena, sizeof(Alike));
		alike->kind = kind;
		map_put(b->by_kind, slice_of(&alike->kind, sizeof(kind)), alike);
	}
	b->last[pass] = alike;
	return alike;
}

static void
add_row(Builder *b, const Row *row, StmtOp op, int64_t times)
{
	Pass pass = op == STMT_INSERT ? PASS_INSERT : op == STMT_UPDATE ? PASS_UPDATE : PASS_DELETE;
	Alike *alike = alike_of(b, row, op, pass);
	Group *group = alike->first;

	while (group != NULL && !row_fits(group, row))
		group = group->next_alike;
	if (group == NULL) {
		group = group_new(b, &alike->kind);
		group->next_alike = alike->first;
		alike->first = group;
		groups_add(&b->passes[pass], group, b->arena);
	}
	for (int64_t n = 0; n < times; n++)
		group_add(group, row, b->arena);
}

static void
take_row(Builder *b, const Row *row, GroupWhich which)
{
	if (which == GROUP_KEYLESS && row->op != NET_IMAGE)
		return;
	switch (row->op) {
	case NET_INSERT:
		add_row(b, row, STMT_INSERT, 1);
		break;
	case NET_UPDATE:
		add_row(b, row, STMT_UPDATE, 1);
		break;
	case NET_DELETE:
		add_row(b, row, STMT_DELETE, 1);
		break;
	case NET_REPLACE:
		add_row(b, row, STMT_DELETE, 1);
		add_row(b, row, STMT_INSERT, 1);
		break;
	case NET_IMAGE:
		if (row->net < 0)
			add_row(b, row, STMT_DELETE_IMAGE, 1);
		else if (row->net > 0)
			add_row(b, row, STMT_INSERT, row->net);
		break;
	case NET_NEW:
	case NET_GONE:
		break;
	}
}

/* A column that has only NULLs takes the form that its values usually have, so that a table
 * has few statements; as text if that keeps the group flat. */
static void
settle_forms(Group *group)
{
	const Plan *plan = group->shape.plan;
	bool flat = group_is_flat(group);

	for (unsigned i = 0; i < plan->count; i++)
		if (group->shape.forms[i] == VALUE_NULL)
			group->shape.forms[i] = flat && !plan->columns[i].flat ? VALUE_TEXT
			                                                       : plan->columns[i].form;
}

static int
compare_keys(const void *a, const void *b)
{
	Slice x = (*(const Row *const *)a)->key;
	Slice y = (*(const Row *const *)b)->key;
	int order = memcmp(x.data, y.data, x.len < y.len ? x.len : y.len);

	return order != 0 ? order : (x.len > y.len) - (x.len < y.len);
}

/* Neighbours in the key's index, and often in the table, stand together: the server finds
 * the next row where it has just been. Bytes in network order sort as the numbers do. */
static void
sort_rows(Group *group)
{
	if (group->shape.op == STMT_UPDATE || group->shape.op == STMT_DELETE)
		qsort(group->rows, group->count, sizeof(*group->rows), compare_keys);
}

Groups *
groups_build(const Batch *batch, int lane, GroupWhich which, Arena *arena)
{
	Builder b = {.arena = arena, .by_kind = map_new(64)};

	if (lane == GROUP_ALL_LANES)
		for (size_t i = 0; i < batch->row_count; i++)
			take_row(&b, batch->rows[i], which);
	else
		for (const Row *row = batch->shares[lane].first; row != NULL; row = row->next)
			take_row(&b, row, which);
	map_free(b.by_kind);
	Groups *all = &b.passes[PASS_DELETE];
	for (Pass pass = PASS_UPDATE; pass < PASSES; pass++)
		for (size_t i = 0; i < b.passes[pass].count; i++)
			groups_add(all, b.passes[pass].groups[i], arena);
	for (size_t i = 0; i < all->count; i++) {
		settle_forms(all->groups[i]);
		sort_rows(all->groups[i]);
	}
	return arena_memdup(arena, all, sizeof(*all));
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
