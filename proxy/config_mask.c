/*
 * Passwords in argv: everybody on the machine can read them with ps. After the
 * connection string was parsed its password is overwritten in place. Follows
 * libpq's grammar (documentation, "Connection Strings"); where in doubt it
 * overwrites too much.
 */
#include <ctype.h>
#include <string.h>

#include "proxy/config_internal.h"

static void
blot(char *from, const char *to)
{
	for (; from < to; from++)
		*from = 'x';
}

static bool
is_secret_key(const char *key, size_t len)
{
	static const char *const open_keys[] = {
		"host",    "hostaddr", "port",    "dbname",           "user",
		"sslmode", "service",  "options", "application_name", "connect_timeout",
	};

	for (size_t i = 0; i < sizeof(open_keys) / sizeof(*open_keys); i++) {
		if (strlen(open_keys[i]) == len && strncmp(open_keys[i], key, len) == 0)
			return false;
	}
	/* A key may be percent-encoded, so "contains password" would not do. */
	return memmem(key, len, "password", 8) != NULL || memchr(key, '%', len) != NULL;
}

/* scheme://user:PASSWORD@host/db?key=value&... ; the user part ends at the
 * first '@' before any '/'. */
static void
mask_uri(char *authority)
{
	char *end = authority + strcspn(authority, "@/");

	if (*end == '@') {
		char *colon = memchr(authority, ':', (size_t)(end - authority));
		/* A raw '@' inside the password: libpq takes the first, the rest of
		 * it then stands where the host is. */
		char *last = strrchr(authority, '@');
		char *path = authority + strcspn(authority, "/");
		if (last < path)
			end = last;
		if (colon != NULL)
			blot(colon + 1, end);
	}
	char *at = strchr(authority, '?');
	while (at != NULL) {
		char *key = at + 1;
		char *next = strchr(key, '&');
		char *stop = next != NULL ? next : key + strlen(key);
		char *equals = memchr(key, '=', (size_t)(stop - key));
		if (equals != NULL && is_secret_key(key, (size_t)(equals - key)))
			blot(equals + 1, stop);
		at = next;
	}
}

/* key = 'quoted \' value' key=plain\ value */
static void
mask_pairs(char *at)
{
	for (;;) {
		while (isspace((unsigned char)*at))
			at++;
		char *key = at;
		while (*at != '\0' && *at != '=' && !isspace((unsigned char)*at))
			at++;
		size_t key_len = (size_t)(at - key);
		while (isspace((unsigned char)*at))
			at++;
		if (*at != '=')
			return; /* not a connection string: the parser has said so */
		at++;
		while (isspace((unsigned char)*at))
			at++;
		bool quoted = *at == '\'';
		char *value = quoted ? ++at : at;
		while (*at != '\0' && (quoted ? *at != '\'' : !isspace((unsigned char)*at))) {
			if (*at == '\\' && at[1] != '\0')
				at++;
			at++;
		}
		if (is_secret_key(key, key_len))
			blot(value, at);
		if (quoted && *at == '\'')
			at++;
	}
}

void
config_mask_password(char *conninfo)
{
	char *scheme = strstr(conninfo, "://");

	if (scheme != NULL &&
	    (strncmp(conninfo, "postgres://", 11) == 0 || strncmp(conninfo, "postgresql://", 13) == 0))
		mask_uri(scheme + 3);
	else
		mask_pairs(conninfo);
}
