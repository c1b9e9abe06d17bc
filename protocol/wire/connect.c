/* One address: TLS, startup, authentication, until ReadyForQuery. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/auth/auth.h"
#include "protocol/wire/internal.h"

static const char *
value_of(const ConnInfo *info, const char *keyword)
{
	const char *value = conninfo_get(info, keyword);
	return value != NULL && value[0] != '\0' ? value : NULL;
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
		params[count++] = (StartupParam){"client_encoding",
		                                 strcmp(encoding, "auto") == 0 ? "UTF8" : encoding};
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

/* One try at wire->address. False: the channel is closed. *opened: it was not
 * the channel that failed, but what was said on it. */
static bool
establish(Wire *wire, const WireOptions *options, const ConnHost *host, WireTls tls,
          int64_t deadline_ms, bool *opened, Error *err)
{
	wire->state = WIRE_STARTING;
	*opened = false;
	frame_reader_free(&wire->in);
	frame_reader_init(&wire->in, FRAME_LIMITS_STARTUP);
	if (!wire_open_channel(wire, &wire->channel, tls, wire->stop, deadline_ms, err))
		return false;
	*opened = true;

	Auth *auth = auth_new(
		&(AuthOptions){.user = conninfo_get(wire->info, "user"),
	                   .password = host->password,
	                   .channel_binding = conninfo_get(wire->info, "channel_binding"),
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

bool
wire_establish(Wire *wire, const WireOptions *options, const ConnHost *host, int64_t deadline_ms,
               Error *err)
{
	TlsMode mode = tls_config_mode(wire->tls);
	bool local = wire->address.address.ss_family == AF_UNIX; /* never TLS there */
	WireTls first = local || mode <= TLS_ALLOW ? WIRE_TLS_OFF
	                : mode == TLS_PREFER       ? WIRE_TLS_TRY
	                                           : WIRE_TLS_ON;
	Error again = ERROR_INIT;
	bool opened;

	if (establish(wire, options, host, first, deadline_ms, &opened, err))
		return true;
	bool handshake = mode == TLS_PREFER && !opened &&
	                 (strncmp(err->message, "TLS", 3) == 0 || err->class == ERROR_AUTH);
	if (local || (!other_way(mode, err) && !handshake))
		return false;
	WireTls second = mode == TLS_PREFER ? WIRE_TLS_OFF : WIRE_TLS_ON;
	if (establish(wire, options, host, second, deadline_ms, &opened, &again))
		return true;
	/* The reason of the encrypted try is the one to mend. */
	if (mode == TLS_ALLOW && again.sqlstate[0] != '\0')
		*err = again;
	return false;
}
