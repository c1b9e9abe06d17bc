/*
 * The status in Prometheus' text format (prometheus.io/docs, "Exposition
 * formats"). Base units; counters end in _total. Labels are bounded: states,
 * and at most MAX_TABLES tables.
 */
#include <math.h>

#include "common/bytes.h"
#include "proxy/admin/admin_internal.h"

enum { MAX_TABLES = 1000 };

static void
put_head(Buffer *out, const char *name, const char *type, const char *help)
{
	buffer_printf(out, "# HELP pgbaton_%s %s\n# TYPE pgbaton_%s %s\n", name, help, name, type);
}

static void
put_number(Buffer *out, double value)
{
	if (isnan(value))
		buffer_put_text(out, "NaN\n");
	else if (isinf(value))
		buffer_put_text(out, value > 0 ? "+Inf\n" : "-Inf\n");
	else
		buffer_printf(out, "%.15g\n", value);
}

static void
put_one(Buffer *out, const char *name, const char *type, const char *help, double value)
{
	put_head(out, name, type, help);
	buffer_printf(out, "pgbaton_%s ", name);
	put_number(out, value);
}

static void
put_gauge(Buffer *out, const char *name, const char *help, double value)
{
	put_one(out, name, "gauge", help, value);
}

/* Exact, where a double would round above 2^53. */
static void
put_counter(Buffer *out, const char *name, const char *help, uint64_t value)
{
	put_head(out, name, "counter", help);
	buffer_printf(out, "pgbaton_%s %llu\n", name, (unsigned long long)value);
}

/* Backslash, quote and newline are escaped; everything else is UTF-8 already. */
static void
put_label(Buffer *out, const char *text)
{
	for (; *text != '\0'; text++) {
		if (*text == '\n')
			buffer_put_text(out, "\\n");
		else if (*text == '\\' || *text == '"')
			buffer_printf(out, "\\%c", *text);
		else
			buffer_put_u8(out, (uint8_t)*text);
	}
}

static void
put_state(Buffer *out, const MigrationStatus *s)
{
	put_head(out, "state", "gauge", "1 for the state the migration is in, 0 for the others.");
	for (int i = STATE_CHECKING; i <= STATE_CANCELLED; i++)
		buffer_printf(out, "pgbaton_state{state=\"%s\"} %d\n",
		              migration_state_name((MigrationState)i), i == (int)s->state);
	put_gauge(out, "state_entered_timestamp_seconds", "When the state was entered.",
	          (double)s->since_us / 1e6);
	put_gauge(out, "paused", "1 while the apply is paused.", s->paused);
	put_gauge(out, "error", "1 while there is an error, retried or not.",
	          s->error.class != ERROR_NONE);
}

static void
put_lag(Buffer *out, const MigrationStatus *s)
{
	put_gauge(out, "lag_received_bytes", "WAL on the source that was not received yet.",
	          (double)s->received_bytes);
	put_gauge(out, "lag_applied_bytes", "WAL received and not applied yet.",
	          (double)s->applied_bytes);
	put_gauge(out, "lag_seconds", "Age of the oldest commit that is not applied yet.",
	          s->lag_seconds);
	put_gauge(out, "pending_transactions", "Transactions received and not applied yet.",
	          (double)s->pending_transactions);
}

static void
put_copy(Buffer *out, const MigrationStatus *s)
{
	const struct {
		int state;
		size_t count;
	} tables[] = {
		{TABLE_QUEUED, s->tables_queued},
		{TABLE_COPYING, s->tables_copying},
		{TABLE_COPIED, s->tables_copied},
		{TABLE_ERRORED, s->tables_errored},
	};

	put_head(out, "tables", "gauge", "Tables by the state of their copy.");
	for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++)
		buffer_printf(out, "pgbaton_tables{state=\"%s\"} %zu\n", table_state_name(tables[i].state),
		              tables[i].count);
	/* Gauges: a table that is copied again starts from zero. */
	put_gauge(out, "copy_rows", "Rows copied.", (double)s->copy_rows);
	put_gauge(out, "copy_bytes", "Bytes copied.", (double)s->copy_bytes);
	put_gauge(out, "copy_expected_bytes", "Bytes to copy, as far as known.",
	          (double)s->copy_bytes_total);
	put_gauge(out, "copy_eta_seconds", "Time the copy still needs; NaN when unknown.",
	          s->copy_eta_seconds < 0 ? (double)NAN : s->copy_eta_seconds);
	put_gauge(out, "large_objects", "Large objects copied.", (double)s->large_objects.objects);
	put_gauge(out, "large_object_bytes", "Their bytes.", (double)s->large_objects.bytes);
	put_gauge(out, "copy_rate_bytes", "Bytes a second copied of late; NaN when unknown.",
	          s->copy_rate > 0 ? s->copy_rate : (double)NAN);
	put_gauge(out, "index_steps", "Steps of the index phase; 0 when none is planned.",
	          (double)s->index.count);
	put_gauge(out, "index_steps_done", "Steps of it that are done.", (double)s->index.done);
	put_gauge(out, "index_bytes", "Bytes of the source's indexes that are built on the target.",
	          s->index.bytes_done);
	put_gauge(out, "index_expected_bytes", "Bytes of the source's indexes to build.",
	          s->index.bytes_total);
	put_gauge(out, "eta_seconds",
	          "Time until all is copied, or until it follows; NaN when unknown.",
	          s->eta_until == NULL || s->eta_seconds < 0 ? (double)NAN : s->eta_seconds);
	put_gauge(out, "oldest_snapshot_seconds",
	          "Age of the oldest snapshot held on the source by the copy.", s->oldest_snapshot_s);
	put_gauge(out, "copy_rate_limit_bytes", "Bytes a second the copy may read; +Inf without limit.",
	          s->throttle.rate > 0 ? (double)s->throttle.rate : (double)INFINITY);
	put_gauge(out, "copy_held", "Is 1 while the copy rests for the source's standbys.",
	          s->throttle.held[0] != '\0');
	put_gauge(out, "standbys", "Standbys of the source.", s->standbys.count);
	put_gauge(out, "standby_lag_seconds", "Replay lag of the source's slowest standby.",
	          s->standbys.seconds);
	put_gauge(out, "standby_lag_bytes", "WAL not replayed by the standby most behind.",
	          (double)s->standbys.bytes);
}

static void
put_stream(Buffer *out, const MigrationStatus *s)
{
	static const char help[] = "Row changes applied, as the source did them.";
	const ApplierState *a = &s->applier;

	put_gauge(out, "receiver_connected", "1 while the replication connection is up.",
	          s->receiver.connected);
	put_counter(out, "receiver_reconnects_total", "Replication connections made anew.",
	            s->receiver.reconnects);
	put_counter(out, "received_bytes_total", "Bytes received from the source.", s->receiver.bytes);
	put_gauge(out, "receiver_held_by_log", "1 while the log's limit holds the source back.",
	          s->receiver.held_by_log);
	put_counter(out, "transactions_applied_total", "Transactions applied.", a->transactions);
	put_head(out, "changes_applied_total", "counter", help);
	buffer_printf(out,
	              "pgbaton_changes_applied_total{kind=\"insert\"} %llu\n"
	              "pgbaton_changes_applied_total{kind=\"update\"} %llu\n"
	              "pgbaton_changes_applied_total{kind=\"delete\"} %llu\n"
	              "pgbaton_changes_applied_total{kind=\"truncate\"} %llu\n",
	              (unsigned long long)a->inserts, (unsigned long long)a->updates,
	              (unsigned long long)a->deletes, (unsigned long long)a->truncates);
	put_counter(out, "batches_total", "Batches committed on the target.", a->batches);
	put_counter(out, "batches_replayed_total", "Batches replayed in the source's order.",
	            a->replays);
	put_counter(out, "transactions_early_total", "Transactions applied before their commit.",
	            a->early);
	put_counter(out, "transactions_early_given_up_total",
	            "Transactions of which that was rolled back.", a->early_given_up);
}

static void
put_storage(Buffer *out, const MigrationStatus *s)
{
	put_gauge(out, "log_bytes", "Transaction log on disk.", (double)s->log.bytes_on_disk);
	put_gauge(out, "log_segments", "Segments of the transaction log.", (double)s->log.segments);
	put_gauge(out, "slot_active", "1 while the source's slot is in use.", s->slot.active);
	put_gauge(out, "slot_lost", "1 when the source's slot was invalidated.", s->slot.lost);
	put_gauge(out, "slot_in_danger", "Is 1 when the slot is close to max_slot_wal_keep_size.",
	          s->slot_warning[0] != '\0');
	put_gauge(out, "slot_kept_bytes", "WAL that the slot holds back on the source.",
	          (double)s->slot.kept_bytes);
	put_gauge(out, "source_reading_seconds",
	          "For how long the source has decoded WAL without sending a change.",
	          s->slot.reading_s);
	put_gauge(out, "source_unread_bytes", "WAL that the source's walsender has not read.",
	          (double)s->slot.unread_bytes);
	put_gauge(out, "slot_safe_bytes",
	          "WAL until max_slot_wal_keep_size invalidates the slot; +Inf without a limit.",
	          !s->slot.exists || s->slot.safe_bytes < 0 ? (double)INFINITY
	                                                    : (double)s->slot.safe_bytes);
}

static void
put_cutover(Buffer *out, const CutoverStatus *c)
{
	put_counter(out, "cutovers_total", "Cutovers begun.", c->id);
	put_gauge(out, "cutover_switched", "1 when the last cutover switched.",
	          c->outcome == CUTOVER_SWITCHED);
	put_gauge(out, "cutover_hold_seconds", "How long the last cutover refused writes.",
	          c->hold_ms / 1e3);
	put_gauge(out, "cutover_drain_seconds", "How long the last cutover drained.",
	          c->drain_ms / 1e3);
	put_gauge(out, "cutover_sessions_moved", "Sessions that the last cutover has moved.",
	          (double)c->sessions_moved);
	put_gauge(out, "cutover_sessions_closed", "Sessions that the last cutover has ended.",
	          (double)c->sessions_closed);
}

typedef uint64_t (*TableCount)(const Table *table);

static uint64_t
count_inserts(const Table *table)
{
	return atomic_load(&table->inserts);
}

static uint64_t
count_updates(const Table *table)
{
	return atomic_load(&table->updates);
}

static uint64_t
count_deletes(const Table *table)
{
	return atomic_load(&table->deletes);
}

static uint64_t
count_rows(const Table *table)
{
	return atomic_load(&table->copied_rows);
}

static uint64_t
count_bytes(const Table *table)
{
	return atomic_load(&table->copied_bytes);
}

static uint64_t
count_expected(const Table *table)
{
	return atomic_load(&table->expected_bytes);
}

static void
put_tables(Buffer *out, const Catalog *catalog)
{
	static const struct {
		const char *name;
		const char *type;
		const char *help;
		TableCount count;
	} kinds[] = {
		{"table_copied_rows", "gauge", "Rows copied of a table.", count_rows},
		{"table_copied_bytes", "gauge", "Bytes copied of a table.", count_bytes},
		{"table_expected_bytes", "gauge", "Bytes to copy of a table, as far as known.",
	     count_expected},
		{"table_inserts_total", "counter", "Inserts applied to a table.", count_inserts},
		{"table_updates_total", "counter", "Updates applied to a table.", count_updates},
		{"table_deletes_total", "counter", "Deletes applied to a table.", count_deletes},
	};

	if (catalog == NULL)
		return;
	for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
		put_head(out, kinds[k].name, kinds[k].type, kinds[k].help);
		/* The largest tables come first in the catalogue. */
		for (size_t i = 0; i < catalog->table_count && i < MAX_TABLES; i++) {
			const Table *table = &catalog->tables[i];
			buffer_printf(out, "pgbaton_%s{schema=\"", kinds[k].name);
			put_label(out, table->schema);
			buffer_put_text(out, "\",table=\"");
			put_label(out, table->name);
			buffer_printf(out, "\"} %llu\n", (unsigned long long)kinds[k].count(table));
		}
	}
}

static void
put_listener(Buffer *out, const ListenerState *l)
{
	if (!l->listening)
		return;
	put_head(out, "listener_route", "gauge", "Where new sessions go: 1 for the present route.");
	for (ListenerRoute route = ROUTE_NONE; route <= ROUTE_TARGET; route++)
		buffer_printf(out, "pgbaton_listener_route{route=\"%s\"} %d\n", listener_route_name(route),
		              l->route == route);
	put_gauge(out, "listener_sessions", "Clients that are logged in.", (double)l->sessions);
	put_gauge(out, "listener_held", "Clients that are held.", (double)l->held);
	put_gauge(out, "listener_logins", "Clients in their login.", (double)l->logins);
	put_gauge(out, "listener_unmovable", "Sessions that cannot be moved, as far as known.",
	          (double)l->unmovable);
	put_counter(out, "listener_accepted_total", "Connections accepted.", l->accepted);
	put_counter(out, "listener_refused_total", "Connections refused in their login.", l->refused);
	put_counter(out, "listener_cancels_total", "Cancel requests delivered.", l->cancels);
}

char *
status_metrics(const MigrationStatus *status)
{
	Buffer out = BUFFER_INIT;

	put_state(&out, status);
	put_lag(&out, status);
	put_copy(&out, status);
	put_stream(&out, status);
	put_storage(&out, status);
	put_cutover(&out, &status->cutover);
	put_listener(&out, &status->listener);
	put_tables(&out, status->catalog);
	return buffer_cstr(&out); /* the buffer's memory, now the caller's */
}
