#include "tests/harness/pgbaton.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/memory.h"

#ifndef HARNESS_PGBATON
#error "the Makefile says where the test variant of the binary is"
#endif

enum { MAX_ARGS = 64 };

struct Pgbaton {
	Process *process;
	char *argv[MAX_ARGS + 1]; /* of `run`, owned */
	int argc;
	char *env[MAX_ARGS + 1]; /* owned */
	char *state_dir;
	bool owns_state_dir;
	char admin[32];
	int admin_port;
};

/* In the order in which a migration goes through them. */
static const char *const states[] = {
	"checking",     "preparing", "copying",      "catching_up", "following",
	"cutting_over", "switched",  "failing_back", "failed_back", "finished",
};

const char *
pgbaton_binary(void)
{
	const char *own = getenv("PGBATON_BIN");
	return own != NULL && own[0] != '\0' ? own : HARNESS_PGBATON;
}

static void
add_arg(Pgbaton *p, const char *text)
{
	if (p->argc == MAX_ARGS)
		ck_abort_msg("too many arguments");
	p->argv[p->argc++] = mem_strdup(text);
}

Pgbaton *
pgbaton_start(const PgbatonOptions *options)
{
	Pgbaton *p = mem_zalloc(sizeof(Pgbaton));

	p->owns_state_dir = options->state_dir == NULL;
	p->state_dir = p->owns_state_dir ? scratch_dir_new("state") : mem_strdup(options->state_dir);
	p->admin_port = free_port();
	snprintf(p->admin, sizeof(p->admin), "127.0.0.1:%d", p->admin_port);

	const char *own[] = {
		pgbaton_binary(), "run",         "--source",   options->source, "--target",
		options->target,  "--state-dir", p->state_dir, "--admin",       p->admin,
	};
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		add_arg(p, own[i]);
	for (size_t i = 0; options->args != NULL && options->args[i] != NULL; i++)
		add_arg(p, options->args[i]);
	for (size_t i = 0; options->env != NULL && options->env[i] != NULL; i++) {
		ck_assert_uint_lt(i, MAX_ARGS);
		p->env[i] = mem_strdup(options->env[i]);
	}
	p->process = process_start((const char *const *)p->argv, (const char *const *)p->env);
	return p;
}

void
pgbaton_free(Pgbaton *p)
{
	if (p == NULL)
		return;
	process_free(p->process);
	if (p->owns_state_dir)
		scratch_dir_free(p->state_dir);
	else
		free(p->state_dir);
	for (int i = 0; i <= MAX_ARGS; i++) {
		free(p->argv[i]);
		free(p->env[i]);
	}
	free(p);
}

int
pgbaton_stop(Pgbaton *p, int signal)
{
	process_kill(p->process, signal);
	return process_wait(p->process, 60);
}

void
pgbaton_again(Pgbaton *p)
{
	ck_assert_msg(process_ended(p->process), "the first run has not ended");
	process_free(p->process);
	p->process = process_start((const char *const *)p->argv, (const char *const *)p->env);
}

int
pgbaton_wait_exit(Pgbaton *p, int timeout_s)
{
	return process_wait(p->process, timeout_s);
}

void
pgbaton_wait_killed(Pgbaton *p, const char *point, int timeout_s)
{
	int ended = pgbaton_wait_exit(p, timeout_s);

	if (ended != 128 + SIGKILL)
		ck_abort_msg("%s was not passed: exit %d\n%s", point, ended, pgbaton_log(p));
}

bool
pgbaton_ended(Pgbaton *p)
{
	return process_ended(p->process);
}

void
pgbaton_wait_stopped(Pgbaton *p, int timeout_s)
{
	process_wait_stopped(p->process, timeout_s);
}

pid_t
pgbaton_pid(const Pgbaton *p)
{
	return process_pid(p->process);
}

const char *
pgbaton_log(Pgbaton *p)
{
	return process_stderr(p->process);
}

void
pgbaton_wait_log(Pgbaton *p, const char *text, int timeout_s)
{
	int64_t deadline = deadline_in_ms((int64_t)timeout_s * 1000);

	while (strstr(pgbaton_log(p), text) == NULL) {
		ck_assert_msg(deadline_left_ms(deadline) > 0, "no \"%s\" in %s", text, pgbaton_log(p));
		poll(NULL, 0, 10);
	}
}

const char *
pgbaton_state_dir(const Pgbaton *p)
{
	return p->state_dir;
}

int
pgbaton_admin_port(const Pgbaton *p)
{
	return p->admin_port;
}

char *
pgbaton_admin_raw(Pgbaton *p, const char *request)
{
	Buffer text = BUFFER_INIT;
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)p->admin_port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct timeval patience = {.tv_sec = 30};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 &&
	    send(fd, request, strlen(request), MSG_NOSIGNAL) >= 0) {
		for (ssize_t n = 1; n > 0;) {
			n = recv(fd, buffer_reserve(&text, 65536), 65536, 0);
			text.len += n > 0 ? (size_t)n : 0;
		}
	}
	close(fd);
	return buffer_cstr(&text);
}

json_t *
pgbaton_status(Pgbaton *p)
{
	char *request = mem_printf("GET /v1/status HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
	                           p->admin);
	char *response = pgbaton_admin_raw(p, request);
	const char *body = strstr(response, "\r\n\r\n");
	json_t *status = NULL;

	if (strncmp(response, "HTTP/1.1 200 ", 13) == 0 && body != NULL) {
		json_error_t why;
		status = json_loads(body + 4, 0, &why);
		if (status == NULL)
			ck_abort_msg("the status is no JSON: %s: %.500s", why.text, body + 4);
	}
	free(response);
	free(request);
	return status;
}

static json_t *
find_value(json_t *status, const char *path)
{
	char *parts = mem_strdup(path);
	char *state = NULL;
	json_t *at = status;

	for (char *part = strtok_r(parts, ".", &state); part != NULL && at != NULL;
	     part = strtok_r(NULL, ".", &state))
		at = json_object_get(at, part);
	free(parts);
	return at;
}

static json_t *
need_status(Pgbaton *p, const char *path, json_t **value)
{
	json_t *status = pgbaton_status(p);

	if (status == NULL) {
		fprintf(stderr, "--- log of pgbaton\n%s---\n", pgbaton_log(p));
		ck_abort_msg("the admin port does not answer");
	}
	*value = find_value(status, path);
	if (*value == NULL)
		ck_abort_msg("no \"%s\" in the status", path);
	return status;
}

long long
pgbaton_status_int(Pgbaton *p, const char *path)
{
	json_t *value;
	json_t *status = need_status(p, path, &value);

	ck_assert_msg(json_is_number(value), "\"%s\" in the status is no number", path);
	long long out = json_is_integer(value) ? json_integer_value(value)
	                                       : (long long)json_real_value(value);
	json_decref(status);
	return out;
}

char *
pgbaton_status_text(Pgbaton *p, const char *path)
{
	json_t *value;
	json_t *status = need_status(p, path, &value);

	ck_assert_msg(json_is_string(value), "\"%s\" in the status is no text", path);
	char *out = mem_strdup(json_string_value(value));
	json_decref(status);
	return out;
}

/* Position in states[]; -1 for failed, cancelled and anything else. */
static int
rank_of(const char *state)
{
	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (strcmp(states[i], state) == 0)
			return (int)i;
	return -1;
}

/* The present state in out, empty when the admin port does not answer. */
static void
present_state(Pgbaton *p, char *out, size_t size)
{
	json_t *status = pgbaton_status(p);
	const char *state = json_string_value(json_object_get(status, "state"));

	snprintf(out, size, "%s", state != NULL ? state : "");
	json_decref(status);
}

static bool
is_reached(const char *now, const char *wanted)
{
	int rank = rank_of(now);
	return strcmp(now, wanted) == 0 ||
	       (rank >= 0 && rank_of(wanted) >= 0 && rank >= rank_of(wanted));
}

bool
pgbaton_reached(Pgbaton *p, const char *state)
{
	char now[32];

	present_state(p, now, sizeof(now));
	return is_reached(now, state);
}

void
pgbaton_wait_state(Pgbaton *p, const char *state, int timeout_s)
{
	int64_t deadline = deadline_in_ms((int64_t)timeout_s * 1000);
	char now[32];

	for (;;) {
		bool ended = process_ended(p->process);
		present_state(p, now, sizeof(now));
		if (is_reached(now, state))
			return;
		bool over = strcmp(now, "failed") == 0 || strcmp(now, "cancelled") == 0;
		if (over || ended || deadline_left_ms(deadline) == 0) {
			fprintf(stderr, "--- log of pgbaton\n%s---\n", pgbaton_log(p));
			ck_abort_msg("pgbaton %s \"%s\" instead of \"%s\"; its log is above",
			             over    ? "is"
			             : ended ? "has ended after"
			                     : "was still",
			             now, state);
		}
		poll(NULL, 0, 20);
	}
}

static Process *
cli_start(Pgbaton *p, va_list args)
{
	const char *argv[MAX_ARGS + 1] = {pgbaton_binary()};
	int argc = 1;

	for (const char *arg; (arg = va_arg(args, const char *)) != NULL;) {
		ck_assert_int_lt(argc, MAX_ARGS - 3);
		argv[argc++] = arg;
		if (argc == 2) { /* behind the sub-command */
			argv[argc++] = "--admin";
			argv[argc++] = p->admin;
		}
	}
	return process_start(argv, NULL);
}

Process *
pgbaton_cli_start(Pgbaton *p, ...)
{
	va_list args;

	va_start(args, p);
	Process *process = cli_start(p, args);
	va_end(args);
	return process;
}

int
pgbaton_cli(Pgbaton *p, char **out, int timeout_s, ...)
{
	va_list args;

	va_start(args, timeout_s);
	Process *process = cli_start(p, args);
	va_end(args);
	int status = process_wait(process, timeout_s);
	if (out != NULL) {
		const char *text = process_stdout(process);
		*out = mem_strdup(text[0] != '\0' ? text : process_stderr(process));
	}
	process_free(process);
	return status;
}

int
pgbaton_run(const char *const args[], const char *const env[], int timeout_s, char **out)
{
	const char *argv[MAX_ARGS + 1] = {pgbaton_binary()};

	for (int i = 0; args[i] != NULL; i++) {
		ck_assert_int_lt(i, MAX_ARGS - 1);
		argv[i + 1] = args[i];
	}
	return process_run(argv, env, timeout_s, out);
}
