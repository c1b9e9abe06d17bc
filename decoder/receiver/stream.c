#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "decoder/pgoutput.h"
#include "decoder/receiver/internal.h"

/*
 * One connection in copy-both mode. The loop's callbacks only say that there is
 * something to do; stream_turn does it all: take frames while there are any and
 * the log has room, publish, send what is due, set the timer to what is due next.
 */
typedef struct {
	Receiver *receiver;
	Wire *wire;
	ev_io io;
	ev_timer timer;
	short watched; /* poll events that io is started for; 0: not */

	bool in_transaction; /* also in a block of a streamed one */
	bool dropping;       /* the open transaction is in the log already (P7) */
	bool held;           /* the log is full: not reading */
	bool waiting;        /* the log's disk is behind: not reading either */
	bool reply_wanted;
	Lsn received;
	Lsn keepalive_end; /* of the last one outside a transaction */
	Lsn server_end;
	uint64_t bytes; /* since the state was last told, */
	uint64_t messages;
	Backlog backlog;

	Buffer out;
	Lsn sent_received; /* as last sent */
	Lsn sent_confirmed;
	int64_t sent_ms;
	int64_t heard_ms;
	int64_t heartbeat_ms; /* at least that often, or the server gives us up */

	bool ended; /* stop, or *err is set */
	bool failed;
	Error *err;
} Stream;

/* ---- what comes in ---- */

/* Whole transactions and blocks of streamed ones come one after the other, and what
 * ends a streamed one comes between them. */
static bool
check_place(const Stream *s, uint8_t kind, Error *err)
{
	bool between = kind == PGO_BEGIN || kind == PGO_STREAM_START || kind == PGO_STREAM_COMMIT ||
	               kind == PGO_STREAM_ABORT;

	if (s->in_transaction && (between || (s->dropping && kind == PGO_STREAM_STOP)))
		return error_set(err, ERROR_PROTOCOL, "pgoutput message '%c' inside a transaction", kind);
	return true;
}

static void
take_begin(Stream *s, Slice message, int64_t sent_us)
{
	ByteReader r = reader_of(slice_of(message.data + 1, message.len - 1));
	Lsn commit = lsn_make(read_u64(&r));

	s->dropping = message.data[0] == PGO_BEGIN && !r.failed && txlog_has(s->receiver->log, commit);
	s->in_transaction = true;
	int64_t commit_us = (int64_t)read_u64(&r);
	if (message.data[0] == PGO_BEGIN && !r.failed)
		backlog_begin(&s->backlog, commit_us, sent_us);
}

/* P7: a transaction that the log has is dropped, but for what it says about
 * relations and types: the server will not say that again. (A streamed one, whose
 * commit comes last, the log itself drops.) */
static bool
take_message(Stream *s, Slice message, int64_t sent_us, Error *err)
{
	uint8_t kind = message.len > 0 ? message.data[0] : 0;

	if (!check_place(s, kind, err))
		return false;
	if (kind == PGO_BEGIN || kind == PGO_STREAM_START)
		take_begin(s, message, sent_us);
	bool drop = s->dropping && kind != PGO_RELATION && kind != PGO_TYPE;
	if (!drop && !txlog_append(s->receiver->log, message, err))
		return false;
	if (kind == PGO_COMMIT || kind == PGO_STREAM_STOP)
		s->in_transaction = s->dropping = false;
	return true;
}

static bool
take_frame(Stream *s, Slice payload, Error *err)
{
	ReplicationFrame frame;

	if (!replication_parse(payload, &frame, err))
		return false;
	s->bytes += payload.len;
	if (frame.kind == REPLICATION_DATA) {
		s->received = lsn_max(s->received, frame.start);
		s->messages++;
		if (take_message(s, frame.message, frame.time_us, err))
			return true;
		return error_add_context(err, "at %s", LSN_STR(frame.start));
	}
	s->received = lsn_max(s->received, frame.end);
	s->server_end = frame.end;
	s->reply_wanted = s->reply_wanted || frame.reply_wanted;
	if (!s->in_transaction)
		s->keepalive_end = lsn_max(s->keepalive_end, frame.end);
	return true;
}

typedef enum { TOOK_ALL, TOOK_SOME, TOOK_ERROR } Took;

/* A bounded number of frames, so that statuses go out on time however fast the server
 * sends, and that the log takes them without waiting for its disk. */
static Took
take_frames(Stream *s, Error *err)
{
	enum { FRAMES = 512, BYTES = 1024 * 1024 };
	uint64_t until = s->bytes + BYTES;

	for (int i = 0; i < FRAMES && s->bytes < until; i++) {
		Slice payload;
		switch (wire_copy_both_next(s->wire, &payload, err)) {
		case WIRE_FRAME:
			s->heard_ms = clock_mono_ms();
			if (!take_frame(s, payload, err))
				return TOOK_ERROR;
			break;
		case WIRE_NOTHING:
			return TOOK_ALL;
		case WIRE_COPY_END:
			error_set(err, ERROR_NETWORK, "the source ended the stream (it is shutting down)");
			return TOOK_ERROR;
		case WIRE_FAILED:
			return TOOK_ERROR;
		}
	}
	return TOOK_SOME;
}

/* ---- what goes out ---- */

static Lsn
confirmable(Stream *s, TxLogState *log)
{
	Receiver *receiver = s->receiver;

	txlog_state(receiver->log, log);
	pthread_mutex_lock(&receiver->lock);
	ConfirmInput input = {
		.mode = receiver->confirm,
		.open = s->in_transaction,
		.last_end = log->last_end,
		.synced_end = log->synced_end,
		.all_synced = log->all_synced,
		.applied_end = receiver->applied_end,
		.keepalive_end = s->keepalive_end,
	};
	Lsn position = confirm_position(&input);
	if (receiver->confirm == CONFIRM_APPLIED) {
		receiver->wanted = position;
		position = lsn_min(position, receiver->noted);
	}
	pthread_mutex_unlock(&receiver->lock);
	return lsn_max(s->sent_confirmed, position);
}

/* When the next status is due, as things stand. A keepalive's position is in no
 * hurry, and costs an fsync. */
static int64_t
status_due(const Stream *s, Lsn confirmed, Lsn last_end)
{
	int64_t after = s->heartbeat_ms;

	if (s->reply_wanted)
		after = 0;
	else if (lsn_cmp(lsn_min(confirmed, last_end), s->sent_confirmed) > 0)
		after = STATUS_CONFIRM_MS;
	else if ((lsn_cmp(s->received, s->sent_received) > 0 ||
	          lsn_cmp(confirmed, s->sent_confirmed) > 0) &&
	         after > STATUS_RECEIVED_MS)
		after = STATUS_RECEIVED_MS;
	return s->sent_ms + after;
}

static bool
send_status(Stream *s, Lsn confirmed, Error *err)
{
	Lsn applied = confirmed;
	int64_t now = clock_mono_ms();

	if (s->receiver->confirm == CONFIRM_LOGGED) {
		pthread_mutex_lock(&s->receiver->lock);
		applied = s->receiver->applied_end;
		pthread_mutex_unlock(&s->receiver->lock);
	}
	if (!txlog_note_confirmed(s->receiver->log, confirmed, err))
		return false;
	FAULT_POINT("confirm_noted");
	buffer_reset(&s->out);
	replication_status_update(lsn_max(s->received, confirmed), confirmed, applied, clock_pg_us(),
	                          !s->held && !s->waiting && now - s->heard_ms > SILENCE_MS / 2,
	                          &s->out);
	if (!wire_copy_both_put(s->wire, buffer_slice(&s->out), err))
		return false;
	FAULT_POINT("confirm_sent");
	s->sent_received = s->received;
	s->sent_confirmed = confirmed;
	s->sent_ms = now;
	s->reply_wanted = false;
	return true;
}

static void
tell_state(Stream *s)
{
	Receiver *receiver = s->receiver;

	pthread_mutex_lock(&receiver->lock);
	ReceiverState *state = &receiver->state;
	state->received = lsn_max(state->received, s->received);
	state->server_end = lsn_max(state->server_end, s->server_end);
	state->confirmed = lsn_max(state->confirmed, s->sent_confirmed);
	state->held_by_log = s->held;
	state->held_by_disk = s->waiting;
	if (s->bytes > 0)
		state->last_message_us = clock_wall_us();
	state->bytes += s->bytes;
	state->messages += s->messages;
	s->bytes = s->messages = 0;
	pthread_mutex_unlock(&receiver->lock);
}

/* Sends the status if it is due, and says when to come back. Nothing more is
 * queued while the last one has not gone out. */
static bool
send_due(Stream *s, int64_t *next_ms, Error *err)
{
	TxLogState log;
	bool empty;

	if (!wire_flush(s->wire, &empty, err))
		return false;
	Lsn confirmed = confirmable(s, &log);
	/* The end of what is logged was received too, whatever frames carry it. */
	s->received = lsn_max(s->received, log.last_end);
	if (empty && status_due(s, confirmed, log.last_end) <= clock_mono_ms() &&
	    !send_status(s, confirmed, err))
		return false;
	*next_ms = empty ? status_due(s, confirmed, log.last_end) - clock_mono_ms() : s->heartbeat_ms;
	return true;
}

/* ---- the turn ---- */

static void
set_held(Stream *s, bool full)
{
	if (full && !s->held)
		log_warning("receiver", "the transaction log is at its limit (--log-max-bytes): "
		                        "waiting for the target, the source keeps its WAL");
	if (!full && s->held) {
		s->heard_ms = clock_mono_ms(); /* the silence was ours */
		log_info("receiver", "the transaction log has room again");
	}
	s->held = full;
}

/* Back pressure is never loss: what is not read is not lost. And it is never silence: the
 * source gets its answers however long that lasts. */
static bool
log_takes_more(Stream *s)
{
	set_held(s, txlog_full(s->receiver->log));
	s->waiting = txlog_behind(s->receiver->log);
	if (s->waiting)
		s->heard_ms = clock_mono_ms();
	return !s->held && !s->waiting;
}

static bool
stream_work(Stream *s, int64_t *next_ms, Error *err)
{
	TxLog *log = s->receiver->log;
	Took took = TOOK_SOME;
	bool received = false;

	while (took == TOOK_SOME && !stop_requested(s->receiver->stop)) {
		took = log_takes_more(s) ? take_frames(s, err) : TOOK_ALL;
		if (took == TOOK_ERROR || !txlog_publish(log, err) || !send_due(s, next_ms, err))
			return false;
		received = received || s->bytes > 0;
		tell_state(s);
	}
	backlog_turn(&s->backlog, wire_socket(s->wire), received);
	*next_ms = backlog_wait_ms(&s->backlog, *next_ms);
	if (txlog_failed(log, err))
		return false;
	if (!s->held && clock_mono_ms() - s->heard_ms > SILENCE_MS)
		return error_set(err, ERROR_NETWORK, "the source has said nothing for %d s",
		                 SILENCE_MS / 1000);
	return true;
}

static void
watch(Stream *s)
{
	short wants = s->ended ? 0 : wire_wants(s->wire);

	if (s->held || s->waiting)
		wants &= (short)~POLLIN;
	if (wants == s->watched)
		return;
	ev_io_stop(s->receiver->loop, &s->io);
	s->watched = wants;
	if (wants == 0)
		return;
	ev_io_set(&s->io, wire_socket(s->wire),
	          ((wants & POLLIN) != 0 ? EV_READ : 0) | ((wants & POLLOUT) != 0 ? EV_WRITE : 0));
	ev_io_start(s->receiver->loop, &s->io);
}

static void
stream_turn(Stream *s)
{
	int64_t next_ms = STATUS_IDLE_MS;

	if (s->ended)
		return;
	if (!stream_work(s, &next_ms, s->err))
		s->ended = s->failed = true;
	if (stop_requested(s->receiver->stop))
		s->ended = true;
	watch(s);
	if (s->ended) {
		ev_break(s->receiver->loop, EVBREAK_ALL);
		return;
	}
	/* repeat is what ev_timer_again counts from now. */
	s->timer.repeat = next_ms > 1 ? (double)next_ms / 1000 : 0.001;
	ev_now_update(s->receiver->loop);
	ev_timer_again(s->receiver->loop, &s->timer);
}

static void
on_socket(struct ev_loop *loop UNUSED, ev_io *watcher, int events UNUSED)
{
	stream_turn(watcher->data);
}

static void
on_timer(struct ev_loop *loop UNUSED, ev_timer *watcher, int events UNUSED)
{
	stream_turn(watcher->data);
}

static void
on_news(struct ev_loop *loop UNUSED, ev_async *watcher, int events UNUSED)
{
	stream_turn(watcher->data);
}

/* ---- from connecting to the end ---- */

/* The server drops us after wal_sender_timeout without a status, also while we
 * do not read: a third of it keeps clear of that. */
static bool
ask_heartbeat(Stream *s, Error *err)
{
	WireResult *result;

	if (!wire_query(s->wire,
	                "SELECT setting FROM pg_catalog.pg_settings"
	                " WHERE name = 'wal_sender_timeout'",
	                deadline_in_ms(30000), &result, err))
		return false;
	const char *text = wire_result_rows(result) == 1 ? wire_result_get(result, 0, 0) : NULL;
	int64_t timeout = text != NULL ? strtoll(text, NULL, 10) : 0;
	wire_result_free(result);

	s->heartbeat_ms = STATUS_IDLE_MS;
	if (timeout > 0 && timeout / 3 < STATUS_IDLE_MS)
		s->heartbeat_ms = timeout / 3 > 20 ? timeout / 3 : 20;
	return true;
}

/*
 * What the slot has confirmed the server never sends again: it silently starts
 * behind it. All of that must be in this log; if not, the log has lost its end (a
 * restored directory, a removed file, a damaged tail that looked torn), or somebody
 * has moved the slot, and going on would lose transactions without a word.
 */
static bool
check_slot_position(Stream *s, Error *err)
{
	Receiver *receiver = s->receiver;
	Buffer sql = BUFFER_INIT;
	WireResult *result;
	TxLogState log;
	Lsn confirmed;

	buffer_put_text(&sql, "SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots"
	                      " WHERE slot_name = ");
	sql_put_literal(&sql, receiver->slot);
	bool ok = wire_query(s->wire, buffer_cstr(&sql), deadline_in_ms(30000), &result, err);
	buffer_free(&sql);
	if (!ok)
		return false;
	const char *text = wire_result_rows(result) == 1 ? wire_result_get(result, 0, 0) : NULL;
	bool known = text != NULL && lsn_parse(text, &confirmed);
	wire_result_free(result);

	txlog_state(receiver->log, &log);
	Lsn have = lsn_max(lsn_max(log.last_end, log.noted), receiver->start);
	if (!known || lsn_cmp(confirmed, have) <= 0)
		return true; /* START_REPLICATION says what is wrong with the slot */
	error_set(err, ERROR_STORAGE,
	          "the slot stands at %s, but the transaction log ends at %s: what came between was "
	          "confirmed and is not here",
	          LSN_STR(confirmed), LSN_STR(have));
	return error_set_hint(err,
	                      "the log directory was changed or damaged, or somebody advanced "
	                      "the slot or made it anew: %s",
	                      s->receiver->when_lost);
}

static bool
start_copy(Stream *s, Error *err)
{
	int version = wire_server_version(s->wire);
	Buffer sql = BUFFER_INIT;
	TxLogState log;

	txlog_state(s->receiver->log, &log);
	StartReplication start = {
		.slot = s->receiver->slot,
		.publication = s->receiver->publication,
		.start = lsn_max(log.last_end, s->receiver->start),
		.proto_version = replication_proto_version(version),
		.binary = s->receiver->binary && version >= 140000,
		.messages = version >= 140000,
		.streaming = version >= 140000 && !s->receiver->whole,
	};
	s->receiver->streaming = start.streaming;
	replication_start_command(&start, &sql);
	bool ok = wire_copy_both_start(s->wire, buffer_cstr(&sql), err);
	buffer_free(&sql);
	if (!ok)
		return error_has_sqlstate(err, "42704")
		           ? error_set_hint(
						 err,
						 "what it kept is lost: %s. A standby that is promoted has the slot "
						 "from 17 on, with sync_replication_slots = on",
						 s->receiver->when_lost)
		           : false;
	log_info("receiver", "streaming from %s, slot \"%s\", behind %s", wire_display(s->wire),
	         s->receiver->slot, LSN_STR(start.start));
	return true;
}

static bool
stream_connect(Stream *s, Error *err)
{
	Receiver *receiver = s->receiver;
	WireOptions options = {
		.info = receiver->source,
		.application_name = "pgbaton",
		.replication = true,
		.options = receiver->session_options,
		.stop = receiver->connect_stop,
	};

	s->wire = wire_connect(&options, err);
	if (s->wire == NULL)
		return false;
	receiver->was_connected = true;
	return receiver_check_server(receiver, s->wire, err) && ask_heartbeat(s, err) &&
	       check_slot_position(s, err) && start_copy(s, err);
}

/* A last confirmation, so that a start after this stop is sent little again. */
static void
stream_goodbye(Stream *s)
{
	TxLogState log;
	Error err = ERROR_INIT;

	if (txlog_sync(s->receiver->log, deadline_in_ms(2000), &err) &&
	    send_status(s, confirmable(s, &log), &err) &&
	    wire_copy_both_end(s->wire, deadline_in_ms(3000), &err))
		tell_state(s);
	else
		log_failure(LOG_DEBUG, "receiver", &err);
}

static void
stream_loop(Stream *s)
{
	Receiver *receiver = s->receiver;

	pthread_mutex_lock(&receiver->lock);
	receiver->state.connected = true;
	pthread_mutex_unlock(&receiver->lock);
	s->heard_ms = clock_mono_ms();
	ev_init(&s->io, on_socket);
	ev_init(&s->timer, on_timer);
	s->io.data = s->timer.data = receiver->news.data = s;
	ev_set_cb(&receiver->news, on_news);

	stream_turn(s);
	if (!s->ended)
		ev_run(receiver->loop, 0);

	ev_io_stop(receiver->loop, &s->io);
	ev_timer_stop(receiver->loop, &s->timer);
	receiver->news.data = NULL;
}

bool
receiver_stream(Receiver *receiver, Error *err)
{
	Stream s = {.receiver = receiver, .err = err};

	/* What came of transactions before the connection was lost comes again. */
	if (!txlog_discard_open(receiver->log, err) || !txlog_publish(receiver->log, err))
		return false;
	bool ok = stream_connect(&s, err);
	if (ok) {
		stream_loop(&s);
		tell_state(&s);
		ok = !s.failed;
		if (ok)
			stream_goodbye(&s);
	}
	wire_close(s.wire);
	buffer_free(&s.out);
	return ok;
}
