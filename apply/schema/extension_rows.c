#include "apply/schema/extension_rows.h"

#include "apply/schema/step.h"
#include "common/log.h"
#include "protocol/replication.h"

enum { ROWS_A_STATEMENT = 500 };

enum { COL_OID, COL_SCHEMA, COL_QUALIFIED, COL_KIND, COL_CONDITION, COL_COLUMNS };

/* In the order in which the extension names them: what is referred to comes first. */
static const char config_sql[] =
	"SELECT c.oid, n.nspname, pg_catalog.quote_ident(n.nspname) || '.' ||"
	" pg_catalog.quote_ident(c.relname), c.relkind, u.condition,"
	" (SELECT string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)"
	" FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0"
	" AND NOT a.attisdropped AND a.attgenerated = '')"
	" FROM pg_catalog.pg_extension e, LATERAL unnest(e.extconfig, e.extcondition)"
	" WITH ORDINALITY AS u(oid, condition, n)"
	" JOIN pg_catalog.pg_class c ON c.oid = u.oid AND c.relkind IN ('r', 'S')"
	" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY e.oid, u.n";

static bool
is_wanted(const SchemaWork *work, const PGresult *tables, int row)
{
	const Matches *matches = work->catalog->matches;
	uint32_t oid = (uint32_t)sql_get_int(tables, row, COL_OID);

	return matches_chosen(matches, oid, PQgetvalue(tables, row, COL_SCHEMA)) &&
	       !matches_relation(matches, EXCLUDE_DATA, oid);
}

static void
put_row(const PGresult *rows, int row, Buffer *sql)
{
	for (int i = 0; i < PQnfields(rows); i++) {
		buffer_put_text(sql, i == 0 ? "(" : ", ");
		if (PQgetisnull(rows, row, i))
			buffer_put_text(sql, "NULL");
		else
			sql_put_literal(sql, PQgetvalue(rows, row, i));
	}
	buffer_put_text(sql, ")");
}

static void
put_inserts(const char *table, const char *columns, const PGresult *rows, Buffer *sql)
{
	for (int row = 0; row < PQntuples(rows); row++) {
		if (row % ROWS_A_STATEMENT == 0)
			buffer_printf(sql, "%sINSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES ",
			              row > 0 ? ";\n" : "", table, columns);
		else
			buffer_put_text(sql, ", ");
		put_row(rows, row, sql);
	}
	if (PQntuples(rows) > 0)
		buffer_put_text(sql, ";\n");
}

static void
put_setval(const char *sequence, const PGresult *rows, Buffer *sql)
{
	buffer_put_text(sql, "SELECT pg_catalog.setval(");
	sql_put_literal(sql, sequence);
	buffer_printf(sql, ", %s, '%s');\n", PQgetvalue(rows, 0, 0), PQgetvalue(rows, 0, 1));
}

/* The condition is the extension's own SQL: "WHERE ...", or empty. */
static bool
put_table(Sql *source, const PGresult *tables, int row, Buffer *sql, Error *err)
{
	const char *qualified = PQgetvalue(tables, row, COL_QUALIFIED);
	const char *columns = PQgetvalue(tables, row, COL_COLUMNS);
	bool sequence = PQgetvalue(tables, row, COL_KIND)[0] == 'S';
	PGresult *rows = sql_queryf(source, err, "SELECT %s FROM ONLY %s %s",
	                            sequence ? "last_value, is_called" : columns, qualified,
	                            sequence ? "" : PQgetvalue(tables, row, COL_CONDITION));

	if (rows == NULL)
		return error_add_context(err, "%s", qualified);
	if (sequence)
		put_setval(qualified, rows, sql);
	else
		put_inserts(qualified, columns, rows, sql);
	if (!sequence && PQntuples(rows) > 0)
		log_info("schema", "%s, a table of an extension: %d rows", qualified, PQntuples(rows));
	PQclear(rows);
	return true;
}

static bool
put_all(const SchemaWork *work, Sql *source, Buffer *sql, Error *err)
{
	PGresult *tables = sql_query(source, err, config_sql);
	bool ok = tables != NULL;

	for (int i = 0; ok && i < PQntuples(tables); i++) {
		if (is_wanted(work, tables, i))
			ok = put_table(source, tables, i, sql, err);
	}
	PQclear(tables);
	return ok;
}

static bool
hint(Error *err)
{
	if (error_has_sqlstate(err, "23505"))
		error_set_hint(err, "the extension's script has made such a row itself: leave that table's "
		                    "rows out with --exclude-table-data, and add yours by hand");
	return error_add_context(err, "rows of extensions' tables");
}

bool
extension_rows_copy(const SchemaWork *work, Error *err)
{
	static const char step[] = "extension rows";
	const Selection *selection = work->selection;
	Buffer sql = BUFFER_INIT;
	bool done = false;

	if (selection != NULL &&
	    (selection->lists[INCLUDE_TABLE].count > 0 || selection->lists[INCLUDE_SCHEMA].count > 0))
		return true;
	if (!ledger_step_done(work->target_sql, work->ledger, step, &done, err))
		return false;
	if (done)
		return true;
	Sql *source = sql_connect(work->source, "source", "schema", work->stop, err);
	bool ok = source != NULL && put_all(work, source, &sql, err) &&
	          schema_step_run(work->target_sql, work->ledger, step, buffer_cstr(&sql), err);
	sql_close(source);
	buffer_free(&sql);
	return ok || hint(err);
}
