/* The handshake, and TLS as a ChannelOps. */
#include "protocol/channel/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/channel/tls_internal.h"

typedef struct {
	SSL *ssl;
	const TlsConfig *config; /* of a client; only until the handshake is done */
	const char *host;        /* likewise */
	bool cert_asked;
	uint8_t binding[EVP_MAX_MD_SIZE];
	size_t binding_len;
} Tls;

/* OpenSSL's own socket BIO writes without MSG_NOSIGNAL; this one does not. */
static int
bio_write(BIO *bio, const char *data, int size)
{
	int fd = (int)(intptr_t)BIO_get_data(bio);
	ssize_t n = send(fd, data, (size_t)size, MSG_NOSIGNAL);

	BIO_clear_retry_flags(bio);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		BIO_set_retry_write(bio);
	return (int)n;
}

static int
bio_read(BIO *bio, char *data, int size)
{
	int fd = (int)(intptr_t)BIO_get_data(bio);
	ssize_t n = recv(fd, data, (size_t)size, 0);

	BIO_clear_retry_flags(bio);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		BIO_set_retry_read(bio);
	if (n == 0)
		BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
	return (int)n;
}

static long
bio_ctrl(BIO *bio, int command, long number, void *data)
{
	(void)number;
	(void)data;
	if (command == BIO_CTRL_EOF)
		return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
	return command == BIO_CTRL_FLUSH || command == BIO_CTRL_DUP;
}

/* One method a connection: it costs nothing beside a handshake, and nothing
 * global has to be created and kept. */
static BIO *
new_bio(int fd, BIO_METHOD **method)
{
	*method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "pgbaton socket");
	CHECK(*method != NULL);
	BIO_meth_set_write(*method, bio_write);
	BIO_meth_set_read(*method, bio_read);
	BIO_meth_set_ctrl(*method, bio_ctrl);
	BIO *bio = BIO_new(*method);
	CHECK(bio != NULL);
	BIO_set_data(bio, (void *)(intptr_t)fd);
	BIO_set_init(bio, 1);
	return bio;
}

/* What an SSL_* result means: 0 wait (*wants set), -1 failed. */
static int
tls_outcome(const Channel *channel, int result, short *wants, Error *err)
{
	const Tls *tls = channel->state;
	char reason[256];
	int saved = errno;

	switch (SSL_get_error(tls->ssl, result)) {
	case SSL_ERROR_WANT_READ:
		*wants = POLLIN;
		return 0;
	case SSL_ERROR_WANT_WRITE:
		*wants = POLLOUT;
		return 0;
	case SSL_ERROR_ZERO_RETURN:
		error_set(err, ERROR_NETWORK, "the %s closed the connection", channel->peer);
		return -1;
	case SSL_ERROR_SYSCALL:
		if (saved != 0 && ERR_peek_error() == 0) {
			error_set_errno(err, ERROR_NETWORK, saved, "TLS connection");
			return -1;
		}
		break;
	default:
		break;
	}
	if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
		ERR_clear_error();
		error_set(err, ERROR_NETWORK, "the %s closed the connection", channel->peer);
	} else {
		error_set(err, ERROR_NETWORK, "TLS: %s", tls_reason(reason, sizeof(reason)));
	}
	return -1;
}

/* One record holds 16 KiB at most (PostgreSQL's 8), and the copy relay wants large runs:
 * after a full record it goes on, after a small one there is mostly nothing more, and the
 * socket need not be asked. */
static ssize_t
tls_read(Channel *channel, void *data, size_t size, Error *err)
{
	enum { LARGE_RECORD = 8000 };
	Tls *tls = channel->state;
	size_t done = 0;

	while (done < size) {
		size_t n = 0;
		ERR_clear_error();
		errno = 0;
		int result = SSL_read_ex(tls->ssl, (uint8_t *)data + done, size - done, &n);
		if (result <= 0) {
			if (done > 0)
				break; /* the reason comes again with the next read */
			return tls_outcome(channel, result, &channel->read_wants, err);
		}
		done += n;
		if (n < LARGE_RECORD && !SSL_has_pending(tls->ssl))
			break;
	}
	return (ssize_t)done;
}

static ssize_t
tls_write(Channel *channel, const void *data, size_t size, Error *err)
{
	Tls *tls = channel->state;
	size_t n = 0;

	if (size == 0)
		return 0;
	ERR_clear_error();
	errno = 0;
	int result = SSL_write_ex(tls->ssl, data, size, &n);
	if (result <= 0)
		return tls_outcome(channel, result, &channel->write_wants, err);
	return (ssize_t)n;
}

static bool
tls_pending(const Channel *channel)
{
	const Tls *tls = channel->state;
	return SSL_pending(tls->ssl) > 0;
}

static void
tls_close(Channel *channel)
{
	Tls *tls = channel->state;
	BIO_METHOD *method = SSL_get_ex_data(tls->ssl, 0);

	ERR_clear_error();
	(void)SSL_shutdown(tls->ssl); /* one try: the peer may be gone */
	ERR_clear_error();
	SSL_free(tls->ssl);
	BIO_meth_free(method);
	free(tls);
	channel->state = NULL;
}

static const ChannelOps tls_ops = {tls_read, tls_write, tls_pending, tls_close};

static bool
is_ip(const char *host)
{
	uint8_t room[16];
	return inet_pton(AF_INET, host, room) == 1 || inet_pton(AF_INET6, host, room) == 1;
}

/* verify-full. As libpq: an IP address may stand as such or as text in the
 * names; the common name counts only without alternative names of its kind. */
static bool
check_host(X509 *cert, const char *host, Error *err)
{
	unsigned flags = X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS;
	bool matches;

	if (is_ip(host)) {
		matches = X509_check_ip_asc(cert, host, 0) == 1;
		GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
		for (int i = 0; i < sk_GENERAL_NAME_num(names); i++)
			if (sk_GENERAL_NAME_value(names, i)->type == GEN_IPADD)
				flags |= X509_CHECK_FLAG_NEVER_CHECK_SUBJECT;
		GENERAL_NAMES_free(names);
		flags |= X509_CHECK_FLAG_NO_WILDCARDS;
		matches = matches || X509_check_host(cert, host, 0, flags, NULL) == 1;
	} else {
		matches = X509_check_host(cert, host, 0, flags, NULL) == 1;
	}
	ERR_clear_error();
	if (matches)
		return true;
	return error_set(err, ERROR_AUTH, "the server's certificate is not for the host \"%s\"", host);
}

size_t
tls_certificate_binding(X509 *cert, uint8_t out[EVP_MAX_MD_SIZE])
{
	int digest = NID_undef;
	unsigned len = 0;

	if (X509_get_signature_info(cert, &digest, NULL, NULL, NULL) != 1 || digest == NID_undef)
		return 0; /* an algorithm without a hash (Ed25519): no binding is defined */
	const EVP_MD *md = digest == NID_md5 || digest == NID_sha1 ? EVP_sha256()
	                                                           : EVP_get_digestbynid(digest);
	bool ok = md != NULL && X509_digest(cert, md, out, &len) == 1;
	ERR_clear_error();
	return ok ? len : 0;
}

static bool
check_alpn(const Tls *tls, bool direct, Error *err)
{
	static const char wanted[] = "postgresql";
	const unsigned char *chosen = NULL;
	unsigned len = 0;

	SSL_get0_alpn_selected(tls->ssl, &chosen, &len);
	if (len == 0 && !direct)
		return true; /* servers before 17 know nothing of ALPN */
	if (len == strlen(wanted) && memcmp(chosen, wanted, len) == 0)
		return true;
	return error_set(err, ERROR_NETWORK, "the server does not speak PostgreSQL over direct TLS");
}

static bool
check_server(Tls *tls, const TlsConfig *config, const char *host, Error *err)
{
	X509 *cert = SSL_get1_peer_certificate(tls->ssl);

	if (cert == NULL)
		return error_set(err, ERROR_AUTH, "the server has no certificate");
	bool ok = check_alpn(tls, config->direct, err) &&
	          (config->mode != TLS_VERIFY_FULL || check_host(cert, host, err));
	if (ok && config->cert_required && !tls->cert_asked)
		ok = error_set(err, ERROR_AUTH,
		               "sslcertmode is require, but the server did not ask for a certificate");
	if (ok)
		tls->binding_len = tls_certificate_binding(cert, tls->binding);
	X509_free(cert);
	return ok;
}

static int
certificate_asked(SSL *ssl, void *arg)
{
	(void)ssl;
	((Tls *)arg)->cert_asked = true;
	return 1;
}

/* The channel becomes a TLS one; nothing is sent yet. */
static Tls *
attach(Channel *channel, SSL_CTX *ctx)
{
	Tls *tls = mem_zalloc(sizeof(Tls));
	BIO_METHOD *method;

	tls->ssl = SSL_new(ctx);
	CHECK(tls->ssl != NULL);
	BIO *bio = new_bio(channel->fd, &method);
	SSL_set_bio(tls->ssl, bio, bio);
	SSL_set_ex_data(tls->ssl, 0, method);
	channel->state = tls;
	channel->ops = &tls_ops;
	return tls;
}

void
tls_begin(Channel *channel, const TlsConfig *config, const char *host)
{
	static const unsigned char alpn[] = "\x0apostgresql";
	Tls *tls = attach(channel, config->ctx);

	tls->config = config;
	tls->host = host;
	SSL_set_connect_state(tls->ssl);
	SSL_set_cert_cb(tls->ssl, certificate_asked, tls);
	CHECK(SSL_set_alpn_protos(tls->ssl, alpn, sizeof(alpn) - 1) == 0);
	if (config->sni && host[0] != '/' && host[0] != '@' && !is_ip(host)) {
		char *name = mem_strdup(host); /* the macro casts const away; OpenSSL copies */
		(void)SSL_set_tlsext_host_name(tls->ssl, name); /* no name is longer than 255 */
		free(name);
	}
}

static bool
handshake_failed(const Tls *tls, Error *err)
{
	long verdict = SSL_get_verify_result(tls->ssl);

	if (verdict != X509_V_OK)
		return error_set(err, ERROR_AUTH, "the %s's certificate is not accepted: %s",
		                 tls->config != NULL ? "server" : "client",
		                 X509_verify_cert_error_string(verdict));
	return false;
}

TlsStep
tls_handshake(Channel *channel, Error *err)
{
	Tls *tls = channel->state;

	ERR_clear_error();
	errno = 0;
	int result = SSL_do_handshake(tls->ssl);
	if (result == 1) {
		const TlsConfig *config = tls->config;
		tls->config = NULL;
		return config == NULL || check_server(tls, config, tls->host, err) ? TLS_STEP_DONE
		                                                                   : TLS_STEP_FAILED;
	}
	if (tls_outcome(channel, result, &channel->read_wants, err) == 0)
		return TLS_STEP_WAIT;
	(void)handshake_failed(tls, err);
	return TLS_STEP_FAILED;
}

bool
tls_start(Channel *channel, TlsConfig *config, const char *host, const Stop *stop,
          int64_t deadline_ms, Error *err)
{
	TlsStep step;

	tls_begin(channel, config, host);
	do {
		step = tls_handshake(channel, err);
	} while (step == TLS_STEP_WAIT &&
	         stop_wait_fd(stop, channel->fd, channel->read_wants, deadline_ms, err));
	if (step != TLS_STEP_DONE)
		channel_close(channel);
	return step == TLS_STEP_DONE;
}

void
tls_server_begin(Channel *channel, const TlsServer *server)
{
	Tls *tls = attach(channel, server->ctx);

	SSL_set_accept_state(tls->ssl);
}

void
tls_read_ahead(Channel *channel)
{
	Tls *tls = channel->state;
	SSL_set_read_ahead(tls->ssl, 1);
}

bool
tls_alpn_chosen(const Channel *channel)
{
	const Tls *tls = channel->state;
	const unsigned char *chosen = NULL;
	unsigned len = 0;

	SSL_get0_alpn_selected(tls->ssl, &chosen, &len);
	return len > 0;
}

bool
tls_is(const Channel *channel)
{
	return channel->ops == &tls_ops;
}

Slice
tls_binding_data(const Channel *channel)
{
	if (!tls_is(channel))
		return SLICE_EMPTY;
	const Tls *tls = channel->state;
	return slice_of(tls->binding, tls->binding_len);
}
