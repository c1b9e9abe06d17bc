#include "proxy/migration/adder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"

struct Adder {
	Migration *m;
	bool rest;
	Stop *stop;
	pthread_t thread;
	Sql *source;
	Sql *target;
	Applier *applier; /* set once, before READY */
	pthread_mutex_t lock;
	AdderState state; /* under the lock */
	Error error;
};

/* ---- rows ---- */

static void
on_wait(void *arg, const char *blockers)
{
	char step[160];

	snprintf(step, sizeof(step), "waits for transactions that were running: %s",
	         blockers[0] != '\0' ? blockers : "none is left");
	addition_step(arg, step);
}

static void
show_build(Migration *m, Build *build)
{
	pthread_mutex_lock(&m->lock);
	m->build = build;
	pthread_mutex_unlock(&m->lock);
}

static bool
all_copied(const Catalog *catalog)
{
	for (size_t i = 0; i < catalog->table_count; i++) {
		const Table *table = &catalog->tables[i];
		if (atomic_load(&table->apart) && atomic_load(&table->state) != TABLE_COPIED)
			return false;
	}
	return true;
}

static bool
copy(Adder *adder, Error *err)
{
	Migration *m = adder->m;
	SchemaWork work = addition_work(m, adder->target);
	CopyOptions options = {
		.source = m->config->source,
		.target = m->config->target,
		.ledger = &m->ledger,
		.catalog = m->catalog,
		.apart = true,
		.jobs = m->config->jobs,
		.split_above = m->config->split_above,
		.log = m->log,
		.throttle = m->throttle,
		.workers = &m->workers,
		.stop = adder->stop,
	};
	bool definitions = m->config->schema_copy && m->apart.kind == APART_ADD;

	work.stop = adder->stop;
	/* Whatever was committed, and by this applied by the others, is visible in a snapshot that
	 * is taken afterwards; and whoever wrote before the table was published has ended. */
	if (!all_copied(m->catalog) &&
	    !source_wait_running(adder->source, adder->stop, on_wait, m, err))
		return false;
	addition_step(m, "rows and indexes");
	options.build = build_open(&work, definitions, err);
	if (options.build == NULL)
		return false;
	show_build(m, options.build);
	FAULT_POINT("addition_copying");
	bool ok = copy_tables(&options, err) && build_finish(options.build, err);
	show_build(m, NULL);
	build_close(options.build);
	FAULT_POINT("addition_copied");
	return ok;
}

/* ---- changes ---- */

/* In slices: neither knows of the other's end. */
static bool
wait_marker(Adder *adder, const char *marker, int64_t deadline_ms, Error *err)
{
	enum { SLICE_MS = 100 };

	for (;;) {
		int left = deadline_left_ms(deadline_ms);
		int64_t until = deadline_in_ms(left < SLICE_MS ? left : SLICE_MS);
		error_clear(err);
		if (applier_wait_marker(adder->applier, marker, until, err))
			return true;
		if (err->class != ERROR_TIMEOUT || left == 0)
			return false;
		if (stop_requested(adder->stop))
			return error_set(err, ERROR_CANCELLED, "stopped on request");
	}
}

static bool
follow_them(Adder *adder, Error *err)
{
	Migration *m = adder->m;
	Ledger ledger;
	char marker[64];

	addition_step(m, "applying what has changed meanwhile");
	if (!ledger_apart_open(adder->target, &m->ledger, &ledger, err))
		return false;
	adder->applier = way_start_apart(m, &ledger, err);
	FAULT_POINT("addition_following");
	return adder->applier != NULL &&
	       sql_value(adder->target, err, marker, sizeof(marker),
	                 "SELECT gen_random_uuid()::text") &&
	       source_emit_marker(adder->source, &m->ledger, marker, err) &&
	       wait_marker(adder, marker, 0, err);
}

/* ---- the rest ---- */

/* Locks on the added tables and on those they refer to: between two batches. */
static bool
rest_of_schema(Adder *adder, Error *err)
{
	Migration *m = adder->m;
	SchemaWork work = addition_work(m, adder->target);

	work.stop = adder->stop;
	addition_step(m, "foreign keys and triggers");
	if (!applier_pause(m->applier, 0, err))
		return false;
	bool ok = schema_rest_locking(&work, err) &&
	          target_prepare(adder->target, &m->ledger, m->catalog, err);
	applier_resume(m->applier);
	FAULT_POINT("addition_rest");
	if (!ok)
		return false;
	addition_step(m, "checking foreign keys");
	return schema_rest_validate(&work, err);
}

/* ---- the thread ---- */

static bool
work_all(Adder *adder, Error *err)
{
	const Config *config = adder->m->config;

	adder->source = sql_connect(config->source, "source", "add", adder->stop, err);
	if (adder->source == NULL)
		return false;
	adder->target = sql_connect(config->target, "target", "add", adder->stop, err);
	if (adder->target == NULL)
		return false;
	return adder->rest ? rest_of_schema(adder, err) : copy(adder, err) && follow_them(adder, err);
}

static void *
adder_main(void *arg)
{
	Adder *adder = arg;
	Error err = ERROR_INIT;
	bool ok = work_all(adder, &err);

	sql_close(adder->source);
	sql_close(adder->target);
	pthread_mutex_lock(&adder->lock);
	adder->state = ok ? ADDER_READY : ADDER_FAILED;
	adder->error = err;
	pthread_mutex_unlock(&adder->lock);
	return NULL;
}

Adder *
adder_start(Migration *m, bool rest)
{
	Adder *adder = mem_zalloc(sizeof(Adder));

	adder->m = m;
	adder->rest = rest;
	adder->stop = stop_new();
	pthread_mutex_init(&adder->lock, NULL);
	CHECK(pthread_create(&adder->thread, NULL, adder_main, adder) == 0);
	return adder;
}

void
adder_free(Adder *adder)
{
	if (adder == NULL)
		return;
	stop_request(adder->stop);
	pthread_join(adder->thread, NULL);
	applier_stop(adder->applier);
	pthread_mutex_destroy(&adder->lock);
	stop_free(adder->stop);
	free(adder);
}

AdderState
adder_state(Adder *adder, Error *err)
{
	pthread_mutex_lock(&adder->lock);
	AdderState state = adder->state;
	if (state == ADDER_FAILED)
		*err = adder->error;
	pthread_mutex_unlock(&adder->lock);
	if (state == ADDER_READY && adder->applier != NULL) {
		ApplierState applier;
		applier_state(adder->applier, &applier);
		if (applier.phase == APPLIER_FAILED) {
			*err = applier.error;
			state = ADDER_FAILED;
		}
	}
	return state;
}

bool
adder_wait_marker(Adder *adder, const char *marker, int64_t deadline_ms, Error *err)
{
	return wait_marker(adder, marker, deadline_ms, err);
}
