#include "protocol/message/track.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

enum { HEADER = 5, READY_LENGTH = 5 };

/* In `asked`, beside the types of requests: a CopyDone that came before the server asked
 * for data; it belongs to the Sync before it, or to the one behind it. And a Query or a
 * FunctionCall behind extended messages without their Sync: the type, how many these are
 * (4 bytes), and the type again, so that it can be read from either end. */
enum {
	ASKED_COPY_DONE = 'c',
	ASKED_COPY_DONE_AHEAD = 'C',
	ASKED_QUERY_BEHIND = 'q',
	ASKED_CALL_BEHIND = 'f',
	BEHIND_SIZE = 6
};

void
track_init(Track *track)
{
	*track = (Track){.status = 'I'};
	track->asked = track->asked_room;
	track->asked_cap = sizeof(track->asked_room);
}

void
track_free(Track *track)
{
	if (track->asked != track->asked_room)
		free(track->asked);
	track->asked = NULL;
}

/* ---- the requests that were asked ---- */

static void
forget_asked(Track *track)
{
	track->asked_first = track->asked_len = 0;
	if (track->asked != track->asked_room) {
		free(track->asked);
		track->asked = track->asked_room;
		track->asked_cap = sizeof(track->asked_room);
	}
}

static void
grow_asked(Track *track)
{
	uint32_t count = track->asked_len - track->asked_first;

	if (track->asked_first >= track->asked_cap / 2) {
		memmove(track->asked, track->asked + track->asked_first, count);
	} else {
		uint8_t *larger = mem_alloc((size_t)track->asked_cap * 2);
		memcpy(larger, track->asked + track->asked_first, count);
		if (track->asked != track->asked_room)
			free(track->asked);
		track->asked = larger;
		track->asked_cap *= 2;
	}
	track->asked_first = 0;
	track->asked_len = count;
}

static inline bool
is_behind(uint8_t type)
{
	return type == ASKED_QUERY_BEHIND || type == ASKED_CALL_BEHIND;
}

static inline bool
is_request(uint8_t type)
{
	return type == 'Q' || type == 'F' || type == 'S' || is_behind(type);
}

static inline void
push_asked(Track *track, uint8_t type)
{
	if (track->asked_len == track->asked_cap)
		grow_asked(track);
	track->asked[track->asked_len++] = type;
	track->requests += is_request(type);
}

static void
push_behind(Track *track, uint8_t type)
{
	while (track->asked_cap - track->asked_len < BEHIND_SIZE)
		grow_asked(track);
	push_asked(track, type);
	memcpy(track->asked + track->asked_len, &track->sent, sizeof(track->sent));
	track->asked_len += sizeof(track->sent);
	track->asked[track->asked_len++] = type;
}

static inline uint8_t
oldest_asked(const Track *track)
{
	return track->asked_first < track->asked_len ? track->asked[track->asked_first] : 0;
}

/* The extended messages in front of it have not all been completed yet. */
static bool
is_still_behind(const Track *track)
{
	uint32_t sent;

	if (!is_behind(oldest_asked(track)))
		return false;
	memcpy(&sent, track->asked + track->asked_first + 1, sizeof(sent));
	return track->completed < sent;
}

static uint8_t
take_asked(Track *track)
{
	uint8_t type = oldest_asked(track);

	if (type != 0)
		track->asked_first += is_behind(type) ? (uint32_t)BEHIND_SIZE : 1;
	track->answers += is_request(type);
	return type;
}

static void
skip_asked(Track *track, uint8_t type)
{
	while (oldest_asked(track) == type)
		(void)take_asked(track); /* it never will be answered */
}

/* One ReadyForQuery: the oldest request that has one. */
static void
pop_asked(Track *track)
{
	skip_asked(track, ASKED_COPY_DONE_AHEAD);
	uint8_t type = take_asked(track);
	track->completed = 0;
	if (track->statements != NULL)
		statements_answered(track->statements, track->answers,
		                    type == 'Q' || type == ASKED_QUERY_BEHIND);
	skip_asked(track, ASKED_COPY_DONE);
	if (track->asked_first == track->asked_len)
		forget_asked(track);
}

/* An error in an extended message: the server passes over all up to the next Sync, and Queries
 * and FunctionCalls among it have no answer. (An error in one of these has its ReadyForQuery.) */
static void
take_error(Track *track)
{
	track->copy_in = false;
	if (oldest_asked(track) == 0)
		track->skipping = track->open;
	if (!is_still_behind(track))
		return;
	while (oldest_asked(track) != 0 && oldest_asked(track) != 'S')
		(void)take_asked(track);
	if (track->asked_first != track->asked_len)
		return;
	forget_asked(track);
	track->open = track->skipping = true; /* the client owes the Sync */
}

/*
 * The server has begun to take COPY data. For a Query all is as usual. In the extended
 * protocol it ignores Syncs until CopyDone or CopyFail: those that the client has sent
 * already, and those it will send. A client that sent all in one go has its CopyDone here.
 */
static void
begin_copy_in(Track *track)
{
	uint8_t head = oldest_asked(track);

	if (head == 'Q' || head == 'F')
		return;
	if (is_behind(head)) {
		/* Else that Query stands where the server wants data: nobody knows what comes of it. */
		track->mixed = track->mixed || is_still_behind(track);
		return;
	}
	skip_asked(track, 'S');
	if (track->asked_first < track->asked_len)
		track->asked_first++; /* its CopyDone */
	else
		track->copy_in = true;
	if (track->asked_first != track->asked_len)
		return;
	forget_asked(track);
	track->open = true; /* its Sync was ignored: the client owes another */
}

/* CopyDone or CopyFail. One that was sent before the server asked for data is remembered;
 * for COPY by a Query it does not matter. */
static void
end_copy_in(Track *track)
{
	uint8_t last = track->asked_first < track->asked_len ? track->asked[track->asked_len - 1] : 0;

	if (track->copy_in)
		track->copy_in = false;
	else if (track->open)
		push_asked(track, ASKED_COPY_DONE_AHEAD);
	else if (last == 'S')
		push_asked(track, ASKED_COPY_DONE);
}

/* ---- messages ---- */

/* A Query or FunctionCall ends the group of extended messages in front of it, as a Sync does. */
static void
behind_extended(Track *track, uint8_t type)
{
	if (track->skipping) { /* nor does it end anything */
		track->requests++;
		track->answers++;
		return;
	}
	track->mixed = track->mixed || track->copy_in;
	push_behind(track, type == 'Q' ? ASKED_QUERY_BEHIND : ASKED_CALL_BEHIND);
	track->open = false;
	track->sent = 0;
}

static inline void
client_message(Track *track, uint8_t type)
{
	switch (type) {
	case 'Q':
	case 'F':
		if (track->open)
			behind_extended(track, type);
		else
			push_asked(track, type);
		break;
	case 'S':
		if (track->copy_in)
			break;
		track->open = track->skipping = false;
		track->sent = 0;
		push_asked(track, type);
		break;
	case 'c':
	case 'f':
		end_copy_in(track);
		break;
	case 'P':
	case 'B':
	case 'D':
	case 'E':
	case 'C':
		track->sent++;
		track->open = true;
		break;
	case 'H':
		track->open = true;
		break;
	case 'X':
		track->ended = true;
		break;
	case 'd':
	case 'p':
		break;
	default:
		track->lost = true;
	}
}

/* SET, RESET or DISCARD ALL, by the length of the tag and its first letter; where that one has
 * not come yet, it may be. */
static inline bool
is_set(uint32_t length, const uint8_t *body, const uint8_t *end)
{
	enum { SET = 4 + 4, RESET = 4 + 6, DISCARD_ALL = 4 + 12 };

	if (length == SET)
		return true;
	return (length == RESET && (body == end || *body == 'R')) ||
	       (length == DISCARD_ALL && (body == end || *body == 'D'));
}

/* A tag that is cut is not waited for: then it is not known. */
static inline void
command_complete(Track *track, uint32_t length, const uint8_t *body, const uint8_t *end)
{
	static const char discard_all[] = "DISCARD ALL";

	if (!is_set(length, body, end))
		return;
	track->sets++;
	if (track->statements != NULL && end - body >= (ptrdiff_t)sizeof(discard_all) &&
	    memcmp(body, discard_all, sizeof(discard_all)) == 0)
		statements_discarded(track->statements, track->answers);
}

static inline void
server_message(Track *track, uint8_t type, uint8_t status)
{
	switch (type) {
	case 'Z':
		track->status = (char)status;
		track->copy_in = false;
		pop_asked(track);
		break;
	case 'G':
		begin_copy_in(track);
		break;
	case 'E':
		take_error(track);
		break;
	case '1':
		track->completed++;
		if (track->statements != NULL)
			statements_parsed(track->statements, track->answers);
		break;
	case '2':               /* Bind */
	case '3':               /* Close */
	case 'T':               /* Describe, */
	case 'n':               /* one of these two */
	case 'C':               /* Execute, */
	case 'I':               /* one of these */
	case 's':               /* three */
		track->completed++; /* and more of a Query, which then is not looked at any more */
		break;
	default:
		break;
	}
}

static inline uint32_t
length_of(const uint8_t *header)
{
	return (uint32_t)header[1] << 24 | (uint32_t)header[2] << 16 | (uint32_t)header[3] << 8 |
	       header[4];
}

/* Skips what is left of a body. */
static inline const uint8_t *
skip_body(TrackWalk *walk, const uint8_t *at, const uint8_t *end)
{
	size_t here = (size_t)(end - at);

	if (walk->left >= here) {
		walk->left -= here;
		return end;
	}
	at += walk->left;
	walk->left = 0;
	return at;
}

static inline const uint8_t *
client_body(Track *track, const uint8_t *at, const uint8_t *end)
{
	const uint8_t *to = skip_body(&track->client, at, end);

	if (track->statements != NULL && statements_wants_body(track->statements))
		statements_body(track->statements, slice_of(at, (size_t)(to - at)), track->client.left == 0,
		                track->requests);
	return to;
}

/* A header that is cut: collects its bytes; true when it is whole. */
static bool
collect_header(TrackWalk *walk, const uint8_t **at, const uint8_t *end, size_t wanted)
{
	while (walk->header_len < wanted && *at < end)
		walk->header[walk->header_len++] = *(*at)++;
	return walk->header_len == wanted;
}

/* The next client message's header at *at, which moves behind it; false: cut, or lost. */
static inline bool
client_header(Track *track, const uint8_t **at, const uint8_t *end)
{
	TrackWalk *walk = &track->client;
	const uint8_t *header = *at;

	if (walk->header_len == 0 && end - *at >= HEADER) {
		*at += HEADER;
	} else {
		if (!collect_header(walk, at, end, HEADER))
			return false;
		header = walk->header;
		walk->header_len = 0;
	}
	uint32_t length = length_of(header);
	if (length < 4 || length > INT32_MAX) {
		track->lost = true;
		return false;
	}
	walk->left = length - 4;
	client_message(track, header[0]);
	if ((header[0] == 'P' || header[0] == 'Q') && track->statements != NULL && length > 4)
		statements_begin(track->statements, (char)header[0], length - 4);
	return !track->lost;
}

void
track_client(Track *track, Slice bytes)
{
	const uint8_t *at = bytes.data, *end = bytes.data + bytes.len;

	while (at < end && !track->lost) {
		if (track->client.left > 0)
			at = client_body(track, at, end);
		else if (!client_header(track, &at, end))
			return;
	}
}

static bool
begins_request(uint8_t type)
{
	return type != 0 && strchr("QFPBDECHS", type) != NULL;
}

/* A longer one of these the server refuses by its header (postgres.c, PQ_SMALL_MESSAGE_LIMIT): it is
 * not to wait for a rest that never comes. */
static inline bool
is_refused(uint8_t type, uint32_t length)
{
	enum { SMALL = 10000 };

	return length > SMALL && strchr("QFPB", type) == NULL;
}

/* For a header that does not come in pieces. */
static inline bool
is_left_for_later(const Track *track, const uint8_t *at, const uint8_t *end, size_t room)
{
	if (track->open || track->copy_in)
		return false;
	if (end - at < HEADER)
		return begins_request(*at);
	uint32_t length = length_of(at);
	return (size_t)(end - at) <= length && length < room && length >= 4 && begins_request(*at) &&
	       !is_refused(*at, length);
}

bool
track_client_partial(const Track *track, Slice bytes, size_t room)
{
	return bytes.len > 0 && is_left_for_later(track, bytes.data, bytes.data + bytes.len, room);
}

size_t
track_client_whole(Track *track, Slice bytes, size_t room)
{
	const uint8_t *at = bytes.data, *end = bytes.data + bytes.len;

	while (at < end && !track->lost) {
		if (track->client.left > 0)
			at = client_body(track, at, end);
		else if (track->client.header_len == 0 && is_left_for_later(track, at, end, room))
			return (size_t)(at - bytes.data);
		else if (!client_header(track, &at, end))
			break;
	}
	return bytes.len;
}

/* The session must wait before its next message. */
static bool
must_wait(const Track *track, bool between_requests)
{
	if (track->open || track->copy_in || track->lost)
		return false;
	return track->asked_first != track->asked_len || between_requests || track->status == 'I';
}

/* Messages that belong to the request under way, whatever else must wait. */
static bool
belongs_to_request(uint8_t type)
{
	return type == 'd' || type == 'c' || type == 'f' || type == 'X';
}

size_t
track_client_until(Track *track, Slice bytes, bool between_requests)
{
	const uint8_t *at = bytes.data, *end = bytes.data + bytes.len;

	while (at < end && !track->lost) {
		if (track->client.left > 0) {
			at = client_body(track, at, end);
			continue;
		}
		if (track->client.header_len == 0 && must_wait(track, between_requests) &&
		    !belongs_to_request(*at))
			return (size_t)(at - bytes.data);
		if (!client_header(track, &at, end))
			break;
	}
	return track->lost ? bytes.len : (size_t)(at - bytes.data);
}

size_t
track_second_phase(const Track *track, Slice bytes)
{
	if (track->client.header_len > 0 || bytes.len <= HEADER ||
	    (bytes.data[0] != 'Q' && bytes.data[0] != 'P'))
		return 0;
	uint32_t length = length_of(bytes.data);
	if (length <= 4 || length > INT32_MAX)
		return 0;
	size_t here = bytes.len - HEADER < length - 4 ? bytes.len - HEADER : length - 4;
	Slice text = slice_of(bytes.data + HEADER, here);
	if (bytes.data[0] == 'P') { /* behind the statement's name */
		size_t name = strnlen((const char *)text.data, text.len);
		if (name == text.len)
			return 0;
		text = slice_of(text.data + name + 1, text.len - name - 1);
	}
	return mentions_second_phase(text) ? (size_t)length + 1 : 0;
}

bool
track_server(Track *track, Slice bytes)
{
	TrackWalk *walk = &track->server;
	const uint8_t *at = bytes.data, *end = bytes.data + bytes.len;

	while (at < end) {
		const uint8_t *header = at;

		if (walk->left > 0) {
			at = skip_body(walk, at, end);
			continue;
		}
		/* With the byte behind it, since ReadyForQuery has its status there. */
		if (walk->header_len == 0 && end - at > HEADER) {
			at += HEADER;
		} else {
			if (!collect_header(walk, &at, end, HEADER))
				return true;
			header = walk->header;
			if (header[0] == 'Z' && !collect_header(walk, &at, end, HEADER + 1))
				return true;
		}
		uint32_t length = length_of(header);
		if (length < 4 || length > INT32_MAX || (header[0] == 'Z' && length != READY_LENGTH))
			return false;
		/* Of a collected ReadyForQuery the status has been taken already. */
		walk->left = length - 4 - (walk->header_len > HEADER);
		walk->header_len = 0;
		server_message(track, header[0], header[0] == 'Z' ? header[HEADER] : 0);
		if (header[0] == 'C')
			command_complete(track, length, at, end);
	}
	return true;
}
