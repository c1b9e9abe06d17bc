#include "apply/schema/script.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/memory.h"

/* ---- the list ---- */

/* OIDs of the catalogues that an entry's class number names (pg_class.h and others:
 * fixed since they exist). "INDEX ATTACH" has class 0, so an index in a schema called
 * ATTACH is still an index. */
enum {
	CLASS_RELATION = 1259,
	CLASS_CONSTRAINT = 2606,
	CLASS_TRIGGER = 2620,
	CLASS_STATISTIC = 3381
};

static bool
starts(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static EntryKind
kind_of(unsigned class, const char *type)
{
	if (class == CLASS_RELATION && starts(type, "INDEX "))
		return ENTRY_INDEX;
	if (class == CLASS_CONSTRAINT && starts(type, "FK CONSTRAINT "))
		return ENTRY_FOREIGN_KEY;
	if (class == CLASS_CONSTRAINT && starts(type, "CONSTRAINT "))
		return ENTRY_CONSTRAINT;
	if (class == 0 && starts(type, "INDEX ATTACH "))
		return ENTRY_ATTACH;
	if (class == 0 && starts(type, "TABLE ATTACH "))
		return ENTRY_PARTITION;
	if (class == CLASS_STATISTIC && starts(type, "STATISTICS "))
		return ENTRY_STATISTICS;
	if (class == CLASS_TRIGGER && starts(type, "TRIGGER "))
		return ENTRY_TRIGGER;
	return ENTRY_OTHER;
}

bool
entry_attaches(const Entry *entry, const char *schema, const char *name)
{
	size_t schema_len = strlen(schema);
	size_t name_len = strlen(name);
	const char *at = entry->what + strlen("0 0 INDEX ATTACH "); /* or TABLE */

	return strncmp(at, schema, schema_len) == 0 && at[schema_len] == ' ' &&
	       strncmp(at + schema_len + 1, name, name_len) == 0 &&
	       at[schema_len + 1 + name_len] == ' ';
}

/* "3252; 2606 16415 CONSTRAINT app c c_pkey postgres" */
static bool
read_line(char *line, Arena *arena, Entry *out)
{
	char *end;
	int id = (int)strtol(line, &end, 10);

	if (end == line || !starts(end, "; "))
		return false;
	const char *what = end + 2;
	unsigned class = (unsigned)strtoul(what, &end, 10);
	if (end == what || *end != ' ')
		return false;
	const char *oid = end + 1;
	uint32_t object = (uint32_t)strtoul(oid, &end, 10);
	if (end == oid || *end != ' ')
		return false;
	*out = (Entry){
		.dump_id = id,
		.kind = kind_of(class, end + 1),
		.class_oid = class,
		.oid = object,
		.what = arena_strdup(arena, what),
		.sql = "",
		.settings = "",
	};
	return true;
}

static size_t
count_lines(Slice text)
{
	size_t lines = 1;

	for (size_t i = 0; i < text.len; i++)
		lines += text.data[i] == '\n';
	return lines;
}

bool
toc_read(Slice list, Arena *arena, Entries *out, Error *err)
{
	char *copy = mem_strndup((const char *)list.data, list.len);
	char *state = NULL;
	bool ok = true;

	out->items = arena_new_array(arena, Entry, count_lines(list));
	out->count = 0;
	for (char *line = strtok_r(copy, "\n", &state); ok && line != NULL;
	     line = strtok_r(NULL, "\n", &state)) {
		if (line[0] == ';')
			continue;
		ok = read_line(line, arena, &out->items[out->count]);
		if (ok)
			out->count++;
		else
			error_set(err, ERROR_BUG, "pg_restore --list: \"%.100s\" is not understood", line);
	}
	free(copy);
	return ok;
}

/* ---- the script ---- */

typedef struct {
	const char *at;
	const char *end;
} Scan;

static bool
ident_char(char c)
{
	return isalnum((unsigned char)c) || c == '_' || c == '$' || (unsigned char)c >= 0x80;
}

static void
skip_line(Scan *s)
{
	const char *newline = memchr(s->at, '\n', (size_t)(s->end - s->at));
	s->at = newline != NULL ? newline + 1 : s->end;
}

static void
skip_quoted(Scan *s, char quote, bool backslash)
{
	for (s->at++; s->at < s->end; s->at++) {
		if (backslash && *s->at == '\\' && s->at + 1 < s->end)
			s->at++;
		else if (*s->at == quote)
			break; /* a doubled quote is two literals side by side: the same extent */
	}
	if (s->at < s->end)
		s->at++;
}

static void
skip_block_comment(Scan *s)
{
	int depth = 0;

	while (s->at < s->end) {
		if (s->at + 1 < s->end && s->at[0] == '/' && s->at[1] == '*') {
			depth++;
			s->at += 2;
		} else if (s->at + 1 < s->end && s->at[0] == '*' && s->at[1] == '/') {
			s->at += 2;
			if (--depth == 0)
				return;
		} else {
			s->at++;
		}
	}
}

/* $tag$ ... $tag$; a lone $ is just passed. */
static void
skip_dollar(Scan *s)
{
	const char *tag = s->at;
	const char *p = s->at + 1;

	if (p < s->end && isdigit((unsigned char)*p)) {
		s->at++;
		return;
	}
	while (p < s->end && *p != '$' && ident_char(*p))
		p++;
	if (p >= s->end || *p != '$') {
		s->at++;
		return;
	}
	size_t len = (size_t)(p - tag) + 1;
	const char *close = memmem(p + 1, (size_t)(s->end - p - 1), tag, len);
	s->at = close != NULL ? close + len : s->end;
}

/* E'...' has backslash escapes: the E is a word of its own. */
static bool
escape_string(const char *begin, const char *quote)
{
	return quote > begin && (quote[-1] == 'E' || quote[-1] == 'e') &&
	       (quote - 1 == begin || !ident_char(quote[-2]));
}

/* Leaves s behind the statement's semicolon (or at the end); s->at is its first byte. A
 * semicolon inside a rule's parentheses or BEGIN ATOMIC also ends a piece: the pieces of
 * one entry are put together again as they were. */
static Slice
next_statement(Scan *s)
{
	const char *begin = s->at;

	while (s->at < s->end) {
		char c = *s->at;
		if (c == '\'')
			skip_quoted(s, c, escape_string(begin, s->at));
		else if (c == '"')
			skip_quoted(s, c, false);
		else if (c == '-' && s->at + 1 < s->end && s->at[1] == '-')
			skip_line(s);
		else if (c == '/' && s->at + 1 < s->end && s->at[1] == '*')
			skip_block_comment(s);
		else if (c == '$' && (s->at == begin || !ident_char(s->at[-1])))
			skip_dollar(s);
		else if (s->at++, c == ';')
			break;
	}
	return slice_of(begin, (size_t)(s->at - begin));
}

const char *
script_rest(const char *sql)
{
	Scan s = {sql, sql + strlen(sql)};

	next_statement(&s);
	return s.at;
}

const char *
script_last(const char *sql)
{
	Scan s = {sql, sql + strlen(sql)};
	const char *last = sql;

	while (s.at < s.end) {
		if (isspace((unsigned char)*s.at)) {
			s.at++;
			continue;
		}
		last = s.at;
		next_statement(&s);
	}
	return last;
}

/* State of the walk through a script. */
typedef struct {
	Arena *arena;
	Entries *entries;
	Entry *current;         /* NULL: before the first entry */
	size_t next;            /* where the search for a header's entry begins */
	Buffer sql;             /* of the current entry */
	const char *tablespace; /* SET LOCAL ...; or "" */
	const char *access_method;
} Reader;

/* They come in the list's order, so the first look hits. */
static Entry *
find_entry(Reader *r, int dump_id)
{
	size_t count = r->entries->count;

	for (size_t i = 0; i < count; i++) {
		size_t at = (r->next + i) % count;
		if (r->entries->items[at].dump_id == dump_id) {
			r->next = at + 1;
			return &r->entries->items[at];
		}
	}
	return NULL;
}

static void
close_entry(Reader *r)
{
	if (r->current != NULL && r->sql.len > 0)
		r->current->sql = arena_strndup(r->arena, (const char *)r->sql.data, r->sql.len);
	r->current = NULL;
	buffer_reset(&r->sql);
}

/* Between statements: a header opens an entry, any other comment is nothing. */
static bool
read_comment(Reader *r, Scan *s, Error *err)
{
	static const char header[] = "-- TOC entry ";
	size_t len = sizeof(header) - 1;

	if ((size_t)(s->end - s->at) > len && memcmp(s->at, header, len) == 0) {
		int id = atoi(s->at + len);
		close_entry(r);
		r->current = find_entry(r, id);
		if (r->current == NULL)
			return error_set(err, ERROR_BUG,
			                 "pg_restore printed entry %d, which its list"
			                 " does not have",
			                 id);
	}
	skip_line(s);
	return true;
}

static bool
slice_starts(Slice text, const char *prefix)
{
	size_t len = strlen(prefix);
	return text.len >= len && memcmp(text.data, prefix, len) == 0;
}

static void
read_statement(Reader *r, Slice text)
{
	bool tablespace = slice_starts(text, "SET default_tablespace = ");

	if (tablespace || slice_starts(text, "SET default_table_access_method = ")) {
		const char *local = arena_printf(r->arena, "SET LOCAL %.*s\n", (int)text.len - 4,
		                                 (const char *)text.data + 4);
		*(tablespace ? &r->tablespace : &r->access_method) = local;
		return;
	}
	if (r->current == NULL)
		return;
	if (r->sql.len == 0)
		r->current->settings = arena_printf(r->arena, "%s%s", r->tablespace, r->access_method);
	buffer_put_slice(&r->sql, text);
	buffer_put_u8(&r->sql, '\n');
}

bool
script_read(Slice script, Arena *arena, Entries *entries, Error *err)
{
	Reader r = {.arena = arena,
	            .entries = entries,
	            .sql = BUFFER_INIT,
	            .tablespace = "",
	            .access_method = ""};
	Scan s = {(const char *)script.data, (const char *)script.data + script.len};
	bool ok = true;

	while (ok && s.at < s.end) {
		if (isspace((unsigned char)*s.at))
			s.at++;
		else if (*s.at == '\\') /* psql's own */
			skip_line(&s);
		else if (*s.at == '-' && s.at + 1 < s.end && s.at[1] == '-')
			ok = read_comment(&r, &s, err);
		else
			read_statement(&r, next_statement(&s));
	}
	close_entry(&r);
	buffer_free(&r.sql);
	return ok;
}

/* ---- foreign keys ---- */

static bool
take_text(const char **at, const char *text)
{
	if (!starts(*at, text))
		return false;
	*at += strlen(text);
	return true;
}

static bool
take_identifier(const char **at)
{
	const char *p = *at;

	if (*p == '"') {
		for (p++; *p != '\0'; p++) {
			if (p[0] == '"' && p[1] == '"')
				p++;
			else if (*p == '"')
				break;
		}
		if (*p != '"')
			return false;
		*at = p + 1;
		return true;
	}
	while (ident_char(*p))
		p++;
	bool some = p > *at;
	*at = p;
	return some;
}

static void
skip_space(const char **at)
{
	while (isspace((unsigned char)**at))
		(*at)++;
}

static bool
ends_with(const char *text, size_t len, const char *suffix)
{
	size_t n = strlen(suffix);
	return len >= n && memcmp(text + len - n, suffix, n) == 0;
}

/* pg_get_constraintdef puts NOT VALID last, and NOT ENFORCED instead of it. */
static void
read_ending(const char *sql, ForeignKey *out)
{
	size_t len = strlen(sql);

	while (len > 0 && (isspace((unsigned char)sql[len - 1]) || sql[len - 1] == ';'))
		len--;
	out->not_valid = ends_with(sql, len, " NOT VALID");
	out->not_enforced = ends_with(sql, len, " NOT ENFORCED");
}

bool
foreign_key_read(const char *sql, ForeignKey *out)
{
	const char *at = sql;

	if (!take_text(&at, "ALTER TABLE "))
		return false;
	out->partitioned = !take_text(&at, "ONLY ");
	const char *table = at;
	if (!take_identifier(&at) || (*at == '.' && (at++, !take_identifier(&at))))
		return false;
	out->table = slice_of(table, (size_t)(at - table));
	skip_space(&at);
	if (!take_text(&at, "ADD CONSTRAINT "))
		return false;
	const char *constraint = at;
	if (!take_identifier(&at))
		return false;
	out->constraint = slice_of(constraint, (size_t)(at - constraint));
	skip_space(&at);
	if (!take_text(&at, "FOREIGN KEY "))
		return false;
	read_ending(sql, out);
	return true;
}
