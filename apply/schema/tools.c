#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply/schema/child.h"
#include "apply/schema/schema.h"
#include "common/memory.h"

/* Where packages put them: Debian, Red Hat, source builds, Homebrew. */
static const char *const places[] = {
	"/usr/lib/postgresql/*/bin",      "/usr/pgsql-*/bin", "/usr/local/pgsql*/bin",
	"/opt/postgresql*/bin",           "/opt/pgsql*/bin",  "/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
};

typedef struct {
	char directory[400];
	int version; /* 150020; 0: none found */
} Found;

/* "pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)", "18beta1". */
static int
parse_version(const char *text)
{
	const char *at = strchr(text, ')');
	int major = 0;
	int minor = 0;

	if (at == NULL || sscanf(at + 1, " %d.%d", &major, &minor) < 1 || major < 10 || major > 99)
		return 0;
	return major * 10000 + minor;
}

static int
program_version(const char *path)
{
	const char *argv[] = {path, "--version", NULL};
	ChildRun run = {.argv = argv};
	Buffer out = BUFFER_INIT;
	Error ignored = ERROR_INIT; /* what cannot tell its version is not there */
	int version = child_run(&run, &out, &ignored) ? parse_version(buffer_cstr(&out)) : 0;

	buffer_free(&out);
	return version;
}

/* Debian's on PATH is a script that starts one of those in the places: not worth its 50 ms
 * where there are some. */
static bool
is_wrapper(const char *path)
{
	char *real = realpath(path, NULL);
	const char *slash = real != NULL ? strrchr(real, '/') : NULL;
	bool wrapper = slash != NULL && strcmp(slash, "/pg_wrapper") == 0;

	free(real);
	return wrapper;
}

/* Both programs, from one directory: pg_restore must be able to read the dump. */
static void
consider(const char *directory, Found *best)
{
	char dump[512];
	char restore[512];

	snprintf(dump, sizeof(dump), "%s/pg_dump", directory);
	snprintf(restore, sizeof(restore), "%s/pg_restore", directory);
	if (directory[0] != '/' || strlen(directory) >= sizeof(best->directory) ||
	    access(dump, X_OK) != 0 || access(restore, X_OK) != 0 ||
	    (best->version > 0 && is_wrapper(dump)))
		return;
	int version = program_version(dump);
	if (version <= best->version || program_version(restore) < version)
		return;
	best->version = version;
	snprintf(best->directory, sizeof(best->directory), "%s", directory);
}

static void
look_in_places(Found *best)
{
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		glob_t found;
		if (glob(places[i], 0, NULL, &found) == 0) {
			for (size_t k = 0; k < found.gl_pathc; k++)
				consider(found.gl_pathv[k], best);
		}
		globfree(&found);
	}
}

/* After the places. */
static void
look_on_path(Found *best)
{
	const char *path = getenv("PATH");
	char *copy = mem_strdup(path != NULL ? path : "");
	char *state = NULL;

	for (char *dir = strtok_r(copy, ":", &state); dir != NULL; dir = strtok_r(NULL, ":", &state))
		consider(dir, best);
	free(copy);
}

bool
schema_find_tools(int source_version, char *pg_dump, char *pg_restore, size_t size, Error *err)
{
	Found best = {.directory = "", .version = 0};
	int wanted = source_version / 10000;

	look_in_places(&best);
	look_on_path(&best);
	if (best.version == 0)
		error_set(err, ERROR_CONFIG, "pg_dump and pg_restore were not found");
	else if (best.version / 10000 < wanted)
		error_set(err, ERROR_CONFIG,
		          "the source is PostgreSQL %d, but the newest pg_dump here is %d"
		          " (%s), and pg_dump refuses servers newer than itself",
		          wanted, best.version / 10000, best.directory);
	if (best.version / 10000 < wanted || best.version == 0)
		return error_set_hint(err,
		                      "install postgresql-client-%d, or create the schema on the"
		                      " target yourself and use --schema none",
		                      wanted);
	snprintf(pg_dump, size, "%s/pg_dump", best.directory);
	snprintf(pg_restore, size, "%s/pg_restore", best.directory);
	return true;
}
