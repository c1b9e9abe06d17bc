#include "apply/batch/plan.h"

#include <stdatomic.h>

#include "common/bytes.h"
#include "common/log.h"

static bool
complain(const PgoRelation *relation, const char *column, const char *what, Error *err)
{
	error_set(err, ERROR_CONFIG, "column \"%s\" of table %s.%s %s", column, relation->schema,
	          relation->name, what);
	return error_set_hint(err, "the source's schema changed while it was being migrated: make the "
	                           "same change on the target, then end it and start pgbaton again "
	                           "with the same arguments: it reads both catalogues at its start. "
	                           "Rows written before the change cannot be applied after that: "
	                           "pgbaton recopy copies such a table afresh");
}

static int
find_stream_column(const PgoRelation *relation, const char *name)
{
	for (int i = 0; i < relation->count; i++)
		if (strcmp(relation->columns[i].name, name) == 0)
			return i;
	return -1;
}

static const Column *
find_column(const Table *table, const char *name)
{
	for (unsigned i = 0; i < table->column_count; i++)
		if (strcmp(table->columns[i].name, name) == 0)
			return &table->columns[i];
	return NULL;
}

static bool
map_columns(Plan *plan, const PgoRelation *relation, bool binary, Arena *arena, Error *err)
{
	if (relation->count > PLAN_MOST_COLUMNS)
		return error_set(err, ERROR_PROTOCOL, "table %s.%s has %u columns", relation->schema,
		                 relation->name, relation->count);
	plan->count = relation->count;
	plan->columns = arena_new_array(arena, PlanColumn, relation->count);
	for (unsigned i = 0; i < relation->count; i++) {
		const PgoColumn *from = &relation->columns[i];
		const Column *column = find_column(plan->table, from->name);
		if (column == NULL || column->target_type == NULL)
			return complain(relation, from->name, "is not on the target", err);
		if (column->type_oid != from->type_oid || column->typmod != from->typmod)
			return complain(relation, from->name, "has changed its type on the source", err);
		if (column->target_generated)
			continue;
		plan->columns[i].column = column;
		/* unnest would flatten an array, and needs an array type to travel in. */
		plan->columns[i].flat = !column->is_array && column->target_array_oid != 0;
		plan->columns[i].form = binary && column->binary_safe ? VALUE_BINARY : VALUE_TEXT;
	}
	return true;
}

static bool
is_catalogue_key(const Plan *plan)
{
	const Table *table = plan->table;
	unsigned found = 0;

	for (unsigned i = 0; i < table->key_count; i++) {
		const char *name = table->columns[table->key_columns[i]].name;
		for (unsigned k = 0; k < plan->key_count; k++)
			found += strcmp(plan->columns[plan->key_columns[k]].column->name, name) == 0;
	}
	return plan->key == table->key && found == table->key_count && found == plan->key_count;
}

static void
tell_key(const Plan *plan)
{
	Buffer names = BUFFER_INIT;

	for (unsigned i = 0; i < plan->key_count; i++)
		buffer_printf(&names, "%s%s", i > 0 ? ", " : "",
		              plan->columns[plan->key_columns[i]].column->name);
	if (plan->key == KEY_INDEX)
		log_warning("applier",
		            "the stream identifies rows of %s by (%s), not by the key that the table had "
		            "at the start: without an index for it on the target that is slow",
		            plan->table->qualified, buffer_cstr(&names));
	else if (plan->key == KEY_FULL)
		log_warning("applier",
		            "the stream identifies rows of %s by all of their values, not by the key that "
		            "the table had at the start: each batch reads the whole table",
		            plan->table->qualified);
	buffer_free(&names);
}

/* What the stream says, which was true when the rows were written; the catalogue's key is that
 * of our start. In the stream's order of columns, so that P4 holds whatever the key becomes. */
static bool
map_key(Plan *plan, const PgoRelation *relation, Arena *arena, Error *err)
{
	plan->key_columns = arena_new_array(arena, uint16_t, relation->count);
	plan->key = relation->replica_identity == 'f' ? KEY_FULL : KEY_NOTHING;
	for (unsigned i = 0; plan->key != KEY_FULL && i < relation->count; i++) {
		if (!relation->columns[i].key)
			continue;
		if (plan->columns[i].column == NULL)
			return complain(relation, relation->columns[i].name, "is generated on the target", err);
		plan->columns[i].key = true;
		plan->key_columns[plan->key_count++] = (uint16_t)i;
	}
	if (plan->key_count > 0)
		plan->key = KEY_INDEX;
	if (plan->key != KEY_FULL && plan->table->key_generated)
		return error_set(err, ERROR_CONFIG,
		                 "the replica identity of table %s.%s is no longer FULL on the source, and "
		                 "its key has a generated column",
		                 relation->schema, relation->name);
	if (!is_catalogue_key(plan))
		tell_key(plan);
	return true;
}

static bool
take_snapshot(Plan *plan, Catalog *catalog, Arena *arena, Error *err)
{
	bool ok = true;

	pthread_mutex_lock(&catalog->lock);
	plan->level_lsn = plan->table->level_lsn;
	if (plan->table->snapshot != NULL) {
		ok = snapshot_parse(plan->table->snapshot, arena, &plan->snapshot, err);
		plan->snapshot_lsn = plan->table->snapshot_lsn;
		plan->has_snapshot = true;
	}
	pthread_mutex_unlock(&catalog->lock);
	return ok;
}

static Plan *
plan_marker(Plan *plan, const PgoRelation *relation, Error *err)
{
	plan->marker = true;
	plan->key = KEY_NOTHING;
	plan->count = relation->count;
	plan->content = find_stream_column(relation, "content");
	if (plan->content < 0) {
		error_set(err, ERROR_CONFIG, "table %s.%s has no column \"content\"", relation->schema,
		          relation->name);
		return NULL;
	}
	return plan;
}

/* By oid: two tables may have exchanged their names on the source, and the target has the rows
 * of each where they were. Another one of a name that is ours is not what was copied. *out NULL:
 * it was dropped on the source since, or has come with an addition that the target has lost. What
 * else is published is source_check_publication's question. */
static bool
find_table(const Catalog *catalog, const PgoRelation *relation, Table **out, Error *err)
{
	Table *named = catalog_find(catalog, relation->schema, relation->name);

	*out = named != NULL && named->oid == relation->oid ? named
	                                                    : catalog_find_oid(catalog, relation->oid);
	if (*out != NULL || named == NULL)
		return true;
	error_set(err, ERROR_CONFIG,
	          "table %s.%s is not the one that was copied: it was made anew on the source",
	          relation->schema, relation->name);
	return error_set_hint(err, "cancel and begin again");
}

Plan *
plan_new(Catalog *catalog, const char *own_schema, bool apart, const PgoRelation *relation,
         Arena *arena, Error *err)
{
	static _Atomic uint64_t last_id; /* a number, not a state: plans differ in all appliers */
	Plan *plan = arena_zalloc(arena, sizeof(Plan));

	plan->id = atomic_fetch_add(&last_id, 1) + 1;
	if (strcmp(relation->schema, own_schema) == 0 && strcmp(relation->name, "marker") == 0)
		return plan_marker(plan, relation, err);

	if (!find_table(catalog, relation, &plan->table, err))
		return NULL;
	if (plan->table == NULL)
		log_warning("applier",
		            "table %s.%s of the stream is not in the source's catalogue, or not moved: its "
		            "changes are passed over",
		            relation->schema, relation->name);
	plan->elsewhere = plan->table == NULL || atomic_load(&plan->table->apart) != apart;
	if (plan->elsewhere)
		return plan;
	plan->route = plan_route(plan->table->oid);
	if (!take_snapshot(plan, catalog, arena, err))
		return NULL;
	Error misfit = ERROR_INIT;
	if (!map_columns(plan, relation, catalog->stream_binary, arena, &misfit) ||
	    !map_key(plan, relation, arena, &misfit))
		plan->misfit = arena_memdup(arena, &misfit, sizeof(misfit));
	return plan;
}

bool
plan_skips(const Plan *plan, Lsn commit_lsn, uint32_t xid)
{
	if (plan->elsewhere || lsn_cmp(commit_lsn, plan->level_lsn) <= 0)
		return true;
	return plan->has_snapshot && lsn_cmp(commit_lsn, plan->snapshot_lsn) < 0 &&
	       snapshot_sees(&plan->snapshot, xid);
}

bool
plan_fits(const Plan *plan, Error *err)
{
	if (plan->misfit == NULL)
		return true;
	if (err != NULL)
		*err = *plan->misfit;
	return false;
}

uint64_t
plan_route(uint32_t oid)
{
	uint8_t bytes[4] = {(uint8_t)(oid >> 24), (uint8_t)(oid >> 16), (uint8_t)(oid >> 8),
	                    (uint8_t)oid};

	return hash_bytes(slice_of(bytes, sizeof(bytes)), 0);
}

int
plan_lane(const Plan *plan, Slice key, int lanes)
{
	return lanes <= 1 ? 0 : (int)(hash_bytes(key, plan->route) % (uint64_t)lanes);
}
