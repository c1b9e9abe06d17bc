/* The target's side of the catalogue, by name. */
#include <stdio.h>
#include <string.h>

#include "apply/catalog/catalog_internal.h"
#include "common/map.h"

enum { NAMED_PROBLEMS = 20 };

enum {
	COL_REL,
	COL_SCHEMA,
	COL_TABLE,
	COL_KIND,
	COL_ATTNUM,
	COL_NAME,
	COL_TYPE_OID,
	COL_TYPE,
	COL_NOT_NULL,
	COL_HAS_VALUE,
	COL_GENERATED,
	COL_IDENTITY
};

typedef struct {
	int count;
	char text[1024];
} Problems;

typedef struct {
	Catalog *catalog;
	const PGresult *rows;
	TypeSet *types;
	bool takes_other_oids; /* array_recv and record_recv of 14 and newer (types.h) */
	Problems problems;
} Matcher;

static void PRINTF_LIKE(2, 3) problem(Problems *problems, const char *fmt, ...)
{
	size_t len = strlen(problems->text);
	va_list args;

	if (problems->count++ >= NAMED_PROBLEMS || len + 4 >= sizeof(problems->text))
		return;
	if (len > 0) {
		snprintf(problems->text + len, sizeof(problems->text) - len, "; ");
		len = strlen(problems->text);
	}
	va_start(args, fmt);
	vsnprintf(problems->text + len, sizeof(problems->text) - len, fmt, args);
	va_end(args);
}

/* Tables without columns are one row with a NULL column; views are there to be named
 * when they stand where a table should. */
static PGresult *
query_target(Sql *target, Error *err)
{
	return sql_query(
		target, err,
		"SELECT c.oid, n.nspname, c.relname, c.relkind, a.attnum, a.attname, a.atttypid,"
		" pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,"
		" a.atthasdef OR a.attidentity <> '', a.attgenerated <> '', a.attidentity"
		" FROM pg_catalog.pg_class c"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
		" AND NOT a.attisdropped"
		" WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'"
		" AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
		" ORDER BY c.oid, a.attnum");
}

static Column *
find_column(const Table *table, const char *name)
{
	for (int i = 0; i < table->column_count; i++) {
		if (strcmp(table->columns[i].name, name) == 0)
			return &table->columns[i];
	}
	return NULL;
}

static void
extra_column(Matcher *matcher, const Table *table, int row)
{
	bool has_value = sql_get_bool(matcher->rows, row, COL_HAS_VALUE) ||
	                 sql_get_bool(matcher->rows, row, COL_GENERATED);

	if (sql_get_bool(matcher->rows, row, COL_NOT_NULL) && !has_value)
		problem(&matcher->problems,
		        "column %s of %s is only on the target, NOT NULL and "
		        "without default",
		        PQgetvalue(matcher->rows, row, COL_NAME), table->qualified);
}

static void
match_column(Matcher *matcher, Table *table, int row)
{
	const PGresult *rows = matcher->rows;
	Column *column = find_column(table, PQgetvalue(rows, row, COL_NAME));

	if (column == NULL) {
		extra_column(matcher, table, row);
		return;
	}
	Arena *arena = matcher->catalog->arena;
	column->target_attnum = (int16_t)sql_get_int(rows, row, COL_ATTNUM);
	column->target_type_oid = (uint32_t)sql_get_int(rows, row, COL_TYPE_OID);
	column->target_array_oid = types_array_over(matcher->types, column->target_type_oid);
	column->target_type = arena_strdup(arena, PQgetvalue(rows, row, COL_TYPE));
	column->target_equality = arena_strdup(arena,
	                                       types_equality(matcher->types, column->target_type_oid));
	column->target_identity = PQgetvalue(rows, row, COL_IDENTITY)[0];
	column->target_generated = sql_get_bool(rows, row, COL_GENERATED);

	if (strcmp(column->type, column->target_type) != 0)
		problem(&matcher->problems, "column %s of %s is %s on the source and %s on the target",
		        column->name, table->qualified, column->type, column->target_type);
	if (column->generated != column->target_generated)
		problem(&matcher->problems, "column %s of %s is generated on the %s only", column->name,
		        table->qualified, column->generated ? "source" : "target");
	column->binary_safe = column->binary_safe &&
	                      types_binary_safe(matcher->types, column->target_type_oid) &&
	                      (matcher->takes_other_oids ||
	                       !types_name_others(matcher->types, column->target_type_oid));
}

static void
match_table(Matcher *matcher, int row, int end)
{
	const PGresult *rows = matcher->rows;
	Table *table = catalog_find(matcher->catalog, PQgetvalue(rows, row, COL_SCHEMA),
	                            PQgetvalue(rows, row, COL_TABLE));

	if (table == NULL)
		return;
	table->target_oid = (uint32_t)sql_get_int(rows, row, COL_REL);
	if (PQgetvalue(rows, row, COL_KIND)[0] != 'r') {
		problem(&matcher->problems, "%s is not an ordinary table on the target", table->qualified);
		return;
	}
	for (int i = row; i < end; i++) {
		if (!PQgetisnull(rows, i, COL_NAME))
			match_column(matcher, table, i);
	}
	for (int i = 0; i < table->column_count; i++) {
		if (table->columns[i].target_attnum == 0)
			problem(&matcher->problems, "column %s of %s is missing on the target",
			        table->columns[i].name, table->qualified);
	}
}

static void
match_all(Matcher *matcher)
{
	const PGresult *rows = matcher->rows;

	for (int row = 0, end; row < PQntuples(rows); row = end) {
		for (end = row + 1; end < PQntuples(rows) && strcmp(PQgetvalue(rows, end, COL_REL),
		                                                    PQgetvalue(rows, row, COL_REL)) == 0;)
			end++;
		match_table(matcher, row, end);
	}
	for (size_t i = 0; i < matcher->catalog->table_count; i++) {
		if (matcher->catalog->tables[i].target_oid == 0)
			problem(&matcher->problems, "table %s is missing on the target",
			        matcher->catalog->tables[i].qualified);
	}
}

/* A second match (after a restart of the target, say) starts from nothing. */
static void
forget_target(Catalog *catalog)
{
	for (size_t i = 0; i < catalog->table_count; i++) {
		Table *table = &catalog->tables[i];
		table->target_oid = 0;
		for (int j = 0; j < table->column_count; j++)
			table->columns[j].target_attnum = 0;
	}
}

/* Types of the same name may be made of other things: composites with other fields would
 * take each other's values in silence. */
static void
compare_types(Matcher *matcher)
{
	for (size_t i = 0; i < matcher->catalog->table_count; i++) {
		Table *table = &matcher->catalog->tables[i];
		for (int j = 0; j < table->column_count; j++) {
			Column *column = &table->columns[j];
			if (column->target_attnum == 0 || strcmp(column->type, column->target_type) != 0)
				continue;
			const char *theirs = types_signature(matcher->types, column->target_type_oid);
			if (strcmp(column->signature, theirs) == 0)
				continue;
			column->binary_safe = false;
			problem(&matcher->problems,
			        "type %s of column %s of %s is made of other things "
			        "on the target",
			        column->type, column->name, table->qualified);
		}
	}
}

bool
catalog_match_target(Catalog *catalog, Sql *target, Error *err)
{
	Matcher matcher = {.catalog = catalog,
	                   .takes_other_oids = sql_server_version(target) >= 140000};
	PGresult *rows = query_target(target, err);

	if (rows == NULL)
		return error_add_context(err, "reading the target's tables");
	/* Its own memory: the catalog's arena keeps only what stays. */
	Arena *arena = arena_new(0);
	matcher.rows = rows;
	matcher.types = types_load(target, arena, err);
	bool ok = matcher.types != NULL;
	if (ok) {
		forget_target(catalog);
		match_all(&matcher);
		compare_types(&matcher);
		catalog->target_version = sql_server_version(target);
		catalog_sum_binary(catalog);
	}
	types_free(matcher.types);
	arena_free(arena);
	PQclear(rows);
	if (!ok || matcher.problems.count == 0)
		return ok;
	error_set(err, ERROR_CONFIG, "source and target do not fit (%d differences): %s",
	          matcher.problems.count, matcher.problems.text);
	return error_set_hint(err, "make them equal on the target (what was renamed on the source is "
	                           "renamed there, too), or leave tables out with "
	                           "--exclude-table");
}
