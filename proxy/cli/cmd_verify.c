#include "proxy/cli/cli.h"
#include "proxy/cli/post.h"

int
cmd_verify(int argc, char **argv)
{
	return cli_post(argc, argv, "verify",
	                "accepted: the outcome will stand in `pgbaton status`");
}
