#include "apply/copy/rewrite.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "apply/setup/source.h"
#include "protocol/replication.h"

enum { TABLES_AT_ONCE = 1000, NAMED_TABLES = 5 };

/* ---- stamps ---- */

/* Of either of ours. */
static void
put_published(Buffer *sql, const Ledger *ledger)
{
	char second[80];

	buffer_printf(sql,
	              "(SELECT pg_catalog.string_agg(p.oid || ':' || u.xmin || ';', ' ' ORDER BY p.oid)"
	              " FROM pg_catalog.pg_publication_rel p JOIN pg_catalog.pg_publication u"
	              " ON u.oid = p.prpubid WHERE p.prrelid = c.oid AND u.pubname IN ('%s', '%s'))",
	              ledger->name, source_insert_only_name(ledger, second));
}

static void
put_stamp(Buffer *sql, const Ledger *ledger)
{
	buffer_put_text(
		sql, "pg_catalog.jsonb_build_object('file', c.relfilenode::pg_catalog.int8, 'columns',"
			 " coalesce((SELECT pg_catalog.jsonb_object_agg(a.attname, a.attnum || ':' ||"
			 " a.xmin) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid"
			 " AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '{}'),"
			 " 'published', ");
	put_published(sql, ledger);
	buffer_put_text(sql, ")");
}

static void
put_oids(Buffer *sql, Table *const *tables, size_t count)
{
	buffer_put_text(sql, " = ANY ('{");
	for (size_t i = 0; i < count; i++)
		buffer_printf(sql, "%s%" PRIu32, i > 0 ? "," : "", tables[i]->oid);
	buffer_put_text(sql, "}'::pg_catalog.oid[])");
}

void
rewrite_put_stamps(Buffer *sql, const Ledger *ledger, Table *const *tables, size_t count)
{
	/* No line break lies within one: JSON writes it as \n. */
	buffer_put_text(sql, "(SELECT pg_catalog.string_agg(");
	put_stamp(sql, ledger);
	buffer_put_text(sql, "::text, E'\\n' ORDER BY c.oid) FROM pg_catalog.pg_class c WHERE c.oid");
	put_oids(sql, tables, count);
	buffer_put_text(sql, ")");
}

/* ---- compared ---- */

typedef struct {
	char *out;
	size_t size;
	int count;
} Found;

static void
name_table(Found *found, const char *table, const char *column)
{
	size_t len = strlen(found->out);

	if (found->count++ >= NAMED_TABLES)
		return;
	if (column != NULL)
		snprintf(found->out + len, found->size - len, "%s%s was rewritten (column %s)",
		         len > 0 ? ", " : "", table, column);
	else
		snprintf(found->out + len, found->size - len,
		         "%s%s was out of the publication, or that was altered, for a time",
		         len > 0 ? ", " : "", table);
}

/* A row for each table whose stamp tells of something, with one of its columns where it is about
 * those. */
static void
put_compare(Buffer *sql, const Ledger *ledger)
{
	buffer_put_text(sql,
	                ") SELECT s.number, r.attname FROM stamp s"
	                " JOIN pg_catalog.pg_class c ON c.oid = s.oid"
	                " LEFT JOIN LATERAL (SELECT a.attname FROM"
	                " pg_catalog.jsonb_each_text(s.stamp->'columns') was"
	                " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = was.key"
	                " AND a.attnum > 0 AND NOT a.attisdropped"
	                " WHERE pg_catalog.split_part(was.value, ':', 1) <> a.attnum::text"
	                " OR (pg_catalog.split_part(was.value, ':', 2) <> a.xmin::text"
	                " AND (s.stamp->>'file')::pg_catalog.int8 <> c.relfilenode::pg_catalog.int8)"
	                " ORDER BY a.attnum LIMIT 1) r ON true"
	                " WHERE r.attname IS NOT NULL OR s.stamp->>'published' IS DISTINCT FROM ");
	put_published(sql, ledger);
	buffer_put_text(sql, " ORDER BY s.number");
}

/* What is unlogged is copied again at the cutover. */
static bool
is_compared(const Table *table)
{
	return table != NULL && table->persistence == 'p';
}

/* From row on of the ledger's, as many as are asked about at once; row is moved on. */
static bool
compare_some(Sql *source, const Ledger *ledger, const Catalog *catalog, const PGresult *stamps,
             int *row, Found *found, Error *err)
{
	Buffer sql = BUFFER_INIT;
	int asked = 0;

	buffer_put_text(&sql, "WITH stamp(number, oid, stamp) AS (VALUES ");
	for (; *row < PQntuples(stamps) && asked < TABLES_AT_ONCE; (*row)++) {
		const Table *table = catalog_find(catalog, PQgetvalue(stamps, *row, 0),
		                                  PQgetvalue(stamps, *row, 1));
		if (!is_compared(table))
			continue;
		buffer_printf(&sql, "%s(%zu, %" PRIu32 "::pg_catalog.oid, ", asked++ > 0 ? ", " : "",
		              (size_t)(table - catalog->tables), table->oid);
		sql_put_literal(&sql, PQgetvalue(stamps, *row, 2));
		buffer_put_text(&sql, "::pg_catalog.jsonb)");
	}
	put_compare(&sql, ledger);
	PGresult *rows = asked > 0 ? sql_query(source, err, buffer_cstr(&sql)) : NULL;
	buffer_free(&sql);
	for (int i = 0; rows != NULL && i < PQntuples(rows); i++)
		name_table(found, catalog->tables[sql_get_int(rows, i, 0)].qualified, sql_get(rows, i, 1));
	bool ok = asked == 0 || rows != NULL;
	PQclear(rows);
	return ok;
}

bool
rewrite_compare(Sql *source, Sql *target, const Ledger *ledger, const Catalog *catalog, bool *same,
                char *what, size_t what_size, Error *err)
{
	Found found = {what, what_size, 0};
	PGresult *stamps = ledger_stamps(target, ledger, err);
	bool ok = stamps != NULL;

	what[0] = '\0';
	for (int row = 0; ok && row < PQntuples(stamps);)
		ok = compare_some(source, ledger, catalog, stamps, &row, &found, err);
	PQclear(stamps);
	if (!ok)
		return error_add_context(err, "looking for tables that were rewritten");
	if (found.count > NAMED_TABLES) {
		size_t len = strlen(what);
		snprintf(what + len, what_size - len, " and %d more", found.count - NAMED_TABLES);
	}
	*same = found.count == 0;
	return true;
}

/* ---- stamped again ---- */

bool
rewrite_stamp_again(Sql *source, Sql *target, const Ledger *ledger, const Catalog *catalog,
                    bool marked, Error *err)
{
	bool ok = true;

	for (size_t i = 0; ok && i < catalog->table_count;) {
		Table *some[TABLES_AT_ONCE];
		size_t count = 0;
		Buffer sql = BUFFER_INIT;
		for (; i < catalog->table_count && count < TABLES_AT_ONCE; i++) {
			Table *table = &catalog->tables[i];
			if (is_compared(table) && (!marked || atomic_load(&table->marked)))
				some[count++] = table;
		}
		buffer_put_text(&sql, "SELECT n.nspname, c.relname, ");
		put_stamp(&sql, ledger);
		buffer_put_text(&sql, " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
		                      " ON n.oid = c.relnamespace WHERE c.oid");
		put_oids(&sql, some, count);
		PGresult *stamps = sql_query(source, err, buffer_cstr(&sql));
		buffer_free(&sql);
		ok = stamps != NULL && ledger_set_stamps(target, ledger, stamps, err);
		PQclear(stamps);
	}
	return ok || error_add_context(err, "noting that tables are equal");
}
