/*
 * One consistent picture of the migration for the admin port. Runs on the asker's thread;
 * holds the migration's lock only to copy.
 */
#include <stdio.h>

#include "common/clock.h"
#include "proxy/migration/internal.h"

static uint64_t
distance(Lsn from, Lsn to)
{
	return to.v > from.v ? to.v - from.v : 0;
}

static void
fill_copy(const Migration *m, MigrationStatus *out)
{
	const Catalog *catalog = m->catalog;

	for (size_t i = 0; catalog != NULL && i < catalog->table_count; i++) {
		const Table *table = &catalog->tables[i];
		uint64_t bytes = atomic_load(&table->copied_bytes);
		uint64_t expected = atomic_load(&table->expected_bytes);

		if (expected == 0)
			expected = table->bytes;
		out->copy_rows += atomic_load(&table->copied_rows);
		out->copy_bytes += bytes;
		switch ((TableState)atomic_load(&table->state)) {
		case TABLE_QUEUED:
			out->tables_queued++;
			break;
		case TABLE_COPYING:
			out->tables_copying++;
			break;
		case TABLE_COPIED:
			/* What a table takes on disk is not what it takes on the wire. */
			out->tables_copied++;
			expected = bytes;
			break;
		case TABLE_ERRORED:
			out->tables_errored++;
			break;
		}
		out->copy_bytes_total += bytes > expected ? bytes : expected;
	}
}

static void
fill_large_objects(Migration *m, MigrationStatus *out)
{
	out->large_objects.objects = atomic_load(&m->lobs.objects);
	out->large_objects.objects_total = atomic_load(&m->lobs.objects_total);
	out->large_objects.bytes = atomic_load(&m->lobs.bytes);
	out->large_objects.bytes_total = atomic_load(&m->lobs.bytes_total);
}

static void
fill_lag(MigrationStatus *out)
{
	Lsn source_end = lsn_max(out->source_lsn, out->receiver.server_end);
	Lsn applied = out->applier.applied_end;

	/* After the switch the source's WAL is nobody's lag. */
	if (!out->online || (out->state >= STATE_SWITCHED && out->state <= STATE_FINISHED))
		return;
	out->received_bytes = distance(out->receiver.received, source_end);
	if (lsn_cmp(out->log.last_commit, out->applier.applied_commit) <= 0)
		return;
	out->applied_bytes = distance(applied, out->log.last_end);
	if (out->log.transactions > out->applier.transactions)
		out->pending_transactions = out->log.transactions - out->applier.transactions;
	if (out->pending_transactions == 0)
		out->pending_transactions = 1;
	/* The oldest commit that waits is younger than the last applied one. */
	if (out->applier.applied_time_us != 0) {
		int64_t age_us = clock_pg_us() - out->applier.applied_time_us;
		out->lag_seconds = age_us > 0 ? (double)age_us / 1e6 : 0;
	}
}

/* What has been stopped is shown as it was last, so that the counts of a migration that has
 * switched are not lost with its stream. */
void
migration_stream_states(Migration *m, TxLogState *log, ReceiverState *receiver,
                        ApplierState *applier)
{
	*log = m->last_log;
	*receiver = m->last_receiver;
	*applier = m->last_applier;
	if (m->log != NULL)
		txlog_state(m->log, log);
	if (m->receiver != NULL)
		receiver_state(m->receiver, receiver);
	if (m->applier != NULL)
		applier_state(m->applier, applier);
	else if (lsn_cmp(applier->applied_end, m->start) < 0)
		applier->applied_end = m->start;
}

/* Tables that are whole count as one step, the others as one more an index. */
static void
fill_detail(const Migration *m, MigrationStatus *out)
{
	size_t done;
	size_t count;

	if (m->build == NULL) {
		snprintf(out->detail, sizeof(out->detail), "%s", m->detail);
		return;
	}
	build_progress(m->build, &done, &count);
	snprintf(out->detail, sizeof(out->detail), "%.100s: %zu of %zu steps", m->detail, done, count);
}

bool
migration_sessions(Migration *migration, ListenerSession **out, size_t *count, Error *err)
{
	enum { ASK_MS = 1000 };

	if (migration->listener != NULL)
		return listener_sessions(migration->listener, deadline_in_ms(ASK_MS), out, count, err);
	error_set(err, ERROR_CONFIG, "there is no listener");
	return error_set_hint(err, "`pgbaton run --listen HOST:PORT` puts one in front of the "
	                           "application");
}

void
migration_status(Migration *migration, MigrationStatus *out)
{
	Migration *m = migration;

	*out = (MigrationStatus){0};
	pthread_mutex_lock(&m->lock);
	out->state = m->state;
	out->online = migration_online(m);
	out->paused = atomic_load(&m->pause_wanted);
	out->since_us = m->since_us;
	snprintf(out->name, sizeof(out->name), "%s", m->config->name);
	snprintf(out->id, sizeof(out->id), "%s", m->ledger.id);
	fill_detail(m, out);
	out->error = m->error;
	out->retrying = m->retrying;
	out->slot = m->slot;
	out->source_lsn = m->source_lsn;
	out->oldest_snapshot_s = m->oldest_snapshot_s;
	snprintf(out->waiting, sizeof(out->waiting), "%s", m->waiting);
	snprintf(out->apply_waiting, sizeof(out->apply_waiting), "%s", m->apply_waiting);
	out->standbys = m->standbys;
	out->lag_limit = m->lag_limit;
	throttle_state(m->throttle, &out->throttle);
	out->cutover = m->cutover;
	out->verify = m->verify;
	out->addition = m->addition;
	way_back_status(m, &out->way_back);
	if (m->state == STATE_FINISHED || m->state == STATE_CANCELLED)
		snprintf(out->removed, sizeof(out->removed), "%s", m->removed);
	if (m->listener != NULL)
		listener_state(m->listener, &out->listener);
	out->catalog = m->catalog;
	migration_stream_states(m, &out->log, &out->receiver, &out->applier);
	if (m->state == STATE_FINISHED || m->state == STATE_CANCELLED) { /* both are removed */
		out->log.bytes_on_disk = out->log.segments = 0;
		out->slot = (SlotHealth){.exists = false};
	}
	fill_copy(m, out);
	fill_large_objects(m, out);
	progress_status(m, out);
	pthread_mutex_unlock(&m->lock);

	/* After the switch nobody needs what it holds back. */
	bool over = out->state >= STATE_SWITCHED && out->state <= STATE_FINISHED;
	if (over ||
	    !source_slot_warning(&out->slot, "source", out->slot_warning, sizeof(out->slot_warning)))
		out->slot_warning[0] = '\0';
	fill_lag(out);
	if (out->error.class == ERROR_NONE && out->receiver.error.class != ERROR_NONE &&
	    !out->receiver.connected) {
		out->error = out->receiver.error;
		out->retrying = !out->receiver.failed;
	} else if (out->error.class == ERROR_NONE &&
	           (out->applier.phase == APPLIER_RETRYING || out->applier.phase == APPLIER_FAILED)) {
		out->error = out->applier.error;
		out->retrying = out->applier.phase == APPLIER_RETRYING;
	}
}
