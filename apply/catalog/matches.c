#include "apply/catalog/matches.h"

#include <string.h>

#include "apply/catalog/pattern.h"
#include "common/map.h"

/* Values are sets of lists: bit n for the SelectionList n. */
struct Matches {
	bool by_table;  /* there are tables to include */
	bool by_schema; /* there are schemas to include */
	Map *relations; /* by OID */
	Map *schemas;   /* by name */
};

static void
add(Map *map, Slice key, SelectionList list)
{
	uintptr_t lists = (uintptr_t)map_get(map, key);

	map_put(map, key, (void *)(lists | (uintptr_t)1 << list));
}

static bool
has(const Map *map, Slice key, SelectionList list)
{
	return ((uintptr_t)map_get(map, key) >> list & 1) != 0;
}

static bool
is_schema_list(SelectionList list)
{
	return list == INCLUDE_SCHEMA || list == EXCLUDE_SCHEMA;
}

/* name: the first column's. The server's own schemas are nobody's choice. */
static PGresult *
query_schemas(Sql *source, const char *name, Error *err)
{
	const char *values[] = {name};

	return sql_query_params(source, err,
	                        "SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.nspname"
	                        " OPERATOR(pg_catalog.~) $1 COLLATE pg_catalog.default"
	                        " AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'",
	                        1, values);
}

static PGresult *
query_relations(Sql *source, SelectionList list, const char *schema, const char *name, Error *err)
{
	const char *values[] = {name, schema};
	Buffer sql = BUFFER_INIT;

	buffer_printf(&sql,
	              "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
	              " ON n.oid = c.relnamespace WHERE c.relkind = ANY ('{%s}')"
	              " AND c.relpersistence <> 't' AND c.relname"
	              " OPERATOR(pg_catalog.~) $1 COLLATE pg_catalog.default"
	              " AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'",
	              list == EXCLUDE_INDEX ? "i,I" : "r,p,f,v,m,S");
	if (schema[0] != '\0')
		buffer_put_text(&sql,
		                " AND n.nspname OPERATOR(pg_catalog.~) $2 COLLATE pg_catalog.default");
	PGresult *rows = sql_query_params(source, err, buffer_cstr(&sql), schema[0] != '\0' ? 2 : 1,
	                                  values);
	buffer_free(&sql);
	return rows;
}

static void
keep(Matches *matches, SelectionList list, const PGresult *rows, Arena *arena)
{
	for (int i = 0; i < PQntuples(rows); i++) {
		if (is_schema_list(list)) {
			add(matches->schemas, slice_cstr(arena_strdup(arena, PQgetvalue(rows, i, 0))), list);
			continue;
		}
		uint32_t *oid = arena_alloc(arena, sizeof(*oid));
		*oid = (uint32_t)sql_get_int(rows, i, 0);
		add(matches->relations, slice_of(oid, sizeof(*oid)), list);
	}
}

static bool
explain(SelectionList list, const char *text, Error *err)
{
	if (error_has_sqlstate(err, "2201B")) {
		Error server = *err;
		error_set(err, ERROR_CONFIG, "%s", server.message);
	}
	return error_add_context(err, "--%s '%s'", selection_option(list), text);
}

static bool
find_one(Matches *matches, Sql *source, SelectionList list, const char *text, bool strict,
         Arena *arena, Error *err)
{
	Buffer schema = BUFFER_INIT;
	Buffer name = BUFFER_INIT;
	PGresult *rows = NULL;

	if (pattern_to_regex(text, &schema, &name, err)) {
		if (!is_schema_list(list))
			rows = query_relations(source, list, buffer_cstr(&schema), buffer_cstr(&name), err);
		else if (schema.len == 0)
			rows = query_schemas(source, buffer_cstr(&name), err);
		else
			error_set(err, ERROR_CONFIG, "the name of a schema has no dot outside of quotes");
	}
	buffer_free(&schema);
	buffer_free(&name);
	if (rows == NULL)
		return explain(list, text, err);
	keep(matches, list, rows, arena);
	int found = PQntuples(rows);
	PQclear(rows);
	return found > 0 || !strict ||
	       error_set(err, ERROR_CONFIG, "--%s '%s' matches nothing on the source",
	                 selection_option(list), text);
}

Matches *
matches_find(Sql *source, const Selection *selection, bool strict, Arena *arena, Error *err)
{
	Matches *matches = arena_zalloc(arena, sizeof(*matches));

	*matches = (Matches){.by_table = selection->lists[INCLUDE_TABLE].count > 0,
	                     .by_schema = selection->lists[INCLUDE_SCHEMA].count > 0,
	                     .relations = map_new(64),
	                     .schemas = map_new(16)};
	for (int list = 0; list < SELECTION_LISTS; list++) {
		const PatternList *patterns = &selection->lists[list];
		for (size_t i = 0; i < patterns->count; i++) {
			if (find_one(matches, source, (SelectionList)list, patterns->items[i],
			             strict && !selection->recorded, arena, err))
				continue;
			matches_free(matches);
			return NULL;
		}
	}
	return matches;
}

void
matches_free(Matches *matches)
{
	if (matches == NULL)
		return;
	map_free(matches->relations);
	map_free(matches->schemas);
}

bool
matches_relation(const Matches *matches, SelectionList list, uint32_t oid)
{
	return has(matches->relations, slice_of(&oid, sizeof(oid)), list);
}

bool
matches_by_table(const Matches *matches)
{
	return matches->by_table;
}

bool
matches_schema_chosen(const Matches *matches, const char *schema)
{
	if (matches->by_table)
		return false;
	return (!matches->by_schema || has(matches->schemas, slice_cstr(schema), INCLUDE_SCHEMA)) &&
	       !has(matches->schemas, slice_cstr(schema), EXCLUDE_SCHEMA);
}

bool
matches_chosen(const Matches *matches, uint32_t oid, const char *schema)
{
	if (matches_relation(matches, ADDED_TABLE, oid))
		return true;
	if (matches_relation(matches, EXCLUDE_TABLE, oid))
		return false;
	return matches->by_table ? matches_relation(matches, INCLUDE_TABLE, oid)
	                         : matches_schema_chosen(matches, schema);
}
