/*
 * Who may ask. On loopback the danger is a page in the operator's browser: it
 * can send requests here (its Origin gives it away) and, by making its own name
 * resolve to 127.0.0.1, even read the answers (its name is then in Host).
 */
#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <strings.h>
#include <unistd.h>

#include "proxy/admin/admin_internal.h"

/* "name:port" or "[v6]:port"; a missing port is HTTP's 80. */
static bool
host_split(const char *text, char *name, size_t size, int *port)
{
	const char *end = text[0] == '[' ? strchr(text, ']') : strchr(text, ':');
	const char *from = text[0] == '[' ? text + 1 : text;
	const char *rest;

	if (text[0] == '[' && end == NULL)
		return false;
	if (end == NULL)
		end = text + strlen(text);
	if (end == from || (size_t)(end - from) >= size)
		return false;
	memcpy(name, from, (size_t)(end - from));
	name[end - from] = '\0';
	rest = text[0] == '[' ? end + 1 : end;
	if (*rest == '\0') {
		*port = 80;
		return true;
	}
	char *stop;
	long number = strtol(rest + 1, &stop, 10);
	*port = (int)number;
	return *rest == ':' && rest[1] >= '0' && rest[1] <= '9' && *stop == '\0' && number <= 65535;
}

static bool
is_numeric(const char *host)
{
	unsigned char bytes[sizeof(struct in6_addr)];

	return inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1;
}

bool
guard_host_ok(const AdminGuard *guard, const char *host)
{
	char name[256], own[256];
	int port;

	if (host == NULL || !host_split(host, name, sizeof(name), &port) || port != guard->port)
		return false;
	if (strcasecmp(name, guard->host) == 0 || strcasecmp(name, "localhost") == 0)
		return true;
	if (guard->loopback)
		return config_is_loopback(name);
	/* On all addresses: any of them, but of the names only our own; somebody else's
	 * name is how a page would come here. */
	if (!guard->wildcard)
		return false;
	return is_numeric(name) || (gethostname(own, sizeof(own)) == 0 && strcasecmp(name, own) == 0);
}

bool
guard_origin_ok(const char *origin, const char *host)
{
	static const char scheme[] = "http://";

	return origin == NULL || (strncasecmp(origin, scheme, sizeof(scheme) - 1) == 0 &&
	                          strcasecmp(origin + sizeof(scheme) - 1, host) == 0);
}

static bool
token_equal(const char *token, const char *given, size_t len)
{
	return len == strlen(token) && CRYPTO_memcmp(token, given, len) == 0;
}

/* base64 of "user:TOKEN"; the user's name is of no interest. */
static bool
basic_ok(const char *token, const char *encoded)
{
	unsigned char plain[1024];
	size_t len = strlen(encoded);

	if (len == 0 || len % 4 != 0 || len / 4 * 3 > sizeof(plain))
		return false;
	int got = EVP_DecodeBlock(plain, (const unsigned char *)encoded, (int)len);
	if (got < 0)
		return false;
	size_t size = (size_t)got;
	for (size_t i = len; i > 0 && encoded[i - 1] == '=' && size > 0; i--)
		size--; /* EVP_DecodeBlock counts the padding */
	const unsigned char *colon = memchr(plain, ':', size);
	bool ok = colon != NULL &&
	          token_equal(token, (const char *)colon + 1, size - (size_t)(colon + 1 - plain));
	mem_wipe(plain, sizeof(plain));
	return ok;
}

bool
guard_token_ok(const AdminGuard *guard, const char *authorization)
{
	if (guard->token == NULL)
		return true;
	if (authorization == NULL)
		return false;
	if (strncasecmp(authorization, "Bearer ", 7) == 0)
		return token_equal(guard->token, authorization + 7, strlen(authorization + 7));
	if (strncasecmp(authorization, "Basic ", 6) == 0)
		return basic_ok(guard->token, authorization + 6);
	return false;
}
