/*
 * tls_server.h: the server's side of TLS over a channel, with PostgreSQL's rules.
 *
 * TLS 1.2 or newer; ALPN, where a client offers it, must hold "postgresql" (and
 * whoever begins with TLS at once must offer it: tls_alpn_chosen). PostgreSQL
 * documentation, "Secure TCP/IP Connections with SSL".
 */
#ifndef PGBATON_PROTOCOL_TLS_SERVER_H
#define PGBATON_PROTOCOL_TLS_SERVER_H

#include "protocol/channel/tls.h"

/* Certificate, key and client authority, loaded once. Read only: any thread may begin
 * handshakes with it. */
typedef struct TlsServer TlsServer;

/* PEM files. ca NULL: clients are not asked for a certificate; else they must have one
 * that it has signed. ERROR_CONFIG when a file cannot be used, or others may read the key. */
TlsServer *tls_server_new(const char *cert, const char *key, const char *ca, Error *err);
void tls_server_free(TlsServer *server);
/* tls-server-end-point of our certificate; empty when there is none. */
Slice tls_server_binding(const TlsServer *server);

/* On an adopted channel; goes on with tls_handshake. */
void tls_server_begin(Channel *channel, const TlsServer *server);
/* Whether the client offered "postgresql" by ALPN; after the handshake. */
bool tls_alpn_chosen(const Channel *channel);

#endif
