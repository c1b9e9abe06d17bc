#include "apply/schema/build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/schema/build_plan.h"
#include "common/log.h"
#include "common/memory.h"
#include "protocol/replication.h"

/* Never more for one job: a sort gains nothing from it, and a server has other users. */
#define MOST_MEMORY (UINT64_C(2) << 30)

/* ---- open ---- */

/* The server's own setting is what one session may take; but shared_buffers tells more of
 * the machine, and as long as we copy nobody else needs as much. */
static bool
read_memory(Build *build, Error *err)
{
	const SchemaWork *work = build->work;
	uint64_t jobs = work->jobs > 0 ? (uint64_t)work->jobs : 1;

	build->memory = work->maintenance_bytes;
	if (build->memory > 0)
		return true;
	PGresult *found = sql_query(
		work->target_sql, err,
		"SELECT sum(setting::bigint) FILTER (WHERE name = 'maintenance_work_mem') * 1024,"
		" sum(setting::bigint) FILTER (WHERE name = 'shared_buffers')"
		" * pg_catalog.current_setting('block_size')::bigint FROM pg_catalog.pg_settings"
		" WHERE name IN ('maintenance_work_mem', 'shared_buffers')");
	if (found == NULL)
		return false;
	uint64_t own = (uint64_t)sql_get_int(found, 0, 0);
	uint64_t share = (uint64_t)sql_get_int(found, 0, 1) / jobs;
	PQclear(found);
	build->memory = own > share ? own : share;
	if (build->memory > MOST_MEMORY)
		build->memory = MOST_MEMORY;
	return true;
}

static void
add_task(Build *build, TableBuild *of, const Item *item, uint64_t bytes)
{
	BuildTask *task = &build->tasks[build->task_count++];

	*task = (BuildTask){.of = of, .item = item, .bytes = bytes, .state = TASK_WAITS};
	if (item != NULL)
		of->indexes_left++;
	else
		of->finish = task;
}

/* Alone on its table, whatever it is; a key whose index cannot be made first comes with
 * the finish, since it keeps all others out. */
static bool
goes_first(const TableBuild *of, const Item *item)
{
	return of->item_count > 1 && (item->index != NULL || item->entry->kind == ENTRY_INDEX);
}

/* By an earlier process. */
static bool
is_built(const Build *build, const Item *item)
{
	char step[SCHEMA_STEP_SIZE];

	if (item->index != NULL)
		build_index_step(item, step);
	else
		schema_step_name(item->entry, step);
	return build_step_done(build, step);
}

static void
add_tasks(Build *build, TableBuild *of)
{
	uint64_t rest = 1;

	for (const Item *item = of->items; item != NULL; item = item->next) {
		uint64_t bytes = is_built(build, item) ? 0 : item->bytes;
		if (goes_first(of, item))
			add_task(build, of, item, bytes + 1);
		else
			rest += bytes;
	}
	add_task(build, of, NULL, rest);
}

static void
plan_tasks(Build *build)
{
	const Catalog *catalog = build->work->catalog;
	size_t most = catalog->table_count;

	for (size_t i = 0; i < catalog->table_count; i++)
		most += build->tables[i].item_count;
	build->tasks = arena_new_array(build->archive.arena, BuildTask, most + 1);
	build->ready = arena_new_array(build->archive.arena, BuildTask *, most + 1);
	/* Each run plans only what it copies. */
	for (size_t i = 0; i < catalog->table_count; i++) {
		if (atomic_load(&catalog->tables[i].apart) == build->work->apart)
			add_tasks(build, &build->tables[i]);
	}
}

/*
 * ANALYZE of a table reads a sample of all below it, and of a foreign table by asking its server. The
 * target need not reach that one, and where nobody answers would wait for minutes. Such statistics
 * are noted as made. The tables below have their own.
 */
static bool
leave_out_foreign(Build *build, Error *err)
{
	char step[SCHEMA_STEP_SIZE];
	Buffer name = BUFFER_INIT;
	PGresult *found = sql_query(
		build->work->target_sql, err,
		"WITH RECURSIVE above AS (SELECT i.inhparent AS oid FROM pg_catalog.pg_inherits i"
		" JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'f' UNION"
		" SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN above a ON a.oid = i.inhrelid)"
		" SELECT n.nspname, c.relname FROM above a JOIN pg_catalog.pg_class c ON c.oid = a.oid"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2");

	for (int row = 0; found != NULL && row < PQntuples(found); row++) {
		buffer_reset(&name);
		sql_put_identifier(&name, sql_get(found, row, 0));
		buffer_put_text(&name, ".");
		sql_put_identifier(&name, sql_get(found, row, 1));
		build_analyze_step(buffer_cstr(&name), step);
		const char *kept = arena_strdup(build->archive.arena, step);
		if (build_step_done(build, step))
			continue;
		map_put(build->done, slice_of(kept, strlen(kept)), build);
		log_info("schema", "%s is not analyzed: there are foreign tables below it",
		         buffer_cstr(&name));
	}
	bool ok = found != NULL;
	PQclear(found);
	buffer_free(&name);
	return ok;
}

static bool
open_it(Build *build, bool definitions, Error *err)
{
	const SchemaWork *work = build->work;

	if (definitions && !archive_open(work, false, &build->archive, err))
		return false;
	if (!definitions)
		build->archive.arena = arena_new(0);
	build->tables = arena_new_array(build->archive.arena, TableBuild,
	                                work->catalog->table_count + 1);
	for (size_t i = 0; i < work->catalog->table_count; i++) {
		TableBuild *of = &build->tables[i];
		of->table = &work->catalog->tables[i];
		of->last = &of->items;
	}
	build->done = ledger_steps(work->target_sql, work->ledger, build->archive.arena, err);
	return build->done != NULL && leave_out_foreign(build, err) && read_memory(build, err) &&
	       (!definitions || build_plan_read(build, err));
}

Build *
build_open(const SchemaWork *work, bool definitions, Error *err)
{
	Build *build = mem_zalloc(sizeof(Build));

	build->work = work;
	if (!open_it(build, definitions, err)) {
		build_close(build);
		error_add_context(err, "planning the indexes");
		return NULL;
	}
	plan_tasks(build);
	return build;
}

void
build_close(Build *build)
{
	if (build == NULL)
		return;
	map_free(build->done);
	archive_close(&build->archive);
	free(build);
}

/* ---- a small table, whole ---- */

/* What has been put, and is still to be recorded. */
typedef struct {
	const Build *build;
	Buffer *sql;
	Buffer steps;
	const char *settings; /* that are in force */
	bool analyzes;        /* an ANALYZE was begun */
} Whole;

/* The same settings need not be set for each of a thousand indexes. */
static void
put_item(Whole *whole, const Item *item)
{
	const Entry *entry = item->entry;
	char step[SCHEMA_STEP_SIZE];

	schema_step_name(entry, step);
	if (build_step_done(whole->build, step))
		return;
	if (whole->settings == NULL || strcmp(whole->settings, entry->settings) != 0)
		buffer_put_text(whole->sql, entry->settings);
	whole->settings = entry->settings;
	buffer_printf(whole->sql, "%s\n", entry->sql);
	ledger_steps_add(step, &whole->steps);
}

static void
put_analyze(Whole *whole, const Table *table)
{
	char step[SCHEMA_STEP_SIZE];

	build_analyze_step(table->qualified, step);
	if (build_step_done(whole->build, step))
		return;
	buffer_printf(whole->sql, "%s %s", whole->analyzes ? "," : "ANALYZE", table->qualified);
	whole->analyzes = true;
	ledger_steps_add(step, &whole->steps);
}

void
build_put_whole(const Build *build, Table *const *tables, size_t count, Buffer *sql)
{
	Whole whole = {.build = build, .sql = sql, .steps = BUFFER_INIT};

	for (size_t i = 0; i < count; i++) {
		for (const Item *item = build_table(build, tables[i])->items; item != NULL;
		     item = item->next)
			put_item(&whole, item);
	}
	for (size_t i = 0; i < count; i++)
		put_analyze(&whole, tables[i]);
	buffer_put_text(sql, whole.analyzes ? ";\n" : "");
	ledger_steps_sql(build->work->ledger, &whole.steps, sql);
	buffer_free(&whole.steps);
}

static void
task_done(Build *build, BuildTask *task)
{
	if (task->state == TASK_DONE)
		return;
	task->state = TASK_DONE;
	atomic_fetch_add(&build->done_count, 1);
}

void
build_whole_done(Build *build, const Table *table)
{
	TableBuild *of = build_table(build, table);

	of->rows_in = true;
	for (BuildTask *task = of->finish - of->indexes_left; task <= of->finish; task++)
		task_done(build, task);
	of->indexes_left = 0;
}

/* ---- tasks ---- */

void
build_rows_in(Build *build, const Table *table)
{
	TableBuild *of = build_table(build, table);

	if (of->rows_in)
		return;
	of->rows_in = true;
	for (BuildTask *task = of->finish - of->indexes_left; task < of->finish; task++)
		build_ready_add(build, task);
	if (of->indexes_left == 0)
		build_ready_add(build, of->finish);
}

BuildTask *
build_take(Build *build, size_t *ready)
{
	BuildTask *task = build_ready_take(build);

	*ready = build->ready_count;
	return task;
}

void
build_ended(Build *build, BuildTask *task, bool ok)
{
	TableBuild *of = task->of;

	if (!ok) {
		task->state = TASK_FAILED;
		return;
	}
	task_done(build, task);
	if (task->item != NULL && --of->indexes_left == 0)
		build_ready_add(build, of->finish);
}

const char *
build_task_name(const BuildTask *task)
{
	return task->item != NULL ? task->item->entry->what : task->of->table->qualified;
}

void
build_progress(const Build *build, size_t *done, size_t *count)
{
	*done = atomic_load(&build->done_count);
	*count = build->task_count;
}

void
build_at(BuildTask *task, int pid)
{
	atomic_store(&task->pid, pid);
}

/* Of "1259 16501 INDEX app ei postgres" what a person wants to know. */
static void
put_running(const BuildTask *task, int pid, BuildRunning *out)
{
	*out = (BuildRunning){.table = task->of->table, .bytes = task->bytes, .pid = pid};
	if (task->item == NULL) {
		snprintf(out->name, sizeof(out->name), "keys and statistics");
		return;
	}
	const char *what = task->item->entry->what;
	for (int numbers = 0; numbers < 2; numbers++) {
		what += strcspn(what, " ");
		what += *what == ' ';
	}
	const char *owner = strrchr(what, ' ');
	int len = owner != NULL ? (int)(owner - what) : (int)strlen(what);
	snprintf(out->name, sizeof(out->name), "%.*s", len, what);
}

void
build_work(const Build *build, BuildWork *out)
{
	*out = (BuildWork){0};
	for (size_t i = 0; i < build->task_count; i++) {
		const BuildTask *task = &build->tasks[i];
		int state = atomic_load(&task->state);
		int pid = atomic_load(&task->pid);
		if (build_is_small(task->of->table))
			continue;
		out->total += task->bytes;
		bool seen = state == TASK_RUNS && pid != 0 &&
		            out->running_count < sizeof(out->running) / sizeof(out->running[0]);
		if (seen)
			put_running(task, pid, &out->running[out->running_count++]);
		else if (state == TASK_DONE)
			out->done += task->bytes;
		else if (task->bytes > out->longest)
			out->longest = task->bytes;
	}
}

/* ---- running ---- */

/* A helper gets what its own job would have had. */
static char *
memory_settings(const Build *build, int helpers)
{
	uint64_t kb = build->memory / 1024 * (uint64_t)(1 + helpers);

	if (kb > MOST_MEMORY / 1024)
		kb = MOST_MEMORY / 1024;
	return mem_printf("SET LOCAL maintenance_work_mem = %llu;"
	                  "SET LOCAL max_parallel_maintenance_workers = %d;\n",
	                  (unsigned long long)kb, helpers);
}

static bool
run_step(const Build *build, Sql *target, const char *step, const char *settings,
         const char *memory, const char *text, Error *err)
{
	char *whole = mem_printf("%s%s%s", memory, settings, text);
	bool ok = schema_step_once(target, build->work, step, whole, err);

	free(whole);
	return ok || error_add_context(err, "%s", step);
}

static bool
run_item(const Build *build, const Item *item, const char *memory, Sql *target, Error *err)
{
	const Entry *entry = item->entry;
	char step[SCHEMA_STEP_SIZE];

	if (item->index == NULL) {
		schema_step_name(entry, step);
		return run_step(build, target, step, entry->settings, memory, entry->sql, err);
	}
	build_index_step(item, step);
	return run_step(build, target, step, entry->settings, memory, item->index, err);
}

static bool
finish_table(const Build *build, const TableBuild *of, const char *memory, Sql *target, Error *err)
{
	char step[SCHEMA_STEP_SIZE];

	for (const Item *item = of->items; item != NULL; item = item->next) {
		if (item->index == NULL && goes_first(of, item))
			continue;
		schema_step_name(item->entry, step);
		if (!run_step(build, target, step, item->entry->settings, memory,
		              item->index != NULL ? item->join : item->entry->sql, err))
			return false;
	}
	build_analyze_step(of->table->qualified, step);
	if (build_step_done(build, step))
		return true;
	char *analyze = mem_printf("ANALYZE %s", of->table->qualified);
	bool ok = run_step(build, target, step, "", "", analyze, err);
	free(analyze);
	return ok;
}

bool
build_run(const Build *build, const BuildTask *task, int helpers, Sql *target, Error *err)
{
	char *memory = memory_settings(build, helpers);
	bool ok = task->item != NULL ? run_item(build, task->item, memory, target, err)
	                             : finish_table(build, task->of, memory, target, err);

	free(memory);
	return ok;
}
