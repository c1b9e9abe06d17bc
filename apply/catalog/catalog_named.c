/* Tables of a catalogue by a pattern, after it was read: what `verify --table` names. */
#include <string.h>

#include "apply/catalog/catalog.h"
#include "apply/catalog/pattern.h"
#include "common/map.h"

/* A partitioned table stands for all below it, as in a selection. */
static PGresult *
query_named(Sql *source, const char *schema, const char *name, Error *err)
{
	const char *values[] = {name, schema};

	return sql_query_params(
		source, err,
		"WITH RECURSIVE named (oid) AS (SELECT c.oid FROM pg_catalog.pg_class c"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')"
		" AND c.relname OPERATOR(pg_catalog.~) $1 COLLATE pg_catalog.default"
		" AND ($2 = '' OR n.nspname OPERATOR(pg_catalog.~) $2 COLLATE pg_catalog.default)"
		" UNION SELECT i.inhrelid FROM named JOIN pg_catalog.pg_inherits i"
		" ON i.inhparent = named.oid JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid"
		" WHERE c.relispartition) SELECT oid FROM named",
		2, values);
}

static size_t
mark_rows(Catalog *catalog, const PGresult *rows)
{
	Arena *arena = arena_new(0);
	Map *named = map_new((size_t)PQntuples(rows) + 1);
	uint32_t *oids = arena_new_array(arena, uint32_t, (size_t)PQntuples(rows) + 1);
	size_t count = 0;

	for (int i = 0; i < PQntuples(rows); i++) {
		oids[i] = (uint32_t)sql_get_int(rows, i, 0);
		map_put(named, slice_of(&oids[i], sizeof(oids[i])), catalog);
	}
	for (size_t i = 0; i < catalog->table_count; i++) {
		Table *table = &catalog->tables[i];
		if (table->persistence != 'p' ||
		    map_get(named, slice_of(&table->oid, sizeof(table->oid))) == NULL)
			continue;
		atomic_store(&table->marked, true);
		count++;
	}
	map_free(named);
	arena_free(arena);
	return count;
}

bool
catalog_mark_named(Catalog *catalog, Sql *source, const char *pattern, size_t *count, Error *err)
{
	Buffer schema = BUFFER_INIT;
	Buffer name = BUFFER_INIT;
	PGresult *rows = NULL;

	if (pattern_to_regex(pattern, &schema, &name, err))
		rows = query_named(source, buffer_cstr(&schema), buffer_cstr(&name), err);
	buffer_free(&schema);
	buffer_free(&name);
	if (rows == NULL) {
		if (error_has_sqlstate(err, "2201B")) {
			Error server = *err;
			error_set(err, ERROR_CONFIG, "%s", server.message);
		}
		return false;
	}
	*count = mark_rows(catalog, rows);
	PQclear(rows);
	return true;
}
