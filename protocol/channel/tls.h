/*
 * tls.h: TLS over a channel, with libpq's rules (OpenSSL 3 does the work).
 *
 * PostgreSQL documentation, "SSL Support" of libpq; RFC 5929 for the channel
 * binding. A TlsConfig is what info says, loaded once, for all hosts of it.
 */
#ifndef PGBATON_PROTOCOL_TLS_H
#define PGBATON_PROTOCOL_TLS_H

#include "protocol/channel/channel.h"

typedef enum {
	TLS_DISABLE,
	TLS_ALLOW,
	TLS_PREFER,
	TLS_REQUIRE,
	TLS_VERIFY_CA,
	TLS_VERIFY_FULL
} TlsMode;

typedef struct TlsConfig TlsConfig;

/* ERROR_CONFIG on values that cannot be, files that cannot be read, a private
 * key that others may read. NULL for none of the modes: also for disable there
 * is an object, so that the mode can be asked. */
TlsConfig *tls_config_new(const ConnInfo *info, Error *err);
void tls_config_free(TlsConfig *config);
TlsMode tls_config_mode(const TlsConfig *config);
/* sslnegotiation=direct: the handshake begins without an SSLRequest (17+). */
bool tls_config_direct(const TlsConfig *config);

/* Waits: handshake and, for verify-full, the host's name. host: as the user
 * wrote it. On failure the channel is closed. ERROR_AUTH when the certificate
 * is not the one wanted, ERROR_NETWORK for the rest. */
MUST_CHECK bool tls_start(Channel *channel, TlsConfig *config, const char *host, const Stop *stop,
                          int64_t deadline_ms, Error *err);

/* The same without waiting, for an event loop: begin once, then a step whenever the socket
 * is ready for channel->read_wants. config and host must live until it is done. After
 * FAILED only channel_close may follow. */
typedef enum { TLS_STEP_DONE, TLS_STEP_WAIT, TLS_STEP_FAILED } TlsStep;
void tls_begin(Channel *channel, const TlsConfig *config, const char *host);
TlsStep tls_handshake(Channel *channel, Error *err);
/* One read of the socket a record instead of two; `pending` then does not see what was
 * read ahead: for owners that read until nothing comes. */
void tls_read_ahead(Channel *channel);

bool tls_is(const Channel *channel);
/* tls-server-end-point of the server's certificate; empty when there is none.
 * Lives as long as the channel. */
Slice tls_binding_data(const Channel *channel);

#endif
