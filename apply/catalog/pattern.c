#include "apply/catalog/pattern.h"

#include <string.h>

static bool
pattern_error(const char *text, const char *why, Error *err)
{
	error_set(err, ERROR_CONFIG, "pattern '%s': %s", text, why);
	return error_set_hint(err, "write name, schema.name or \"Quoted\".\"Name\", with * and ?");
}

/* [] is part of no expression but of an array type's name. */
static void
put_character(Buffer *out, const char *c, bool quoted)
{
	static const char special[] = "|*+?()[]{}.^$\\";

	if (quoted ? strchr(special, *c) != NULL : *c == '$' || (c[0] == '[' && c[1] == ']'))
		buffer_put_u8(out, '\\');
	else if (!quoted && (*c == '*' || *c == '?'))
		buffer_put_u8(out, '.');
	if (!quoted && *c == '?')
		return;
	buffer_put_u8(out, !quoted && *c >= 'A' && *c <= 'Z' ? (uint8_t)(*c + 32) : (uint8_t)*c);
}

static void
begin(Buffer *out)
{
	buffer_reset(out);
	buffer_put_text(out, "^(");
}

/* Two parts at most; name takes the last one. */
static bool
convert(const char *text, Buffer *schema, Buffer *name, Error *err)
{
	bool quoted = false;
	size_t empty = 2; /* "^(" */

	begin(name);
	for (const char *c = text; *c != '\0'; c++) {
		if (*c == '"' && quoted && c[1] == '"') {
			buffer_put_u8(name, *c++);
		} else if (*c == '"') {
			quoted = !quoted;
		} else if (*c == '.' && !quoted) {
			if (schema->len > 0 || name->len == empty)
				return pattern_error(text, "it has a dot too many", err);
			buffer_put(schema, name->data, name->len);
			begin(name);
		} else {
			put_character(name, c, quoted);
		}
	}
	if (quoted)
		return pattern_error(text, "a double quote is missing", err);
	return name->len > empty || pattern_error(text, "it has no name", err);
}

bool
pattern_to_regex(const char *text, Buffer *schema, Buffer *name, Error *err)
{
	buffer_reset(schema);
	if (!convert(text, schema, name, err))
		return false;
	buffer_put_text(name, ")$");
	if (schema->len > 0)
		buffer_put_text(schema, ")$");
	return true;
}

bool
pattern_has_schema(const char *text)
{
	bool quoted = false;

	for (; *text != '\0'; text++) {
		if (*text == '"')
			quoted = !quoted;
		else if (*text == '.' && !quoted)
			return true;
	}
	return false;
}
