#include "proxy/cli/cli.h"
#include "proxy/cli/switching.h"

int
cmd_failback(int argc, char **argv)
{
	return cli_switch(argc, argv, COMMAND_FAILBACK);
}
