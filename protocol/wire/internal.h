/*
 * internal.h: a Wire from inside; for the files of protocol/wire only.
 *
 *   hosts.c     wire_connect: hosts and addresses in order
 *   connect.c   one address: TLS, startup, authentication
 *   wire.c      receiving, sending, what arrives unasked, cancel
 *   query.c     simple queries
 *   copy.c      COPY out and in
 *   both.c      copy-both
 */
#ifndef PGBATON_PROTOCOL_WIRE_INTERNAL_H
#define PGBATON_PROTOCOL_WIRE_INTERNAL_H

#include "common/bytes.h"
#include "protocol/channel/channel.h"
#include "protocol/channel/tls.h"
#include "protocol/message/frame.h"
#include "protocol/message/message.h"
#include "protocol/wire.h"

/*
 *   STARTING --ReadyForQuery--> IDLE --Query--> BUSY --ReadyForQuery--> IDLE
 *   BUSY --CopyOutResponse--> COPY_OUT, --CopyInResponse--> COPY_IN,
 *        --CopyBothResponse--> COPY_BOTH, and from these back to BUSY at their end
 *   any --network or protocol error, FATAL, a wait given up--> DEAD
 */
typedef enum {
	WIRE_STARTING,
	WIRE_IDLE,
	WIRE_BUSY,
	WIRE_COPY_OUT,
	WIRE_COPY_IN,
	WIRE_COPY_BOTH,
	WIRE_DEAD
} WireState;

typedef struct {
	char *name;
	char *value;
} WireParameter;

struct Wire {
	WireState state;
	Channel channel;
	FrameReader in;
	Buffer out; /* out.data[out_pos, len) waits to be sent */
	size_t out_pos;
	const Stop *stop;
	ConnInfo *info;
	TlsConfig *tls;
	ChannelAddress address;
	char *host; /* as the user wrote it: for TLS and messages */
	char *display;
	WireParameter *parameters;
	size_t parameter_count;
	int server_version;
	uint32_t pid;
	uint8_t key[256];
	size_t key_len;
	FrameWalk walk; /* copy-in: where in a frame we stopped */
	bool copy_done_sent;
};

/* Each waits as wire.h says, and sets DEAD when the connection is lost. */

/* One read, after waiting for it. */
MUST_CHECK bool wire_receive(Wire *wire, int64_t deadline_ms, Error *err);
/* The next frame but Notice-, Parameter- and Notification messages. */
MUST_CHECK bool wire_next(Wire *wire, int64_t deadline_ms, Frame *out, Error *err);
MUST_CHECK bool wire_send(Wire *wire, Slice bytes, int64_t deadline_ms, Error *err);
/* Takes what needs no answer (N, S, A). *taken says whether it did. */
MUST_CHECK bool wire_absorb(Wire *wire, const Frame *frame, bool *taken, Error *err);

/* IDLE -> BUSY with sql on its way; ERROR_BUG when it is not IDLE,
 * ERROR_NETWORK when it is DEAD. */
MUST_CHECK bool wire_start_query(Wire *wire, const char *sql, int64_t deadline_ms, Error *err);
/* Reads on until ReadyForQuery, dropping what comes. An ErrorResponse is put
 * into *sql (may be NULL) if none is there yet. -> IDLE. */
MUST_CHECK bool wire_finish(Wire *wire, int64_t deadline_ms, Error *sql, Error *err);
/* An ErrorResponse as *err (class ERROR_SQL); FATAL makes the wire DEAD.
 * Always false. */
bool wire_take_error(Wire *wire, Slice payload, Error *err);
/* After an ErrorResponse: reads up to ReadyForQuery, bounded. Always false. */
bool wire_fail_query(Wire *wire);

/* The channel of `wire`, open and with TLS if `tls`; for connect and cancel. */
typedef enum {
	WIRE_TLS_OFF,
	WIRE_TLS_TRY, /* plain if the server has none */
	WIRE_TLS_ON
} WireTls;
MUST_CHECK bool wire_open_channel(const Wire *wire, Channel *channel, WireTls tls, const Stop *stop,
                                  int64_t deadline_ms, Error *err);

/* A session at wire->address, with and without TLS as sslmode says. */
MUST_CHECK bool wire_establish(Wire *wire, const WireOptions *options, const ConnHost *host,
                               int64_t deadline_ms, Error *err);

#endif
