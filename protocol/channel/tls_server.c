#include "protocol/channel/tls_server.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>

#include "common/memory.h"
#include "protocol/channel/tls_internal.h"

/* Among what the client offers only "postgresql" will do: else the handshake fails with
 * no_application_protocol, as on a server of ours (ALPACA attack). */
static int
choose_alpn(SSL *ssl UNUSED, const unsigned char **out, unsigned char *out_len,
            const unsigned char *in, unsigned in_len, void *arg UNUSED)
{
	static const unsigned char wanted[] = "\x0apostgresql";
	unsigned char *chosen = NULL;

	if (SSL_select_next_proto(&chosen, out_len, wanted, sizeof(wanted) - 1, in, in_len) !=
	    OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

/* Nobody can be asked on a terminal. */
static int
no_passphrase(char *out UNUSED, int size UNUSED, int writing UNUSED, void *arg UNUSED)
{
	return 0;
}

static bool
file_error(Error *err, const char *what, const char *file)
{
	char reason[256];
	return error_set(err, ERROR_CONFIG, "%s \"%s\": %s", what, file,
	                 tls_reason(reason, sizeof(reason)));
}

static bool
load_certificate(TlsServer *server, const char *cert, const char *key, Error *err)
{
	SSL_CTX_set_default_passwd_cb(server->ctx, no_passphrase);
	if (SSL_CTX_use_certificate_chain_file(server->ctx, cert) != 1)
		return file_error(err, "cannot load the certificate", cert);
	if (!tls_check_key_file(key, err))
		return false;
	if (SSL_CTX_use_PrivateKey_file(server->ctx, key, SSL_FILETYPE_PEM) != 1)
		return file_error(err, "cannot load the private key", key);
	if (SSL_CTX_check_private_key(server->ctx) != 1)
		return file_error(err, "the certificate does not fit the private key", key);
	server->binding_len = tls_certificate_binding(SSL_CTX_get0_certificate(server->ctx),
	                                              server->binding);
	return true;
}

static bool
load_authority(TlsServer *server, const char *ca, Error *err)
{
	if (ca == NULL)
		return true;
	STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(ca);
	if (names == NULL || SSL_CTX_load_verify_locations(server->ctx, ca, NULL) != 1) {
		sk_X509_NAME_pop_free(names, X509_NAME_free);
		return file_error(err, "cannot load the client certificate authority", ca);
	}
	SSL_CTX_set_client_CA_list(server->ctx, names);
	SSL_CTX_set_verify(server->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return true;
}

TlsServer *
tls_server_new(const char *cert, const char *key, const char *ca, Error *err)
{
	TlsServer *server = mem_zalloc(sizeof(TlsServer));

	server->ctx = SSL_CTX_new(TLS_server_method());
	CHECK(server->ctx != NULL);
	CHECK(SSL_CTX_set_min_proto_version(server->ctx, TLS1_2_VERSION) == 1);
	/* As PostgreSQL: no renegotiation, no tickets and no cache, for sessions live long. An idle
	 * client keeps no buffers. */
	SSL_CTX_set_options(server->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
	                                     SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_session_cache_mode(server->ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(server->ctx, 0);
	SSL_CTX_set_mode(server->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE |
	                                  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
	                                  SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_alpn_select_cb(server->ctx, choose_alpn, NULL);
	if (load_certificate(server, cert, key, err) && load_authority(server, ca, err))
		return server;
	tls_server_free(server);
	return NULL;
}

void
tls_server_free(TlsServer *server)
{
	if (server == NULL)
		return;
	SSL_CTX_free(server->ctx);
	free(server);
}

Slice
tls_server_binding(const TlsServer *server)
{
	return slice_of(server->binding, server->binding_len);
}
