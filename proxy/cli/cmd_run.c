/*
 * pgbaton run. The main thread only waits, in a libev loop, for signals and for
 * the migration's end, which a small thread of its own reports.
 *
 * Not libev's default loop: that one collects every ended child process, also
 * the pg_dump that the migration waits for.
 */
#include <ev.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "proxy/admin/admin.h"
#include "proxy/cli/cli.h"
#include "proxy/cli/statedir.h"
#include "proxy/migration/migration.h"

typedef struct {
	const Config *config;
	Migration *migration;
	Admin *admin;
	struct ev_loop *loop;
	ev_signal on_int;
	ev_signal on_term;
	ev_async on_end;
	pthread_t waiter;
	int interrupts;
	int exit_code; /* written by the waiter before on_end */
} Run;

static void
on_int(struct ev_loop *loop UNUSED, ev_signal *watcher, int events UNUSED)
{
	Run *run = watcher->data;

	/* The second one is of somebody who does not want to wait; a start goes on from
	 * here as after any crash. */
	if (++run->interrupts > 1)
		_exit(EXIT_INTERRUPTED);
	log_info("run", "SIGINT: stopping cleanly; once more to stop at once");
	migration_stop(run->migration);
}

static void
on_term(struct ev_loop *loop UNUSED, ev_signal *watcher, int events UNUSED)
{
	Run *run = watcher->data;

	log_info("run", "SIGTERM: stopping cleanly");
	migration_stop(run->migration);
}

static void
on_end(struct ev_loop *loop, ev_async *watcher UNUSED, int events UNUSED)
{
	ev_break(loop, EVBREAK_ALL);
}

static void *
wait_for_end(void *arg)
{
	Run *run = arg;

	run->exit_code = migration_wait(run->migration);
	ev_async_send(run->loop, &run->on_end);
	return NULL;
}

static void
watch_signals(Run *run)
{
	ev_signal_init(&run->on_int, on_int, SIGINT);
	ev_signal_init(&run->on_term, on_term, SIGTERM);
	ev_async_init(&run->on_end, on_end);
	run->on_int.data = run->on_term.data = run;
	ev_signal_start(run->loop, &run->on_int);
	ev_signal_start(run->loop, &run->on_term);
	ev_async_start(run->loop, &run->on_end);
}

static bool
start(Run *run, Error *err)
{
	run->loop = ev_loop_new(EVFLAG_AUTO);
	if (run->loop == NULL)
		return error_set(err, ERROR_BUG, "libev has no loop for us");
	/* From the first moment of the migration a signal stops it cleanly. */
	watch_signals(run);
	run->migration = migration_start(run->config, err);
	if (run->migration == NULL)
		return false;
	run->admin = admin_start(run->config, run->migration, err);
	if (run->admin == NULL) {
		migration_stop(run->migration);
		(void)migration_wait(run->migration);
		return false;
	}
	int failed = pthread_create(&run->waiter, NULL, wait_for_end, run);
	if (failed != 0) {
		migration_stop(run->migration);
		(void)migration_wait(run->migration);
		return error_set_errno(err, ERROR_BUG, failed, "cannot start a thread");
	}
	return true;
}

/* What the other commands find once nobody answers any more. */
static void
leave_last_status(const Run *run)
{
	MigrationStatus *status = mem_zalloc(sizeof(*status));
	Error err = ERROR_INIT;

	migration_status(run->migration, status);
	json_t *json = status_json(status);
	if (!statedir_write_last(run->config->state_dir, json, &err))
		log_failure(LOG_WARNING, "run", &err);
	json_decref(json);
	free(status);
}

static int
run_to_the_end(Run *run)
{
	Error err = ERROR_INIT;
	int exit_code = EXIT_FAILED;

	if (start(run, &err)) {
		ev_run(run->loop, 0);
		pthread_join(run->waiter, NULL);
		exit_code = run->exit_code;
		/* Written before the port closes: whoever is refused finds it. */
		leave_last_status(run);
	} else {
		log_failure(LOG_ERROR, "run", &err);
	}
	admin_stop(run->admin);
	statedir_remove_port(run->config->state_dir);
	if (run->migration != NULL)
		migration_free(run->migration);
	if (run->loop != NULL)
		ev_loop_destroy(run->loop);
	return exit_code;
}

/* Where a migration was finished, a start by a supervisor or by habit must not begin another one:
 * its target is the database in use. (Where it was cancelled, starting anew is what is wanted.) */
static bool
refuse_finished(const Config *config, Error *err)
{
	json_t *last = statedir_read_last(config->state_dir);
	const char *state = json_string_value(json_object_get(last, "state"));
	const char *since = json_string_value(json_object_get(last, "since"));
	bool finished = state != NULL && strcmp(state, "finished") == 0;

	if (finished) {
		error_set(err, ERROR_CONFIG,
		          "migration %s is finished, since %s; run would begin a new one", config->name,
		          since != NULL ? since : "an unknown time");
		error_set_hint(err,
		               "if that is wanted: remove its state directory %s, or give the new one a "
		               "--state-dir or --name of its own",
		               config->state_dir);
	}
	json_decref(last);
	return !finished;
}

int
cmd_run(int argc, char **argv)
{
	Error err = ERROR_INIT;
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);

	if (config == NULL)
		return exit_code;
	umask(077); /* state and log hold the application's rows */
	log_set_level(config->log_level);
	log_set_json(config->log_json);

	bool refused = !refuse_finished(config, &err);
	int lock = refused ? -1 : statedir_open(config->state_dir, &err);
	if (lock < 0) {
		log_failure(LOG_ERROR, "run", &err);
		exit_code = refused ? EXIT_CHECK : EXIT_FAILED;
	} else {
		Run run = {.config = config};
		exit_code = run_to_the_end(&run);
		close(lock);
	}
	config_free(config);
	return exit_code;
}
