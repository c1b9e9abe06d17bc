#include "tests/harness/process.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/spawn.h"
#include "tests/harness/watcher.h"

struct Process {
	pid_t pid;
	bool ended;
	int status; /* once ended: exit code or 128 + signal */
	char *name;
	char *dir; /* holds stdout and stderr */
	char *out_path;
	char *err_path;
	char *out; /* what was last handed out */
	char *err;
};

char *
scratch_dir_new(const char *name)
{
	const char *tmp = getenv("TMPDIR");
	char *path = mem_printf("%s/pgbaton-test-%s-XXXXXX",
	                        tmp != NULL && tmp[0] != '\0' ? tmp : "/tmp", name);

	if (mkdtemp(path) == NULL)
		ck_abort_msg("%s: %s", path, strerror(errno));
	watcher_add_dir(path);
	return path;
}

void
scratch_dir_free(char *path)
{
	if (path == NULL)
		return;
	dir_remove(path);
	watcher_drop_dir(path);
	free(path);
}

int
free_port(void)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 ||
	    getsockname(fd, (struct sockaddr *)&addr, &len) != 0)
		ck_abort_msg("free port: %s", strerror(errno));
	close(fd);
	return ntohs(addr.sin_port);
}

static int
open_output(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0)
		ck_abort_msg("%s: %s", path, strerror(errno));
	return fd;
}

Process *
process_start(const char *const argv[], const char *const env[])
{
	Process *process = mem_zalloc(sizeof(Process));

	process->name = mem_strdup(argv[0]);
	process->dir = scratch_dir_new("process");
	process->out_path = mem_printf("%s/stdout", process->dir);
	process->err_path = mem_printf("%s/stderr", process->dir);
	int out = open_output(process->out_path);
	int err = open_output(process->err_path);
	process->pid = spawn(&(Spawn){.argv = argv, .env = env, .out_fd = out, .err_fd = err});
	close(out);
	close(err);
	watcher_add_process(process->pid);
	return process;
}

bool
process_ended(Process *process)
{
	int status;

	if (!process->ended && waitpid(process->pid, &status, WNOHANG) == process->pid) {
		process->ended = true;
		process->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		watcher_drop_process(process->pid);
	}
	return process->ended;
}

NORETURN static void
abort_with_output(Process *process, const char *what)
{
	fprintf(stderr, "--- %s, stdout\n%s--- stderr\n%s---\n", process->name, process_stdout(process),
	        process_stderr(process));
	ck_abort_msg("%s %s; its output is above", process->name, what);
	abort();
}

/* What a sanitizer found fails the test, whether or not anybody asks for the
 * exit code. */
static void
fail_on_report(Process *process)
{
	static const char *const marks[] = {"ERROR: AddressSanitizer", "ERROR: LeakSanitizer",
	                                    "WARNING: ThreadSanitizer", "runtime error: "};
	char *text = file_read(process->err_path); /* what was handed out stays valid */

	for (size_t i = 0; text != NULL && i < sizeof(marks) / sizeof(marks[0]); i++)
		if (strstr(text, marks[i]) != NULL)
			abort_with_output(process, "has a sanitizer's report");
	free(text);
}

int
process_wait(Process *process, int timeout_s)
{
	int64_t deadline = deadline_in_ms((int64_t)timeout_s * 1000);

	while (!process_ended(process)) {
		if (deadline_left_ms(deadline) == 0)
			abort_with_output(process, "did not end in time");
		poll(NULL, 0, 5);
	}
	fail_on_report(process);
	return process->status;
}

/* WNOWAIT: only looked at. process_ended asks for ends alone. */
static bool
is_stopped(const Process *process)
{
	siginfo_t info = {.si_pid = 0};

	return waitid(P_PID, (id_t)process->pid, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 &&
	       info.si_pid == process->pid;
}

void
process_wait_stopped(Process *process, int timeout_s)
{
	int64_t deadline = deadline_in_ms((int64_t)timeout_s * 1000);

	while (!is_stopped(process)) {
		if (process_ended(process))
			abort_with_output(process, "ended and was to be stopped");
		if (deadline_left_ms(deadline) == 0)
			abort_with_output(process, "did not stop in time");
		poll(NULL, 0, 5);
	}
}

void
process_kill(Process *process, int signal)
{
	/* Not reaped yet, so the pid is still its own. */
	if (!process->ended)
		kill(process->pid, signal);
}

pid_t
process_pid(const Process *process)
{
	return process->pid;
}

static const char *
read_again(const char *path, char **kept)
{
	free(*kept);
	*kept = file_read(path);
	return *kept != NULL ? *kept : "";
}

const char *
process_stdout(Process *process)
{
	return read_again(process->out_path, &process->out);
}

const char *
process_stderr(Process *process)
{
	return read_again(process->err_path, &process->err);
}

void
process_wait_output(Process *process, const char *text, int timeout_s)
{
	int64_t deadline = deadline_in_ms((int64_t)timeout_s * 1000);

	for (;;) {
		/* Ended is asked first: what it wrote before its end counts. */
		bool ended = process_ended(process);
		if (strstr(process_stdout(process), text) != NULL ||
		    strstr(process_stderr(process), text) != NULL)
			return;
		if (ended || deadline_left_ms(deadline) == 0) {
			fprintf(stderr, "expected the output \"%s\"\n", text);
			abort_with_output(process, ended ? "ended without an expected output"
			                                 : "did not write an expected output in time");
		}
		poll(NULL, 0, 10);
	}
}

/* A sanitizer looks for leaks at the end of main only, so there the process is
 * asked to end before it is made to. */
static void
end_process(Process *process)
{
#ifdef HARNESS_SANITIZED
	kill(process->pid, SIGTERM);
	kill(process->pid, SIGCONT); /* a fault point may have stopped it */
	process_wait(process, 60);
#else
	kill(process->pid, SIGKILL);
	waitpid(process->pid, NULL, 0);
	watcher_drop_process(process->pid);
#endif
}

void
process_free(Process *process)
{
	if (process == NULL)
		return;
	if (!process_ended(process))
		end_process(process);
	fail_on_report(process);
	scratch_dir_free(process->dir);
	free(process->err);
	free(process->out);
	free(process->err_path);
	free(process->out_path);
	free(process->name);
	free(process);
}

int
process_run(const char *const argv[], const char *const env[], int timeout_s, char **out)
{
	Process *process = process_start(argv, env);
	int status = process_wait(process, timeout_s);

	if (out != NULL)
		*out = mem_printf("%s%s", process_stdout(process), process_stderr(process));
	process_free(process);
	return status;
}
