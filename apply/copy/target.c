#include "apply/copy/target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "protocol/replication.h"

static bool
query(const CopySession *session, Buffer *sql, WireResult **result, Error *err)
{
	bool ok = copy_query(session->target, "target", buffer_cstr(sql), result, err);

	buffer_free(sql);
	if (ok && result != NULL && wire_result_rows(*result) != 1) {
		wire_result_free(*result);
		*result = NULL;
		return error_set(err, ERROR_PROTOCOL, "target: no row in the server's answer");
	}
	return ok;
}

/* ---- an empty table ---- */

/* Foreign keys that point to it forbid TRUNCATE, whether they would act or not. */
static void
put_can_empty(Buffer *sql, const Table *table)
{
	buffer_put_text(sql, "SELECT (pg_catalog.has_table_privilege(c.oid, 'TRUNCATE') AND NOT EXISTS"
	                     " (SELECT 1 FROM pg_catalog.pg_constraint f WHERE f.contype = 'f'"
	                     " AND f.confrelid = c.oid AND f.conrelid <> c.oid))::text"
	                     " FROM pg_catalog.pg_class c WHERE c.oid = ");
	sql_put_literal(sql, table->qualified);
	buffer_put_text(sql, "::pg_catalog.regclass");
}

bool
copy_target_can_empty(const CopySession *session, const Table *table, bool *can, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	put_can_empty(&sql, table);
	if (!query(session, &sql, &result, err))
		return false;
	*can = wire_result_get(result, 0, 0)[0] == 't';
	wire_result_free(result);
	return true;
}

/* Where the replica role is not allowed a trigger would change what we copy: its name. */
static void
put_trigger(Buffer *sql, const CopySession *session, const Table *table)
{
	if (session->replica) {
		buffer_put_text(sql, "NULL");
		return;
	}
	buffer_put_text(sql, "(SELECT tgname FROM pg_catalog.pg_trigger WHERE NOT tgisinternal"
	                     " AND tgenabled IN ('O', 'A') AND tgrelid = ");
	sql_put_literal(sql, table->qualified);
	buffer_put_text(sql, "::pg_catalog.regclass ORDER BY tgname LIMIT 1)");
}

/* A row of an earlier try of ours was rolled back or is covered by rows_remain: what else
 * is in the table is somebody else's. */
static bool
judge(const WireResult *result, const Table *table, Error *err)
{
	const char *trigger = wire_result_get(result, 0, 1);

	if (wire_result_get(result, 0, 0)[0] == 't' && !table->rows_remain) {
		error_set(err, ERROR_CONFIG, "the table on the target is not empty");
		return error_set_hint(err, "nothing is overwritten: empty it (TRUNCATE) or leave it out"
		                           " (--exclude-table)");
	}
	if (trigger == NULL)
		return true;
	error_set(err, ERROR_CONFIG, "trigger \"%s\" on the target would act on copied rows", trigger);
	return error_set_hint(err, "GRANT SET ON PARAMETER session_replication_role to the target's"
	                           " user (15+), or disable the trigger until the cutover");
}

static bool
look(const CopySession *session, const Table *table, const char *before, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	buffer_printf(&sql, "%sSELECT EXISTS (SELECT 1 FROM ONLY %s)::text, ", before,
	              table->qualified);
	put_trigger(&sql, session, table);
	if (!query(session, &sql, &result, err))
		return false;
	bool ok = judge(result, table, err);
	wire_result_free(result);
	return ok;
}

/* Nobody can put a row in between the look and TRUNCATE: the lock is there first. */
static bool
look_and_empty(const CopySession *session, const Table *table, Error *err)
{
	Buffer lock = BUFFER_INIT;
	Buffer empty = BUFFER_INIT;

	buffer_printf(&lock, "LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE;", table->qualified);
	bool ok = look(session, table, buffer_cstr(&lock), err);
	buffer_free(&lock);
	if (!ok)
		return false;
	buffer_printf(&empty, "TRUNCATE ONLY %s", table->qualified);
	return query(session, &empty, NULL, err);
}

static const char begin_sql[] = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;";

static bool
cannot_empty(const Table *table, Error *err)
{
	error_set(err, ERROR_CONFIG,
	          "the table on the target holds rows of a copy that was broken off, which our user"
	          " there may not remove");
	return error_set_hint(err, "TRUNCATE %s on the target, then start again", table->qualified);
}

/* Foreign keys forbid TRUNCATE, but do not act on DELETE in the replica role: what points to
 * the rows will find them again when this transaction has committed. */
static bool
delete_rows(const CopySession *session, const Table *table, Error *err)
{
	Buffer sql = BUFFER_INIT;

	if (!session->replica)
		return cannot_empty(table, err);
	buffer_printf(&sql, "DELETE FROM ONLY %s", table->qualified);
	bool ok = query(session, &sql, NULL, err);
	return ok || (error_has_sqlstate(err, "42501") && cannot_empty(table, err));
}

bool
copy_target_begin(const CopySession *session, const Table *table, bool *fresh, Error *err)
{
	*fresh = false;
	if (build_is_small(table) && !table->rows_remain)
		return look(session, table, begin_sql, err);
	if (!copy_query(session->target, "target", begin_sql, NULL, err) ||
	    !copy_target_can_empty(session, table, fresh, err))
		return false;
	if (*fresh)
		return look_and_empty(session, table, err);
	if (!look(session, table, "", err))
		return false;
	return !table->rows_remain || delete_rows(session, table, err);
}

bool
copy_target_begin_group(const CopySession *session, Table *const *tables, size_t count, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	/* Triggers that would act are named table by table. */
	if (!session->replica)
		return error_set(err, ERROR_CONFIG, "the replica role is not allowed on the target");
	buffer_printf(&sql, "%sSELECT (", begin_sql);
	for (size_t i = 0; i < count; i++)
		buffer_printf(&sql, "%sEXISTS (SELECT 1 FROM ONLY %s)", i > 0 ? " OR " : "",
		              tables[i]->qualified);
	buffer_put_text(&sql, ")::text");
	if (!query(session, &sql, &result, err))
		return false;
	bool empty = wire_result_get(result, 0, 0)[0] == 'f';
	wire_result_free(result);
	return empty ||
	       error_set(err, ERROR_CONFIG, "one of several tables on the target is not empty");
}

/* ---- split ---- */

bool
copy_target_begin_split(const CopySession *session, const Ledger *ledger, const Table *table,
                        char attempt[24], Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;
	CopyCommit commit = {false};

	if (!copy_query(session->target, "target", begin_sql, NULL, err) ||
	    !look_and_empty(session, table, err))
		return false;
	ledger_copying_sql(ledger, table, &sql);
	if (!query(session, &sql, &result, err))
		return false;
	snprintf(attempt, 24, "%s", wire_result_get(result, 0, 0));
	wire_result_free(result);
	return copy_target_commit(session->target, &commit, err);
}

bool
copy_target_begin_range(const CopySession *session, const Ledger *ledger, const Table *table,
                        const char *attempt, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	buffer_put_text(&sql, begin_sql);
	ledger_attempt_sql(ledger, table, attempt, &sql);
	bool ok = copy_query(session->target, "target", buffer_cstr(&sql), &result, err);
	buffer_free(&sql);
	if (!ok)
		return false;
	if (wire_result_rows(result) != 1)
		ok = error_set(err, ERROR_CONFIG, "another process has begun to copy this table");
	wire_result_free(result);
	return ok;
}

/* ---- the end ---- */

bool
copy_target_record(Wire *target, const char *sql, size_t rows, Error *err)
{
	WireResult *result = NULL;

	if (!copy_query(target, "target", sql, &result, err))
		return false;
	const char *tag = wire_result_tag(result);
	const char *count = tag != NULL ? strrchr(tag, ' ') : NULL;
	bool ok = count != NULL && strtoull(count, NULL, 10) == rows;
	if (!ok)
		error_set(err, ERROR_BUG, "the ledger has no row for the table (%s)",
		          tag != NULL ? tag : "no answer");
	wire_result_free(result);
	return ok;
}

bool
copy_target_commit(Wire *target, CopyCommit *commit, Error *err)
{
	WireResult *result = NULL;

	FAULT_POINT("copy_commit");
	commit->commit_sent = true;
	if (!copy_query(target, "target", "COMMIT", &result, err)) {
		/* An ErrorResponse is an answer: not committed. But a session that was ended
		 * (57P01 and its like) may have been ended after the commit. */
		if (err->class == ERROR_SQL && strncmp(err->sqlstate, "57", 2) != 0)
			commit->commit_sent = false;
		return false;
	}
	FAULT_POINT("copy_committed");
	commit->commit_sent = false;
	bool ok = wire_result_tag(result) != NULL && strcmp(wire_result_tag(result), "COMMIT") == 0;
	wire_result_free(result);
	return ok || error_set(err, ERROR_PROTOCOL, "the target rolled back instead of committing");
}

/*
 * Not by the xid: after a crash of the target it may be somebody else's. The record that was
 * committed with the rows says it, once the old transaction has ended: where the record was
 * new, an insert of the same row waits for that, else its lock.
 */
bool
copy_target_outcome(const CopySession *session, const Ledger *ledger, const Table *table,
                    const char *snapshot, bool *committed, Error *err)
{
	Buffer wait = BUFFER_INIT;
	Buffer ask = BUFFER_INIT;
	WireResult *result = NULL;

	buffer_put_text(&wait, "BEGIN; SET LOCAL lock_timeout = '5s';");
	ledger_outcome_sql(ledger, table, snapshot, &wait, &ask);
	bool ok = query(session, &wait, NULL, err) && query(session, &ask, &result, err);
	if (ok) {
		const char *same = wire_result_rows(result) == 1 ? wire_result_get(result, 0, 0) : NULL;
		*committed = same != NULL && same[0] == 't';
		ok = copy_query(session->target, "target", "ROLLBACK", NULL, err);
	} else if (error_has_sqlstate(err, "55P03")) {
		/* The class makes it a retry. */
		error_set(err, ERROR_NETWORK, "the outcome of the last commit is not known yet");
	}
	buffer_free(&ask);
	wire_result_free(result);
	return ok;
}
