/* Where a selection cuts: what is moved and hangs on what is not; indexes left out. */
#include <string.h>

#include "apply/catalog/catalog_internal.h"
#include "common/map.h"

bool
catalog_moves(const CatalogReader *reader, uint32_t oid, unsigned bits)
{
	uintptr_t moves = (uintptr_t)map_get(reader->moves, slice_of(&oid, sizeof(oid)));

	return (moves & bits) == bits;
}

/* ---- what hangs together ---- */

/* Of every query here. */
enum {
	COL_OID, /* of the one that may be moved */
	COL_SCHEMA,
	COL_NAME,
	COL_OTHER_OID,
	COL_OTHER_SCHEMA,
	COL_OTHER_NAME,
	COL_OTHER_KIND,
	COL_CONSTRAINT_OID, /* NULL but for keys */
	COL_CONSTRAINT,
	COL_DEFINITION
};

#define BOTH_NAMES "c.oid, n.nspname, c.relname, o.oid, p.nspname, o.relname, o.relkind"
#define BOTH_NAMESPACES                                         \
	" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace" \
	" JOIN pg_catalog.pg_namespace p ON p.oid = o.relnamespace"

/* Partitions' own copies of a key are not dumped by themselves. */
static const char keys_sql[] =
	"SELECT " BOTH_NAMES ", k.oid, pg_catalog.quote_ident(k.conname),"
	" pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k"
	" JOIN pg_catalog.pg_class c ON c.oid = k.conrelid"
	" JOIN pg_catalog.pg_class o ON o.oid = k.confrelid" BOTH_NAMESPACES
	" WHERE k.contype = 'f' AND k.conparentid = 0 ORDER BY 2, 3, 9";

static const char inherits_sql[] =
	"SELECT " BOTH_NAMES ", NULL, NULL, NULL FROM pg_catalog.pg_inherits i"
	" JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p', 'f')"
	" JOIN pg_catalog.pg_class o ON o.oid = i.inhparent" BOTH_NAMESPACES " ORDER BY 2, 3, 6";

static const char partitions_sql[] =
	"SELECT " BOTH_NAMES ", NULL, NULL, NULL FROM pg_catalog.pg_inherits i"
	" JOIN pg_catalog.pg_class c ON c.oid = i.inhparent AND c.relkind = 'p'"
	" JOIN pg_catalog.pg_class o ON o.oid = i.inhrelid" BOTH_NAMESPACES " ORDER BY 2, 3, 6";

static const char views_sql[] =
	"SELECT DISTINCT " BOTH_NAMES ", NULL, NULL, NULL FROM pg_catalog.pg_depend d"
	" JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid"
	" JOIN pg_catalog.pg_class c ON c.oid = r.ev_class AND c.relkind IN ('v', 'm')"
	" JOIN pg_catalog.pg_class o ON o.oid = d.refobjid AND o.oid <> c.oid"
	" AND o.relkind IN ('r', 'p', 'f', 'v', 'm') AND o.oid >= 16384" BOTH_NAMESPACES
	" WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass"
	" AND d.refclassid = 'pg_catalog.pg_class'::regclass AND c.oid >= 16384"
	" AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e WHERE e.objid IN (c.oid, o.oid)"
	" AND e.classid = 'pg_catalog.pg_class'::regclass AND e.deptype = 'e')"
	" ORDER BY 2, 3, 6";

/* Views are not in `moves`: they have nothing to copy. */
static bool
other_is_there(const CatalogReader *reader, const PGresult *rows, int row)
{
	uint32_t oid = (uint32_t)sql_get_int(rows, row, COL_OTHER_OID);
	char kind = PQgetvalue(rows, row, COL_OTHER_KIND)[0];

	return kind == 'v' || kind == 'm'
	           ? matches_chosen(reader->matches, oid, PQgetvalue(rows, row, COL_OTHER_SCHEMA))
	           : catalog_moves(reader, oid, MOVES_DEFINITION);
}

static bool
is_cut(const CatalogReader *reader, OutsideKind kind, const PGresult *rows, int row)
{
	uint32_t oid = (uint32_t)sql_get_int(rows, row, COL_OID);
	uint32_t other = (uint32_t)sql_get_int(rows, row, COL_OTHER_OID);

	if (kind == OUTSIDE_VIEW)
		return matches_chosen(reader->matches, oid, PQgetvalue(rows, row, COL_SCHEMA)) &&
		       !other_is_there(reader, rows, row);
	if (!catalog_moves(reader, oid, MOVES_DEFINITION))
		return false;
	if (kind != OUTSIDE_KEY)
		return !catalog_moves(reader, other, MOVES_DEFINITION);
	/* Without rows on its own side it is met by an empty table, too. */
	return !catalog_moves(reader, other, MOVES_WHOLE) &&
	       (catalog_moves(reader, oid, MOVES_ROWS) ||
	        !catalog_moves(reader, other, MOVES_DEFINITION));
}

static const char *
text_or_null(CatalogReader *reader, const PGresult *rows, int row, int column)
{
	return PQgetisnull(rows, row, column)
	           ? NULL
	           : arena_strdup(reader->arena, PQgetvalue(rows, row, column));
}

static void
fill_outside(CatalogReader *reader, OutsideKind kind, Outside *out, const PGresult *rows, int row)
{
	*out = (Outside){
		.kind = kind,
		.oid = (uint32_t)sql_get_int(rows, row, COL_CONSTRAINT_OID),
		.constraint = text_or_null(reader, rows, row, COL_CONSTRAINT),
		.definition = text_or_null(reader, rows, row, COL_DEFINITION),
		.name = catalog_qualified(reader->arena, PQgetvalue(rows, row, COL_SCHEMA),
	                              PQgetvalue(rows, row, COL_NAME)),
		.other = catalog_qualified(reader->arena, PQgetvalue(rows, row, COL_OTHER_SCHEMA),
	                               PQgetvalue(rows, row, COL_OTHER_NAME)),
	};
}

bool
catalog_read_outside(CatalogReader *reader, Error *err)
{
	static const char *const queries[] = {
		[OUTSIDE_KEY] = keys_sql,
		[OUTSIDE_PARENT] = inherits_sql,
		[OUTSIDE_PARTITION] = partitions_sql,
		[OUTSIDE_VIEW] = views_sql,
	};
	Catalog *catalog = reader->catalog;

	for (int kind = OUTSIDE_KEY; kind <= OUTSIDE_VIEW; kind++) {
		PGresult *rows = sql_query(reader->sql, err, queries[kind]);
		if (rows == NULL)
			return error_add_context(err, "reading what the selection cuts");
		Outside *longer = arena_new_array(reader->arena, Outside,
		                                  catalog->outside_count + (size_t)PQntuples(rows) + 1);
		for (size_t i = 0; i < catalog->outside_count; i++)
			longer[i] = catalog->outside[i];
		catalog->outside = longer;
		for (int i = 0; i < PQntuples(rows); i++) {
			if (is_cut(reader, (OutsideKind)kind, rows, i))
				fill_outside(reader, (OutsideKind)kind, &longer[catalog->outside_count++], rows, i);
		}
		PQclear(rows);
	}
	return true;
}

/* ---- indexes ---- */

/* A pattern that names a partitioned index means all below it. */
static PGresult *
query_indexes(CatalogReader *reader, Error *err)
{
	return sql_query(
		reader->sql, err,
		"SELECT c.oid, n.nspname, c.relname, coalesce(i.inhparent, 0), k.conname, x.indrelid"
		" FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid"
		" LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = c.oid"
		" AND k.contype IN ('p', 'u', 'x') WHERE c.oid >= 16384"
		/* parents before what is below them */
		" ORDER BY (SELECT count(*) FROM pg_catalog.pg_partition_ancestors(c.oid)), c.oid");
}

static bool
may_be_omitted(CatalogReader *reader, const PGresult *rows, int row, Error *err)
{
	uint32_t table_oid = (uint32_t)sql_get_int(rows, row, 5);
	const char *name = PQgetvalue(rows, row, 2);
	const Table *table = map_get(reader->by_oid, slice_of(&table_oid, sizeof(table_oid)));

	if (!PQgetisnull(rows, row, 4))
		return error_set(err, ERROR_CONFIG,
		                 "--exclude-index: %s.%s belongs to constraint %s, which cannot be "
		                 "without it",
		                 PQgetvalue(rows, row, 1), name, PQgetvalue(rows, row, 4));
	if (sql_get_int(rows, row, 3) != 0)
		return error_set(err, ERROR_CONFIG,
		                 "--exclude-index: %s.%s is part of a partitioned index: exclude that one",
		                 PQgetvalue(rows, row, 1), name);
	if (table != NULL && table->key_index != NULL && strcmp(table->key_index, name) == 0)
		return error_set(err, ERROR_CONFIG,
		                 "--exclude-index: %s.%s is the replica identity of %s, whose changes "
		                 "are found by it",
		                 PQgetvalue(rows, row, 1), name, table->qualified);
	return true;
}

static bool
is_below_omitted(const Catalog *catalog, uint32_t parent)
{
	for (size_t i = 0; parent != 0 && i < catalog->omitted_index_count; i++) {
		if (catalog->omitted_indexes[i].oid == parent)
			return true;
	}
	return false;
}

bool
catalog_read_omitted_indexes(CatalogReader *reader, Error *err)
{
	Catalog *catalog = reader->catalog;
	bool ok = true;

	if (reader->selection->lists[EXCLUDE_INDEX].count == 0)
		return true;
	PGresult *rows = query_indexes(reader, err);
	if (rows == NULL)
		return error_add_context(err, "reading the indexes");
	catalog->omitted_indexes = arena_new_array(reader->arena, Named, PQntuples(rows) + 1);
	for (int i = 0; ok && i < PQntuples(rows); i++) {
		bool below = is_below_omitted(catalog, (uint32_t)sql_get_int(rows, i, 3));
		if (!below &&
		    !matches_relation(reader->matches, EXCLUDE_INDEX, (uint32_t)sql_get_int(rows, i, 0)))
			continue;
		ok = below || may_be_omitted(reader, rows, i, err);
		catalog_fill_named(reader, &catalog->omitted_indexes[catalog->omitted_index_count++], rows,
		                   i);
	}
	PQclear(rows);
	return ok;
}
