#include "proxy/cli/cli.h"
#include "proxy/cli/post.h"

int
cmd_resume(int argc, char **argv)
{
	return cli_post(argc, argv, "resume", "resumed");
}
