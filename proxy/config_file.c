/* The configuration file: INI by inih, keys named like the long options. */
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

#include "proxy/config_internal.h"

typedef struct {
	ConfigDraft *draft;
	Error *err;
	FILE *file;
	int line;
	bool failed;
} FileRead;

static bool
unknown_key(const char *key, Error *err)
{
	const char *names[64];
	size_t count = 0;

	for (size_t i = 0; i < config_option_count && count < 64; i++) {
		if (config_options[i].in_file)
			names[count++] = config_options[i].name;
	}
	const char *nearest = config_nearest(key, names, count);
	error_set(err, ERROR_CONFIG, "unknown key \"%s\"", key);
	if (nearest != NULL)
		error_set_hint(err, "did you mean \"%s\"?", nearest);
	return false;
}

static bool
take_key(ConfigDraft *draft, const char *section, const char *key, const char *value, Error *err)
{
	if (section[0] != '\0' && strcmp(section, "pgbaton") != 0)
		return error_set(err, ERROR_CONFIG,
		                 "unknown section [%s]; keys stand in [pgbaton] or in none", section);
	const ConfigOption *option = config_option_find(key);
	if (option == NULL || !option->in_file)
		return unknown_key(key, err);
	if (value == NULL || value[0] == '\0')
		return error_set(err, ERROR_CONFIG, "key \"%s\" has no value", key);
	if (option->value != NULL)
		return option->set(draft, value, err);

	bool on;
	if (!value_bool(key, value, &on, err))
		return false;
	return option->set(draft, on ? "true" : "false", err);
}

/* inih's callback; 0 is an error. */
static int
on_key(void *user, const char *section, const char *key, const char *value)
{
	FileRead *read = user;

	if (!read->failed && !take_key(read->draft, section, key, value, read->err))
		read->failed = true;
	return read->failed ? 0 : 1;
}

/*
 * inih's line reader, for two of its habits: a line longer than its buffer would come
 * as two lines (a connection string cut in the middle), and an indented line would be
 * taken as more of the value above it.
 */
static char *
read_line(char *out, int size, void *user)
{
	FileRead *read = user;

	if (read->failed || fgets(out, size, read->file) == NULL)
		return NULL;
	read->line++;
	size_t len = strlen(out);
	if (len == (size_t)size - 1 && out[len - 1] != '\n' && !feof(read->file)) {
		error_set(read->err, ERROR_CONFIG, "the line is longer than %d bytes", size - 2);
		read->failed = true;
		return NULL;
	}
	size_t blanks = strspn(out, " \t");
	memmove(out, out + blanks, len - blanks + 1);
	return out;
}

bool
config_file_load(ConfigDraft *draft, const char *path, Error *err)
{
	FileRead read = {.draft = draft, .err = err, .file = fopen(path, "re")};

	if (read.file == NULL)
		return error_set_errno(err, ERROR_CONFIG, errno, "--config: cannot open %s", path);
	int line = ini_parse_stream(read_line, &read, on_key, &read);
	bool unreadable = ferror(read.file) != 0;
	fclose(read.file);
	if (read.failed)
		return error_add_context(err, "%s line %d", path, read.line);
	if (unreadable)
		return error_set(err, ERROR_CONFIG, "--config: cannot read %s", path);
	if (line != 0)
		return error_set(err, ERROR_CONFIG, "%s line %d: neither key = value nor [section]", path,
		                 line);
	return true;
}
