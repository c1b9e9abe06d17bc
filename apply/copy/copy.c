#include "apply/copy/copy.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "apply/copy/session.h"
#include "apply/copy/table.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"

enum { DEFAULT_TRIES = 3, BACKOFF_MS = 500, BACKOFF_MAX_MS = 15000 };

/* One call of copy_tables. `next` hands out tables; the rest is under lock. */
typedef struct {
	const CopyOptions *options;
	const SharedSnapshot *shared; /* NULL: one snapshot per table */
	_Atomic size_t next;
	_Atomic bool unreachable; /* a server is gone for good: no table will do better */
	pthread_mutex_t lock;
	Error first;
	size_t failed;
	size_t left; /* not tried: cancelled or unreachable */
} CopyRun;

static bool
sqlstate_in(const Error *err, const char *class)
{
	return strncmp(err->sqlstate, class, 2) == 0;
}

/*
 * What may be otherwise at the next try: connections, deadlocks, lack of connections or
 * memory, an administrator's intervention. Not: what the data or the catalogue say
 * (22, 23, 42), and not a full disk, which only somebody else can empty.
 */
static bool
worth_another_try(const Error *err)
{
	switch (err->class) {
	case ERROR_NETWORK:
	case ERROR_TIMEOUT:
		return true;
	case ERROR_SQL:
		break;
	default:
		return false;
	}
	if (error_has_sqlstate(err, "53100"))
		return false;
	return sqlstate_in(err, "08") || sqlstate_in(err, "40") || sqlstate_in(err, "53") ||
	       sqlstate_in(err, "55") || sqlstate_in(err, "57") || sqlstate_in(err, "72");
}

static void
table_copied(const CopyRun *run, Table *table, const CopyAttempt *attempt, int64_t began_ms)
{
	/* Snapshot before state: whoever sees COPIED may use it. */
	table_set_snapshot(run->options->catalog, table, attempt->snapshot, attempt->lsn);
	atomic_store(&table->copied_rows, attempt->rows);
	atomic_store(&table->copied_bytes, attempt->bytes);
	atomic_store(&table->state, TABLE_COPIED);
	log_info("copy", "%s: %llu rows, %llu bytes in %lld ms, %s, as of %s", table->qualified,
	         (unsigned long long)attempt->rows, (unsigned long long)attempt->bytes,
	         (long long)(clock_mono_ms() - began_ms), table->copy_binary ? "binary" : "text",
	         LSN_STR(attempt->lsn));
}

/* The session may be closed or left over from the table before. *reached: both servers
 * answered, so a failure is about the table. */
static bool
try_once(const CopyRun *run, CopySession *session, Table *table, CopyAttempt *attempt,
         bool *reached, Error *err)
{
	*reached = false;
	if (!copy_session_open(session, run->options, err))
		return false;
	*reached = true;
	if (attempt->commit_sent) {
		bool committed = false;
		if (!copy_table_outcome(session, attempt, &committed, err))
			return false;
		if (committed)
			return true;
	}
	return copy_table_once(session, run->options, table, run->shared, attempt, err);
}

static int64_t
backoff_ms(int tried)
{
	int64_t ms = BACKOFF_MS;

	while (--tried > 0 && ms < BACKOFF_MAX_MS)
		ms *= 2;
	return clock_jitter_ms(ms);
}

static bool
copy_table(CopyRun *run, CopySession *session, Table *table, Error *err)
{
	const CopyOptions *options = run->options;
	int tries = options->tries > 0 ? options->tries : DEFAULT_TRIES;
	int64_t began_ms = clock_mono_ms();
	CopyAttempt attempt = {0};
	bool reached = false;
	bool ok = false;

	atomic_store(&table->state, TABLE_COPYING);
	for (int tried = 1; !ok; tried++) {
		ok = try_once(run, session, table, &attempt, &reached, err);
		if (ok)
			break;
		copy_session_close(session);
		if (tried >= tries || !worth_another_try(err) || stop_requested(options->stop))
			break;
		error_add_context(err, "table %s.%s, try %d of %d", table->schema, table->name, tried,
		                  tries);
		log_failure(LOG_WARNING, "copy", err);
		if (!stop_sleep_ms(options->stop, backoff_ms(tried), err))
			break;
	}
	if (ok)
		table_copied(run, table, &attempt, began_ms);
	else if (!reached && err->class != ERROR_CANCELLED)
		atomic_store(&run->unreachable, true);
	copy_attempt_clear(&attempt);
	return ok;
}

static void
add_hint(Error *err)
{
	if (error_has_sqlstate(err, "53100"))
		error_set_hint(err, "make room on that server's disk, then start again: tables that"
		                    " are copied stay copied");
}

static void
table_failed(CopyRun *run, Table *table, Error *err)
{
	bool cancelled = err->class == ERROR_CANCELLED || stop_requested(run->options->stop);

	if (cancelled && err->class != ERROR_CANCELLED)
		error_set(err, ERROR_CANCELLED, "stopped");
	add_hint(err);
	error_add_context(err, "table %s.%s", table->schema, table->name);
	if (cancelled) {
		atomic_store(&table->state, TABLE_QUEUED);
	} else {
		table_set_error(run->options->catalog, table, err);
		atomic_store(&table->state, TABLE_ERRORED);
		log_failure(LOG_ERROR, "copy", err);
	}
	pthread_mutex_lock(&run->lock);
	if (cancelled)
		run->left++;
	else
		run->failed++;
	if (run->first.class == ERROR_NONE)
		run->first = *err;
	pthread_mutex_unlock(&run->lock);
}

static void *
worker_main(void *arg)
{
	CopyRun *run = arg;
	Catalog *catalog = run->options->catalog;
	CopySession session = COPY_SESSION_CLOSED;

	for (;;) {
		size_t index = atomic_fetch_add(&run->next, 1);
		if (index >= catalog->table_count)
			break;
		Table *table = &catalog->tables[index];
		if (atomic_load(&table->state) == TABLE_COPIED)
			continue;
		if (atomic_load(&run->unreachable) || stop_requested(run->options->stop)) {
			pthread_mutex_lock(&run->lock);
			run->left++;
			pthread_mutex_unlock(&run->lock);
			continue;
		}
		Error err = ERROR_INIT;
		if (!copy_table(run, &session, table, &err))
			table_failed(run, table, &err);
	}
	copy_session_close(&session);
	return NULL;
}

static void
run_workers(CopyRun *run)
{
	size_t count = run->options->jobs > 0 ? (size_t)run->options->jobs : 1;

	if (count > run->options->catalog->table_count)
		count = run->options->catalog->table_count;
	pthread_t *threads = mem_zalloc(sizeof(pthread_t) * (count > 0 ? count : 1));
	for (size_t i = 0; i < count; i++)
		CHECK(pthread_create(&threads[i], NULL, worker_main, run) == 0);
	for (size_t i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	free(threads);
}

/* ---- one snapshot for all (offline) ---- */

/* All locks before the snapshot, for the reason in table.c. */
static void
put_holder_sql(Buffer *sql, const Catalog *catalog, int version)
{
	const char *separator = "LOCK TABLE ";

	buffer_put_text(sql, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;");
	for (size_t i = 0; i < catalog->table_count; i++) {
		if (atomic_load(&catalog->tables[i].state) == TABLE_COPIED)
			continue;
		buffer_printf(sql, "%sONLY %s", separator, catalog->tables[i].qualified);
		separator = ", ";
	}
	if (separator[0] == ',')
		buffer_put_text(sql, " IN ACCESS SHARE MODE;");
	buffer_printf(sql,
	              "SELECT pg_catalog.pg_export_snapshot(), %s,"
	              " pg_catalog.pg_current_wal_insert_lsn()::text",
	              copy_snapshot_sql(version));
}

static Wire *
hold_snapshot(const CopyOptions *options, SharedSnapshot *shared, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;
	Wire *holder = copy_source_connect(options, err);

	if (holder == NULL)
		return NULL;
	put_holder_sql(&sql, options->catalog, wire_server_version(holder));
	bool ok = copy_query(holder, "source", buffer_cstr(&sql), &result, err);
	buffer_free(&sql);
	if (ok) {
		const char *lsn = wire_result_rows(result) == 1 ? wire_result_get(result, 0, 2) : NULL;
		if (lsn == NULL || !lsn_parse(lsn, &shared->lsn)) {
			ok = error_set(err, ERROR_PROTOCOL, "source: no snapshot in the server's answer");
		} else {
			shared->id = mem_strdup(wire_result_get(result, 0, 0));
			shared->snapshot = mem_strdup(wire_result_get(result, 0, 1));
		}
		wire_result_free(result);
	}
	if (!ok) {
		wire_close(holder);
		return NULL;
	}
	return holder;
}

static bool
run_result(CopyRun *run, Error *err)
{
	if (run->failed == 0 && run->left == 0)
		return true;
	if (run->first.class == ERROR_NONE || stop_requested(run->options->stop))
		return error_set(err, ERROR_CANCELLED, "the copy was stopped; %zu tables are left",
		                 run->left + run->failed);
	*err = run->first;
	if (run->failed + run->left > 1)
		error_add_context(err, "copy (%zu other tables failed, %zu were not tried)",
		                  run->failed - 1, run->left);
	else
		error_add_context(err, "copy");
	return false;
}

bool
copy_tables(const CopyOptions *options, Error *err)
{
	CopyRun run = {.options = options};
	SharedSnapshot shared = {0};
	Wire *holder = NULL;

	if (options->one_snapshot) {
		holder = hold_snapshot(options, &shared, err);
		if (holder == NULL)
			return error_add_context(err, "copy");
		run.shared = &shared;
	}
	pthread_mutex_init(&run.lock, NULL);
	run_workers(&run);
	pthread_mutex_destroy(&run.lock);
	wire_close(holder);
	free(shared.id);
	free(shared.snapshot);
	return run_result(&run, err);
}
