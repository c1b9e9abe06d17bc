/* A direction: what belongs to it, and what both directions do with it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>

#include "common/clock.h"
#include "proxy/migration/internal.h"

Way
way_forth(Migration *m)
{
	return (Way){
		.m = m,
		.stop = m->stop,
		.from_side = "source",
		.to_side = "target",
		.from_info = m->config->source,
		.to_info = m->config->target,
		.ledger = &m->ledger,
		.catalog = m->catalog,
		.applier = m->applier,
		.receiver = m->receiver,
		.monitor = m->monitor,
	};
}

Way
way_back(Migration *m)
{
	return (Way){
		.m = m,
		.back = true,
		.stop = m->stop,
		.from_side = "target",
		.to_side = "source",
		.from_info = m->config->target,
		.to_info = m->config->source,
		.ledger = &m->back.ledger,
		.catalog = m->back.catalog,
		.applier = m->back.applier,
		.receiver = m->back.receiver,
		.monitor = m->back.monitor,
	};
}

Sql *
way_from(const Way *way)
{
	return way->back ? way->m->target : way->m->source;
}

Sql *
way_to(const Way *way)
{
	return way->back ? way->m->source : way->m->target;
}

bool
way_connect_from(const Way *way, Error *err)
{
	return way->back ? migration_connect_target(way->m, err)
	                 : migration_connect_source(way->m, err);
}

bool
way_connect_to(const Way *way, Error *err)
{
	return way->back ? migration_connect_source(way->m, err)
	                 : migration_connect_target(way->m, err);
}

/* One ledger, the target's, has both sides' records: finish needs no other. */
static Book
book_of(const Way *way, const char *side)
{
	return (Book){way->m->target, &way->m->ledger, side};
}

Book
way_book_from(const Way *way)
{
	return book_of(way, way->from_side);
}

Book
way_book_to(const Way *way)
{
	return book_of(way, way->to_side);
}

static size_t
listener_pids(void *arg, uint32_t **pids)
{
	const Way *way = arg;

	return listener_server_pids(way->m->listener, way->back ? ROUTE_TARGET : ROUTE_SOURCE, true,
	                            pids);
}

OurSessions
way_our_sessions(Way *way)
{
	return (OurSessions){.pids = listener_pids, .arg = way, .stop = way->m->stop};
}

SourceSetup
way_setup(const Way *way)
{
	const Migration *m = way->m;

	return (SourceSetup){
		.source = way_from(way),
		.target = way_to(way),
		.book = way_book_from(way),
		.source_info = way->from_info,
		.ledger = way->ledger,
		.catalog = way->catalog,
		.replica_identity = m->config->replica_identity,
		.slot_timeout_ms = m->config->slot_timeout_ms,
		.stop = m->stop,
	};
}

SourceSetup
migration_source_setup(Migration *m)
{
	Way way = way_forth(m);

	return way_setup(&way);
}

/* The catalogue is replaced only while no receiver runs. */
static Lsn
copied(void *arg)
{
	return catalog_copied_lsn(arg);
}

Receiver *
way_start_receiver(const Way *way, TxLog *log, Lsn start, Error *err)
{
	char publications[160];
	ReceiverOptions options = {
		.source = way->from_info,
		.system_id = way->ledger->system_id,
		.slot = way->ledger->name,
		.publication = publications,
		.binary = way->catalog->stream_binary,
		.confirm = way->m->config->confirm,
		.start = start,
		.copied = copied,
		.arg = way->catalog,
		.when_lost = way->back
	                     ? "there is no way back any more; `pgbaton finish` ends the migration"
	                     : NULL,
	};

	if (options.confirm == CONFIRM_APPLIED &&
	    !ledger_get_confirmed(way_to(way), way->ledger, &options.known.timeline,
	                          &options.known.confirmed, &options.known.applied, err))
		return NULL;
	source_publications(way->ledger, way->catalog, publications, sizeof(publications));
	return receiver_start(&options, log, err);
}

static void
on_durable(void *arg, Lsn end)
{
	receiver_set_applied(arg, end);
}

/* Forth two may read the log; what both have passed is released and confirmed. */
static void
passed(Migration *m, bool apart, Lsn commit, Lsn end)
{
	pthread_mutex_lock(&m->lock);
	m->passed[apart] = (Passed){commit, end};
	Passed least = m->passed[0];
	if (m->apart.kind != APART_NONE && lsn_cmp(m->passed[1].commit, least.commit) < 0)
		least = m->passed[1];
	TxLog *log = m->log;
	Receiver *receiver = m->receiver;
	pthread_mutex_unlock(&m->lock);
	/* Both outlive the applier that calls. */
	if (log == NULL || receiver == NULL || least.commit.v == 0)
		return;
	txlog_release(log, least.commit);
	receiver_set_applied(receiver, least.end);
}

static void
on_passed(void *arg, Lsn commit, Lsn end)
{
	passed(arg, false, commit, end);
}

static void
on_apart_passed(void *arg, Lsn commit, Lsn end)
{
	passed(arg, true, commit, end);
}

Applier *
way_start_apart(Migration *m, const Ledger *ledger, Error *err)
{
	ApplierOptions options = {
		.target = m->config->target,
		.ledger = ledger,
		.catalog = m->catalog,
		.log = m->log,
		/* All up to that commit is in: read behind it. */
		.start = lsn_make(m->apart.from.v + 1),
		.lanes = 1,
		.proto_version = 1,
		.stream_name = m->ledger.name,
		.apart = true,
		.on_passed = on_apart_passed,
		.arg = m,
	};

	return applier_start(&options, err);
}

Applier *
way_start_applier(const Way *way, TxLog *log, Lsn start, Error *err)
{
	ApplierOptions options = {
		.target = way->to_info,
		.ledger = way->ledger,
		.catalog = way->catalog,
		.log = log,
		.start = start,
		.lanes = way->m->config->lanes > 0 ? way->m->config->lanes : way->ledger->lanes,
		.proto_version = 1,
		.on_durable = way->back ? on_durable : NULL,
		.on_passed = way->back ? NULL : on_passed,
		.arg = way->back ? (void *)way->receiver : (void *)way->m,
	};

	return applier_start(&options, err);
}

bool
way_failed(const Way *way, Error *err)
{
	if (way->receiver != NULL) {
		ReceiverState state;
		receiver_state(way->receiver, &state);
		if (state.failed) {
			*err = state.error;
			return true;
		}
	}
	if (way->applier != NULL) {
		ApplierState state;
		applier_state(way->applier, &state);
		if (state.phase == APPLIER_FAILED) {
			*err = state.error;
			return true;
		}
	}
	return monitor_failed(way->monitor, err);
}

/* In slices, since the applier knows neither our stop nor the receiver's health; it keeps
 * the markers that it has passed, so none is missed between two slices. */
bool
way_wait_marker(const Way *way, const char *marker, int64_t deadline_ms, bool may_pause, Error *err)
{
	enum { SLICE_MS = 100 };

	for (;;) {
		if (may_pause)
			migration_follow_pause(way->m);
		int left = deadline_left_ms(deadline_ms);
		int64_t until = deadline_in_ms(left < SLICE_MS ? left : SLICE_MS);

		error_clear(err);
		if (applier_wait_marker(way->applier, marker, until, err))
			return true;
		if (err->class != ERROR_TIMEOUT || left == 0 || way_failed(way, err))
			return false;
		if (stop_requested(way->stop))
			return error_set(err, ERROR_CANCELLED, "stopped on request");
	}
}

/* No two markers may be alike, not even of two processes: 128 random bits, made here, since
 * asking a server for them would cost a hold another round trip. */
static bool
name_marker(char marker[WAY_MARKER_SIZE], Error *err)
{
	uint64_t bits[2];

	if (getrandom(bits, sizeof(bits), 0) != (ssize_t)sizeof(bits))
		return error_set_errno(err, ERROR_BUG, errno, "no random bytes");
	snprintf(marker, WAY_MARKER_SIZE, "%016" PRIx64 "%016" PRIx64, bits[0], bits[1]);
	return true;
}

bool
way_send_marker(const Way *way, char marker[WAY_MARKER_SIZE], Error *err)
{
	return name_marker(marker, err) && source_emit_marker(way_from(way), way->ledger, marker, err);
}

bool
way_drain_to_marker(const Way *way, int64_t deadline_ms, bool may_pause, Error *err)
{
	char marker[WAY_MARKER_SIZE];

	return way_send_marker(way, marker, err) &&
	       way_wait_marker(way, marker, deadline_ms, may_pause, err);
}
