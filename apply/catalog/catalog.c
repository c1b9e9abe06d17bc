#include "apply/catalog/catalog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "apply/catalog/catalog_internal.h"
#include "common/memory.h"
#include "protocol/replication.h"

enum { NAMED_DIFFERENCES = 5, SIZE_LOCK_TIMEOUT_MS = 2000 };

const char *
catalog_qualified(Arena *arena, const char *schema, const char *name)
{
	Buffer out = BUFFER_INIT;

	sql_put_identifier(&out, schema);
	buffer_put_text(&out, ".");
	sql_put_identifier(&out, name);
	const char *text = arena_strdup(arena, buffer_cstr(&out));
	buffer_free(&out);
	return text;
}

Slice
catalog_name_key(Arena *arena, const char *schema, const char *name)
{
	size_t first = strlen(schema) + 1;
	size_t len = first + strlen(name);
	char *key = arena_alloc(arena, len);

	memcpy(key, schema, first);
	memcpy(key + first, name, len - first);
	return slice_of(key, len);
}

Table *
catalog_find(const Catalog *catalog, const char *schema, const char *name)
{
	char key[256];
	size_t first = strlen(schema) + 1;
	size_t len = first + strlen(name);

	/* Identifiers have at most 63 bytes, 127 in servers built otherwise. */
	if (len > sizeof(key))
		return NULL;
	memcpy(key, schema, first);
	memcpy(key + first, name, len - first);
	return map_get(catalog->by_name, slice_of(key, len));
}

Table *
catalog_find_oid(const Catalog *catalog, uint32_t oid)
{
	for (size_t i = 0; i < catalog->table_count; i++) {
		if (catalog->tables[i].oid == oid)
			return &catalog->tables[i];
	}
	return NULL;
}

void
catalog_free(Catalog *catalog)
{
	if (catalog == NULL)
		return;
	map_free(catalog->by_name);
	matches_free(catalog->matches);
	pthread_mutex_destroy(&catalog->lock);
	arena_free(catalog->arena);
	free(catalog);
}

/* ---- fingerprint ---- */

/* How rows are identified is in it, what the replica identity was set to is not: we
 * set it ourselves. The oid tells a table that was dropped and made again. */
void
catalog_describe_table(const Table *table, Buffer *out)
{
	buffer_printf(out, "table %s oid %u %c%s\n", table->qualified, table->oid, table->persistence,
	              table->is_partition ? " partition" : "");
	for (int i = 0; i < table->column_count; i++) {
		const Column *column = &table->columns[i];
		buffer_printf(out, "column %s %d %s%s%s%.1s\n", column->name, column->attnum, column->type,
		              column->not_null ? " not null" : "", column->generated ? " generated" : "",
		              column->identity == 0     ? ""
		              : column->identity == 'a' ? "a"
		                                        : "d");
	}
	if (table->key != KEY_INDEX) {
		buffer_put_text(out, "key: row\n");
		return;
	}
	buffer_put_text(out, "key");
	for (int i = 0; i < table->key_count; i++)
		buffer_printf(out, " %s", table->columns[table->key_columns[i]].name);
	buffer_put_text(out, "\n");
}

static int
by_qualified(const void *a, const void *b)
{
	const Table *const *left = a;
	const Table *const *right = b;

	return strcmp((*left)->qualified, (*right)->qualified);
}

void
catalog_set_fingerprint(Catalog *catalog)
{
	const Table **sorted = mem_alloc(sizeof(Table *) * (catalog->table_count + 1));
	Buffer text = BUFFER_INIT;

	for (size_t i = 0; i < catalog->table_count; i++)
		sorted[i] = &catalog->tables[i];
	qsort(sorted, catalog->table_count, sizeof(Table *), by_qualified);
	for (size_t i = 0; i < catalog->table_count; i++)
		catalog_describe_table(sorted[i], &text);
	XXH128_hash_t hash = XXH3_128bits(text.data, text.len);
	snprintf(catalog->fingerprint, sizeof(catalog->fingerprint), "%016llx%016llx",
	         (unsigned long long)hash.high64, (unsigned long long)hash.low64);
	buffer_free(&text);
	free(sorted);
}

void
catalog_sum_binary(Catalog *catalog)
{
	/* pgoutput knows binary since 14, and for all tables or none. */
	catalog->stream_binary = catalog->source_version >= 140000;
	for (size_t i = 0; i < catalog->table_count; i++) {
		Table *table = &catalog->tables[i];
		table->copy_binary = true;
		for (int j = 0; j < table->column_count; j++) {
			if (table->columns[j].binary_safe)
				continue;
			if (!table->columns[j].generated)
				table->copy_binary = false;
			/* 18 and newer may have to send a generated one (source.c). */
			if (table->persistence == 'p' &&
			    (!table->columns[j].generated || catalog->source_version >= 180000))
				catalog->stream_binary = false;
		}
	}
}

/* ---- reading ---- */

static bool
read_all(CatalogReader *reader, Error *err)
{
	Matches *matches = matches_find(reader->sql, reader->selection, reader->strict, reader->arena,
	                                err);
	if (matches == NULL)
		return false;
	reader->matches = reader->catalog->matches = matches;
	reader->types = types_load(reader->sql, reader->arena, err);
	return reader->types != NULL && catalog_read_tables(reader, err) &&
	       catalog_read_columns(reader, err) && catalog_read_keys(reader, err) &&
	       catalog_read_omitted_indexes(reader, err) && catalog_read_others(reader, err) &&
	       (selection_is_all(reader->selection) || catalog_read_outside(reader, err));
}

/* One snapshot, so that DDL between two queries cannot give half a table. */
static bool
read_in_transaction(CatalogReader *reader, Error *err)
{
	if (!sql_execf(reader->sql, err,
	               "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = %d",
	               SIZE_LOCK_TIMEOUT_MS))
		return false;
	bool ok = read_all(reader, err);
	bool ended = sql_exec(reader->sql, ok ? err : NULL, ok ? "COMMIT" : "ROLLBACK");
	return ok && ended;
}

static Catalog *
read_source(Sql *source, const Selection *selection, const char *own_schema, bool sizes,
            bool strict, Error *err)
{
	Catalog *catalog = mem_zalloc(sizeof(Catalog));
	CatalogReader reader = {
		.sql = source,
		.catalog = catalog,
		.own_schema = own_schema,
		.selection = selection,
		.strict = strict,
		.sizes = sizes,
	};

	catalog->arena = reader.arena = arena_new(0);
	pthread_mutex_init(&catalog->lock, NULL);
	catalog->by_name = map_new(64);
	catalog->source_version = sql_server_version(source);
	reader.by_oid = map_new(64);
	reader.moves = map_new(64);

	bool ok = read_in_transaction(&reader, err);
	types_free(reader.types);
	map_free(reader.by_oid);
	map_free(reader.moves);
	if (!ok) {
		catalog_free(catalog);
		return NULL;
	}
	catalog_sum_binary(catalog);
	catalog_set_fingerprint(catalog);
	return catalog;
}

/* pg_relation_size waits for whoever holds a table exclusively; then the estimate of the
 * last VACUUM has to do. */
Catalog *
catalog_read_source(Sql *source, const Selection *selection, const char *own_schema, Error *err)
{
	Error local = ERROR_INIT;
	Catalog *catalog = read_source(source, selection, own_schema, true, true, &local);

	if (catalog == NULL && error_has_sqlstate(&local, "55P03"))
		return read_source(source, selection, own_schema, false, true, err);
	if (catalog == NULL && err != NULL)
		*err = local;
	return catalog;
}

/* ---- comparing ---- */

typedef struct {
	char *out;
	size_t size;
	int count;
} Differences;

static void PRINTF_LIKE(2, 3) differ(Differences *found, const char *fmt, ...)
{
	size_t len = strlen(found->out);
	va_list args;

	if (found->count++ >= NAMED_DIFFERENCES)
		return;
	snprintf(found->out + len, found->size - len, "%s", len > 0 ? "; " : "");
	len = strlen(found->out);
	va_start(args, fmt);
	vsnprintf(found->out + len, found->size - len, fmt, args);
	va_end(args);
}

static const Column *
column_named(const Table *table, const char *name)
{
	for (int i = 0; i < table->column_count; i++) {
		if (strcmp(table->columns[i].name, name) == 0)
			return &table->columns[i];
	}
	return NULL;
}

/* new NULL: there is none of the name. */
static void
compare_column(const Table *table, const Column *old, const Column *new, Differences *found)
{
	const char *of = table->qualified;

	if (new == NULL)
		differ(found, "column %s of %s is gone", old->name, of);
	else if (strcmp(new->type, old->type) != 0)
		differ(found, "column %s of %s was %s and is %s", old->name, of, old->type, new->type);
	else if (new->attnum != old->attnum)
		differ(found, "column %s of %s was made anew", old->name, of);
	else if (new->not_null != old->not_null)
		differ(found, "column %s of %s is %s", old->name, of,
		       new->not_null ? "NOT NULL now" : "no longer NOT NULL");
	else if (new->identity != old->identity || new->generated != old->generated)
		differ(found, "how column %s of %s is generated has changed", old->name, of);
}

static void
compare_columns(const Table *was, const Table *is, Differences *found)
{
	for (int i = 0; i < was->column_count; i++) {
		const Column *old = &was->columns[i];
		compare_column(was, old, column_named(is, old->name), found);
	}
	for (int i = 0; i < is->column_count; i++) {
		if (column_named(was, is->columns[i].name) == NULL)
			differ(found, "column %s of %s is new", is->columns[i].name, was->qualified);
	}
}

/* What the stream carries: a table left insert-only by us still reads as without
 * identity, one that we set to FULL reads as such. */
static bool
same_key(const Table *was, const Table *is)
{
	bool was_full = was->key == KEY_FULL && !was->key_needs_full;
	bool is_full = is->key == KEY_FULL && !is->key_needs_full;

	return (was->key == KEY_INDEX) == (is->key == KEY_INDEX) &&
	       (was->persistence == 'u' || was_full == is_full);
}

static void
compare_table(const Table *was, const Table *is, Differences *found)
{
	Buffer old = BUFFER_INIT;
	Buffer new = BUFFER_INIT;
	int before = found->count;

	catalog_describe_table(was, &old);
	catalog_describe_table(is, &new);
	bool same = slice_eq(buffer_slice(&old), buffer_slice(&new));
	buffer_free(&old);
	buffer_free(&new);
	if (!same && was->oid != is->oid)
		differ(found, "table %s was dropped and made anew", was->qualified);
	else if (was->persistence != is->persistence)
		differ(found, "table %s is %s now", was->qualified,
		       is->persistence == 'u' ? "unlogged" : "logged");
	else if (was->is_partition != is->is_partition)
		differ(found, "table %s is %s", was->qualified,
		       is->is_partition ? "a partition now" : "no longer a partition");
	else if (!same)
		compare_columns(was, is, found);
	if ((!same || !same_key(was, is)) && found->count == before)
		differ(found, "the key of %s has changed", was->qualified);
}

bool
catalog_compare_source(const Catalog *catalog, Sql *source, const Selection *selection,
                       const char *own_schema, bool *same, char *what, size_t what_size, Error *err)
{
	Differences found = {what, what_size, 0};
	Catalog *now = read_source(source, selection, own_schema, false, false, err);

	what[0] = '\0';
	if (now == NULL)
		return false;
	for (size_t i = 0; i < catalog->table_count; i++) {
		const Table *was = &catalog->tables[i];
		const Table *is = catalog_find(now, was->schema, was->name);
		if (is == NULL)
			differ(&found, "table %s is gone", was->qualified);
		else
			compare_table(was, is, &found);
	}
	for (size_t i = 0; i < now->table_count; i++) {
		const Table *is = &now->tables[i];
		if (catalog_find(catalog, is->schema, is->name) == NULL)
			differ(&found, "table %s is new", is->qualified);
	}
	if (found.count > NAMED_DIFFERENCES) {
		size_t len = strlen(what);
		snprintf(what + len, what_size - len, "; and %d more", found.count - NAMED_DIFFERENCES);
	}
	*same = found.count == 0;
	catalog_free(now);
	return true;
}

/* ---- while workers run ---- */

void
table_set_error(Catalog *catalog, Table *table, const Error *error)
{
	pthread_mutex_lock(&catalog->lock);
	if (error == NULL)
		table->error[0] = '\0';
	else
		error_format(error, table->error, sizeof(table->error));
	pthread_mutex_unlock(&catalog->lock);
}

void
table_set_snapshot(Catalog *catalog, Table *table, const char *snapshot, Lsn lsn)
{
	pthread_mutex_lock(&catalog->lock);
	table->snapshot = arena_strdup(catalog->arena, snapshot);
	table->snapshot_lsn = lsn;
	pthread_mutex_unlock(&catalog->lock);
	catalog_note_copied(catalog, lsn);
}

void
catalog_note_copied(Catalog *catalog, Lsn snapshot_lsn)
{
	pthread_mutex_lock(&catalog->lock);
	catalog->copied_lsn = lsn_max(catalog->copied_lsn, lsn_before_page_header(snapshot_lsn));
	pthread_mutex_unlock(&catalog->lock);
}

Lsn
catalog_copied_lsn(Catalog *catalog)
{
	pthread_mutex_lock(&catalog->lock);
	Lsn lsn = catalog->copied_lsn;
	pthread_mutex_unlock(&catalog->lock);
	return lsn;
}
