/* Copy-both, for an event loop: nothing here waits but the end. */
#include <poll.h>

#include "common/clock.h"
#include "protocol/wire/internal.h"

short
wire_wants(const Wire *wire)
{
	short wants = (short)(POLLIN | wire->channel.read_wants);

	if (wire->out_pos < wire->out.len)
		wants |= wire->channel.write_wants;
	return wants;
}

static WireNext
failed(Wire *wire)
{
	wire->state = WIRE_DEAD;
	return WIRE_FAILED;
}

/* True when *next is to be returned, false to look at the following frame. */
static bool
take_frame(Wire *wire, const Frame *frame, Slice *payload, WireNext *next, Error *err)
{
	bool taken = false;

	*next = WIRE_FAILED;
	if (!wire_absorb(wire, frame, &taken, err))
		return true;
	if (taken)
		return false;
	switch (frame->type) {
	case 'd':
		*payload = frame->payload;
		*next = WIRE_FRAME;
		return true;
	case 'c': /* CopyDone: the server will send no more */
	case 'C': /* at a shutdown without it */
		*next = WIRE_COPY_END;
		return true;
	case 'E':
		/* ReadyForQuery follows unless it was FATAL: wire_copy_both_end reads it. */
		wire_take_error(wire, frame->payload, err);
		error_add_context(err, "%s", wire->display);
		return true;
	default:
		error_set(err, ERROR_PROTOCOL, "unexpected message '%c' in copy-both", frame->type);
		wire->state = WIRE_DEAD;
		return true;
	}
}

/* One read without waiting; *any: something came. */
static bool
read_some(Wire *wire, bool *any, Error *err)
{
	size_t room;
	uint8_t *to = frame_reader_room(&wire->in, &room);
	ssize_t n = wire->channel.ops->read(&wire->channel, to, room, err);

	*any = n > 0;
	if (n < 0)
		return error_add_context(err, "%s", wire->display);
	frame_reader_received(&wire->in, (size_t)n);
	return true;
}

WireNext
wire_copy_both_next(Wire *wire, Slice *payload, Error *err)
{
	Frame frame;
	WireNext next;
	bool have_read = false;

	*payload = SLICE_EMPTY;
	if (wire->state != WIRE_COPY_BOTH) {
		error_set(err, wire->state == WIRE_DEAD ? ERROR_NETWORK : ERROR_BUG,
		          "the connection is not in copy-both");
		return WIRE_FAILED;
	}
	for (;;) {
		switch (frame_reader_next(&wire->in, &frame, err)) {
		case FRAME_READY:
			if (take_frame(wire, &frame, payload, &next, err))
				return next;
			break;
		case FRAME_BAD:
			return failed(wire);
		case FRAME_MORE:
			/* Bytes that TLS has decrypted are seen by no poll: take them all. */
			if (have_read && !wire->channel.ops->pending(&wire->channel))
				return WIRE_NOTHING;
			bool any;
			if (!read_some(wire, &any, err))
				return failed(wire);
			if (!any)
				return WIRE_NOTHING;
			have_read = true;
			break;
		}
	}
}

bool
wire_flush(Wire *wire, bool *empty, Error *err)
{
	while (wire->out_pos < wire->out.len) {
		ssize_t n = wire->channel.ops->write(&wire->channel, wire->out.data + wire->out_pos,
		                                     wire->out.len - wire->out_pos, err);
		if (n < 0) {
			wire->state = WIRE_DEAD;
			return error_add_context(err, "%s", wire->display);
		}
		if (n == 0)
			break;
		wire->out_pos += (size_t)n;
	}
	*empty = wire->out_pos == wire->out.len;
	if (*empty) {
		buffer_reset(&wire->out);
		wire->out_pos = 0;
	}
	return true;
}

static bool
expect_both(const Wire *wire, Error *err)
{
	if (wire->state == WIRE_COPY_BOTH)
		return true;
	return error_set(err, wire->state == WIRE_DEAD ? ERROR_NETWORK : ERROR_BUG,
	                 "the connection is not in copy-both");
}

bool
wire_copy_both_put(Wire *wire, Slice payload, Error *err)
{
	bool empty;

	if (!expect_both(wire, err))
		return false;
	message_put_copy_data(&wire->out, payload);
	return wire_flush(wire, &empty, err);
}

/* Waits until all queued bytes are gone, reading meanwhile: the server may be
 * waiting for us to take its own. */
static bool
flush_all(Wire *wire, int64_t deadline_ms, Error *err)
{
	bool empty = false, any;

	for (;;) {
		if (!wire_flush(wire, &empty, err))
			return false;
		if (empty)
			return true;
		if (!stop_wait_fd(wire->stop, wire->channel.fd, wire_wants(wire), deadline_ms, err))
			return false;
		/* The frames are dropped in the end; until then they are kept. */
		if (!read_some(wire, &any, err))
			return false;
	}
}

bool
wire_copy_both_end(Wire *wire, int64_t deadline_ms, Error *err)
{
	Error sql = ERROR_INIT;

	bool ok = expect_both(wire, err);
	if (ok && !wire->copy_done_sent) {
		message_put_copy_done(&wire->out);
		wire->copy_done_sent = true;
	}
	ok = ok && flush_all(wire, deadline_ms, err) && wire_finish(wire, deadline_ms, &sql, err);
	if (!ok) {
		wire->state = WIRE_DEAD;
		return error_add_context(err, "%s", wire->display);
	}
	if (sql.class == ERROR_NONE)
		return true;
	if (err != NULL)
		*err = sql;
	return error_add_context(err, "%s", wire->display);
}
