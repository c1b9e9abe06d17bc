#include "apply/schema/chosen.h"

#include <string.h>

#include "apply/catalog/pattern.h"
#include "protocol/replication.h"

/* ---- pg_dump ---- */

void
args_add(Arguments *args, const char *text)
{
	if (args->count == args->capacity) {
		const char **longer = arena_new_array(args->arena, const char *, args->count * 2 + 32);
		for (size_t i = 0; i < args->count; i++)
			longer[i] = args->argv[i];
		args->argv = longer;
		args->capacity = args->count * 2 + 32;
	}
	args->argv[args->count++] = text;
}

static void
add_patterns(const SchemaWork *work, Arguments *args, SelectionList list, const char *option)
{
	const PatternList *patterns = &work->selection->lists[list];
	bool schema = list == INCLUDE_SCHEMA || list == EXCLUDE_SCHEMA;

	for (size_t i = 0; i < patterns->count; i++)
		args_add(args, arena_printf(args->arena, "--%s=%s%s", option,
		                            schema || pattern_has_schema(patterns->items[i]) ? "" : "*.",
		                            patterns->items[i]));
}

/* What `before` has is on the target already. */
static bool
is_new(const Named *item, const Named *before, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (before[i].oid == item->oid)
			return false;
	}
	return true;
}

static void
add_new_names(Arguments *args, const Named *items, size_t count, const Named *before,
              size_t before_count)
{
	for (size_t i = 0; i < count; i++) {
		if (is_new(&items[i], before, before_count))
			args_add(args, arena_printf(args->arena, "--table=%s", items[i].qualified));
	}
}

static void
addition_arguments(const SchemaWork *work, Arguments *args)
{
	const Catalog *now = work->catalog;
	const Catalog *was = work->before;

	for (size_t i = 0; i < now->table_count; i++) {
		if (atomic_load(&now->tables[i].apart))
			args_add(args, arena_printf(args->arena, "--table=%s", now->tables[i].qualified));
	}
	add_new_names(args, now->parents, now->parent_count, was->parents, was->parent_count);
	add_new_names(args, now->sequences, now->sequence_count, was->sequences, was->sequence_count);
}

static void
add_names(Arguments *args, const char *option, const Named *items, size_t count)
{
	for (size_t i = 0; i < count; i++)
		args_add(args, arena_printf(args->arena, "--%s=%s", option, items[i].qualified));
}

void
chosen_arguments(const SchemaWork *work, Arguments *args)
{
	const Catalog *catalog = work->catalog;

	if (work->addition > 0) {
		addition_arguments(work, args);
		return;
	}
	if (work->selection == NULL)
		return;
	add_patterns(work, args, EXCLUDE_TABLE, "exclude-table");
	add_names(args, "exclude-table", catalog->omitted, catalog->omitted_count);
	add_patterns(work, args, INCLUDE_SCHEMA, "schema");
	add_patterns(work, args, EXCLUDE_SCHEMA, "exclude-schema");
	if (!matches_by_table(catalog->matches))
		return;
	add_patterns(work, args, INCLUDE_TABLE, "table");
	for (size_t i = 0; i < catalog->table_count; i++)
		args_add(args, arena_printf(args->arena, "--table=%s", catalog->tables[i].qualified));
	add_names(args, "table", catalog->parents, catalog->parent_count);
	add_names(args, "table", catalog->rowless, catalog->rowless_count);
	add_names(args, "table", catalog->sequences, catalog->sequence_count);
}

/* ---- pg_restore ---- */

static void
put_schema(Buffer *names, const char *schema)
{
	buffer_put_text(names, names->len > 0 ? ", " : "");
	sql_put_literal(names, schema);
}

static void
put_schemas_of(Buffer *names, const Named *items, size_t count)
{
	for (size_t i = 0; i < count; i++)
		put_schema(names, items[i].schema);
}

static void
put_chosen_names(const Catalog *catalog, Buffer *names)
{
	for (size_t i = 0; i < catalog->table_count; i++)
		put_schema(names, catalog->tables[i].schema);
	put_schemas_of(names, catalog->parents, catalog->parent_count);
	put_schemas_of(names, catalog->rowless, catalog->rowless_count);
	put_schemas_of(names, catalog->sequences, catalog->sequence_count);
	put_schemas_of(names, catalog->matviews, catalog->matview_count);
}

/* A row for each schema, or one for each of its privileges that are not the owner's own. */
static PGresult *
read_schemas(const SchemaWork *work, const Buffer *names, Error *err)
{
	Sql *source = sql_connect(work->source, "source", "schema", work->stop, err);
	Buffer sql = BUFFER_INIT;

	buffer_printf(&sql,
	              "SELECT n.nspname, o.rolname, a.privilege_type, g.rolname, a.is_grantable"
	              " FROM pg_catalog.pg_namespace n"
	              " JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner"
	              " LEFT JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a ON a.grantee <> n.nspowner"
	              " LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantee"
	              " WHERE n.nspname = ANY (ARRAY[%.*s]) ORDER BY 1, 4, 3",
	              (int)names->len, (const char *)names->data);
	PGresult *rows = source != NULL ? sql_query(source, err, buffer_cstr(&sql)) : NULL;
	buffer_free(&sql);
	sql_close(source);
	return rows;
}

/* Those that are there already stay as they are. */
static PGresult *
read_present(const SchemaWork *work, Error *err)
{
	return sql_query(work->target_sql, err,
	                 "SELECT nspname, current_user FROM pg_catalog.pg_namespace");
}

static bool
is_present(const PGresult *present, const char *schema)
{
	for (int i = 0; i < PQntuples(present); i++) {
		if (strcmp(sql_get(present, i, 0), schema) == 0)
			return true;
	}
	return false;
}

static void
put_on_schema(Buffer *sql, const char *before, const char *schema, const char *between,
              const char *role)
{
	buffer_put_text(sql, before);
	sql_put_identifier(sql, schema);
	buffer_put_text(sql, between);
	if (role != NULL)
		sql_put_identifier(sql, role);
}

static void
put_grant(Buffer *sql, const PGresult *rows, int row)
{
	bool public = PQgetisnull(rows, row, 3);

	buffer_printf(sql, "GRANT %s", sql_get(rows, row, 2));
	put_on_schema(sql, " ON SCHEMA ", sql_get(rows, row, 0), public ? " TO PUBLIC" : " TO ",
	              public ? NULL : sql_get(rows, row, 3));
	buffer_put_text(sql, sql_get_bool(rows, row, 4) ? " WITH GRANT OPTION;\n" : ";\n");
}

static void
put_schemas(const SchemaTools *tools, const PGresult *rows, const PGresult *present, Buffer *sql)
{
	const char *last = "";

	for (int i = 0; i < PQntuples(rows); i++) {
		const char *schema = sql_get(rows, i, 0), *owner = sql_get(rows, i, 1);
		if (is_present(present, schema))
			continue;
		if (strcmp(schema, last) != 0)
			put_on_schema(sql, "CREATE SCHEMA IF NOT EXISTS ", schema, ";\n", NULL);
		if (strcmp(schema, last) != 0 && !tools->no_owner &&
		    strcmp(owner, sql_get(present, 0, 1)) != 0) {
			put_on_schema(sql, "ALTER SCHEMA ", schema, " OWNER TO ", owner);
			buffer_put_text(sql, ";\n");
		}
		if (!tools->no_privileges && !PQgetisnull(rows, i, 2))
			put_grant(sql, rows, i);
		last = schema;
	}
}

bool
chosen_schemas(const SchemaWork *work, const SchemaTools *tools, Buffer *sql, Error *err)
{
	PGresult *rows = NULL, *present = NULL;
	Buffer names = BUFFER_INIT;

	if (work->addition == 0 && !matches_by_table(work->catalog->matches))
		return true;
	put_chosen_names(work->catalog, &names);
	bool ok = names.len == 0 || ((rows = read_schemas(work, &names, err)) != NULL &&
	                             (present = read_present(work, err)) != NULL);
	if (ok && names.len > 0)
		put_schemas(tools, rows, present, sql);
	PQclear(rows);
	PQclear(present);
	buffer_free(&names);
	return ok;
}

static bool
starts(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool
is_omitted_index(const Catalog *catalog, const Entry *entry)
{
	for (size_t i = 0; i < catalog->omitted_index_count; i++) {
		const Named *index = &catalog->omitted_indexes[i];
		if (entry->kind == ENTRY_INDEX
		        ? entry->oid == index->oid
		        : entry->kind == ENTRY_ATTACH && entry_attaches(entry, index->schema, index->name))
			return true;
	}
	return false;
}

static bool
is_outside_key(const Catalog *catalog, const Entry *entry)
{
	for (size_t i = 0; entry->kind == ENTRY_FOREIGN_KEY && i < catalog->outside_count; i++) {
		if (catalog->outside[i].kind == OUTSIDE_KEY && catalog->outside[i].oid == entry->oid)
			return true;
	}
	return false;
}

static void
create_if_absent(Arena *arena, Entry *entry)
{
	enum { CLASS_NAMESPACE = 2615 };
	static const char create[] = "CREATE SCHEMA ";

	if (entry->class_oid == CLASS_NAMESPACE && starts(entry->sql, create))
		entry->sql = arena_printf(arena, "%sIF NOT EXISTS %s", create, entry->sql + strlen(create));
}

void
chosen_entries(const SchemaWork *work, Arena *arena, Entries *entries)
{
	const Catalog *catalog = work->catalog;
	size_t kept = 0;
	bool left_out = false;

	for (size_t i = 0; i < entries->count; i++) {
		const Entry *entry = &entries->items[i];
		/* pg_dump writes an object's comment right behind it. */
		left_out = (left_out && starts(entry->what, "0 0 COMMENT ")) ||
		           is_omitted_index(catalog, entry) || is_outside_key(catalog, entry);
		if (left_out)
			continue;
		entries->items[kept] = *entry;
		if (work->selection != NULL && work->selection->lists[INCLUDE_SCHEMA].count > 0)
			create_if_absent(arena, &entries->items[kept]);
		kept++;
	}
	entries->count = kept;
}
