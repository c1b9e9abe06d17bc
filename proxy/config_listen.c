/* The options of the listener. */
#include <string.h>
#include <unistd.h>

#include "proxy/config_internal.h"
#include "proxy/listener/trust.h"

enum { THREADS_MOST = 64, CLIENTS_MOST = 100000, CLIENTS_DEFAULT = 5000 };

/* As PostgreSQL's authentication_timeout. */
enum { LOGIN_TIMEOUT_MS = 60000 };

const char *const config_unmovable_names[] = {
	[UNMOVABLE_WAIT] = "wait", [UNMOVABLE_CLOSE] = "close", [UNMOVABLE_ABORT] = "abort", NULL};

bool
config_set_listen(ConfigDraft *draft, const char *value, Error *err)
{
	ListenerOptions *listen = &draft->config->listen;
	Arena *arena = draft->config->arena;
	ListenAddress *longer = arena_new_array(arena, ListenAddress, listen->address_count + 1);
	ListenAddress *added = &longer[listen->address_count];

	for (size_t i = 0; i < listen->address_count; i++)
		longer[i] = listen->addresses[i];
	*added = (ListenAddress){.host = NULL};
	if (value[0] == '/')
		added->path = arena_strdup(arena, value);
	else if (!value_address(arena, "--listen", value, &added->host, &added->port, err))
		return false;
	listen->addresses = longer;
	listen->address_count++;
	return true;
}

bool
config_set_listen_tls(ConfigDraft *draft, const char *value, Error *err)
{
	static const char *const choices[] = {"off", "allow", "require", NULL};
	int chosen;

	if (!value_choice("--listen-tls", value, choices, &chosen, err))
		return false;
	draft->config->listen.tls = (ListenTls)chosen;
	draft->listen_tls_given = true;
	return true;
}

static bool
set_file(ConfigDraft *draft, const char *name, const char *value, const char **out, Error *err)
{
	if (value[0] == '\0')
		return error_set(err, ERROR_CONFIG, "%s: the value is empty", name);
	*out = arena_strdup(draft->config->arena, value);
	return true;
}

bool
config_set_listen_cert(ConfigDraft *draft, const char *value, Error *err)
{
	return set_file(draft, "--listen-tls-cert", value, &draft->config->listen.tls_cert, err);
}

bool
config_set_listen_key(ConfigDraft *draft, const char *value, Error *err)
{
	return set_file(draft, "--listen-tls-key", value, &draft->config->listen.tls_key, err);
}

bool
config_set_listen_ca(ConfigDraft *draft, const char *value, Error *err)
{
	return set_file(draft, "--listen-tls-ca", value, &draft->config->listen.tls_ca, err);
}

bool
config_set_auth_file(ConfigDraft *draft, const char *value, Error *err)
{
	return set_file(draft, "--auth-file", value, &draft->config->listen.auth_file, err);
}

bool
config_add_trust(ConfigDraft *draft, const char *value, Error *err)
{
	const char *blocks[] = {value};
	ListenerOptions *listen = &draft->config->listen;
	Arena *arena = draft->config->arena;
	const char **longer = arena_new_array(arena, const char *, listen->trust_count + 1);
	Trust *trust = trust_new(blocks, 1, err); /* only to see whether it is one */

	if (trust == NULL)
		return false;
	trust_free(trust);
	for (size_t i = 0; i < listen->trust_count; i++)
		longer[i] = listen->trust[i];
	longer[listen->trust_count++] = arena_strdup(arena, value);
	listen->trust = longer;
	return true;
}

bool
config_set_max_clients(ConfigDraft *draft, const char *value, Error *err)
{
	return value_small("--listen-max-clients", value, CLIENTS_MOST,
	                   &draft->config->listen.max_clients, err);
}

bool
config_set_listen_threads(ConfigDraft *draft, const char *value, Error *err)
{
	return value_small("--listen-threads", value, THREADS_MOST, &draft->config->listen.threads,
	                   err);
}

void
config_listen_default(Config *config)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	config->listen.max_clients = CLIENTS_DEFAULT;
	config->listen.login_timeout_ms = LOGIN_TIMEOUT_MS;
	config->listen.threads = processors > 2 ? (int)(processors / 2) : 1;
	if (config->listen.threads > THREADS_MOST)
		config->listen.threads = THREADS_MOST;
}

void
config_listen_replace(Config *config, const char *option)
{
	if (strcmp(option, "listen") == 0)
		config->listen.address_count = 0;
	if (strcmp(option, "listen-trust") == 0)
		config->listen.trust_count = 0;
}

bool
config_listen_check(ConfigDraft *draft, Error *err)
{
	ListenerOptions *listen = &draft->config->listen;
	bool cert = listen->tls_cert != NULL;

	listen->source = draft->config->source;
	listen->target = draft->config->target;
	if (cert != (listen->tls_key != NULL))
		return error_set(err, ERROR_CONFIG, "--listen-tls-cert and --listen-tls-key go together");
	if (!draft->listen_tls_given)
		listen->tls = !cert                    ? LISTEN_TLS_OFF
		              : listen->tls_ca != NULL ? LISTEN_TLS_REQUIRE
		                                       : LISTEN_TLS_ALLOW;
	if (listen->tls != LISTEN_TLS_OFF && !cert)
		return error_set(err, ERROR_CONFIG,
		                 "--listen-tls needs --listen-tls-cert and --listen-tls-key");
	if (listen->tls_ca != NULL && listen->tls != LISTEN_TLS_REQUIRE)
		return error_set(err, ERROR_CONFIG,
		                 "--listen-tls-ca demands certificates, but without --listen-tls require "
		                 "clients could come without TLS");
	return true;
}
