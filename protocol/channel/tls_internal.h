/* tls_internal.h: what the files of tls.h and tls_server.h share. */
#ifndef PGBATON_PROTOCOL_TLS_INTERNAL_H
#define PGBATON_PROTOCOL_TLS_INTERNAL_H

#include <openssl/ssl.h>

#include "protocol/channel/tls.h"
#include "protocol/channel/tls_server.h"

struct TlsConfig {
	TlsMode mode;
	bool direct;
	bool sni;
	bool cert_required; /* sslcertmode=require: the server must ask for ours */
	char *key_password; /* sslpassword */
	SSL_CTX *ctx;       /* NULL when the mode is disable */
};

struct TlsServer {
	SSL_CTX *ctx;
	uint8_t binding[EVP_MAX_MD_SIZE];
	size_t binding_len;
};

/* RFC 5929, tls-server-end-point: the hash of the signature, but SHA-256 for md5 and
 * SHA-1. The length, 0 when none is defined. */
size_t tls_certificate_binding(X509 *cert, uint8_t out[EVP_MAX_MD_SIZE]);
/* False with ERROR_CONFIG when others may read the private key. */
MUST_CHECK bool tls_check_key_file(const char *file, Error *err);

/* The first error in OpenSSL's queue as text; empties the queue. */
const char *tls_reason(char *out, size_t size);

#endif
