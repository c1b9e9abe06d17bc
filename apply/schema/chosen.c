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
put_schema(Buffer *sql, const char *schema)
{
	buffer_put_text(sql, "CREATE SCHEMA IF NOT EXISTS ");
	sql_put_identifier(sql, schema);
	buffer_put_text(sql, ";\n");
}

static void
put_schemas_of(Buffer *sql, const Named *items, size_t count)
{
	for (size_t i = 0; i < count; i++)
		put_schema(sql, items[i].schema);
}

void
chosen_schemas(const SchemaWork *work, Buffer *sql)
{
	const Catalog *catalog = work->catalog;

	if (work->addition == 0 && !matches_by_table(catalog->matches))
		return;
	for (size_t i = 0; i < catalog->table_count; i++)
		put_schema(sql, catalog->tables[i].schema);
	put_schemas_of(sql, catalog->parents, catalog->parent_count);
	put_schemas_of(sql, catalog->rowless, catalog->rowless_count);
	put_schemas_of(sql, catalog->sequences, catalog->sequence_count);
	put_schemas_of(sql, catalog->matviews, catalog->matview_count);
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
