#include "apply/copy/run.h"

#include <string.h>

#include "common/clock.h"
#include "common/log.h"

enum { DEFAULT_TRIES = 3 };

int
copy_run_tries(const CopyRun *run)
{
	return run->options->tries > 0 ? run->options->tries : DEFAULT_TRIES;
}

/* ---- what to do next ---- */

static bool
halted(const CopyRun *run)
{
	return run->unreachable || stop_requested(run->options->stop);
}

static bool
take_range(CopyRun *run, Work *work)
{
	for (Split *split = run->splits; split != NULL; split = split->older) {
		if (split->failed || split->next == split->count)
			continue;
		*work = (Work){.kind = WORK_RANGE, .table = split->table, .split = split};
		work->range = split->next++;
		split->running++;
		return true;
	}
	return false;
}

/* Whoever would find nothing to do lends a hand as the server's parallel workers. */
static bool
take_build(CopyRun *run, Work *work)
{
	size_t ready = 0;
	BuildTask *task = run->options->build != NULL ? build_take(run->options->build, &ready) : NULL;

	if (task == NULL)
		return false;
	int idle = run->options->jobs - (int)run->busy - 1 - (int)ready;
	bool tables_left = run->next < run->options->catalog->table_count;
	*work = (Work){.kind = WORK_BUILD, .task = task};
	work->helpers = idle > 0 && !tables_left ? idle : 0;
	return true;
}

static Table *
next_queued(CopyRun *run)
{
	Catalog *catalog = run->options->catalog;

	for (; run->next < catalog->table_count; run->next++) {
		Table *table = &catalog->tables[run->next];
		if (copy_is_ours(run->options, table) && atomic_load(&table->state) == TABLE_QUEUED)
			return table;
	}
	return NULL;
}

/* So many that every worker comes again for more, and none is left alone with the last ones. */
static size_t
group_size(const CopyRun *run)
{
	size_t left = run->options->catalog->table_count - run->next;
	size_t jobs = run->options->jobs > 0 ? (size_t)run->options->jobs : 1;
	size_t share = left / (2 * jobs);

	return share < COPY_GROUP_MOST ? share : COPY_GROUP_MOST;
}

/* Of small tables as many as are one small table together. */
static void
take_more(CopyRun *run, Work *work, size_t most)
{
	CopyGroup *group = &work->group;
	uint64_t bytes = work->table->bytes;
	Table *table;

	group->tables[group->count++] = work->table;
	while (group->count < most && (table = next_queued(run)) != NULL &&
	       bytes + table->bytes < BUILD_SMALL_BYTES && copy_group_takes(run->options, table)) {
		run->next++;
		bytes += table->bytes;
		atomic_store(&table->state, TABLE_COPYING);
		group->tables[group->count++] = table;
	}
	if (group->count > 1)
		work->kind = WORK_GROUP;
}

static bool
take_table(CopyRun *run, Work *work)
{
	Table *table = next_queued(run);

	if (table == NULL)
		return false;
	size_t most = group_size(run);
	run->next++;
	atomic_store(&table->state, TABLE_COPYING);
	*work = (Work){.kind = WORK_TABLE, .table = table};
	if (most > 1 && copy_group_takes(run->options, table))
		take_more(run, work, most);
	return true;
}

/* Nothing more is handed out. */
static void
give_up(CopyRun *run)
{
	for (; next_queued(run) != NULL; run->next++)
		run->left++;
	for (Split *split = run->splits; split != NULL; split = split->older) {
		if (!split->failed && split->next < split->count) {
			error_set(&split->error, ERROR_CANCELLED, "stopped");
			split->failed = true;
		}
	}
}

/* Under lock. */
static void
tell_workers(const CopyRun *run)
{
	CopyWorkers *workers = run->options->workers;

	if (workers == NULL)
		return;
	atomic_store(&workers->reading, (int)run->reading);
	atomic_store(&workers->building, (int)(run->busy - run->reading));
}

bool
copy_run_take(CopyRun *run, Work *work)
{
	bool taken = false;

	pthread_mutex_lock(&run->lock);
	for (;;) {
		if (halted(run))
			give_up(run);
		else
			taken = take_range(run, work) || take_build(run, work) || take_table(run, work);
		if (taken || run->busy == 0)
			break;
		pthread_cond_wait(&run->changed, &run->lock);
	}
	if (taken) {
		run->busy++;
		run->reading += work->kind != WORK_BUILD;
		tell_workers(run);
	}
	pthread_mutex_unlock(&run->lock);
	if (taken)
		work->began_ms = clock_mono_ms();
	return taken;
}

/* Indexes can take hours, and the source's vacuum waits for its oldest snapshot. */
static void
let_snapshot_go(CopyRun *run)
{
	if (run->reading > 0 || run->splits != NULL || next_queued(run) != NULL)
		return;
	wire_close(run->holder);
	run->holder = NULL;
}

void
copy_run_ended(CopyRun *run, const Work *work)
{
	pthread_mutex_lock(&run->lock);
	run->busy--;
	run->reading -= work->kind != WORK_BUILD;
	tell_workers(run);
	let_snapshot_go(run);
	pthread_cond_broadcast(&run->changed);
	pthread_mutex_unlock(&run->lock);
}

/* ---- how it ended ---- */

void
copy_run_unreachable(CopyRun *run)
{
	pthread_mutex_lock(&run->lock);
	run->unreachable = true;
	pthread_mutex_unlock(&run->lock);
}

void
copy_run_copied(CopyRun *run, Table *table, const char *snapshot, Lsn lsn, uint64_t rows,
                uint64_t bytes, int64_t began_ms)
{
	Build *build = run->options->build;

	/* Snapshot before state: whoever sees COPIED may use it. */
	table_set_snapshot(run->options->catalog, table, snapshot, lsn);
	table->rows_remain = false;
	atomic_store(&table->copied_rows, rows);
	atomic_store(&table->copied_bytes, bytes);
	atomic_store(&table->copy_rate, bytes * 1000 / (uint64_t)(1 + clock_mono_ms() - began_ms));
	atomic_store(&table->state, TABLE_COPIED);
	log_info("copy", "%s: %llu rows, %llu bytes in %lld ms, %s, as of %s", table->qualified,
	         (unsigned long long)rows, (unsigned long long)bytes,
	         (long long)(clock_mono_ms() - began_ms), table->copy_binary ? "binary" : "text",
	         LSN_STR(lsn));
	if (build == NULL)
		return;
	pthread_mutex_lock(&run->lock);
	if (build_is_small(table))
		build_whole_done(build, table);
	else
		build_rows_in(build, table);
	pthread_mutex_unlock(&run->lock);
}

static void
add_hint(Error *err)
{
	if (error_has_sqlstate(err, "53100"))
		error_set_hint(err, "make room on that server's disk, then start again: tables that"
		                    " are copied stay copied");
	else if (error_has_sqlstate(err, "23514") || error_has_sqlstate(err, "23502"))
		error_set_hint(err, "a constraint that is NOT VALID on the source may be broken by rows"
		                    " there: drop it on the target, go on with pgbaton resume, and make it"
		                    " again when the table is copied");
}

/* Under lock. */
static void
count_failure(CopyRun *run, const Error *err)
{
	if (err->class == ERROR_CANCELLED)
		run->left++;
	else
		run->failed++;
	if (run->first.class == ERROR_NONE || run->first.class == ERROR_CANCELLED)
		run->first = *err; /* a lost server cancels what others are at */
}

void
copy_run_failed(CopyRun *run, Table *table, Error *err)
{
	if (stop_requested(run->options->stop) && err->class != ERROR_CANCELLED)
		error_set(err, ERROR_CANCELLED, "stopped");
	add_hint(err);
	error_add_context(err, "table %s.%s", table->schema, table->name);
	if (err->class == ERROR_CANCELLED) {
		atomic_store(&table->state, TABLE_QUEUED);
	} else {
		table_set_error(run->options->catalog, table, err);
		atomic_store(&table->state, TABLE_ERRORED);
		log_failure(LOG_ERROR, "copy", err);
	}
	pthread_mutex_lock(&run->lock);
	count_failure(run, err);
	pthread_mutex_unlock(&run->lock);
}

bool
copy_run_given_up(CopyRun *run, Table *table)
{
	pthread_mutex_lock(&run->lock);
	bool given_up = halted(run);
	if (given_up) {
		atomic_store(&table->state, TABLE_QUEUED);
		run->left++;
	}
	pthread_mutex_unlock(&run->lock);
	return given_up;
}

bool
copy_run_again(CopyRun *run, Table *table)
{
	size_t index = (size_t)(table - run->options->catalog->tables);

	pthread_mutex_lock(&run->lock);
	bool again = !halted(run) && run->begun[index] < copy_run_tries(run);
	if (again) {
		atomic_store(&table->state, TABLE_QUEUED);
		if (index < run->next)
			run->next = index;
	}
	pthread_mutex_unlock(&run->lock);
	return again;
}

void
copy_run_split(CopyRun *run, Split *split)
{
	pthread_mutex_lock(&run->lock);
	run->begun[split->table - run->options->catalog->tables]++;
	split->older = run->splits;
	run->splits = split;
	pthread_cond_broadcast(&run->changed);
	pthread_mutex_unlock(&run->lock);
}

bool
copy_run_range_ended(CopyRun *run, const Work *work, bool ok, const Error *err)
{
	Split *split = work->split;

	pthread_mutex_lock(&run->lock);
	split->running--;
	if (ok) {
		split->rows += work->rows;
		split->bytes += work->bytes;
	} else if (!split->failed) {
		split->failed = true;
		split->error = *err;
	}
	if (halted(run))
		give_up(run);
	bool last = split->running == 0 && (split->failed || split->next == split->count);
	for (Split **at = &run->splits; last && *at != NULL; at = &(*at)->older) {
		if (*at == split) {
			*at = split->older;
			break;
		}
	}
	pthread_mutex_unlock(&run->lock);
	return last;
}

void
copy_run_build_ended(CopyRun *run, BuildTask *task, bool ok, const Error *err)
{
	pthread_mutex_lock(&run->lock);
	build_ended(run->options->build, task, ok);
	if (!ok)
		count_failure(run, err);
	pthread_mutex_unlock(&run->lock);
}
