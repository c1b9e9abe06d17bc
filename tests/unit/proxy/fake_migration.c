#include "tests/unit/proxy/fake_migration.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

static const char *const names[] = {
	"checking", "preparing",    "copying",     "catching_up", "following", "cutting_over",
	"switched", "failing_back", "failed_back", "finished",    "failed",    "cancelled",
};

const char *
migration_state_name(MigrationState state)
{
	return names[state];
}

bool
migration_state_parse(const char *text, MigrationState *out)
{
	for (int i = 0; i <= STATE_CANCELLED; i++) {
		if (strcmp(names[i], text) == 0) {
			*out = (MigrationState)i;
			return true;
		}
	}
	return false;
}

Migration *
fake_migration_new(void)
{
	Migration *m = mem_zalloc(sizeof(*m));

	pthread_mutex_init(&m->lock, NULL);
	return m;
}

void
migration_free(Migration *m)
{
	pthread_mutex_destroy(&m->lock);
	free(m);
}

void
migration_status(Migration *m, MigrationStatus *out)
{
	pthread_mutex_lock(&m->lock);
	m->statuses++;
	*out = m->status;
	pthread_mutex_unlock(&m->lock);
}

bool
migration_sessions(Migration *m, ListenerSession **out, size_t *count, Error *err)
{
	pthread_mutex_lock(&m->lock);
	*count = m->session_count;
	*out = mem_alloc((*count + 1) * sizeof(**out));
	memcpy(*out, m->sessions, *count * sizeof(**out));
	pthread_mutex_unlock(&m->lock);
	if (*count > 0)
		return true;
	free(*out);
	return error_set(err, ERROR_CONFIG, "there is no listener");
}

bool
migration_command(Migration *m, const MigrationRequest *request, uint64_t *ticket, Error *err)
{
	pthread_mutex_lock(&m->lock);
	m->commands++;
	m->last = *request;
	*ticket = m->ticket;
	bool ok = m->refuse.class == ERROR_NONE;
	if (!ok)
		*err = m->refuse;
	pthread_mutex_unlock(&m->lock);
	return ok;
}

MigrationRequest
fake_migration_last(Migration *m)
{
	pthread_mutex_lock(&m->lock);
	MigrationRequest last = m->last;
	pthread_mutex_unlock(&m->lock);
	return last;
}

int
fake_migration_commands(Migration *m)
{
	pthread_mutex_lock(&m->lock);
	int commands = m->commands;
	pthread_mutex_unlock(&m->lock);
	return commands;
}

int
fake_migration_statuses(Migration *m)
{
	pthread_mutex_lock(&m->lock);
	int statuses = m->statuses;
	pthread_mutex_unlock(&m->lock);
	return statuses;
}

Catalog *
fake_catalog_new(void)
{
	Arena *arena = arena_new(0);
	Catalog *catalog = arena_zalloc(arena, sizeof(*catalog));

	catalog->arena = arena;
	pthread_mutex_init(&catalog->lock, NULL);
	catalog->table_count = 2;
	catalog->tables = arena_new_array(arena, Table, 2);
	catalog->tables[0] = (Table){
		.schema = "public",
		.name = "big",
		.bytes = 5000,
		.rows_estimate = 100,
		.state = TABLE_COPYING,
		.copied_rows = 11,
		.copied_bytes = 12,
		.expected_bytes = 32,
		.copy_rate = 5,
		.inserts = 13,
		.updates = 14,
		.deletes = 15,
		.truncates = 16,
	};
	catalog->tables[1] = (Table){
		.schema = "we\"ird\\",
		.name = "new\nline \xc3\xa9",
		.bytes = 1,
		.rows_estimate = -1,
		.state = TABLE_ERRORED,
	};
	snprintf(catalog->tables[1].error, sizeof(catalog->tables[1].error), "no \"room\"");
	return catalog;
}

void
fake_catalog_free(Catalog *catalog)
{
	pthread_mutex_destroy(&catalog->lock);
	arena_free(catalog->arena);
}

static void
fill_cutover(CutoverStatus *c)
{
	*c = (CutoverStatus){
		.id = 3,
		.outcome = CUTOVER_ABORTED,
		.step = "drain",
		.prepare_ms = 1.5,
		.hold_ms = 20.25,
		.quiet_ms = 2.5,
		.fence_ms = 3.5,
		.marker_ms = 3.75,
		.drain_ms = 4.5,
		.sequences_ms = 5.5,
		.verify_ms = 6.5,
		.sessions_ms = 7.25,
		.large_objects_ms = 8.5,
		.commit_ms = 7.5,
		.sessions_moved = 81,
		.sessions_closed = 82,
		.sessions_unmovable = 85,
		.unmovable = {{.pid = 86,
	                   .who = "app@shop from 10.0.0.5",
	                   .state = "held",
	                   .reason = "temporary tables",
	                   .since_ms = INT64_C(1700000000123)}},
		.unmovable_count = 1,
		.sequences = 83,
		.large_objects = 187,
		.large_objects_differed = 188,
		.attempts = 2,
		.bypassing = {.groups = {{.user = "app", .application = "psql", .sessions = 4}},
	                  .count = 1,
	                  .sessions = 84},
	};
	error_set(&c->error, ERROR_TIMEOUT, "not drained");
}

void
fake_status_fill(MigrationStatus *s, const Catalog *catalog)
{
	*s = (MigrationStatus){
		.state = STATE_COPYING,
		.online = true,
		.since_us = INT64_C(1700000000123456),
		.name = "move",
		.id = "0b7c",
		.detail = "indexes 12 of 40",
		.retrying = true,
		.received_bytes = 101,
		.applied_bytes = 102,
		.lag_seconds = 1.25,
		.pending_transactions = 103,
		.way_back = {.state = WAY_BACK_FOLLOWING,
	                 .received_bytes = 191,
	                 .applied_bytes = 192,
	                 .applier = {.transactions = 193},
	                 .target_lsn = {0x194}},
		.addition = {.id = 5,
	                 .recopy = true,
	                 .outcome = ADDITION_FAILED,
	                 .step = "rows and indexes",
	                 .tables = 195},
		.removed = "source: slot",
		.receiver = {.connected = true,
	                 .received = {0x110},
	                 .confirmed = {0x111},
	                 .reconnects = 112,
	                 .bytes = 113},
		.applier = {.phase = APPLIER_RETRYING,
	                .applied_end = {0x120},
	                .durable_end = {0x121},
	                .transactions = 122,
	                .inserts = 123,
	                .updates = 124,
	                .deletes = 125,
	                .truncates = 126,
	                .batches = 127,
	                .replays = 128,
	                .early = 129,
	                .early_given_up = 130},
		.log = {.synced_end = {0x130}, .transactions = 131, .bytes_on_disk = 132, .segments = 133},
		.slot = {.exists = true,
	             .active = true,
	             .why = "reserved",
	             .wal_status = "extended",
	             .confirmed = {0x140},
	             .restart = {0x141},
	             .kept_bytes = 142,
	             .safe_bytes = 143,
	             .read = {0x144},
	             .unread_bytes = 145,
	             .spilled_bytes = 146,
	             .reading_s = 14.5},
		.slot_warning = "the slot is in danger",
		.waiting = "process 157 waits",
		.apply_waiting = "the apply waits for 158",
		.throttle = {.rate = 154, .held = "a standby is behind"},
		.standbys = {.count = 2, .hidden = 1, .seconds = 2.5, .bytes = 155},
		.lag_limit = {.ms = 1500, .bytes = 0},
		.oldest_snapshot_s = 3.5,
		.source_lsn = {0x16B374D848},
		.copy_rows = 151,
		.copy_bytes = 152,
		.copy_bytes_total = 153,
		.copy_eta_seconds = -1,
		.large_objects = {.objects = 191, .objects_total = 192, .bytes = 193, .bytes_total = 194},
		.copy_rate = 156.5,
		.index = {.done = 171,
	              .count = 172,
	              .bytes_done = 173,
	              .bytes_total = 174,
	              .running = {{.name = "INDEX public i",
	                           .table = &catalog->tables[0],
	                           .phase = "building index",
	                           .share = 0.25}},
	              .running_count = 1},
		.eta_seconds = 4.5,
		.eta_until = "copied",
		.tables_queued = 161,
		.tables_copying = 162,
		.tables_copied = 163,
		.tables_errored = 164,
		.catalog = catalog,
	};
	error_set(&s->error, ERROR_SQL, "relation \"x\" is in the way");
	error_add_context(&s->error, "target");
	error_set_sqlstate(&s->error, "42P07");
	error_set_hint(&s->error, "drop it");
	fill_cutover(&s->cutover);
}
