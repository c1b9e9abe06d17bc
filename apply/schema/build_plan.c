/* Which entry belongs to which table, and how a key can be made in two steps. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/schema/build_plan.h"
#include "common/memory.h"

enum { COL_CLASS, COL_OID, COL_TABLE, COL_PAGES, COL_KEY, COL_JOINS, COL_JOIN };

/*
 * Indexes, keys and statistics objects of tables with rows. A key can take over an index
 * that is there when it is a plain b-tree (exclusion constraints and WITHOUT OVERLAPS are
 * not).
 */
static const char facts_sql[] =
	"SELECT 2606, o.oid, o.conrelid, i.relpages, o.contype = 'p',"
	" o.contype IN ('p', 'u') AND a.amname = 'btree',"
	" pg_catalog.format('ALTER TABLE ONLY %I.%I ADD CONSTRAINT %I %s USING INDEX %I%s%s;',"
	"  n.nspname, t.relname, o.conname, CASE o.contype WHEN 'p' THEN 'PRIMARY KEY'"
	"  ELSE 'UNIQUE' END, i.relname, CASE WHEN o.condeferrable THEN ' DEFERRABLE' ELSE '' END,"
	"  CASE WHEN o.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END)"
	" FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_class t ON t.oid = o.conrelid"
	" JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace"
	" JOIN pg_catalog.pg_class i ON i.oid = o.conindid JOIN pg_catalog.pg_am a ON a.oid = i.relam"
	" WHERE o.contype IN ('p', 'u', 'x') AND t.relkind = 'r' AND t.oid >= 16384"
	" UNION ALL SELECT 1259, i.oid, t.oid, i.relpages, false, false, ''"
	" FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid"
	" JOIN pg_catalog.pg_class t ON t.oid = x.indrelid WHERE t.relkind = 'r' AND t.oid >= 16384"
	" UNION ALL SELECT 3381, s.oid, s.stxrelid, 0, false, false, ''"
	" FROM pg_catalog.pg_statistic_ext s";

/* By class and OID of the object. */
typedef struct {
	PGresult *rows;
	Map *by_object; /* to the row's number + 1 */
	uint32_t (*objects)[2];
	Map *tables; /* OID -> Table */
} Facts;

static bool
facts_read(Facts *facts, Sql *source, const Catalog *catalog, Arena *arena, Error *err)
{
	facts->rows = sql_query(source, err, facts_sql);
	if (facts->rows == NULL)
		return false;
	size_t count = (size_t)PQntuples(facts->rows);
	facts->by_object = map_new(count);
	facts->objects = arena_alloc(arena, sizeof(facts->objects[0]) * (count + 1));
	for (size_t i = 0; i < count; i++) {
		facts->objects[i][0] = (uint32_t)sql_get_int(facts->rows, (int)i, COL_CLASS);
		facts->objects[i][1] = (uint32_t)sql_get_int(facts->rows, (int)i, COL_OID);
		map_put(facts->by_object, slice_of(facts->objects[i], sizeof(facts->objects[i])),
		        (void *)(uintptr_t)(i + 1));
	}
	facts->tables = map_new(catalog->table_count);
	for (size_t i = 0; i < catalog->table_count; i++) {
		Table *table = &catalog->tables[i];
		map_put(facts->tables, slice_of(&table->oid, sizeof(table->oid)), table);
	}
	return true;
}

static void
facts_free(Facts *facts)
{
	PQclear(facts->rows);
	map_free(facts->by_object);
	map_free(facts->tables);
}

/* -1: the source does not have it (any more), or it has no rows. */
static int
facts_find(const Facts *facts, const Entry *entry, Table **table)
{
	uint32_t object[2] = {entry->class_oid, entry->oid};
	uintptr_t found = (uintptr_t)map_get(facts->by_object, slice_of(object, sizeof(object)));

	*table = NULL;
	if (found == 0)
		return -1;
	int row = (int)found - 1;
	uint32_t oid = (uint32_t)sql_get_int(facts->rows, row, COL_TABLE);
	*table = map_get(facts->tables, slice_of(&oid, sizeof(oid)));
	return *table != NULL ? row : -1;
}

/* ---- items ---- */

static void
table_add(TableBuild *of, Item *item)
{
	if (item->key) {
		item->next = of->items;
		of->items = item;
		if (of->last == &of->items)
			of->last = &item->next;
	} else {
		*of->last = item;
		of->last = &item->next;
	}
	of->item_count++;
}

static void
add_entry(Build *build, const Facts *facts, const Entry *entry)
{
	Table *table;
	int row = facts_find(facts, entry, &table);

	if (row < 0) {
		build->loose[build->loose_count++] = entry;
		return;
	}
	Item *item = arena_new_array(build->archive.arena, Item, 1);
	item->entry = entry;
	item->bytes = (uint64_t)sql_get_int(facts->rows, row, COL_PAGES) * 8192;
	item->key = sql_get_bool(facts->rows, row, COL_KEY);
	item->joins = sql_get_bool(facts->rows, row, COL_JOINS);
	if (item->joins)
		item->join = arena_printf(build->archive.arena, "%s%s", sql_get(facts->rows, row, COL_JOIN),
		                          script_rest(entry->sql));
	table_add(build_table(build, table), item);
}

/* ---- the index of a key ---- */

static size_t
indexes_of(const TableBuild *of)
{
	size_t count = 0;

	for (const Item *item = of->items; item != NULL; item = item->next)
		count += entry_is_index(item->entry);
	return count;
}

/* As pg_dump would print it, had it no constraint. */
static bool
read_index(Build *build, Sql *source, Item *item, Error *err)
{
	PGresult *found = sql_queryf(
		source, err,
		"SELECT pg_catalog.pg_get_indexdef(conindid) FROM pg_catalog.pg_constraint WHERE oid = %u",
		item->entry->oid);

	if (found == NULL)
		return false;
	if (PQntuples(found) == 1 && sql_get(found, 0, 0) != NULL)
		item->index = arena_printf(build->archive.arena, "%s;", sql_get(found, 0, 0));
	PQclear(found);
	return true;
}

/* It pays only where there are others. What an earlier process has begun the one way or the
 * other goes on so: the table's size may have been another one then. */
static bool
index_comes_first(const Build *build, const Item *item, bool several)
{
	char whole[SCHEMA_STEP_SIZE];
	char index[SCHEMA_STEP_SIZE];

	schema_step_name(item->entry, whole);
	build_index_step(item, index);
	return item->joins && !build_step_done(build, whole) &&
	       (several || build_step_done(build, index));
}

static bool
read_indexes(Build *build, Sql *source, Error *err)
{
	for (size_t i = 0; i < build->work->catalog->table_count; i++) {
		TableBuild *of = &build->tables[i];
		bool several = !build_is_small(of->table) && indexes_of(of) > 1;
		for (Item *item = of->items; item != NULL; item = item->next) {
			if (index_comes_first(build, item, several) && !read_index(build, source, item, err))
				return false;
		}
	}
	return true;
}

bool
build_plan_read(Build *build, Error *err)
{
	const SchemaWork *work = build->work;
	Facts facts = {0};
	Sql *source = NULL;
	bool ok = archive_post_data(work, &build->archive, &build->entries, err) &&
	          (source = sql_connect(work->source, "source", "schema", work->stop, err)) != NULL &&
	          facts_read(&facts, source, work->catalog, build->archive.arena, err);

	build->loose = arena_new_array(build->archive.arena, const Entry *, build->entries.count + 1);
	for (size_t i = 0; ok && i < build->entries.count; i++) {
		const Entry *entry = &build->entries.items[i];
		if (entry_is_index(entry) ||
		    (entry_joins_indexes(entry) && !entry_waits_for_partition(work, entry)))
			add_entry(build, &facts, entry);
	}
	ok = ok && read_indexes(build, source, err);
	facts_free(&facts);
	sql_close(source);
	return ok;
}

/* ---- steps ---- */

bool
build_step_done(const Build *build, const char *step)
{
	return map_get(build->done, slice_of(step, strlen(step))) != NULL;
}

void
build_index_step(const Item *item, char out[SCHEMA_STEP_SIZE])
{
	snprintf(out, SCHEMA_STEP_SIZE, "index of %s", item->entry->what);
}

void
build_analyze_step(const char *qualified, char out[SCHEMA_STEP_SIZE])
{
	snprintf(out, SCHEMA_STEP_SIZE, "analyze %s", qualified);
}
