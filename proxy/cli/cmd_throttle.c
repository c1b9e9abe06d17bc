/* pgbaton throttle: new limits for the copy of a running process. */
#include "proxy/cli/cli.h"
#include "proxy/cli/client.h"

static json_t *
limits_of(const Config *config)
{
	json_t *body = json_object();

	if (config->copy_rate_given)
		json_object_set_new(body, "copy_rate", json_integer((json_int_t)config->copy_rate));
	if (config->max_source_lag_given) {
		const LagLimit *limit = &config->max_source_lag;
		if (limit->bytes > 0)
			json_object_set_new(body, "max_source_lag_bytes",
			                    json_integer((json_int_t)limit->bytes));
		else
			json_object_set_new(body, "max_source_lag_seconds", json_real((double)limit->ms / 1e3));
	}
	return body;
}

int
cmd_throttle(int argc, char **argv)
{
	Error err = ERROR_INIT;
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);

	if (config == NULL)
		return exit_code;
	if (!config->copy_rate_given && !config->max_source_lag_given) {
		error_set(&err, ERROR_CONFIG, "nothing to change: give --copy-rate or --max-source-lag");
		cli_fail(&err);
		config_free(config);
		return EXIT_USAGE;
	}
	json_t *body = limits_of(config);
	Client *client = client_new(config, &err);
	bool ok = client != NULL && client_post(client, "throttle", body, NULL, &err);
	if (ok)
		puts("the copy goes by the new limits");
	exit_code = ok ? EXIT_DONE : cli_fail(&err);
	json_decref(body);
	client_free(client);
	config_free(config);
	return exit_code;
}
