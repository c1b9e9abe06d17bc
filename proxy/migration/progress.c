/*
 * How far it is and how long it will take: a thread that looks each second at the copy's
 * counters, at the indexes being built (pg_stat_progress_create_index, on a session of its
 * own) and at the stream's positions. What it finds out is in Migration.pace and
 * Migration.index, and in the tables' rates and expectations.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/copy/split.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/migration/internal.h"

enum { LOOK_EVERY_MS = 1000, QUERY_TIMEOUT_MS = 5000 };

struct ProgressWatch {
	Migration *m;
	Stop *stop;
	pthread_t thread;
	Sql *target;
	int64_t last_ms;
	uint64_t *last_bytes; /* per table */
	double copying_s;
	double indexing_s;
};

/* ---- indexes ---- */

/* The rows of pg_stat_progress_create_index, as far as there are any. */
static PGresult *
ask_target(ProgressWatch *progress)
{
	Error err = ERROR_INIT;

	if (progress->target == NULL)
		progress->target = sql_connect(progress->m->config->target, "target", "progress",
		                               progress->stop, &err);
	if (progress->target == NULL)
		return NULL;
	sql_set_timeout_ms(progress->target, QUERY_TIMEOUT_MS);
	PGresult *rows = sql_query(progress->target, &err,
	                           "SELECT pid, phase, blocks_done, blocks_total, tuples_done,"
	                           " tuples_total FROM pg_catalog.pg_stat_progress_create_index");
	if (rows == NULL) {
		sql_close(progress->target);
		progress->target = NULL;
		if (err.class != ERROR_CANCELLED)
			log_failure(LOG_DEBUG, "progress", &err);
	}
	return rows;
}

/* Without a row it is not at an index: at keys that only join, or statistics. */
static void
put_share(const PGresult *rows, int pid, IndexRunning *out)
{
	IndexProgress found;

	snprintf(out->phase, sizeof(out->phase), "begins or ends");
	for (int i = 0; rows != NULL && i < PQntuples(rows); i++) {
		if (sql_get_int(rows, i, 0) != pid)
			continue;
		snprintf(found.phase, sizeof(found.phase), "%s", PQgetvalue(rows, i, 1));
		found.blocks_done = sql_get_int(rows, i, 2);
		found.blocks_total = sql_get_int(rows, i, 3);
		found.tuples_done = sql_get_int(rows, i, 4);
		found.tuples_total = sql_get_int(rows, i, 5);
		out->share = pace_index_share(&found);
		snprintf(out->phase, sizeof(out->phase), "%s", found.phase);
	}
}

/* False: nothing is planned now. */
static bool
read_work(Migration *m, BuildWork *work, IndexStatus *status)
{
	pthread_mutex_lock(&m->lock);
	bool there = m->build != NULL;
	if (there) {
		build_work(m->build, work);
		build_progress(m->build, &status->done, &status->count);
	}
	pthread_mutex_unlock(&m->lock);
	return there;
}

static double
look_at_indexes(ProgressWatch *progress)
{
	Migration *m = progress->m;
	BuildWork work;
	IndexStatus status = {0};
	double longest = 0;

	if (!read_work(m, &work, &status)) {
		pthread_mutex_lock(&m->lock);
		m->index = status;
		pthread_mutex_unlock(&m->lock);
		return 0;
	}
	PGresult *rows = work.running_count > 0 ? ask_target(progress) : NULL;
	status.bytes_done = (double)work.done;
	status.bytes_total = (double)work.total;
	longest = (double)work.longest;
	for (size_t i = 0; i < work.running_count; i++) {
		IndexRunning running = {.table = work.running[i].table};
		snprintf(running.name, sizeof(running.name), "%s", work.running[i].name);
		put_share(rows, work.running[i].pid, &running);
		pace_add_index((double)work.running[i].bytes, running.share, &status.bytes_done, &longest);
		if (status.running_count < INDEXES_SHOWN)
			status.running[status.running_count++] = running;
	}
	PQclear(rows);
	pthread_mutex_lock(&m->lock);
	m->index = status;
	m->index_longest = longest;
	pthread_mutex_unlock(&m->lock);
	return status.bytes_done;
}

/* ---- rows ---- */

/* Smoothed, so that the number can be read; over some seconds. */
static void
look_at_table(ProgressWatch *progress, size_t i, double seconds)
{
	Table *table = &progress->m->catalog->tables[i];
	uint64_t bytes = atomic_load(&table->copied_bytes);
	uint64_t before = progress->last_bytes[i];

	progress->last_bytes[i] = bytes;
	if (atomic_load(&table->state) != TABLE_COPYING || seconds <= 0)
		return;
	double now = bytes > before ? (double)(bytes - before) / seconds : 0;
	double old = (double)atomic_load(&table->copy_rate);
	atomic_store(&table->copy_rate, (uint64_t)(old > 0 ? 0.7 * old + 0.3 * now : now));
}

static double
work_done(const Catalog *catalog)
{
	double done = 0;

	for (size_t i = 0; i < catalog->table_count; i++) {
		const Table *table = &catalog->tables[i];
		done += (double)atomic_load(&table->copied_bytes);
		done += atomic_load(&table->state) == TABLE_COPIED ? PACE_TABLE_COST : 0;
	}
	return done;
}

static void
look(ProgressWatch *progress)
{
	Migration *m = progress->m;
	MigrationStatus now;
	int64_t now_ms = clock_mono_ms();
	double seconds = progress->last_ms != 0 ? (double)(now_ms - progress->last_ms) / 1e3 : 0;

	progress->last_ms = now_ms;
	for (size_t i = 0; i < m->catalog->table_count; i++)
		look_at_table(progress, i, seconds);
	pace_expect(m->catalog);
	migration_status(m, &now);
	/* Who is held has no share in what is learnt. */
	if (now.throttle.held[0] == '\0')
		progress->copying_s += seconds * atomic_load(&m->workers.reading);
	progress->indexing_s += seconds * atomic_load(&m->workers.building);
	PaceSample sample = {
		.at_ms = now_ms,
		.copied = work_done(m->catalog),
		.indexed = look_at_indexes(progress),
		.copying_s = progress->copying_s,
		.indexing_s = progress->indexing_s,
		.applied = now.applier.applied_end,
		.source = lsn_max(now.source_lsn, now.receiver.server_end),
	};
	pthread_mutex_lock(&m->lock);
	pace_add(&m->pace, &sample);
	pthread_mutex_unlock(&m->lock);
}

/* ---- the status ---- */

static void
add_left(const Migration *m, const Table *table, PaceLeft *left)
{
	CopyOptions options = {.catalog = m->catalog, .split_above = m->config->split_above};
	double bytes = (double)atomic_load(&table->copied_bytes);
	double expected = (double)atomic_load(&table->expected_bytes);
	double rest = PACE_TABLE_COST + (expected > bytes ? expected - bytes : 0);

	if (atomic_load(&table->state) == TABLE_COPIED)
		return;
	left->copy += rest;
	if (rest > left->copy_longest && !split_wanted(&options, table))
		left->copy_longest = rest;
}

static void
put_eta(MigrationStatus *out, double seconds, const char *until, const char *why)
{
	out->eta_seconds = seconds;
	out->eta_until = until;
	snprintf(out->eta_why, sizeof(out->eta_why), "%s", seconds < 0 && why != NULL ? why : "");
}

void
progress_status(const Migration *m, MigrationStatus *out)
{
	PaceLeft left = {.jobs = m->config->jobs};
	const char *why = NULL;

	out->copy_eta_seconds = out->eta_seconds = -1;
	if (m->build != NULL) {
		out->index = m->index;
		build_progress(m->build, &out->index.done, &out->index.count);
	}
	if (m->catalog == NULL)
		return;
	for (size_t i = 0; i < m->catalog->table_count; i++)
		add_left(m, &m->catalog->tables[i], &left);
	left.index = out->index.bytes_total - out->index.bytes_done;
	left.index_longest = m->index_longest;
	left.held = out->throttle.held[0] != '\0' ? out->throttle.held : NULL;
	out->copy_eta_seconds = pace_copy_eta(&m->pace, &left, &why);
	if (m->state == STATE_COPYING ||
	    (m->addition.outcome == ADDITION_RUNNING && m->build != NULL)) {
		out->copy_rate = pace_rate(&m->pace);
		double seconds = pace_eta(&m->pace, &left, &why);
		put_eta(out, seconds, "copied", why);
	} else if (m->state == STATE_CATCHING_UP) {
		double seconds = pace_lag_eta(&m->pace, FOLLOWING_LAG_BYTES, &why);
		/* What it does besides has no measure. */
		put_eta(out, seconds > 0 ? seconds : -1, "following", seconds == 0 ? m->detail : why);
	}
}

/* ---- start and stop ---- */

static void *
progress_main(void *arg)
{
	ProgressWatch *progress = arg;

	while (!stop_requested(progress->stop)) {
		look(progress);
		if (!stop_sleep_ms(progress->stop, LOOK_EVERY_MS, NULL))
			break;
	}
	sql_close(progress->target);
	return NULL;
}

ProgressWatch *
progress_start(Migration *m)
{
	ProgressWatch *progress = mem_zalloc(sizeof(ProgressWatch));

	progress->m = m;
	progress->stop = stop_new();
	progress->last_bytes = mem_zalloc(sizeof(uint64_t) * (m->catalog->table_count + 1));
	CHECK(pthread_create(&progress->thread, NULL, progress_main, progress) == 0);
	return progress;
}

void
progress_stop(ProgressWatch *progress)
{
	if (progress == NULL)
		return;
	stop_request(progress->stop);
	pthread_join(progress->thread, NULL);
	stop_free(progress->stop);
	free(progress->last_bytes);
	free(progress);
}
