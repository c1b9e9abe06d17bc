/* pgbaton: which command was meant. All else is in proxy/cli. */
#include <signal.h>
#include <string.h>

#include "common/memory.h"
#include "proxy/cli/cli.h"

static int
unknown_command(const char *name)
{
	const char *names[32];
	size_t count = 0;

	for (; count < cli_command_count && count < 32; count++)
		names[count] = cli_commands[count].name;
	const char *nearest = config_nearest(name, names, count);

	/* A connection string in the wrong place must not be repeated. */
	if (strpbrk(name, ":=@") != NULL)
		fputs("pgbaton: the command comes first", stderr);
	else
		fprintf(stderr, "pgbaton: unknown command \"%s\"", name);
	if (nearest != NULL)
		fprintf(stderr, "; did you mean \"%s\"?", nearest);
	fputs("\n`pgbaton --help` lists the commands.\n", stderr);
	return EXIT_USAGE;
}

static int
help(int argc, char **argv)
{
	const CliCommand *command;

	if (argc < 3) {
		cli_help(stdout);
		return EXIT_DONE;
	}
	command = cli_command_find(argv[2]);
	if (command == NULL)
		return unknown_command(argv[2]);
	cli_help_command(stdout, command);
	return EXIT_DONE;
}

int
main(int argc, char **argv)
{
	/* A closed pipe or socket is an error where it is written to, everywhere. */
	signal(SIGPIPE, SIG_IGN);
	mem_setup();
	if (argc < 2) {
		cli_help(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		puts("pgbaton " PGBATON_VERSION);
		return EXIT_DONE;
	}
	if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
	    strcmp(argv[1], "-h") == 0)
		return help(argc, argv);

	const CliCommand *command = cli_command_find(argv[1]);
	if (command == NULL)
		return unknown_command(argv[1]);
	return command->run(argc - 1, argv + 1);
}
