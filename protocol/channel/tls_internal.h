/* tls_internal.h: what the two halves of tls.h share. */
#ifndef PGBATON_PROTOCOL_TLS_INTERNAL_H
#define PGBATON_PROTOCOL_TLS_INTERNAL_H

#include <openssl/ssl.h>

#include "protocol/channel/tls.h"

struct TlsConfig {
	TlsMode mode;
	bool direct;
	bool sni;
	bool cert_required; /* sslcertmode=require: the server must ask for ours */
	char *key_password; /* sslpassword */
	SSL_CTX *ctx;       /* NULL when the mode is disable */
};

/* The first error in OpenSSL's queue as text; empties the queue. */
const char *tls_reason(char *out, size_t size);

#endif
