/*
 * plan.h: how one version of a relation in the stream maps to its target table.
 *
 * Made once for each Relation message (relation.h). The table is the one with the relation's
 * oid, whatever it is called on the source by now: names may change hands there. Columns go by
 * name: one of the target that the stream does not send is left to its default; one of the
 * stream that the target cannot take makes a plan that does not fit (plan_fits). What identifies
 * a row is what the stream says: the source may have got another key since our start. A plan
 * does not change and lives as long as the arena it was made in; any thread may read it.
 */
#ifndef PGBATON_APPLY_BATCH_PLAN_H
#define PGBATON_APPLY_BATCH_PLAN_H

#include "apply/batch/snapshot.h"
#include "apply/catalog/catalog.h"
#include "decoder/pgoutput.h"

enum { PLAN_MOST_COLUMNS = 1600 }; /* as PostgreSQL's MaxHeapAttributeNumber */

typedef struct {
	const Column *column; /* NULL: not written (generated on the target) */
	bool key;             /* of the identity */
	bool flat;            /* a binary value of it may be an element of an array parameter */
	uint8_t form;         /* VALUE_TEXT or VALUE_BINARY: what the stream is likely to send */
} PlanColumn;

typedef struct {
	uint64_t id;  /* unique in the process */
	bool marker;  /* the migration's own marker table (before 14) */
	int content;  /* its content column */
	Table *table; /* NULL for the marker, and what is no table of ours */
	KeyKind key;
	uint16_t count; /* columns as the stream sends them */
	PlanColumn *columns;
	uint16_t key_count;    /* KEY_INDEX only */
	uint16_t *key_columns; /* positions in the stream, ascending */
	bool elsewhere;        /* not a table of this applier's: nothing below is set */
	Lsn level_lsn;         /* Table.level_lsn */
	bool has_snapshot;     /* C2 */
	Snapshot snapshot;
	Lsn snapshot_lsn;
	const Error *misfit; /* plan_fits */
	uint64_t route;      /* plan_route */
} Plan;

/* own_schema: the migration's schema, whose table "marker" is known. apart: which tables are
 * ours. NULL on error. */
Plan *plan_new(Catalog *catalog, const char *own_schema, bool apart, const PgoRelation *relation,
               Arena *arena, Error *err);

/* C2: this transaction's changes of the table came with its copy; or they are another
 * applier's. */
bool plan_skips(const Plan *plan, Lsn commit_lsn, uint32_t xid);

/* Can a row of it be applied? False, with the reason: only what plan_skips passes over, and a
 * TRUNCATE, can. Apart from plan_new, for what was written under another definition is often
 * passed over: it came with a copy made since. */
bool plan_fits(const Plan *plan, Error *err);

/* The seed, of a table's oid on the side that streams: a start may find another name while the lanes
 * are not level. */
uint64_t plan_route(uint32_t oid);

/* P4: the lane of a row; key is the identity's bytes (batch.h), or empty for a table
 * without a key. */
int plan_lane(const Plan *plan, Slice key, int lanes);

#endif
