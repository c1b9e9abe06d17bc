#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/memory.h"
#include "decoder/txlog/internal.h"

/*
 * Transactions that the source streams before their commit. States of one:
 *
 *   unknown --Stream Start, first--> in progress
 *   in progress --Abort of a sub-transaction--> in progress, cut back
 *   in progress --Abort of itself, lost connection--> unknown; its file is gone
 *   in progress --Commit--> unknown; in the log, by reference or copied
 *
 * Blocks of one come between Stream Start and Stream Stop; between the blocks come
 * other transactions' blocks, and whole transactions as always.
 *
 * Sub-transactions. A backend runs one at a time, gives a parent its xid before its
 * child, and the source sends what it did in that order. So all that stands behind
 * the first message of a sub-transaction until it is over is its own or its
 * children's, and when it rolls back the file is cut there. One that had committed
 * rolls back with its parent; then the source tells both, the child first, and what
 * the parent did since goes with either. (PostgreSQL's apply worker does the same.)
 */

void
txlog_streams_init(Streams *streams)
{
	streams->transactions = map_new(0);
	streams->fd = -1;
	/* Never the seed of a segment, nor of a file that was here before. */
	ssize_t n = getrandom(&streams->seed, sizeof(streams->seed), 0);
	CHECK(n == sizeof(streams->seed));
	streams->seed |= UINT64_C(1) << 63;
}

static Slice
xid_key(const uint32_t *xid)
{
	return slice_of(xid, sizeof(*xid));
}

static void
known_cut(TxLog *log, StreamedTx *tx, size_t keep)
{
	while (tx->known_count > keep)
		known_drop(log->writer.known, tx->known[--tx->known_count].held);
}

/* Its file was removed or renamed. */
static void
forget(TxLog *log, StreamedTx *tx)
{
	map_remove(log->writer.streams.transactions, xid_key(&tx->xid));
	known_cut(log, tx, 0);
	free(tx->known);
	free(tx->subs);
	free(tx);
}

static bool
drop(TxLog *log, StreamedTx *tx, Error *err)
{
	if (!side_remove(log, tx, err))
		return false;
	forget(log, tx);
	return true;
}

bool
txlog_streams_discard(TxLog *log, Error *err)
{
	Streams *s = &log->writer.streams;
	void *value;

	s->in_block = false;
	for (size_t i = 0; map_each(s->transactions, &i, NULL, &value); i = 0)
		if (!drop(log, value, err))
			return false;
	return true;
}

void
txlog_streams_free(TxLog *log)
{
	Streams *s = &log->writer.streams;
	void *value;

	/* Of a log that has failed the files stay; the next open removes them. */
	for (size_t i = 0; map_each(s->transactions, &i, NULL, &value); i = 0)
		forget(log, value);
	map_free(s->transactions);
	buffer_free(&s->buffer);
	buffer_free(&s->message);
	if (s->fd >= 0)
		close(s->fd);
}

static bool
parse(TxLog *log, Slice message, PgoMessage *out, Error *err)
{
	Writer *w = &log->writer;
	PgoContext context = {.proto_version = 4, .in_stream = w->streams.in_block};

	arena_reset(w->parse);
	return pgoutput_parse(&context, message, w->parse, out, err);
}

/* ---- Stream Start ---- */

static StreamedTx *
begin(Streams *s, uint32_t xid)
{
	StreamedTx *tx = mem_zalloc(sizeof(StreamedTx));

	tx->xid = xid;
	tx->serial = ++s->serials;
	map_put(s->transactions, xid_key(&tx->xid), tx);
	return tx;
}

static bool
stream_start(TxLog *log, const PgoMessage *m, Error *err)
{
	Streams *s = &log->writer.streams;
	uint32_t xid = m->stream_start.xid;
	StreamedTx *tx = map_get(s->transactions, xid_key(&xid));

	if (m->stream_start.first && tx != NULL)
		return error_set(err, ERROR_PROTOCOL, "the stream of transaction %u begins twice", xid);
	if (!m->stream_start.first && tx == NULL)
		return error_set(err, ERROR_PROTOCOL,
		                 "the stream of transaction %u goes on, but its beginning never came", xid);
	if (!side_select(log, tx != NULL ? tx : begin(s, xid), err))
		return false;
	s->in_block = true;
	return true;
}

/* ---- inside a block ---- */

/* The first with nth or more. */
static size_t
sub_find(const StreamedTx *tx, uint32_t nth)
{
	size_t low = 0;
	size_t high = tx->sub_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (tx->subs[middle].nth < nth)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * The message at `at` is of that sub-transaction: is it its first? The list stays
 * ascending both by xid and by place. A parent whose first message comes after its
 * children's begins where the first of those does, for they roll back with it.
 */
static bool
sub_mark(StreamedTx *tx, uint32_t xid, SidePos at, Error *err)
{
	uint32_t nth = xid - tx->xid; /* xids wrap */
	size_t count = tx->sub_count;

	if (nth == 0 || (count > 0 && tx->subs[count - 1].nth == nth))
		return true;
	if (xid == 0 || nth > INT32_MAX)
		return error_set(err, ERROR_PROTOCOL,
		                 "transaction %u in the stream of %u, which began later", xid, tx->xid);
	size_t i = sub_find(tx, nth);
	if (i < count && tx->subs[i].nth == nth)
		return true;
	if (count == tx->sub_capacity) {
		tx->sub_capacity = count != 0 ? count * 2 : 16;
		tx->subs = mem_realloc(tx->subs, tx->sub_capacity * sizeof(SubStart));
	}
	SubStart start = {.nth = nth, .inside = at.inside, .block = at.block};
	if (i < count) {
		start = tx->subs[i];
		start.nth = nth;
		memmove(tx->subs + i + 1, tx->subs + i, (count - i) * sizeof(SubStart));
	}
	tx->subs[i] = start;
	tx->sub_count++;
	return true;
}

/* A Relation or Type message, in force once the transaction commits. After each
 * rollback the source says all of them again: what is said twice with nothing in
 * between is kept once. */
static void
known_mark(TxLog *log, Slice message, SidePos at)
{
	StreamedTx *tx = log->writer.streams.current;
	Known *known = log->writer.known;

	if (tx->known_count > 0 && known_is(tx->known[tx->known_count - 1].held, message))
		return;
	if (tx->known_count == tx->known_capacity) {
		tx->known_capacity = tx->known_capacity != 0 ? tx->known_capacity * 2 : 16;
		tx->known = mem_realloc(tx->known, tx->known_capacity * sizeof(SideKnown));
	}
	tx->known[tx->known_count++] = (SideKnown){at, known_hold(known, message)};
}

static bool
take_known(TxLog *log, Slice message, Error *err)
{
	Streams *s = &log->writer.streams;
	PgoMessage parsed;

	if (!parse(log, message, &parsed, err))
		return false;
	buffer_reset(&s->message);
	buffer_put(&s->message, message.data, 1);
	buffer_put(&s->message, message.data + 5, message.len - 5);
	known_mark(log, buffer_slice(&s->message), side_end(s));
	return true;
}

static bool
put_without_xid(TxLog *log, Slice message, Error *err)
{
	Streams *s = &log->writer.streams;
	ByteReader r = reader_of(message);
	uint8_t kind = read_u8(&r);
	uint32_t xid = read_u32(&r);

	if (r.failed)
		return error_set(err, ERROR_PROTOCOL, "pgoutput message 0x%02X ends too early", kind);
	if (!sub_mark(s->current, xid, side_end(s), err))
		return false;
	if ((kind == PGO_RELATION || kind == PGO_TYPE) && !take_known(log, message, err))
		return false;
	return side_put(log, kind, slice_of(message.data + 5, message.len - 5), err);
}

static bool
stream_message(TxLog *log, Slice message, Error *err)
{
	PgoMessage parsed;

	switch (message.data[0]) {
	case PGO_RELATION:
	case PGO_TYPE:
	case PGO_INSERT:
	case PGO_UPDATE:
	case PGO_DELETE:
	case PGO_TRUNCATE:
		return put_without_xid(log, message, err);
	case PGO_MESSAGE:
		/* Always with the top-level xid, whichever sub-transaction wrote it: its
		 * place alone decides whether it is cut off with that one. */
		return put_without_xid(log, message, err);
	case PGO_ORIGIN:
		return side_put(log, PGO_ORIGIN, slice_of(message.data + 1, message.len - 1), err);
	default:
		/* The parser says what is wrong with any other. */
		return parse(log, message, &parsed, err) &&
		       error_set(err, ERROR_BUG, "pgoutput message 0x%02X inside a stream block",
		                 message.data[0]);
	}
}

/* ---- Stream Abort ---- */

static bool
pos_before(SidePos a, SidePos b)
{
	return a.block != b.block ? a.block < b.block : a.inside < b.inside;
}

static bool
abort_sub(TxLog *log, StreamedTx *tx, uint32_t subxid, Error *err)
{
	uint32_t nth = subxid - tx->xid;
	size_t i = sub_find(tx, nth);

	/* Nothing of it was published, or it went with an older one. */
	if (i == tx->sub_count || tx->subs[i].nth != nth)
		return true;
	SidePos from = {tx->subs[i].block, tx->subs[i].inside};
	if (!side_select(log, tx, err) || !side_cut(log, from, err))
		return false;
	tx->sub_count = i;
	size_t keep = tx->known_count;
	while (keep > 0 && !pos_before(tx->known[keep - 1].at, from))
		keep--;
	known_cut(log, tx, keep);
	return true;
}

/* The source sends it only of what it has streamed. Were it of another transaction,
 * there would be nothing here to drop, and nothing to lose. */
static bool
stream_abort(TxLog *log, const PgoMessage *m, Error *err)
{
	uint32_t xid = m->stream_abort.xid;
	StreamedTx *tx = map_get(log->writer.streams.transactions, xid_key(&xid));

	if (tx == NULL)
		return true;
	if (m->stream_abort.subxid != xid)
		return abort_sub(log, tx, m->stream_abort.subxid, err);
	return drop(log, tx, err);
}

/* ---- Stream Commit ---- */

/* In the log itself, as if it had not been streamed. */
static bool
commit_inline(TxLog *log, StreamedTx *tx, const StreamedRef *ref, Error *err)
{
	uint8_t bytes[STREAMED_MESSAGE_MAX];

	return txlog_append(log, streamed_ref_begin(ref, bytes), err) &&
	       side_each_block(log, txlog_append_frames, err) &&
	       txlog_append(log, streamed_ref_commit(ref, bytes), err) && side_remove(log, tx, err);
}

/* T8: durable before anything says that it is there. */
static bool
commit_by_reference(TxLog *log, StreamedTx *tx, StreamedRef *ref, Error *err)
{
	if (!side_seal(log, ref->commit, err))
		return false;
	ref->seed = side_seed(&log->writer.streams, tx);
	ref->bytes = tx->size;
	if (!txlog_append_reference(log, ref, err))
		return false;
	FAULT_POINT("stream_referenced");
	return true;
}

/* P7: the log has it; but what it says about relations the source will not say again. */
static bool
commit_file(TxLog *log, StreamedTx *tx, StreamedRef *ref, Error *err)
{
	if (!side_select(log, tx, err))
		return false;
	if (txlog_has(log, ref->commit))
		return side_remove(log, tx, err);
	if (tx->size + log->writer.streams.buffer.len <= log->inline_max)
		return commit_inline(log, tx, ref, err);
	return commit_by_reference(log, tx, ref, err);
}

static bool
commit_known(TxLog *log, StreamedTx *tx, Error *err)
{
	Buffer frames = BUFFER_INIT;

	for (size_t i = 0; i < tx->known_count; i++)
		known_commit(log->writer.known, tx->known[i].held);
	known_put_restated(log->writer.known, &frames);
	bool ok = frames.len == 0 || txlog_append_frames(log, buffer_slice(&frames), err);
	buffer_free(&frames);
	return ok;
}

static bool
stream_commit(TxLog *log, const PgoMessage *m, Error *err)
{
	uint32_t xid = m->stream_commit.xid;
	StreamedTx *tx = map_get(log->writer.streams.transactions, xid_key(&xid));
	StreamedRef ref = {
		.xid = xid,
		.commit = m->stream_commit.commit_lsn,
		.end = m->stream_commit.end_lsn,
		.time_us = m->stream_commit.time_us,
	};

	if (tx == NULL)
		return error_set(err, ERROR_PROTOCOL,
		                 "commit %s of streamed transaction %u, of which nothing came",
		                 LSN_STR(ref.commit), xid);
	if (!commit_file(log, tx, &ref, err) || !commit_known(log, tx, err))
		return false;
	forget(log, tx);
	return true;
}

bool
txlog_stream_append(TxLog *log, Slice message, Error *err)
{
	Streams *s = &log->writer.streams;
	PgoMessage m;

	if (s->in_block && message.data[0] != PGO_STREAM_STOP)
		return stream_message(log, message, err);
	if (!parse(log, message, &m, err))
		return false;
	switch (m.kind) {
	case PGO_STREAM_START:
		return stream_start(log, &m, err);
	case PGO_STREAM_STOP:
		s->in_block = false;
		return true;
	case PGO_STREAM_ABORT:
		return stream_abort(log, &m, err);
	default:
		return stream_commit(log, &m, err);
	}
}
