#include "proxy/cli/post.h"

#include "proxy/cli/cli.h"
#include "proxy/cli/client.h"

int
cli_post(int argc, char **argv, const char *command, const char *done)
{
	Error err = ERROR_INIT;
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);

	if (config == NULL)
		return exit_code;
	Client *client = client_new(config, &err);
	bool ok = client != NULL && client_post(client, command, NULL, NULL, &err);
	if (ok)
		puts(done);
	exit_code = ok ? EXIT_DONE : cli_fail(&err);
	client_free(client);
	config_free(config);
	return exit_code;
}
