/*
 * track.h: where a session stands, from the headers that pass by. No socket.
 *
 * Whoever relays a session shows the bytes of both directions to a Track, in the
 * order in which they are relayed, however they are cut; bodies are skipped. It
 * knows then whether the session is at a boundary: outside a transaction, every
 * request answered, no message begun.
 *
 * Each Query, FunctionCall and Sync is answered by one ReadyForQuery, but for
 * Syncs that a server reads while it takes COPY data in the extended protocol:
 * it ignores those (documentation, "COPY Operations"), and for a Query behind extended
 * messages without a Sync when one of these has failed: the server skips to the next Sync.
 * pgjdbc's autosave and asyncpg's COPY send such Queries. Whose error it was is told by
 * counting: an extended message has one completion (PostgreSQL's postgres.c,
 * ignore_till_sync). A Query in the midst of COPY data of the extended protocol is an error of the
 * client's, and such a session is never called at a boundary again.
 *
 * What a client sends wrongly is not judged here: the server does that. From then
 * on the Track says "lost".
 */
#ifndef PGBATON_PROTOCOL_TRACK_H
#define PGBATON_PROTOCOL_TRACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attr.h"
#include "common/slice.h"
#include "protocol/message/statements.h"

/* One direction's walk from header to header. */
typedef struct {
	uint64_t left;     /* bytes of the present body still to come */
	uint8_t header[6]; /* of a header that came in pieces */
	uint8_t header_len;
} TrackWalk;

typedef struct {
	TrackWalk client;
	TrackWalk server;
	uint8_t *asked; /* requests not yet answered, oldest first: 'Q', 'F', 'S', ... (track.c) */
	uint32_t asked_first;
	uint32_t asked_len; /* asked[asked_first .. asked_len) */
	uint32_t asked_cap;
	uint8_t asked_room[12]; /* enough for nearly all: no allocation */
	char status;            /* of the last ReadyForQuery: I, T, E */
	bool open;              /* extended messages sent, their Sync not yet */
	bool copy_in;           /* the server takes COPY data in the extended protocol */
	bool skipping;          /* one of them has failed: all is skipped up to the Sync */
	bool mixed;             /* Query in COPY data: its answers cannot be told */
	bool lost;              /* the client's bytes are no messages any more */
	bool ended;             /* the client has sent Terminate */
	uint32_t sent;          /* extended messages since the last request */
	uint32_t completed;     /* of the oldest request's, and since the last ReadyForQuery */
	uint32_t requests;      /* asked so far; wraps */
	uint32_t answers;       /* of them, answered */
	uint32_t sets;          /* commands SET, RESET, DISCARD ALL that were done */
	Statements *statements; /* is shown what concerns it; the owner's; NULL: nobody */
} Track;

/* After a login: idle, nothing asked, no Statements. */
void track_init(Track *track);
void track_free(Track *track);

/* Bytes from the client to the server. */
void track_client(Track *track, Slice bytes);
/*
 * Like track_client, but leaves a message that would begin a request and is not all there, if it
 * is no longer than `room`: its client may have gone silent, and the session would be at no
 * boundary before it comes back. The bytes up to there; the rest is to be shown later, with more.
 */
size_t track_client_whole(Track *track, Slice bytes, size_t room);
/* What begins here is such a message: of a session that is not busy. */
bool track_client_partial(const Track *track, Slice bytes, size_t room);
/* Bytes from the server. False: they are not what a server sends. */
MUST_CHECK bool track_server(Track *track, Slice bytes);

/*
 * Like track_client, but ends where the session must wait: before a message that the
 * session can be stopped at. The bytes up to there; the rest is to be shown later.
 *   between_requests: only before a new request, all earlier ones answered (whatever
 *   the transaction's state)
 *   else: at a boundary
 * Meanwhile only one request at a time goes out, so that a client which never waits
 * for answers comes to a boundary too.
 */
size_t track_client_until(Track *track, Slice bytes, bool between_requests);

/*
 * How long the client's next message is, where it is a Query or a Parse of a statement that ends a
 * prepared transaction (mentions_second_phase); else, and where too little of it is here to tell, 0.
 * For a session at a boundary. It may be longer than `bytes`.
 */
size_t track_second_phase(const Track *track, Slice bytes);

static inline bool
track_client_between(const Track *track)
{
	return track->client.left == 0 && track->client.header_len == 0;
}

/* Requests are being worked on, or one was begun. */
static inline bool
track_busy(const Track *track)
{
	return track->asked_first != track->asked_len || track->open || track->copy_in ||
	       !track_client_between(track);
}

static inline bool
track_at_boundary(const Track *track)
{
	return !track_busy(track) && track->status == 'I' && !track->mixed && !track->lost &&
	       track->server.left == 0 && track->server.header_len == 0;
}

/* Nothing is under way but extended messages, and the Sync behind them is the client's to send. */
static inline bool
track_awaits_sync(const Track *track)
{
	return track->open && !track->copy_in && track->asked_first == track->asked_len;
}

/* The server's side stands between two messages: one of our own may be put there. */
static inline bool
track_server_between(const Track *track)
{
	return track->server.left == 0 && track->server.header_len == 0;
}

#endif
