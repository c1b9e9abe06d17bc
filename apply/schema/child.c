#include "apply/schema/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"

enum { GRACE_MS = 5000, READ_SIZE = 65536, STDERR_KEEP = 8192 };
#define STDOUT_MAX ((size_t)1 << 30)

typedef struct {
	pid_t pid;
	int out_fd; /* -1: at its end */
	int err_fd;
	Buffer *out;
	Buffer err_text;
} Child;

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void
set_attributes(posix_spawnattr_t *attr)
{
	sigset_t none;
	sigset_t all;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(attr);
	posix_spawnattr_setsigmask(attr, &none);
	posix_spawnattr_setsigdefault(attr, &all);
	posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

/* posix_spawn's types know no const; it does not write. */
static char *const *
strings(const char *const *list)
{
	return (char *const *)(uintptr_t)list;
}

static bool
spawn(const ChildRun *run, int out_fd, int err_fd, pid_t *pid, Error *err)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, out_fd, 1);
	posix_spawn_file_actions_adddup2(&actions, err_fd, 2);
	posix_spawn_file_actions_addclosefrom_np(&actions, 3);
	set_attributes(&attr);
	const char *const *envp = run->envp != NULL ? run->envp : (const char *const *)environ;
	int failed = posix_spawn(pid, run->argv[0], &actions, &attr, strings(run->argv), strings(envp));
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return failed == 0 || error_set_errno(err, ERROR_CONFIG, failed, "cannot run %s", run->argv[0]);
}

static bool
start(const ChildRun *run, Child *child, Error *err)
{
	int out[2];
	int errs[2];

	if (pipe2(out, O_CLOEXEC) != 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "cannot make a pipe");
	if (pipe2(errs, O_CLOEXEC) != 0) {
		error_set_errno(err, ERROR_STORAGE, errno, "cannot make a pipe");
		close(out[0]);
		close(out[1]);
		return false;
	}
	bool ok = spawn(run, out[1], errs[1], &child->pid, err);
	close(out[1]);
	close(errs[1]);
	child->out_fd = out[0];
	child->err_fd = errs[0];
	if (!ok) {
		close_fd(&child->out_fd);
		close_fd(&child->err_fd);
	}
	return ok;
}

static bool
read_some(int *fd, Buffer *to, size_t max, Error *err)
{
	uint8_t dropped[4096];
	bool keep = to != NULL && to->len < max;
	uint8_t *at = keep ? buffer_reserve(to, READ_SIZE) : dropped;
	ssize_t n = read(*fd, at, keep ? READ_SIZE : sizeof(dropped));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	if (n < 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "reading from a child process");
	if (n == 0)
		close_fd(fd);
	else if (keep)
		to->len += (size_t)n;
	return true;
}

/* The end of stderr is where the reason stands. */
static void
trim_stderr(Buffer *text)
{
	if (text->len > 2 * STDERR_KEEP)
		buffer_consume(text, text->len - STDERR_KEEP);
}

/* Until both pipes are at their end. */
static bool
pump(Child *child, const Stop *stop, int64_t deadline_ms, Error *err)
{
	while (child->out_fd >= 0 || child->err_fd >= 0) {
		struct pollfd fds[3] = {
			{.fd = child->out_fd, .events = POLLIN},
			{.fd = child->err_fd, .events = POLLIN},
			{.fd = stop_fd(stop), .events = POLLIN},
		};
		int ready = poll(fds, 3, deadline_ms == 0 ? -1 : deadline_left_ms(deadline_ms));
		if (ready < 0 && errno != EINTR)
			return error_set_errno(err, ERROR_STORAGE, errno, "poll");
		if (ready == 0)
			return error_set(err, ERROR_TIMEOUT, "the child process does not end");
		if (ready > 0 && fds[2].revents != 0)
			return error_set(err, ERROR_CANCELLED, "stopped");
		if (ready > 0 && fds[0].revents != 0 &&
		    !read_some(&child->out_fd, child->out, STDOUT_MAX, err))
			return false;
		if (ready > 0 && fds[1].revents != 0 &&
		    !read_some(&child->err_fd, &child->err_text, SIZE_MAX, err))
			return false;
		trim_stderr(&child->err_text);
	}
	return true;
}

static int
reap(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static void
end_early(Child *child)
{
	kill(child->pid, SIGTERM);
	if (!pump(child, NULL, deadline_in_ms(GRACE_MS), NULL))
		kill(child->pid, SIGKILL);
	reap(child->pid);
}

/* The last lines that fit into an Error, on one line. */
static void
stderr_line(Buffer *text, char *out, size_t size)
{
	const char *from = buffer_cstr(text);
	size_t n = 0;

	if (text->len >= size)
		from += text->len - size + 1;
	for (; *from != '\0' && n + 1 < size; from++)
		out[n++] = *from == '\n' ? ' ' : *from;
	while (n > 0 && out[n - 1] == ' ')
		n--;
	out[n] = '\0';
}

static bool
exit_error(const ChildRun *run, Child *child, int status, Error *err)
{
	char said[800];
	const char *slash = strrchr(run->argv[0], '/');
	const char *name = slash != NULL ? slash + 1 : run->argv[0];

	stderr_line(&child->err_text, said, sizeof(said));
	if (WIFSIGNALED(status))
		return error_set(err, ERROR_CONFIG, "%s was ended by signal %d: %s", name, WTERMSIG(status),
		                 said);
	return error_set(err, ERROR_CONFIG, "%s failed (exit %d): %s", name, WEXITSTATUS(status), said);
}

bool
child_run(const ChildRun *run, Buffer *out, Error *err)
{
	Child child = {.pid = 0, .out_fd = -1, .err_fd = -1, .out = out, .err_text = BUFFER_INIT};
	bool ok = start(run, &child, err);

	if (!ok)
		return false;
	ok = pump(&child, run->stop, 0, err);
	if (ok) {
		int status = reap(child.pid);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
			ok = exit_error(run, &child, status, err);
		else if (out != NULL && out->len >= STDOUT_MAX)
			ok = error_set(err, ERROR_CONFIG, "%s wrote more than 1 GiB", run->argv[0]);
	} else {
		end_early(&child);
	}
	close_fd(&child.out_fd);
	close_fd(&child.err_fd);
	buffer_free(&child.err_text);
	return ok;
}
