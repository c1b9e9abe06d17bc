#include "apply/schema/step.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"

enum { TRIES = 4, BACKOFF_MS = 300 };

static void
roll_back(Sql *sql)
{
	Error ignored = ERROR_INIT; /* the first error is the one to tell */

	if (PQtransactionStatus(sql_pgconn(sql)) != PQTRANS_IDLE)
		(void)!sql_exec(sql, &ignored, "ROLLBACK");
}

bool
schema_text_run(Sql *sql, const char *text, Error *err)
{
	bool ok = sql_exec(sql, err, "BEGIN ISOLATION LEVEL READ COMMITTED") &&
	          sql_exec(sql, err, text);

	if (ok) {
		FAULT_POINT("schema_step");
		ok = sql_exec(sql, err, "COMMIT");
	}
	if (!ok)
		roll_back(sql);
	return ok;
}

bool
schema_step_run(Sql *sql, const Ledger *ledger, const char *step, const char *text, Error *err)
{
	Buffer whole = BUFFER_INIT;

	buffer_printf(&whole, "%s%s", text, text[0] != '\0' ? ";\n" : "");
	ledger_step_sql(ledger, step, &whole);
	bool ok = schema_text_run(sql, buffer_cstr(&whole), err);
	buffer_free(&whole);
	return ok;
}

void
schema_step_name(const Entry *entry, char out[SCHEMA_STEP_SIZE])
{
	snprintf(out, SCHEMA_STEP_SIZE, "post-data %s", entry->what);
}

/* A deadlock with autovacuum, or of two indexes of one table, is gone at the next try. */
bool
schema_step_patiently(Sql *sql, const SchemaWork *work, const char *step, const char *text,
                      Error *err)
{
	for (int tried = 1;; tried++) {
		if (schema_step_run(sql, work->ledger, step, text, err))
			return true;
		if (tried == TRIES ||
		    !(error_has_sqlstate(err, "40P01") || error_has_sqlstate(err, "40001")))
			return false;
		if (!stop_sleep_ms(work->stop, clock_jitter_ms(BACKOFF_MS * tried), err))
			return false;
	}
}

bool
schema_step_once(Sql *sql, const SchemaWork *work, const char *step, const char *text, Error *err)
{
	bool done = false;
	int64_t began_ms = clock_mono_ms();

	if (!ledger_step_done(sql, work->ledger, step, &done, err))
		return false;
	if (done)
		return true;
	if (!schema_step_patiently(sql, work, step, text, err))
		return false;
	log_debug("schema", "%s in %lld ms", step, (long long)(clock_mono_ms() - began_ms));
	return true;
}

void
schema_once_name(int addition, const char *part, char out[SCHEMA_STEP_SIZE])
{
	if (addition > 0)
		snprintf(out, SCHEMA_STEP_SIZE, "%s, addition %d", part, addition);
	else
		snprintf(out, SCHEMA_STEP_SIZE, "%s", part);
}

bool
schema_once(const SchemaWork *work, const char *step, SchemaPart part, Error *err)
{
	Buffer record = BUFFER_INIT;
	bool done = false;
	char name[SCHEMA_STEP_SIZE];

	schema_once_name(work->addition, step, name);
	if (!ledger_step_done(work->target_sql, work->ledger, name, &done, err))
		return false;
	if (done)
		return true;
	ledger_step_sql(work->ledger, name, &record);
	bool ok = part(work, err) && sql_exec(work->target_sql, err, buffer_cstr(&record));
	buffer_free(&record);
	return ok;
}

bool
schema_step_entry(Sql *sql, const SchemaWork *work, const Entry *entry, const char *text,
                  Error *err)
{
	char step[SCHEMA_STEP_SIZE];

	schema_step_name(entry, step);
	char *whole = mem_printf("%s%s", entry->settings, text);
	bool ok = schema_step_once(sql, work, step, whole, err);
	free(whole);
	return ok || error_add_context(err, "%s", entry->what);
}
