#include "proxy/cli/cli.h"

int
cmd_failback(int argc, char **argv)
{
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);

	if (config == NULL)
		return exit_code;
	config_free(config);
	fputs("pgbaton: failback is not available yet\n", stderr);
	return EXIT_USAGE;
}
