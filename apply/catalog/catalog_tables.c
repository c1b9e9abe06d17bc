/* Tables, leaves and the partitioned tables above them. */
#include <stdlib.h>
#include <string.h>

#include "apply/catalog/catalog_internal.h"
#include "common/map.h"
#include "common/memory.h"

enum {
	COL_OID,
	COL_SCHEMA,
	COL_NAME,
	COL_KIND,
	COL_PERSISTENCE,
	COL_PARTITION,
	COL_BYTES,
	COL_ROWS,
	COL_IDENTITY,
	COL_PARENT
};

/* A row of the query: what is needed to decide about it and its parents. */
typedef struct Relation {
	uint32_t oid;
	uint32_t parent;
	char kind;
	bool wanted; /* leaf: included; parent: a leaf below it is */
	const char *schema;
	const char *name;
} Relation;

typedef struct {
	Relation *items;
	size_t count;
	Map *by_oid;
} Relations;

/* Largest first: the copy's long poles start at once. */
static PGresult *
query_relations(CatalogReader *reader, Error *err)
{
	const char
		*size = reader->sizes
	                ? "CASE WHEN c.relkind = 'r' THEN coalesce(pg_catalog.pg_table_size(c.oid), 0)"
	                  " ELSE 0 END"
	                : "c.relpages::bigint * pg_catalog.current_setting('block_size')::bigint";

	return sql_queryf(
		reader->sql, err,
		"SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relispartition,"
		" %s AS bytes, CASE WHEN c.reltuples < 0 OR (c.relpages = 0 AND c.reltuples = 0)"
		" THEN -1 ELSE c.reltuples::bigint END, c.relreplident, coalesce(i.inhparent, 0)"
		" FROM pg_catalog.pg_class c"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND c.relispartition"
		" WHERE c.relkind IN ('r', 'p', 'f') AND " CATALOG_OURS
		" ORDER BY bytes DESC, n.nspname COLLATE \"C\", c.relname COLLATE \"C\"",
		size);
}

static void
load_relations(CatalogReader *reader, const PGresult *rows, Relations *out)
{
	out->count = (size_t)PQntuples(rows);
	out->items = mem_zalloc(sizeof(Relation) * (out->count + 1));
	out->by_oid = map_new(out->count);
	for (size_t i = 0; i < out->count; i++) {
		Relation *relation = &out->items[i];
		int row = (int)i;
		relation->oid = (uint32_t)sql_get_int(rows, row, COL_OID);
		relation->parent = (uint32_t)sql_get_int(rows, row, COL_PARENT);
		relation->kind = PQgetvalue(rows, row, COL_KIND)[0];
		relation->schema = PQgetvalue(rows, row, COL_SCHEMA);
		relation->name = PQgetvalue(rows, row, COL_NAME);
		map_put(out->by_oid, slice_of(&relation->oid, sizeof(relation->oid)), relation);
	}
	(void)reader;
}

static Relation *
parent_of(const Relations *relations, const Relation *relation)
{
	return relation->parent == 0
	           ? NULL
	           : map_get(relations->by_oid, slice_of(&relation->parent, sizeof(relation->parent)));
}

/* A pattern that names a partitioned table means everything below it. */
static bool
is_chosen(CatalogReader *reader, const Relations *relations, const Relation *relation)
{
	bool included = false;

	if (strcmp(relation->schema, reader->own_schema) == 0)
		return false;
	for (const Relation *r = relation; r != NULL; r = parent_of(relations, r)) {
		if (patterns_exclude(&reader->patterns, r->schema, r->name))
			return false;
		if (patterns_include(&reader->patterns, r->schema, r->name))
			included = true;
	}
	return included;
}

static void
choose(CatalogReader *reader, Relations *relations)
{
	for (size_t i = 0; i < relations->count; i++) {
		Relation *relation = &relations->items[i];
		if (relation->kind == 'p' || !is_chosen(reader, relations, relation))
			continue;
		relation->wanted = true;
		if (relation->kind == 'f') {
			reader->catalog->foreign_tables++;
			continue;
		}
		reader->catalog->table_count++;
		for (Relation *r = parent_of(relations, relation); r != NULL && !r->wanted;
		     r = parent_of(relations, r)) {
			r->wanted = true;
			reader->catalog->parent_count++;
		}
	}
}

static void
fill_table(CatalogReader *reader, Table *table, const PGresult *rows, int row)
{
	Arena *arena = reader->arena;

	table->oid = (uint32_t)sql_get_int(rows, row, COL_OID);
	table->schema = arena_strdup(arena, PQgetvalue(rows, row, COL_SCHEMA));
	table->name = arena_strdup(arena, PQgetvalue(rows, row, COL_NAME));
	table->qualified = catalog_qualified(arena, table->schema, table->name);
	table->persistence = PQgetvalue(rows, row, COL_PERSISTENCE)[0];
	table->is_partition = sql_get_bool(rows, row, COL_PARTITION);
	table->bytes = (uint64_t)sql_get_int(rows, row, COL_BYTES);
	table->rows_estimate = sql_get_int(rows, row, COL_ROWS);
	table->replica_identity = PQgetvalue(rows, row, COL_IDENTITY)[0];
	atomic_init(&table->state, (int)TABLE_QUEUED);
	if (table->persistence == 'u')
		reader->catalog->unlogged_tables++;
	map_put(reader->by_oid, slice_of(&table->oid, sizeof(table->oid)), table);
	map_put(reader->catalog->by_name, catalog_name_key(arena, table->schema, table->name), table);
}

static void
fill(CatalogReader *reader, const Relations *relations, const PGresult *rows)
{
	Catalog *catalog = reader->catalog;
	size_t tables = 0;
	size_t parents = 0;

	catalog->tables = arena_new_array(reader->arena, Table, catalog->table_count + 1);
	catalog->parents = arena_new_array(reader->arena, Named, catalog->parent_count + 1);
	for (size_t i = 0; i < relations->count; i++) {
		const Relation *relation = &relations->items[i];
		if (!relation->wanted || relation->kind == 'f')
			continue;
		if (relation->kind == 'r') {
			fill_table(reader, &catalog->tables[tables++], rows, (int)i);
			continue;
		}
		Named *parent = &catalog->parents[parents++];
		parent->oid = relation->oid;
		parent->schema = arena_strdup(reader->arena, relation->schema);
		parent->name = arena_strdup(reader->arena, relation->name);
		parent->qualified = catalog_qualified(reader->arena, relation->schema, relation->name);
	}
}

bool
catalog_read_tables(CatalogReader *reader, Error *err)
{
	Relations relations;
	PGresult *rows = query_relations(reader, err);

	if (rows == NULL)
		return error_add_context(err, "reading the tables");
	load_relations(reader, rows, &relations);
	choose(reader, &relations);
	fill(reader, &relations, rows);
	map_free(relations.by_oid);
	free(relations.items);
	PQclear(rows);
	return true;
}
