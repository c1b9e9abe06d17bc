/* Sequences, materialised views, and counts of what is not moved. */
#include <stdlib.h>
#include <string.h>

#include "apply/catalog/catalog_internal.h"
#include "common/map.h"

void
catalog_fill_named(CatalogReader *reader, Named *out, const PGresult *rows, int row)
{
	out->oid = (uint32_t)sql_get_int(rows, row, 0);
	out->schema = arena_strdup(reader->arena, PQgetvalue(rows, row, 1));
	out->name = arena_strdup(reader->arena, PQgetvalue(rows, row, 2));
	out->qualified = catalog_qualified(reader->arena, out->schema, out->name);
}

static bool
is_ours(const CatalogReader *reader, const PGresult *rows, int row)
{
	return strcmp(PQgetvalue(rows, row, 1), reader->own_schema) != 0;
}

/* A sequence goes with the table that owns it, whatever the patterns say of itself (so
 * does pg_dump); one that no table owns goes when a moved table's default uses it, or by
 * its own name or schema. */
static bool
sequence_wanted(CatalogReader *reader, const PGresult *rows, int row)
{
	uint32_t owner = (uint32_t)sql_get_int(rows, row, 3);
	const char *users = PQgetvalue(rows, row, 4);
	uint32_t oid = (uint32_t)sql_get_int(rows, row, 0);
	char *end;

	if (!is_ours(reader, rows, row))
		return false;
	if (owner != 0)
		return catalog_moves(reader, owner, MOVES_DEFINITION);
	if (matches_relation(reader->matches, EXCLUDE_TABLE, oid))
		return false;
	for (const char *at = users; *at != '\0'; at = end) {
		uint32_t user = (uint32_t)strtoul(at, &end, 10);
		if (end == at)
			break;
		if (catalog_moves(reader, user, MOVES_DEFINITION))
			return true;
	}
	return matches_chosen(reader->matches, oid, PQgetvalue(rows, row, 1));
}

/* pg_dump would make an owned sequence whose table it was told to leave out. */
static void
grow_omitted(CatalogReader *reader, size_t more)
{
	Catalog *catalog = reader->catalog;
	Named *longer = arena_new_array(reader->arena, Named, catalog->omitted_count + more + 1);

	for (size_t i = 0; i < catalog->omitted_count; i++)
		longer[i] = catalog->omitted[i];
	catalog->omitted = longer;
}

static bool
read_sequences(CatalogReader *reader, Error *err)
{
	PGresult *rows = sql_queryf(
		reader->sql, err,
		"SELECT c.oid, n.nspname, c.relname, coalesce(o.refobjid, 0), coalesce(u.tables, '')"
		" FROM pg_catalog.pg_class c"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" LEFT JOIN pg_catalog.pg_depend o ON o.classid = 'pg_catalog.pg_class'::regclass"
		"  AND o.objid = c.oid AND o.objsubid = 0 AND o.deptype IN ('a', 'i')"
		"  AND o.refclassid = 'pg_catalog.pg_class'::regclass AND o.refobjsubid > 0"
		" LEFT JOIN (SELECT d.refobjid, string_agg(DISTINCT ad.adrelid::text, ' ') AS tables"
		"  FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef ad ON ad.oid = d.objid"
		"  WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass"
		"  AND d.refclassid = 'pg_catalog.pg_class'::regclass GROUP BY d.refobjid) u"
		"  ON u.refobjid = c.oid"
		" WHERE c.relkind = 'S' AND " CATALOG_OURS
		" ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"");

	if (rows == NULL)
		return error_add_context(err, "reading the sequences");
	Catalog *catalog = reader->catalog;
	catalog->sequences = arena_new_array(reader->arena, Named, PQntuples(rows) + 1);
	grow_omitted(reader, (size_t)PQntuples(rows));
	for (int i = 0; i < PQntuples(rows); i++) {
		uint32_t owner = (uint32_t)sql_get_int(rows, i, 3);
		if (sequence_wanted(reader, rows, i))
			catalog_fill_named(reader, &catalog->sequences[catalog->sequence_count++], rows, i);
		else if (owner != 0)
			catalog_fill_named(reader, &catalog->omitted[catalog->omitted_count++], rows, i);
	}
	PQclear(rows);
	return true;
}

/* level: one more than the deepest materialised view below, through any number of
 * plain views. What a function reads is not known to the server, nor here. */
static bool
read_matviews(CatalogReader *reader, Error *err)
{
	PGresult *rows = sql_queryf(
		reader->sql, err,
		"WITH RECURSIVE edge AS (SELECT DISTINCT r.ev_class AS above, d.refobjid AS below"
		"  FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d"
		"  ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid"
		"  AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class"
		"  JOIN pg_catalog.pg_class b ON b.oid = d.refobjid AND b.relkind IN ('m', 'v')"
		"  WHERE r.ev_class >= 16384),"
		" depth(oid, level) AS (SELECT oid, 0 FROM pg_catalog.pg_class WHERE relkind IN ('m', 'v')"
		"  AND oid >= 16384"
		"  UNION SELECT e.above, d.level + 1 FROM depth d JOIN edge e ON e.below = d.oid)"
		"SELECT c.oid, n.nspname, c.relname, max(d.level) AS level"
		" FROM pg_catalog.pg_class c"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" JOIN depth d ON d.oid = c.oid"
		" WHERE c.relkind = 'm' AND c.relispopulated AND " CATALOG_OURS
		" GROUP BY c.oid, n.nspname, c.relname"
		" ORDER BY level, n.nspname COLLATE \"C\", c.relname COLLATE \"C\"");

	if (rows == NULL)
		return error_add_context(err, "reading the materialised views");
	Catalog *catalog = reader->catalog;
	catalog->matviews = arena_new_array(reader->arena, Named, PQntuples(rows) + 1);
	for (int i = 0; i < PQntuples(rows); i++) {
		uint32_t oid = (uint32_t)sql_get_int(rows, i, 0);
		if (is_ours(reader, rows, i) &&
		    matches_chosen(reader->matches, oid, PQgetvalue(rows, i, 1)) &&
		    !matches_relation(reader->matches, EXCLUDE_DATA, oid))
			catalog_fill_named(reader, &catalog->matviews[catalog->matview_count++], rows, i);
	}
	PQclear(rows);
	return true;
}

/* Locking a catalogue against writers is for superusers: what is granted on it to others does
 * not count for that. */
static bool
read_large_objects(CatalogReader *reader, Error *err)
{
	Catalog *catalog = reader->catalog;
	PGresult *row = sql_query(reader->sql, err,
	                          "SELECT count(*), pg_catalog.pg_relation_size("
	                          "'pg_catalog.pg_largeobject'), pg_catalog.has_table_privilege("
	                          "'pg_catalog.pg_largeobject', 'UPDATE')"
	                          " FROM pg_catalog.pg_largeobject_metadata");

	if (row == NULL)
		return error_add_context(err, "counting the large objects");
	catalog->large_objects = (uint64_t)sql_get_int(row, 0, 0);
	catalog->large_object_bytes = (uint64_t)sql_get_int(row, 0, 1);
	catalog->moves_large_objects = selection_large_objects(reader->selection);
	catalog->locks_large_objects = catalog->moves_large_objects && sql_get_bool(row, 0, 2);
	PQclear(row);
	return true;
}

bool
catalog_read_others(CatalogReader *reader, Error *err)
{
	return read_sequences(reader, err) && read_matviews(reader, err) &&
	       read_large_objects(reader, err);
}
