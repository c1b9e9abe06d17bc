/*
 * link.h: a connection to an endpoint as far as the startup packet, without waiting:
 * TCP or Unix socket, SSLRequest, TLS.
 */
#ifndef PGBATON_PROXY_LISTENER_LINK_H
#define PGBATON_PROXY_LISTENER_LINK_H

#include "proxy/listener/upstream.h"

typedef enum { LINK_CONNECTING, LINK_TLS_ASKED, LINK_HANDSHAKE, LINK_OPEN } LinkPhase;

typedef struct {
	Channel *channel;         /* the owner's */
	const Endpoint *endpoint; /* must live until it is open */
	LinkPhase phase;
} Link;

typedef enum {
	LINK_READY,
	LINK_WAIT, /* until the socket is ready for channel->read_wants; then link_step */
	LINK_FAILED
} LinkResult;

LinkResult link_begin(Link *link, Channel *channel, const Endpoint *endpoint, Error *err);
LinkResult link_step(Link *link, Error *err);

#endif
