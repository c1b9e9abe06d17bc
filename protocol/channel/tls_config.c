/* What the connection string says about TLS, and the files behind it. */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"
#include "protocol/channel/tls_internal.h"

static const char *
value_of(const ConnInfo *info, const char *keyword, const char *missing)
{
	const char *value = conninfo_get(info, keyword);
	return value != NULL && value[0] != '\0' ? value : missing;
}

const char *
tls_reason(char *out, size_t size)
{
	unsigned long code = ERR_peek_error();
	const char *text = code != 0 ? ERR_reason_error_string(code) : NULL;

	if (text != NULL)
		snprintf(out, size, "%s", text);
	else if (code != 0)
		snprintf(out, size, "OpenSSL error %lx", code);
	else
		snprintf(out, size, "the other side closed the connection");
	ERR_clear_error();
	return out;
}

static bool
config_error(Error *err, const char *what, const char *file)
{
	char reason[256];
	return error_set(err, ERROR_CONFIG, "%s \"%s\": %s", what, file,
	                 tls_reason(reason, sizeof(reason)));
}

/* ~/.postgresql/name, allocated; NULL without a home. */
static char *
home_file(const char *name)
{
	const char *home = getenv("HOME");
	struct passwd entry, *found = NULL;
	char room[4096];

	if (home == NULL || home[0] == '\0')
		home = getpwuid_r(geteuid(), &entry, room, sizeof(room), &found) == 0 && found != NULL
		           ? entry.pw_dir
		           : NULL;
	return home != NULL ? mem_printf("%s/.postgresql/%s", home, name) : NULL;
}

/* The keyword's file, or the one in the home directory if that exists; NULL:
 * none. Allocated. */
static char *
find_file(const ConnInfo *info, const char *keyword, const char *home_name)
{
	const char *given = value_of(info, keyword, NULL);
	struct stat st;

	if (given != NULL)
		return mem_strdup(given);
	char *path = home_file(home_name);
	if (path != NULL && stat(path, &st) != 0) {
		free(path);
		path = NULL;
	}
	return path;
}

static bool
set_versions(SSL_CTX *ctx, const ConnInfo *info, Error *err)
{
	static const struct {
		const char *name;
		int version;
	} known[] = {
		{"TLSv1", TLS1_VERSION},
		{"TLSv1.1", TLS1_1_VERSION},
		{"TLSv1.2", TLS1_2_VERSION},
		{"TLSv1.3", TLS1_3_VERSION},
	};
	const char *names[] = {value_of(info, "ssl_min_protocol_version", "TLSv1.2"),
	                       value_of(info, "ssl_max_protocol_version", NULL)};
	int versions[2] = {0, 0};

	for (int i = 0; i < 2; i++) {
		if (names[i] == NULL)
			continue;
		for (size_t k = 0; k < sizeof(known) / sizeof(known[0]); k++)
			if (strcasecmp(names[i], known[k].name) == 0)
				versions[i] = known[k].version;
		if (versions[i] == 0)
			return error_set(err, ERROR_CONFIG, "\"%s\" is not a TLS version", names[i]);
	}
	if ((versions[1] != 0 && versions[0] > versions[1]) ||
	    SSL_CTX_set_min_proto_version(ctx, versions[0]) != 1 ||
	    SSL_CTX_set_max_proto_version(ctx, versions[1]) != 1)
		return error_set(err, ERROR_CONFIG,
		                 "no TLS version lies between ssl_min_protocol_version "
		                 "and ssl_max_protocol_version");
	return true;
}

static bool
load_crl(SSL_CTX *ctx, const ConnInfo *info, Error *err)
{
	const char *dir = value_of(info, "sslcrldir", NULL);
	char *file = dir != NULL && value_of(info, "sslcrl", NULL) == NULL
	                 ? NULL
	                 : find_file(info, "sslcrl", "root.crl");
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);

	if (file == NULL && dir == NULL)
		return true;
	bool given = dir != NULL || value_of(info, "sslcrl", NULL) != NULL;
	bool ok = X509_STORE_load_locations(store, file, dir) == 1;
	if (ok)
		X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
	else if (given)
		config_error(err, "cannot load the certificate revocation list", file != NULL ? file : dir);
	else
		ok = config_error(err, "cannot load the certificate revocation list", file);
	free(file);
	return ok;
}

/* A root certificate that is there is used, in mode require too (as libpq:
 * then require means verify-ca). */
static bool
load_roots(TlsConfig *config, const ConnInfo *info, Error *err)
{
	const char *given = value_of(info, "sslrootcert", NULL);
	bool must = config->mode >= TLS_VERIFY_CA;

	if (given != NULL && strcmp(given, "system") == 0) {
		if (config->mode != TLS_VERIFY_FULL)
			return error_set(err, ERROR_CONFIG, "sslrootcert=system needs sslmode=verify-full");
		if (SSL_CTX_set_default_verify_paths(config->ctx) != 1)
			return config_error(err, "cannot load the root certificates of the", "system");
		SSL_CTX_set_verify(config->ctx, SSL_VERIFY_PEER, NULL);
		return true;
	}
	char *file = find_file(info, "sslrootcert", "root.crt");
	bool ok = true;
	if (file != NULL && (given == NULL || must || access(file, F_OK) == 0)) {
		ok = SSL_CTX_load_verify_locations(config->ctx, file, NULL) == 1;
		if (!ok)
			config_error(err, "cannot load the root certificates", file);
		SSL_CTX_set_verify(config->ctx, SSL_VERIFY_PEER, NULL);
		ok = ok && load_crl(config->ctx, info, err);
	} else if (must) {
		ok = error_set(err, ERROR_CONFIG, "there is no root certificate to verify the server's");
		error_set_hint(err, "put it into ~/.postgresql/root.crt, or name it with sslrootcert");
	}
	free(file);
	return ok;
}

/* Ours: nobody else's to read. root's: the group may. */
bool
tls_check_key_file(const char *file, Error *err)
{
	struct stat st;

	if (stat(file, &st) != 0)
		return error_set_errno(err, ERROR_CONFIG, errno, "private key file \"%s\"", file);
	if (!S_ISREG(st.st_mode))
		return error_set(err, ERROR_CONFIG, "private key file \"%s\" is not a file", file);
	mode_t forbidden = st.st_uid == 0 ? S_IWGRP | S_IXGRP | S_IRWXO : S_IRWXG | S_IRWXO;
	if ((st.st_mode & forbidden) == 0)
		return true;
	error_set(err, ERROR_CONFIG, "private key file \"%s\" is open to group or others", file);
	return error_set_hint(err, "chmod 600 (or 640 when root owns it)");
}

/* OpenSSL would ask on the terminal: a process without one must not wait. */
static int
give_key_password(char *out, int size, int writing, void *arg)
{
	const TlsConfig *config = arg;
	size_t len = config->key_password != NULL ? strlen(config->key_password) : 0;

	(void)writing;
	if (size <= 0 || len >= (size_t)size)
		return 0;
	memcpy(out, config->key_password != NULL ? config->key_password : "", len + 1);
	return (int)len;
}

static bool
load_key(TlsConfig *config, const ConnInfo *info, const char *cert, Error *err)
{
	char *key = find_file(info, "sslkey", "postgresql.key");
	bool ok;

	if (key == NULL)
		return error_set(err, ERROR_CONFIG, "certificate \"%s\" is there, but no private key",
		                 cert);
	ok = tls_check_key_file(key, err);
	if (ok && SSL_CTX_use_PrivateKey_file(config->ctx, key, SSL_FILETYPE_PEM) != 1 &&
	    SSL_CTX_use_PrivateKey_file(config->ctx, key, SSL_FILETYPE_ASN1) != 1)
		ok = config_error(err, "cannot load the private key", key);
	if (ok && SSL_CTX_check_private_key(config->ctx) != 1)
		ok = config_error(err, "the certificate does not fit the private key", key);
	ERR_clear_error();
	free(key);
	return ok;
}

static bool
load_own_certificate(TlsConfig *config, const ConnInfo *info, Error *err)
{
	const char *mode = value_of(info, "sslcertmode", "allow");

	if (strcmp(mode, "disable") != 0 && strcmp(mode, "allow") != 0 && strcmp(mode, "require") != 0)
		return error_set(err, ERROR_CONFIG, "sslcertmode must be disable, allow or require");
	config->cert_required = strcmp(mode, "require") == 0;
	if (strcmp(mode, "disable") == 0)
		return true;
	char *cert = find_file(info, "sslcert", "postgresql.crt");
	bool ok = true;
	if (cert == NULL || access(cert, F_OK) != 0) {
		/* As libpq: a certificate that is not there is simply not sent. */
		if (config->cert_required)
			ok = error_set(err, ERROR_CONFIG, "sslcertmode=require needs a client certificate");
	} else {
		SSL_CTX_set_default_passwd_cb(config->ctx, give_key_password);
		SSL_CTX_set_default_passwd_cb_userdata(config->ctx, config);
		ok = SSL_CTX_use_certificate_chain_file(config->ctx, cert) == 1;
		if (!ok)
			config_error(err, "cannot load the certificate", cert);
		ok = ok && load_key(config, info, cert, err);
	}
	free(cert);
	return ok;
}

static bool
parse_modes(TlsConfig *config, const ConnInfo *info, Error *err)
{
	static const char *const names[] = {"disable", "allow",     "prefer",
	                                    "require", "verify-ca", "verify-full"};
	const char *mode = value_of(info, "sslmode", "prefer");
	const char *negotiation = value_of(info, "sslnegotiation", "postgres");
	size_t i = 0;

	while (i < 6 && strcmp(mode, names[i]) != 0)
		i++;
	if (i == 6)
		return error_set(err, ERROR_CONFIG, "sslmode \"%s\" is not known", mode);
	config->mode = (TlsMode)i;
	config->direct = strcmp(negotiation, "direct") == 0;
	if (!config->direct && strcmp(negotiation, "postgres") != 0)
		return error_set(err, ERROR_CONFIG, "sslnegotiation must be postgres or direct");
	if (config->direct && config->mode < TLS_REQUIRE)
		return error_set(err, ERROR_CONFIG,
		                 "sslnegotiation=direct needs sslmode=require or stronger");
	config->sni = strcmp(value_of(info, "sslsni", "1"), "0") != 0;
	const char *password = value_of(info, "sslpassword", NULL);
	config->key_password = password != NULL ? mem_strdup(password) : NULL;
	return true;
}

TlsConfig *
tls_config_new(const ConnInfo *info, Error *err)
{
	TlsConfig *config = mem_zalloc(sizeof(TlsConfig));

	bool ok = parse_modes(config, info, err);
	if (ok && config->mode != TLS_DISABLE) {
		config->ctx = SSL_CTX_new(TLS_client_method());
		CHECK(config->ctx != NULL);
		SSL_CTX_set_mode(config->ctx,
		                 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
		ok = set_versions(config->ctx, info, err) && load_roots(config, info, err) &&
		     load_own_certificate(config, info, err);
	}
	mem_wipe_free_cstr(config->key_password); /* the key is loaded */
	config->key_password = NULL;
	if (!ok) {
		tls_config_free(config);
		return NULL;
	}
	return config;
}

void
tls_config_free(TlsConfig *config)
{
	if (config == NULL)
		return;
	SSL_CTX_free(config->ctx);
	free(config);
}

TlsMode
tls_config_mode(const TlsConfig *config)
{
	return config->mode;
}

bool
tls_config_direct(const TlsConfig *config)
{
	return config->direct;
}
