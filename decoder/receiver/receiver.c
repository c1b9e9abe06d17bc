#include "decoder/receiver/receiver.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "decoder/receiver/internal.h"

/*
 * The thread: connect and stream; on an error that time can heal, wait a
 * little and again, for ever; on any other set state.failed and end.
 *
 *   connecting --CopyBoth--> streaming --stop--> ended
 *       ^                        |
 *       +--- back-off <-- error -+--error that stays--> failed
 */
enum { BACKOFF_MIN_MS = 100, BACKOFF_MAX_MS = 5000 };

/* Only the loop's own thread may touch the loop, but ev_async_send. */
static void
tell_news(void *arg)
{
	Receiver *receiver = arg;
	ev_async_send(receiver->loop, &receiver->news);
}

static void
set_error(Receiver *receiver, const Error *err, bool failed)
{
	pthread_mutex_lock(&receiver->lock);
	receiver->state.connected = false;
	receiver->state.held_by_log = receiver->state.held_by_disk = false;
	receiver->state.error = *err;
	receiver->state.failed = failed;
	if (!failed)
		receiver->state.reconnects++;
	pthread_mutex_unlock(&receiver->lock);
}

static uint64_t
bytes_so_far(Receiver *receiver)
{
	ReceiverState state;
	receiver_state(receiver, &state);
	return state.bytes;
}

/* Up to 18 at least, a table that is truncated in a sub-transaction which is rolled back, and
 * then again, cannot be sent while its transaction is in progress ("could not map filenumber"):
 * at each try, since the server begins before it each time. Whole, without what was rolled back, it
 * can. What else is wrong inside the server comes again then. */
static bool
can_do_without_streams(Receiver *receiver, const Error *err)
{
	if (!receiver->streaming || err->class != ERROR_SQL || strncmp(err->sqlstate, "XX", 2) != 0)
		return false;
	receiver->whole = true;
	log_warning("receiver", "asking for whole transactions only, until the next start: the server "
	                        "fails inside while it sends them in progress");
	return true;
}

static void *
receiver_main(void *arg)
{
	Receiver *receiver = arg;
	int64_t backoff = BACKOFF_MIN_MS;
	Error ignored;

	for (;;) {
		Error err = ERROR_INIT;
		uint64_t before = bytes_so_far(receiver);

		if (receiver_stream(receiver, &err) || stop_requested(receiver->stop))
			break;
		error_add_context(&err, "slot \"%s\" on %s", receiver->slot,
		                  conninfo_display(receiver->source));
		bool retry = receiver_can_retry(&err, receiver->was_connected) ||
		             can_do_without_streams(receiver, &err);
		set_error(receiver, &err, !retry);
		log_failure(retry ? LOG_WARNING : LOG_ERROR, "receiver", &err);
		if (!retry)
			break;
		if (bytes_so_far(receiver) != before)
			backoff = BACKOFF_MIN_MS;
		if (!stop_sleep_ms(receiver->stop, clock_jitter_ms(backoff), &ignored))
			break;
		backoff = backoff * 2 < BACKOFF_MAX_MS ? backoff * 2 : BACKOFF_MAX_MS;
	}
	pthread_mutex_lock(&receiver->lock);
	receiver->state.connected = false;
	pthread_mutex_unlock(&receiver->lock);
	return NULL;
}

/* Text that means the same whatever the server's, database's or role's own settings are
 * (search_path: without it a regclass of schema public has no schema, and the reader looks
 * nowhere but in pg_catalog); no timeout of the server's may end the stream. */
static char *
session_options(int64_t wal_sender_timeout_ms)
{
	const char *common = "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3"
						 " -c lc_monetary=C -c timezone=UTC -c search_path=pg_catalog"
						 " -c statement_timeout=0 -c idle_in_transaction_session_timeout=0";
	if (wal_sender_timeout_ms == 0)
		return mem_strdup(common);
	return mem_printf("%s -c wal_sender_timeout=%lld", common, (long long)wal_sender_timeout_ms);
}

/* Does nothing: an async watcher that is active is what wakes the loop; each
 * connection sets its own callback. */
static void
ignore_news(struct ev_loop *loop UNUSED, ev_async *watcher UNUSED, int events UNUSED)
{
}

static void
receiver_free(Receiver *receiver)
{
	if (receiver->loop != NULL) {
		ev_async_stop(receiver->loop, &receiver->news);
		ev_loop_destroy(receiver->loop);
	}
	stop_free(receiver->stop);
	stop_free(receiver->connect_stop);
	conninfo_free(receiver->source);
	pthread_mutex_destroy(&receiver->lock);
	free(receiver->system_id);
	free(receiver->slot);
	free(receiver->publication);
	free(receiver->session_options);
	free(receiver);
}

Receiver *
receiver_start(const ReceiverOptions *options, TxLog *log, Error *err)
{
	if (options->confirm == CONFIRM_APPLIED && !receiver_use_known(&options->known, log, err))
		return NULL;
	Receiver *receiver = mem_zalloc(sizeof(Receiver));
	receiver->source = conninfo_copy(options->source);
	conninfo_set(receiver->source, "client_encoding", "UTF8");
	receiver->system_id = mem_strdup(options->system_id);
	receiver->slot = mem_strdup(options->slot);
	receiver->publication = mem_strdup(options->publication);
	receiver->session_options = session_options(options->wal_sender_timeout_ms);
	receiver->binary = options->binary;
	receiver->when_lost = options->when_lost != NULL
	                          ? options->when_lost
	                          : "cancel the migration and start it again from a fresh copy";
	receiver->confirm = options->confirm;
	receiver->known = options->known;
	receiver->noted = options->known.confirmed;
	receiver->noted_timeline = options->known.timeline;
	receiver->start = options->start;
	receiver->copied = options->copied;
	receiver->arg = options->arg;
	receiver->log = log;
	receiver->stop = stop_new();
	receiver->connect_stop = stop_new();
	pthread_mutex_init(&receiver->lock, NULL);
	receiver->loop = ev_loop_new(EVFLAG_AUTO);
	CHECK(receiver->loop != NULL);
	ev_async_init(&receiver->news, ignore_news);
	ev_async_start(receiver->loop, &receiver->news);

	int failed = pthread_create(&receiver->thread, NULL, receiver_main, receiver);
	if (failed != 0) {
		error_set_errno(err, ERROR_BUG, failed, "start a thread");
		receiver_free(receiver);
		return NULL;
	}
	txlog_on_progress(log, tell_news, receiver);
	return receiver;
}

void
receiver_stop(Receiver *receiver)
{
	if (receiver == NULL)
		return;
	/* A stream that runs is ended politely; only connecting is cut short. */
	pthread_mutex_lock(&receiver->lock);
	stop_request(receiver->stop);
	if (!receiver->state.connected)
		stop_request(receiver->connect_stop);
	pthread_mutex_unlock(&receiver->lock);
	tell_news(receiver);
	pthread_join(receiver->thread, NULL);
	txlog_on_progress(receiver->log, NULL, NULL);
	receiver_free(receiver);
}

void
receiver_set_applied(Receiver *receiver, Lsn applied_end)
{
	pthread_mutex_lock(&receiver->lock);
	bool moved = lsn_cmp(applied_end, receiver->applied_end) > 0;
	receiver->applied_end = lsn_max(receiver->applied_end, applied_end);
	pthread_mutex_unlock(&receiver->lock);
	if (moved)
		tell_news(receiver);
}

bool
receiver_to_note(Receiver *receiver, uint32_t *timeline, Lsn *confirmed)
{
	TxLogState log;

	if (receiver->confirm != CONFIRM_APPLIED)
		return false;
	pthread_mutex_lock(&receiver->lock);
	txlog_state(receiver->log, &log);
	*timeline = log.timeline;
	*confirmed = lsn_max(receiver->wanted, receiver->noted);
	bool news = log.timeline != 0 && (log.timeline != receiver->noted_timeline ||
	                                  lsn_cmp(*confirmed, receiver->noted) > 0);
	pthread_mutex_unlock(&receiver->lock);
	return news;
}

void
receiver_noted(Receiver *receiver, uint32_t timeline, Lsn confirmed)
{
	TxLogState log;

	pthread_mutex_lock(&receiver->lock);
	txlog_state(receiver->log, &log);
	/* Another timeline may have left that one before this position. */
	if (log.timeline == timeline) {
		receiver->noted = confirmed;
		receiver->noted_timeline = timeline;
	}
	pthread_mutex_unlock(&receiver->lock);
	tell_news(receiver);
}

void
receiver_state(Receiver *receiver, ReceiverState *out)
{
	pthread_mutex_lock(&receiver->lock);
	*out = receiver->state;
	pthread_mutex_unlock(&receiver->lock);
}
