#include "apply/lobs/lobs.h"

#include <stdlib.h>
#include <string.h>

#include "apply/lobs/internal.h"
#include "common/log.h"
#include "common/memory.h"

/* Together they hold locks on so many ranges' objects, and max_locks_per_transaction is for all
 * sessions in common. */
enum { MOST_WORKERS = 8 };

/* ---- which way ---- */

/* Granting UPDATE on a catalogue to another than a superuser has no effect. */
bool
lobs_by_pages(Sql *from, Sql *to, bool *pages, Error *err)
{
	char readable[32];
	char writable[32];

	if (!sql_value(from, err, readable, sizeof(readable),
	               "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_largeobject', 'SELECT')"
	               "::text || ' ' || pg_catalog.current_setting('block_size')") ||
	    !sql_value(to, err, writable, sizeof(writable),
	               "SELECT rolsuper::text || ' ' || pg_catalog.current_setting('block_size')"
	               " FROM pg_catalog.pg_roles WHERE rolname = current_user"))
		return false;
	*pages = readable[0] == 't' && strcmp(readable, writable) == 0;
	return true;
}

/* Twice what was seen with two servers on two cores (bench/lobs.sh): the bytes cost the same in
 * both ways, an object by itself twice as much by lo_get. */
double
lobs_estimate_s(bool pages, uint64_t objects, uint64_t bytes)
{
	return (double)bytes / 150e6 + (double)objects * (pages ? 15e-6 : 30e-6);
}

static bool
failed_with(Error *err)
{
	if (error_has_sqlstate(err, "42501"))
		error_set_hint(err, "whoever is no superuser needs SELECT on every large object of the "
		                    "source and membership in all their owners on the target, whose "
		                    "owners may use them there; or --no-owner, --no-privileges, "
		                    "--large-objects skip");
	return error_add_context(err, "large objects");
}

/* ---- workers ---- */

static LobRange *
take(LobRun *run)
{
	LobRange *range = NULL;

	pthread_mutex_lock(&run->lock);
	while (!run->failed && range == NULL && run->next < run->ranges.count) {
		range = &run->ranges.items[run->next++];
		if (range->done)
			range = NULL;
	}
	pthread_mutex_unlock(&run->lock);
	return range;
}

/* The first error is the one to tell; the others end with the range they are at. */
static void
failed(LobRun *run, const Error *err)
{
	pthread_mutex_lock(&run->lock);
	if (!run->failed)
		run->first = *err;
	run->failed = true;
	pthread_mutex_unlock(&run->lock);
}

static void *
worker_main(void *arg)
{
	LobRun *run = arg;
	LobSession session = {NULL, NULL, false};
	Error err = ERROR_INIT;
	LobRange *range = take(run);
	bool ok = range == NULL || lob_session_open(run, &session, &err);

	while (ok && range != NULL) {
		ok = lob_range_do(run, &session, range, &err);
		range = take(run);
	}
	if (!ok)
		failed(run, &err);
	lob_session_close(&session);
	return NULL;
}

static size_t
worker_count(const LobRun *run)
{
	size_t jobs = run->work->jobs > 0 ? (size_t)run->work->jobs : 1;

	if (run->work->holder != NULL && !(run->pages && run->work->held))
		return 1;
	if (jobs > MOST_WORKERS)
		jobs = MOST_WORKERS;
	return jobs < run->ranges.count ? jobs : run->ranges.count;
}

static bool
run_workers(LobRun *run, Error *err)
{
	size_t count = worker_count(run);
	pthread_t *threads = mem_zalloc(sizeof(pthread_t) * (count + 1));

	for (size_t i = 0; i < count; i++)
		CHECK(pthread_create(&threads[i], NULL, worker_main, run) == 0);
	for (size_t i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	free(threads);
	if (run->failed && err != NULL)
		*err = run->first;
	return !run->failed;
}

/* ---- a run ---- */

static void
run_init(LobRun *run, const LobWork *work)
{
	*run = (LobRun){.work = work, .meta_from = BUFFER_INIT, .meta_to = BUFFER_INIT};
	pthread_mutex_init(&run->lock, NULL);
}

static void
run_free(LobRun *run)
{
	pthread_mutex_destroy(&run->lock);
	buffer_free(&run->meta_from);
	buffer_free(&run->meta_to);
	free(run->ranges.items);
}

static bool
read_page_size(LobRun *run, Sql *from, Error *err)
{
	char bytes[16];

	if (!sql_value(from, err, bytes, sizeof(bytes),
	               "SELECT pg_catalog.current_setting('block_size')::int / 4"))
		return false;
	run->page_bytes = (uint32_t)strtoul(bytes, NULL, 10);
	return run->page_bytes > 0 ||
	       error_set(err, ERROR_PROTOCOL, "the server's block_size is not a number");
}

/* What both kinds of run need to know. */
static bool
learn(LobRun *run, Sql *from, Sql *to, Error *err)
{
	return lobs_by_pages(from, to, &run->pages, err) && read_page_size(run, from, err) &&
	       lob_meta_open(run, from, to, err);
}

static bool
set_total(LobRun *run, Sql *from, Error *err)
{
	PGresult *size = sql_query(from, err,
	                           "SELECT count(*), pg_catalog.pg_relation_size("
	                           "'pg_catalog.pg_largeobject') FROM"
	                           " pg_catalog.pg_largeobject_metadata");
	if (size == NULL)
		return false;
	if (run->progress != NULL) {
		atomic_store(&run->progress->objects_total, (uint64_t)sql_get_int(size, 0, 0));
		atomic_store(&run->progress->bytes_total, (uint64_t)sql_get_int(size, 0, 1));
	}
	PQclear(size);
	return true;
}

static bool
copy(LobRun *run, Sql *from, Sql *to, Error *err)
{
	if (run->progress != NULL) {
		atomic_store(&run->progress->objects, 0);
		atomic_store(&run->progress->bytes, 0);
	}
	if (!learn(run, from, to, err) || !set_total(run, from, err) ||
	    !lob_record_open(run, from, to, err) || !run_workers(run, err))
		return false;
	if (run->progress != NULL) {
		atomic_store(&run->progress->objects_total, atomic_load(&run->progress->objects));
		atomic_store(&run->progress->bytes_total, atomic_load(&run->progress->bytes));
	}
	return true;
}

bool
lobs_copy(const LobWork *work, Sql *to, const Ledger *ledger, LobProgress *progress, Error *err)
{
	LobRun run;

	run_init(&run, work);
	run.write = true;
	run.ledger = ledger;
	run.progress = progress;
	Sql *from = sql_connect(work->from, work->from_side, "large objects", work->stop, err);
	bool ok = from != NULL && copy(&run, from, to, err);
	sql_close(from);
	if (ok && run.found.objects > 0)
		log_info("copy", "%llu large objects, %llu bytes", (unsigned long long)run.found.objects,
		         (unsigned long long)run.found.bytes);
	run_free(&run);
	return ok || failed_with(err);
}

bool
lobs_compare(const LobWork *work, bool write, LobDifference *out, Error *err)
{
	LobRun run;

	run_init(&run, work);
	run.write = write;
	*out = (LobDifference){.objects = 0};
	Sql *from = work->holder != NULL
	                ? work->holder
	                : sql_connect(work->from, work->from_side, "large objects", work->stop, err);
	Sql *to = from != NULL ? sql_connect(work->to, work->to_side, "large objects", work->stop, err)
	                       : NULL;
	bool ok = to != NULL && learn(&run, from, to, err) && lob_ranges_read(from, &run.ranges, err) &&
	          run_workers(&run, err);
	sql_close(to);
	if (work->holder == NULL)
		sql_close(from);
	else
		sql_set_timeout_ms(from, 0);
	if (ok)
		*out = run.found;
	run_free(&run);
	return ok || failed_with(err);
}
