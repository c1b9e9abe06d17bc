#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply/schema/archive.h"
#include "apply/schema/child.h"
#include "apply/schema/chosen.h"
#include "common/memory.h"
#include "protocol/replication.h"

/*
 * How the child gets its connection: every libpq parameter by the environment variable
 * that libpq itself names for it (so no secret is in argv), the few without a variable
 * in --dbname, and secrets without one (sslpassword) in a service file of mode 0600
 * that is removed afterwards.
 */
typedef struct {
	Buffer strings; /* "NAME=value\0..." */
	size_t *offsets;
	size_t count;
	size_t capacity;
	const char **envp; /* made at the end: strings may move until then */
	Buffer dbname;     /* "keepalives='0' ..." */
	Buffer service;    /* "sslpassword=...\n" */
	char service_path[1100];
} ChildEnv;

#define SERVICE_NAME "pgbaton"

static void
env_add(ChildEnv *env, const char *name, const char *value)
{
	if (env->count == env->capacity) {
		env->capacity = env->capacity * 2 + 32;
		env->offsets = mem_realloc(env->offsets, env->capacity * sizeof(size_t));
	}
	env->offsets[env->count++] = env->strings.len;
	buffer_printf(&env->strings, "%s=%s", name, value);
	buffer_put_u8(&env->strings, '\0');
}

/* Ours goes along but for what would choose a connection or holds one's password. */
static void
env_inherit(ChildEnv *env)
{
	for (char **at = environ; *at != NULL; at++) {
		const char *equals = strchr(*at, '=');
		if (equals == NULL || strncmp(*at, "PG", 2) == 0)
			continue;
		char *name = mem_strndup(*at, (size_t)(equals - *at));
		env_add(env, name, equals + 1);
		free(name);
	}
}

static void
put_conninfo_value(Buffer *out, const char *keyword, const char *value)
{
	buffer_printf(out, "%s%s='", out->len > 0 ? " " : "", keyword);
	for (; *value != '\0'; value++) {
		if (*value == '\'' || *value == '\\')
			buffer_put_u8(out, '\\');
		buffer_put_u8(out, (uint8_t)*value);
	}
	buffer_put_u8(out, '\'');
}

/* Decided already by conninfo_parse, or set by us. */
static bool
left_out(const char *keyword)
{
	static const char *const keywords[] = {"service",          "servicefile",
	                                       "replication",      "fallback_application_name",
	                                       "application_name", "client_encoding"};

	for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++) {
		if (strcmp(keyword, keywords[i]) == 0)
			return true;
	}
	return false;
}

static bool
env_option(ChildEnv *env, const PQconninfoOption *option, const char *value, Error *err)
{
	if (option->envvar != NULL) {
		env_add(env, option->envvar, value);
		return true;
	}
	if (strchr(option->dispchar, '*') == NULL) {
		put_conninfo_value(&env->dbname, option->keyword, value);
		return true;
	}
	/* A service file has no quoting. */
	if (strpbrk(value, "\r\n") != NULL)
		return error_set(err, ERROR_CONFIG, "%s has a line break, which pg_dump cannot be given",
		                 option->keyword);
	buffer_printf(&env->service, "%s=%s\n", option->keyword, value);
	return true;
}

static bool
env_connection(ChildEnv *env, const ConnInfo *info, Error *err)
{
	PQconninfoOption *options = PQconndefaults();
	bool ok = true;

	CHECK(options != NULL);
	for (PQconninfoOption *option = options; ok && option->keyword != NULL; option++) {
		const char *value = left_out(option->keyword) ? NULL : conninfo_get(info, option->keyword);
		if (value != NULL && value[0] != '\0')
			ok = env_option(env, option, value, err);
	}
	PQconninfoFree(options);
	env_add(env, "PGAPPNAME", "pgbaton pg_dump");
	return ok;
}

bool
write_private(const char *path, const Buffer *text, Error *err)
{
	(void)unlink(path); /* of a crash; open tells if it is still there */
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "cannot create %s", path);
	ssize_t n = write(fd, text->data, text->len);
	int saved = errno;
	bool closed = close(fd) == 0;
	if (n == (ssize_t)text->len && closed)
		return true;
	return error_set_errno(err, ERROR_STORAGE, n < 0 ? saved : ENOSPC, "cannot write %s", path);
}

static bool
env_service(ChildEnv *env, const char *state_dir, Error *err)
{
	Buffer file = BUFFER_INIT;

	if (env->service.len == 0)
		return true;
	snprintf(env->service_path, sizeof(env->service_path), "%s/pg_dump.service", state_dir);
	buffer_printf(&file, "[%s]\n%.*s", SERVICE_NAME, (int)env->service.len,
	              (const char *)env->service.data);
	bool ok = write_private(env->service_path, &file, err);
	mem_wipe(file.data, file.len);
	buffer_free(&file);
	env_add(env, "PGSERVICEFILE", env->service_path);
	env_add(env, "PGSERVICE", SERVICE_NAME);
	return ok;
}

static bool
env_make(ChildEnv *env, const ConnInfo *info, const char *state_dir, Error *err)
{
	env_inherit(env);
	if (!env_connection(env, info, err) || !env_service(env, state_dir, err))
		return false;
	env->envp = mem_zalloc((env->count + 1) * sizeof(char *));
	for (size_t i = 0; i < env->count; i++)
		env->envp[i] = (const char *)env->strings.data + env->offsets[i];
	return true;
}

static void
env_free(ChildEnv *env)
{
	if (env->service_path[0] != '\0')
		unlink(env->service_path);
	mem_wipe(env->strings.data, env->strings.len);
	mem_wipe(env->service.data, env->service.len);
	buffer_free(&env->strings);
	buffer_free(&env->dbname);
	buffer_free(&env->service);
	free(env->offsets);
	free(env->envp);
}

/* ---- arguments ---- */

static const char **
make_args(Arena *arena, const SchemaWork *work, const Archive *archive, const char *file,
          const char *dbname)
{
	Arguments args = {.arena = arena};
	Buffer schema = BUFFER_INIT;

	sql_put_identifier(&schema, work->ledger->name);
	args_add(&args, archive->tools.pg_dump);
	args_add(&args, "--format=custom");
	args_add(&args, "--schema-only");
	args_add(&args, "--no-publications");
	args_add(&args, "--no-subscriptions");
	args_add(&args, "--no-password");
	args_add(&args, "--encoding=UTF8");
	args_add(&args, arena_printf(arena, "--exclude-schema=%s", buffer_cstr(&schema)));
	args_add(&args, arena_printf(arena, "--file=%s", file));
	if (dbname[0] != '\0')
		args_add(&args, arena_printf(arena, "--dbname=%s", dbname));
	chosen_arguments(work, &args);
	args_add(&args, NULL);
	buffer_free(&schema);
	return args.argv;
}

/* pg_dump opens the file anew; made here first, so that it is never readable by others. */
static bool
run_pg_dump(const SchemaWork *work, const Archive *archive, ChildEnv *env, const char *file,
            Error *err)
{
	Buffer empty = BUFFER_INIT;

	if (!write_private(file, &empty, err))
		return false;
	Arena *arena = arena_new(0);
	const char *const *argv = make_args(arena, work, archive, file, buffer_cstr(&env->dbname));
	ChildRun run = {.argv = argv, .envp = env->envp, .stop = work->stop};
	bool ok = child_run(&run, NULL, err);
	arena_free(arena);
	return ok;
}

bool
dump_write(const SchemaWork *work, const Archive *archive, Error *err)
{
	char file[1100];
	ChildEnv env = {.strings = BUFFER_INIT, .dbname = BUFFER_INIT, .service = BUFFER_INIT};

	snprintf(file, sizeof(file), "%s.tmp", archive->path);
	bool ok = env_make(&env, work->source, work->state_dir, err) &&
	          run_pg_dump(work, archive, &env, file, err);
	env_free(&env);
	if (ok && rename(file, archive->path) != 0)
		ok = error_set_errno(err, ERROR_STORAGE, errno, "cannot rename %s", file);
	if (!ok)
		unlink(file);
	return ok || error_add_context(err, "dumping the schema of the source");
}
