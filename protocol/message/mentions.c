#include "protocol/message/mentions.h"

#include <string.h>
#include <strings.h>

enum { NAME_MAX_BYTES = 128 };

void
mentions_free(Mentions *mentions)
{
	buffer_free(&mentions->names);
}

static bool
is_word(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
	       c == '$';
}

static bool
is_space(uint8_t c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool
is_there(const Buffer *names, const char *name, size_t len)
{
	for (size_t at = 0; at < names->len; at += strlen((char *)names->data + at) + 1)
		if (strlen((char *)names->data + at) == len && memcmp(names->data + at, name, len) == 0)
			return true;
	return false;
}

void
mentions_add(Mentions *mentions, Slice name)
{
	char lower[NAME_MAX_BYTES];
	size_t len = 0;

	if (name.len == 0 || name.len >= sizeof(lower) || memchr(name.data, '.', name.len) == NULL)
		return;
	for (size_t i = 0; i < name.len; i++) {
		uint8_t c = name.data[i];
		if (c == '"')
			continue;
		if (!is_word(c) && c != '.')
			return;
		lower[len++] = (char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
	}
	if (is_there(&mentions->names, lower, len))
		return;
	if (mentions->names.len + len + 1 > MENTIONS_NAMES_MAX) {
		mentions->crowded = true;
		return;
	}
	buffer_put(&mentions->names, lower, len);
	buffer_put_u8(&mentions->names, 0);
}

static const uint8_t *
skip_spaces(const uint8_t *at, const uint8_t *end)
{
	while (at < end && is_space(*at))
		at++;
	return at;
}

/* The words and dots from here on, in double quotes or not, or within single ones. */
static Slice
dotted(const uint8_t *at, const uint8_t *end)
{
	if (at < end && *at == '\'')
		at++;
	const uint8_t *from = at;
	while (at < end && (is_word(*at) || *at == '.' || *at == '"'))
		at++;
	/* A text that ends within the name does not tell it. */
	return at < end ? slice_of(from, (size_t)(at - from)) : SLICE_EMPTY;
}

/* ---- calls ---- */

static bool
word_is(Slice word, const char *text)
{
	return word.len == strlen(text) && strncasecmp((const char *)word.data, text, word.len) == 0;
}

static Slice
word_before(const uint8_t *from, const uint8_t *at)
{
	while (at > from && is_space(at[-1]))
		at--;
	const uint8_t *end = at;
	while (at > from && is_word(at[-1]))
		at--;
	return slice_of(at, (size_t)(end - at));
}

static void
take_call(Mentions *mentions, Slice word, const uint8_t *argument, const uint8_t *end)
{
	if (word.len < 7) /* currval: the shortest */
		return;
	if (word_is(word, "currval") || word_is(word, "lastval"))
		mentions->sequences = true;
	else if (word_is(word, "set_config") || word_is(word, "current_setting"))
		mentions_add(mentions, dotted(skip_spaces(argument, end), end));
	if (word_is(word, "set_config"))
		mentions->settings = true;
}

static void
find_calls(Mentions *mentions, const uint8_t *from, const uint8_t *end)
{
	const uint8_t *at = from;

	while ((at = memchr(at, '(', (size_t)(end - at))) != NULL) {
		take_call(mentions, word_before(from, at), at + 1, end);
		at++;
	}
}

/* ---- SET, RESET, SHOW ---- */

static const uint8_t *
skip_comments(const uint8_t *at, const uint8_t *end)
{
	for (;;) {
		const uint8_t *to;
		at = skip_spaces(at, end);
		if (end - at >= 2 && at[0] == '/' && at[1] == '*')
			to = memmem(at + 2, (size_t)(end - at - 2), "*/", 2);
		else if (end - at >= 2 && at[0] == '-' && at[1] == '-')
			to = memchr(at, '\n', (size_t)(end - at));
		else
			return at;
		if (to == NULL)
			return end;
		at = to + (*to == '*' ? 2 : 1);
	}
}

static Slice
take_word(const uint8_t **at, const uint8_t *end)
{
	const uint8_t *from = *at;

	while (*at < end && is_word(**at))
		(*at)++;
	Slice word = slice_of(from, (size_t)(*at - from));
	*at = skip_spaces(*at, end);
	return word;
}

static void
statement_begins(Mentions *mentions, const uint8_t *at, const uint8_t *end)
{
	at = skip_comments(at, end);
	Slice verb = take_word(&at, end);
	if (!word_is(verb, "set") && !word_is(verb, "reset") && !word_is(verb, "show"))
		return;
	const uint8_t *name = at;
	Slice word = take_word(&at, end);
	if (word_is(word, "session") || word_is(word, "local"))
		name = at;
	mentions_add(mentions, dotted(name, end));
}

bool
mentions_second_phase(Slice text)
{
	const uint8_t *at = text.data, *end = text.data + text.len;

	if (text.len == 0)
		return false;
	at = skip_comments(at, end);
	Slice verb = take_word(&at, end);
	if (!word_is(verb, "commit") && !word_is(verb, "rollback"))
		return false;
	at = skip_comments(at, end);
	return word_is(take_word(&at, end), "prepared");
}

void
mentions_scan(Mentions *mentions, Slice text)
{
	const uint8_t *end = text.data +
	                     (text.len < MENTIONS_SCAN_MAX ? text.len : (size_t)MENTIONS_SCAN_MAX);
	const uint8_t *at = text.data;

	if (text.len == 0)
		return;
	find_calls(mentions, text.data, end);
	statement_begins(mentions, at, end);
	while ((at = memchr(at, ';', (size_t)(end - at))) != NULL)
		statement_begins(mentions, ++at, end);
}
