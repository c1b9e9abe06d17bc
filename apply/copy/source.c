#include "apply/copy/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/copy/rewrite.h"
#include "apply/copy/session.h"
#include "common/memory.h"
#include "protocol/replication.h"

void
copy_view_clear(CopyView *view)
{
	free(view->snapshot);
	free(view->exported);
	free(view->stamps);
	*view = (CopyView){0};
}

const char *
copy_snapshot_sql(int server_version)
{
	return server_version >= 130000 ? "pg_catalog.pg_current_snapshot()::text"
	                                : "pg_catalog.txid_current_snapshot()::text";
}

/* ---- columns ---- */

bool
copy_put_columns(const Table *table, Buffer *sql)
{
	const char *separator = "";

	for (int i = 0; i < table->column_count; i++) {
		if (table->columns[i].generated)
			continue;
		buffer_put_text(sql, separator);
		sql_put_identifier(sql, table->columns[i].name);
		separator = ", ";
	}
	return separator[0] != '\0';
}

/* Whether the columns are those of the catalogue: a boolean. */
static void
put_same_columns(Buffer *sql, const Table *table)
{
	buffer_printf(sql,
	              "(SELECT coalesce(array_agg(attname::text || ' ' || atttypid || ' ' ||"
	              " (attgenerated <> '') ORDER BY attnum), '{}') FROM pg_catalog.pg_attribute"
	              " WHERE attnum > 0 AND NOT attisdropped AND attrelid = %u) = ARRAY[",
	              table->oid);
	for (int i = 0; i < table->column_count; i++) {
		const Column *column = &table->columns[i];
		char *text = mem_printf("%s %u %s", column->name, column->type_oid,
		                        column->generated ? "true" : "false");
		buffer_put_text(sql, i > 0 ? "," : "");
		sql_put_literal(sql, text);
		free(text);
	}
	buffer_put_text(sql, "]::text[]");
}

static bool
source_changed(Error *err, const char *what)
{
	error_set(err, ERROR_CONFIG, "the table has changed on the source since the start: %s", what);
	return error_set_hint(err, "start again, so that the catalogue is read afresh");
}

static bool
column_matches(const WireResult *result, int row, const Column *column)
{
	return strcmp(wire_result_get(result, row, 0), column->name) == 0 &&
	       strtoul(wire_result_get(result, row, 1), NULL, 10) == column->type_oid &&
	       (wire_result_get(result, row, 2)[0] == 't') == column->generated;
}

/* They are not the same: which one is it? */
static bool
name_changed_column(Wire *source, const Table *table, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;
	const char *what = "it has more or fewer columns";

	buffer_printf(&sql,
	              "SELECT attname, atttypid::text, (attgenerated <> '')::text"
	              " FROM pg_catalog.pg_attribute WHERE attnum > 0 AND NOT attisdropped"
	              " AND attrelid = %u ORDER BY attnum",
	              table->oid);
	bool ok = copy_query(source, "source", buffer_cstr(&sql), &result, err);
	buffer_free(&sql);
	if (!ok)
		return false;
	if (wire_result_rows(result) == table->column_count) {
		for (int i = table->column_count - 1; i >= 0; i--)
			if (!column_matches(result, i, &table->columns[i]))
				what = table->columns[i].name;
	}
	wire_result_free(result);
	return source_changed(err, what);
}

/* ---- the transaction ---- */

static const char begin_sql[] = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;";

static void
put_join(Buffer *sql, const char *exported)
{
	buffer_put_text(sql, "SET TRANSACTION SNAPSHOT ");
	sql_put_literal(sql, exported);
	buffer_put_text(sql, ";");
}

/*
 * Lock, then snapshot, then LSN (C2). The lock first: TRUNCATE and a rewriting ALTER do
 * not respect snapshots, so one that commits between the snapshot and COPY would leave a
 * copy without rows that the snapshot says are in it. LOCK TABLE takes no snapshot; the
 * SELECT takes it before it evaluates anything, the insert position included. The heap's
 * size is read after the snapshot too, and what is visible lies below it: pages are only
 * given back under a lock that ours forbids.
 *
 * With a snapshot of all tables its transaction has their locks: who is in the way waits for
 * that one, and must not be waited for.
 */
static void
put_begin(Buffer *sql, int version, const Ledger *ledger, Table *table,
          const SharedSnapshot *shared, bool export)
{
	buffer_put_text(sql, begin_sql);
	if (shared != NULL)
		put_join(sql, shared->id);
	buffer_printf(sql, "LOCK TABLE ONLY %s IN ACCESS SHARE MODE%s;", table->qualified,
	              shared != NULL ? " NOWAIT" : "");
	buffer_printf(sql, "SELECT %s, pg_catalog.pg_current_wal_insert_lsn()::text, ",
	              copy_snapshot_sql(version));
	sql_put_literal(sql, table->qualified);
	buffer_put_text(sql, "::pg_catalog.regclass::pg_catalog.oid::text, ");
	put_same_columns(sql, table);
	buffer_put_text(sql, ", ");
	rewrite_put_stamps(sql, ledger, &table, 1);
	if (export)
		buffer_printf(sql,
		              ", pg_catalog.pg_export_snapshot(), (SELECT CASE WHEN m.amname = 'heap' THEN"
		              " pg_catalog.pg_relation_size(c.oid) ELSE 0 END"
		              " / pg_catalog.current_setting('block_size')::bigint"
		              " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am m ON m.oid = c.relam"
		              " WHERE c.oid = %u)",
		              table->oid);
}

static bool
keep_view(Wire *source, const WireResult *result, const Table *table, const SharedSnapshot *shared,
          CopyView *view, Error *err)
{
	const char *snapshot = wire_result_get(result, 0, 0);
	const char *lsn = wire_result_get(result, 0, 1);
	const char *oid = wire_result_get(result, 0, 2);
	const char *same = wire_result_get(result, 0, 3);
	const char *stamps = wire_result_get(result, 0, 4);

	if (wire_result_rows(result) != 1 || snapshot == NULL || lsn == NULL || oid == NULL ||
	    same == NULL || !lsn_parse(lsn, &view->lsn))
		return error_set(err, ERROR_PROTOCOL, "no snapshot in the server's answer");
	if (strtoul(oid, NULL, 10) != table->oid)
		return source_changed(err, "another table has its name now");
	if (same[0] != 't' || stamps == NULL)
		return name_changed_column(source, table, err);
	if (shared != NULL)
		view->lsn = shared->lsn;
	view->snapshot = mem_strdup(shared != NULL ? shared->snapshot : snapshot);
	view->stamps = mem_strdup(stamps); /* of the OID just compared */
	if (wire_result_columns(result) > 5) {
		const char *pages = wire_result_get(result, 0, 6);
		view->exported = mem_strdup(wire_result_get(result, 0, 5));
		view->pages = pages != NULL ? strtoull(pages, NULL, 10) : 0;
	}
	return true;
}

bool
copy_source_begin(Wire *source, const Ledger *ledger, Table *table, const SharedSnapshot *shared,
                  bool export, CopyView *view, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	put_begin(&sql, wire_server_version(source), ledger, table, shared, export);
	bool ok = copy_query(source, "source", buffer_cstr(&sql), &result, err);
	buffer_free(&sql);
	if (!ok) {
		if (error_has_sqlstate(err, "42P01"))
			error_set_hint(err, "the table was dropped or renamed on the source after the start;"
			                    " start again, so that the catalogue is read afresh");
		else if (shared != NULL && error_has_sqlstate(err, "55P03"))
			error_set_hint(err, "another session waits for a lock on it, and that one for the copy,"
			                    " which is over now: start again when it is through");
		return false;
	}
	ok = keep_view(source, result, table, shared, view, err);
	wire_result_free(result);
	return ok;
}

/* What others have written and not committed is flushed by the WAL writer a page at a time: the last one
 * would wait for somebody's commit, or for 15 s. A message of our own is a commit; where we may not send
 * one, that long it is. */
static void
ask_flush(Wire *source)
{
	static const char commit[] =
		"BEGIN READ WRITE; SET LOCAL synchronous_commit = local;"
		"SELECT pg_catalog.pg_logical_emit_message(true, 'pgbaton flush', ''); COMMIT";
	Error ignored = ERROR_INIT;

	if (!copy_query(source, "source", commit, NULL, &ignored))
		(void)!copy_query(source, "source", "ROLLBACK", NULL, &ignored);
}

static bool
wait_flushed(Wire *source, const char *before, Lsn seen, const Stop *stop, Error *err)
{
	enum { FIRST_MS = 1, LONGEST_MS = 50 };
	char sql[120];
	bool flushed = false;

	for (int64_t wait = 0; !flushed; wait = wait < LONGEST_MS ? wait * 2 + FIRST_MS : LONGEST_MS) {
		WireResult *result = NULL;

		snprintf(sql, sizeof(sql), "%sSELECT pg_catalog.pg_current_wal_flush_lsn() >= '%s'",
		         wait == 0 ? before : "", LSN_STR(lsn_before_page_header(seen)));
		if (wait == FIRST_MS)
			ask_flush(source);
		else if (wait > FIRST_MS && !stop_sleep_ms(stop, wait, err))
			return false;
		if (!copy_query(source, "source", sql, &result, err))
			return false;
		const char *answer = wire_result_rows(result) == 1 ? wire_result_get(result, 0, 0) : NULL;
		flushed = answer != NULL && answer[0] == 't';
		wire_result_free(result);
	}
	return true;
}

bool
copy_source_flushed(Wire *source, Lsn seen, const Stop *stop, Error *err)
{
	return wait_flushed(source, "", seen, stop, err);
}

bool
copy_source_end(Wire *source, Catalog *catalog, Lsn seen, const Stop *stop, Error *err)
{
	catalog_note_copied(catalog, seen);
	return wait_flushed(source, "COMMIT;", seen, stop, err);
}

/* ---- several tables ---- */

/* The tables' names are still theirs, and their columns are those of the catalogue: a boolean. */
static void
put_same_tables(Buffer *sql, Table *const *tables, size_t count)
{
	const char *separator = "";

	buffer_put_text(sql, "(ARRAY[");
	for (size_t i = 0; i < count; i++) {
		buffer_put_text(sql, i > 0 ? "," : "");
		sql_put_literal(sql, tables[i]->qualified);
		buffer_put_text(sql, "::pg_catalog.regclass::pg_catalog.oid");
	}
	buffer_put_text(sql, "] = '{");
	for (size_t i = 0; i < count; i++)
		buffer_printf(sql, "%s%u", i > 0 ? "," : "", tables[i]->oid);
	buffer_put_text(sql, "}'::pg_catalog.oid[] AND (SELECT coalesce(array_agg(attrelid || ' ' ||"
	                     " attname::text || ' ' || atttypid || ' ' || (attgenerated <> '')"
	                     " ORDER BY attrelid, attnum), '{}') FROM pg_catalog.pg_attribute"
	                     " WHERE attnum > 0 AND NOT attisdropped AND attrelid = ANY ('{");
	for (size_t i = 0; i < count; i++)
		buffer_printf(sql, "%s%u", i > 0 ? "," : "", tables[i]->oid);
	buffer_put_text(sql, "}'::pg_catalog.oid[])) = ARRAY[");
	for (size_t i = 0; i < count; i++) {
		for (int k = 0; k < tables[i]->column_count; k++) {
			const Column *column = &tables[i]->columns[k];
			char *text = mem_printf("%u %s %u %s", tables[i]->oid, column->name, column->type_oid,
			                        column->generated ? "true" : "false");
			buffer_put_text(sql, separator);
			sql_put_literal(sql, text);
			free(text);
			separator = ",";
		}
	}
	buffer_put_text(sql, "]::text[])::text");
}

/* As put_begin: locks, then snapshot, then LSN. */
static void
put_begin_group(Buffer *sql, int version, const Ledger *ledger, Table *const *tables, size_t count,
                const SharedSnapshot *shared)
{
	buffer_put_text(sql, begin_sql);
	if (shared != NULL)
		put_join(sql, shared->id);
	for (size_t i = 0; i < count; i++)
		buffer_printf(sql, "%sONLY %s", i > 0 ? ", " : "LOCK TABLE ", tables[i]->qualified);
	buffer_printf(sql,
	              " IN ACCESS SHARE MODE NOWAIT;"
	              "SELECT %s, pg_catalog.pg_current_wal_insert_lsn()::text, ",
	              copy_snapshot_sql(version));
	put_same_tables(sql, tables, count);
	buffer_put_text(sql, ", ");
	rewrite_put_stamps(sql, ledger, tables, count);
}

bool
copy_source_begin_group(Wire *source, const Ledger *ledger, Table *const *tables, size_t count,
                        const SharedSnapshot *shared, CopyView *view, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	put_begin_group(&sql, wire_server_version(source), ledger, tables, count, shared);
	bool ok = copy_query(source, "source", buffer_cstr(&sql), &result, err);
	buffer_free(&sql);
	if (!ok)
		return false;
	const char *snapshot = wire_result_get(result, 0, 0);
	const char *lsn = wire_result_get(result, 0, 1);
	const char *same = wire_result_get(result, 0, 2);
	const char *stamps = wire_result_get(result, 0, 3);
	if (wire_result_rows(result) != 1 || snapshot == NULL || lsn == NULL || same == NULL ||
	    !lsn_parse(lsn, &view->lsn)) {
		ok = error_set(err, ERROR_PROTOCOL, "no snapshot in the server's answer");
	} else if (same[0] != 't' || stamps == NULL) {
		ok = source_changed(err, "one of several");
	} else {
		view->stamps = mem_strdup(stamps);
		view->snapshot = mem_strdup(shared != NULL ? shared->snapshot : snapshot);
		view->lsn = shared != NULL ? shared->lsn : view->lsn;
	}
	wire_result_free(result);
	return ok;
}

bool
copy_source_join(Wire *source, const char *exported, const Table *table, bool *queued, Error *err)
{
	Buffer sql = BUFFER_INIT;

	buffer_put_text(&sql, begin_sql);
	put_join(&sql, exported);
	buffer_printf(&sql, "LOCK TABLE ONLY %s IN ACCESS SHARE MODE NOWAIT", table->qualified);
	bool ok = copy_query(source, "source", buffer_cstr(&sql), NULL, err);
	buffer_free(&sql);
	*queued = !ok && error_has_sqlstate(err, "55P03");
	if (*queued) {
		error_clear(err);
		return copy_query(source, "source", "ROLLBACK", NULL, err);
	}
	/* 55000 and 22023 (which of them depends on the version): "is not running any more",
	 * "invalid snapshot identifier". */
	if (!ok && err->class == ERROR_SQL)
		error_set(err, ERROR_NETWORK, "the transaction that holds the table's snapshot is gone");
	return ok;
}
