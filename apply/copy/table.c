#include "apply/copy/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/memory.h"
#include "protocol/replication.h"

void
copy_attempt_clear(CopyAttempt *attempt)
{
	free(attempt->snapshot);
	*attempt = (CopyAttempt){0};
}

const char *
copy_snapshot_sql(int server_version)
{
	return server_version >= 130000 ? "pg_catalog.pg_current_snapshot()::text"
	                                : "pg_catalog.txid_current_snapshot()::text";
}

/*
 * Lock, then snapshot, then LSN (C2). The lock first: TRUNCATE and a rewriting ALTER do
 * not respect snapshots, so one that commits between the snapshot and COPY would leave a
 * copy without rows that the snapshot says are in it. LOCK TABLE takes no snapshot; the
 * SELECT takes it before it evaluates anything, the insert position included.
 */
static void
put_source_begin(Buffer *sql, int version, const Table *table, const SharedSnapshot *shared)
{
	buffer_put_text(sql, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;");
	if (shared != NULL) {
		buffer_put_text(sql, "SET TRANSACTION SNAPSHOT ");
		sql_put_literal(sql, shared->id);
		buffer_put_text(sql, ";");
	}
	buffer_printf(sql, "LOCK TABLE ONLY %s IN ACCESS SHARE MODE;", table->qualified);
	buffer_printf(sql,
	              "SELECT %s AS snapshot, pg_catalog.pg_current_wal_insert_lsn()::text AS lsn, ",
	              copy_snapshot_sql(version));
	sql_put_literal(sql, table->qualified);
	buffer_put_text(sql, "::pg_catalog.regclass::pg_catalog.oid::text AS oid");
}

static bool
source_changed(Error *err, const char *what)
{
	error_set(err, ERROR_CONFIG, "the table has changed on the source since the start: %s", what);
	return error_set_hint(err, "start again, so that the catalogue is read afresh");
}

static bool
keep_snapshot(const WireResult *result, const Table *table, const SharedSnapshot *shared,
              CopyAttempt *attempt, Error *err)
{
	const char *snapshot = wire_result_get(result, 0, 0);
	const char *lsn = wire_result_get(result, 0, 1);
	const char *oid = wire_result_get(result, 0, 2);

	if (wire_result_rows(result) != 1 || snapshot == NULL || lsn == NULL || oid == NULL ||
	    !lsn_parse(lsn, &attempt->lsn))
		return error_set(err, ERROR_PROTOCOL, "no snapshot in the server's answer");
	if (strtoul(oid, NULL, 10) != table->oid)
		return source_changed(err, "another table has its name now");
	if (shared != NULL)
		attempt->lsn = shared->lsn;
	attempt->snapshot = mem_strdup(shared != NULL ? shared->snapshot : snapshot);
	return true;
}

static bool
column_matches(const WireResult *result, int row, const Column *column)
{
	return strcmp(wire_result_get(result, row, 0), column->name) == 0 &&
	       strtoul(wire_result_get(result, row, 1), NULL, 10) == column->type_oid &&
	       (wire_result_get(result, row, 2)[0] == 't') == column->generated;
}

/* The lock is held, so what is seen here is what COPY will send. */
static bool
check_columns(Wire *source, const Table *table, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	buffer_put_text(&sql, "SELECT attname, atttypid::text, (attgenerated <> '')::text"
	                      " FROM pg_catalog.pg_attribute WHERE attnum > 0 AND NOT attisdropped"
	                      " AND attrelid = ");
	buffer_printf(&sql, "%u ORDER BY attnum", table->oid);
	bool ok = copy_query(source, "source", buffer_cstr(&sql), &result, err);
	buffer_free(&sql);
	if (!ok)
		return false;

	int rows = wire_result_rows(result);
	if (rows != table->column_count)
		ok = source_changed(err, "it has more or fewer columns");
	for (int i = 0; ok && i < rows; i++)
		if (!column_matches(result, i, &table->columns[i]))
			ok = source_changed(err, table->columns[i].name);
	wire_result_free(result);
	return ok;
}

static bool
begin_source(Wire *source, const Table *table, const SharedSnapshot *shared, CopyAttempt *attempt,
             Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	put_source_begin(&sql, wire_server_version(source), table, shared);
	bool ok = copy_query(source, "source", buffer_cstr(&sql), &result, err);
	buffer_free(&sql);
	if (!ok) {
		if (error_has_sqlstate(err, "42P01"))
			error_set_hint(err, "the table was dropped or renamed on the source after the start;"
			                    " start again, so that the catalogue is read afresh");
		return false;
	}
	ok = keep_snapshot(result, table, shared, attempt, err);
	wire_result_free(result);
	return ok && check_columns(source, table, err);
}

/* Where the replica role is not allowed a trigger would change what we copy. */
static bool
check_triggers(const CopySession *session, const Table *table, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	if (session->replica)
		return true;
	buffer_put_text(&sql, "SELECT tgname FROM pg_catalog.pg_trigger WHERE NOT tgisinternal"
	                      " AND tgenabled IN ('O', 'A') AND tgrelid = ");
	sql_put_literal(&sql, table->qualified);
	buffer_put_text(&sql, "::pg_catalog.regclass ORDER BY tgname LIMIT 1");
	bool ok = copy_query(session->target, "target", buffer_cstr(&sql), &result, err);
	buffer_free(&sql);
	if (!ok)
		return false;
	if (wire_result_rows(result) > 0) {
		ok = error_set(err, ERROR_CONFIG, "trigger \"%s\" on the target would act on copied rows",
		               wire_result_get(result, 0, 0));
		error_set_hint(err, "GRANT SET ON PARAMETER session_replication_role to the target's"
		                    " user (15+), or disable the trigger until the cutover");
	}
	wire_result_free(result);
	return ok;
}

/* An earlier try of ours was rolled back, so rows in the table are somebody else's.
 * The xid is what a lost COMMIT is looked up by. */
static bool
begin_target(const CopySession *session, const Table *table, CopyAttempt *attempt, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	buffer_printf(&sql,
	              "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
	              "SELECT EXISTS (SELECT 1 FROM ONLY %s)::text, pg_catalog.txid_current()::text",
	              table->qualified);
	bool ok = copy_query(session->target, "target", buffer_cstr(&sql), &result, err);
	buffer_free(&sql);
	if (!ok)
		return false;
	if (wire_result_rows(result) != 1) {
		ok = error_set(err, ERROR_PROTOCOL, "no row in the server's answer");
	} else if (wire_result_get(result, 0, 0)[0] == 't') {
		ok = error_set(err, ERROR_CONFIG, "the table on the target is not empty");
		error_set_hint(err, "nothing is overwritten: empty it (TRUNCATE) or leave it out"
		                    " (--exclude-table)");
	} else {
		snprintf(attempt->target_xid, sizeof(attempt->target_xid), "%s",
		         wire_result_get(result, 0, 1));
	}
	wire_result_free(result);
	return ok && check_triggers(session, table, err);
}

/* By name, since the order may differ; generated columns are computed on the target. A
 * table without such columns has no list at all: "()" is no SQL. */
static void
put_copy(Buffer *sql, const Table *table, const char *direction)
{
	const char *separator = " (";

	buffer_printf(sql, "COPY %s", table->qualified);
	for (int i = 0; i < table->column_count; i++) {
		if (table->columns[i].generated)
			continue;
		buffer_put_text(sql, separator);
		sql_put_identifier(sql, table->columns[i].name);
		separator = ", ";
	}
	buffer_printf(sql, "%s %s WITH (FORMAT %s)", separator[0] == ',' ? ")" : "", direction,
	              table->copy_binary ? "binary" : "text");
}

static bool
start_copies(const CopySession *session, const Table *table, Error *err)
{
	Buffer sql = BUFFER_INIT;

	put_copy(&sql, table, "TO STDOUT");
	bool ok = wire_copy_out_start(session->source, buffer_cstr(&sql), err);
	if (!ok)
		error_add_context(err, "source");
	buffer_reset(&sql);
	put_copy(&sql, table, "FROM STDIN");
	if (ok && !wire_copy_in_start(session->target, buffer_cstr(&sql), err))
		ok = error_add_context(err, "target");
	buffer_free(&sql);
	return ok;
}

/* No work per row: runs of frames go over as they came. */
static bool
relay(const CopySession *session, Table *table, CopyAttempt *attempt, Error *err)
{
	uint64_t source_rows = 0;

	for (bool done = false; !done;) {
		Slice frames = SLICE_EMPTY;
		uint64_t messages = 0;
		if (!wire_copy_out_next(session->source, &frames, &messages, &done, &source_rows, err))
			return error_add_context(err, "source");
		if (frames.len == 0)
			continue;
		if (!wire_copy_in_frames(session->target, frames, err))
			return error_add_context(err, "target");
		attempt->bytes += frames.len;
		atomic_fetch_add_explicit(&table->copied_rows, messages, memory_order_relaxed);
		atomic_fetch_add_explicit(&table->copied_bytes, frames.len, memory_order_relaxed);
	}
	if (!wire_copy_in_end(session->target, &attempt->rows, err))
		return error_add_context(err, "target");
	if (attempt->rows != source_rows)
		return error_set(err, ERROR_DIVERGENCE, "the source sent %llu rows, the target stored %llu",
		                 (unsigned long long)source_rows, (unsigned long long)attempt->rows);
	return true;
}

/* C3: the record is part of the rows' own transaction. "UPDATE 0" would be a copy that
 * nobody remembers. */
static bool
record_copied(Wire *target, const Ledger *ledger, const Table *table, const CopyAttempt *attempt,
              Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	ledger_copied_sql(ledger, table, attempt->snapshot, attempt->lsn, attempt->rows, attempt->bytes,
	                  &sql);
	bool ok = copy_query(target, "target", buffer_cstr(&sql), &result, err);
	buffer_free(&sql);
	if (!ok)
		return false;
	const char *tag = wire_result_tag(result);
	const char *count = tag != NULL ? strrchr(tag, ' ') : NULL;
	if (count == NULL || strcmp(count, " 1") != 0)
		ok = error_set(err, ERROR_BUG, "the ledger has no row for the table (%s)",
		               tag != NULL ? tag : "no answer");
	wire_result_free(result);
	return ok;
}

static bool
commit_target(Wire *target, CopyAttempt *attempt, Error *err)
{
	WireResult *result = NULL;

	FAULT_POINT("copy_commit");
	attempt->commit_sent = true;
	if (!copy_query(target, "target", "COMMIT", &result, err)) {
		/* An ErrorResponse is an answer: not committed. But a session that was ended
		 * (57P01 and its like) may have been ended after the commit. */
		if (err->class == ERROR_SQL && strncmp(err->sqlstate, "57", 2) != 0)
			attempt->commit_sent = false;
		return false;
	}
	FAULT_POINT("copy_committed");
	attempt->commit_sent = false;
	bool ok = wire_result_tag(result) != NULL && strcmp(wire_result_tag(result), "COMMIT") == 0;
	wire_result_free(result);
	return ok || error_set(err, ERROR_PROTOCOL, "the target rolled back instead of committing");
}

bool
copy_table_once(CopySession *session, const CopyOptions *options, Table *table,
                const SharedSnapshot *shared, CopyAttempt *attempt, Error *err)
{
	copy_attempt_clear(attempt);
	atomic_store(&table->copied_rows, 0);
	atomic_store(&table->copied_bytes, 0);

	/* The target first: waiting for its locks must not age the source's snapshot. */
	return begin_target(session, table, attempt, err) &&
	       begin_source(session->source, table, shared, attempt, err) &&
	       start_copies(session, table, err) && relay(session, table, attempt, err) &&
	       copy_query(session->source, "source", "COMMIT", NULL, err) &&
	       record_copied(session->target, options->ledger, table, attempt, err) &&
	       commit_target(session->target, attempt, err);
}

bool
copy_table_outcome(CopySession *session, const CopyAttempt *attempt, bool *committed, Error *err)
{
	char sql[100];
	WireResult *result = NULL;

	snprintf(sql, sizeof(sql), "SELECT pg_catalog.txid_status(%s)", attempt->target_xid);
	if (!copy_query(session->target, "target", sql, &result, err))
		return false;
	const char *status = wire_result_rows(result) == 1 ? wire_result_get(result, 0, 0) : NULL;
	bool known = status != NULL && strcmp(status, "in progress") != 0;
	*committed = known && strcmp(status, "committed") == 0;
	wire_result_free(result);
	/* The class makes it a retry. */
	return known || error_set(err, ERROR_NETWORK,
	                          "the outcome of the commit of transaction %s"
	                          " is not known yet",
	                          attempt->target_xid);
}
