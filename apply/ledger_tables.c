/* A row for each table: what is copied, and of which source table. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "apply/ledger.h"
#include "common/log.h"
#include "common/memory.h"
#include "protocol/replication.h"

enum { INSERT_ROWS = 500 };

/* It is copied afresh: what a copy before has left in the catalogue is of no use. */
static void
forget_copy(Catalog *catalog, Table *table)
{
	pthread_mutex_lock(&catalog->lock);
	table->snapshot = NULL;
	table->snapshot_lsn = LSN_INVALID;
	table->error[0] = '\0';
	pthread_mutex_unlock(&catalog->lock);
	atomic_store(&table->copied_rows, 0);
	atomic_store(&table->copied_bytes, 0);
}

/* A snapshot of a migration's first hours can list thousands of xids. */
static bool
load_relations(Sql *target, const Ledger *ledger, Catalog *catalog, bool *known, Error *err)
{
	PGresult *result = sql_queryf(
		target, err,
		"SELECT schema_name, table_name, state, snapshot, snapshot_lsn, copied_rows,"
		" copied_bytes, apart, level_lsn FROM %s.relation",
		ledger->schema);

	if (result == NULL)
		return false;
	for (int i = 0; i < PQntuples(result); i++) {
		Table *table = catalog_find(catalog, PQgetvalue(result, i, 0), PQgetvalue(result, i, 1));
		if (table == NULL)
			continue; /* gone from the source: catalog_compare_source says so */
		known[table - catalog->tables] = true;
		atomic_store(&table->apart, sql_get_bool(result, i, 7));
		table->level_lsn = sql_get_lsn(result, i, 8);
		table->rows_remain = strcmp(PQgetvalue(result, i, 2), "copying") == 0;
		if (strcmp(PQgetvalue(result, i, 2), "copied") != 0) {
			forget_copy(catalog, table);
			atomic_store(&table->state, (int)TABLE_QUEUED);
			continue;
		}
		table_set_snapshot(catalog, table, PQgetvalue(result, i, 3), sql_get_lsn(result, i, 4));
		atomic_store(&table->copied_rows, (uint64_t)sql_get_int(result, i, 5));
		atomic_store(&table->copied_bytes, (uint64_t)sql_get_int(result, i, 6));
		atomic_store(&table->state, (int)TABLE_COPIED);
	}
	PQclear(result);
	return true;
}

static bool
insert_relations(Sql *target, const Ledger *ledger, const Catalog *catalog, const bool *known,
                 Error *err)
{
	Buffer sql = BUFFER_INIT;
	bool ok = true;

	for (size_t i = 0; ok && i < catalog->table_count;) {
		size_t rows = 0;
		buffer_reset(&sql);
		buffer_printf(&sql, "INSERT INTO %s.relation (schema_name, table_name, state) VALUES",
		              ledger->schema);
		for (; i < catalog->table_count && rows < INSERT_ROWS; i++) {
			if (known[i])
				continue;
			buffer_put_text(&sql, rows++ > 0 ? ", (" : " (");
			sql_put_literal(&sql, catalog->tables[i].schema);
			buffer_put_text(&sql, ", ");
			sql_put_literal(&sql, catalog->tables[i].name);
			buffer_put_text(&sql, ", 'queued')");
		}
		if (rows > 0)
			ok = sql_exec(target, err, buffer_cstr(&sql));
	}
	buffer_free(&sql);
	return ok;
}

/* NULL: it has the name under which it was copied, or is gone, or what has its name on the target is
 * not what was copied there. */
static const Table *
renamed(const Catalog *catalog, const Table *named, const PGresult *rows, int row)
{
	uint32_t oid = (uint32_t)sql_get_int(rows, row, 2);
	const Table *table = named != NULL && named->oid == oid ? named
	                                                        : catalog_find_oid(catalog, oid);

	if (table == NULL || table == named || table->target_oid == 0 ||
	    table->target_oid != (uint32_t)sql_get_int(rows, row, 3))
		return NULL;
	return table;
}

/* Two may have exchanged their names: all give theirs up before any gets another. A start may have
 * queued one under its new name, before it was renamed on the target. */
static void
put_new_name(const Ledger *ledger, const Table *table, Buffer *give_up, Buffer *take)
{
	buffer_printf(give_up,
	              "UPDATE %s.relation SET schema_name = '', table_name = source_oid::text"
	              " WHERE state = 'copied' AND source_oid = %" PRIu32 ";"
	              "DELETE FROM %s.relation WHERE state = 'queued' AND schema_name = ",
	              ledger->schema, table->oid, ledger->schema);
	sql_put_literal(give_up, table->schema);
	buffer_put_text(give_up, " AND table_name = ");
	sql_put_literal(give_up, table->name);
	buffer_put_text(give_up, ";");
	buffer_printf(take, "UPDATE %s.relation SET schema_name = ", ledger->schema);
	sql_put_literal(take, table->schema);
	buffer_put_text(take, ", table_name = ");
	sql_put_literal(take, table->name);
	buffer_printf(take, " WHERE schema_name = '' AND source_oid = %" PRIu32 ";", table->oid);
}

static bool
refuse_other(const Table *other, Error *err)
{
	error_set(err, ERROR_CONFIG,
	          "table %s on the source is not the one that was copied: that one was dropped or "
	          "renamed, and this one has its name",
	          other->qualified);
	return error_set_hint(err, "give the tables their names back on the source and start again; or "
	                           "cancel and begin again");
}

bool
ledger_check_tables(Sql *target, const Ledger *ledger, const Catalog *catalog, Error *err)
{
	PGresult *rows = sql_queryf(target, err,
	                            "SELECT schema_name, table_name, source_oid, target_oid, apart"
	                            " FROM %s.relation WHERE state = 'copied'",
	                            ledger->schema);
	Buffer give_up = BUFFER_INIT;
	Buffer take = BUFFER_INIT;
	const Table *other = NULL;

	if (rows == NULL)
		return false;
	for (int i = 0; i < PQntuples(rows) && other == NULL; i++) {
		const Table *named = catalog_find(catalog, PQgetvalue(rows, i, 0), PQgetvalue(rows, i, 1));
		const Table *table = renamed(catalog, named, rows, i);
		if (table != NULL) {
			log_info("ledger", "table %s.%s is %s now, on both sides", PQgetvalue(rows, i, 0),
			         PQgetvalue(rows, i, 1), table->qualified);
			put_new_name(ledger, table, &give_up, &take);
		} else if (named != NULL && !sql_get_bool(rows, i, 4) && named->persistence == 'p' &&
		           named->oid != (uint32_t)sql_get_int(rows, i, 2)) {
			/* What is unlogged is copied again at the cutover. */
			other = named;
		}
	}
	PQclear(rows);
	/* One message, one transaction. */
	buffer_put_text(&give_up, buffer_cstr(&take));
	bool ok = other == NULL ? take.len == 0 || sql_exec(target, err, buffer_cstr(&give_up))
	                        : refuse_other(other, err);
	buffer_free(&give_up);
	buffer_free(&take);
	return ok;
}

bool
ledger_list_dropped(Sql *target, const Ledger *ledger, const Catalog *catalog, Buffer *list,
                    Error *err)
{
	PGresult *rows = sql_queryf(
		target, err,
		"SELECT schema_name, table_name, pg_catalog.format('\"%%s\".\"%%s\"',"
		" replace(schema_name, '\"', '\"\"'), replace(table_name, '\"', '\"\"'))"
		" FROM %s.relation r WHERE state = 'copied' AND EXISTS (SELECT FROM"
		" pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid ="
		" c.relnamespace WHERE c.relname = r.table_name AND n.nspname ="
		" r.schema_name AND c.relkind = 'r') ORDER BY 1, 2",
		ledger->schema);

	if (rows == NULL)
		return false;
	for (int i = 0; i < PQntuples(rows); i++) {
		if (catalog_find(catalog, PQgetvalue(rows, i, 0), PQgetvalue(rows, i, 1)) != NULL)
			continue;
		buffer_printf(list, "%s%s", list->len > 0 ? ", " : "", PQgetvalue(rows, i, 2));
	}
	PQclear(rows);
	return true;
}

bool
ledger_sync_tables(Sql *target, const Ledger *ledger, Catalog *catalog, Error *err)
{
	bool *known = mem_zalloc(catalog->table_count + 1);
	bool ok = load_relations(target, ledger, catalog, known, err) &&
	          insert_relations(target, ledger, catalog, known, err);

	free(known);
	return ok;
}

bool
ledger_note_copied(Sql *target, const Ledger *ledger, Catalog *catalog, Error *err)
{
	PGresult *rows = sql_queryf(target, err,
	                            "SELECT max(snapshot_lsn) FROM %s.relation WHERE state = 'copied'",
	                            ledger->schema);

	if (rows == NULL)
		return false;
	if (sql_get(rows, 0, 0) != NULL)
		catalog_note_copied(catalog, sql_get_lsn(rows, 0, 0));
	PQclear(rows);
	return true;
}

static void
put_copied_row(const LedgerCopied *copied, Buffer *sql)
{
	buffer_put_text(sql, "(");
	sql_put_literal(sql, copied->table->schema);
	buffer_put_text(sql, ", ");
	sql_put_literal(sql, copied->table->name);
	buffer_printf(sql, ", 'copied', %" PRIu32 ", %" PRIu32 ", ", copied->table->oid,
	              copied->table->target_oid);
	sql_put_literal(sql, copied->snapshot);
	buffer_printf(sql, ", '%s'::pg_catalog.pg_lsn, %" PRIu64 ", %" PRIu64 ", ",
	              LSN_STR(copied->lsn), copied->rows, copied->bytes);
	sql_put_literal(sql, copied->stamp);
	buffer_put_text(sql, "::pg_catalog.jsonb)");
}

void
ledger_copied_sql(const Ledger *ledger, const LedgerCopied *copied, size_t count, Buffer *sql)
{
	buffer_printf(
		sql,
		"INSERT INTO %s.relation (schema_name, table_name, state, source_oid, target_oid, snapshot,"
		" snapshot_lsn, copied_rows, copied_bytes, stamp) VALUES ",
		ledger->schema);
	for (size_t i = 0; i < count; i++) {
		buffer_put_text(sql, i > 0 ? ", " : "");
		put_copied_row(&copied[i], sql);
	}
	buffer_put_text(sql, " ON CONFLICT (schema_name, table_name)"
	                     " DO UPDATE SET state = 'copied', source_oid = EXCLUDED.source_oid,"
	                     " target_oid = EXCLUDED.target_oid,"
	                     " snapshot = EXCLUDED.snapshot,"
	                     " snapshot_lsn = EXCLUDED.snapshot_lsn,"
	                     " copied_rows = EXCLUDED.copied_rows,"
	                     " copied_bytes = EXCLUDED.copied_bytes,"
	                     " stamp = EXCLUDED.stamp;");
}

void
ledger_outcome_sql(const Ledger *ledger, const Table *table, const char *snapshot, Buffer *wait,
                   Buffer *ask)
{
	buffer_printf(wait, "INSERT INTO %s.relation (schema_name, table_name, state) VALUES (",
	              ledger->schema);
	sql_put_literal(wait, table->schema);
	buffer_put_text(wait, ", ");
	sql_put_literal(wait, table->name);
	buffer_put_text(wait, ", 'queued') ON CONFLICT (schema_name, table_name) DO NOTHING");
	buffer_put_text(ask, "SELECT (state = 'copied' AND snapshot = ");
	sql_put_literal(ask, snapshot);
	buffer_printf(ask, ")::text FROM %s.relation WHERE schema_name = ", ledger->schema);
	sql_put_literal(ask, table->schema);
	buffer_put_text(ask, " AND table_name = ");
	sql_put_literal(ask, table->name);
	buffer_put_text(ask, " FOR UPDATE");
}

static void
put_condition(const Table *table, const char *attempt, Buffer *sql)
{
	buffer_printf(sql, " WHERE attempt = %s AND schema_name = ", attempt);
	sql_put_literal(sql, table->schema);
	buffer_put_text(sql, " AND table_name = ");
	sql_put_literal(sql, table->name);
}

void
ledger_copying_sql(const Ledger *ledger, const Table *table, Buffer *sql)
{
	buffer_printf(sql, "INSERT INTO %s.relation (schema_name, table_name, state, attempt) VALUES (",
	              ledger->schema);
	sql_put_literal(sql, table->schema);
	buffer_put_text(sql, ", ");
	sql_put_literal(sql, table->name);
	buffer_put_text(sql, ", 'copying', pg_catalog.txid_current()) ON CONFLICT"
	                     " (schema_name, table_name) DO UPDATE SET state = 'copying',"
	                     " attempt = EXCLUDED.attempt RETURNING attempt;");
}

void
ledger_attempt_sql(const Ledger *ledger, const Table *table, const char *attempt, Buffer *sql)
{
	buffer_printf(sql, "SELECT 1 FROM %s.relation", ledger->schema);
	put_condition(table, attempt, sql);
	buffer_put_text(sql, " AND state = 'copying' FOR SHARE;");
}

void
ledger_attempt_copied_sql(const Ledger *ledger, const char *attempt, const LedgerCopied *copied,
                          Buffer *sql)
{
	buffer_printf(sql,
	              "UPDATE %s.relation SET state = 'copied', source_oid = %" PRIu32
	              ", target_oid = %" PRIu32 ", snapshot = ",
	              ledger->schema, copied->table->oid, copied->table->target_oid);
	sql_put_literal(sql, copied->snapshot);
	buffer_printf(sql,
	              ", snapshot_lsn = '%s', copied_rows = %" PRIu64 ", copied_bytes = %" PRIu64
	              ", stamp = ",
	              LSN_STR(copied->lsn), copied->rows, copied->bytes);
	sql_put_literal(sql, copied->stamp);
	put_condition(copied->table, attempt, sql);
	buffer_put_text(sql, ";");
}

/* ---- stamps ---- */

PGresult *
ledger_stamps(Sql *target, const Ledger *ledger, Error *err)
{
	return sql_queryf(target, err,
	                  "SELECT schema_name, table_name, stamp FROM %s.relation"
	                  " WHERE state = 'copied' AND NOT apart AND stamp IS NOT NULL",
	                  ledger->schema);
}

bool
ledger_set_stamps(Sql *target, const Ledger *ledger, const PGresult *stamps, Error *err)
{
	Buffer sql = BUFFER_INIT;

	if (PQntuples(stamps) == 0)
		return true;
	buffer_printf(&sql, "UPDATE %s.relation r SET stamp = v.stamp::pg_catalog.jsonb FROM (VALUES ",
	              ledger->schema);
	for (int i = 0; i < PQntuples(stamps); i++) {
		for (int k = 0; k < 3; k++) {
			buffer_put_text(&sql, k > 0 ? ", " : i > 0 ? ", (" : "(");
			sql_put_literal(&sql, PQgetvalue(stamps, i, k));
		}
		buffer_put_text(&sql, ")");
	}
	buffer_put_text(&sql,
	                ") v(schema_name, table_name, stamp) WHERE r.schema_name = v.schema_name"
	                " AND r.table_name = v.table_name AND r.state = 'copied' AND NOT r.apart");
	bool ok = sql_exec(target, err, buffer_cstr(&sql));
	buffer_free(&sql);
	return ok;
}

bool
ledger_republished(Sql *target, const Ledger *ledger, const char *before, const char *after,
                   Error *err)
{
	return sql_execf(target, err,
	                 "UPDATE %s.relation SET stamp = pg_catalog.jsonb_set(stamp, '{published}',"
	                 " pg_catalog.to_jsonb(replace(stamp->>'published', ':%s;', ':%s;')))"
	                 " WHERE stamp->>'published' LIKE '%%:%s;%%'",
	                 ledger->schema, before, after, before);
}
