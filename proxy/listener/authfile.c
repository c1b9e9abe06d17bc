#include "proxy/listener/authfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/memory.h"

enum { FILE_MAX = 16 << 20 };

typedef struct Entry Entry;
struct Entry {
	Entry *next;
	char *user;
	Secret secret;
};

struct AuthFile {
	Entry *entries;
};

static bool
read_all(const char *path, Buffer *out, Error *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return error_set_errno(err, ERROR_CONFIG, errno, "--auth-file: cannot open %s", path);
	bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 027) == 0;
	if (!ok) {
		error_set(err, ERROR_CONFIG, "--auth-file: %s must be a file that others cannot read",
		          path);
		error_set_hint(err, "chmod 600 %s", path);
	} else if (st.st_size > FILE_MAX) {
		ok = error_set(err, ERROR_CONFIG, "--auth-file: %s is larger than %d bytes", path,
		               FILE_MAX);
	}
	while (ok) {
		uint8_t *room = buffer_reserve(out, 65536);
		ssize_t n = read(fd, room, 65536);
		if (n == 0)
			break;
		if (n < 0)
			ok = error_set_errno(err, ERROR_CONFIG, errno, "--auth-file: cannot read %s", path);
		else
			out->len += (size_t)n;
	}
	close(fd);
	return ok;
}

/* A quoted string at *at, which moves behind it; allocated, NULL when there is none. */
static char *
take_quoted(const char **at)
{
	const char *from = *at + strspn(*at, " \t");
	Buffer text = BUFFER_INIT;

	if (*from++ != '"')
		return NULL;
	for (; *from != '\0'; from++) {
		if (*from == '"' && *++from != '"') {
			*at = from;
			char *result = mem_strdup(buffer_cstr(&text));
			mem_wipe(text.data, text.len);
			buffer_free(&text);
			return result;
		}
		buffer_put_u8(&text, (uint8_t)*from);
	}
	mem_wipe(text.data, text.len);
	buffer_free(&text);
	return NULL;
}

static bool
take_line(AuthFile *file, const char *line, Error *err)
{
	line += strspn(line, " \t\r");
	if (*line == '\0' || *line == ';' || *line == '#')
		return true;
	char *user = take_quoted(&line);
	char *text = user != NULL ? take_quoted(&line) : NULL;
	Entry *entry = mem_zalloc(sizeof(Entry));
	bool ok = text != NULL && secret_parse(text, &entry->secret);

	if (!ok)
		error_set(err, ERROR_CONFIG, "not \"user\" \"secret\"");
	mem_wipe_free_cstr(text);
	if (!ok || entry->secret.kind == SECRET_NONE) {
		free(user);
		free(entry);
		return ok; /* an empty secret: as if the user were not there */
	}
	entry->user = user;
	entry->next = file->entries; /* of two lines for a user the last one counts */
	file->entries = entry;
	return true;
}

AuthFile *
authfile_load(const char *path, Error *err)
{
	AuthFile *file = mem_zalloc(sizeof(AuthFile));
	Buffer bytes = BUFFER_INIT;
	bool ok = read_all(path, &bytes, err);
	char *rest = ok ? buffer_cstr(&bytes) : NULL;

	for (int number = 1; ok && rest != NULL; number++) {
		char *line = strsep(&rest, "\n");
		ok = take_line(file, line, err);
		if (!ok)
			error_add_context(err, "--auth-file %s, line %d", path, number);
	}
	mem_wipe(bytes.data, bytes.len);
	buffer_free(&bytes);
	if (ok)
		return file;
	authfile_free(file);
	return NULL;
}

void
authfile_free(AuthFile *file)
{
	if (file == NULL)
		return;
	while (file->entries != NULL) {
		Entry *entry = file->entries;
		file->entries = entry->next;
		free(entry->user);
		secret_wipe(&entry->secret);
		free(entry);
	}
	free(file);
}

const Secret *
authfile_find(AuthFile *file, const char *user)
{
	Error err = ERROR_INIT;

	for (Entry *entry = file->entries; entry != NULL; entry = entry->next) {
		if (strcmp(entry->user, user) != 0)
			continue;
		if (entry->secret.kind == SECRET_PLAIN && entry->secret.iterations == 0 &&
		    !secret_add_verifier(&entry->secret, &err))
			return NULL;
		return &entry->secret;
	}
	return NULL;
}
