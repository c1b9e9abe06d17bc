/*
 * The HTTP server: libmicrohttpd with a polling thread of its own. A request is
 * judged when its headers are in (who, what, how much), before any byte of a
 * body is taken, and answered when the body is complete.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <microhttpd.h>
#include <netdb.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/log.h"
#include "proxy/admin/admin_internal.h"

enum {
	BODY_MAX = 64 * 1024,
	BODY_DROP = 16 * BODY_MAX, /* beyond this the connection is closed, unanswered */
	CONNECTIONS_MAX = 256,
	IDLE_SECONDS = 30
};

struct Admin {
	struct MHD_Daemon *daemon;
	Migration *migration;
	AdminGuard guard;
	char *name;
	char *state_dir; /* absolute where that can be had */
};

typedef struct {
	Buffer body;
	size_t received;
	bool too_large;
} Request;

/* ---- answers ---- */

/* Takes over body (malloc'd). */
static enum MHD_Result
answer(struct MHD_Connection *connection, unsigned status, const char *type, char *body, size_t len,
       const char *extra, const char *extra_value)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(len, body,
	                                                                MHD_RESPMEM_MUST_FREE);

	if (response == NULL) {
		free(body);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	if (extra != NULL)
		MHD_add_response_header(response, extra, extra_value);
	enum MHD_Result queued = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return queued;
}

static enum MHD_Result
answer_json(struct MHD_Connection *connection, unsigned status, json_t *json, const char *extra,
            const char *extra_value)
{
	char *text = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15));

	json_decref(json);
	return answer(connection, status, "application/json", text, strlen(text), extra, extra_value);
}

static enum MHD_Result
answer_failure(struct MHD_Connection *connection, unsigned status, const Error *err)
{
	json_t *json = json_object();

	json_object_set_new(json, "error", error_json(err));
	return answer_json(connection, status, json, NULL, NULL);
}

static enum MHD_Result
refuse(struct MHD_Connection *connection, unsigned status, const char *message, const char *extra,
       const char *extra_value)
{
	Error err = ERROR_INIT;
	json_t *json = json_object();

	error_set(&err, ERROR_CONFIG, "%s", message);
	json_object_set_new(json, "error", error_json(&err));
	return answer_json(connection, status, json, extra, extra_value);
}

static MigrationStatus *
take_status(Admin *admin)
{
	MigrationStatus *status = mem_zalloc(sizeof(*status));

	migration_status(admin->migration, status);
	return status;
}

/* ---- GET ---- */

typedef struct {
	StatusTables which;
	Error error;
} StatusQuery;

static enum MHD_Result
on_parameter(void *arg, enum MHD_ValueKind kind UNUSED, const char *key, const char *value)
{
	StatusQuery *query = arg;

	return status_tables_set(&query->which, key, value != NULL ? value : "", &query->error)
	           ? MHD_YES
	           : MHD_NO;
}

static enum MHD_Result
get_status(Admin *admin, struct MHD_Connection *connection)
{
	StatusQuery query = {.error = ERROR_INIT};

	status_tables_default(&query.which);
	MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, on_parameter, &query);
	if (query.error.class != ERROR_NONE)
		return answer_failure(connection, MHD_HTTP_BAD_REQUEST, &query.error);
	MigrationStatus *status = take_status(admin);
	json_t *json = status_json_some(status, &query.which);

	/* Where a command finds the last word once this process has ended. */
	json_object_set_new(json, "state_dir", json_string(admin->state_dir));
	free(status);
	return answer_json(connection, MHD_HTTP_OK, json, NULL, NULL);
}

static enum MHD_Result
get_sessions(Admin *admin, struct MHD_Connection *connection)
{
	ListenerSession *sessions = NULL;
	size_t count = 0;
	Error err = ERROR_INIT;

	if (!migration_sessions(admin->migration, &sessions, &count, &err))
		return answer_failure(
			connection,
			err.class == ERROR_CONFIG ? MHD_HTTP_CONFLICT : MHD_HTTP_SERVICE_UNAVAILABLE, &err);
	json_t *json = json_object();
	json_object_set_new(json, "sessions", listener_sessions_json(sessions, count));
	free(sessions);
	return answer_json(connection, MHD_HTTP_OK, json, NULL, NULL);
}

static enum MHD_Result
get_metrics(Admin *admin, struct MHD_Connection *connection)
{
	MigrationStatus *status = take_status(admin);
	char *text = status_metrics(status);

	free(status);
	return answer(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", text,
	              strlen(text), NULL, NULL);
}

static enum MHD_Result
get_health(Admin *admin, struct MHD_Connection *connection, bool want_ready)
{
	MigrationStatus *status = take_status(admin);
	MigrationState state = status->state;
	bool ok = want_ready ? state >= STATE_FOLLOWING && state <= STATE_FINISHED
	                     : state != STATE_FAILED;
	char *text = mem_printf("%s\n", migration_state_name(state));

	free(status);
	return answer(connection, ok ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE,
	              "text/plain; charset=utf-8", text, strlen(text), NULL, NULL);
}

static enum MHD_Result
get_healthz(Admin *admin, struct MHD_Connection *connection)
{
	return get_health(admin, connection, false);
}

static enum MHD_Result
get_readyz(Admin *admin, struct MHD_Connection *connection)
{
	return get_health(admin, connection, true);
}

static enum MHD_Result
get_page(Admin *admin UNUSED, struct MHD_Connection *connection)
{
	return answer(connection, MHD_HTTP_OK, "text/html; charset=utf-8", mem_strdup(admin_page),
	              strlen(admin_page), "Content-Security-Policy",
	              "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
	              "connect-src 'self'; base-uri 'none'; form-action 'none'; "
	              "frame-ancestors 'none'");
}

/* ---- POST ---- */

static bool
read_hold_timeout(const json_t *value, int64_t *out_ms, Error *err)
{
	double seconds = json_is_number(value) ? json_number_value(value) : -1;

	if (!(seconds >= 0.01 && seconds <= 3600))
		return error_set(err, ERROR_CONFIG,
		                 "\"hold_timeout\" is not a number of seconds between 0.01 and 3600");
	*out_ms = (int64_t)(seconds * 1000 + 0.5);
	return true;
}

static bool
read_number(const char *key, const json_t *value, double most, double *out, Error *err)
{
	*out = json_is_number(value) ? json_number_value(value) : -1;
	return (*out >= 0 && *out <= most) ||
	       error_set(err, ERROR_CONFIG, "\"%s\" is not a number between 0 and %.0f", key, most);
}

/* One key of THROTTLE's. */
static bool
read_limit(const char *key, const json_t *value, MigrationRequest *out, Error *err)
{
	double number;

	if (strcmp(key, "copy_rate") == 0) {
		if (!read_number(key, value, 1e15, &number, err))
			return false;
		out->set_copy_rate = true;
		out->copy_rate = (uint64_t)number;
		return true;
	}
	bool seconds = strcmp(key, "max_source_lag_seconds") == 0;
	if (!seconds && strcmp(key, "max_source_lag_bytes") != 0)
		return error_set(err, ERROR_CONFIG, "the body has an unknown key \"%.64s\"", key);
	if (out->set_lag_limit)
		return error_set(err, ERROR_CONFIG, "the body has two limits of the lag");
	if (!read_number(key, value, seconds ? 86400 : 1e15, &number, err))
		return false;
	out->set_lag_limit = true;
	out->lag_limit = (LagLimit){0};
	if (seconds)
		out->lag_limit.ms = (int64_t)(number * 1e3 + 0.5);
	else
		out->lag_limit.bytes = (uint64_t)number;
	return true;
}

static bool
takes_pattern(MigrationCommand command)
{
	return command == COMMAND_ADD_TABLE || command == COMMAND_RECOPY;
}

static bool
take_pattern(const json_t *value, char out[CONFIG_PATTERN_SIZE])
{
	const char *text = json_string_value(value);

	if (text == NULL || text[0] == '\0' || json_string_length(value) != strlen(text) ||
	    strlen(text) >= CONFIG_PATTERN_SIZE || strpbrk(text, "\r\n") != NULL)
		return false;
	snprintf(out, CONFIG_PATTERN_SIZE, "%s", text);
	return true;
}

static bool
read_pattern(const char *key, const json_t *value, MigrationRequest *out, Error *err)
{
	if (strcmp(key, "pattern") != 0)
		return error_set(err, ERROR_CONFIG, "the body has an unknown key \"%.64s\"", key);
	return take_pattern(value, out->pattern) ||
	       error_set(err, ERROR_CONFIG, "\"pattern\" is not the pattern of a table");
}

/* VERIFY's. An empty list would be none, and all is what is compared without one. */
static bool
read_tables(const json_t *value, MigrationRequest *out, Error *err)
{
	size_t count = json_array_size(value);
	bool ok = count > 0 && count <= CONFIG_TABLES_MAX;

	for (size_t i = 0; ok && i < count; i++)
		ok = take_pattern(json_array_get(value, i), out->tables[i]);
	out->table_count = count;
	return ok || error_set(err, ERROR_CONFIG, "\"tables\" is not a list of 1 to %d patterns",
	                       CONFIG_TABLES_MAX);
}

static bool
read_unmovable(const json_t *value, UnmovablePolicy *out, Error *err)
{
	const char *text = json_is_string(value) ? json_string_value(value) : "";

	for (int i = 0; config_unmovable_names[i] != NULL; i++) {
		if (strcmp(text, config_unmovable_names[i]) == 0) {
			*out = (UnmovablePolicy)i;
			return true;
		}
	}
	return error_set(err, ERROR_CONFIG, "\"unmovable\" is not wait, close or abort");
}

static bool
read_key(const char *key, const json_t *value, MigrationRequest *out, Error *err)
{
	bool switches = out->command == COMMAND_CUTOVER || out->command == COMMAND_REHEARSE ||
	                out->command == COMMAND_FAILBACK;

	if (switches && strcmp(key, "hold_timeout") == 0)
		return read_hold_timeout(value, &out->hold_timeout_ms, err);
	if (switches && strcmp(key, "unmovable") == 0) {
		out->unmovable_given = true;
		return read_unmovable(value, &out->unmovable, err);
	}
	if (out->command == COMMAND_VERIFY && strcmp(key, "tables") == 0)
		return read_tables(value, out, err);
	return error_set(err, ERROR_CONFIG, "the body has an unknown key \"%.64s\"", key);
}

static bool
read_body(const Buffer *body, MigrationRequest *out, Error *err)
{
	json_error_t where;
	const char *key;
	json_t *value;
	bool ok = true;

	if (body->len == 0)
		return true;
	json_t *json = json_loadb((const char *)body->data, body->len, JSON_REJECT_DUPLICATES, &where);
	if (!json_is_object(json)) {
		json_decref(json);
		return error_set(err, ERROR_CONFIG, "the body is not a JSON object");
	}
	json_object_foreach (json, key, value) {
		if (takes_pattern(out->command))
			ok = read_pattern(key, value, out, err);
		else if (out->command == COMMAND_THROTTLE)
			ok = read_limit(key, value, out, err);
		else
			ok = read_key(key, value, out, err);
		if (!ok)
			break;
	}
	json_decref(json);
	return ok;
}

static enum MHD_Result
post_command(Admin *admin, struct MHD_Connection *connection, MigrationCommand command,
             const Buffer *body)
{
	MigrationRequest request = {.command = command};
	Error err = ERROR_INIT;
	uint64_t id = 0;

	bool ok = read_body(body, &request, &err);
	if (ok && takes_pattern(command) && request.pattern[0] == '\0')
		ok = error_set(&err, ERROR_CONFIG, "the body has no \"pattern\"");
	if (!ok)
		return answer_failure(connection, MHD_HTTP_BAD_REQUEST, &err);
	if (!migration_command(admin->migration, &request, &id, &err))
		return answer_failure(
			connection,
			err.class == ERROR_CONFIG ? MHD_HTTP_CONFLICT : MHD_HTTP_SERVICE_UNAVAILABLE, &err);
	json_t *json = json_object();
	json_object_set_new(json, "accepted", json_true());
	json_object_set_new(json, "id", json_integer((json_int_t)id));
	return answer_json(connection, MHD_HTTP_ACCEPTED, json, NULL, NULL);
}

/* ---- what there is ---- */

typedef struct {
	const char *path;
	enum MHD_Result (*get)(Admin *admin, struct MHD_Connection *connection);
	MigrationCommand command; /* when get is NULL */
} Resource;

static const Resource resources[] = {
	{"/", get_page, 0},
	{"/v1/status", get_status, 0},
	{"/v1/sessions", get_sessions, 0},
	{"/metrics", get_metrics, 0},
	{"/healthz", get_healthz, 0},
	{"/readyz", get_readyz, 0},
	{"/v1/cutover", NULL, COMMAND_CUTOVER},
	{"/v1/rehearse", NULL, COMMAND_REHEARSE},
	{"/v1/verify", NULL, COMMAND_VERIFY},
	{"/v1/failback", NULL, COMMAND_FAILBACK},
	{"/v1/finish", NULL, COMMAND_FINISH},
	{"/v1/cancel", NULL, COMMAND_CANCEL},
	{"/v1/pause", NULL, COMMAND_PAUSE},
	{"/v1/resume", NULL, COMMAND_RESUME},
	{"/v1/throttle", NULL, COMMAND_THROTTLE},
	{"/v1/add-table", NULL, COMMAND_ADD_TABLE},
	{"/v1/recopy", NULL, COMMAND_RECOPY},
	{"/v1/abort", NULL, COMMAND_ABORT},
};

static const Resource *
resource_find(const char *path)
{
	for (size_t i = 0; i < sizeof(resources) / sizeof(*resources); i++) {
		if (strcmp(resources[i].path, path) == 0)
			return &resources[i];
	}
	return NULL;
}

static const char *
header(struct MHD_Connection *connection, const char *name)
{
	return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

/* A command that did not name this port may have come to it by default, or by what a killed
 * process has left in its state directory: it says whom it means. */
static bool
is_meant(const Admin *admin, struct MHD_Connection *connection)
{
	const char *name = header(connection, ADMIN_HEADER_NAME);
	const char *state_dir = header(connection, ADMIN_HEADER_STATE_DIR);

	return (name == NULL || strcmp(name, admin->name) == 0) &&
	       (state_dir == NULL || strcmp(state_dir, admin->state_dir) == 0);
}

static enum MHD_Result
refuse_misdirected(const Admin *admin, struct MHD_Connection *connection)
{
	Error err = ERROR_INIT;

	error_set(&err, ERROR_CONFIG, "another migration answers there: \"%s\", state directory %s",
	          admin->name, admin->state_dir);
	return answer_failure(connection, MHD_HTTP_MISDIRECTED_REQUEST, &err);
}

/* True when the headers are fine; else the answer is queued and *result set. */
static bool
admit(Admin *admin, struct MHD_Connection *connection, const Resource *resource, const char *method,
      enum MHD_Result *result)
{
	const char *host = header(connection, MHD_HTTP_HEADER_HOST);
	const char *length = header(connection, MHD_HTTP_HEADER_CONTENT_LENGTH);
	bool get = strcmp(method, MHD_HTTP_METHOD_GET) == 0 ||
	           strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
	bool post = strcmp(method, MHD_HTTP_METHOD_POST) == 0;

	if (!guard_host_ok(&admin->guard, host))
		*result = refuse(connection, MHD_HTTP_MISDIRECTED_REQUEST,
		                 "Host is not the address of this admin port", NULL, NULL);
	else if (!guard_origin_ok(header(connection, MHD_HTTP_HEADER_ORIGIN), host))
		*result = refuse(connection, MHD_HTTP_FORBIDDEN, "the request comes from another site",
		                 NULL, NULL);
	else if (!guard_token_ok(&admin->guard, header(connection, MHD_HTTP_HEADER_AUTHORIZATION)))
		*result = refuse(connection, MHD_HTTP_UNAUTHORIZED, "the token is missing or wrong",
		                 MHD_HTTP_HEADER_WWW_AUTHENTICATE,
		                 "Basic realm=\"pgbaton: any name, the token as password\"");
	else if (!is_meant(admin, connection))
		*result = refuse_misdirected(admin, connection);
	else if (resource == NULL)
		*result = refuse(connection, MHD_HTTP_NOT_FOUND, "there is no such path", NULL, NULL);
	else if (resource->get != NULL ? !get : !post)
		*result = refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED,
		                 "the path does not know this method", MHD_HTTP_HEADER_ALLOW,
		                 resource->get != NULL ? "GET, HEAD" : "POST");
	else if (length != NULL && strtoull(length, NULL, 10) > BODY_MAX)
		*result = refuse(connection, MHD_HTTP_CONTENT_TOO_LARGE, "the body is too large", NULL,
		                 NULL);
	else
		return true;
	return false;
}

static void
take_body(Request *request, const char *data, size_t len)
{
	request->received += len;
	if (request->received > BODY_MAX)
		request->too_large = true;
	else
		buffer_put(&request->body, data, len);
}

static bool
is_json(const char *type)
{
	static const char json[] = "application/json";

	return type != NULL && strncasecmp(type, json, sizeof(json) - 1) == 0 &&
	       (type[sizeof(json) - 1] == '\0' || type[sizeof(json) - 1] == ';' ||
	        type[sizeof(json) - 1] == ' ');
}

static enum MHD_Result
serve(Admin *admin, struct MHD_Connection *connection, const Resource *resource,
      const Request *request)
{
	if (request->too_large)
		return refuse(connection, MHD_HTTP_CONTENT_TOO_LARGE, "the body is too large", NULL, NULL);
	if (resource->get != NULL)
		return resource->get(admin, connection);
	if (request->received > 0 && !is_json(header(connection, MHD_HTTP_HEADER_CONTENT_TYPE)))
		return refuse(connection, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE,
		              "a body must be application/json", NULL, NULL);
	return post_command(admin, connection, resource->command, &request->body);
}

/* libmicrohttpd's callback: once with the headers, then for each piece of the
 * body, then once more with nothing left. */
static enum MHD_Result
on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
           const char *version UNUSED, const char *data, size_t *data_len, void **state)
{
	Admin *admin = arg;
	Request *request = *state;
	const Resource *resource = resource_find(url);
	enum MHD_Result result;

	if (request == NULL) {
		*state = mem_zalloc(sizeof(Request));
		return admit(admin, connection, resource, method, &result) ? MHD_YES : result;
	}
	if (*data_len > 0) {
		take_body(request, data, *data_len);
		*data_len = 0;
		return request->received <= BODY_DROP ? MHD_YES : MHD_NO;
	}
	return serve(admin, connection, resource, request);
}

static void
on_completed(void *arg UNUSED, struct MHD_Connection *connection UNUSED, void **state,
             enum MHD_RequestTerminationCode why UNUSED)
{
	Request *request = *state;

	if (request == NULL)
		return;
	buffer_free(&request->body);
	free(request);
	*state = NULL;
}

static void PRINTF_LIKE(2, 0) on_server_log(void *arg UNUSED, const char *fmt, va_list args)
{
	char text[512];

	vsnprintf(text, sizeof(text), fmt, args);
	text[strcspn(text, "\n")] = '\0';
	log_debug("admin", "%s", text);
}

/* ---- start and stop ---- */

static bool
resolve(const char *host, int port, struct addrinfo **out, Error *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	char service[8];

	snprintf(service, sizeof(service), "%d", port);
	int failed = getaddrinfo(host, service, &hints, out);
	if (failed != 0)
		return error_set(err, ERROR_CONFIG, "--admin: %s: %s", host, gai_strerror(failed));
	return true;
}

static void
guard_describe(AdminGuard *guard, const struct sockaddr *address)
{
	char text[INET6_ADDRSTRLEN] = "";

	if (address->sa_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)address)->sin_addr, text,
		          sizeof(text));
	else if (address->sa_family == AF_INET6)
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, text,
		          sizeof(text));
	/* What the name resolved to decides, not the name. */
	guard->loopback = config_is_loopback(text);
	guard->wildcard = strcmp(text, "0.0.0.0") == 0 || strcmp(text, "::") == 0;
}

static bool
listen_at(Admin *admin, const char *host, int port, const struct addrinfo *address, Error *err)
{
	int on = 1;
	int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return error_set_errno(err, ERROR_CONFIG, errno, "--admin: no socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, 64) != 0) {
		error_set_errno(err, ERROR_CONFIG, errno, "--admin: cannot listen on %s:%d", host, port);
		error_set_hint(err, "another --admin HOST:PORT; port 0 takes a free one");
		close(fd);
		return false;
	}
	struct sockaddr_storage bound;
	socklen_t size = sizeof(bound);
	getsockname(fd, (struct sockaddr *)&bound, &size);
	admin->guard.port = ntohs(bound.ss_family == AF_INET6
	                              ? ((struct sockaddr_in6 *)&bound)->sin6_port
	                              : ((struct sockaddr_in *)&bound)->sin_port);
	admin->daemon = MHD_start_daemon(
		MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_ERROR_LOG, 0, NULL, NULL,
		on_request, admin, MHD_OPTION_EXTERNAL_LOGGER, on_server_log, NULL,
		MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)IDLE_SECONDS, MHD_OPTION_END);
	if (admin->daemon == NULL) {
		close(fd);
		return error_set(err, ERROR_CONFIG, "--admin: the HTTP server does not start");
	}
	return true;
}

/* "PORT\nHOST\n" in one step, for the commands that look for us. */
static bool
write_port_file(const Admin *admin, Error *err)
{
	char *path = mem_printf("%s/admin.port", admin->state_dir);
	char *temporary = mem_printf("%s/admin.port.new", admin->state_dir);
	const char *host = admin->guard.wildcard ? "localhost" : admin->guard.host;
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool ok = fd >= 0 && dprintf(fd, "%d\n%s\n", admin->guard.port, host) > 0;

	if (fd >= 0)
		ok = close(fd) == 0 && ok;
	ok = ok && rename(temporary, path) == 0;
	if (!ok)
		error_set_errno(err, ERROR_STORAGE, errno, "cannot write %s", path);
	free(temporary);
	free(path);
	return ok;
}

static bool
admin_open(Admin *admin, const Config *config, Error *err)
{
	struct addrinfo *address;

	if (!resolve(config->admin_host, config->admin_port, &address, err))
		return false;
	guard_describe(&admin->guard, address->ai_addr);
	bool ok = true;
	if (!admin->guard.loopback && admin->guard.token == NULL)
		ok = error_set(err, ERROR_CONFIG,
		               "--admin %s is not on loopback: --admin-token-file is needed",
		               config->admin_host);
	ok = ok && listen_at(admin, config->admin_host, config->admin_port, address, err);
	freeaddrinfo(address);
	return ok && write_port_file(admin, err);
}

Admin *
admin_start(const Config *config, Migration *migration, Error *err)
{
	Admin *admin = mem_zalloc(sizeof(*admin));
	char absolute[PATH_MAX];

	admin->migration = migration;
	snprintf(admin->guard.host, sizeof(admin->guard.host), "%s", config->admin_host);
	admin->name = mem_strdup(config->name);
	admin->state_dir = mem_strdup(
		realpath(config->state_dir, absolute) != NULL ? absolute : config->state_dir);
	if (config->admin_token_file != NULL) {
		admin->guard.token = config_read_token(config->admin_token_file, err);
		if (admin->guard.token == NULL) {
			admin_stop(admin);
			return NULL;
		}
	}
	if (!admin_open(admin, config, err)) {
		admin_stop(admin);
		return NULL;
	}
	log_info("admin", "listening on %s%s%s:%d", strchr(admin->guard.host, ':') ? "[" : "",
	         admin->guard.host, strchr(admin->guard.host, ':') ? "]" : "", admin->guard.port);
	return admin;
}

int
admin_port(const Admin *admin)
{
	return admin->guard.port;
}

void
admin_stop(Admin *admin)
{
	if (admin == NULL)
		return;
	if (admin->daemon != NULL)
		MHD_stop_daemon(admin->daemon);
	mem_wipe_free_cstr(admin->guard.token);
	free(admin->name);
	free(admin->state_dir);
	free(admin);
}
