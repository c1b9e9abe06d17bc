#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "apply/schema/archive.h"
#include "apply/schema/chosen.h"
#include "apply/schema/extension_rows.h"
#include "apply/schema/schema.h"
#include "apply/schema/step.h"
#include "common/log.h"
#include "common/memory.h"
#include "protocol/replication.h"

static const char pre_data_step[] = "pre-data";

/* ---- pre-data ---- */

static bool
hint_pre_data(Error *err)
{
	if (error_has_sqlstate(err, "42P07") || error_has_sqlstate(err, "42P06") ||
	    error_has_sqlstate(err, "42710") || error_has_sqlstate(err, "42723"))
		return error_set_hint(err, "nothing on the target is overwritten: drop it there, or use"
		                           " --schema none if the schema is complete");
	if (error_has_sqlstate(err, "42501"))
		return error_set_hint(err, "the target's user may not do this; --no-owner leaves all"
		                           " objects to that user");
	return false;
}

static bool
restore_pre_data(const SchemaWork *work, const Archive *archive, Error *err)
{
	Entries entries = {NULL, 0};
	Buffer sql = BUFFER_INIT;

	if (!archive_read(work, archive, "pre-data", &entries, err))
		return false;
	chosen_schemas(work, &sql);
	for (size_t i = 0; i < entries.count; i++)
		buffer_printf(&sql, "%s%s", entries.items[i].settings, entries.items[i].sql);
	bool ok = schema_step_run(work->target_sql, work->ledger, pre_data_step, buffer_cstr(&sql),
	                          err);
	buffer_free(&sql);
	if (ok)
		log_info("schema", "%zu objects created on the target", entries.count);
	else
		hint_pre_data(err);
	return ok || error_add_context(err, "creating the schema");
}

/* Before anything is changed on the source: our REPLICA IDENTITY FULL must not get into it. */
bool
schema_dump(const SchemaWork *work, Error *err)
{
	static const char step[] = "schema dump";
	Archive archive = {0};
	Buffer sql = BUFFER_INIT;
	bool done = false;

	if (!ledger_step_done(work->target_sql, work->ledger, step, &done, err))
		return false;
	if (done)
		return true;
	/* A dump of an earlier, given up migration may lie in the directory. */
	bool ok = archive_open(work, true, &archive, err);
	archive_close(&archive);
	ledger_step_sql(work->ledger, step, &sql);
	ok = ok && sql_exec(work->target_sql, err, buffer_cstr(&sql));
	buffer_free(&sql);
	return ok;
}

bool
schema_pre_data(const SchemaWork *work, Error *err)
{
	Archive archive = {0};
	bool done = false;

	if (!ledger_step_done(work->target_sql, work->ledger, pre_data_step, &done, err))
		return false;
	bool ok = done || (schema_dump(work, err) && archive_open(work, false, &archive, err) &&
	                   restore_pre_data(work, &archive, err));
	archive_close(&archive);
	return ok && extension_rows_copy(work, err);
}

/* ---- indexes ---- */

typedef struct {
	const SchemaWork *work;
	const Entries *entries;
	_Atomic size_t next;
	pthread_mutex_t lock;
	Error first; /* under lock */
	_Atomic bool failed;
} IndexRun;

static void
index_failed(IndexRun *run, const Error *err)
{
	pthread_mutex_lock(&run->lock);
	if (run->first.class == ERROR_NONE)
		run->first = *err;
	pthread_mutex_unlock(&run->lock);
	atomic_store(&run->failed, true);
}

static void *
index_main(void *arg)
{
	IndexRun *run = arg;
	Error err = ERROR_INIT;
	Sql *sql = sql_connect(run->work->target, "target", "index", run->work->stop, &err);
	bool ok = sql != NULL;

	while (ok && !atomic_load(&run->failed)) {
		size_t at = atomic_fetch_add(&run->next, 1);
		if (at >= run->entries->count)
			break;
		const Entry *entry = &run->entries->items[at];
		if (entry_is_index(entry))
			ok = schema_step_entry(sql, run->work, entry, entry->sql, &err);
	}
	if (!ok)
		index_failed(run, &err);
	sql_close(sql);
	return NULL;
}

/* Parents' own indexes (ON ONLY) are empty, so the order within a wave does not matter;
 * attaching needs all of them. */
static bool
build_in_parallel(const SchemaWork *work, const Entries *entries, Error *err)
{
	IndexRun run = {.work = work, .entries = entries};
	int jobs = work->jobs > 0 ? work->jobs : 1;
	pthread_t *threads = mem_zalloc(sizeof(pthread_t) * (size_t)jobs);

	pthread_mutex_init(&run.lock, NULL);
	for (int i = 0; i < jobs; i++)
		CHECK(pthread_create(&threads[i], NULL, index_main, &run) == 0);
	for (int i = 0; i < jobs; i++)
		pthread_join(threads[i], NULL);
	pthread_mutex_destroy(&run.lock);
	free(threads);
	if (!atomic_load(&run.failed))
		return true;
	*err = run.first;
	return false;
}

static bool
build_indexes(const SchemaWork *work, const Archive *archive, Error *err)
{
	Entries entries = {NULL, 0};

	if (!archive_read(work, archive, "post-data", &entries, err) ||
	    !build_in_parallel(work, &entries, err))
		return false;
	for (size_t i = 0; i < entries.count; i++) {
		const Entry *entry = &entries.items[i];
		if (entry_joins_indexes(entry) &&
		    !schema_step_entry(work->target_sql, work, entry, entry->sql, err))
			return false;
	}
	return true;
}

static bool
make_indexes(const SchemaWork *work, Error *err)
{
	Archive archive = {0};
	bool ok = archive_open(work, false, &archive, err) && build_indexes(work, &archive, err);

	archive_close(&archive);
	return ok || error_add_context(err, "building indexes");
}

bool
schema_indexes(const SchemaWork *work, Error *err)
{
	return schema_once(work, "all indexes", make_indexes, err);
}
