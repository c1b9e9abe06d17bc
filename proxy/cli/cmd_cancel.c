#include "proxy/cli/cli.h"
#include "proxy/cli/ending.h"

int
cmd_cancel(int argc, char **argv)
{
	return cli_end(argc, argv, false);
}
