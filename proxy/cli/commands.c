/* The table of commands, and the help made from it and from the options. */
#include <string.h>

#include "proxy/cli/cli.h"
#include "proxy/config_internal.h"

#define CLIENT_TEXT                                                                      \
	"The process is found by --admin, PGBATON_ADMIN, the file admin.port in the\n"       \
	"state directory, or at 127.0.0.1:7430, in this order. One that works for another\n" \
	"migration than --name and --state-dir say is not asked.\n"

const CliCommand cli_commands[] = {
	{"check", cmd_check, "say everything that would go wrong, before anything is touched",
     "Looks at both servers, changes nothing, and prints each finding with the\n"
     "statement or setting that mends it.\n"
     "Exit codes: 0 nothing blocks, 1 a server cannot be asked, 2 usage, 3 blockers.\n"},
	{"run", cmd_run, "move the database: the process itself, in the foreground",
     "Checks, creates the schema, copies all rows, follows the source's changes and\n"
     "waits for `pgbaton cutover`. A second run with the same arguments goes on where\n"
     "the first one ended, however it ended. SIGTERM and SIGINT stop it cleanly.\n"
     "Exit codes: 0 done or stopped, 1 failed, 2 usage, 3 the check found blockers.\n"},
	{"status", cmd_status, "show where the migration stands",
     CLIENT_TEXT "Exit codes: 0 shown, 1 no process answers or it failed, 2 usage.\n"},
	{"wait", cmd_wait, "wait until a state is reached",
     "Ends when the migration is in the state or in a later one; at once, with exit\n"
     "code 1, when it failed or was cancelled, or when the time is up.\n" CLIENT_TEXT
     "Exit codes: 0 reached, 1 not reached, 2 usage.\n"},
	{"sessions", cmd_sessions, "who is connected through the listener, and what cannot be moved",
     "Asks idle sessions what they carry (temporary tables, advisory locks, ...); none at work\n"
     "is disturbed. What stands here as a reason now would be --unmovable's business at the\n"
     "cutover.\n" CLIENT_TEXT
     "Exit codes: 0 shown, 1 no process answers or it has no listener, 2 usage.\n"},
	{"cutover", cmd_cutover, "hand over: stop writes, drain, set sequences, switch",
     "Waits for the end. Within the hold timeout it either switches to the target or\n"
     "undoes everything, and the source goes on. Sessions of the listener are held between two\n"
     "transactions and go on at the target; one whose transaction does not end is named, and the\n"
     "hold is tried three times. With --rehearse it does all but the switch, opens the sessions\n"
     "on the target, releases everybody and reports each step's time, and who would be moved,\n"
     "closed or waited for, and why: as often as one likes.\n"
     "Interrupted (Ctrl-C), or by --abort from elsewhere, it is given up: undone at once, unless it\n"
     "has switched already; the outcome is said all the same.\n" CLIENT_TEXT
     "Exit codes: 0 switched (rehearsed, given up by --abort), 1 undone (the error says why), 2 usage.\n"},
	{"verify", cmd_verify, "compare source and target",
     "Holds writers on the source for the moment that it takes to meet at one point, then\n"
     "compares every table beside them, and waits for the outcome. With --table only writers of\n"
     "those tables are held, and only those are compared.\n" CLIENT_TEXT
     "Exit codes: 0 equal, 1 different or refused (the error names the tables), 2 usage.\n"},
	{"failback", cmd_failback, "after the switch: back to the old source",
     "The same cutover the other way, where `run` was given --failback. Within the hold\n"
     "timeout the old source is live again, or the target goes on. Afterwards the target is not\n"
     "followed and not followed by: only `finish` leads on. Interrupted (Ctrl-C), or by --abort\n"
     "from elsewhere, it is given up, unless it has switched already.\n" CLIENT_TEXT
     "Exit codes: 0 failed back, 1 undone (the error says why), 2 usage.\n"},
	{"finish", cmd_finish, "after the switch: remove everything of ours from both servers",
     "Where no process runs any more, --source and --target let it be done from here.\n" CLIENT_TEXT
     "Exit codes: 0 finished, 1 failed, 2 usage.\n"},
	{"cancel", cmd_cancel, "before the switch: give up, remove what is ours from both servers",
     "Where no process runs any more, --source and --target let it be done from here.\n" CLIENT_TEXT
     "Exit codes: 0 cancelled, 1 failed, 2 usage.\n"},
	{"pause", cmd_pause, "stop applying changes; receiving them goes on",
     CLIENT_TEXT "Exit codes: 0 paused, 1 refused, 2 usage.\n"},
	{"resume", cmd_resume, "apply changes again; also tries again after an error",
     CLIENT_TEXT "Exit codes: 0 accepted, 1 refused, 2 usage.\n"},
	{"throttle", cmd_throttle, "change how fast the copy may read the source, while it runs",
     "Holds until the process ends: a later `run` goes by its own options again.\n" CLIENT_TEXT
     "Exit codes: 0 accepted, 1 refused, 2 usage.\n"},
	{"add-table", cmd_add_table, "move more tables, while all else goes on",
     "Usage: pgbaton add-table PATTERN. While it follows: what the pattern names and is not\n"
     "moved yet is created on the target, copied, and joins the others. Holds for the rest of\n"
     "the migration; `run` goes on with the arguments it was begun with.\n" CLIENT_TEXT
     "Exit codes: 0 joined, 1 refused or failed, 2 usage.\n"},
	{"recopy", cmd_recopy, "copy a table afresh, while all else goes on",
     "Usage: pgbaton recopy TABLE. While it follows, or has failed at a table: its rows on the\n"
     "target are replaced by the source's, and it joins the others again. Where the apply\n"
     "fails at one more table meanwhile: that one, too, with the same command.\n" CLIENT_TEXT
     "Exit codes: 0 joined, 1 refused or failed, 2 usage.\n"},
	{"log", cmd_log, "look into the transaction log on disk", NULL},
};

const size_t cli_command_count = sizeof(cli_commands) / sizeof(*cli_commands);

const CliCommand *
cli_command_find(const char *name)
{
	for (size_t i = 0; i < cli_command_count; i++) {
		if (strcmp(cli_commands[i].name, name) == 0)
			return &cli_commands[i];
	}
	return NULL;
}

void
cli_help(FILE *out)
{
	fputs("pgbaton moves a live PostgreSQL database to another server while both keep\n"
	      "running, and hands the application over.\n\n"
	      "Usage: pgbaton COMMAND [OPTION]...\n\n",
	      out);
	for (size_t i = 0; i < cli_command_count; i++)
		fprintf(out, "  %-10s %s\n", cli_commands[i].name, cli_commands[i].summary);
	fputs("\n`pgbaton help COMMAND` or `pgbaton COMMAND --help` shows a command's options.\n"
	      "`pgbaton --version` prints the version.\n",
	      out);
}

static void
help_option(FILE *out, const ConfigOption *option)
{
	char left[48];

	if (option->value == NULL)
		snprintf(left, sizeof(left), "--%s", option->name);
	else
		snprintf(left, sizeof(left), option->value_optional ? "--%s[=%s]" : "--%s %s", option->name,
		         option->value);
	fprintf(out, "  %-27s %s\n", left, option->help);
}

void
cli_help_command(FILE *out, const CliCommand *command)
{
	int bit = config_command_bit(command->name);

	/* pgbaton log has options and help of its own. */
	if (bit == 0) {
		char name[16], help[] = "--help";
		snprintf(name, sizeof(name), "%s", command->name);
		char *argv[] = {name, help, NULL};
		command->run(2, argv);
		return;
	}
	fprintf(out, "pgbaton %s: %s\n\n", command->name, command->summary);
	fprintf(out, "Usage: pgbaton %s [OPTION]...\n\n%s\nOptions:\n", command->name, command->text);
	for (size_t i = 0; i < config_option_count; i++) {
		if (config_options[i].commands & bit)
			help_option(out, &config_options[i]);
	}
	fprintf(out, "  %-27s %s\n", "--help", "this text");
}

Config *
cli_config(int argc, char **argv, int *exit_code)
{
	Error err = ERROR_INIT;
	Config *config = config_from_args(argc, argv, &err);

	if (config != NULL)
		return config;
	if (err.class == ERROR_NONE) {
		cli_help_command(stdout, cli_command_find(argv[0]));
		*exit_code = EXIT_DONE;
		return NULL;
	}
	cli_fail(&err);
	fprintf(stderr, "`pgbaton %s --help` shows the options.\n", argv[0]);
	*exit_code = EXIT_USAGE;
	return NULL;
}

int
cli_fail(const Error *err)
{
	fprintf(stderr, "pgbaton: %s%s%s", err->context, err->context[0] != '\0' ? ": " : "",
	        err->message);
	if (err->sqlstate[0] != '\0')
		fprintf(stderr, " (SQLSTATE %s)", err->sqlstate);
	fputc('\n', stderr);
	if (err->hint[0] != '\0')
		fprintf(stderr, "  %s\n", err->hint);
	return EXIT_FAILED;
}
