/* The replication slot: made, watched, judged. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/setup/source_internal.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "protocol/replication.h"
#include "protocol/wire.h"

enum {
	SLOT_TIMEOUT_MS = 60000,
	WATCH_FIRST_MS = 1000,
	WATCH_EVERY_MS = 5000,
	UNFINISHED_PAUSE_MS = 200
};

/* ---- whom the slot waits for ---- */

/* Everything with an xid in the whole cluster: logical decoding can start only when
 * each transaction running at some moment has ended, prepared ones included. */
static bool
slot_blockers(Sql *sql, char *out, size_t size, Error *err)
{
	out[0] = '\0';
	PGresult *sessions = sql_query(
		sql, err,
		"SELECT " LOCKED_SESSION_COLUMNS ", a.datname FROM pg_catalog.pg_stat_activity a"
		" WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()"
		" ORDER BY a.xact_start LIMIT 5");
	if (sessions == NULL)
		return false;
	for (int i = 0; i < PQntuples(sessions); i++)
		locked_describe(sessions, i, out, size);
	PQclear(sessions);

	PGresult *prepared = sql_query(sql, err,
	                               "SELECT " LOCKED_PREPARED_COLUMNS
	                               " FROM pg_catalog.pg_prepared_xacts p"
	                               " ORDER BY p.prepared LIMIT 5");
	if (prepared == NULL)
		return false;
	locked_describe_prepared(prepared, out, size);
	PQclear(prepared);
	return true;
}

/* txid_...: the names that all majors have. Also prepared transactions hold xmin back. */
bool
source_wait_running(Sql *source, const Stop *stop, void (*on_wait)(void *arg, const char *blockers),
                    void *arg, Error *err)
{
	enum { LOOK_EVERY_MS = 50 };
	char until[32];
	char blockers[700];
	char query[160];
	char over[8];

	if (!sql_value(source, err, until, sizeof(until),
	               "SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())"))
		return false;
	snprintf(query, sizeof(query),
	         "SELECT pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot()) >= %s",
	         until);
	for (;;) {
		if (!sql_value(source, err, over, sizeof(over), query))
			return false;
		if (over[0] == 't')
			return true;
		if (!slot_blockers(source, blockers, sizeof(blockers), err))
			return false;
		on_wait(arg, blockers);
		if (!stop_sleep_ms(stop, LOOK_EVERY_MS, err))
			return false;
	}
}

/* The command runs in a thread of its own, so that this one can look around. */
typedef struct {
	Wire *wire;
	const char *name;
	int64_t deadline_ms;
	Lsn start;
	bool ok;
	Error error;
	Stop *done; /* requested when the command has ended */
} SlotMaker;

static void *
make_slot(void *arg)
{
	SlotMaker *maker = arg;

	maker->ok = replication_create_slot(maker->wire, maker->name, maker->deadline_ms, &maker->start,
	                                    &maker->error);
	stop_request(maker->done);
	return NULL;
}

static void
watch_slot(const SourceSetup *setup, SlotMaker *maker, char *blockers, size_t size)
{
	int64_t pause = WATCH_FIRST_MS;

	/* The user's stop ends the command itself (wire's stop), which ends this. */
	while (stop_sleep_ms(maker->done, pause, NULL)) {
		Error ignored = ERROR_INIT;
		pause = WATCH_EVERY_MS;
		if (!slot_blockers(setup->source, blockers, size, &ignored))
			return;
		log_info("setup", "the slot waits for running transactions to end: %s",
		         blockers[0] != '\0' ? blockers : "none is left");
	}
}

static bool
create_watched(const SourceSetup *setup, Wire *wire, Lsn *start, Error *err)
{
	int64_t timeout = setup->slot_timeout_ms > 0 ? setup->slot_timeout_ms : SLOT_TIMEOUT_MS;
	SlotMaker maker = {.wire = wire,
	                   .name = setup->ledger->name,
	                   .deadline_ms = deadline_in_ms(timeout),
	                   .error = ERROR_INIT,
	                   .done = stop_new()};
	pthread_t thread;
	char blockers[700] = "";

	int failed = pthread_create(&thread, NULL, make_slot, &maker);
	CHECK(failed == 0);
	watch_slot(setup, &maker, blockers, sizeof(blockers));
	pthread_join(thread, NULL);
	stop_free(maker.done);
	if (maker.ok) {
		*start = maker.start;
		return true;
	}
	if (maker.error.class == ERROR_TIMEOUT) {
		if (!slot_blockers(setup->source, blockers, sizeof(blockers), err))
			return false;
		error_set(err, ERROR_TIMEOUT,
		          "replication slot %s was not ready within %lld s; it waits "
		          "for: %s",
		          setup->ledger->name, (long long)(timeout / 1000),
		          blockers[0] != '\0' ? blockers : "transactions that have ended just now");
		return error_set_hint(err, "end those transactions (" LOCKED_ENDING
		                           ") or try again when they have ended");
	}
	if (err != NULL)
		*err = maker.error;
	if (error_has_sqlstate(err, "53400"))
		error_set_hint(err, "on the source: ALTER SYSTEM SET max_replication_slots = ...; restart");
	return error_add_context(err, "creating replication slot %s", setup->ledger->name);
}

static bool
create_slot(const SourceSetup *setup, Lsn *start, Error *err)
{
	const char *name = setup->ledger->name;
	WireOptions options = {.info = setup->source_info,
	                       .application_name = "pgbaton slot",
	                       .replication = true,
	                       .stop = setup->stop};
	char *what = mem_printf("replication slot %s", name);
	char *undo = mem_printf("SELECT pg_catalog.pg_drop_replication_slot(slot_name)"
	                        " FROM pg_catalog.pg_replication_slots WHERE slot_name = '%s'",
	                        name);
	bool ok = source_record(setup, "slot", what, undo, err);

	free(what);
	free(undo);
	if (!ok)
		return false;
	Wire *wire = wire_connect(&options, err);
	if (wire == NULL)
		return error_add_context(err, "source, replication connection");
	ok = create_watched(setup, wire, start, err);
	wire_close(wire);
	return ok;
}

/* A process that was killed while its slot was being made leaves a walsender that goes
 * on with it: the slot then exists without a confirmed position, and either becomes
 * whole (ours to use) or vanishes. */
static bool
wait_until_whole(const SourceSetup *setup, SlotHealth *health, Error *err)
{
	int64_t timeout = setup->slot_timeout_ms > 0 ? setup->slot_timeout_ms : SLOT_TIMEOUT_MS;
	int64_t deadline = deadline_in_ms(timeout);

	while (health->exists && !lsn_valid(health->confirmed)) {
		if (deadline_left_ms(deadline) == 0) {
			error_set(err, ERROR_TIMEOUT,
			          "replication slot %s on the source is still being "
			          "made by an earlier try",
			          setup->ledger->name);
			return error_set_hint(err,
			                      "SELECT pg_terminate_backend(active_pid) FROM "
			                      "pg_replication_slots WHERE slot_name = '%s'",
			                      setup->ledger->name);
		}
		if (!stop_sleep_ms(setup->stop, UNFINISHED_PAUSE_MS, err) ||
		    !source_slot_health(setup->source, setup->ledger, health, err))
			return false;
	}
	return true;
}

bool
source_setup_slot(const SourceSetup *setup, bool *created, Lsn *start, Error *err)
{
	SlotHealth health;

	*created = false;
	if (!source_slot_health(setup->source, setup->ledger, &health, err) ||
	    !wait_until_whole(setup, &health, err))
		return false;
	if (!health.exists) {
		*created = create_slot(setup, start, err);
		return *created;
	}
	if (health.lost) {
		error_set(err, ERROR_CONFIG, "replication slot %s on the source is useless: %s",
		          setup->ledger->name, health.why);
		return error_set_hint(err, "changes are lost: cancel this migration and start again");
	}
	*start = health.confirmed;
	return true;
}

/* ---- health ---- */

/* Columns came with the versions: wal_status 13, conflicting 16, invalidation_reason 17. */
static const char *
health_query(int version)
{
	if (version >= 170000)
		return "coalesce(invalidation_reason, CASE WHEN wal_status = 'lost' THEN wal_status END,"
			   " ''), safe_wal_size";
	if (version >= 160000)
		return "CASE WHEN conflicting THEN 'conflict with recovery'"
			   " WHEN wal_status = 'lost' THEN wal_status ELSE '' END, safe_wal_size";
	if (version >= 130000)
		return "CASE WHEN wal_status = 'lost' THEN wal_status ELSE '' END, safe_wal_size";
	return "'', NULL::bigint";
}

static bool
check_identity(const PGresult *rows, const Ledger *ledger, Error *err)
{
	if (sql_get_bool(rows, 0, 6))
		return true;
	error_set(err, ERROR_CONFIG,
	          "replication slot %s on the source belongs to plugin %s in database "
	          "%s",
	          ledger->name, PQgetvalue(rows, 0, 7), PQgetvalue(rows, 0, 8));
	return error_set_hint(err, "choose another --name");
}

bool
source_slot_health(Sql *source, const Ledger *ledger, SlotHealth *out, Error *err)
{
	memset(out, 0, sizeof(*out));
	out->safe_bytes = out->spilled_bytes = -1;
	/* On a standby there is no insert position; it cannot be a source yet. */
	int version = sql_server_version(source);
	PGresult *rows = sql_queryf(
		source, err,
		"SELECT active, confirmed_flush_lsn, restart_lsn,"
		" coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn), 0)"
		"::bigint, %s, coalesce(plugin = 'pgoutput' AND database = current_database(), false),"
		" coalesce(plugin, 'none'), coalesce(database, 'none'), %s, sent_lsn,"
		" coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), sent_lsn), 0)"
		"::bigint, %s"
		" FROM pg_catalog.pg_replication_slots s"
		" LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid"
		" WHERE s.slot_name = '%s'",
		health_query(version), version >= 130000 ? "wal_status" : "NULL::text",
		version >= 140000 ? "(SELECT t.spill_bytes FROM pg_catalog.pg_stat_replication_slots t"
							" WHERE t.slot_name = s.slot_name)"
						  : "NULL::bigint",
		ledger->name);

	if (rows == NULL)
		return error_add_context(err, "looking at replication slot %s", ledger->name);
	bool ok = PQntuples(rows) == 0 || check_identity(rows, ledger, err);
	if (ok && PQntuples(rows) == 1) {
		out->exists = true;
		out->active = sql_get_bool(rows, 0, 0);
		out->confirmed = sql_get_lsn(rows, 0, 1);
		out->restart = sql_get_lsn(rows, 0, 2);
		out->kept_bytes = (uint64_t)sql_get_int(rows, 0, 3);
		snprintf(out->why, sizeof(out->why), "%s", PQgetvalue(rows, 0, 4));
		out->lost = out->why[0] != '\0';
		/* Negative, or not there at all, once the next checkpoint may remove what we need. */
		if (sql_get(rows, 0, 5) != NULL)
			out->safe_bytes = sql_get_int(rows, 0, 5) > 0 ? sql_get_int(rows, 0, 5) : 0;
		if (sql_get(rows, 0, 9) != NULL)
			snprintf(out->wal_status, sizeof(out->wal_status), "%s", sql_get(rows, 0, 9));
		if (sql_get(rows, 0, 10) != NULL) {
			out->read = sql_get_lsn(rows, 0, 10);
			out->unread_bytes = sql_get_int(rows, 0, 11) > 0 ? (uint64_t)sql_get_int(rows, 0, 11)
			                                                 : 0;
		}
		if (sql_get(rows, 0, 12) != NULL)
			out->spilled_bytes = sql_get_int(rows, 0, 12);
	}
	PQclear(rows);
	return ok;
}

/* A walsender at work is always a little behind: less than a segment is nothing. */
bool
source_slot_has_to_read(const SlotHealth *slot)
{
	enum { A_SEGMENT = 16 * 1024 * 1024 };

	return slot->exists && slot->active && lsn_valid(slot->read) &&
	       (lsn_cmp(slot->read, slot->confirmed) < 0 || slot->unread_bytes > A_SEGMENT);
}

bool
source_slot_reading(const SlotHealth *slot, double at_least_s, const char *side, char *out,
                    size_t size)
{
	bool again = lsn_cmp(slot->read, slot->confirmed) < 0;

	if (slot->reading_s <= 0 || slot->reading_s < at_least_s)
		return false;
	snprintf(out, size,
	         "the %s has sent no change for %.0f s: it decodes WAL at %s, %llu bytes before its"
	         " end%s; changes come when it is through",
	         side, slot->reading_s, LSN_STR(slot->read), (unsigned long long)slot->unread_bytes,
	         again ? " (once more, since it was started again)" : "");
	return true;
}

bool
source_slot_warning(const SlotHealth *slot, const char *side, char *out, size_t size)
{
	uint64_t safe = slot->safe_bytes > 0 ? (uint64_t)slot->safe_bytes : 0;
	bool unreserved = strcmp(slot->wal_status, "unreserved") == 0;
	bool near_limit = slot->safe_bytes >= 0 && safe < (slot->kept_bytes + safe) / 4;

	if (!slot->exists || slot->lost || (!unreserved && !near_limit))
		return false;
	if (unreserved)
		snprintf(out, size,
		         "the slot holds back %llu bytes of WAL, more than max_slot_wal_keep_size: the next"
		         " checkpoint of the %s may remove what it needs; raise it there now",
		         (unsigned long long)slot->kept_bytes, side);
	else
		snprintf(out, size,
		         "the slot holds back %llu bytes of WAL and is %llu bytes from"
		         " max_slot_wal_keep_size: raise it on the %s, or the slot will be lost",
		         (unsigned long long)slot->kept_bytes, (unsigned long long)safe, side);
	return true;
}
