/* Sequences, materialised views, and counts of what is not moved. */
#include <stdlib.h>
#include <string.h>

#include "apply/catalog/catalog_internal.h"
#include "common/map.h"

static void
fill_named(CatalogReader *reader, Named *out, const PGresult *rows, int row)
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

/* A sequence goes with the table that owns it; one that no table owns goes when
 * a moved table's default uses it, or by its own name. */
static bool
sequence_wanted(CatalogReader *reader, const PGresult *rows, int row)
{
	uint32_t owner = (uint32_t)sql_get_int(rows, row, 3);
	const char *users = PQgetvalue(rows, row, 4);
	const char *schema = PQgetvalue(rows, row, 1);
	const char *name = PQgetvalue(rows, row, 2);
	char *end;

	if (!is_ours(reader, rows, row) || patterns_exclude(&reader->patterns, schema, name))
		return false;
	bool named = patterns_include(&reader->patterns, schema, name);
	if (owner != 0 && map_get(reader->by_oid, slice_of(&owner, sizeof(owner))) != NULL)
		return true;
	/* The owner may be a partitioned table, whose leaves are what is in the map. */
	for (size_t i = 0; owner != 0 && i < reader->catalog->parent_count; i++) {
		if (reader->catalog->parents[i].oid == owner)
			return true;
	}
	if (owner != 0)
		return false;
	for (const char *at = users; *at != '\0'; at = end) {
		uint32_t user = (uint32_t)strtoul(at, &end, 10);
		if (end == at)
			break;
		if (map_get(reader->by_oid, slice_of(&user, sizeof(user))) != NULL)
			return true;
	}
	return named;
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
	for (int i = 0; i < PQntuples(rows); i++) {
		if (sequence_wanted(reader, rows, i))
			fill_named(reader, &catalog->sequences[catalog->sequence_count++], rows, i);
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
		const char *schema = PQgetvalue(rows, i, 1);
		const char *name = PQgetvalue(rows, i, 2);
		if (is_ours(reader, rows, i) && patterns_include(&reader->patterns, schema, name) &&
		    !patterns_exclude(&reader->patterns, schema, name))
			fill_named(reader, &catalog->matviews[catalog->matview_count++], rows, i);
	}
	PQclear(rows);
	return true;
}

bool
catalog_read_others(CatalogReader *reader, Error *err)
{
	char count[24];

	if (!read_sequences(reader, err) || !read_matviews(reader, err))
		return false;
	if (!sql_value(reader->sql, err, count, sizeof(count),
	               "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata"))
		return error_add_context(err, "counting the large objects");
	reader->catalog->large_objects = strtoull(count, NULL, 10);
	return true;
}
