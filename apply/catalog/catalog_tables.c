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
	COL_PARENT,
	COL_TOAST
};

/* A row of the query: what is needed to decide about it and its parents. */
typedef struct Relation {
	uint32_t oid;
	uint32_t parent;
	char kind;
	bool unlogged;
	bool wanted;  /* leaf: included with its rows; parent: a leaf below it is */
	bool rowless; /* included without rows, or above such a leaf */
	bool omitted; /* left out by a table above it */
	bool partial; /* parent: not all leaves below it are wanted */
	const char *schema;
	const char *name;
} Relation;

typedef struct {
	Relation *items;
	size_t count;
	Map *by_oid;
} Relations;

/* Largest first: the copy's long poles start at once. Heap and TOAST alone: pg_table_size looks
 * at the other forks and at TOAST's index too, which for thousands of tables is most of the time
 * that the whole catalogue takes. */
static PGresult *
query_relations(CatalogReader *reader, Error *err)
{
	const char *toast = reader->sizes
	                        ? "coalesce(pg_catalog.pg_relation_size(nullif(c.reltoastrelid, 0)), 0)"
	                        : "0";
	const char *heap =
		reader->sizes ? "coalesce(pg_catalog.pg_relation_size(c.oid), 0)"
					  : "c.relpages::bigint * pg_catalog.current_setting('block_size')::bigint";

	return sql_queryf(
		reader->sql, err,
		"SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relispartition,"
		" s.heap + s.toast AS bytes, CASE WHEN c.reltuples < 0 OR (c.relpages = 0"
		" AND c.reltuples = 0) THEN -1 ELSE c.reltuples::bigint END, c.relreplident,"
		" coalesce(i.inhparent, 0), s.toast"
		" FROM pg_catalog.pg_class c"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND c.relispartition"
		" CROSS JOIN LATERAL (SELECT CASE c.relkind WHEN 'r' THEN %s ELSE 0 END AS heap,"
		" CASE c.relkind WHEN 'r' THEN %s ELSE 0 END AS toast OFFSET 0) s"
		" WHERE c.relkind IN ('r', 'p', 'f') AND " CATALOG_OURS
		" ORDER BY bytes DESC, n.nspname COLLATE \"C\", c.relname COLLATE \"C\"",
		heap, toast);
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
		relation->unlogged = PQgetvalue(rows, row, COL_PERSISTENCE)[0] == 'u';
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
in_list(const CatalogReader *reader, const Relations *relations, SelectionList list,
        const Relation *relation)
{
	for (const Relation *r = relation; r != NULL; r = parent_of(relations, r)) {
		if (matches_relation(reader->matches, list, r->oid))
			return true;
	}
	return false;
}

/* Not a schema's: a partition may lie in another one than its parent. */
static bool
is_chosen(const CatalogReader *reader, const Relations *relations, const Relation *relation)
{
	if (strcmp(relation->schema, reader->own_schema) == 0)
		return false;
	if (in_list(reader, relations, ADDED_TABLE, relation))
		return true;
	if (in_list(reader, relations, EXCLUDE_TABLE, relation))
		return false;
	return matches_by_table(reader->matches)
	           ? in_list(reader, relations, INCLUDE_TABLE, relation)
	           : matches_schema_chosen(reader->matches, relation->schema);
}

static void
choose_leaf(CatalogReader *reader, const Relations *relations, Relation *relation)
{
	Catalog *catalog = reader->catalog;
	bool chosen = is_chosen(reader, relations, relation);

	relation->rowless = chosen && relation->kind == 'r' &&
	                    (in_list(reader, relations, EXCLUDE_DATA, relation) ||
	                     (relation->unlogged && reader->selection->skip_unlogged));
	relation->wanted = chosen && !relation->rowless;
	relation->omitted = !matches_relation(reader->matches, EXCLUDE_TABLE, relation->oid) &&
	                    in_list(reader, relations, EXCLUDE_TABLE, relation);
	if (relation->wanted && relation->kind == 'f')
		catalog->foreign_tables++;
	else if (relation->wanted)
		catalog->table_count++;
	for (Relation *r = parent_of(relations, relation); r != NULL; r = parent_of(relations, r)) {
		r->partial = r->partial || !relation->wanted;
		r->rowless = r->rowless || relation->rowless;
		/* A chosen leaf brings the tables above it; a chosen schema brings nothing else. */
		if (relation->wanted && relation->kind == 'r' && !r->wanted &&
		    (matches_by_table(reader->matches) || is_chosen(reader, relations, r))) {
			r->wanted = true;
			catalog->parent_count++;
		}
	}
}

/* What of the partitioned tables has no leaf to be wanted for is a matter of its own. */
static void
choose_childless(const CatalogReader *reader, const Relations *relations, Relation *relation)
{
	bool chosen = is_chosen(reader, relations, relation);

	relation->rowless = chosen || relation->rowless;
	relation->omitted = !matches_relation(reader->matches, EXCLUDE_TABLE, relation->oid) &&
	                    in_list(reader, relations, EXCLUDE_TABLE, relation);
}

static void
note_move(CatalogReader *reader, const Relation *relation)
{
	uint32_t *oid = arena_alloc(reader->arena, sizeof(*oid));
	uintptr_t moves = (relation->wanted || relation->rowless ? MOVES_DEFINITION : 0) |
	                  (relation->wanted && relation->kind != 'f' ? MOVES_ROWS : 0) |
	                  (relation->wanted && !relation->partial ? MOVES_WHOLE : 0);

	*oid = relation->oid;
	if (moves != 0)
		map_put(reader->moves, slice_of(oid, sizeof(*oid)), (void *)moves);
}

static void
choose(CatalogReader *reader, Relations *relations)
{
	for (size_t i = 0; i < relations->count; i++) {
		if (relations->items[i].kind != 'p')
			choose_leaf(reader, relations, &relations->items[i]);
	}
	for (size_t i = 0; i < relations->count; i++) {
		Relation *relation = &relations->items[i];
		if (relation->kind == 'p' && !relation->wanted)
			choose_childless(reader, relations, relation);
		relation->rowless = relation->rowless && !relation->wanted;
		reader->catalog->rowless_count += relation->rowless;
		reader->catalog->omitted_count += relation->omitted;
		note_move(reader, relation);
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
	table->toast_bytes = (uint64_t)sql_get_int(rows, row, COL_TOAST);
	table->rows_estimate = sql_get_int(rows, row, COL_ROWS);
	table->replica_identity = PQgetvalue(rows, row, COL_IDENTITY)[0];
	atomic_init(&table->state, (int)TABLE_QUEUED);
	if (table->persistence == 'u')
		reader->catalog->unlogged_tables++;
	map_put(reader->by_oid, slice_of(&table->oid, sizeof(table->oid)), table);
	map_put(reader->catalog->by_name, catalog_name_key(arena, table->schema, table->name), table);
}

static Named
named(CatalogReader *reader, const Relation *relation)
{
	return (Named){.oid = relation->oid,
	               .unlogged = relation->unlogged,
	               .schema = arena_strdup(reader->arena, relation->schema),
	               .name = arena_strdup(reader->arena, relation->name),
	               .qualified = catalog_qualified(reader->arena, relation->schema, relation->name)};
}

static void
fill(CatalogReader *reader, const Relations *relations, const PGresult *rows)
{
	Catalog *catalog = reader->catalog;
	size_t tables = 0;
	size_t parents = 0;
	size_t rowless = 0;
	size_t omitted = 0;

	catalog->tables = arena_new_array(reader->arena, Table, catalog->table_count + 1);
	catalog->parents = arena_new_array(reader->arena, Named, catalog->parent_count + 1);
	catalog->rowless = arena_new_array(reader->arena, Named, catalog->rowless_count + 1);
	catalog->omitted = arena_new_array(reader->arena, Named, catalog->omitted_count + 1);
	for (size_t i = 0; i < relations->count; i++) {
		const Relation *relation = &relations->items[i];
		if (relation->wanted && relation->kind == 'r')
			fill_table(reader, &catalog->tables[tables++], rows, (int)i);
		else if (relation->wanted && relation->kind == 'p')
			catalog->parents[parents++] = named(reader, relation);
		else if (relation->rowless)
			catalog->rowless[rowless++] = named(reader, relation);
		else if (relation->omitted)
			catalog->omitted[omitted++] = named(reader, relation);
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
