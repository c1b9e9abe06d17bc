/* From a connection string to a session that is ready for queries. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "protocol/auth/auth.h"
#include "protocol/wire/internal.h"

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

	if (gss != NULL && strcmp(gss, "require") == 0) {
		error_set(err, ERROR_CONFIG, "gssencmode=require: GSS encryption is not supported");
		return error_set_hint(err, "use sslmode=verify-full");
	}
	if (attrs == NULL || strcmp(attrs, "any") == 0 || strcmp(attrs, "read-write") == 0 ||
	    strcmp(attrs, "primary") == 0)
		return true;
	return error_set(err, ERROR_CONFIG, "target_session_attrs=%s is not supported: any, "
	                                    "read-write or primary", attrs);
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

/* SSLRequest and its one byte. Exactly one: what stands behind it came before
 * the encryption, from who knows whom (CVE-2021-23222). */
static bool
request_tls(Channel *channel, bool *granted, const Stop *stop, int64_t deadline_ms, Error *err)
{
	Buffer message = BUFFER_INIT;
	uint8_t answer = 0;

	message_put_ssl_request(&message);
	bool ok = channel_write_all(channel, buffer_slice(&message), stop, deadline_ms, err) &&
	          channel_read_all(channel, &answer, 1, stop, deadline_ms, err);
	buffer_free(&message);
	if (!ok)
		return false;
	*granted = answer == 'S';
	if (answer == 'S' || answer == 'N')
		return true;
	/* Perhaps 'E' of a server that could not even fork: its unencrypted text
	 * is nobody's, so it is not shown (CVE-2024-10977). */
	return error_set(err, ERROR_NETWORK, "the server did not answer the request for TLS");
}

bool
wire_open_channel(const Wire *wire, Channel *channel, WireTls tls, const Stop *stop,
                  int64_t deadline_ms, Error *err)
{
	bool granted = true;

	if (!channel_open(channel, &wire->address, wire->info, stop, deadline_ms, err))
		return false;
	if (tls == WIRE_TLS_OFF)
		return true;
	bool ok = tls_config_direct(wire->tls) ||
	          request_tls(channel, &granted, stop, deadline_ms, err);
	if (ok && !granted && tls == WIRE_TLS_ON)
		ok = error_set(err, ERROR_AUTH, "the server does not support TLS, but sslmode demands it");
	if (!ok) {
		channel_close(channel);
		return false;
	}
	return !granted || tls_start(channel, wire->tls, wire->host, stop, deadline_ms, err);
}

static bool
send_startup(Wire *wire, const WireOptions *options, int64_t deadline_ms, Error *err)
{
	StartupParam params[8];
	size_t count = 0;
	const ConnInfo *info = wire->info;
	const char *name = value_of(info, "application_name");
	const char *encoding = value_of(info, "client_encoding");
	const char *own = value_of(info, "options");
	char *all = mem_printf("%s%s%s", own != NULL ? own : "", own && options->options ? " " : "",
	                       options->options != NULL ? options->options : "");

	if (name == NULL)
		name = options->application_name != NULL ? options->application_name
		                                         : value_of(info, "fallback_application_name");
	params[count++] = (StartupParam){"user", conninfo_get(info, "user")};
	params[count++] = (StartupParam){"database", conninfo_get(info, "dbname")};
	if (options->replication)
		params[count++] = (StartupParam){"replication", "database"};
	if (name != NULL)
		params[count++] = (StartupParam){"application_name", name};
	if (encoding != NULL) /* auto: libpq takes the locale's; all we read is UTF-8 */
		params[count++] =
			(StartupParam){"client_encoding", strcmp(encoding, "auto") == 0 ? "UTF8" : encoding};
	if (all[0] != '\0')
		params[count++] = (StartupParam){"options", all};

	Buffer message = BUFFER_INIT;
	message_put_startup(&message, params, count);
	bool ok = message.len <= STARTUP_MAX
	              ? wire_send(wire, buffer_slice(&message), deadline_ms, err)
	              : error_set(err, ERROR_CONFIG, "the connection's options are too long");
	buffer_free(&message);
	free(all);
	return ok;
}

static bool
authenticate_step(Wire *wire, Auth *auth, Slice payload, bool *done, int64_t deadline_ms,
                  Error *err)
{
	Buffer reply = BUFFER_INIT;
	AuthStep step = auth_step(auth, payload, &reply, err);

	*done = step == AUTH_DONE;
	bool ok = step != AUTH_FAILED &&
	          (reply.len == 0 || wire_send(wire, buffer_slice(&reply), deadline_ms, err));
	mem_wipe(reply.data, reply.len);
	buffer_free(&reply);
	return ok;
}

/* An ErrorResponse during startup. Class 28 is about who we are; others
 * (53300 too many, 57P03 starting up, 3D000 no such database) are not. */
static bool
startup_refused(Wire *wire, Slice payload, Error *err)
{
	wire_take_error(wire, payload, err);
	wire->state = WIRE_DEAD;
	if (err != NULL && err->class == ERROR_SQL && strncmp(err->sqlstate, "28", 2) == 0)
		err->class = ERROR_AUTH;
	return false;
}

static bool
negotiated(Slice payload, Error *err)
{
	uint32_t version, refused;

	if (!message_parse_negotiate(payload, &version, &refused, err))
		return false;
	/* We ask for 3.0 without extensions: nothing is there to negotiate. */
	return error_set(err, ERROR_PROTOCOL, "the server offers protocol %u.%u instead of 3.0",
	                 version >> 16, version & 0xFFFF);
}

static bool
take_key(Wire *wire, Slice payload, Error *err)
{
	Slice key;

	if (!message_parse_key(payload, &wire->pid, &key, err))
		return false;
	CHECK(key.len <= sizeof(wire->key));
	memcpy(wire->key, key.data, key.len);
	wire->key_len = key.len;
	return true;
}

/* From the startup message to ReadyForQuery. */
static bool
run_startup(Wire *wire, Auth *auth, int64_t deadline_ms, Error *err)
{
	bool authenticated = false;
	Frame frame;
	bool ok;

	for (;;) {
		char status;
		if (!wire_next(wire, deadline_ms, &frame, err))
			return false;
		if (frame.type == 'E')
			return startup_refused(wire, frame.payload, err);
		if (frame.type == 'v' && !authenticated)
			return negotiated(frame.payload, err);
		if (frame.type == 'R' && !authenticated) {
			ok = authenticate_step(wire, auth, frame.payload, &authenticated, deadline_ms, err);
			if (authenticated)
				wire->in.limits = FRAME_LIMITS_SESSION;
		} else if (frame.type == 'K' && authenticated) {
			ok = take_key(wire, frame.payload, err);
		} else if (frame.type == 'Z' && authenticated) {
			wire->state = WIRE_IDLE;
			return message_parse_ready(frame.payload, &status, err);
		} else {
			ok = error_set(err, ERROR_PROTOCOL, "unexpected message '%c' during startup",
			               frame.type);
		}
		if (!ok)
			return false;
	}
}

/* One try at wire->address. False: the channel is closed. */
static bool
establish(Wire *wire, const WireOptions *options, const ConnHost *host, WireTls tls,
          int64_t deadline_ms, Error *err)
{
	wire->state = WIRE_STARTING;
	frame_reader_free(&wire->in);
	frame_reader_init(&wire->in, FRAME_LIMITS_STARTUP);
	if (!wire_open_channel(wire, &wire->channel, tls, wire->stop, deadline_ms, err))
		return false;

	Auth *auth = auth_new(&(AuthOptions){.user = conninfo_get(wire->info, "user"),
	                                     .password = host->password,
	                                     .channel_binding = conninfo_get(wire->info,
	                                                                     "channel_binding"),
	                                     .require_auth = conninfo_get(wire->info, "require_auth"),
	                                     .tls = tls_is(&wire->channel),
	                                     .binding_data = tls_binding_data(&wire->channel)},
	                      err);
	bool ok = auth != NULL && send_startup(wire, options, deadline_ms, err) &&
	          run_startup(wire, auth, deadline_ms, err);
	auth_free(auth);
	if (!ok)
		channel_close(&wire->channel);
	return ok;
}

/* prefer and allow: what justifies the second try, with or without TLS. libpq
 * takes any error of the server; here only pg_hba.conf's, for a wrong password
 * or a full server is no different the other way round. */
static bool
other_way(TlsMode mode, const Error *why)
{
	return (mode == TLS_PREFER || mode == TLS_ALLOW) && error_has_sqlstate(why, "28000");
}

static bool
establish_by_mode(Wire *wire, const WireOptions *options, const ConnHost *host,
                  int64_t deadline_ms, Error *err)
{
	TlsMode mode = tls_config_mode(wire->tls);
	bool local = wire->address.address.ss_family == AF_UNIX; /* never TLS there */
	WireTls first = local || mode <= TLS_ALLOW ? WIRE_TLS_OFF
	                : mode == TLS_PREFER       ? WIRE_TLS_TRY
	                                           : WIRE_TLS_ON;
	Error again = ERROR_INIT;

	if (establish(wire, options, host, first, deadline_ms, err))
		return true;
	bool handshake = mode == TLS_PREFER && wire->state == WIRE_STARTING &&
	                 (strncmp(err->message, "TLS", 3) == 0 || err->class == ERROR_AUTH);
	if (local || (!other_way(mode, err) && !handshake))
		return false;
	WireTls second = mode == TLS_PREFER ? WIRE_TLS_OFF : WIRE_TLS_ON;
	if (establish(wire, options, host, second, deadline_ms, &again))
		return true;
	/* The reason of the encrypted try is the one to mend. */
	if (mode == TLS_ALLOW && again.sqlstate[0] != '\0')
		*err = again;
	return false;
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
	if (!wire_query(wire, primary ? "SELECT pg_catalog.pg_is_in_recovery()"
	                              : "SHOW transaction_read_only",
	                deadline_ms, &result, err))
		return false;
	const char *value = wire_result_rows(result) == 1 ? wire_result_get(result, 0, 0) : NULL;
	bool ok = value != NULL && strcmp(value, bad) != 0;
	wire_result_free(result);
	if (ok)
		return true;
	/* Another host, or the same a moment later, may be it: so not a mistake. */
	return error_set(err, ERROR_NETWORK, primary ? "the server is a standby"
	                                             : "the session is read-only");
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
	if (establish_by_mode(wire, options, host, deadline_ms, err)) {
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
			snprintf(where, sizeof(where), "%s:%s (%s)", host->host, host->port,
			         addresses[i].name);
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
