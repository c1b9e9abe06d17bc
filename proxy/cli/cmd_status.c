/* pgbaton status: once, or again every second. */
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/stop.h"
#include "proxy/cli/cli.h"
#include "proxy/cli/client.h"
#include "proxy/cli/status_view.h"

/* The document as it came, in one line when there are many. */
static void
print_json(const json_t *status, size_t flags)
{
	json_dumpf(status, stdout, flags | JSON_REAL_PRECISION(15));
	putchar('\n');
	fflush(stdout);
}

/* As many as a screen has, or a program can have wanted. */
static const char *
tables_of(const Config *config)
{
	if (config->tables != NULL)
		return config->tables;
	return config->json ? "100" : "20";
}

static bool
is_terminal(const json_t *status)
{
	MigrationState state;

	return doc_state(status, &state) &&
	       (state == STATE_FINISHED || state == STATE_FAILED || state == STATE_CANCELLED);
}

/* Watching ends with a failure as a failure; a status asked for once was got, whatever it says. */
static int
exit_code_of(const json_t *status)
{
	return strcmp(doc_text(status, "state"), "failed") == 0 ? EXIT_FAILED : EXIT_DONE;
}

/* Nobody answers: the last word of the process, if it left one. */
static int
show_last(const Config *config, Client *client, const Error *err)
{
	json_t *last = client_last_status(client);

	if (last == NULL)
		return cli_fail(err);
	if (config->json) {
		print_json(last, JSON_INDENT(2));
	} else {
		status_view(stdout, last, tables_of(config), NULL, 0);
		puts("\nThe process has ended; this is how it stood then.");
	}
	MigrationState state;
	bool good = doc_state(last, &state) && (state == STATE_FINISHED || state == STATE_CANCELLED);
	json_decref(last);
	if (!good)
		fputs("pgbaton: no process is running; `pgbaton run` with the same arguments goes on\n",
		      stderr);
	return good ? EXIT_DONE : EXIT_FAILED;
}

static int
show_once(const Config *config, Client *client)
{
	Error err = ERROR_INIT;
	json_t *status = client_status_tables(client, tables_of(config), &err);

	if (status == NULL)
		return err.class == ERROR_NETWORK ? show_last(config, client, &err) : cli_fail(&err);
	if (config->json)
		print_json(status, JSON_INDENT(2));
	else
		status_view(stdout, status, tables_of(config), NULL, 0);
	json_decref(status);
	return EXIT_DONE;
}

static void
draw(const Config *config, const json_t *status, const json_t *before, double seconds)
{
	if (config->json) {
		print_json(status, JSON_COMPACT);
	} else if (isatty(STDOUT_FILENO)) {
		fputs("\033[H\033[2J", stdout);
		status_view(stdout, status, tables_of(config), before, seconds);
	} else {
		status_line(stdout, status, before, seconds);
	}
	fflush(stdout);
}

static int
watch(const Config *config, Client *client)
{
	json_t *before = NULL;
	int64_t before_ms = 0;
	int exit_code;

	for (;;) {
		Error err = ERROR_INIT;
		json_t *status = client_status_tables(client, tables_of(config), &err);

		if (status == NULL) {
			exit_code = err.class == ERROR_NETWORK ? show_last(config, client, &err)
			                                       : cli_fail(&err);
			break;
		}
		int64_t now_ms = clock_mono_ms();
		draw(config, status, before, (double)(now_ms - before_ms) / 1000);
		json_decref(before);
		before = status;
		before_ms = now_ms;
		exit_code = exit_code_of(status);
		if (is_terminal(status) || ferror(stdout) || !stop_sleep_ms(NULL, 1000, &err))
			break;
	}
	json_decref(before);
	return exit_code;
}

int
cmd_status(int argc, char **argv)
{
	Error err = ERROR_INIT;
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);

	if (config == NULL)
		return exit_code;
	Client *client = client_new(config, &err);
	if (client == NULL)
		exit_code = cli_fail(&err);
	else
		exit_code = config->watch ? watch(config, client) : show_once(config, client);
	client_free(client);
	config_free(config);
	return exit_code;
}
