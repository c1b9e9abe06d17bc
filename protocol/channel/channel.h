/*
 * channel.h: a non-blocking stream of bytes: TCP or Unix socket, plain or TLS.
 *
 * The four functions of ChannelOps are the whole seam between plain and TLS;
 * nobody above knows which one it is. Functions marked "waits" end at stop
 * (ERROR_CANCELLED) or deadline (ERROR_TIMEOUT).
 */
#ifndef PGBATON_PROTOCOL_CHANNEL_H
#define PGBATON_PROTOCOL_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/slice.h"
#include "common/stop.h"
#include "protocol/conninfo.h"

typedef struct Channel Channel;

/* read, write: bytes moved (> 0); 0: not now, wait for *_wants; -1: failed,
 * err is set (ERROR_NETWORK; also when the peer has closed). */
typedef struct {
	ssize_t (*read)(Channel *channel, void *data, size_t size, Error *err);
	ssize_t (*write)(Channel *channel, const void *data, size_t size, Error *err);
	bool (*pending)(const Channel *channel); /* bytes that poll cannot see */
	void (*close)(Channel *channel);         /* says goodbye if it can; frees `state` */
} ChannelOps;

struct Channel {
	const ChannelOps *ops;
	int fd;
	short read_wants; /* POLLIN or POLLOUT: what the last read waits for */
	short write_wants;
	const char *peer; /* "server" or "client": who closed it, in messages */
	void *state;      /* TLS: its own */
};

/* Where to connect. */
typedef struct {
	struct sockaddr_storage address;
	socklen_t length;
	char name[128]; /* numeric, for messages: "127.0.0.1", "[::1]" or a path */
} ChannelAddress;

/* All addresses of a host, in the resolver's order; a Unix socket is one.
 * Blocks in getaddrinfo. *out: free() it. */
MUST_CHECK bool channel_resolve(const ConnHost *host, ChannelAddress **out, size_t *count,
                                Error *err);

/* Waits. Socket options (keepalives, ...) from info. */
MUST_CHECK bool channel_open(Channel *channel, const ChannelAddress *address, const ConnInfo *info,
                             const Stop *stop, int64_t deadline_ms, Error *err);
void channel_close(Channel *channel); /* also of a channel that is {.fd = -1} */

/* The same without waiting, for an event loop. *connected false: when the socket can be
 * written to, channel_connected says what came of it. False: the channel is closed. */
MUST_CHECK bool channel_begin(Channel *channel, const ChannelAddress *address, const ConnInfo *info,
                              bool *connected, Error *err);
MUST_CHECK bool channel_connected(Channel *channel, const ConnInfo *info, Error *err);
/* A socket that was accepted from a client; it becomes the channel's. */
void channel_adopt(Channel *channel, int fd);

/* Waits until all is written, or exactly size bytes are read. */
MUST_CHECK bool channel_write_all(Channel *channel, Slice bytes, const Stop *stop,
                                  int64_t deadline_ms, Error *err);
MUST_CHECK bool channel_read_all(Channel *channel, void *data, size_t size, const Stop *stop,
                                 int64_t deadline_ms, Error *err);

#endif
