/*
 * What is to be moved: the lists of patterns, and pgcopydb's filter file.
 *
 * That file (pgcopydb's documentation, "Filtering") is INI with keys that have no value:
 * one name a line in the sections below. Its names are SQL identifiers, which are patterns
 * that match themselves; patterns are taken, too.
 */
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

#include "proxy/config_internal.h"

static bool
append(Arena *arena, PatternList *patterns, const char *option, const char *pattern, Error *err)
{
	const char **longer = arena_new_array(arena, const char *, patterns->count + 1);

	if (pattern[0] == '\0' || strpbrk(pattern, "\r\n") != NULL)
		return error_set(err, ERROR_CONFIG, "--%s: the pattern %s", option,
		                 pattern[0] == '\0' ? "is empty" : "has a line break");
	for (size_t i = 0; i < patterns->count; i++)
		longer[i] = patterns->items[i];
	longer[patterns->count] = arena_strdup(arena, pattern);
	*patterns = (PatternList){longer, patterns->count + 1};
	return true;
}

bool
config_add_pattern(ConfigDraft *draft, SelectionList list, const char *pattern, Error *err)
{
	return append(draft->config->arena, &draft->config->selection.lists[list],
	              selection_option(list), pattern, err);
}

bool
config_add_table(ConfigDraft *draft, const char *pattern, Error *err)
{
	PatternList *tables = &draft->config->verify_tables;

	if (strlen(pattern) >= CONFIG_PATTERN_SIZE)
		return error_set(err, ERROR_CONFIG, "--table: the pattern is too long");
	if (tables->count == CONFIG_TABLES_MAX)
		return error_set(err, ERROR_CONFIG, "--table: more than %d patterns", CONFIG_TABLES_MAX);
	return append(draft->config->arena, tables, "table", pattern, err);
}

int
config_selection_list(const char *option)
{
	for (int i = 0; i < SELECTION_LISTS; i++) {
		if (strcmp(selection_option((SelectionList)i), option) == 0)
			return i;
	}
	return -1;
}

/* pg_dump ignores schemas beside tables; nobody who writes both expects that. */
bool
config_selection_check(const Selection *selection, Error *err)
{
	static const SelectionList schemas[] = {INCLUDE_SCHEMA, EXCLUDE_SCHEMA};

	for (size_t i = 0; i < sizeof(schemas) / sizeof(schemas[0]); i++) {
		if (selection->lists[INCLUDE_TABLE].count == 0 || selection->lists[schemas[i]].count == 0)
			continue;
		error_set(err, ERROR_CONFIG, "--include-table and --%s exclude each other",
		          selection_option(schemas[i]));
		return error_set_hint(err, "tables that are named are moved from whatever schema; "
		                           "--include-table 'schema.*' takes all of one");
	}
	return true;
}

/* ---- the filter file ---- */

typedef struct {
	ConfigDraft *draft;
	Error *err;
	FILE *file;
	int line;
	bool failed;
} FilterRead;

#define PLAIN_KEY "name"

static bool
take_name(ConfigDraft *draft, const char *section, const char *name, Error *err)
{
	static const struct {
		const char *section;
		SelectionList list;
	} known[] = {
		{"include-only-table", INCLUDE_TABLE},   {"exclude-table", EXCLUDE_TABLE},
		{"include-only-schema", INCLUDE_SCHEMA}, {"exclude-schema", EXCLUDE_SCHEMA},
		{"exclude-table-data", EXCLUDE_DATA},    {"exclude-index", EXCLUDE_INDEX},
	};
	const char *sections[sizeof(known) / sizeof(known[0])];

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (strcmp(section, known[i].section) == 0)
			return config_add_pattern(draft, known[i].list, name, err);
		sections[i] = known[i].section;
	}
	error_set(err, ERROR_CONFIG, "unknown section [%s]", section);
	const char *nearest = config_nearest(section, sections, sizeof(known) / sizeof(known[0]));
	if (nearest != NULL)
		error_set_hint(err, "did you mean [%s]?", nearest);
	return false;
}

/* inih's callback; 0 is an error. */
static int
on_name(void *user, const char *section, const char *key, const char *value)
{
	FilterRead *read = user;

	(void)key;
	if (!read->failed && !take_name(read->draft, section, value, read->err))
		read->failed = true;
	return read->failed ? 0 : 1;
}

/* "name = anything": the value means nothing to pgcopydb either. */
static void
cut_value(char *line)
{
	bool quoted = false;

	for (char *c = line; *c != '\0'; c++) {
		if (*c == '"')
			quoted = !quoted;
		if (*c == '=' && !quoted) {
			memcpy(c, "\n", 2);
			return;
		}
	}
}

/*
 * inih's line reader. Names become values of one key, since inih takes no key without
 * a value and would split a name at a colon.
 */
static char *
read_line(char *out, int size, void *user)
{
	FilterRead *read = user;
	const size_t room = sizeof(PLAIN_KEY); /* and "=" */

	if (read->failed || fgets(out, size - (int)room, read->file) == NULL)
		return NULL;
	read->line++;
	size_t len = strlen(out);
	if (len == (size_t)size - room - 1 && out[len - 1] != '\n' && !feof(read->file)) {
		error_set(read->err, ERROR_CONFIG, "the line is too long");
		read->failed = true;
		return NULL;
	}
	size_t blanks = strspn(out, " \t");
	memmove(out, out + blanks, len - blanks + 1);
	if (strchr("[;#\r\n", out[0]) != NULL)
		return out;
	cut_value(out);
	memmove(out + room, out, strlen(out) + 1);
	memcpy(out, PLAIN_KEY "=", room);
	return out;
}

bool
config_filters_load(ConfigDraft *draft, Error *err)
{
	const char *path = draft->filters;
	FilterRead read = {.draft = draft, .err = err, .file = fopen(path, "re")};

	if (read.file == NULL)
		return error_set_errno(err, ERROR_CONFIG, errno, "--filters: cannot open %s", path);
	int line = ini_parse_stream(read_line, &read, on_name, &read);
	bool unreadable = ferror(read.file) != 0;
	fclose(read.file);
	if (read.failed)
		return error_add_context(err, "%s line %d", path, read.line);
	if (unreadable)
		return error_set(err, ERROR_CONFIG, "--filters: cannot read %s", path);
	if (line != 0)
		return error_set(err, ERROR_CONFIG, "%s line %d: neither a name nor [section]", path, line);
	return true;
}
