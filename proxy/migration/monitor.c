/*
 * Watches the side that changes come from on a session of its own: how far it is, what the slot holds back, and
 * what somebody may have done to slot and publication behind our back. Warns before the
 * slot's limit is reached (S3). While the apply stands still it looks on the other side, on a
 * session more, for whom it waits; with --confirm applied it notes there what may be confirmed.
 */
#include <stdio.h>
#include <stdlib.h>

#include <string.h>

#include "apply/care/waiting.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/migration/internal.h"

struct Monitor {
	Migration *m;
	Way way; /* as of its start: what it uses of it lives longer than the monitor */
	SlotHealth *slot;
	Lsn *from_lsn;
	Stop *stop;
	pthread_t thread;
	bool told_hidden;  /* the thread's own, as down to the lock */
	uint64_t messages; /* that the receiver had got a round ago */
	int64_t reading_since_ms;
	int64_t next_reading_ms; /* when it may be told again */
	Sql *to;                 /* while the apply stands still, or there is something to note */
	Lsn applied;             /* a round ago */
	uint64_t batches;
	int64_t still_since_ms;
	pthread_mutex_t lock;
	Error failure; /* under lock */
};

enum {
	POSITION_EVERY_MS = 1000,
	PUBLICATION_EVERY = 5, /* rounds */
	QUERY_TIMEOUT_MS = 10000,
	WARN_EVERY_MS = 60000,
	READING_S = 10, /* a source that only reads for so long is worth a line */
	STILL_S = 5     /* and so is an apply that waits for somebody for so long */
};

static void
set_failure(Monitor *monitor, const Error *err)
{
	pthread_mutex_lock(&monitor->lock);
	if (monitor->failure.class == ERROR_NONE)
		monitor->failure = *err;
	pthread_mutex_unlock(&monitor->lock);
}

static void
warn_of_limit(const char *side, const SlotHealth *slot, int64_t *next_warning_ms)
{
	char text[256];

	if (clock_mono_ms() < *next_warning_ms || !source_slot_warning(slot, side, text, sizeof(text)))
		return;
	*next_warning_ms = clock_mono_ms() + WARN_EVERY_MS;
	log_warning("monitor", "%s", text);
}

/* ---- what our copies cost the source ---- */

/* What they hold back from its vacuum. */
static bool
look_at_snapshots(Monitor *monitor, Sql *source, Error *err)
{
	Migration *m = monitor->m;
	char age[32];

	if (!sql_value(source, err, age, sizeof(age),
	               "SELECT coalesce(extract(epoch FROM max(now() - xact_start)), 0) "
	               "FROM pg_stat_activity WHERE application_name LIKE 'pgbaton%' "
	               "AND datname = current_database() "
	               "AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"))
		return false;
	pthread_mutex_lock(&m->lock);
	m->oldest_snapshot_s = strtod(age, NULL);
	pthread_mutex_unlock(&m->lock);
	return true;
}

/* An ALTER TABLE behind a copy's lock, and behind that one the application. */
static bool
look_at_waiting(Monitor *monitor, Sql *source, Error *err)
{
	Migration *m = monitor->m;
	char waiting[sizeof(m->waiting)];

	if (!waiting_read(source, waiting, sizeof(waiting), err))
		return false;
	pthread_mutex_lock(&m->lock);
	bool news = waiting[0] != '\0' && strcmp(m->waiting, waiting) != 0;
	snprintf(m->waiting, sizeof(m->waiting), "%s", waiting);
	pthread_mutex_unlock(&m->lock);
	if (news)
		log_warning("monitor", "%s; what comes after it on that table waits, too", waiting);
	return true;
}

/* --max-source-lag: the copy rests while a standby is too far behind. */
static bool
look_at_standbys(Monitor *monitor, Sql *source, Error *err)
{
	Migration *m = monitor->m;
	ThrottleState was;
	Standbys standbys;
	char reason[sizeof(was.held)];

	if (!standbys_read(source, &standbys, err))
		return false;
	throttle_state(m->throttle, &was);
	pthread_mutex_lock(&m->lock);
	LagLimit limit = m->lag_limit;
	m->standbys = standbys;
	pthread_mutex_unlock(&m->lock);

	bool held = was.held[0] != '\0';
	bool hold = standbys_too_far(&standbys, &limit, held, reason, sizeof(reason));
	throttle_hold(m->throttle, hold ? reason : NULL);
	if (hold && !held)
		log_warning("monitor", "the copy rests: %s", reason);
	else if (held && !hold)
		log_info("monitor", "the copy goes on: the source's standbys are close enough");
	if (standbys.hidden > 0 && (limit.ms > 0 || limit.bytes > 0) && !monitor->told_hidden) {
		monitor->told_hidden = true;
		log_warning("monitor",
		            "--max-source-lag: %d walsenders of the source cannot be looked at; GRANT"
		            " pg_read_all_stats to the user on the source",
		            standbys.hidden);
	}
	return true;
}

/* ---- the slot ---- */

/* The receiver is there as long as the monitor, once it is. */
static Receiver *
receiver_of(Monitor *monitor)
{
	Migration *m = monitor->m;

	pthread_mutex_lock(&m->lock);
	Receiver *receiver = monitor->way.back ? m->back.receiver : m->receiver;
	pthread_mutex_unlock(&m->lock);
	return receiver;
}

/* Does the source read without sending anything? Not when we keep it from sending. */
static void
look_at_reading(Monitor *monitor, SlotHealth *slot)
{
	Receiver *receiver = receiver_of(monitor);
	ReceiverState state = {0};
	char text[256];

	if (receiver != NULL)
		receiver_state(receiver, &state);

	bool silent = state.connected && !state.held_by_log && !state.held_by_disk &&
	              state.messages == monitor->messages;
	monitor->messages = state.messages;
	if (!silent || !source_slot_has_to_read(slot)) {
		monitor->reading_since_ms = 0;
		return;
	}
	if (monitor->reading_since_ms == 0)
		monitor->reading_since_ms = clock_mono_ms();
	slot->reading_s = (double)(clock_mono_ms() - monitor->reading_since_ms) / 1000;
	if (clock_mono_ms() < monitor->next_reading_ms ||
	    !source_slot_reading(slot, READING_S, monitor->way.from_side, text, sizeof(text)))
		return;
	monitor->next_reading_ms = clock_mono_ms() + WARN_EVERY_MS;
	log_warning("monitor", "%s", text);
}

static bool
look_at_slot(Monitor *monitor, Sql *source, int64_t *next_warning_ms, Error *err)
{
	Migration *m = monitor->m;
	const Way *way = &monitor->way;
	SlotHealth slot;
	char text[32];
	Lsn lsn = LSN_INVALID;

	if (!source_slot_health(source, way->ledger, &slot, err) ||
	    !sql_value(source, err, text, sizeof(text), "SELECT pg_current_wal_lsn()::text"))
		return false;
	if (!lsn_parse(text, &lsn))
		return error_set(err, ERROR_PROTOCOL, "pg_current_wal_lsn() gave \"%s\"", text);
	look_at_reading(monitor, &slot);

	pthread_mutex_lock(&m->lock);
	*monitor->slot = slot;
	*monitor->from_lsn = lsn;
	pthread_mutex_unlock(&m->lock);
	warn_of_limit(way->from_side, &slot, next_warning_ms);

	if (slot.exists && !slot.lost)
		return true;
	if (slot.exists)
		error_set(err, ERROR_CONFIG, "replication slot \"%s\" was invalidated by the %s (%s)",
		          way->ledger->name, way->from_side, slot.why);
	else
		error_set(err, ERROR_CONFIG, "replication slot \"%s\" is gone from the %s",
		          way->ledger->name, way->from_side);
	error_set_hint(err, way->back ? "changes are lost: there is no way back any more"
	                              : "changes are lost: run `pgbaton cancel` and begin again");
	set_failure(monitor, err);
	return false;
}

/* ---- the other side ---- */

static bool
apply_stands_still(Monitor *monitor)
{
	Migration *m = monitor->m;
	TxLogState log = {0};
	ApplierState state = {0};

	pthread_mutex_lock(&m->lock);
	TxLog *txlog = monitor->way.back ? m->back.log : m->log;
	Applier *applier = monitor->way.back ? m->back.applier : m->applier;
	bool there = txlog != NULL && applier != NULL;
	if (there) {
		txlog_state(txlog, &log);
		applier_state(applier, &state);
	}
	pthread_mutex_unlock(&m->lock);

	bool works = !there || state.phase != APPLIER_RUNNING || state.batches != monitor->batches ||
	             lsn_cmp(state.applied_commit, monitor->applied) != 0 ||
	             lsn_cmp(log.last_commit, state.applied_commit) <= 0;
	monitor->batches = state.batches;
	monitor->applied = state.applied_commit;
	if (works || monitor->still_since_ms == 0)
		monitor->still_since_ms = clock_mono_ms();
	return clock_mono_ms() - monitor->still_since_ms >= STILL_S * 1000;
}

static bool
connect_to(Monitor *monitor, Error *err)
{
	const Way *way = &monitor->way;

	if (monitor->to == NULL)
		monitor->to = sql_connect(way->to_info, way->to_side, "monitor", monitor->stop, err);
	if (monitor->to != NULL)
		sql_set_timeout_ms(monitor->to, QUERY_TIMEOUT_MS);
	return monitor->to != NULL;
}

static void
close_to(Monitor *monitor)
{
	sql_close(monitor->to);
	monitor->to = NULL;
}

/* False: the other side is away, or there is nothing to note. */
static bool
note_confirmed(Monitor *monitor)
{
	Receiver *receiver = receiver_of(monitor);
	Error err = ERROR_INIT;
	uint32_t timeline;
	Lsn confirmed;

	if (receiver == NULL || !receiver_to_note(receiver, &timeline, &confirmed))
		return false;
	if (!connect_to(monitor, &err) ||
	    !ledger_note_confirmed(monitor->to, monitor->way.ledger, timeline, confirmed, &err)) {
		log_failure(LOG_DEBUG, "monitor", &err);
		close_to(monitor);
		return false;
	}
	receiver_noted(receiver, timeline, confirmed);
	return true;
}

/* A lock is waited for without an error, for as long as somebody holds it. */
static void
look_at_lanes(Monitor *monitor, bool keep_session)
{
	Migration *m = monitor->m;
	const Way *way = &monitor->way;
	char waiting[sizeof(m->apply_waiting)] = "";
	Error err = ERROR_INIT;
	bool ok = true;

	if (apply_stands_still(monitor))
		ok = connect_to(monitor, &err) &&
		     waiting_lanes_read(monitor->to, way->to_side, STILL_S, waiting, sizeof(waiting), &err);
	/* A side that is away is told by the applier. */
	if (!ok || (waiting[0] == '\0' && !keep_session))
		close_to(monitor);
	pthread_mutex_lock(&m->lock);
	bool news = waiting[0] != '\0' && strcmp(m->apply_waiting, waiting) != 0;
	snprintf(m->apply_waiting, sizeof(m->apply_waiting), "%s", waiting);
	pthread_mutex_unlock(&m->lock);
	if (news)
		log_warning("monitor", "%s", waiting);
}

/* One round. False: the session is useless, or a failure was noted. */
static bool
look(Monitor *monitor, Sql *source, unsigned round, int64_t *next_warning_ms, Error *err)
{
	const Way *way = &monitor->way;

	if (!way->back &&
	    (!look_at_snapshots(monitor, source, err) || !look_at_waiting(monitor, source, err) ||
	     !look_at_standbys(monitor, source, err)))
		return false;
	if (!migration_online(monitor->m))
		return true;
	if (!look_at_slot(monitor, source, next_warning_ms, err))
		return false;
	if (round % PUBLICATION_EVERY != 0 ||
	    source_check_publication(source, way->ledger, way->catalog, err))
		return true;
	if (err->class == ERROR_CONFIG)
		set_failure(monitor, err);
	return false;
}

static void *
monitor_main(void *arg)
{
	Monitor *monitor = arg;
	const Way *way = &monitor->way;
	Sql *source = NULL;
	int64_t next_warning_ms = 0;

	for (unsigned round = 0; !stop_requested(monitor->stop); round++) {
		Error err = ERROR_INIT;

		if (source == NULL) {
			source = sql_connect(way->from_info, way->from_side, "monitor", monitor->stop, &err);
			if (source != NULL)
				sql_set_timeout_ms(source, QUERY_TIMEOUT_MS);
		}
		if (source != NULL && !look(monitor, source, round, &next_warning_ms, &err)) {
			sql_close(source);
			source = NULL;
		}
		if (err.class != ERROR_NONE && err.class != ERROR_CANCELLED)
			log_failure(LOG_WARNING, "monitor", &err);
		look_at_lanes(monitor, note_confirmed(monitor));
		if (!stop_sleep_ms(monitor->stop, POSITION_EVERY_MS, NULL))
			break;
	}
	sql_close(source);
	sql_close(monitor->to);
	return NULL;
}

Monitor *
monitor_start(const Way *way, SlotHealth *slot, Lsn *from_lsn)
{
	Monitor *monitor = mem_zalloc(sizeof(Monitor));

	monitor->m = way->m;
	monitor->way = *way;
	monitor->slot = slot;
	monitor->from_lsn = from_lsn;
	monitor->stop = stop_new();
	pthread_mutex_init(&monitor->lock, NULL);
	CHECK(pthread_create(&monitor->thread, NULL, monitor_main, monitor) == 0);
	return monitor;
}

void
monitor_stop(Monitor *monitor)
{
	if (monitor == NULL)
		return;
	stop_request(monitor->stop);
	pthread_join(monitor->thread, NULL);
	/* Nobody would let it go on. */
	if (!monitor->way.back)
		throttle_hold(monitor->m->throttle, NULL);
	pthread_mutex_lock(&monitor->m->lock);
	monitor->m->apply_waiting[0] = '\0';
	pthread_mutex_unlock(&monitor->m->lock);
	pthread_mutex_destroy(&monitor->lock);
	stop_free(monitor->stop);
	free(monitor);
}

bool
monitor_failed(Monitor *monitor, Error *err)
{
	if (monitor == NULL)
		return false;
	pthread_mutex_lock(&monitor->lock);
	bool failed = monitor->failure.class != ERROR_NONE;
	if (failed)
		*err = monitor->failure;
	pthread_mutex_unlock(&monitor->lock);
	return failed;
}
