/* From a connection string to a session: its hosts, their addresses, in order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "protocol/wire/internal.h"

/* As libpq: a second less could be none at all. */
enum { CONNECT_TIMEOUT_MIN_S = 2 };

/* What a failed attempt means for the other hosts. */
typedef enum { ATTEMPT_OK, ATTEMPT_NEXT, ATTEMPT_STOP } Attempt;

static const char *
value_of(const ConnInfo *info, const char *keyword)
{
	const char *value = conninfo_get(info, keyword);
	return value != NULL && value[0] != '\0' ? value : NULL;
}

static bool
check_info(const ConnInfo *info, Error *err)
{
	const char *gss = value_of(info, "gssencmode");
	const char *attrs = value_of(info, "target_session_attrs");

	if (value_of(info, "user") == NULL)
		return error_set(err, ERROR_CONFIG, "no user is given, and ours has no name");
	if (gss != NULL && strcmp(gss, "require") == 0) {
		error_set(err, ERROR_CONFIG, "gssencmode=require: GSS encryption is not supported");
		return error_set_hint(err, "use sslmode=verify-full");
	}
	if (attrs == NULL || strcmp(attrs, "any") == 0 || strcmp(attrs, "read-write") == 0 ||
	    strcmp(attrs, "primary") == 0)
		return true;
	return error_set(err, ERROR_CONFIG,
	                 "target_session_attrs=%s is not supported: any, "
	                 "read-write or primary",
	                 attrs);
}

/* 0: no limit. */
static bool
connect_deadline(const ConnInfo *info, int64_t *deadline_ms, Error *err)
{
	const char *text = value_of(info, "connect_timeout");
	char *end;

	*deadline_ms = 0;
	if (text == NULL)
		return true;
	long seconds = strtol(text, &end, 10);
	if (*end != '\0' || seconds > INT32_MAX / 1000)
		return error_set(err, ERROR_CONFIG, "connect_timeout must be a number of seconds");
	if (seconds <= 0)
		return true;
	if (seconds < CONNECT_TIMEOUT_MIN_S)
		seconds = CONNECT_TIMEOUT_MIN_S;
	*deadline_ms = deadline_in_ms(seconds * 1000);
	return true;
}

static bool
check_session(Wire *wire, int64_t deadline_ms, Error *err)
{
	const char *attrs = value_of(wire->info, "target_session_attrs");
	WireResult *result = NULL;

	if (attrs == NULL || strcmp(attrs, "any") == 0)
		return true;
	bool primary = strcmp(attrs, "primary") == 0;
	const char *bad = primary ? "t" : "on";
	if (!wire_query(
			wire, primary ? "SELECT pg_catalog.pg_is_in_recovery()" : "SHOW transaction_read_only",
			deadline_ms, &result, err))
		return false;
	const char *value = wire_result_rows(result) == 1 ? wire_result_get(result, 0, 0) : NULL;
	bool ok = value != NULL && strcmp(value, bad) != 0;
	wire_result_free(result);
	if (ok)
		return true;
	/* Another host, or the same a moment later, may be it: so not a mistake. */
	return error_set(err, ERROR_NETWORK,
	                 primary ? "the server is a standby" : "the session is read-only");
}

static Attempt
judge(const Error *err)
{
	if (err->class == ERROR_NETWORK || error_has_sqlstate(err, "57P03"))
		return ATTEMPT_NEXT;
	return ATTEMPT_STOP;
}

static Attempt
try_address(Wire *wire, const WireOptions *options, const ConnHost *host, Error *err)
{
	int64_t deadline_ms;

	if (!connect_deadline(wire->info, &deadline_ms, err))
		return ATTEMPT_STOP;
	if (wire_establish(wire, options, host, deadline_ms, err)) {
		if (check_session(wire, deadline_ms, err))
			return ATTEMPT_OK;
		channel_close(&wire->channel);
	}
	if (err->class == ERROR_TIMEOUT)
		error_set(err, ERROR_NETWORK, "no connection within connect_timeout");
	return judge(err);
}

/* Keeps every host's reason; the class of the last one that was not the
 * network's, for "starting up" says more than "refused". */
static void
add_failure(Error *all, const Error *one, const char *where)
{
	Error joined = *one;

	if (all->class == ERROR_NONE) {
		error_add_context(&joined, "%s", where);
		*all = joined;
		return;
	}
	const Error *main = one->class == ERROR_NETWORK ? all : one;
	error_set(&joined, main->class, "%s%s%s; %s: %s", all->context, all->context[0] ? ": " : "",
	          all->message, where, one->message);
	error_set_sqlstate(&joined, main->sqlstate);
	error_set_hint(&joined, "%s", main->hint);
	*all = joined;
}

static Attempt
try_host(Wire *wire, const WireOptions *options, const ConnHost *host, Error *all)
{
	ChannelAddress *addresses = NULL;
	size_t count = 0;
	Error one = ERROR_INIT;
	char where[400];
	Attempt attempt = ATTEMPT_NEXT;

	free(wire->host);
	free(wire->display);
	wire->host = mem_strdup(host->host);
	wire->display = mem_printf("%s:%s/%s", host->host, host->port,
	                           conninfo_get(wire->info, "dbname"));
	if (!channel_resolve(host, &addresses, &count, &one)) {
		snprintf(where, sizeof(where), "%s:%s", host->host, host->port);
		add_failure(all, &one, where);
		return judge(&one);
	}
	for (size_t i = 0; i < count && attempt == ATTEMPT_NEXT; i++) {
		error_clear(&one);
		wire->address = addresses[i];
		attempt = try_address(wire, options, host, &one);
		if (attempt == ATTEMPT_OK)
			break;
		bool named = strcmp(addresses[i].name, host->host) == 0 || host->host[0] == '/';
		if (named)
			snprintf(where, sizeof(where), "%s:%s", host->host, host->port);
		else
			snprintf(where, sizeof(where), "%s:%s (%s)", host->host, host->port, addresses[i].name);
		add_failure(all, &one, where);
	}
	free(addresses);
	return attempt;
}

Wire *
wire_connect(const WireOptions *options, Error *err)
{
	Wire *wire = mem_zalloc(sizeof(Wire));
	Error all = ERROR_INIT;
	Attempt attempt = ATTEMPT_STOP;

	wire->channel.fd = -1;
	wire->stop = options->stop;
	wire->info = conninfo_copy(options->info);
	frame_reader_init(&wire->in, FRAME_LIMITS_STARTUP);
	if (check_info(wire->info, &all))
		wire->tls = tls_config_new(wire->info, &all);
	if (wire->tls != NULL) {
		attempt = ATTEMPT_NEXT;
		for (size_t i = 0; i < conninfo_host_count(wire->info) && attempt == ATTEMPT_NEXT; i++) {
			ConnHost host = conninfo_host(wire->info, i);
			attempt = try_host(wire, options, &host, &all);
		}
	}
	if (attempt == ATTEMPT_OK)
		return wire;
	if (err != NULL)
		*err = all;
	wire_close(wire);
	return NULL;
}
