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

bool tls_is(const Channel *channel);
/* tls-server-end-point of the server's certificate; empty when there is none.
 * Lives as long as the channel. */
Slice tls_binding_data(const Channel *channel);

#endif
