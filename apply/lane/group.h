/*
 * group.h: a lane's share of a batch, sorted into statements.
 *
 * A group is the rows that one statement can take together: the same table, operation,
 * columns and forms. The order is deletes, updates, inserts over all tables, so that a
 * replaced row goes before it comes, and a unique value is free before it is taken.
 */
#ifndef PGBATON_APPLY_LANE_GROUP_H
#define PGBATON_APPLY_LANE_GROUP_H

#include "apply/batch/batch.h"
#include "apply/lane/stmt.h"

typedef struct Group {
	Shape shape;      /* rows is not set */
	const Row **rows; /* an image that is inserted n times is here n times */
	uint32_t count;
	uint32_t capacity;
	bool big;                 /* rows with large values: one at a time */
	struct Group *next_alike; /* other forms of the same columns */
} Group;

typedef struct {
	Group **groups;
	size_t count;
	size_t capacity;
} Groups;

enum { GROUP_ALL_LANES = -1 };

typedef enum {
	GROUP_ALL_TABLES,
	GROUP_KEYLESS /* only tables without a key (ordered replay) */
} GroupWhich;

/* In the arena. Borrows the batch's rows. */
Groups *groups_build(const Batch *batch, int lane, GroupWhich which, Arena *arena);

bool group_is_flat(const Group *group);   /* all of it may travel in arrays */
bool group_is_binary(const Group *group); /* no column is in text form */

#endif
