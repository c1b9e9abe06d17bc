#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "decoder/receiver/internal.h"

/*
 * Positions mean something on one server and one timeline only. A standby that was promoted, and a
 * server restored from a backup, have a new timeline, which left the old one at some position:
 * what we have from behind it was never there, and other transactions stand at its positions.
 * START_REPLICATION would pass over those without a word. A server put back to a snapshot of its
 * disk has the old timeline, and ends before what we have.
 */
static bool
hint_what_now(const Receiver *receiver, Error *err)
{
	return error_set_hint(
		err,
		"the other side has rows that this server has lost (a standby was promoted "
		"that had not received everything, or a backup was restored): %s. From 17 on "
		"this cannot happen if the primary names the standby in "
		"synchronized_standby_slots and that has sync_replication_slots = on",
		receiver->when_lost);
}

bool
receiver_use_known(const ReceiverKnown *known, TxLog *log, Error *err)
{
	TxLogState state;

	txlog_state(log, &state);
	return known->timeline == 0 || state.timeline != 0 ||
	       (txlog_note_timeline(log, known->timeline, LSN_INVALID, err) &&
	        txlog_note_confirmed(log, known->confirmed, err));
}

static bool
check_system(const Receiver *receiver, const SystemIdentity *identity, Error *err)
{
	if (strcmp(identity->system_id, receiver->system_id) == 0)
		return true;
	error_set(err, ERROR_CONFIG,
	          "this is another server than before (system identifier %s, not %s)",
	          identity->system_id, receiver->system_id);
	return error_set_hint(err, "the address now leads to a different database cluster; its "
	                           "positions mean nothing here");
}

/* The address may lead to the standby before that is promoted. */
static bool
check_primary(Wire *wire, Error *err)
{
	WireResult *result;

	if (!wire_query(wire, "SELECT pg_catalog.pg_is_in_recovery()", deadline_in_ms(30000), &result,
	                err))
		return false;
	const char *standby = wire_result_rows(result) == 1 ? wire_result_get(result, 0, 0) : NULL;
	bool ok = standby == NULL || standby[0] != 't';
	wire_result_free(result);
	return ok || error_set(err, ERROR_NETWORK,
	                       "the source is a standby: waiting until it is promoted, or the address "
	                       "leads to the primary");
}

static bool
check_end(const Receiver *receiver, const SystemIdentity *identity, Lsn have, Error *err)
{
	if (lsn_cmp(identity->xlogpos, have) >= 0)
		return true;
	error_set(err, ERROR_CONFIG,
	          "the source has gone back: its WAL ends at %s, but all up to %s was received",
	          LSN_STR(identity->xlogpos), LSN_STR(have));
	return hint_what_now(receiver, err);
}

/* Rows count here, not what an idle stream was told to be without any. */
static bool
follow_timeline(Receiver *receiver, Wire *wire, const SystemIdentity *identity, uint32_t past,
                Lsn have, Error *err)
{
	uint32_t present = identity->timeline;
	Lsn fork = LSN_INVALID;

	if (present > past && !replication_fork(wire, present, past, &fork, err))
		return false;
	if (fork.v == 0) {
		error_set(err, ERROR_CONFIG,
		          "the source is on timeline %" PRIu32
		          ", which does not come from timeline %" PRIu32 " that was followed so far",
		          present, past);
		return hint_what_now(receiver, err);
	}
	if (lsn_cmp(fork, have) < 0) {
		error_set(err, ERROR_CONFIG,
		          "the source is on timeline %" PRIu32 " now, which left timeline %" PRIu32
		          " at %s, but all up to %s was received from that",
		          present, past, LSN_STR(fork), LSN_STR(have));
		return hint_what_now(receiver, err);
	}
	if (!txlog_note_timeline(receiver->log, present, fork, err))
		return false;
	pthread_mutex_lock(&receiver->lock);
	receiver->wanted = lsn_min(receiver->wanted, fork);
	receiver->noted = lsn_min(receiver->noted, fork);
	pthread_mutex_unlock(&receiver->lock);
	log_warning("receiver",
	            "the source is on timeline %" PRIu32 " now, from timeline %" PRIu32
	            " at %s: it has all that was received",
	            present, past, LSN_STR(fork));
	return true;
}

bool
receiver_check_server(Receiver *receiver, Wire *wire, Error *err)
{
	SystemIdentity identity;
	TxLogState log;

	if (!check_primary(wire, err) || !replication_identify(wire, &identity, err) ||
	    !check_system(receiver, &identity, err))
		return false;
	txlog_state(receiver->log, &log);
	Lsn have = lsn_max(log.last_end, receiver->start);
	if (receiver->known.applied.v != 0) /* a commit, which ends behind its begin */
		have = lsn_max(have, lsn_make(receiver->known.applied.v + 1));
	if (receiver->copied != NULL)
		have = lsn_max(have, receiver->copied(receiver->arg));
	if (log.timeline != 0 && log.timeline != identity.timeline)
		return follow_timeline(receiver, wire, &identity, log.timeline, have, err);
	return check_end(receiver, &identity, lsn_max(have, log.noted), err) &&
	       (log.timeline != 0 ||
	        txlog_note_timeline(receiver->log, identity.timeline, LSN_INVALID, err));
}
