#include "apply/copy/copy.h"

#include <stdlib.h>

#include "apply/copy/run.h"
#include "common/memory.h"

/* What failed in an earlier call is tried again; what an earlier process has copied may
 * lack its indexes. */
static void
run_open(CopyRun *run)
{
	const CopyOptions *options = run->options;
	Catalog *catalog = options->catalog;

	pthread_mutex_init(&run->lock, NULL);
	pthread_cond_init(&run->changed, NULL);
	run->begun = mem_zalloc(catalog->table_count + 1);
	for (size_t i = 0; i < catalog->table_count; i++) {
		Table *table = &catalog->tables[i];
		if (!copy_is_ours(options, table))
			continue;
		if (atomic_load(&table->state) != TABLE_COPIED)
			atomic_store(&table->state, TABLE_QUEUED);
		else if (options->build != NULL)
			build_rows_in(options->build, table);
	}
}

static void
run_close(CopyRun *run)
{
	pthread_mutex_destroy(&run->lock);
	pthread_cond_destroy(&run->changed);
	wire_close(run->holder);
	free(run->begun);
}

static void
run_workers(CopyRun *run)
{
	size_t count = run->options->jobs > 0 ? (size_t)run->options->jobs : 1;
	pthread_t *threads = mem_zalloc(sizeof(pthread_t) * count);

	for (size_t i = 0; i < count; i++)
		CHECK(pthread_create(&threads[i], NULL, copy_worker_main, run) == 0);
	for (size_t i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	free(threads);
}

/* ---- one snapshot for all (offline) ---- */

/* All locks before the snapshot, for the reason in source.c. */
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

/* A stop between two tasks fails none of them, and leaves them all the same. */
static size_t
builds_left(const CopyOptions *options)
{
	size_t done = 0;
	size_t count = 0;

	if (options->build != NULL && stop_requested(options->stop))
		build_progress(options->build, &done, &count);
	return count - done;
}

static bool
run_result(CopyRun *run, Error *err)
{
	if (run->failed == 0 && run->left == 0)
		return true;
	if (run->first.class == ERROR_NONE || stop_requested(run->options->stop))
		return error_set(err, ERROR_CANCELLED,
		                 "the copy was stopped; %zu tables and indexes are left",
		                 run->left + run->failed);
	*err = run->first;
	if (run->failed + run->left > 1)
		error_add_context(err, "copy (%zu others failed, %zu were not tried)", run->failed - 1,
		                  run->left);
	else
		error_add_context(err, "copy");
	return false;
}

bool
copy_tables(const CopyOptions *options, Error *err)
{
	CopyRun run = {.options = options};
	SharedSnapshot shared = {0};

	if (options->one_snapshot) {
		run.holder = hold_snapshot(options, &shared, err);
		if (run.holder == NULL)
			return error_add_context(err, "copy");
		run.shared = &shared;
	}
	run_open(&run);
	run_workers(&run);
	run.left += builds_left(options);
	run_close(&run);
	free(shared.id);
	free(shared.snapshot);
	return run_result(&run, err);
}
