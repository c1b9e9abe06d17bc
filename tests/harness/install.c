#include "tests/harness/install.h"

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"
#include "tests/harness/cluster.h"
#include "tests/harness/spawn.h"
#include "tests/harness/watcher.h"

/* The same place as in tools/deps, which fills it. */
char *
install_cache_dir(void)
{
	const char *own = getenv("PGBATON_CACHE");
	const char *xdg = getenv("XDG_CACHE_HOME");
	const char *home = getenv("HOME");

	if (own != NULL && own[0] != '\0')
		return mem_strdup(own);
	if (geteuid() == 0)
		return mem_strdup("/var/cache/pgbaton"); /* root's home is closed to the servers' user */
	if (xdg != NULL && xdg[0] != '\0')
		return mem_printf("%s/pgbaton", xdg);
	return mem_printf("%s/.cache/pgbaton", home != NULL ? home : "/nonexistent");
}

static bool
has_program(const char *dir, const char *program)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, program);
	return access(path, X_OK) == 0;
}

/* "postgres (PostgreSQL) 15.8 (Debian ...)" -> "15.8"; NULL when it does not run. */
static char *
version_of(const char *bin_dir)
{
	char *program = mem_printf("%s/postgres", bin_dir);
	char *out = NULL;
	char version[32];
	bool ok = spawn_run((const char *const[]){program, "--version", NULL}, false, &out) == 0 &&
	          sscanf(out, "postgres (PostgreSQL) %31[0-9a-z.]", version) == 1;

	free(program);
	free(out);
	return ok ? mem_strdup(version) : NULL;
}

static char *
on_path(int major)
{
	const char *path = getenv("PATH");
	char *dirs = mem_strdup(path != NULL ? path : "");
	char *found = NULL;
	char *state = NULL;

	for (char *dir = strtok_r(dirs, ":", &state); dir != NULL && found == NULL;
	     dir = strtok_r(NULL, ":", &state)) {
		if (!has_program(dir, "postgres") || !has_program(dir, "initdb"))
			continue;
		char *version = version_of(dir);
		if (version != NULL && atoi(version) == major)
			found = mem_strdup(dir);
		free(version);
	}
	free(dirs);
	return found;
}

char *
install_bin_dir(int major)
{
	char *cache = install_cache_dir();
	char *dirs[] = {
		mem_printf("/usr/lib/postgresql/%d/bin", major),
		mem_printf("/usr/pgsql-%d/bin", major),
		mem_printf("%s/pg/%d/bin", cache, major),
	};
	char *found = NULL;

	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		if (found == NULL && has_program(dirs[i], "postgres") && has_program(dirs[i], "initdb"))
			found = dirs[i];
		else
			free(dirs[i]);
	}
	free(cache);
	return found != NULL ? found : on_path(major);
}

bool
cluster_available(int major)
{
	char *dir = install_bin_dir(major);
	bool found = dir != NULL;

	free(dir);
	return found;
}

char *
cluster_program(int major, const char *program)
{
	char *dir = install_bin_dir(major);
	char *path = NULL;

	if (dir != NULL && has_program(dir, program))
		path = mem_printf("%s/%s", dir, program);
	free(dir);
	return path;
}

int
cluster_default_major(void)
{
	int newest = 0;

	for (int major = CLUSTER_NEWEST; major >= CLUSTER_OLDEST; major--) {
		char *dump = cluster_program(major, "pg_dump");
		free(dump);
		if (dump != NULL)
			return major;
		if (newest == 0 && cluster_available(major))
			newest = major;
	}
	if (newest == 0)
		ck_abort_msg("no PostgreSQL server of %d to %d is installed (tools/deps)", CLUSTER_OLDEST,
		             CLUSTER_NEWEST);
	return newest;
}

static void
run_or_abort(const char *const argv[], bool as_server_user)
{
	char *out = NULL;

	if (spawn_run(argv, as_server_user, &out) != 0) {
		fprintf(stderr, "%s", out);
		ck_abort_msg("%s failed: %.500s", argv[0], out);
	}
	free(out);
}

static void
init_db(const char *bin_dir, const char *data)
{
	char *program = mem_printf("%s/initdb", bin_dir);

	run_or_abort((const char *const[]){program, "-D", data, "-U", "postgres", "-A", "trust", "-E",
	                                   "UTF8", "--locale=C", "-N", NULL},
	             true);
	free(program);
}

/* Makes the template; whoever comes second throws its own away. */
static bool
template_make(const char *bin_dir, const char *templates, const char *path)
{
	char *work = mem_printf("%s/new-XXXXXX", templates);
	bool made = false;

	if (mkdtemp(work) != NULL) {
		watcher_add_dir(work);
		if (chown(work, server_uid(), server_gid()) != 0)
			ck_abort_msg("chown %s: %s", work, strerror(errno));
		char *data = mem_printf("%s/data", work);
		init_db(bin_dir, data);
		made = rename(data, path) == 0 || access(path, F_OK) == 0;
		dir_remove(work);
		watcher_drop_dir(work);
		free(data);
	}
	free(work);
	return made;
}

/* NULL when the cache cannot be written: then initdb runs for every server. */
static char *
template_path(int major, int which)
{
	char *bin_dir = install_bin_dir(major);
	char *cache = install_cache_dir();
	char *templates = mem_printf("%s/template", cache);
	char *version = version_of(bin_dir);
	char *path = mem_printf("%s/%s-%u-%d", templates, version != NULL ? version : "unknown",
	                        (unsigned)server_uid(), which);

	mkdir(cache, 0755);
	mkdir(templates, 0755);
	if (access(path, F_OK) != 0 && !template_make(bin_dir, templates, path)) {
		free(path);
		path = NULL;
	}
	free(version);
	free(templates);
	free(cache);
	free(bin_dir);
	return path;
}

void
install_data_dir(int major, int which, const char *data)
{
	char *template = template_path(major, which);

	if (template != NULL) {
		run_or_abort((const char *const[]){"cp", "-a", "--reflink=auto", template, data, NULL},
		             false);
	} else {
		char *bin_dir = install_bin_dir(major);
		init_db(bin_dir, data);
		free(bin_dir);
	}
	free(template);
}
