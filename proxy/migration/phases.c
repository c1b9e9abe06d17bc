/*
 * The phases up to following. Each can be run again: after a lost connection, after resume,
 * after a restart of the process. What is done already is recognised, not repeated.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/copy/copy.h"
#include "apply/schema/target.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/migration/internal.h"

/* ---- open: sessions, lock, ledger ---- */

static bool
source_identity(Migration *m, Error *err)
{
	/* pg_control_system() may be denied; the replication connection then still tells. */
	return sql_value(m->source, err, m->system_id, sizeof(m->system_id),
	                 "SELECT system_identifier::text FROM pg_control_system()");
}

/* A ledger that is there must be of this very migration. */
static bool
check_ledger(Migration *m, const Ledger *ledger, Error *err)
{
	char database[256];
	const char *mode = migration_online(m) ? "online" : "offline";

	if (!sql_value(m->source, err, database, sizeof(database), "SELECT current_database()"))
		return false;
	if (strcmp(ledger->system_id, m->system_id) != 0 || strcmp(ledger->source_db, database) != 0) {
		error_set(err, ERROR_CONFIG,
		          "the target holds a migration \"%s\" from another source (database %s of "
		          "system %s; this one is database %s of system %s)",
		          ledger->name, ledger->source_db, ledger->system_id, database, m->system_id);
		return error_set_hint(err, "use another --name, or cancel that migration");
	}
	if (strcmp(ledger->mode, mode) != 0) {
		error_set(err, ERROR_CONFIG, "migration \"%s\" was begun with --mode %s", ledger->name,
		          ledger->mode);
		return error_set_hint(err, "go on with --mode %s, or run `pgbaton cancel`", ledger->mode);
	}
	return ledger_keep_selection(m->target, ledger, &m->selection, err);
}

/* *switched: from then on the source need not be there for the target to be served. */
static bool
load_ledger(Migration *m, bool *switched, Error *err)
{
	Ledger ledger = {.lanes = 0};
	Journal journal;
	MigrationState at;
	char state[32];

	if (!ledger_load(m->target, m->config->name, &ledger, err) ||
	    !ledger_get_state(m->target, &ledger, state, err) ||
	    !ledger_journal(m->target, &ledger, &journal, err))
		return false;
	if (!addition_load(m, &ledger, err) ||
	    !ledger_added(m->target, &ledger, m->arena, &m->selection, err))
		return false;
	m->selection.recorded = true;
	*switched = journal == JOURNAL_SWITCHED;
	m->fresh = !migration_state_parse(state, &at) || at < STATE_COPYING;
	log_info("migration", "going on with migration %s, which was %s", ledger.id, state);
	pthread_mutex_lock(&m->lock);
	m->ledger = ledger;
	m->ledger.timeline = &m->target_timeline;
	pthread_mutex_unlock(&m->lock);
	return true;
}

bool
phase_take_up(Migration *m, Error *err)
{
	bool switched;

	return load_ledger(m, &switched, err) && check_ledger(m, &m->ledger, err);
}

bool
phase_open(Migration *m, Error *err)
{
	bool exists;
	bool switched = false;

	if (!migration_connect_target(m, err))
		return false;
	if (m->lock_session == NULL) {
		m->lock_session = sql_connect(m->config->target, "target", "lock", m->stop, err);
		if (m->lock_session == NULL)
			return false;
	}
	if (!ledger_lock(m->lock_session, m->config->name, err) ||
	    !ledger_exists(m->target, m->config->name, &exists, err))
		return false;
	m->fresh = true;
	if (exists && !load_ledger(m, &switched, err))
		return false;
	if (switched)
		return true;
	return migration_connect_source(m, err) && source_identity(m, err) &&
	       (!exists || check_ledger(m, &m->ledger, err));
}

/* ---- check ---- */

static void
log_finding(const Finding *finding)
{
	LogLevel level = finding->severity == FINDING_BLOCKER   ? LOG_ERROR
	                 : finding->severity == FINDING_WARNING ? LOG_WARNING
	                                                        : LOG_INFO;
	log_event(level, "check", "%s: %s%s%s", finding->object, finding->message,
	          finding->fix != NULL ? "; " : "", finding->fix != NULL ? finding->fix : "");
}

static void
report_blockers(Migration *m, const Findings *findings)
{
	const Finding *first = NULL;

	for (size_t i = 0; i < findings->count; i++) {
		log_finding(&findings->items[i]);
		if (first == NULL && findings->items[i].severity == FINDING_BLOCKER)
			first = &findings->items[i];
	}
	if (first == NULL)
		return;
	pthread_mutex_lock(&m->lock);
	error_set(&m->error, ERROR_CONFIG, "%s: %s", first->object, first->message);
	if (first->fix != NULL)
		error_set_hint(&m->error, "%s", first->fix);
	pthread_mutex_unlock(&m->lock);
}

void
phase_keep_catalog(Migration *m, Catalog *catalog)
{
	pthread_mutex_lock(&m->lock);
	Catalog *old = m->catalog;
	m->catalog = catalog;
	pthread_mutex_unlock(&m->lock);
	if (old == NULL)
		return;
	m->old_catalogs = mem_realloc(m->old_catalogs, sizeof(Catalog *) * (m->old_count + 1));
	m->old_catalogs[m->old_count++] = old;
}

static CheckOptions
check_options(const Migration *m, const Selection *selection)
{
	const Config *config = m->config;

	return (CheckOptions){
		.online = migration_online(m),
		.schema_copy = config->schema_copy,
		.replica_identity = config->replica_identity,
		.no_owner = config->no_owner,
		.no_security_labels = config->no_security_labels,
		.failback = config->failback,
		.listens = config->listen.address_count > 0,
		.auth_file = config->listen.auth_file != NULL,
		.name = config->name,
		.log_directory = config->state_dir,
		.resuming = m->ledger.id[0] != '\0',
		.selection = *selection,
	};
}

bool
phase_check_selection(Migration *m, const Selection *selection, Catalog **catalog, Error *err)
{
	CheckOptions options = check_options(m, selection);
	Findings *findings = findings_new();
	bool ok = check_run(m->source, m->target, m->config->source, &options, findings, catalog, err);

	for (size_t i = 0; ok && i < findings->count; i++) {
		const Finding *finding = &findings->items[i];
		if (finding->severity != FINDING_BLOCKER)
			continue;
		log_finding(finding);
		ok = error_set(err, ERROR_CONFIG, "%s: %s", finding->object, finding->message);
		if (finding->fix != NULL)
			error_set_hint(err, "%s", finding->fix);
	}
	if (ok && *catalog == NULL)
		ok = error_set(err, ERROR_BUG, "the check did not read the catalogue");
	findings_free(findings);
	if (!ok) {
		catalog_free(*catalog);
		*catalog = NULL;
	}
	return ok;
}

bool
phase_check(Migration *m, bool *blocked, Error *err)
{
	CheckOptions options = check_options(m, &m->selection);
	Findings *findings = findings_new();
	Catalog *catalog = NULL;
	Way way = way_forth(m);
	OurSessions ours = way_our_sessions(&way);

	if (m->listener != NULL)
		options.ours = &ours;
	migration_set_detail(m, "checking both servers");
	bool ok = check_run(m->source, m->target, m->config->source, &options, findings, &catalog, err);
	if (ok) {
		*blocked = findings_count(findings, FINDING_BLOCKER) > 0;
		report_blockers(m, findings);
		if (catalog == NULL && !*blocked)
			ok = error_set(err, ERROR_BUG, "the check did not read the catalogue");
	}
	findings_free(findings);
	if (ok && !*blocked)
		phase_keep_catalog(m, catalog);
	else
		catalog_free(catalog);
	return ok;
}

/* ---- copy ---- */

static void
show_build(Migration *m, Build *build)
{
	pthread_mutex_lock(&m->lock);
	m->build = build;
	pthread_mutex_unlock(&m->lock);
}

/* What is recorded there is done there, and nothing but that is: WAL has an order. An addition's turn is
 * recorded at its beginning and at its end; in between only a start sees what of it is there. */
static bool
has_come_to(Migration *m, MigrationState wanted, uint32_t timeline, Error *err)
{
	char recorded[32];
	MigrationState at;
	int64_t turn;

	if (!ledger_get_state(m->target, &m->ledger, recorded, err) ||
	    !ledger_apart_turn(m->target, &m->ledger, &turn, err))
		return false;
	bool come = migration_state_parse(recorded, &at) && at >= wanted;
	bool whole = turn >= m->apart.turn && !addition_is_on(m);
	if (come && whole)
		return true;
	error_set(err, ERROR_CONFIG,
	          "the target is on timeline %u now, and lacks what was done on timeline %u last: its "
	          "migration is %s, not %s%s",
	          timeline, atomic_load(&m->target_timeline), recorded, migration_state_name(wanted),
	          whole ? "" : " with all tables that were added or copied afresh");
	return error_set_hint(err, "stop pgbaton and start it again: it goes on from what that server "
	                           "has");
}

bool
phase_settle_target(Migration *m, MigrationState state, Error *err)
{
	uint32_t now;
	bool other;

	if (!migration_look_at_target(m, &now, &other, err))
		return false;
	if (!other)
		return true;
	/* What it lacks of the copy is copied, and built, again. */
	bool ok = state == STATE_COPYING ? ledger_sync_tables(m->target, &m->ledger, m->catalog, err)
	                                 : has_come_to(m, state, now, err);
	if (ok)
		atomic_store(&m->target_timeline, now);
	return ok;
}

/* What was copied beside a stream that is lost would be copied for nothing. Begun anew by a resume. */
static bool
has_stream(Migration *m, Error *err)
{
	Way way = way_forth(m);

	if (!migration_online(m))
		return true;
	if (m->log == NULL || m->receiver == NULL)
		return phase_prepare(m, err);
	if (!way_failed(&way, err))
		return true;
	phase_stop_stream(m);
	return false;
}

/* The rows, with the indexes as tables fill, and the large objects. */
static bool
copy_all(Migration *m, const Stop *stop, Error *err)
{
	CopyOptions options = {
		.source = m->config->source,
		.target = m->config->target,
		.ledger = &m->ledger,
		.catalog = m->catalog,
		.jobs = m->config->jobs,
		.one_snapshot = !migration_online(m),
		.split_above = m->config->split_above,
		.log = m->log,
		.throttle = m->throttle,
		.workers = &m->workers,
		.stop = stop,
	};
	SchemaWork work = migration_schema_work(m);

	work.stop = stop;
	options.build = build_open(&work, m->config->schema_copy, err);
	if (options.build == NULL)
		return false;
	show_build(m, options.build);
	FAULT_POINT("copy_begin");
	bool ok = copy_tables(&options, err);
	if (ok) {
		FAULT_POINT("copy_rows");
		ok = build_finish(options.build, err) && large_objects_copy(m, err) &&
		     migration_same_target(m, err);
	}
	show_build(m, NULL);
	build_close(options.build);
	return ok;
}

bool
phase_copy(Migration *m, Error *err)
{
	m->fresh = false;
	if (!has_stream(m, err) || !phase_settle_target(m, STATE_COPYING, err))
		return false;
	migration_set_detail(m, "rows and indexes");
	CopyWatch *watch = copy_watch_begin(m, err);
	bool ok = watch != NULL && copy_all(m, copy_watch_stop(watch), err);
	if (watch != NULL)
		ok = copy_watch_end(watch, err) && ok;
	return ok;
}

bool
phase_offline_end(Migration *m, Error *err)
{
	SchemaWork work = migration_schema_work(m);
	Way way = way_forth(m);
	Buffer restore = BUFFER_INIT;
	size_t count;

	/* Nothing that is recorded tells the copy's end from its beginning. */
	if (!phase_settle_target(m, STATE_FINISHED, err))
		return false;
	migration_set_detail(m, "constraints, triggers, sequences");
	/* What the event triggers that came just now would write because of the rest of it would be rows
	 * that the source does not have. */
	bool ok = (!m->config->schema_copy || (schema_rest_locking(&work, err) &&
	                                       target_prepare(m->target, &m->ledger, m->catalog, err) &&
	                                       schema_rest_validate(&work, err))) &&
	          target_set_sequences(m->source, m->target, m->catalog, m->config->sequence_margin,
	                               &count, err) &&
	          target_refresh_matviews(m->target, m->catalog, err) &&
	          (m->config->verify == VERIFY_OFF ||
	           (verify_tables(m->source, m->target, m->catalog, m->config->verify_kind, false,
	                          err) &&
	            large_objects_verify(&way, NULL, false, err))) &&
	          target_restore_sql(m->target, &m->ledger, &restore, err) &&
	          (restore.len == 0 || sql_exec(m->target, err, buffer_cstr(&restore)));
	buffer_free(&restore);
	return ok && cleanup_all(m, true, err);
}

/* ---- catch up ---- */

bool
phase_start_applier(Migration *m, Error *err)
{
	Way way = way_forth(m);

	Applier *applier = way_start_applier(&way, m->log, m->start, err);
	if (applier == NULL)
		return false;
	pthread_mutex_lock(&m->lock);
	m->applier = applier;
	bool following = m->state == STATE_FOLLOWING;
	pthread_mutex_unlock(&m->lock);
	applier_allow_early(applier, following);
	m->paused = false;
	return true;
}

/* Short locks on the target's tables, between two batches; foreign keys then are checked
 * beside the apply. */
static bool
rest_of_schema(Migration *m, Error *err)
{
	SchemaWork work = migration_schema_work(m);

	if (!m->config->schema_copy)
		return true;
	migration_set_detail(m, "foreign keys and triggers");
	if (!applier_pause(m->applier, 0, err))
		return false;
	bool ok = schema_rest_locking(&work, err) &&
	          target_prepare(m->target, &m->ledger, m->catalog, err);
	applier_resume(m->applier);
	if (!ok)
		return false;
	FAULT_POINT("catch_up_rest");
	migration_set_detail(m, "checking foreign keys");
	return schema_rest_validate(&work, err);
}

static bool
wait_for_small_lag(Migration *m, Error *err)
{
	int64_t next_look_ms = 0;

	for (;;) {
		MigrationStatus now;
		Way way = way_forth(m);

		if (!migration_keep_target(m, &next_look_ms, err))
			return false;

		migration_follow_pause(m);
		migration_status(m, &now);
		if (way_failed(&way, err))
			return false;
		if (now.applied_bytes < FOLLOWING_LAG_BYTES && now.received_bytes < FOLLOWING_LAG_BYTES)
			return true;
		if (!stop_sleep_ms(m->stop, 20, err))
			return false;
	}
}

/* Once: a restart need not wait for it again. */
static bool
fill_matviews(Migration *m, Error *err)
{
	static const char step[] = "matviews";
	Buffer sql = BUFFER_INIT;
	bool done;

	if (!ledger_step_done(m->target, &m->ledger, step, &done, err))
		return false;
	if (done)
		return true;
	migration_set_detail(m, "materialised views");
	if (!target_refresh_matviews(m->target, m->catalog, err))
		return false;
	ledger_step_sql(&m->ledger, step, &sql);
	bool ok = sql_exec(m->target, err, buffer_cstr(&sql));
	buffer_free(&sql);
	return ok;
}

void
phase_prepare_fence(Migration *m)
{
	SourceSetup setup = migration_source_setup(m);
	Error err = ERROR_INIT;

	migration_set_detail(m, "fence triggers (off until the cutover)");
	if (!source_fence_prepare(&setup, &err) && err.class != ERROR_CANCELLED)
		log_failure(LOG_WARNING, "fence", &err);
}

/* After a failure and resume: what has failed is begun anew, from what log and ledger say. */
static bool
revive_stream(Migration *m, Error *err)
{
	Error failure = ERROR_INIT;
	Way way = way_forth(m);

	/* Without a log: an earlier revival got no further than stopping it. */
	if (m->log != NULL && m->receiver != NULL && !way_failed(&way, &failure))
		return true;
	phase_stop_stream(m);
	return phase_prepare(m, err);
}

static bool
drain_copies(Migration *m, const Way *way, Error *err)
{
	enum { LOOK_AFTER_MS = 1000 };
	char marker[WAY_MARKER_SIZE];
	int64_t next_look_ms = 0;

	if (!way_send_marker(way, marker, err))
		return false;
	while (!way_wait_marker(way, marker, deadline_in_ms(LOOK_AFTER_MS), true, err)) {
		if (err->class != ERROR_TIMEOUT)
			return false;
		error_clear(err);
		if (!migration_keep_target(m, &next_look_ms, err))
			return false;
	}
	return true;
}

bool
phase_catch_up(Migration *m, Error *err)
{
	migration_set_detail(m, "applying changes since the copy");
	if (!revive_stream(m, err))
		return false;
	if (m->applier == NULL && !phase_start_applier(m, err))
		return false;

	/* Past this marker every table's snapshot lies behind, so that the tables agree with
	 * each other and foreign keys can be checked. */
	Way way = way_forth(m);
	if (!drain_copies(m, &way, err) || !rest_of_schema(m, err))
		return false;
	if (!fill_matviews(m, err))
		return false;
	phase_prepare_fence(m);
	/* With tables that are not in yet it has to wait: their end sees to it (addition.c). */
	if (way_back_wanted(m) && !addition_is_on(m) && !way_back_prepare(m, err))
		return false;
	migration_set_detail(m, "applying changes since the copy");
	return wait_for_small_lag(m, err) && migration_same_target(m, err);
}

void
phase_stop_stream(Migration *m)
{
	addition_stop(m);
	pthread_mutex_lock(&m->lock);
	Receiver *receiver = m->receiver;
	Applier *applier = m->applier;
	TxLog *log = m->log;
	migration_stream_states(m, &m->last_log, &m->last_receiver, &m->last_applier);
	m->last_receiver.connected = m->last_receiver.failed = false;
	m->last_receiver.error = m->last_applier.error = (Error)ERROR_INIT;
	m->last_applier.phase = APPLIER_RUNNING;
	m->receiver = NULL;
	m->applier = NULL;
	m->log = NULL;
	pthread_mutex_unlock(&m->lock);

	monitor_stop(m->monitor);
	m->monitor = NULL;
	progress_stop(m->progress);
	m->progress = NULL;
	/* The applier first: it reports to the receiver; both use the log. */
	if (applier != NULL)
		applier_stop(applier);
	if (receiver != NULL)
		receiver_stop(receiver);
	if (log != NULL)
		txlog_close(log);
}
