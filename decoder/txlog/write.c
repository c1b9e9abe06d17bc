#include <inttypes.h>
#include <lz4.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/memory.h"
#include "decoder/txlog/internal.h"

/*
 * The writer's side. States of a transaction:
 *
 *   none --append_begin--> open, in writer.block only
 *   open --flush_part--> open, parts in the file from open_at on
 *   open --append_commit--> none; whole in the block, or LAST written
 *   open --txlog_discard_open--> none; what came of it is gone
 *
 * T1 holds because block[0, whole) is written by flush_whole alone, and the
 * open rest by flush_part alone, when nothing whole stands before it. "In the file": or
 * handed over to the output's thread, which comes to the same.
 */

static bool
parse(Writer *w, Slice message, PgoMessage *out, Error *err)
{
	static const PgoContext context = {.proto_version = 1};

	arena_reset(w->parse);
	return pgoutput_parse(&context, message, w->parse, out, err);
}

static bool
remember(Writer *w, Slice message, Error *err)
{
	PgoMessage parsed;

	if (!parse(w, message, &parsed, err))
		return false;
	known_set(w->known, message);
	return true;
}

static void
put_frame(Buffer *out, Slice message)
{
	uint8_t *to = buffer_reserve(out, FRAME_HEADER_SIZE + message.len);

	frame_header_put(message.len, FRAME_MESSAGE, to);
	memcpy(to + FRAME_HEADER_SIZE, message.data, message.len);
	out->len += FRAME_HEADER_SIZE + message.len;
}

void
txlog_writer_free(TxLog *log)
{
	Writer *w = &log->writer;

	txlog_streams_free(log);
	known_free(w->known);
	arena_free(w->parse);
	buffer_free(&w->block);
	buffer_free(&w->packed);
}

/* LZ4 where it is asked for, pays, and needs no second giant buffer. */
static bool
pack(TxLog *log, const Slice *pieces, int count)
{
	Writer *w = &log->writer;
	size_t len = pieces[0].len;

	if (!log->compress || count != 1 || len > TXLOG_COMPRESS_MAX + FRAME_HEADER_SIZE)
		return false;
	int room = LZ4_compressBound((int)len);
	buffer_reset(&w->packed);
	char *to = (char *)buffer_reserve(&w->packed, (size_t)room);
	int n = LZ4_compress_default((const char *)pieces[0].data, to, (int)len, room);
	if (n <= 0 || (size_t)n >= len)
		return false;
	w->packed.len = (size_t)n;
	return true;
}

int
txlog_make_block(TxLog *log, uint64_t seed, BlockHeader *header, const Slice *pieces, int count,
                 uint8_t head[BLOCK_HEADER_SIZE], Slice all[BLOCK_PIECES_MAX])
{
	size_t raw = 0;

	CHECK(count >= 1 && count < BLOCK_PIECES_MAX);
	for (int i = 0; i < count; i++)
		raw += pieces[i].len;
	header->raw_len = header->stored_len = (uint32_t)raw;
	memcpy(all + 1, pieces, (size_t)count * sizeof(Slice));
	if (pack(log, pieces, count)) {
		all[1] = buffer_slice(&log->writer.packed);
		header->flags |= BLOCK_LZ4;
		header->stored_len = (uint32_t)all[1].len;
	}
	block_header_put(header, seed, all + 1, count, head);
	all[0] = slice_of(head, BLOCK_HEADER_SIZE);
	return count + 1;
}

bool
txlog_put_block(TxLog *log, BlockPlace place, BlockHeader *header, const Slice *pieces, int count,
                Error *err)
{
	uint8_t head[BLOCK_HEADER_SIZE];
	Slice all[BLOCK_PIECES_MAX];
	int n = txlog_make_block(log, place.seed, header, pieces, count, head, all);

	return txlog_file_write(&log->faults, place.fd, place.name, header->offset, all, n, err);
}

static BlockHeader
header_of(const Writer *w, unsigned flags)
{
	return (BlockHeader){
		.flags = flags,
		.offset = w->size,
		.first_commit = (flags & BLOCK_PART) != 0 ? w->open_lsn : w->block_first,
		.last_commit = w->appended.commit,
		.last_end = w->appended.end,
		.last_time_us = w->appended.time_us,
	};
}

/* No transaction is unfinished behind that block: what stands up to its end may be seen (T2). */
static bool
ends_whole(unsigned flags)
{
	return (flags & BLOCK_PART) == 0 || (flags & BLOCK_LAST) != 0;
}

/* By this thread, from where the bytes are. */
static bool
write_block(TxLog *log, unsigned flags, const Slice *pieces, int count, Error *err)
{
	Writer *w = &log->writer;
	char name[TXLOG_NAME_SIZE];
	BlockHeader header = header_of(w, flags);

	if (!txlog_output_settle(log, err))
		return false;
	txlog_segment_name(w->number, name);
	if (!txlog_put_block(log, (BlockPlace){log->output.fd, name, w->number}, &header, pieces, count,
	                     err))
		return txlog_fail(log, err);
	uint64_t len = BLOCK_HEADER_SIZE + header.stored_len;
	w->size += len;
	txlog_output_wrote(log, header.offset, len, ends_whole(flags));
	return true;
}

/* By the output's thread: the first len bytes of *from change hands, with their memory. */
static bool
hand_over(TxLog *log, unsigned flags, Buffer *from, size_t len, Error *err)
{
	Writer *w = &log->writer;
	BlockHeader header = header_of(w, flags);
	Slice bytes = slice_of(from->data, len);
	Slice all[BLOCK_PIECES_MAX];
	OutputItem *item = txlog_output_item(log, err);

	if (item == NULL)
		return false;
	item->segment = false;
	item->offset = w->size;
	item->whole = ends_whole(flags);
	item->progress = w->appended;
	txlog_make_block(log, w->number, &header, &bytes, 1, item->head, all);
	bool packed = all[1].data == w->packed.data;
	Buffer *source = packed ? &w->packed : from;
	Buffer taken = *source;
	*source = item->bytes;
	item->bytes = taken;
	if (packed) {
		buffer_consume(from, len);
	} else {
		buffer_reset(from);
		buffer_put(from, taken.data + len, taken.len - len);
		item->bytes.len = len;
	}
	w->size += BLOCK_HEADER_SIZE + header.stored_len;
	txlog_output_put(log);
	return true;
}

/*
 * What is little, and nothing is being written: by this thread. A hand-over would cost the
 * transaction a wake-up, as much as the writing. What is more means that there is a backlog.
 */
enum { SMALL_BYTES = 16 * 1024 };

static bool
put_block(TxLog *log, unsigned flags, size_t len, Error *err)
{
	Writer *w = &log->writer;

	if (log->output.running && (len > SMALL_BYTES || !txlog_output_idle(log)))
		return hand_over(log, flags, &w->block, len, err);
	Slice bytes = slice_of(w->block.data, len);
	if (!write_block(log, flags, &bytes, 1, err))
		return false;
	buffer_consume(&w->block, len);
	return true;
}

void
txlog_count_bytes(TxLog *log, int64_t more)
{
	pthread_mutex_lock(&log->lock);
	log->bytes_on_disk += (uint64_t)more;
	pthread_mutex_unlock(&log->lock);
}

static bool
flush_whole(TxLog *log, Error *err)
{
	Writer *w = &log->writer;

	if (w->whole == 0)
		return true;
	if (!put_block(log, 0, w->whole, err))
		return false;
	w->whole = 0;
	w->block_first = LSN_INVALID;
	return true;
}

static void
part_begins(Writer *w)
{
	if (w->open_in_file)
		return;
	w->open_in_file = true;
	w->open_at = w->size;
}

/* The open transaction's bytes, once nothing whole stands before them. */
static bool
flush_part(TxLog *log, unsigned flags, Error *err)
{
	Writer *w = &log->writer;

	CHECK(w->whole == 0);
	if (w->block.len == 0)
		return true;
	part_begins(w);
	if (!put_block(log, BLOCK_PART | flags, w->block.len, err))
		return false;
	if (w->block.cap > 4 * TXLOG_COMPRESS_MAX)
		buffer_free(&w->block);
	return true;
}

/* A message that is a block of its own, written from where it is. */
static bool
append_large(TxLog *log, Slice message, Error *err)
{
	Writer *w = &log->writer;
	uint8_t head[FRAME_HEADER_SIZE];
	Slice pieces[2] = {slice_of(head, sizeof(head)), message};

	if (!flush_whole(log, err) || !flush_part(log, 0, err))
		return false;
	frame_header_put(message.len, FRAME_MESSAGE, head);
	if (!w->open)
		return write_block(log, 0, pieces, 2, err);
	part_begins(w);
	return write_block(log, BLOCK_PART, pieces, 2, err);
}

/* Something was put into the block. */
static bool
flush_if_large(TxLog *log, Error *err)
{
	Writer *w = &log->writer;

	if (!w->open)
		w->whole = w->block.len;
	if (w->block.len < TXLOG_BLOCK_TARGET)
		return true;
	if (!flush_whole(log, err))
		return false;
	return w->block.len < TXLOG_BLOCK_TARGET || flush_part(log, 0, err);
}

static bool
append_bytes(TxLog *log, Slice message, Error *err)
{
	if (message.len > TXLOG_BLOCK_TARGET && (!log->compress || message.len > TXLOG_COMPRESS_MAX))
		return append_large(log, message, err);
	put_frame(&log->writer.block, message);
	return flush_if_large(log, err);
}

bool
txlog_append_frames(TxLog *log, Slice frames, Error *err)
{
	buffer_put_slice(&log->writer.block, frames);
	return flush_if_large(log, err);
}

/* T4: a new segment, with no transaction open, that starts with the Relation and Type
 * messages in force. Making its file waits for the disk: by the output's thread. */
static bool
roll(TxLog *log, Error *err)
{
	Writer *w = &log->writer;
	Buffer preamble = BUFFER_INIT;

	CHECK(!w->open);
	if (!flush_whole(log, err))
		return false;
	OutputItem *item = txlog_output_item(log, err);
	if (item == NULL)
		return false;
	item->segment = true;
	txlog_segment_header(log, w->number + 1, &item->header);
	w->number = item->header.number;
	w->size = item->header.size;
	w->referenced = 0;
	txlog_output_put(log);

	known_put_all(w->known, &preamble);
	bool ok = preamble.len == 0 || hand_over(log, BLOCK_PREAMBLE, &preamble, preamble.len, err);
	buffer_free(&preamble);
	return ok;
}

/* What the segment refers to counts: it is removed together with it. */
static bool
roll_if_large(TxLog *log, Error *err)
{
	const Writer *w = &log->writer;

	if (w->size + w->block.len + w->referenced < log->segment_bytes)
		return true;
	return roll(log, err);
}

static bool
append_begin(TxLog *log, Slice message, Error *err)
{
	Writer *w = &log->writer;
	PgoMessage begin;

	if (w->open)
		return error_set(err, ERROR_PROTOCOL, "Begin inside the transaction of commit %s",
		                 LSN_STR(w->open_lsn));
	if (!parse(w, message, &begin, err))
		return false;
	/* T3; the caller asks txlog_has and drops what the server sends again. */
	if (txlog_has(log, begin.begin.final_lsn))
		return error_set(err, ERROR_BUG, "commit %s is not behind the last one logged, %s",
		                 LSN_STR(begin.begin.final_lsn), LSN_STR(w->appended.commit));
	if (!roll_if_large(log, err))
		return false;
	w->open = true;
	w->open_in_file = false;
	w->open_lsn = begin.begin.final_lsn;
	return append_bytes(log, message, err);
}

/* The transaction that block ends with is whole. */
static void
count_commit(Writer *w, Lsn commit, Lsn end, int64_t time_us)
{
	w->appended.commit = commit;
	w->appended.end = end;
	w->appended.time_us = time_us;
	w->appended.transactions++;
}

static bool
append_commit(TxLog *log, Slice message, Error *err)
{
	Writer *w = &log->writer;
	PgoMessage commit;

	if (!parse(w, message, &commit, err))
		return false;
	if (!w->open || lsn_cmp(commit.commit.commit_lsn, w->open_lsn) != 0)
		return error_set(err, ERROR_PROTOCOL, "Commit %s does not belong to Begin %s",
		                 LSN_STR(commit.commit.commit_lsn),
		                 w->open ? LSN_STR(w->open_lsn) : "(none)");
	put_frame(&w->block, message);
	w->open = false;
	count_commit(w, commit.commit.commit_lsn, commit.commit.end_lsn, commit.commit.time_us);
	if (w->open_in_file)
		return flush_part(log, BLOCK_LAST, err);
	if (!lsn_valid(w->block_first))
		w->block_first = commit.commit.commit_lsn;
	return flush_if_large(log, err);
}

bool
txlog_append_reference(TxLog *log, const StreamedRef *ref, Error *err)
{
	Writer *w = &log->writer;

	CHECK(!w->open && !txlog_has(log, ref->commit));
	if (!roll_if_large(log, err))
		return false;
	w->referenced += ref->bytes;
	pthread_mutex_lock(&log->lock);
	txlog_push_side(log, (Side){ref->commit, ref->bytes});
	pthread_mutex_unlock(&log->lock);

	streamed_ref_put(ref, &w->block);
	count_commit(w, ref->commit, ref->end, ref->time_us);
	if (!lsn_valid(w->block_first))
		w->block_first = ref->commit;
	return flush_if_large(log, err);
}

bool
txlog_append(TxLog *log, Slice message, Error *err)
{
	Writer *w = &log->writer;

	if (!txlog_usable(log, err))
		return false;
	if (message.len == 0 || message.len > TXLOG_MESSAGE_MAX)
		return error_set(err, ERROR_PROTOCOL, "a pgoutput message of %zu bytes", message.len);

	if (w->streams.in_block)
		return txlog_stream_append(log, message, err);
	switch (message.data[0]) {
	case PGO_BEGIN:
		return append_begin(log, message, err);
	case PGO_COMMIT:
		return append_commit(log, message, err);
	case PGO_RELATION:
	case PGO_TYPE:
		return remember(w, message, err) && append_bytes(log, message, err);
	case PGO_MESSAGE:
		return (w->open || roll_if_large(log, err)) && append_bytes(log, message, err);
	case PGO_ORIGIN:
	case PGO_INSERT:
	case PGO_UPDATE:
	case PGO_DELETE:
	case PGO_TRUNCATE:
		if (w->open)
			return append_bytes(log, message, err);
		break;
	case PGO_STREAM_START:
	case PGO_STREAM_STOP:
	case PGO_STREAM_COMMIT:
	case PGO_STREAM_ABORT:
		if (!w->open)
			return txlog_stream_append(log, message, err);
		break;
	default:
		break;
	}
	return error_set(err, ERROR_PROTOCOL,
	                 "pgoutput message 0x%02X %s a transaction, behind commit %s", message.data[0],
	                 w->open ? "inside" : "outside", LSN_STR(w->appended.commit));
}

/* Everything in the segment was released, and it is worth a new one: so an
 * idle system does not keep a whole segment, and a full log gets room. */
static bool
worth_rolling(TxLog *log)
{
	const Writer *w = &log->writer;

	if (w->open || w->size + w->referenced <= log->segment_bytes / 4)
		return false;
	pthread_mutex_lock(&log->lock);
	const Segment *segment = &log->segments[log->segment_count - 1];
	bool all_released = log->output.count == 0 &&
	                    lsn_cmp(segment->last_commit, segment->previous_commit) > 0 &&
	                    lsn_cmp(segment->last_commit, log->released) <= 0;
	pthread_mutex_unlock(&log->lock);
	return all_released;
}

bool
txlog_publish(TxLog *log, Error *err)
{
	return txlog_usable(log, err) && flush_whole(log, err) &&
	       (!worth_rolling(log) || roll(log, err));
}

bool
txlog_discard_open(TxLog *log, Error *err)
{
	Writer *w = &log->writer;
	char name[TXLOG_NAME_SIZE];

	if (!txlog_usable(log, err) || !txlog_streams_discard(log, err))
		return false;
	if (!w->open)
		return true;
	w->open = false;
	w->block.len = w->whole;
	if (!w->open_in_file)
		return true;
	if (!txlog_output_settle(log, err))
		return false;

	/* Synced at once: after a power failure old parts behind newer torn bytes
	 * would look like damage, not like a torn tail (T6). */
	txlog_segment_name(w->number, name);
	if (!txlog_file_truncate(&log->faults, log->output.fd, name, w->open_at, err) ||
	    !txlog_file_sync(&log->faults, log->output.fd, name, err))
		return txlog_fail(log, err);
	pthread_mutex_lock(&log->lock);
	log->bytes_on_disk -= w->size - w->open_at;
	w->size = w->open_at;
	log->segments[log->segment_count - 1].size = w->size;
	pthread_mutex_unlock(&log->lock);
	w->open_in_file = false;
	return true;
}
