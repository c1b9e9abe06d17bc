#include "protocol/conninfo_text.h"

#include <libpq-fe.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

const NewKeyword conninfo_new_keywords[] = {
	{"require_auth", "PGREQUIREAUTH"},                /* 16 */
	{"sslcertmode", "PGSSLCERTMODE"},                 /* 16 */
	{"load_balance_hosts", "PGLOADBALANCEHOSTS"},     /* 16 */
	{"gssdelegation", "PGGSSDELEGATION"},             /* 16 */
	{"sslnegotiation", "PGSSLNEGOTIATION"},           /* 17 */
	{"min_protocol_version", "PGMINPROTOCOLVERSION"}, /* 18 */
	{"max_protocol_version", "PGMAXPROTOCOLVERSION"}, /* 18 */
	{NULL, NULL},
};

bool
conninfo_libpq_knows(const char *keyword)
{
	PQconninfoOption *options = PQconninfoParse("", NULL);
	bool found = false;

	CHECK(options != NULL);
	for (PQconninfoOption *o = options; o->keyword != NULL && !found; o++)
		found = strcmp(o->keyword, keyword) == 0;
	PQconninfoFree(options);
	return found;
}

static const char *
find_new(const char *keyword, size_t len)
{
	for (const NewKeyword *k = conninfo_new_keywords; k->keyword != NULL; k++)
		if (strlen(k->keyword) == len && memcmp(k->keyword, keyword, len) == 0)
			return conninfo_libpq_knows(k->keyword) ? NULL : k->keyword;
	return NULL;
}

static bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if ((c | 32) >= 'a' && (c | 32) <= 'f')
		return (c | 32) - 'a' + 10;
	return -1;
}

static void
percent_decode(const char *text, size_t len, Buffer *out)
{
	for (size_t i = 0; i < len; i++) {
		if (text[i] == '%' && i + 2 < len && hex_value(text[i + 1]) >= 0 &&
		    hex_value(text[i + 2]) >= 0) {
			buffer_put_u8(out, (uint8_t)(hex_value(text[i + 1]) << 4 | hex_value(text[i + 2])));
			i += 2;
		} else {
			buffer_put_u8(out, (uint8_t)text[i]);
		}
	}
}

/* scheme://...?keyword=value&keyword=value */
static void
split_uri(const char *text, Buffer *rest, ConninfoTake take, void *arg)
{
	const char *query = strchr(text, '?');

	if (query == NULL) {
		buffer_put_text(rest, text);
		return;
	}
	buffer_put(rest, text, (size_t)(query - text));
	char separator = '?';
	for (const char *at = query + 1;; at++) {
		size_t len = strcspn(at, "&");
		size_t name = strcspn(at, "=&");
		const char *keyword = name < len ? find_new(at, name) : NULL;
		if (keyword != NULL) {
			Buffer value = BUFFER_INIT;
			percent_decode(at + name + 1, len - name - 1, &value);
			take(arg, keyword, buffer_cstr(&value));
			buffer_free(&value);
		} else {
			buffer_put_u8(rest, (uint8_t)separator);
			buffer_put(rest, at, len);
			separator = '&';
		}
		at += len;
		if (*at == '\0')
			break;
	}
}

/* One value behind the '=': quoted or up to a space. Returns its end, or NULL
 * when a quote is not closed. */
static const char *
read_value(const char *at, Buffer *value)
{
	bool quoted = *at == '\'';

	for (at += quoted; *at != '\0'; at++) {
		if (quoted ? *at == '\'' : is_space(*at))
			return at + quoted;
		if (*at == '\\' && at[1] != '\0')
			at++;
		buffer_put_u8(value, (uint8_t)*at);
	}
	return quoted ? NULL : at;
}

static void
split_pairs(const char *text, Buffer *rest, ConninfoTake take, void *arg)
{
	const char *at = text;

	for (;;) {
		const char *start = at;
		Buffer value = BUFFER_INIT;
		while (is_space(*at))
			at++;
		const char *name = at;
		while (*at != '\0' && *at != '=' && !is_space(*at))
			at++;
		size_t name_len = (size_t)(at - name);
		while (is_space(*at))
			at++;
		const char *end = NULL;
		if (*at == '=') {
			for (at++; is_space(*at);)
				at++;
			end = read_value(at, &value);
		}
		const char *keyword = end != NULL ? find_new(name, name_len) : NULL;
		if (end == NULL)
			buffer_put_text(rest, start);
		else if (keyword != NULL)
			take(arg, keyword, buffer_cstr(&value));
		else
			buffer_put(rest, start, (size_t)(end - start));
		mem_wipe(value.data, value.len);
		buffer_free(&value);
		if (end == NULL)
			return;
		at = end;
	}
}

void
conninfo_text_split(const char *text, Buffer *rest, ConninfoTake take, void *arg)
{
	if (strncmp(text, "postgresql://", 13) == 0 || strncmp(text, "postgres://", 11) == 0)
		split_uri(text, rest, take, arg);
	else
		split_pairs(text, rest, take, arg);
	(void)buffer_cstr(rest);
}

/* Optimal string alignment is not needed: one letter more, less or other. */
static bool
nearly(const char *a, size_t a_len, const char *b)
{
	size_t b_len = strlen(b), front = 0, back = 0;
	size_t shorter = a_len < b_len ? a_len : b_len;
	size_t longer = a_len < b_len ? b_len : a_len;

	while (front < shorter && a[front] == b[front])
		front++;
	while (back < shorter - front && a[a_len - 1 - back] == b[b_len - 1 - back])
		back++;
	return longer >= 4 && longer - front - back <= 1;
}

static const char *
nearest_keyword(const char *word, size_t len, char out[64])
{
	PQconninfoOption *options = PQconninfoParse("", NULL);

	out[0] = '\0';
	CHECK(options != NULL);
	for (PQconninfoOption *o = options; o->keyword != NULL; o++)
		if (nearly(word, len, o->keyword) && strlen(o->keyword) < 64)
			strcpy(out, o->keyword);
	PQconninfoFree(options);
	for (const NewKeyword *k = conninfo_new_keywords; k->keyword != NULL; k++)
		if (nearly(word, len, k->keyword))
			strcpy(out, k->keyword);
	return out[0] != '\0' ? out : NULL;
}

bool
conninfo_text_error(const char *libpq_message, Error *err)
{
	static const struct {
		const char *sign;
		const char *text;
	} causes[] = {
		{"missing \"=\"", "a word in it has no \"=\""},
		{"unterminated quoted", "a quoted value is not closed"},
		{"percent-encoded", "a percent-encoded character in it is malformed"},
		{"%00", "it holds the forbidden value %00"},
		{"matching \"]\"", "an IPv6 address in it is not closed by \"]\""},
		{"IPv6", "an IPv6 address in it is empty"},
		{"unexpected character", "there is an unexpected character where a host, port or \"/\" "
	                             "should be"},
		{"missing key/value separator", "a parameter in it has no \"=\""},
		{"extra key/value separator", "a parameter in it has more than one \"=\""},
		{NULL, "it is neither a URI nor a list of keyword=value"},
	};
	char near[64];

	if (libpq_message == NULL)
		libpq_message = "";
	if (strstr(libpq_message, "invalid connection option") != NULL ||
	    strstr(libpq_message, "invalid URI query parameter") != NULL) {
		const char *word = strchr(libpq_message, '"');
		size_t len = word != NULL ? strcspn(word + 1, "\"") : 0;
		const char *known = word != NULL ? nearest_keyword(word + 1, len, near) : NULL;
		error_set(err, ERROR_CONFIG,
		          "the connection string is not valid: it has an unknown keyword");
		if (known != NULL)
			error_set_hint(err, "did you mean \"%s\"?", known);
		return false;
	}
	size_t i = 0;
	while (causes[i].sign != NULL && strstr(libpq_message, causes[i].sign) == NULL)
		i++;
	return error_set(err, ERROR_CONFIG, "the connection string is not valid: %s", causes[i].text);
}

void
conninfo_text_put(Buffer *out, const char *keyword, const char *value)
{
	buffer_printf(out, "%s='", keyword);
	for (; *value != '\0'; value++) {
		if (*value == '\'' || *value == '\\')
			buffer_put_u8(out, '\\');
		buffer_put_u8(out, (uint8_t)*value);
	}
	buffer_put_text(out, "' ");
}
