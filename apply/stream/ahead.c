#include "apply/stream/ahead.h"

#include "common/log.h"

enum { LOOK_MS = 20 }; /* whether the applier is to stop, while the commit is waited for */

/* All transactions up to this commit are on the target. */
static Lsn
whole_up_to(Progress progress)
{
	uint64_t at = progress.commit_lsn.v;

	return lsn_make(progress.position == LEDGER_WHOLE || at == 0 ? at : at - 1);
}

static void
begin(Applier *applier)
{
	EarlyOptions options = {
		.target = applier->target,
		.ledger = &applier->ledger,
		.catalog = applier->options.catalog,
		.log = applier->options.log,
		.name = applier->options.stream_name != NULL ? applier->options.stream_name
	                                                 : applier->ledger.name,
		.proto_version = applier->options.proto_version,
		.batch_rows = applier->options.batch_rows,
	};
	TxLogEarly *tx = txlog_early_take(applier->options.log);

	if (tx == NULL)
		return;
	applier->early = early_start(&options, tx, whole_up_to(applier->progress));
	feed_expect(applier->feed, early_stream(applier->early));
	log_info("applier", "applying transaction %u before its commit", early_xid(applier->early));
}

static void
count(Applier *applier, bool committed)
{
	pthread_mutex_lock(&applier->lock);
	applier->state.early += committed;
	applier->state.early_given_up += !committed;
	pthread_mutex_unlock(&applier->lock);
}

/* It is over; the feed may have met it, and then takes it. */
static void
put_away(Applier *applier)
{
	early_end(applier->early);
	applier->early = NULL;
	applier->met = false;
	if (applier->feed != NULL)
		feed_expect(applier->feed, 0);
}

void
ahead_drop(Applier *applier, const char *why)
{
	if (applier->early == NULL)
		return;
	log_info("applier", "transaction %u waits for its commit: %s", early_xid(applier->early), why);
	put_away(applier);
	count(applier, false);
}

void
ahead_tend(Applier *applier)
{
	Error err = ERROR_INIT;

	if (applier->early != NULL) {
		if (!atomic_load(&applier->early_allowed))
			ahead_drop(applier, "it is not wanted now");
		else if (early_state(applier->early, 0, &err) == EARLY_GIVEN_UP)
			ahead_drop(applier, err.message);
		return;
	}
	/* Where there is other work in the log it would only be in the way. */
	if (txlog_early_offered(applier->options.log) && atomic_load(&applier->early_allowed) &&
	    !feed_ready(applier->feed) && !applier_paused(applier))
		begin(applier);
}

/* Who waits for a marker goes on to take locks on the target. */
void
ahead_account(Applier *applier, const Batch *batch)
{
	if (applier->early == NULL)
		return;
	if (batch->marker_count > 0)
		ahead_drop(applier, "a marker has come");
	else
		early_applied(applier->early, whole_up_to(applier->progress));
}

static void
describe(Batch *batch, const TxLogStreamed *met)
{
	batch->any = true;
	batch->whole = true;
	batch->transactions = 1;
	batch->end = (Progress){met->commit, LEDGER_WHOLE};
	batch->commit_lsn = met->commit;
	batch->end_lsn = met->end;
	batch->commit_time_us = met->time_us;
}

EarlyState
ahead_finish(Applier *applier, Batch *batch, Lsn *wal, Lsn *flushed, Error *err)
{
	TxLogStreamed met = feed_met(applier->feed);
	EarlyState state;

	uint64_t before = early_bytes(applier->early);
	early_finish(applier->early, &met, applier->progress);
	do
		state = early_state(applier->early, LOOK_MS, err);
	while (state == EARLY_WORKS && !applier_stopping(applier));
	if (state == EARLY_WORKS || state == EARLY_GIVEN_UP) {
		ahead_drop(applier, state == EARLY_WORKS ? "the end" : err->message);
		error_clear(err);
		return state;
	}
	if (state == EARLY_COMMITTED) {
		tally_take(applier->tally, early_result(applier->early, wal, flushed));
		log_info("applier", "transaction %u was applied, %d %% of it before its commit at %s",
		         early_xid(applier->early), (int)(before * 100 / (met.bytes + 1)),
		         LSN_STR(met.commit));
		feed_pass_met(applier->feed);
		describe(batch, &met);
		count(applier, true);
	}
	put_away(applier);
	return state;
}
