/* Replica identities and publications. */
#include "apply/setup/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/setup/source_internal.h"
#include "common/log.h"
#include "common/map.h"
#include "common/memory.h"
#include "protocol/replication.h"

enum { NAMED_TABLES = 10 };

Book
source_book(const SourceSetup *setup)
{
	return setup->book.sql != NULL ? setup->book : (Book){setup->target, setup->ledger, "source"};
}

bool
source_record(const SourceSetup *setup, const char *kind, const char *what, const char *undo,
              Error *err)
{
	const Book book = source_book(setup);

	return book_record(&book, kind, what, undo, err);
}

bool
source_make(const SourceSetup *setup, const char *kind, const char *what, const char *undo,
            uint32_t relation, const char *statement, Error *err)
{
	Locked locked = {.sql = setup->source,
	                 .what = what,
	                 .relation = relation,
	                 .lock_timeout_ms = setup->lock_timeout_ms,
	                 .patience_ms = setup->lock_patience_ms,
	                 .stop = setup->stop};

	return source_record(setup, kind, what, undo, err) && locked_exec(&locked, statement, err);
}

/* ---- schema ---- */

bool
source_make_schema(const SourceSetup *setup, Error *err)
{
	const Ledger *ledger = setup->ledger;
	const char *values[] = {ledger->name};
	PGresult *result = sql_query_params(
		setup->source, err,
		"SELECT coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '')"
		" FROM pg_catalog.pg_namespace WHERE nspname = $1",
		1, values);

	if (result == NULL)
		return false;
	bool there = PQntuples(result) > 0;
	bool ours = there && strcmp(PQgetvalue(result, 0, 0), SOURCE_SCHEMA_MARK) == 0;
	PQclear(result);
	if (ours)
		return true;
	if (there) {
		error_set(err, ERROR_CONFIG, "the source has a schema %s that pgbaton did not make",
		          ledger->schema);
		return error_set_hint(err, "choose another --name");
	}

	char *what = mem_printf("schema %s", ledger->name);
	char *undo = mem_printf("DROP SCHEMA IF EXISTS %s CASCADE", ledger->schema);
	char *make = mem_printf("CREATE SCHEMA %s; COMMENT ON SCHEMA %s IS '" SOURCE_SCHEMA_MARK "'",
	                        ledger->schema, ledger->schema);
	bool ok = source_make(setup, "schema", what, undo, 0, make, err);
	if (!ok && error_has_sqlstate(err, "42501"))
		error_set_hint(err, "on the source: GRANT CREATE ON DATABASE \"%s\" TO \"%s\"",
		               PQdb(sql_pgconn(setup->source)), PQuser(sql_pgconn(setup->source)));
	free(what);
	free(undo);
	free(make);
	return ok;
}

/* ---- replica identities ---- */

static char *
identity_found(const Table *table)
{
	Buffer name = BUFFER_INIT;

	if (table->replica_identity == 'n')
		return mem_strdup("NOTHING");
	if (table->replica_identity != 'i' || table->key_index == NULL)
		return mem_strdup("DEFAULT");
	sql_put_identifier(&name, table->key_index);
	char *found = mem_printf("USING INDEX %s", buffer_cstr(&name));
	buffer_free(&name);
	return found;
}

/*
 * As it was found: put back by the undo. 'i' without its index is like nothing. Not where it is not
 * ours any more, and not while another publication (of a second migration from this source) has the
 * table: the server would then refuse the application's updates and deletes.
 */
static char *
identity_undo(const Table *table)
{
	char *was = identity_found(table);
	Buffer body = BUFFER_INIT;
	Buffer undo = BUFFER_INIT;

	buffer_put_text(&body, "DECLARE back text; shared bool; BEGIN SELECT 'ALTER TABLE ' ||"
	                       " c.oid::pg_catalog.regclass || ' REPLICA IDENTITY ' || ");
	sql_put_literal(&body, was);
	buffer_printf(&body,
	              ", EXISTS (SELECT 1 FROM pg_catalog.pg_publication_tables t"
	              " JOIN pg_catalog.pg_publication p ON p.pubname = t.pubname"
	              " WHERE (p.pubupdate OR p.pubdelete) AND t.schemaname = n.nspname"
	              " AND t.tablename = c.relname) INTO back, shared FROM pg_catalog.pg_class c"
	              " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
	              " WHERE c.oid = %u AND c.relreplident = 'f';"
	              " IF shared THEN RAISE WARNING USING MESSAGE = ",
	              table->oid);
	sql_put_literal(&body, "pgbaton: another publication has the table, its replica identity stays "
	                       "FULL; afterwards: ");
	buffer_put_text(&body, " || back; ELSIF back IS NOT NULL THEN EXECUTE back; END IF; END");
	buffer_put_text(&undo, "DO ");
	sql_put_literal(&undo, buffer_cstr(&body));
	char *text = mem_strdup(buffer_cstr(&undo));
	free(was);
	buffer_free(&body);
	buffer_free(&undo);
	return text;
}

static bool
set_full(const SourceSetup *setup, Table *table, Error *err)
{
	char *what = mem_printf("replica identity of %s.%s", table->schema, table->name);
	char *undo = identity_undo(table);
	char *make = mem_printf("ALTER TABLE %s REPLICA IDENTITY FULL", table->qualified);
	bool ok = source_make(setup, "replica_identity", what, undo, table->oid, make, err);

	free(what);
	free(undo);
	free(make);
	if (ok) {
		table->key = KEY_FULL;
		table->key_needs_full = false;
	} else if (error_has_sqlstate(err, "42501")) {
		error_set_hint(err, "the table's owner has to run: ALTER TABLE %s REPLICA IDENTITY FULL",
		               table->qualified);
	}
	return ok;
}

static bool
refuse(const Catalog *catalog, Error *err)
{
	char list[700] = "";
	int count = 0;

	for (size_t i = 0; i < catalog->table_count; i++) {
		size_t len = strlen(list);
		if (!catalog->tables[i].key_needs_full || count++ >= NAMED_TABLES)
			continue;
		snprintf(list + len, sizeof(list) - len, "%s%s", len > 0 ? ", " : "",
		         catalog->tables[i].qualified);
	}
	if (count == 0)
		return true;
	error_set(err, ERROR_CONFIG, "%d tables have no usable replica identity: %s%s", count, list,
	          count > NAMED_TABLES ? ", ..." : "");
	return error_set_hint(err, "give them a primary key or ALTER TABLE ... REPLICA IDENTITY USING "
	                           "INDEX, or use --replica-identity full or insert-only");
}

bool
source_setup_identities(const SourceSetup *setup, Error *err)
{
	Catalog *catalog = setup->catalog;
	bool full = strcmp(setup->replica_identity, "full") == 0;

	if (strcmp(setup->replica_identity, "refuse") == 0)
		return refuse(catalog, err);
	for (size_t i = 0; i < catalog->table_count; i++) {
		Table *table = &catalog->tables[i];
		if (!table->key_needs_full)
			continue;
		if (full && !set_full(setup, table, err))
			return false;
		if (!full)
			table->key = KEY_NOTHING;
	}
	return true;
}

/* ---- publications ---- */

const char *
source_insert_only_name(const Ledger *ledger, char out[80])
{
	snprintf(out, 80, "%s_insert_only", ledger->name);
	return out;
}

static bool
is_streamed(const Table *table, bool insert_only)
{
	return table->persistence == 'p' && (table->key == KEY_NOTHING) == insert_only;
}

bool
source_has_insert_only(const Catalog *catalog)
{
	for (size_t i = 0; i < catalog->table_count; i++) {
		if (is_streamed(&catalog->tables[i], true))
			return true;
	}
	return false;
}

void
source_publications(const Ledger *ledger, const Catalog *catalog, char *out, size_t size)
{
	char second[80];

	snprintf(out, size, "%s%s%s", ledger->name, source_has_insert_only(catalog) ? "," : "",
	         source_has_insert_only(catalog) ? source_insert_only_name(ledger, second) : "");
}

/* Markers travel in the stream by themselves from 14 on (pg_logical_emit_message is
 * not passed on by pgoutput before); older ones get a table. */
static bool
needs_marker_table(const Sql *source)
{
	return sql_server_version(source) < 140000;
}

static bool
make_marker_table(const SourceSetup *setup, Error *err)
{
	const char *schema = setup->ledger->schema;

	return source_make_schema(setup, err) &&
	       sql_execf(setup->source, err,
	                 "CREATE TABLE IF NOT EXISTS %s.marker"
	                 " (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, content text"
	                 " NOT NULL, made timestamptz NOT NULL DEFAULT now())",
	                 schema);
}

/* The names are quoted by us, so what is compared is the text of both lists. */
static PGresult *
query_published(Sql *source, const char *publication, Error *err)
{
	const char *values[] = {publication};
	const char *part = sql_server_version(source) < 150000
	                       ? "NULL"
	                       : "CASE WHEN r.prqual IS NOT NULL THEN 'has a row filter'"
	                         " WHEN r.prattrs IS NOT NULL THEN 'has a column list' END";
	char *query = mem_printf(
		"SELECT n.nspname, c.relname, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,"
		" p.puballtables, %s, c.oid FROM pg_catalog.pg_publication p"
		" LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid"
		" LEFT JOIN pg_catalog.pg_class c ON c.oid = r.prrelid"
		" LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" WHERE p.pubname = $1",
		part);
	PGresult *rows = sql_query_params(source, err, query, 1, values);

	free(query);
	return rows;
}

/* ONLY: the catalogue lists inheritance children and leaves by themselves. */
static void
put_table_list(const SourceSetup *setup, bool insert_only, Buffer *sql)
{
	const Catalog *catalog = setup->catalog;
	bool first = true;

	for (size_t i = 0; i < catalog->table_count; i++) {
		if (!is_streamed(&catalog->tables[i], insert_only))
			continue;
		buffer_printf(sql, "%sONLY %s", first ? "" : ", ", catalog->tables[i].qualified);
		first = false;
	}
	if (!insert_only && needs_marker_table(setup->source))
		buffer_printf(sql, "%s%s.marker", first ? "" : ", ", setup->ledger->schema);
}

/*
 * From 18 on a server refuses the application's updates of a published table, REPLICA IDENTITY FULL,
 * with a stored generated column, unless the publication has such columns sent. They are passed
 * over here. Not asked for without need: they can be large (a tsvector), and go for all tables.
 */
static bool
sends_generated(const SourceSetup *setup)
{
	const Catalog *catalog = setup->catalog;
	bool any = false;

	for (size_t i = 0; i < catalog->table_count; i++) {
		const Table *table = &catalog->tables[i];
		for (int j = 0; table->key == KEY_FULL && j < table->column_count; j++)
			any = any || table->columns[j].generated;
	}
	return any && sql_server_version(setup->source) >= 180000;
}

static bool
make_publication(const SourceSetup *setup, const char *name, bool insert_only, Error *err)
{
	Buffer sql = BUFFER_INIT;
	Buffer list = BUFFER_INIT;
	PGresult *there = query_published(setup->source, name, err);

	if (there == NULL)
		return false;
	bool exists = PQntuples(there) > 0;
	PQclear(there);
	if (exists)
		return true; /* what it covers is source_check_publication's question */

	put_table_list(setup, insert_only, &list);
	buffer_put_text(&sql, "CREATE PUBLICATION ");
	sql_put_identifier(&sql, name);
	if (list.len > 0)
		buffer_printf(&sql, " FOR TABLE %s", buffer_cstr(&list));
	buffer_printf(&sql, " WITH (publish = '%s'%s)",
	              insert_only ? "insert, truncate" : "insert, update, delete, truncate",
	              !insert_only && sends_generated(setup) ? ", publish_generated_columns = stored"
	                                                     : "");
	char *what = mem_printf("publication %s", name);
	char *undo = mem_printf("DROP PUBLICATION IF EXISTS \"%s\"", name);
	bool ok = source_make(setup, "publication", what, undo, 0, buffer_cstr(&sql), err);
	if (!ok && error_has_sqlstate(err, "42501"))
		error_set_hint(
			err,
			"CREATE PUBLICATION needs CREATE on the database (GRANT CREATE ON "
			"DATABASE \"%s\" TO \"%s\") and the tables' ownership (GRANT owner TO \"%s\")",
			PQdb(sql_pgconn(setup->source)), PQuser(sql_pgconn(setup->source)),
			PQuser(sql_pgconn(setup->source)));
	free(what);
	free(undo);
	buffer_free(&sql);
	buffer_free(&list);
	return ok;
}

bool
source_setup_publication(const SourceSetup *setup, Error *err)
{
	char second[80];

	if (needs_marker_table(setup->source) && !make_marker_table(setup, err))
		return false;
	if (!make_publication(setup, setup->ledger->name, false, err))
		return false;
	return !source_has_insert_only(setup->catalog) ||
	       make_publication(setup, source_insert_only_name(setup->ledger, second), true, err);
}

/* ---- more tables ---- */

static bool
is_published(const PGresult *published, const Table *table)
{
	for (int i = 0; i < PQntuples(published); i++) {
		if (!PQgetisnull(published, i, 1) &&
		    strcmp(PQgetvalue(published, i, 0), table->schema) == 0 &&
		    strcmp(PQgetvalue(published, i, 1), table->name) == 0)
			return true;
	}
	return false;
}

static bool
look_at_generated(const SourceSetup *setup, const char *name, bool *sends, char xmin[16],
                  Error *err)
{
	PGresult *row = sql_queryf(setup->source, err,
	                           "SELECT pubgencols = 's', xmin FROM pg_catalog.pg_publication"
	                           " WHERE pubname = '%s'",
	                           name);

	if (row == NULL)
		return false;
	bool there = PQntuples(row) == 1;
	if (there) {
		*sends = sql_get_bool(row, 0, 0);
		snprintf(xmin, 16, "%s", PQgetvalue(row, 0, 1));
	} else {
		error_set(err, ERROR_CONFIG, "publication %s is gone from the source", name);
	}
	PQclear(row);
	return there;
}

/* Nothing is lost by it, so the stamps of what is copied (copy/rewrite.h) must not tell of it. */
static bool
send_generated(const SourceSetup *setup, const char *name, Error *err)
{
	Sql *book = setup->book.sql != NULL ? setup->book.sql : setup->target;
	char before[16], after[16];
	bool sends;

	if (!look_at_generated(setup, name, &sends, before, err))
		return false;
	return sends ||
	       (sql_execf(setup->source, err,
	                  "ALTER PUBLICATION \"%s\" SET (publish_generated_columns = stored)", name) &&
	        look_at_generated(setup, name, &sends, after, err) &&
	        ledger_republished(book, setup->ledger, before, after, err));
}

/* One statement: all or none. Its lock on a table keeps neither readers nor writers out. */
static bool
extend_one(const SourceSetup *setup, const char *name, bool insert_only, bool apart, Error *err)
{
	Buffer sql = BUFFER_INIT;
	PGresult *published = query_published(setup->source, name, err);
	bool any = false;

	if (published == NULL)
		return false;
	buffer_put_text(&sql, "ALTER PUBLICATION ");
	sql_put_identifier(&sql, name);
	buffer_put_text(&sql, " ADD TABLE");
	for (size_t i = 0; i < setup->catalog->table_count; i++) {
		const Table *table = &setup->catalog->tables[i];
		if ((apart && !atomic_load(&table->apart)) || !is_streamed(table, insert_only) ||
		    is_published(published, table))
			continue;
		buffer_printf(&sql, "%s ONLY %s", any ? "," : "", table->qualified);
		any = true;
	}
	bool there = PQntuples(published) > 0;
	PQclear(published);
	Locked locked = {.sql = setup->source,
	                 .what = "publication",
	                 .lock_timeout_ms = setup->lock_timeout_ms,
	                 .patience_ms = setup->lock_patience_ms,
	                 .stop = setup->stop};
	bool ok = !any || there ||
	          error_set(err, ERROR_CONFIG,
	                    "an added table has no usable replica identity, and publication %s for"
	                    " such tables is not there: give the table a key",
	                    name);
	if (ok && any && !insert_only && sends_generated(setup))
		ok = send_generated(setup, name, err);
	ok = ok && (!any || locked_exec(&locked, buffer_cstr(&sql), err));
	buffer_free(&sql);
	return ok;
}

bool
source_extend_publication(const SourceSetup *setup, bool apart, Error *err)
{
	char second[80];

	return extend_one(setup, setup->ledger->name, false, apart, err) &&
	       (!source_has_insert_only(setup->catalog) ||
	        extend_one(setup, source_insert_only_name(setup->ledger, second), true, apart, err));
}

/* A row of query_published. By oid, as the stream's rows are (plan.c): a table that was renamed is the
 * same one. */
static const Table *
published_table(const Catalog *catalog, const PGresult *rows, int row)
{
	const Table *table = catalog_find(catalog, PQgetvalue(rows, row, 0), PQgetvalue(rows, row, 1));

	return table != NULL ? table : catalog_find_oid(catalog, (uint32_t)sql_get_int(rows, row, 8));
}

static bool
trim_one(const SourceSetup *setup, const char *name, Error *err)
{
	PGresult *published = query_published(setup->source, name, err);
	Buffer sql = BUFFER_INIT;
	bool any = false;

	if (published == NULL)
		return false;
	buffer_put_text(&sql, "ALTER PUBLICATION ");
	sql_put_identifier(&sql, name);
	buffer_put_text(&sql, " DROP TABLE");
	for (int i = 0; i < PQntuples(published); i++) {
		const char *schema = PQgetvalue(published, i, 0);
		const char *table = PQgetvalue(published, i, 1);
		if (PQgetisnull(published, i, 1) || strcmp(schema, setup->ledger->name) == 0 ||
		    published_table(setup->catalog, published, i) != NULL)
			continue;
		log_warning("setup", "publication %s: %s.%s is not moved (any more), and is taken out",
		            name, schema, table);
		buffer_put_text(&sql, any ? ", ONLY " : " ONLY ");
		sql_put_identifier(&sql, schema);
		buffer_put_u8(&sql, '.');
		sql_put_identifier(&sql, table);
		any = true;
	}
	PQclear(published);
	bool ok = !any || sql_exec(setup->source, err, buffer_cstr(&sql));
	buffer_free(&sql);
	return ok;
}

bool
source_trim_publication(const SourceSetup *setup, Error *err)
{
	char second[80];

	return trim_one(setup, setup->ledger->name, err) &&
	       trim_one(setup, source_insert_only_name(setup->ledger, second), err);
}

/* ---- is it still what it was? ---- */

typedef struct {
	const Ledger *ledger;
	const Catalog *catalog;
	bool *seen; /* by index of the table */
	char list[600];
	int count;
} Coverage;

static void
difference(Coverage *coverage, const char *text, const char *schema, const char *name)
{
	size_t len = strlen(coverage->list);

	if (coverage->count++ < NAMED_TABLES)
		snprintf(coverage->list + len, sizeof(coverage->list) - len, "%s%s%s%s %s",
		         len > 0 ? ", " : "", schema, *schema ? "." : "", name, text);
}

static void
check_options(Coverage *coverage, const PGresult *rows, const char *name, bool insert_only)
{
	static const char *const operations[] = {"insert", "update", "delete", "truncate"};

	for (int i = 0; i < 4; i++) {
		bool wanted = !insert_only || i == 0 || i == 3;
		if (sql_get_bool(rows, 0, 2 + i) == wanted)
			continue;
		char text[60];
		snprintf(text, sizeof(text), "%s %s", wanted ? "no longer publishes" : "publishes",
		         operations[i]);
		difference(coverage, text, "", name);
	}
	if (sql_get_bool(rows, 0, 6))
		difference(coverage, "publishes all tables", "", name);
}

static bool
check_one(Coverage *coverage, Sql *source, const char *name, bool insert_only, Error *err)
{
	PGresult *rows = query_published(source, name, err);
	bool marker = false;

	if (rows == NULL)
		return false;
	if (PQntuples(rows) == 0)
		difference(coverage, "is gone", "publication", name);
	else
		check_options(coverage, rows, name, insert_only);
	for (int i = 0; i < PQntuples(rows); i++) {
		if (PQgetisnull(rows, i, 1))
			continue; /* a publication without tables */
		const char *schema = PQgetvalue(rows, i, 0);
		const char *relation = PQgetvalue(rows, i, 1);
		const Table *table = published_table(coverage->catalog, rows, i);
		if (table != NULL && is_streamed(table, insert_only))
			coverage->seen[table - coverage->catalog->tables] = true;
		else if (strcmp(schema, coverage->ledger->name) == 0 && strcmp(relation, "marker") == 0)
			marker = true;
		else
			difference(coverage, "was added", schema, relation);
		if (!PQgetisnull(rows, i, 7))
			difference(coverage, PQgetvalue(rows, i, 7), schema, relation);
	}
	if (!insert_only && PQntuples(rows) > 0 && needs_marker_table(source) && !marker)
		difference(coverage, "was taken out", coverage->ledger->name, "marker");
	PQclear(rows);
	return true;
}

/* A table that was dropped took its changes with it: all that were made were sent. */
static bool
note_unpublished(Coverage *coverage, Sql *source, const Table *table, Error *err)
{
	PGresult *rows = sql_queryf(source, err, "SELECT FROM pg_catalog.pg_class WHERE oid = %" PRIu32,
	                            table->oid);

	if (rows == NULL)
		return false;
	if (PQntuples(rows) > 0)
		difference(coverage, "was taken out", table->schema, table->name);
	PQclear(rows);
	return true;
}

bool
source_check_publication(Sql *source, const Ledger *ledger, const Catalog *catalog, Error *err)
{
	char second[80];
	Coverage coverage = {.ledger = ledger, .catalog = catalog};
	bool *seen = coverage.seen = mem_zalloc(catalog->table_count + 1);
	bool ok = check_one(&coverage, source, ledger->name, false, err);

	if (ok && source_has_insert_only(catalog))
		ok = check_one(&coverage, source, source_insert_only_name(ledger, second), true, err);
	for (size_t i = 0; ok && i < catalog->table_count; i++) {
		const Table *table = &catalog->tables[i];
		if (table->persistence == 'p' && !seen[i])
			ok = note_unpublished(&coverage, source, table, err);
	}
	free(seen);
	if (!ok || coverage.count == 0)
		return ok;
	error_set(err, ERROR_CONFIG, "publication %s on the source was altered: %s%s", ledger->name,
	          coverage.list, coverage.count > NAMED_TABLES ? ", ..." : "");
	return error_set_hint(err, "changes made meanwhile may be missing from the stream: cancel and "
	                           "start again");
}
