/*
 * Foreign keys that were made NOT VALID are checked, several at a time but no large table
 * by two of them: each check reads the referencing table and joins the referenced one.
 * Which tables those are, the source's catalogue says.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/schema/archive.h"
#include "apply/schema/build.h"
#include "apply/schema/step.h"
#include "apply/schema/turns.h"
#include "common/clock.h"
#include "common/map.h"
#include "common/memory.h"

enum { VALIDATE_TRIES = 4, VALIDATE_BACKOFF_MS = 500 };

typedef struct {
	Turn turn; /* first: of the referencing and the referenced table; NULL: small, or not known */
	const Entry *entry;
	ForeignKey fk;
	uint64_t bytes; /* of the referencing table; 0: small */
} Check;

/* The workers' own; all but `work` under lock. */
typedef struct {
	const SchemaWork *work;
	Check *checks; /* those of the largest referencing tables first */
	size_t count;
	Turns turns;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool failed;
	Error first;
} Validation;

/* ---- one check ---- */

/* 23503 may be a state between two lanes' commits: a child is in, its parent not yet. */
static bool
validate(const SchemaWork *work, Sql *sql, const Check *check, Error *err)
{
	char step[SCHEMA_STEP_SIZE];
	const ForeignKey *fk = &check->fk;
	char *text = mem_printf("ALTER TABLE %.*s VALIDATE CONSTRAINT %.*s", (int)fk->table.len,
	                        (const char *)fk->table.data, (int)fk->constraint.len,
	                        (const char *)fk->constraint.data);
	bool ok = false;

	snprintf(step, sizeof(step), "validate %s", check->entry->what);
	for (int tried = 1;; tried++) {
		ok = schema_step_once(sql, work, step, text, err);
		if (ok || tried == VALIDATE_TRIES || !error_has_sqlstate(err, "23503") ||
		    !stop_sleep_ms(work->stop, clock_jitter_ms(VALIDATE_BACKOFF_MS * tried), err))
			break;
	}
	free(text);
	if (!ok && error_has_sqlstate(err, "23503"))
		err->class = ERROR_DIVERGENCE;
	return ok || error_add_context(err, "validating %s", check->entry->what);
}

/* ---- several at a time ---- */

/* NULL: none is left that nobody runs, or one has failed. */
static Check *
take(Validation *all)
{
	while (!all->failed && turns_any_waits(&all->turns)) {
		Turn *turn = turns_take(&all->turns);
		if (turn != NULL)
			return (Check *)turn;
		pthread_cond_wait(&all->changed, &all->lock);
	}
	return NULL;
}

static void
ended(Validation *all, Check *check, const Error *err)
{
	pthread_mutex_lock(&all->lock);
	if (check != NULL)
		turns_end(&all->turns, &check->turn);
	if (err->class != ERROR_NONE) {
		if (!all->failed)
			all->first = *err;
		all->failed = true;
	}
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
}

static Check *
take_next(Validation *all)
{
	pthread_mutex_lock(&all->lock);
	Check *check = take(all);
	pthread_mutex_unlock(&all->lock);
	return check;
}

static void *
validate_main(void *arg)
{
	Validation *all = arg;
	Error err = ERROR_INIT;
	Sql *sql = sql_connect(all->work->target, "target", "validate", all->work->stop, &err);
	Check *check;

	if (sql == NULL)
		ended(all, NULL, &err);
	while (sql != NULL && (check = take_next(all)) != NULL) {
		err = (Error)ERROR_INIT;
		(void)!validate(all->work, sql, check, &err);
		ended(all, check, &err);
	}
	sql_close(sql);
	return NULL;
}

static bool
run_checks(Validation *all, Error *err)
{
	size_t jobs = all->work->jobs > 0 ? (size_t)all->work->jobs : 1;

	if (jobs > all->count)
		jobs = all->count;
	pthread_t *threads = mem_zalloc(sizeof(pthread_t) * (jobs + 1));
	pthread_mutex_init(&all->lock, NULL);
	pthread_cond_init(&all->changed, NULL);
	for (size_t i = 0; i < jobs; i++)
		CHECK(pthread_create(&threads[i], NULL, validate_main, all) == 0);
	for (size_t i = 0; i < jobs; i++)
		pthread_join(threads[i], NULL);
	pthread_mutex_destroy(&all->lock);
	pthread_cond_destroy(&all->changed);
	free(threads);
	if (all->failed)
		*err = all->first;
	return !all->failed;
}

/* ---- which ---- */

static const Table *
large_table(const Map *by_oid, uint32_t oid)
{
	const Table *table = map_get(by_oid, slice_of(&oid, sizeof(oid)));
	return table != NULL && !build_is_small(table) ? table : NULL;
}

static Map *
tables_by_oid(const Catalog *catalog)
{
	Map *by_oid = map_new(catalog->table_count);

	for (size_t i = 0; i < catalog->table_count; i++) {
		Table *table = &catalog->tables[i];
		map_put(by_oid, slice_of(&table->oid, sizeof(table->oid)), table);
	}
	return by_oid;
}

/* Rows: constraint, referencing, referenced table. What the source does not have any more
 * stays without tables. */
static void
find_tables(const Validation *all, const PGresult *rows)
{
	Map *tables = tables_by_oid(all->work->catalog);
	Map *checks = map_new(all->count);

	for (size_t i = 0; i < all->count; i++) {
		Check *check = &all->checks[i];
		map_put(checks, slice_of(&check->entry->oid, sizeof(check->entry->oid)), check);
	}
	for (int row = 0; row < PQntuples(rows); row++) {
		uint32_t oid = (uint32_t)sql_get_int(rows, row, 0);
		Check *check = map_get(checks, slice_of(&oid, sizeof(oid)));
		if (check == NULL)
			continue;
		const Table *referencing = large_table(tables, (uint32_t)sql_get_int(rows, row, 1));
		check->bytes = referencing != NULL ? referencing->bytes : 0;
		check->turn.tables[0] = referencing;
		check->turn.tables[1] = large_table(tables, (uint32_t)sql_get_int(rows, row, 2));
	}
	map_free(tables);
	map_free(checks);
}

static int
larger_first(const void *a, const void *b)
{
	const Check *left = a;
	const Check *right = b;

	return left->bytes > right->bytes ? -1 : left->bytes < right->bytes;
}

static bool
read_tables(Validation *all, Error *err)
{
	Sql *source = sql_connect(all->work->source, "source", "schema", all->work->stop, err);
	PGresult *rows = source == NULL
	                     ? NULL
	                     : sql_query(source, err,
	                                 "SELECT oid, conrelid, confrelid"
	                                 " FROM pg_catalog.pg_constraint WHERE contype = 'f'");

	if (rows != NULL)
		find_tables(all, rows);
	qsort(all->checks, all->count, sizeof(Check), larger_first);
	for (size_t i = 0; i < all->count; i++)
		turns_add(&all->turns, &all->checks[i].turn);
	bool ok = rows != NULL;
	PQclear(rows);
	sql_close(source);
	return ok;
}

/* Those that were made here, and are to be valid as on the source; of partitioned tables
 * they were checked when they were made. */
static bool
collect(Validation *all, const Entries *entries, Error *err)
{
	const SchemaWork *work = all->work;
	Arena *arena = arena_new(0);
	Map *done = ledger_steps(work->target_sql, work->ledger, arena, err);
	char step[SCHEMA_STEP_SIZE];

	for (size_t i = 0; done != NULL && i < entries->count; i++) {
		const Entry *entry = &entries->items[i];
		Check check = {.entry = entry};
		schema_step_name(entry, step);
		if (entry->kind == ENTRY_FOREIGN_KEY && foreign_key_read(entry->sql, &check.fk) &&
		    !check.fk.partitioned && !check.fk.not_valid && !check.fk.not_enforced &&
		    map_get(done, slice_of(step, strlen(step))) != NULL)
			all->checks[all->count++] = check;
	}
	bool ok = done != NULL;
	map_free(done);
	arena_free(arena);
	return ok;
}

static bool
validate_all(const SchemaWork *work, const Entries *entries, Error *err)
{
	Validation all = {.work = work};

	all.checks = mem_alloc(sizeof(Check) * (entries->count + 1));
	bool ok = collect(&all, entries, err) &&
	          (all.count == 0 || (read_tables(&all, err) && run_checks(&all, err)));
	free(all.checks);
	return ok;
}

static bool
validate_rest(const SchemaWork *work, Error *err)
{
	Archive archive = {0};
	Entries entries = {NULL, 0};
	bool ok = archive_open(work, false, &archive, err) &&
	          archive_post_data(work, &archive, &entries, err) && validate_all(work, &entries, err);

	archive_close(&archive);
	return ok;
}

void
schema_addition_end(int addition, char step[SCHEMA_STEP_SIZE])
{
	schema_once_name(addition, "all validated", step);
}

bool
schema_rest_validate(const SchemaWork *work, Error *err)
{
	bool ok = schema_once(work, "all validated", validate_rest, err);

	/* Nobody needs the archive any more. */
	if (ok && work->tools != NULL && work->addition == 0)
		schema_tools_free(work->tools);
	return ok;
}
