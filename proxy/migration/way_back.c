/*
 * The way back (K5): after the switch the old source follows the target, until finish.
 *
 * It is the way forth once more, from the other side: publication, slot, receiver, a log of its
 * own, an applier whose progress rows lie on the source. Off by default: it wants logical
 * WAL and a slot on the target, and WAL kept there when the old source is away.
 *
 * Loops cannot occur. Only one direction ever streams: the way forth is stopped, and its slot
 * dropped, before the way back starts. And the way back starts behind everything that the way
 * forth has applied: the switch's transaction, which runs when all of that is committed on all
 * lanes and nobody else writes yet, records the end of the target's WAL; START_REPLICATION
 * there makes the server pass over every commit before it. That works on every version, needs
 * no origins on the lanes (P6) and no right to make them. The slot is made before the hold
 * (arm), since making it waits for running transactions, and it may stand anywhere before
 * that position.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/schema/target.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/migration/internal.h"

enum {
	RETRY_FIRST_MS = 500,
	RETRY_MOST_MS = 15000,
	LOG_WARN_BYTES = 1 << 30,
	WARN_EVERY_MS = 60000
};

bool
way_back_wanted(const Migration *m)
{
	return m->config->failback && migration_online(m);
}

/* ---- prepared beside the apply ---- */

/* Exactly the tables of the way forth, of which a start may find more on the source: what else is on
 * the target is none of ours. */
static Catalog *
read_catalog(Migration *m, Error *err)
{
	const Catalog *forth = m->catalog;
	const char **names = mem_alloc(sizeof(char *) * (forth->table_count + 1));
	size_t count = 0;

	for (size_t i = 0; i < forth->table_count; i++)
		if (atomic_load(&forth->tables[i].state) != TABLE_QUEUED)
			names[count++] = forth->tables[i].qualified;
	Selection selection = {
		.lists[INCLUDE_TABLE] = {names, count},
		.large_objects = forth->moves_large_objects ? LARGE_OBJECTS_COPY : LARGE_OBJECTS_SKIP,
	};
	Catalog *catalog = count > 0
	                       ? catalog_read_source(m->target, &selection, m->back.ledger.name, err)
	                       : NULL;
	free(names);
	if (count == 0)
		error_set(err, ERROR_CONFIG, "there is no table to go back");
	if (catalog != NULL && !catalog_match_target(catalog, m->source, err)) {
		catalog_free(catalog);
		catalog = NULL;
	}
	if (catalog == NULL)
		error_add_context(err, "the way back");
	return catalog;
}

static bool
renew_catalog(Migration *m, Error *err)
{
	Catalog *catalog = read_catalog(m, err);

	if (catalog == NULL)
		return false;
	catalog_free(m->back.catalog);
	m->back.catalog = catalog;
	return true;
}

static bool
make_ledger(Migration *m, const char *name, Ledger *ledger, Error *err)
{
	char *what = mem_printf("schema %s", name);
	char *undo = mem_printf("DROP SCHEMA IF EXISTS \"%s\" CASCADE", name);

	snprintf(ledger->name, sizeof(ledger->name), "%s", name);
	snprintf(ledger->id, sizeof(ledger->id), "%s", m->ledger.id);
	snprintf(ledger->mode, sizeof(ledger->mode), "%s", m->ledger.mode);
	ledger->lanes = m->ledger.lanes;
	bool ok = ledger_record(m->target, &m->ledger, "source", "schema", what, undo, err) &&
	          sql_value(m->target, err, ledger->source_db, sizeof(ledger->source_db),
	                    "SELECT current_database()") &&
	          sql_value(m->target, err, ledger->system_id, sizeof(ledger->system_id),
	                    "SELECT system_identifier::text FROM pg_control_system()") &&
	          ledger_create(m->source, ledger, err);
	free(what);
	free(undo);
	return ok;
}

/* Where the progress of the way back, and its journal, are kept: on the source. */
static bool
open_ledger(Migration *m, bool may_make, Error *err)
{
	Ledger ledger = {.lanes = 0};
	char name[64];
	bool exists;

	if (m->back.ledger.id[0] != '\0')
		return true;
	ledger_back_name(m->ledger.name, name);
	if (!ledger_exists(m->source, name, &exists, err))
		return false;
	if (exists ? !ledger_load(m->source, name, &ledger, err)
	           : may_make && !make_ledger(m, name, &ledger, err))
		return false;
	if (strcmp(ledger.id, m->ledger.id) != 0) {
		error_set(err, ERROR_CONFIG, "schema %s on the source is %s", name,
		          exists ? "of another migration" : "gone: there is no way back any more");
		return error_set_hint(
			err, exists ? "remove it (DROP SCHEMA ... CASCADE) or choose another --name"
						: "`pgbaton finish` ends the migration");
	}
	m->back.ledger = ledger;
	return true;
}

/* The same order as on the source (C1): with a publication and no identity, updates fail. After an
 * addition once more: no slot reads the publication before a switch arms it, so a table may come
 * into it at any time until then. */
bool
way_back_prepare(Migration *m, Error *err)
{
	migration_set_detail(m, "the way back: identities, publication, fence (off)");
	if (!open_ledger(m, true, err) || !renew_catalog(m, err))
		return false;
	Way way = way_back(m);
	SourceSetup setup = way_setup(&way);
	bool ok = source_setup_identities(&setup, err) && source_setup_publication(&setup, err) &&
	          source_extend_publication(&setup, false, err) && source_fence_prepare(&setup, err) &&
	          ledger_way_back_create(m->target, &m->ledger, err);
	FAULT_POINT("way_back_prepared");
	return ok || error_add_context(err, "preparing the way back on the target");
}

/* ---- around the switch ---- */

bool
way_back_arm(Migration *m, Error *err)
{
	Way way = way_back(m);
	SourceSetup setup = way_setup(&way);
	bool created;
	Lsn start;

	bool ok = source_check_publication(m->target, way.ledger, way.catalog, err) &&
	          source_setup_slot(&setup, &created, &start, err);
	FAULT_POINT("way_back_armed");
	return ok || error_add_context(err, "the way back on the target");
}

bool
way_back_disarm(Migration *m, Error *err)
{
	return ledger_undo(m->target, m->target, &m->ledger, "target", "slot", err);
}

bool
way_back_load(Migration *m, Error *err)
{
	Lsn start;

	if (!ledger_way_back_start(m->target, &m->ledger, &start, err))
		return false;
	pthread_mutex_lock(&m->lock);
	m->back.loaded = true;
	m->back.start = start;
	if (!lsn_valid(start))
		m->back.state = WAY_BACK_NONE;
	else if (m->back.state == WAY_BACK_NONE)
		m->back.state = WAY_BACK_STARTING;
	pthread_mutex_unlock(&m->lock);
	return true;
}

bool
way_back_fenced(Migration *m, bool *fenced, Error *err)
{
	Ledger ledger = {.lanes = 0};

	ledger_back_name(m->ledger.name, ledger.name);
	return source_fence_state(m->target, &ledger, fenced, err);
}

bool
way_back_open(Migration *m, Error *err)
{
	return open_ledger(m, false, err);
}

/* ---- after it ---- */

static void
set_state(Migration *m, WayBackState state, const Error *err)
{
	pthread_mutex_lock(&m->lock);
	m->back.state = state;
	m->back.error = err != NULL ? *err : (Error)ERROR_INIT;
	pthread_mutex_unlock(&m->lock);
}

/* What the way forth needed is in the way of the way back: its slot would keep the WAL of
 * what is applied here. */
static bool
drop_old_slot(Migration *m, Error *err)
{
	return ledger_undo(m->target, m->source, &m->ledger, "source", "slot", err);
}

/* After a restart the catalogues were not read yet. */
static bool
read_catalogs(Migration *m, Error *err)
{
	if (m->catalog == NULL) {
		Catalog *catalog = catalog_read_source(m->source, &m->selection, m->ledger.name, err);
		/* Their states are for the status alone. */
		if (catalog == NULL || !ledger_sync_tables(m->target, &m->ledger, catalog, err)) {
			catalog_free(catalog);
			return false;
		}
		pthread_mutex_lock(&m->lock);
		m->catalog = catalog;
		pthread_mutex_unlock(&m->lock);
	}
	return renew_catalog(m, err);
}

/* The source's own triggers that would fire for the lanes rest, and the fence, which lets
 * only the lanes through, stays on. */
static bool
ready_source(Migration *m, Error *err)
{
	Way way = way_back(m);
	SourceSetup setup = way_setup(&way);
	Book book = way_book_to(&way);

	return source_setup_identities(&setup, err) &&
	       source_check_publication(m->target, way.ledger, way.catalog, err) &&
	       target_prepare_booked(m->source, &book, way.catalog, err);
}

static bool
open_log(Migration *m, Error *err)
{
	char *directory = mem_printf("%s/log_back", m->config->state_dir);
	TxLogOptions options = {
		.directory = directory,
		.identity = m->ledger.id,
		.max_bytes = m->config->log_max_bytes,
		.compress = m->config->log_compress,
	};
	TxLog *log = txlog_open(&options, err);

	free(directory);
	pthread_mutex_lock(&m->lock);
	m->back.log = log;
	pthread_mutex_unlock(&m->lock);
	return log != NULL;
}

static bool
start_stream(Migration *m, Error *err)
{
	Way way = way_back(m);

	way.receiver = way_start_receiver(&way, m->back.log, m->back.start, err);
	pthread_mutex_lock(&m->lock);
	m->back.receiver = way.receiver;
	pthread_mutex_unlock(&m->lock);
	if (way.receiver == NULL)
		return false;
	m->back.monitor = monitor_start(&way, &m->back.slot, &m->back.from_lsn);
	way.applier = way_start_applier(&way, m->back.log, m->back.start, err);
	pthread_mutex_lock(&m->lock);
	m->back.applier = way.applier;
	pthread_mutex_unlock(&m->lock);
	return way.applier != NULL;
}

static bool
start(Migration *m, Error *err)
{
	bool ok = migration_connect(m, err) && open_ledger(m, false, err) && drop_old_slot(m, err) &&
	          read_catalogs(m, err) && ready_source(m, err) && open_log(m, err) &&
	          start_stream(m, err);

	if (!ok)
		way_back_stop(m);
	FAULT_POINT("way_back_started");
	return ok;
}

/* The log's own hint is to cancel and begin again, which nobody can who has switched; and the usual
 * reason is another --state-dir. */
static void
set_failed(Migration *m, Error *err)
{
	if (err->class == ERROR_STORAGE)
		error_set_hint(err,
		               "start with the --state-dir that was used before if this is another one; "
		               "`pgbaton resume` tries again once the disk is in order, `pgbaton "
		               "finish` gives the way back up");
	log_failure(LOG_ERROR, "way back", err);
	set_state(m, WAY_BACK_FAILED, err);
}

static void
try_start(Migration *m)
{
	Error err = ERROR_INIT;

	if (clock_mono_ms() < m->back.next_try_ms)
		return;
	if (start(m, &err)) {
		m->back.pause_ms = 0;
		set_state(m, WAY_BACK_FOLLOWING, NULL);
		log_info("way back", "the old source follows the target from %s on",
		         LSN_STR(m->back.start));
		return;
	}
	if (stop_requested(m->stop))
		return;
	bool again = migration_is_retryable(&err) || err.class == ERROR_TIMEOUT;
	if (again) {
		log_failure(LOG_WARNING, "way back", &err);
		set_state(m, WAY_BACK_STARTING, &err);
	} else {
		set_failed(m, &err);
	}
	m->back.pause_ms = m->back.pause_ms == 0 ? RETRY_FIRST_MS : m->back.pause_ms * 2;
	if (m->back.pause_ms > RETRY_MOST_MS)
		m->back.pause_ms = RETRY_MOST_MS;
	m->back.next_try_ms = clock_mono_ms() + clock_jitter_ms(m->back.pause_ms);
}

/* An old source that is away costs room: here, or on the target once the log is at its
 * limit. Nobody's application waits for it, so nothing but a warning comes of it. */
static void
warn_of_log(Migration *m, int64_t *next_ms)
{
	TxLogState log;
	ReceiverState receiver;

	if (clock_mono_ms() < *next_ms)
		return;
	txlog_state(m->back.log, &log);
	receiver_state(m->back.receiver, &receiver);
	if (log.bytes_on_disk < LOG_WARN_BYTES && !receiver.held_by_log)
		return;
	*next_ms = clock_mono_ms() + WARN_EVERY_MS;
	log_warning(
		"way back",
		"%llu bytes wait in %s/log_back for the old source%s; `pgbaton finish` gives the way "
		"back up",
		(unsigned long long)log.bytes_on_disk, m->config->state_dir,
		receiver.held_by_log ? ": --log-max-bytes is reached, the target keeps its WAL" : "");
}

/* Right after the switch. */
static bool
load_in_time(Migration *m)
{
	Error err = ERROR_INIT;

	if (m->back.loaded)
		return true;
	if (clock_mono_ms() < m->back.next_try_ms)
		return false;
	if (migration_connect_target(m, &err) && way_back_load(m, &err))
		return true;
	log_failure(LOG_WARNING, "way back", &err);
	m->back.next_try_ms = clock_mono_ms() + RETRY_FIRST_MS;
	return false;
}

void
way_back_tend(Migration *m)
{
	Error err = ERROR_INIT;
	Way way = way_back(m);

	if (!load_in_time(m))
		return;
	if (m->back.state == WAY_BACK_STARTING) {
		try_start(m);
	} else if (m->back.state == WAY_BACK_FOLLOWING) {
		warn_of_log(m, &m->back.next_warning_ms);
		if (!way_failed(&way, &err))
			return;
		error_add_context(&err, "the way back");
		way_back_stop(m);
		set_failed(m, &err);
	}
}

bool
way_back_may_come(const Migration *m)
{
	/* Not asked for yet: right after the switch, or a start. */
	if (!m->back.loaded)
		return m->config->failback;
	return m->back.state == WAY_BACK_FOLLOWING ||
	       (m->back.state == WAY_BACK_STARTING && m->back.error.class == ERROR_NONE);
}

bool
way_back_refused(const Migration *m, Error *err)
{
	if (m->back.state == WAY_BACK_NONE) {
		error_set(err, ERROR_CONFIG, "this migration has no way back");
		return error_set_hint(err, "it was started without --failback");
	}
	error_set(err, ERROR_CONFIG, "the old source does not follow the target now: %s",
	          m->back.error.class != ERROR_NONE ? m->back.error.message : "it is starting");
	return error_set_hint(err, "see way_back in `pgbaton status --json`; `pgbaton resume` tries "
	                           "again after a failure");
}

bool
way_back_await(Migration *m, Error *err)
{
	enum { LOOK_EVERY_MS = 50, MOST_MS = 60000 };
	int64_t end_ms = clock_mono_ms() + MOST_MS;

	while (way_back_may_come(m) && m->back.state != WAY_BACK_FOLLOWING &&
	       clock_mono_ms() < end_ms) {
		if (!stop_sleep_ms(m->cutover_stop, LOOK_EVERY_MS, NULL))
			return error_set(err, ERROR_CANCELLED, "given up before it began, as asked");
		way_back_tend(m);
	}
	return m->back.state == WAY_BACK_FOLLOWING || way_back_refused(m, err);
}

void
way_back_retry(Migration *m)
{
	if (m->back.state == WAY_BACK_FAILED)
		set_state(m, WAY_BACK_STARTING, NULL);
	m->back.next_try_ms = 0;
}

void
way_back_lost(Migration *m, const Error *err)
{
	log_failure(LOG_ERROR, "way back", err);
	way_back_stop(m);
	set_state(m, WAY_BACK_FAILED, err);
}

void
way_back_stop(Migration *m)
{
	pthread_mutex_lock(&m->lock);
	Receiver *receiver = m->back.receiver;
	Applier *applier = m->back.applier;
	TxLog *log = m->back.log;
	m->back.receiver = NULL;
	m->back.applier = NULL;
	m->back.log = NULL;
	pthread_mutex_unlock(&m->lock);

	monitor_stop(m->back.monitor);
	m->back.monitor = NULL;
	if (applier != NULL)
		applier_stop(applier);
	if (receiver != NULL)
		receiver_stop(receiver);
	if (log != NULL)
		txlog_close(log);
}

void
way_back_end(Migration *m)
{
	way_back_stop(m);
	set_state(m, WAY_BACK_NONE, NULL);
}

/* ---- for the status ---- */

static uint64_t
distance(Lsn from, Lsn to)
{
	return to.v > from.v ? to.v - from.v : 0;
}

void
way_back_status(Migration *m, WayBackStatus *out)
{
	*out = (WayBackStatus){.state = m->back.state,
	                       .slot = m->back.slot,
	                       .target_lsn = m->back.from_lsn,
	                       .error = m->back.error};
	if (m->back.log == NULL || m->back.receiver == NULL || m->back.applier == NULL)
		return;
	txlog_state(m->back.log, &out->log);
	receiver_state(m->back.receiver, &out->receiver);
	applier_state(m->back.applier, &out->applier);
	out->received_bytes = distance(out->receiver.received,
	                               lsn_max(out->target_lsn, out->receiver.server_end));
	if (lsn_cmp(out->log.last_commit, out->applier.applied_commit) > 0)
		out->applied_bytes = distance(lsn_max(out->applier.applied_end, m->back.start),
		                              out->log.last_end);
	if (out->error.class == ERROR_NONE && out->applier.phase == APPLIER_RETRYING)
		out->error = out->applier.error;
	if (out->error.class == ERROR_NONE && !out->receiver.connected)
		out->error = out->receiver.error;
}
