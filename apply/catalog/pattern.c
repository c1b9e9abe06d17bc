#include "apply/catalog/pattern.h"

#include <string.h>

enum { ANY_RUN = 256, ANY_ONE = 257 };

static bool
pattern_error(const char *text, const char *why, Error *err)
{
	error_set(err, ERROR_CONFIG, "table pattern '%s': %s", text, why);
	return error_set_hint(err, "write table, schema.table or \"Quoted\".\"Name\", with * and ?");
}

static bool
compile(const char *text, Arena *arena, Pattern *out, Error *err)
{
	size_t room = strlen(text) + 1;
	Glob part = {arena_new_array(arena, uint16_t, room), 0};
	bool quoted = false;

	*out = (Pattern){.text = arena_strdup(arena, text), .any_schema = true};
	for (const char *c = text; *c != '\0'; c++) {
		unsigned char byte = (unsigned char)*c;
		if (quoted && byte == '"' && c[1] == '"') {
			part.items[part.count++] = '"';
			c++;
		} else if (byte == '"') {
			quoted = !quoted;
		} else if (quoted) {
			part.items[part.count++] = byte;
		} else if (byte == '.') {
			if (!out->any_schema || part.count == 0)
				return pattern_error(text, "it has a dot too many", err);
			out->any_schema = false;
			out->schema = part;
			part = (Glob){arena_new_array(arena, uint16_t, room), 0};
		} else if (byte == '*' || byte == '?') {
			part.items[part.count++] = byte == '*' ? ANY_RUN : ANY_ONE;
		} else {
			part.items[part.count++] = byte >= 'A' && byte <= 'Z' ? byte + 32u : byte;
		}
	}
	if (quoted)
		return pattern_error(text, "a double quote is missing", err);
	if (part.count == 0)
		return pattern_error(text, "it has no table name", err);
	out->name = part;
	return true;
}

static bool
compile_all(const char **texts, size_t count, Arena *arena, Pattern **out, Error *err)
{
	*out = arena_new_array(arena, Pattern, count + 1);
	for (size_t i = 0; i < count; i++) {
		if (!compile(texts[i], arena, &(*out)[i], err))
			return false;
	}
	return true;
}

bool
patterns_compile(const Selection *selection, Arena *arena, Patterns *out, Error *err)
{
	*out = (Patterns){.include_count = selection->include_count,
	                  .exclude_count = selection->exclude_count};
	return compile_all(selection->include, selection->include_count, arena, &out->include, err) &&
	       compile_all(selection->exclude, selection->exclude_count, arena, &out->exclude, err);
}

/* Of a UTF-8 character, whose following bytes are 10xxxxxx. */
static const char *
next_character(const char *c)
{
	c++;
	while (((unsigned char)*c & 0xc0) == 0x80)
		c++;
	return c;
}

/* Goes back only to the last *, so the time is at most length times length. */
static bool
glob_match(const Glob *glob, const char *text)
{
	size_t at = 0;
	size_t star = SIZE_MAX;
	const char *resume = NULL;

	while (*text != '\0') {
		if (at < glob->count && glob->items[at] == ANY_RUN) {
			star = at++;
			resume = text;
		} else if (at < glob->count && glob->items[at] == ANY_ONE) {
			at++;
			text = next_character(text);
		} else if (at < glob->count && glob->items[at] == (unsigned char)*text) {
			at++;
			text++;
		} else if (star != SIZE_MAX) {
			at = star + 1;
			resume = text = next_character(resume);
		} else {
			return false;
		}
	}
	while (at < glob->count && glob->items[at] == ANY_RUN)
		at++;
	return at == glob->count;
}

static bool
any_match(Pattern *patterns, size_t count, const char *schema, const char *name)
{
	bool matched = false;

	for (size_t i = 0; i < count; i++) {
		Pattern *pattern = &patterns[i];
		if ((pattern->any_schema || glob_match(&pattern->schema, schema)) &&
		    glob_match(&pattern->name, name))
			matched = pattern->used = true;
	}
	return matched;
}

bool
patterns_include(Patterns *patterns, const char *schema, const char *name)
{
	return patterns->include_count == 0 ||
	       any_match(patterns->include, patterns->include_count, schema, name);
}

bool
patterns_exclude(Patterns *patterns, const char *schema, const char *name)
{
	return any_match(patterns->exclude, patterns->exclude_count, schema, name);
}

const char *
patterns_unused(const Patterns *patterns)
{
	for (size_t i = 0; i < patterns->include_count; i++) {
		if (!patterns->include[i].used)
			return patterns->include[i].text;
	}
	return NULL;
}
