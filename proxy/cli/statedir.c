#include "proxy/cli/statedir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"

static char *
file_in(const char *directory, const char *name)
{
	return mem_printf("%s/%s", directory, name);
}

static void
remove_file(const char *directory, const char *name)
{
	char *path = file_in(directory, name);

	unlink(path); /* not there is what was wanted */
	free(path);
}

int
statedir_open(const char *path, Error *err)
{
	if (mkdir(path, 0700) != 0 && errno != EEXIST) {
		error_set_errno(err, ERROR_STORAGE, errno, "cannot make the state directory %s", path);
		return -1;
	}
	char *lock = file_in(path, "run.lock");
	int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	free(lock);
	if (fd < 0) {
		error_set_errno(err, ERROR_STORAGE, errno, "cannot write in the state directory %s", path);
		return -1;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		error_set(err, ERROR_CONFIG, "another pgbaton works in the state directory %s", path);
		error_set_hint(err, "wait for its end, or give this migration a --name or --state-dir "
		                    "of its own");
		close(fd);
		return -1;
	}
	remove_file(path, "last_status.json");
	remove_file(path, "admin.port");
	return fd;
}

void
statedir_remove_port(const char *path)
{
	remove_file(path, "admin.port");
}

bool
statedir_write_last(const char *path, const json_t *status, Error *err)
{
	char *name = file_in(path, "last_status.json");
	char *temporary = file_in(path, "last_status.json.new");
	bool ok = true;

	/* `cancel` and `finish` may have removed the directory with the log. */
	if (mkdir(path, 0700) != 0 && errno != EEXIST)
		ok = error_set_errno(err, ERROR_STORAGE, errno, "cannot make %s", path);
	else if (json_dump_file(status, temporary, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) != 0 ||
	         rename(temporary, name) != 0)
		ok = error_set_errno(err, ERROR_STORAGE, errno, "cannot write %s", name);
	free(temporary);
	free(name);
	return ok;
}

json_t *
statedir_read_last(const char *path)
{
	char *name = file_in(path, "last_status.json");
	json_t *status = json_load_file(name, 0, NULL);

	free(name);
	return status;
}

/* "PORT\nHOST\n", as admin.c writes it. */
bool
statedir_read_port(const char *path, char *host, size_t host_size, int *port)
{
	char *name = file_in(path, "admin.port");
	FILE *file = fopen(name, "re");
	char line[2][300] = {"", ""};

	free(name);
	if (file == NULL)
		return false;
	bool two = fgets(line[0], sizeof(line[0]), file) != NULL &&
	           fgets(line[1], sizeof(line[1]), file) != NULL;
	fclose(file);
	if (!two)
		return false;
	line[1][strcspn(line[1], "\n")] = '\0';
	*port = atoi(line[0]);
	snprintf(host, host_size, "%s", line[1]);
	return *port > 0 && *port < 65536 && host[0] != '\0';
}
