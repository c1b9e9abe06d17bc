/*
 * Asks a session's own server, within the client's connection, what it carries.
 *
 * Only at a boundary, with nothing on its way in either direction; the client's next
 * request stays here until the answer is whole (relay.c, gated), so that what comes back
 * until then is either the answer or what a server says unasked: ParameterStatus, notices and
 * notifications, which go to the client. Statement and portal have a name of ours and are
 * gone with the answer. An answer that does not come (a lock on a catalogue) is given up, with a
 * cancel, when a request has waited for it for PATIENCE_S; but not in the hold, where all wait and
 * the deadline is the hold's. Whether the unnamed statement is there is asked by describing it, in a
 * group of its own: without one that is an error, and it must not wait for the fence's locks.
 */
#include <string.h>

#include "common/log.h"
#include "common/memory.h"
#include "protocol/message/extended.h"
#include "protocol/message/message.h"
#include "proxy/listener/move/move.h"

/* What is read at once: all of it may have to go to the client, whose buffer is empty then. */
enum { READ_MOST = 32 * 1024, UNNAMED_GROUP = 1 };

static const double PATIENCE_S = 0.25;

static void
on_patience(struct ev_loop *ev UNUSED, ev_timer *timer, int events UNUSED)
{
	Session *session = timer->data;

	session->move->slow = true;
	if (session->loop->holding || session->to_server.len == session->to_server.admit)
		return; /* again in a while */
	if (session->client_ended && session->move->given_up) {
		session_close(session); /* not even the cancel has helped, and nobody waits here */
		return;
	}
	session->move->given_up = true;
	cancel_question(session);
}

bool
ask_possible(const Session *session)
{
	return (session->state == SESSION_RELAYING || session->state == SESSION_HELD) &&
	       !session->asking && session->cancelling == NULL && !session->server_deaf &&
	       !session->end_wanted && track_at_boundary(&session->track) &&
	       session->to_client.data == NULL && session->to_server.pos == session->to_server.admit;
}

static void
begin(Session *session)
{
	Move *move = session->move;

	session->asking = true;
	move->slow = move->given_up = false;
	move->closing = false;
	ev_timer_init(&move->patience, on_patience, PATIENCE_S, PATIENCE_S);
	move->patience.data = session;
	ev_timer_start(session->loop->ev, &move->patience);
	move->asked_at = session->track.requests;
	move->answer_reason[0] = '\0';
	move->answer_unnamed = false;
	move->answer_failed = false;
	move->answer_group = 0;
	carried_init(&move->answer);
	frame_reader_init(&move->in, (FrameLimits){64 * 1024, CARRIED_BYTES_MAX});
}

static void
drop_kept(Move *move)
{
	if (move->kept)
		carried_put_end_of_question(&move->out);
	move->kept = false;
}

/* Ahead of a hold it will be asked again. */
static void
put_quick(Move *move, const Mover *mover)
{
	const Buffer *names = &mover->names.names;

	if (move->kept && (move->kept_names != names->len || move->kept_settings != move->settings))
		drop_kept(move);
	if (!move->kept)
		carried_put_quick_statement(&move->out, buffer_slice(names), move->settings);
	carried_put_quick_question(&move->out);
	move->kept = true;
	move->kept_names = names->len;
	move->kept_settings = move->settings;
	if (move->wish == WISH_KNOW)
		drop_kept(move);
}

void
ask_begin(Session *session, bool quick)
{
	Move *move = session->move;
	const Mover *mover = session->loop->listener->mover;

	begin(session);
	move->asked = true;
	move->quick = quick;
	if (quick) {
		put_quick(move, mover);
	} else {
		drop_kept(move);
		carried_put_question(&move->out, buffer_slice(&mover->names.names));
	}
	message_put_sync(&move->out);
	move->syncs = 1;
	if (move->statements.unnamed.message.len > 0) {
		carried_put_unnamed_question(&move->out);
		message_put_sync(&move->out);
		move->syncs++;
	}
	ask_writable(session);
}

void
ask_forget(Session *session)
{
	begin(session);
	session->move->closing = true;
	drop_kept(session->move);
	message_put_sync(&session->move->out);
	session->move->syncs = 1;
	ask_writable(session);
}

void
ask_writable(Session *session)
{
	Move *move = session->move;
	Error err;

	while (move->out_pos < move->out.len) {
		ssize_t n = session->server.ops->write(&session->server, move->out.data + move->out_pos,
		                                       move->out.len - move->out_pos, &err);
		if (n < 0) /* reading will tell */
			move->out_pos = move->out.len;
		if (n <= 0)
			break;
		move->out_pos += (size_t)n;
	}
	bool all = move->out_pos == move->out.len;
	if (all) {
		buffer_free(&move->out);
		move->out_pos = 0;
	}
	watch_io(session->loop, &session->server_write, !all);
}

/* ---- the answer ---- */

static void
set_reason(Move *move, const char *text)
{
	if (move->answer_reason[0] == '\0')
		reason_set(move->answer_reason, "it cannot be asked: %s", text);
}

static void
pass_frame(Session *session, const Frame *frame)
{
	Buffer bytes = BUFFER_INIT;

	buffer_put_u8(&bytes, (uint8_t)frame->type);
	buffer_put_u32(&bytes, (uint32_t)(frame->payload.len + 4));
	buffer_put_slice(&bytes, frame->payload);
	if (!relay_put_client(session, buffer_slice(&bytes)))
		log_warning("listener", "%s: a notice is too long to be passed on", session->who);
	buffer_free(&bytes);
}

static void
take_error(Session *session, const Frame *frame)
{
	Move *move = session->move;
	ServerReport report;
	Error err = ERROR_INIT;

	if (!message_parse_report(frame->payload, &report, &err)) {
		set_reason(move, err.message);
		return;
	}
	if (server_report_is_fatal(&report)) {
		pass_frame(session, frame); /* the server's last words */
		set_reason(move, "its server ends it");
		return;
	}
	const char *code = move->answer_group == UNNAMED_GROUP && report.sqlstate != NULL
	                       ? report.sqlstate
	                       : "";
	bool unnamed_missing = strcmp(code, "26000") == 0;
	bool unnamed_locked = strcmp(code, "55P03") == 0;
	move->answer_failed = true;
	move->answer_unnamed = move->answer_unnamed || unnamed_locked;
	if (!unnamed_missing && !unnamed_locked)
		set_reason(move, report.message != NULL ? report.message : "(no message)");
}

static void
take_frame(Session *session, const Frame *frame)
{
	Move *move = session->move;
	Error err = ERROR_INIT;

	switch (frame->type) {
	case 'S':
	case 'A':
	case 'N':
		pass_frame(session, frame);
		break;
	case 'E':
		take_error(session, frame);
		break;
	case 'D':
		if (move->answer_reason[0] == '\0' &&
		    !carried_take_row(&move->answer, frame->payload, &err))
			set_reason(move, err.message);
		break;
	case 'T':
	case 'n':
		move->answer_unnamed = move->answer_unnamed || move->answer_group == UNNAMED_GROUP;
		break;
	case 'Z':
		if (frame->payload.data[0] != 'I')
			set_reason(move, "it is in a transaction");
		/* What is behind an error in its group is not done: nor was our statement closed. */
		if (move->answer_group == 0 && move->answer_failed) {
			move->kept = false;
			carried_put_end_of_question(&move->out);
			message_put_sync(&move->out);
			move->syncs++;
			ask_writable(session);
		}
		move->answer_group++;
		move->syncs--;
		break;
	default:
		break;
	}
}

/* The answer takes the place of the last one, or says that it still holds. */
static void
keep_answer(Session *session)
{
	Move *move = session->move;
	const CarriedItem *was, *is;

	carried_complete(&move->answer);
	if (move->quick) {
		was = carried_find(&move->carried, CARRIED_DIGEST, "digest");
		is = carried_find(&move->answer, CARRIED_DIGEST, "digest");
		move->changed = was == NULL || is == NULL || strcmp(was->value, is->value) != 0;
		if (move->changed) {
			move->asked = false; /* for the whole, now */
			return;
		}
	} else {
		carried_free(&move->carried);
		move->carried = move->answer;
		move->answer = (Carried){.arena = NULL};
		move->carried_sets = session->track.sets;
		is = carried_find(&move->carried, CARRIED_NAMES, "names");
		move->settings = is != NULL ? mover_settings(session->loop->listener->mover, is->value)
		                            : NULL;
		move->changed = false;
	}
	move->carried_at = move->asked_at;
	move->unnamed = move->answer_unnamed;
}

void
ask_end(Session *session)
{
	if (session->asking)
		ev_timer_stop(session->loop->ev, &session->move->patience);
	session->asking = false;
}

static void
judge_answer(Session *session)
{
	Move *move = session->move;
	bool ok = move->answer_reason[0] == '\0';

	if (!ok && move->given_up)
		reason_set(move->answer_reason, "its server did not answer when it was asked");
	if (move->quick && !ok && !move->given_up) {
		move->changed = true; /* ask for the whole; what is wrong will be so again */
		move->asked = false;
	} else {
		memcpy(move->ask_reason, move->answer_reason, sizeof(move->ask_reason));
	}
	if (ok)
		keep_answer(session);
}

static void
answered(Session *session)
{
	Move *move = session->move;

	if (!move->closing)
		judge_answer(session);
	carried_free(&move->answer);
	/* What stands behind it is the client's: it may be half a message. */
	Buffer rest = BUFFER_INIT;
	buffer_put(&rest, move->in.data + move->in.pos, frame_reader_buffered(&move->in));
	frame_reader_free(&move->in);
	ask_end(session);
	bool alive = rest.len == 0 || relay_server_bytes(session, buffer_slice(&rest));
	buffer_free(&rest);
	if (alive)
		relay_progress(session);
	if (session_alive(session))
		move_step(session);
}

void
ask_readable(Session *session)
{
	Move *move = session->move;
	Error err = ERROR_INIT;
	FrameResult result = FRAME_MORE;
	size_t room;
	Frame frame;

	uint8_t *at = frame_reader_room(&move->in, &room);
	if (room > READ_MOST)
		room = READ_MOST;
	ssize_t n = session->server.ops->read(&session->server, at, room, &err);
	if (n < 0) {
		session_end(session);
		return;
	}
	session->server_more = (size_t)n == room;
	frame_reader_received(&move->in, (size_t)n);
	while (move->syncs > 0 && (result = frame_reader_next(&move->in, &frame, &err)) == FRAME_READY)
		take_frame(session, &frame);
	if (result == FRAME_BAD) {
		log_warning("listener",
		            "%s: the server sent what is no message (%s); the session is closed",
		            session->who, err.message);
		session_close(session);
		return;
	}
	if (move->syncs == 0)
		answered(session);
	if (session_alive(session) && session->state < SESSION_CLOSING)
		relay_watch(session);
}
