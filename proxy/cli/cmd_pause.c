#include "proxy/cli/cli.h"
#include "proxy/cli/post.h"

int
cmd_pause(int argc, char **argv)
{
	return cli_post(argc, argv, "pause", "paused: changes are received and not applied");
}
