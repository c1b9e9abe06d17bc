#include "apply/copy/session.h"

#include <stddef.h>
#include <stdlib.h>

/* As startup options, so that a role's own statement_timeout cannot end even the first
 * SET. transaction_timeout and idle_session_timeout are younger than 12: set later. */
static const char startup_options[] =
	"-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0";

/* row_security off: C5. lc_monetary: money's text has the locale's digits and signs;
 * C reads back what C has written. xmloption: a document setting refuses fragments.
 * tcp_keepalives: as in apply/sql.c. */
static const char both_settings[] =
	"SET client_encoding = 'UTF8'; SET search_path = ''; SET row_security = off;"
	"SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';"
	"SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C';"
	"SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;"
	"SET array_nulls = on; SET xmloption = content; SET standard_conforming_strings = on";

/* What we call copied must survive the target's crash (C3). */
static const char target_settings[] = "SET synchronous_commit = on";

bool
copy_query(Wire *wire, const char *side, const char *sql, WireResult **result, Error *err)
{
	return wire_query(wire, sql, 0, result, err) || error_add_context(err, "%s", side);
}

static bool
set_both(Wire *wire, const char *side, Error *err)
{
	int version = wire_server_version(wire);

	if (!copy_query(wire, side, both_settings, NULL, err))
		return false;
	if (version >= 140000 && !copy_query(wire, side, "SET idle_session_timeout = 0", NULL, err))
		return false;
	return version < 170000 || copy_query(wire, side, "SET transaction_timeout = 0", NULL, err);
}

static Wire *
connect_side(const ConnInfo *info, const char *side, const Stop *stop, Error *err)
{
	WireOptions wire_options = {
		.info = info,
		.application_name = "pgbaton copy",
		.options = startup_options,
		.stop = stop,
	};
	Wire *wire = wire_connect(&wire_options, err);

	if (wire == NULL) {
		error_add_context(err, "%s", side);
		return NULL;
	}
	if (!set_both(wire, side, err)) {
		wire_close(wire);
		return NULL;
	}
	return wire;
}

/*
 * A server that takes the source's place is read only when the receiver has found that it has all
 * that was received and copied so far: what is copied there would count among that, and its
 * positions mean nothing on the timeline before.
 */
static bool
is_followed_source(Wire *source, TxLog *log, Error *err)
{
	WireResult *result = NULL;
	TxLogState state;

	if (!copy_query(source, "source", LEDGER_TIMELINE_SQL, &result, err))
		return ledger_no_timeline("source", err);
	uint32_t now = (uint32_t)strtoul(wire_result_get(result, 0, 0), NULL, 10);
	wire_result_free(result);
	if (log == NULL)
		return true;
	txlog_state(log, &state);
	return state.timeline == 0 || now == state.timeline ||
	       error_set(err, ERROR_NETWORK,
	                 "the source is on timeline %u, not %u: waiting until the receiver has looked "
	                 "whether it has everything",
	                 now, state.timeline);
}

Wire *
copy_source_connect(const CopyOptions *options, Error *err)
{
	Wire *wire = connect_side(options->source, "source", options->stop, err);

	if (wire == NULL || is_followed_source(wire, options->log, err))
		return wire;
	wire_close(wire);
	return NULL;
}

/* Not allowed everywhere (42501): then the copy of a table with triggers is refused
 * (table.c), and foreign keys, if there are any, are checked. */
static bool
set_replica_role(CopySession *session, Error *err)
{
	Error local = ERROR_INIT;

	session->replica = copy_query(session->target, "target",
	                              "SET session_replication_role = replica", NULL, &local);
	if (session->replica || error_has_sqlstate(&local, "42501"))
		return true;
	*err = local;
	return false;
}

/* Ranges that are known as done are done there only. */
static bool
is_same_target(Wire *target, const Ledger *ledger, Error *err)
{
	WireResult *result = NULL;

	if (!copy_query(target, "target", LEDGER_TIMELINE_SQL, &result, err))
		return ledger_no_timeline("target", err);
	const char *now = wire_result_get(result, 0, 0);
	bool same = ledger_same_timeline(ledger, (uint32_t)strtoul(now, NULL, 10), err);
	wire_result_free(result);
	return same;
}

bool
copy_session_open(CopySession *session, const CopyOptions *options, Error *err)
{
	if (session->source == NULL)
		session->source = copy_source_connect(options, err);
	if (session->source == NULL)
		return false;
	if (session->target != NULL)
		return true;

	session->target = connect_side(options->target, "target", options->stop, err);
	if (session->target == NULL)
		return false;
	return copy_query(session->target, "target", target_settings, NULL, err) &&
	       is_same_target(session->target, options->ledger, err) && set_replica_role(session, err);
}

void
copy_session_close(CopySession *session)
{
	wire_close(session->source);
	wire_close(session->target);
	*session = COPY_SESSION_CLOSED;
}
