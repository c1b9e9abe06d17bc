/*
 * COPY out and in. The relay never looks into a frame: runs of CopyData go
 * from the receive buffer of one wire to the kernel by way of the other.
 */
#include <poll.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "protocol/wire/internal.h"

/* Starts sql and waits for `response` ('H', 'G', 'W'). */
static bool
start_copy(Wire *wire, const char *sql, char response, WireState state, Error *err)
{
	Frame frame;
	int format;

	if (!wire_start_query(wire, sql, 0, err))
		return error_add_context(err, "%s", wire->display);
	bool ok = wire_next(wire, 0, &frame, err);
	if (!ok) {
		wire->state = WIRE_DEAD; /* a stop: the server is still at it */
	} else if (frame.type == response) {
		ok = message_parse_copy_response(frame.payload, &format, err);
		wire->state = ok ? state : WIRE_DEAD;
	} else if (frame.type == 'E') {
		wire_take_error(wire, frame.payload, err);
		ok = wire_fail_query(wire);
	} else {
		wire->state = WIRE_DEAD;
		ok = error_set(err, ERROR_BUG, "the statement did not begin the expected kind of copy");
	}
	return ok || error_add_context(err, "%s", wire->display);
}

static bool
expect_state(const Wire *wire, WireState state, Error *err)
{
	if (wire->state == state)
		return true;
	if (wire->state == WIRE_DEAD)
		return error_set(err, ERROR_NETWORK, "the connection is closed");
	return error_set(err, ERROR_BUG, "the connection is not in this kind of copy");
}

/* After CopyDone of either side: CommandComplete, ReadyForQuery. */
static bool
finish_copy(Wire *wire, uint64_t *rows, Error *err)
{
	Frame frame;
	const char *tag;
	Error sql = ERROR_INIT;

	*rows = 0;
	wire->state = WIRE_BUSY;
	for (;;) {
		if (!wire_next(wire, 0, &frame, err)) {
			wire->state = WIRE_DEAD;
			return false;
		}
		if (frame.type == 'E') {
			wire_take_error(wire, frame.payload, err);
			return wire_fail_query(wire);
		}
		if (frame.type == 'C')
			break;
		wire->state = WIRE_DEAD;
		return error_set(err, ERROR_PROTOCOL, "unexpected message '%c' at the end of a copy",
		                 frame.type);
	}
	if (!message_parse_complete(frame.payload, &tag, rows, err)) {
		wire->state = WIRE_DEAD;
		return false;
	}
	if (!wire_finish(wire, 0, &sql, err))
		return false;
	if (sql.class == ERROR_NONE)
		return true;
	if (err != NULL)
		*err = sql;
	return false;
}

bool
wire_copy_out_start(Wire *wire, const char *sql, Error *err)
{
	return start_copy(wire, sql, 'H', WIRE_COPY_OUT, err);
}

/* A frame that is not CopyData. *end: CopyDone. */
static bool
copy_out_other(Wire *wire, bool *end, Error *err)
{
	Frame frame;
	bool taken;

	*end = false;
	switch (frame_reader_next(&wire->in, &frame, err)) {
	case FRAME_MORE:
		return wire_receive(wire, 0, err);
	case FRAME_BAD:
		break;
	case FRAME_READY:
		if (!wire_absorb(wire, &frame, &taken, err))
			break;
		if (taken)
			return true;
		if (frame.type == 'E') {
			wire_take_error(wire, frame.payload, err);
			return wire_fail_query(wire);
		}
		*end = frame.type == 'c';
		if (*end)
			return true;
		error_set(err, ERROR_PROTOCOL, "unexpected message '%c' in a copy", frame.type);
		break;
	}
	wire->state = WIRE_DEAD;
	return false;
}

bool
wire_copy_out_next(Wire *wire, Slice *frames, uint64_t *messages, bool *done, uint64_t *rows,
                   Error *err)
{
	FrameRun run;
	bool end = false;

	*frames = SLICE_EMPTY;
	*messages = 0;
	*done = false;
	*rows = 0;
	bool ok = expect_state(wire, WIRE_COPY_OUT, err);
	while (ok && !end) {
		ok = frame_reader_run(&wire->in, &run, err);
		if (!ok)
			wire->state = WIRE_DEAD;
		else if (run.bytes.len > 0) {
			*frames = run.bytes;
			*messages = run.messages;
			return true;
		} else if (run.other)
			ok = copy_out_other(wire, &end, err);
		else
			ok = wire_receive(wire, 0, err);
	}
	if (ok) {
		ok = finish_copy(wire, rows, err);
		*done = ok;
	}
	return ok || error_add_context(err, "%s", wire->display);
}

bool
wire_copy_in_start(Wire *wire, const char *sql, Error *err)
{
	wire->walk = (FrameWalk){.left = 0};
	return start_copy(wire, sql, 'G', WIRE_COPY_IN, err);
}

/* Completes a message begun, with zeros. The server has failed or will be told
 * to: it reads the rest only to throw it away. */
static bool
pad_message(Wire *wire, Error *err)
{
	static const uint8_t zeros[16 * 1024];

	if (wire->walk.header_len > 0) {
		/* Inside a header: the shortest rest that makes a length of it. */
		uint8_t rest[FRAME_HEADER_SIZE] = {0, 0, 0, 0, 4};
		Slice missing = slice_of(rest + wire->walk.header_len,
		                         FRAME_HEADER_SIZE - wire->walk.header_len);
		if (!wire_send(wire, missing, 0, err) || !frame_walk(&wire->walk, missing, err))
			return false;
	}
	while (wire->walk.left > 0) {
		size_t take = wire->walk.left < sizeof(zeros) ? (size_t)wire->walk.left : sizeof(zeros);
		if (!wire_send(wire, slice_of(zeros, take), 0, err))
			return false;
		wire->walk.left -= take;
	}
	return true;
}

/* Looks at what the server says while we send, without waiting. False with
 * ERROR_SQL and a wire that is not DEAD: it has refused the copy. */
static bool
copy_in_listen(Wire *wire, Error *err)
{
	size_t room;
	uint8_t *to = frame_reader_room(&wire->in, &room);
	ssize_t n = wire->channel.ops->read(&wire->channel, to, room, err);

	if (n < 0) {
		wire->state = WIRE_DEAD;
		return false;
	}
	frame_reader_received(&wire->in, (size_t)n);
	for (;;) {
		Frame frame;
		bool taken = false;
		FrameResult result = frame_reader_next(&wire->in, &frame, err);
		if (result == FRAME_MORE)
			return true;
		if (result == FRAME_READY && wire_absorb(wire, &frame, &taken, err) && taken)
			continue;
		if (result == FRAME_READY && !taken && frame.type == 'E')
			return wire_take_error(wire, frame.payload, err);
		if (result == FRAME_READY && !taken)
			error_set(err, ERROR_PROTOCOL, "unexpected message '%c' in a copy", frame.type);
		wire->state = WIRE_DEAD;
		return false;
	}
}

/* The write failed: perhaps the server said why before it went. */
static bool
copy_in_lost(Wire *wire, Error *err)
{
	Error said = ERROR_INIT;

	bool silent = copy_in_listen(wire, &said);
	wire->state = WIRE_DEAD;
	if (!silent && said.class == ERROR_SQL && err != NULL)
		*err = said;
	return false;
}

/* The server failed while we send: its error, already in *err, is the answer.
 * What was begun is sent to its end (TLS may hold half of it encrypted), so
 * that the next message stands where the server looks for one. */
static bool
copy_in_refused(Wire *wire, Slice rest)
{
	Error ignored = ERROR_INIT;

	if (wire->state == WIRE_DEAD)
		return false;
	if (!wire_send(wire, rest, 0, &ignored) || !frame_walk(&wire->walk, rest, &ignored) ||
	    !pad_message(wire, &ignored)) {
		wire->state = WIRE_DEAD;
		return false;
	}
	return wire_fail_query(wire);
}

static bool
copy_in_send(Wire *wire, Slice frames, Error *err)
{
	while (frames.len > 0) {
		ssize_t n = wire->channel.ops->write(&wire->channel, frames.data, frames.len, err);
		if (n < 0)
			return copy_in_lost(wire, err);
		if (n > 0) {
			Slice sent = slice_of(frames.data, (size_t)n);
			frames = slice_of(frames.data + n, frames.len - (size_t)n);
			if (!frame_walk(&wire->walk, sent, err)) {
				wire->state = WIRE_DEAD;
				return false;
			}
			continue;
		}
		if (!copy_in_listen(wire, err))
			return copy_in_refused(wire, frames);
		if (!stop_wait_fd(wire->stop, wire->channel.fd, (short)(wire->channel.write_wants | POLLIN),
		                  0, err)) {
			wire->state = WIRE_DEAD; /* in the middle of a write: nothing can follow */
			return false;
		}
	}
	return copy_in_listen(wire, err) || copy_in_refused(wire, SLICE_EMPTY);
}

bool
wire_copy_in_frames(Wire *wire, Slice frames, Error *err)
{
	return (expect_state(wire, WIRE_COPY_IN, err) && copy_in_send(wire, frames, err)) ||
	       error_add_context(err, "%s", wire->display);
}

bool
wire_copy_in_end(Wire *wire, uint64_t *rows, Error *err)
{
	Buffer message = BUFFER_INIT;

	*rows = 0;
	bool ok = expect_state(wire, WIRE_COPY_IN, err);
	if (ok && !frame_walk_between(&wire->walk))
		ok = error_set(err, ERROR_BUG, "a copy ends inside a message");
	if (ok) {
		message_put_copy_done(&message);
		ok = wire_send(wire, buffer_slice(&message), 0, err) && finish_copy(wire, rows, err);
		buffer_free(&message);
	}
	return ok || error_add_context(err, "%s", wire->display);
}

bool
wire_copy_in_fail(Wire *wire, const char *reason, Error *err)
{
	Buffer message = BUFFER_INIT;
	Error expected = ERROR_INIT;

	bool ok = expect_state(wire, WIRE_COPY_IN, err) && pad_message(wire, err);
	if (ok) {
		message_put_copy_fail(&message, reason);
		ok = wire_send(wire, buffer_slice(&message), 0, err);
		buffer_free(&message);
		wire->state = ok ? WIRE_BUSY : WIRE_DEAD;
		ok = ok && wire_finish(wire, 0, &expected, err);
		if (ok && expected.class == ERROR_NONE)
			ok = error_set(err, ERROR_PROTOCOL, "the server took a failed copy for a good one");
	}
	return ok || error_add_context(err, "%s", wire->display);
}

bool
wire_copy_both_start(Wire *wire, const char *sql, Error *err)
{
	wire->copy_done_sent = false;
	return start_copy(wire, sql, 'W', WIRE_COPY_BOTH, err);
}
