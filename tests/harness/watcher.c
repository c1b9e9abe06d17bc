#include "tests/harness/watcher.h"

#include <check.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/memory.h"

/* The watcher of this process; one inherited over fork has another owner. */
static struct {
	pid_t owner;
	int pipe;
} watcher = {.pipe = -1};

static void
nap(void)
{
	poll(NULL, 0, 10);
}

/* Fields of /proc/PID/stat behind the command name, which may hold anything. */
typedef struct {
	char state;
	pid_t parent;
	unsigned long long started; /* clock ticks since boot: pid and this are unique */
} ProcStat;

static bool
proc_stat(pid_t pid, ProcStat *out)
{
	char path[64];
	char text[1024];

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return false;
	size_t len = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[len] = '\0';

	const char *rest = strrchr(text, ')');
	int parent;
	if (rest == NULL ||
	    sscanf(rest + 1,
	           " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
	           &out->state, &parent, &out->started) != 3)
		return false;
	out->parent = parent;
	return true;
}

bool
process_gone(pid_t pid)
{
	ProcStat stat;

	if (waitpid(pid, NULL, WNOHANG) == pid)
		return true;
	return !proc_stat(pid, &stat) || stat.state == 'Z' || stat.state == 'X';
}

bool
process_wait_gone(pid_t pid, int timeout_ms)
{
	int64_t deadline = deadline_in_ms(timeout_ms);

	while (!process_gone(pid)) {
		if (deadline_left_ms(deadline) == 0)
			return false;
		nap();
	}
	return true;
}

pid_t
server_pid(const char *cluster_dir)
{
	char path[PATH_MAX];
	char cwd[PATH_MAX];
	char data[PATH_MAX];
	int pid = 0;

	snprintf(path, sizeof(path), "%s/data/postmaster.pid", cluster_dir);
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return 0;
	int fields = fscanf(file, "%d", &pid);
	fclose(file);
	if (fields != 1 || pid <= 0 || process_gone(pid))
		return 0;

	/* A server works in its data directory: a reused pid is somebody else's. */
	snprintf(path, sizeof(path), "/proc/%d/cwd", pid);
	ssize_t len = readlink(path, cwd, sizeof(cwd) - 1);
	if (len < 0)
		return 0;
	cwd[len] = '\0';
	snprintf(path, sizeof(path), "%s/data", cluster_dir);
	return realpath(path, data) != NULL && strcmp(cwd, data) == 0 ? pid : 0;
}

static size_t
children_of(pid_t parent, pid_t *out, size_t max)
{
	DIR *proc = opendir("/proc");
	size_t count = 0;

	if (proc == NULL)
		return 0;
	for (struct dirent *entry; (entry = readdir(proc)) != NULL && count < max;) {
		ProcStat stat;
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		pid_t pid = (pid_t)atoi(entry->d_name);
		if (proc_stat(pid, &stat) && stat.parent == parent)
			out[count++] = pid;
	}
	closedir(proc);
	return count;
}

void
server_signal_all(const char *cluster_dir, int signal)
{
	enum { MAX = 1024 };
	pid_t children[MAX];
	pid_t postmaster = server_pid(cluster_dir);

	if (postmaster == 0)
		return;
	/* The postmaster first: it must not start another child in between, and
	 * with SIGCONT the order does not count. */
	if (signal == SIGKILL)
		kill(postmaster, SIGSTOP);
	else
		kill(postmaster, signal);
	size_t count = children_of(postmaster, children, MAX);
	for (size_t i = 0; i < count; i++)
		kill(children[i], signal);
	if (signal != SIGKILL)
		return;
	kill(postmaster, SIGKILL);
	process_wait_gone(postmaster, 10000);
	for (size_t i = 0; i < count; i++)
		process_wait_gone(children[i], 10000);
}

void
server_kill(const char *cluster_dir)
{
	pid_t pid = server_pid(cluster_dir);

	if (pid == 0)
		return;
	kill(pid, SIGCONT);
	kill(pid, SIGQUIT);
	if (!process_wait_gone(pid, 5000))
		server_signal_all(cluster_dir, SIGKILL);
}

static int
remove_entry(const char *path, const struct stat *st UNUSED, int type UNUSED,
             struct FTW *ftw UNUSED)
{
	if (remove(path) != 0 && errno != ENOENT)
		return 0; /* go on with the rest; the directory above then stays */
	return 0;
}

void
dir_remove(const char *path)
{
	nftw(path, remove_entry, 64, FTW_DEPTH | FTW_PHYS);
}

/*
 * The watcher's own side. It reads lines "+D path", "-D path", "+P pid ticks",
 * "-P pid" until the pipe closes, and then clears up what was not taken back.
 */

/* Is there a later line that takes lines[at] back? The kind and the first word
 * after it are compared. */
static bool
taken_back(char **lines, size_t count, size_t at)
{
	const char *what = lines[at] + 1;
	size_t len = what[0] == 'P' ? 2 + strcspn(what + 2, " ") : strlen(what);

	for (size_t i = at + 1; i < count; i++)
		if (lines[i][0] == '-' && strncmp(lines[i] + 1, what, len) == 0 &&
		    lines[i][1 + len] == '\0')
			return true;
	return false;
}

/* The end of what a program said whose test did not live to ask for it. */
static void
show_output(const char *dir)
{
	enum { SHOWN = 6000 };
	char path[PATH_MAX];
	char text[SHOWN + 1];

	snprintf(path, sizeof(path), "%s/stderr", dir);
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return;
	if (fseek(file, -SHOWN, SEEK_END) != 0)
		rewind(file);
	size_t len = fread(text, 1, SHOWN, file);
	fclose(file);
	text[len] = '\0';
	if (len > 0)
		fprintf(stderr, "--- left behind by a test that ended early: %s\n%s---\n", path, text);
}

static void
clear_up_line(const char *line)
{
	ProcStat stat;
	int pid;
	unsigned long long started;

	if (line[1] == 'D') {
		server_kill(line + 3);
		show_output(line + 3);
		dir_remove(line + 3);
	} else if (sscanf(line + 3, "%d %llu", &pid, &started) == 2) {
		if (proc_stat(pid, &stat) && stat.started == started)
			kill(pid, SIGKILL);
	}
}

static void
clear_up(char *text)
{
	char **lines = NULL;
	size_t count = 0;

	for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
		lines = mem_realloc(lines, (count + 1) * sizeof(*lines));
		lines[count++] = line;
	}
	/* Programs first: they may be using the servers. */
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < count; i++)
			if (lines[i][0] == '+' && lines[i][1] == "PD"[pass] && !taken_back(lines, count, i))
				clear_up_line(lines[i]);
	free(lines);
}

NORETURN static void
watch(int fd)
{
	Buffer text = BUFFER_INIT;
	int null = open("/dev/null", O_RDWR);

	setsid();
	for (int i = 0; i < 2; i++)
		dup2(null, i);
	if (fd > 3)
		close_range(3, (unsigned)fd - 1, 0);
	close_range((unsigned)fd + 1, ~0U, 0);
	for (int sig = 1; sig < 32; sig++)
		if (sig != SIGCHLD)
			signal(sig, sig == SIGHUP || sig == SIGINT || sig == SIGTERM ? SIG_IGN : SIG_DFL);

	for (;;) {
		ssize_t n = read(fd, buffer_reserve(&text, 4096), 4096);
		if (n == 0 || (n < 0 && errno != EINTR))
			break;
		if (n > 0)
			text.len += (size_t)n;
	}
	clear_up(buffer_cstr(&text));
	_exit(0);
}

static void
watcher_start(void)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) != 0)
		ck_abort_msg("pipe: %s", strerror(errno));
	pid_t pid = fork();
	if (pid < 0)
		ck_abort_msg("fork: %s", strerror(errno));
	if (pid == 0) {
		close(fds[1]);
		/* Twice, so that nobody has to reap it. */
		if (fork() == 0)
			watch(fds[0]);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	close(fds[0]);
	watcher.owner = getpid();
	watcher.pipe = fds[1];
}

/* One write below PIPE_BUF: lines of several processes do not mix. */
static void tell(const char *fmt, ...) PRINTF_LIKE(1, 2);

static void
tell(const char *fmt, ...)
{
	char line[PATH_MAX + 16];
	va_list args;

	if (watcher.owner != getpid())
		watcher_start();
	va_start(args, fmt);
	int len = vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	if (len <= 0 || (size_t)len >= sizeof(line) || write(watcher.pipe, line, (size_t)len) != len)
		ck_abort_msg("the watcher does not listen: %s", strerror(errno));
}

void
watcher_add_dir(const char *path)
{
	tell("+D %s\n", path);
}

void
watcher_drop_dir(const char *path)
{
	tell("-D %s\n", path);
}

void
watcher_add_process(pid_t pid)
{
	ProcStat stat;

	if (proc_stat(pid, &stat))
		tell("+P %d %llu\n", (int)pid, stat.started);
}

void
watcher_drop_process(pid_t pid)
{
	tell("-P %d\n", (int)pid);
}
