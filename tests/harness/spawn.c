#include "tests/harness/spawn.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/memory.h"

extern char **environ;

static const struct passwd *
server_user(void)
{
	const struct passwd *user = getpwnam("postgres");
	if (user == NULL)
		user = getpwnam("nobody");
	if (user == NULL)
		ck_abort_msg("running as root, and there is no user postgres or nobody");
	return user;
}

uid_t
server_uid(void)
{
	return geteuid() != 0 ? geteuid() : server_user()->pw_uid;
}

gid_t
server_gid(void)
{
	return geteuid() != 0 ? getegid() : server_user()->pw_gid;
}

/* Ours with `more` in front: the first entry of a name is the one getenv finds,
 * but not every program uses getenv, so replaced names are left out. */
static char **
environment_with(const char *const *more)
{
	size_t ours = 0;
	size_t added = 0;

	while (environ[ours] != NULL)
		ours++;
	while (more != NULL && more[added] != NULL)
		added++;
	char **out = mem_zalloc((ours + added + 1) * sizeof(char *));
	size_t n = 0;
	for (size_t i = 0; i < added; i++)
		out[n++] = mem_strdup(more[i]);
	for (size_t i = 0; i < ours; i++) {
		size_t name = strcspn(environ[i], "=") + 1;
		bool replaced = false;
		for (size_t j = 0; j < added && !replaced; j++)
			replaced = strncmp(environ[i], more[j], name) == 0;
		if (!replaced)
			out[n++] = mem_strdup(environ[i]);
	}
	return out;
}

static void
environment_free(char **env)
{
	for (size_t i = 0; env[i] != NULL; i++)
		free(env[i]);
	free(env);
}

NORETURN static void
child(const Spawn *what, char **env, uid_t uid, gid_t gid)
{
	int null = open("/dev/null", O_RDONLY);
	sigset_t none;

	dup2(null, STDIN_FILENO);
	dup2(what->out_fd, STDOUT_FILENO);
	dup2(what->err_fd, STDERR_FILENO);
	close_range(3, ~0U, 0);
	if (what->new_session)
		setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (what->as_server_user && geteuid() == 0)
		if (setgroups(1, &gid) != 0 || setgid(gid) != 0 || setuid(uid) != 0)
			_exit(126);

	char **argv;
	memcpy(&argv, &what->argv, sizeof(argv)); /* exec's const is missing for history's sake */
	execvpe(argv[0], argv, env);
	dprintf(STDERR_FILENO, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

pid_t
spawn(const Spawn *what)
{
	char **env = environment_with(what->env);
	uid_t uid = server_uid();
	gid_t gid = server_gid();

	pid_t pid = fork();
	if (pid < 0)
		ck_abort_msg("fork: %s", strerror(errno));
	if (pid == 0)
		child(what, env, uid, gid);
	environment_free(env);
	return pid;
}

int
spawn_wait(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			ck_abort_msg("waitpid: %s", strerror(errno));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int
spawn_run(const char *const argv[], bool as_server_user, char **out)
{
	Buffer text = BUFFER_INIT;
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) != 0)
		ck_abort_msg("pipe: %s", strerror(errno));
	pid_t pid = spawn(&(Spawn){
		.argv = argv,
		.out_fd = fds[1],
		.err_fd = fds[1],
		.as_server_user = as_server_user,
	});
	close(fds[1]);
	for (;;) {
		ssize_t n = read(fds[0], buffer_reserve(&text, 4096), 4096);
		if (n == 0 || (n < 0 && errno != EINTR))
			break;
		if (n > 0)
			text.len += (size_t)n;
	}
	close(fds[0]);
	if (out != NULL)
		*out = mem_strdup(buffer_cstr(&text));
	buffer_free(&text);
	return spawn_wait(pid);
}

char *
file_read(const char *path)
{
	Buffer text = BUFFER_INIT;
	FILE *file = fopen(path, "re");

	if (file == NULL)
		return NULL;
	for (size_t n = 1; n > 0;) {
		n = fread(buffer_reserve(&text, 65536), 1, 65536, file);
		text.len += n;
	}
	fclose(file);
	return buffer_cstr(&text);
}
