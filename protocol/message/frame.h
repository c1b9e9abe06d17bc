/*
 * frame.h: backend messages out of a stream of bytes, however it is cut.
 *
 * No socket: the owner asks for room, puts received bytes there, and takes
 * frames (type byte, Int32 length, payload) or runs of CopyData out. Nothing is
 * copied on the way; payloads are borrowed until the next frame_reader_room.
 *
 * A length is judged as soon as its header is here, so a hostile peer cannot
 * make us wait for, or allocate, more than the type's cap; and memory grows
 * with the bytes that came, not with the length that was announced.
 *
 * PostgreSQL documentation, "Message Formats".
 */
#ifndef PGBATON_PROTOCOL_FRAME_H
#define PGBATON_PROTOCOL_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/slice.h"

#define FRAME_HEADER_SIZE 5

/* The largest payloads accepted, in bytes. */
typedef struct {
	uint32_t answer; /* ErrorResponse, NoticeResponse */
	uint32_t data;   /* CopyData, DataRow */
} FrameLimits;

/* Before the server is authenticated it has no reason to send much. */
#define FRAME_LIMITS_STARTUP ((FrameLimits){30000, 0})
/* A row or a CopyData message is below 1 GiB on every server. */
#define FRAME_LIMITS_SESSION ((FrameLimits){16u << 20, 1u << 30})

/*
 *   data:  | given out | not yet given out |      room      |
 *          0          pos                 len              cap
 */
typedef struct {
	uint8_t *data;
	size_t pos;
	size_t len;
	size_t cap;
	uint64_t run_left; /* payload bytes still to come of a CopyData in a run */
	FrameLimits limits;
} FrameReader;

void frame_reader_init(FrameReader *reader, FrameLimits limits);
void frame_reader_free(FrameReader *reader); /* wipes: passwords' answers pass here */

/* Where received bytes go; at least 16 KiB. Ends the life of all payloads. */
uint8_t *frame_reader_room(FrameReader *reader, size_t *room);
void frame_reader_received(FrameReader *reader, size_t count);
static inline size_t
frame_reader_buffered(const FrameReader *reader)
{
	return reader->len - reader->pos;
}

typedef struct {
	char type;
	Slice payload;
} Frame;

typedef enum { FRAME_READY, FRAME_MORE, FRAME_BAD } FrameResult;

/* The next whole frame. FRAME_MORE: receive first. FRAME_BAD: ERROR_PROTOCOL.
 * Not while a run is in the middle of a message (CHECK). */
FrameResult frame_reader_next(FrameReader *reader, Frame *out, Error *err);

typedef struct {
	Slice bytes;       /* consecutive CopyData messages as they came; may be empty */
	uint64_t messages; /* CopyData headers in bytes */
	bool other;        /* behind bytes stands a header that is not CopyData */
} FrameRun;

/* All CopyData that is here, whole or not; a header is never cut in two. */
MUST_CHECK bool frame_reader_run(FrameReader *reader, FrameRun *out, Error *err);

/*
 * Follows frames of any cut on their way out, so that the sender knows whether
 * it stands between two of them.
 */
typedef struct {
	uint8_t header[FRAME_HEADER_SIZE];
	uint32_t header_len; /* bytes of a header begun: 0 to 4 */
	uint64_t left;       /* payload bytes missing */
} FrameWalk;

/* False with ERROR_BUG on anything but CopyData. */
MUST_CHECK bool frame_walk(FrameWalk *walk, Slice bytes, Error *err);
static inline bool
frame_walk_between(const FrameWalk *walk)
{
	return walk->header_len == 0 && walk->left == 0;
}

#endif
