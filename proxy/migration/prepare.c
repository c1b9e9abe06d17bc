/*
 * PREPARING: what has to be there before the first row is copied: the ledger, the dump, the
 * publication and the slot, the log and who fills it, the definitions on the target. As every phase
 * it can be run again, and recognises what is done.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "apply/lane/cores.h"
#include "apply/schema/target.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/migration/internal.h"

/* ---- the log and the receiver ---- */

static bool
has_log_segments(const char *directory)
{
	DIR *dir = opendir(directory);
	struct dirent *entry;
	bool found = false;

	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		const char *dot = strrchr(entry->d_name, '.');
		if (dot != NULL && strcmp(dot, ".log") == 0)
			found = true;
	}
	if (dir != NULL)
		closedir(dir);
	return found;
}

/*
 * With confirm = logged the log is the only copy of what the source has recycled. A log that
 * is not there any more is lost transactions, unless nothing was confirmed from it.
 */
static bool
open_log(Migration *m, bool slot_created, Error *err)
{
	char *directory = mem_printf("%s/log", m->config->state_dir);
	TxLogOptions options = {
		.directory = directory,
		.identity = m->ledger.id,
		.max_bytes = m->config->log_max_bytes,
		.compress = m->config->log_compress,
	};
	TxLog *log = NULL;

	if (mkdir(m->config->state_dir, 0700) != 0 && errno != EEXIST) {
		error_set_errno(err, ERROR_STORAGE, errno, "state directory %s", m->config->state_dir);
	} else if (!slot_created && !m->fresh && m->config->confirm == CONFIRM_LOGGED &&
	           !has_log_segments(directory)) {
		error_set(err, ERROR_STORAGE,
		          "%s holds no transaction log, but migration \"%s\" has logged and confirmed "
		          "changes: they exist nowhere else any more",
		          directory, m->ledger.name);
		error_set_hint(err, "start with the --state-dir that was used before; if it is gone, "
		                    "run `pgbaton cancel` and begin again");
	} else {
		log = txlog_open(&options, err);
	}
	free(directory);
	if (log == NULL)
		return false;
	pthread_mutex_lock(&m->lock);
	m->log = log;
	pthread_mutex_unlock(&m->lock);
	return true;
}

/* It looks at the source's timeline, and what it finds good is noted for good. */
static bool
start_receiver(Migration *m, Error *err)
{
	Way way = way_forth(m);

	if (!ledger_note_copied(m->target, &m->ledger, m->catalog, err))
		return false;
	Receiver *receiver = way_start_receiver(&way, m->log, m->start, err);
	if (receiver == NULL)
		return false;
	pthread_mutex_lock(&m->lock);
	m->receiver = receiver;
	pthread_mutex_unlock(&m->lock);
	return true;
}

/* ---- the source ---- */

/* The slot that a migration in progress must find: without it the changes are lost. */
static bool
slot_must_exist(Migration *m, Error *err)
{
	SlotHealth slot;

	if (!source_slot_health(m->source, &m->ledger, &slot, err))
		return false;
	if (slot.exists && !slot.lost)
		return true;
	if (!slot.exists)
		error_set(err, ERROR_CONFIG,
		          "replication slot \"%s\" is gone from the source: the "
		          "changes since are lost",
		          m->ledger.name);
	else
		error_set(err, ERROR_CONFIG,
		          "replication slot \"%s\" was invalidated by the source "
		          "(%s): the changes since are lost",
		          m->ledger.name, slot.why);
	return error_set_hint(err, "this migration cannot go on: run `pgbaton cancel` and begin "
	                           "again; see max_slot_wal_keep_size on the source");
}

/* The status shows it. */
static void
set_start(Migration *m, Lsn start)
{
	pthread_mutex_lock(&m->lock);
	m->start = start;
	pthread_mutex_unlock(&m->lock);
}

static bool
prepare_source(Migration *m, bool *slot_created, Error *err)
{
	SourceSetup setup = migration_source_setup(m);
	Lsn start = m->start;

	*slot_created = false;
	if (!m->fresh) {
		migration_set_detail(m, "checking slot and publication");
		bool ok = slot_must_exist(m, err) && source_setup_identities(&setup, err) &&
		          addition_publish(m, err) && source_trim_publication(&setup, err) &&
		          source_check_publication(m->source, &m->ledger, m->catalog, err) &&
		          ledger_get_start(m->target, &m->ledger, &start, err);
		set_start(m, start);
		return ok;
	}

	migration_set_detail(m, "replica identities");
	if (!source_setup_identities(&setup, err))
		return false;
	FAULT_POINT("prepare_identities");
	migration_set_detail(m, "publication");
	if (!source_setup_publication(&setup, err))
		return false;
	FAULT_POINT("prepare_publication");
	migration_set_detail(m, "replication slot (waits for running transactions)");
	if (!source_setup_slot(&setup, slot_created, &start, err))
		return false;
	set_start(m, start);
	FAULT_POINT("prepare_slot");
	return ledger_set_start(m->target, &m->ledger, m->start, err);
}

/* ---- the target ---- */

/* Of a new migration. One that goes on keeps the recorded number unless another is given: a
 * change costs levelling, and the target may have been given other cores for other reasons. */
static bool
choose_lanes(Migration *m, int *lanes, Error *err)
{
	int cores;

	*lanes = m->config->lanes;
	if (*lanes > 0)
		return true;
	if (!cores_of_target(m->target, &cores, err))
		return false;
	*lanes = cores_lanes(cores);
	if (cores > 0)
		log_info("migration", "lanes: %d, for the target has %d cores", *lanes, cores);
	else
		log_info("migration", "lanes: %d; this user cannot see how many cores the target has",
		         *lanes);
	return true;
}

static bool
new_ledger(Migration *m, Ledger *ledger, Error *err)
{
	snprintf(ledger->name, sizeof(ledger->name), "%s", m->config->name);
	snprintf(ledger->system_id, sizeof(ledger->system_id), "%s", m->system_id);
	snprintf(ledger->mode, sizeof(ledger->mode), "%s", migration_online(m) ? "online" : "offline");
	return choose_lanes(m, &ledger->lanes, err) &&
	       sql_value(m->source, err, ledger->source_db, sizeof(ledger->source_db),
	                 "SELECT current_database()") &&
	       sql_value(m->target, err, ledger->id, sizeof(ledger->id),
	                 "SELECT gen_random_uuid()::text");
}

static bool
create_ledger(Migration *m, Error *err)
{
	Ledger ledger = {.lanes = 0};

	if (m->ledger.id[0] != '\0')
		return true;
	if (!new_ledger(m, &ledger, err))
		return false;
	if (!ledger_create(m->target, &ledger, err)) {
		/* Of a process that was killed while it made one the server's went on to the end. */
		if (!error_has_sqlstate(err, "42P06") && !error_has_sqlstate(err, "23505"))
			return false;
		error_clear(err);
		return phase_take_up(m, err);
	}
	if (!ledger_keep_selection(m->target, &ledger, &m->selection, err))
		return false;
	m->selection.recorded = true;
	pthread_mutex_lock(&m->lock);
	m->ledger = ledger;
	m->ledger.timeline = &m->target_timeline;
	pthread_mutex_unlock(&m->lock);
	return true;
}

/* The first time: later ones are phase_settle_target's. */
static bool
note_timeline(Migration *m, Error *err)
{
	uint32_t now = 0;
	bool other;

	if (atomic_load(&m->target_timeline) != 0)
		return true;
	bool ok = migration_look_at_target(m, &now, &other, err);
	atomic_store(&m->target_timeline, now);
	return ok;
}

static bool
prepare_schema(Migration *m, Error *err)
{
	SchemaWork work = migration_schema_work(m);

	if (m->config->schema_copy) {
		migration_set_detail(m, "schema: definitions");
		if (!schema_pre_data(&work, err))
			return false;
	}
	migration_set_detail(m, "matching tables and columns");
	return note_timeline(m, err) && catalog_match_target(m->catalog, m->target, err) &&
	       ledger_check_tables(m->target, &m->ledger, m->catalog, err) &&
	       target_prepare(m->target, &m->ledger, m->catalog, err) &&
	       ledger_sync_tables(m->target, &m->ledger, m->catalog, err);
}

static bool
dump_schema(Migration *m, Error *err)
{
	SchemaWork work = migration_schema_work(m);

	if (!m->config->schema_copy)
		return true;
	migration_set_detail(m, "schema: reading it from the source");
	return schema_dump(&work, err);
}

/* ---- all of it ---- */

static Monitor *
start_monitor(Migration *m)
{
	Way way = way_forth(m);

	return monitor_start(&way, &m->slot, &m->source_lsn);
}

bool
phase_prepare(Migration *m, Error *err)
{
	bool slot_created = false;

	if (!migration_connect(m, err) || !create_ledger(m, err))
		return false;
	if (m->fresh && !(migration_set_state(m, STATE_PREPARING, err) && dump_schema(m, err)))
		return false;
	if (migration_online(m)) {
		if (!prepare_source(m, &slot_created, err))
			return false;
		if (m->log == NULL && !open_log(m, slot_created, err))
			return false;
		if (m->receiver == NULL && !start_receiver(m, err))
			return false;
	}
	if (m->monitor == NULL)
		m->monitor = start_monitor(m);
	if (!prepare_schema(m, err))
		return false;
	if (m->progress == NULL)
		m->progress = progress_start(m);
	return true;
}
