#include "tests/harness/tls.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/memory.h"
#include "tests/harness/spawn.h"

typedef struct {
	EVP_PKEY *key;
	X509 *cert;
} Identity;

static void
need(bool ok, const char *what)
{
	if (!ok)
		ck_abort_msg("certificates: %s failed", what);
}

static void
add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;

	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	need(ext != NULL && X509_add_ext(cert, ext, -1) == 1, value);
	X509_EXTENSION_free(ext);
}

/* issuer NULL: signs itself, as an authority. san may be NULL. */
static Identity
identity_new(const char *name, const char *san, const Identity *issuer, long serial)
{
	Identity id = {.key = EVP_EC_gen("P-256"), .cert = X509_new()};

	need(id.key != NULL && id.cert != NULL, "key");
	X509_set_version(id.cert, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(id.cert), serial);
	X509_gmtime_adj(X509_getm_notBefore(id.cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(id.cert), 24L * 3600 * 30);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(id.cert), "CN", MBSTRING_UTF8,
	                           (const unsigned char *)name, -1, -1, 0);
	const Identity *by = issuer != NULL ? issuer : &id;
	X509_set_issuer_name(id.cert, X509_get_subject_name(by->cert));
	X509_set_pubkey(id.cert, id.key);
	if (issuer == NULL)
		add_extension(id.cert, by->cert, NID_basic_constraints, "critical,CA:TRUE");
	if (san != NULL)
		add_extension(id.cert, by->cert, NID_subject_alt_name, san);
	need(X509_sign(id.cert, by->key, EVP_sha256()) > 0, "signature");
	return id;
}

static FILE *
open_new(const char *dir, const char *file, mode_t mode)
{
	char *path = mem_printf("%s/%s", dir, file);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);

	if (fd < 0)
		ck_abort_msg("%s: %s", path, strerror(errno));
	free(path);
	return fdopen(fd, "w");
}

static void
identity_write(const Identity *id, const char *dir, const char *cert, const char *key,
               bool for_server)
{
	FILE *file = open_new(dir, cert, 0644);
	need(PEM_write_X509(file, id->cert) == 1, cert);
	fclose(file);
	if (key == NULL)
		return;
	file = open_new(dir, key, 0600);
	need(PEM_write_PKCS8PrivateKey(file, id->key, NULL, NULL, 0, NULL, NULL) == 1, key);
	if (for_server)
		need(fchown(fileno(file), server_uid(), server_gid()) == 0, "chown");
	fclose(file);
}

static void
identity_free(Identity *id)
{
	EVP_PKEY_free(id->key);
	X509_free(id->cert);
}

void
tls_make_files(const char *dir)
{
	Identity root = identity_new("pgbaton tests", NULL, NULL, 1);
	Identity server = identity_new("localhost", "DNS:localhost,IP:127.0.0.1", &root, 2);
	Identity client = identity_new("postgres", NULL, &root, 3);

	identity_write(&root, dir, "root.crt", NULL, false);
	identity_write(&server, dir, "server.crt", "server.key", true);
	identity_write(&client, dir, "client.crt", "client.key", false);
	identity_free(&client);
	identity_free(&server);
	identity_free(&root);
}
