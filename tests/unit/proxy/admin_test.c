/* The admin port, asked by a real HTTP client. */
#include <curl/curl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/admin/admin.h"
#include "proxy/admin/admin_internal.h"
#include "proxy/cli/client.h"
#include "proxy/cli/statedir.h"
#include "tests/unit/proxy/fake_migration.h"
#include "tests/unit/runner.h"

#define TOKEN "0123456789abcdef0123"

static char dir[] = "/tmp/pgbaton-admin-XXXXXX";
static char token_file[64], port_file[64], last_file[64], lock_file[64];
static Config config;
static Migration *migration;
static Catalog *catalog;
static Admin *admin;
static Error err;

/* The last answer. */
static long http_status;
static Buffer body, head;

static void
setup(void)
{
	log_set_level(LOG_WARNING);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(token_file, sizeof(token_file), "%s/token", dir);
	snprintf(port_file, sizeof(port_file), "%s/admin.port", dir);
	snprintf(last_file, sizeof(last_file), "%s/last_status.json", dir);
	snprintf(lock_file, sizeof(lock_file), "%s/run.lock", dir);
	config = (Config){.name = "shop", .admin_host = "127.0.0.1", .state_dir = dir};
	migration = fake_migration_new();
	catalog = fake_catalog_new();
	fake_status_fill(&migration->status, catalog);
	migration->ticket = 7;
}

static void
teardown(void)
{
	admin_stop(admin);
	migration_free(migration);
	fake_catalog_free(catalog);
	buffer_free(&body);
	buffer_free(&head);
	unlink(token_file);
	unlink(port_file);
	unlink(last_file);
	unlink(lock_file);
	rmdir(dir);
}

static void
start(void)
{
	admin = admin_start(&config, migration, &err);
	ck_assert_msg(admin != NULL, "%s", err.message);
}

static void
start_with_token(void)
{
	FILE *out = fopen(token_file, "w");

	fputs(TOKEN "\n", out);
	fclose(out);
	ck_assert_int_eq(chmod(token_file, 0600), 0);
	config.admin_token_file = token_file;
	start();
}

static size_t
collect(char *data, size_t one, size_t len, void *arg)
{
	buffer_put(arg, data, one * len);
	return one * len;
}

/* method: NULL means GET, or POST when there is data. headers: NULL-terminated. */
static void
ask_with(const char *method, const char *path, const char *data, const char *const *headers)
{
	CURL *curl = curl_easy_init();
	struct curl_slist *list = NULL;
	char url[256];

	buffer_reset(&body);
	buffer_reset(&head);
	snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", admin_port(admin), path);
	for (; headers != NULL && *headers != NULL; headers++)
		list = curl_slist_append(list, *headers);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, 30L);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, collect);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, &head);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
	if (data != NULL)
		curl_easy_setopt(curl, CURLOPT_COPYPOSTFIELDS, data);
	if (method != NULL && strcmp(method, "HEAD") == 0)
		curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
	else if (method != NULL)
		curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
	CURLcode code = curl_easy_perform(curl);
	ck_assert_msg(code == CURLE_OK, "%s: %s", path, curl_easy_strerror(code));
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &http_status);
	curl_slist_free_all(list);
	curl_easy_cleanup(curl);
	buffer_cstr(&body);
	buffer_cstr(&head);
}

static void
ask(const char *path)
{
	ask_with(NULL, path, NULL, NULL);
}

static void
post(const char *path, const char *data)
{
	static const char *const json[] = {"Content-Type: application/json", NULL};
	ask_with(NULL, path, data, json);
}

static bool
has_header(const char *line)
{
	return strcasestr((const char *)head.data, line) != NULL;
}

static char *
body_text(void)
{
	return (char *)body.data;
}

/* ---- what there is ---- */

START_TEST(status_is_json)
{
	start();
	ask("/v1/status");
	ck_assert_int_eq(http_status, 200);
	ck_assert(has_header("Content-Type: application/json"));
	ck_assert(has_header("Cache-Control: no-store"));
	json_t *json = json_loads(body_text(), 0, NULL);
	ck_assert_str_eq(doc_text(json, "state"), "copying");
	ck_assert_str_eq(doc_text(json, "state_dir"), dir);
	json_decref(json);
}
END_TEST

static void
assert_tables(const char *path, size_t count)
{
	ask(path);
	ck_assert_int_eq(http_status, 200);
	json_t *json = json_loads(body_text(), 0, NULL);
	ck_assert_uint_eq(json_array_size(doc_at(json, "table")), count);
	json_decref(json);
}

START_TEST(status_has_as_many_tables)
{
	start();
	assert_tables("/v1/status", 2);
	assert_tables("/v1/status?tables=1", 1);
	assert_tables("/v1/status?tables=0", 0);
	assert_tables("/v1/status?tables=all&offset=1", 1);
	assert_tables("/v1/status?state=errored", 1);
	assert_tables("/v1/status?state=queued,copied", 0);
	assert_tables("/v1/status?state=errored,copying&match=public.b", 1);
	assert_tables("/v1/status?match=nothing%20like%20it", 0);
}
END_TEST

static const char *const wrong_parameters[] = {
	"tables",        "tables=", "tables=-1",    "tables=1x",     "tables=99999999999999999999",
	"offset=all",    "state=",  "state=error",  "state=copied,", "state=,copied",
	"state=copiedx", "limit=1", "tables=1&x=2",
};

START_TEST(wrong_parameter_is_refused)
{
	char path[100];

	start();
	snprintf(path, sizeof(path), "/v1/status?%s", wrong_parameters[_i]);
	ask(path);
	ck_assert_msg(http_status == 400, "%s: %ld", path, http_status);
	json_t *json = json_loads(body_text(), 0, NULL);
	ck_assert_str_ne(doc_text(json, "error.message"), "");
	json_decref(json);
}
END_TEST

START_TEST(metrics_are_text)
{
	start();
	ask("/metrics");
	ck_assert_int_eq(http_status, 200);
	ck_assert(has_header("Content-Type: text/plain; version=0.0.4"));
	ck_assert_ptr_nonnull(strstr(body_text(), "pgbaton_state{state=\"copying\"} 1\n"));
}
END_TEST

START_TEST(page_is_alone)
{
	start();
	ask("/");
	ck_assert_int_eq(http_status, 200);
	ck_assert(has_header("Content-Type: text/html"));
	ck_assert(has_header("Content-Security-Policy: default-src 'none'"));
	ck_assert_ptr_nonnull(strstr(body_text(), "/v1/status"));
	/* Nothing from anywhere else. */
	ck_assert_ptr_null(strstr(body_text(), "http"));
	ck_assert_ptr_null(strstr(body_text(), "src="));
	ck_assert_ptr_null(strstr(body_text(), "innerHTML"));
}
END_TEST

START_TEST(health_follows_state)
{
	static const struct {
		MigrationState state;
		int healthz, readyz;
	} cases[] = {
		{STATE_CHECKING, 200, 503},  {STATE_COPYING, 200, 503},      {STATE_CATCHING_UP, 200, 503},
		{STATE_FOLLOWING, 200, 200}, {STATE_CUTTING_OVER, 200, 200}, {STATE_SWITCHED, 200, 200},
		{STATE_FINISHED, 200, 200},  {STATE_FAILED, 503, 503},       {STATE_CANCELLED, 200, 503},
	};

	start();
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		pthread_mutex_lock(&migration->lock);
		migration->status.state = cases[i].state;
		pthread_mutex_unlock(&migration->lock);
		ask("/healthz");
		ck_assert_int_eq(http_status, cases[i].healthz);
		ask("/readyz");
		ck_assert_int_eq(http_status, cases[i].readyz);
	}
}
END_TEST

/* ---- commands ---- */

START_TEST(commands_are_handed_over)
{
	static const struct {
		const char *path;
		MigrationCommand command;
	} cases[] = {
		{"/v1/cutover", COMMAND_CUTOVER},   {"/v1/verify", COMMAND_VERIFY},
		{"/v1/finish", COMMAND_FINISH},     {"/v1/cancel", COMMAND_CANCEL},
		{"/v1/pause", COMMAND_PAUSE},       {"/v1/resume", COMMAND_RESUME},
		{"/v1/rehearse", COMMAND_REHEARSE}, {"/v1/failback", COMMAND_FAILBACK},
	};

	start();
	for (int i = 0; i < (int)(sizeof(cases) / sizeof(*cases)); i++) {
		post(cases[i].path, "");
		ck_assert_int_eq(http_status, 202);
		ck_assert_str_eq(body_text(), "{\"accepted\":true,\"id\":7}");
		ck_assert_int_eq(migration->commands, i + 1);
		ck_assert_int_eq((int)migration->last.command, (int)cases[i].command);
		ck_assert_int_eq((int)migration->last.hold_timeout_ms, 0);
	}
}
END_TEST

START_TEST(sessions_are_listed)
{
	start();
	ask("/v1/sessions");
	ck_assert_int_eq(http_status, 409);
	migration->session_count = 2;
	migration->sessions[0] = (ListenerSession){.pid = 7, .who = "app@shop", .state = "idle"};
	migration->sessions[1] = (ListenerSession){
		.pid = 8, .who = "x@shop", .state = "idle", .reason = "it holds advisory locks"};
	ask("/v1/sessions");
	ck_assert_int_eq(http_status, 200);
	json_t *json = json_loads(body_text(), 0, NULL);
	const json_t *list = doc_at(json, "sessions");
	ck_assert_uint_eq(json_array_size(list), 2);
	ck_assert(doc_true(json_array_get(list, 0), "movable"));
	ck_assert(json_is_null(doc_at(json_array_get(list, 0), "reason")));
	ck_assert_int_eq((int)doc_number(json_array_get(list, 1), "pid"), 8);
	ck_assert_str_eq(doc_text(json_array_get(list, 1), "reason"), "it holds advisory locks");
	json_decref(json);
}
END_TEST

START_TEST(refusal_is_a_conflict)
{
	error_set(&migration->refuse, ERROR_CONFIG, "cannot in state copying");
	error_set_hint(&migration->refuse, "wait");
	start();
	post("/v1/cutover", "");
	ck_assert_int_eq(http_status, 409);
	json_t *json = json_loads(body_text(), 0, NULL);
	ck_assert_str_eq(doc_text(json, "error.message"), "cannot in state copying");
	ck_assert_str_eq(doc_text(json, "error.hint"), "wait");
	json_decref(json);
}
END_TEST

START_TEST(body_is_read)
{
	start();
	post("/v1/cutover", "{\"hold_timeout\": 0.25}");
	ck_assert_int_eq(http_status, 202);
	ck_assert_int_eq((int)migration->last.hold_timeout_ms, 250);
	ck_assert(!migration->last.unmovable_given);
	post("/v1/rehearse", "{\"unmovable\": \"abort\", \"hold_timeout\": 1}");
	ck_assert_int_eq(http_status, 202);
	ck_assert_int_eq((int)migration->last.hold_timeout_ms, 1000);
	ck_assert(migration->last.unmovable_given);
	ck_assert_int_eq((int)migration->last.unmovable, (int)UNMOVABLE_ABORT);
	post("/v1/cutover", "{}");
	ck_assert_int_eq(http_status, 202);
	ck_assert_int_eq((int)migration->last.hold_timeout_ms, 0);
}
END_TEST

START_TEST(limits_are_read)
{
	const MigrationRequest *last = &migration->last;

	start();
	post("/v1/throttle", "{\"copy_rate\": 5000000, \"max_source_lag_seconds\": 1.5}");
	ck_assert_int_eq(http_status, 202);
	ck_assert(last->set_copy_rate && last->set_lag_limit);
	ck_assert_uint_eq(last->copy_rate, 5000000);
	ck_assert_int_eq((int)last->lag_limit.ms, 1500);
	ck_assert_uint_eq(last->lag_limit.bytes, 0);
	post("/v1/throttle", "{\"max_source_lag_bytes\": 0}");
	ck_assert_int_eq(http_status, 202);
	ck_assert(!last->set_copy_rate && last->set_lag_limit);
	ck_assert_int_eq((int)last->lag_limit.ms, 0);
}
END_TEST

static const char *const wrong_limits[] = {
	"{\"copy_rate\": -1}",
	"{\"copy_rate\": 1e16}",
	"{\"copy_rate\": \"10MB\"}",
	"{\"max_source_lag\": 1}",
	"{\"max_source_lag_seconds\": 86401}",
	"{\"max_source_lag_seconds\": 1, \"max_source_lag_bytes\": 1}",
	"{\"hold_timeout\": 1}",
};

START_TEST(wrong_limits_are_refused)
{
	start();
	post("/v1/throttle", wrong_limits[_i]);
	ck_assert_int_eq(http_status, 400);
	ck_assert_int_eq(migration->commands, 0);
}
END_TEST

START_TEST(patterns_are_read)
{
	start();
	post("/v1/add-table", "{\"pattern\": \"shop.*\"}");
	ck_assert_int_eq(http_status, 202);
	ck_assert_int_eq((int)migration->last.command, (int)COMMAND_ADD_TABLE);
	ck_assert_str_eq(migration->last.pattern, "shop.*");
	post("/v1/recopy", "{\"pattern\": \"\\\"We ird\\\"\"}");
	ck_assert_int_eq(http_status, 202);
	ck_assert_int_eq((int)migration->last.command, (int)COMMAND_RECOPY);
	ck_assert_str_eq(migration->last.pattern, "\"We ird\"");
}
END_TEST

START_TEST(tables_to_verify_are_read)
{
	start();
	post("/v1/verify", "{\"tables\": [\"shop.*\", \"\\\"We ird\\\"\"]}");
	ck_assert_int_eq(http_status, 202);
	ck_assert_int_eq((int)migration->last.command, (int)COMMAND_VERIFY);
	ck_assert_uint_eq(migration->last.table_count, 2);
	ck_assert_str_eq(migration->last.tables[0], "shop.*");
	ck_assert_str_eq(migration->last.tables[1], "\"We ird\"");
	post("/v1/verify", "");
	ck_assert_int_eq(http_status, 202);
	ck_assert_uint_eq(migration->last.table_count, 0);
}
END_TEST

static const char *const wrong_tables[] = {
	"{\"tables\": []}",
	"{\"tables\": \"a\"}",
	"{\"tables\": [\"a\", 1]}",
	"{\"tables\": [\"\"]}",
	"{\"tables\": [\"a\\nb\"]}",
	"{\"pattern\": \"a\"}",
	("{\"tables\": [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\","
     "\"13\",\"14\",\"15\",\"16\",\"17\"]}"),
};

START_TEST(wrong_tables_are_refused)
{
	start();
	post("/v1/verify", wrong_tables[_i]);
	ck_assert_int_eq(http_status, 400);
	ck_assert_int_eq(migration->commands, 0);
}
END_TEST

static const char *const wrong_patterns[] = {
	"",
	"{}",
	"{\"pattern\": \"\"}",
	"{\"pattern\": 1}",
	"{\"pattern\": \"a\\nb\"}",
	"{\"pattern\": \"a\\u0000b\"}",
	"{\"table\": \"a\"}",
	"{\"pattern\": \"a\", \"hold_timeout\": 1}",
};

START_TEST(wrong_patterns_are_refused)
{
	start();
	post("/v1/add-table", wrong_patterns[_i]);
	ck_assert_int_eq(http_status, 400);
	ck_assert_int_eq(migration->commands, 0);
}
END_TEST

/* A pattern of 255 bytes is the longest. */
START_TEST(long_patterns_are_refused)
{
	char text[300];

	start();
	snprintf(text, sizeof(text), "{\"pattern\": \"%0255d\"}", 7);
	post("/v1/recopy", text);
	ck_assert_int_eq(http_status, 202);
	snprintf(text, sizeof(text), "{\"pattern\": \"%0256d\"}", 7);
	post("/v1/recopy", text);
	ck_assert_int_eq(http_status, 400);
}
END_TEST

static const char *const wrong_bodies[] = {
	"{\"hold_timeout\": 0}",     "{\"hold_timeout\": -1}",
	"{\"hold_timeout\": \"2\"}", "{\"hold_timeout\": 99999}",
	"{\"timeout\": 2}",          "[]",
	"{\"hold_timeout\": 1",      "nonsense",
	"{\"a\":1,\"a\":1}",         "{\"unmovable\": \"kill\"}",
	"{\"unmovable\": 1}",
};

START_TEST(wrong_body_is_refused)
{
	start();
	post("/v1/cutover", wrong_bodies[_i]);
	ck_assert_int_eq(http_status, 400);
	ck_assert_int_eq(migration->commands, 0);
}
END_TEST

START_TEST(body_must_be_json)
{
	static const char *const form[] = {"Content-Type: text/plain", NULL};

	start();
	ask_with(NULL, "/v1/cutover", "{\"hold_timeout\": 1}", form);
	ck_assert_int_eq(http_status, 415);
	post("/v1/pause", "{\"hold_timeout\": 1}");
	ck_assert_int_eq(http_status, 400);
	ck_assert_int_eq(migration->commands, 0);
}
END_TEST

START_TEST(large_body_is_refused)
{
	static const char *const chunked[] = {"Content-Type: application/json",
	                                      "Transfer-Encoding: chunked", "Expect:", NULL};
	size_t size = 64 * 1024 + 1;
	char *text = mem_alloc(size + 1);

	memset(text, ' ', size);
	text[size] = '\0';
	start();
	post("/v1/cutover", text);
	ck_assert_int_eq(http_status, 413);
	/* The same without a length said beforehand. */
	ask_with(NULL, "/v1/cutover", text, chunked);
	ck_assert_int_eq(http_status, 413);
	ck_assert_int_eq(migration->commands, 0);
	memcpy(text, "{}", 2);
	text[size - 1] = '\0';
	post("/v1/cutover", text);
	ck_assert_int_eq(http_status, 202);
	free(text);
}
END_TEST

START_TEST(methods_and_paths)
{
	start();
	ask_with("DELETE", "/v1/status", NULL, NULL);
	ck_assert_int_eq(http_status, 405);
	ck_assert(has_header("Allow: GET, HEAD"));
	post("/v1/status", "");
	ck_assert_int_eq(http_status, 405);
	ask("/v1/cutover");
	ck_assert_int_eq(http_status, 405);
	ck_assert(has_header("Allow: POST"));
	ask_with("HEAD", "/v1/cutover", NULL, NULL);
	ck_assert_int_eq(http_status, 405);
	ask_with("HEAD", "/v1/status", NULL, NULL);
	ck_assert_int_eq(http_status, 200);
	ck_assert_uint_eq(body.len, 0);
	ask("/v1/nothing");
	ck_assert_int_eq(http_status, 404);
	ask("/v1/status/");
	ck_assert_int_eq(http_status, 404);
	ck_assert_int_eq(migration->commands, 0);
}
END_TEST

/* ---- who may ask ---- */

static long
status_with(const char *line, ...)
{
	char text[256];
	const char *headers[] = {text, NULL};
	va_list args;

	va_start(args, line);
	/* The format is a literal of this file. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	vsnprintf(text, sizeof(text), line, args);
#pragma GCC diagnostic pop
	va_end(args);
	ask_with(NULL, "/v1/status", NULL, headers);
	return http_status;
}

START_TEST(host_is_checked)
{
	int port;

	start();
	port = admin_port(admin);
	ck_assert_int_eq(status_with("Host: 127.0.0.1:%d", port), 200);
	ck_assert_int_eq(status_with("Host: localhost:%d", port), 200);
	ck_assert_int_eq(status_with("Host: LOCALHOST:%d", port), 200);
	ck_assert_int_eq(status_with("Host: [::1]:%d", port), 200);
	ck_assert_int_eq(status_with("Host: evil.example:%d", port), 421);
	ck_assert_int_eq(status_with("Host: 127.0.0.1.evil.example:%d", port), 421);
	ck_assert_int_eq(status_with("Host: 127.0.0.1:%d", port + 1), 421);
	ck_assert_int_eq(status_with("Host: 127.0.0.1"), 421);
	ck_assert_int_eq(status_with("Host: localhost:%dx", port), 421);
	ck_assert_int_eq(status_with("Host: 10.0.0.1:%d", port), 421);
}
END_TEST

START_TEST(origin_is_checked)
{
	char own[64], other[64], host[64];
	const char *headers[] = {own, host, NULL};
	int port;

	start();
	port = admin_port(admin);
	snprintf(host, sizeof(host), "Host: 127.0.0.1:%d", port);
	snprintf(own, sizeof(own), "Origin: http://127.0.0.1:%d", port);
	ask_with("POST", "/v1/pause", NULL, headers);
	ck_assert_int_eq(http_status, 202);
	static const char *const foreign[] = {
		"Origin: http://evil.example",
		"Origin: null",
		"Origin: https://127.0.0.1",
		"Origin: http://127.0.0.1",
	};
	for (size_t i = 0; i < sizeof(foreign) / sizeof(*foreign); i++) {
		snprintf(other, sizeof(other), "%s", foreign[i]);
		headers[0] = other;
		ask_with("POST", "/v1/pause", NULL, headers);
		ck_assert_msg(http_status == 403, "%s: %ld", other, http_status);
	}
	ck_assert_int_eq(migration->commands, 1);
}
END_TEST

START_TEST(token_is_checked)
{
	start_with_token();
	ask("/v1/status");
	ck_assert_int_eq(http_status, 401);
	ck_assert(has_header("WWW-Authenticate: Basic"));
	ck_assert_ptr_null(strstr(body_text(), "copying"));
	post("/v1/cutover", "");
	ck_assert_int_eq(http_status, 401);
	ask("/");
	ck_assert_int_eq(http_status, 401);
	ck_assert_int_eq(status_with("Authorization: Bearer " TOKEN), 200);
	ck_assert_int_eq(status_with("Authorization: bearer " TOKEN), 200);
	ck_assert_int_eq(status_with("Authorization: Bearer " TOKEN "x"), 401);
	ck_assert_int_eq(status_with("Authorization: Bearer 0123456789abcdef012"), 401);
	ck_assert_int_eq(status_with("Authorization: Bearer"), 401);
	ck_assert_int_eq(status_with("Authorization: " TOKEN), 401);
	ck_assert_int_eq(migration->commands, 0);
}
END_TEST

/* Browsers ask for a name and a password. */
START_TEST(token_as_password)
{
	AdminGuard guard = {.token = mem_strdup(TOKEN)};

	/* base64 of "admin:TOKEN", "x:TOKEN", ":TOKEN": each padding. */
	ck_assert(guard_token_ok(&guard, "Basic YWRtaW46MDEyMzQ1Njc4OWFiY2RlZjAxMjM="));
	ck_assert(guard_token_ok(&guard, "Basic eDowMTIzNDU2Nzg5YWJjZGVmMDEyMw=="));
	ck_assert(guard_token_ok(&guard, "Basic OjAxMjM0NTY3ODlhYmNkZWYwMTIz"));
	ck_assert(!guard_token_ok(&guard, "Basic YWRtaW46MDEyMzQ1Njc4OWFiY2RlZjAxMjQ="));
	ck_assert(!guard_token_ok(&guard, "Basic MDEyMzQ1Njc4OWFiY2RlZjAxMjM="));
	ck_assert(!guard_token_ok(&guard, "Basic "));
	ck_assert(!guard_token_ok(&guard, "Basic ===="));
	ck_assert(!guard_token_ok(&guard, "Basic !!!!"));
	ck_assert(!guard_token_ok(&guard, NULL));
	free(guard.token);
}
END_TEST

START_TEST(hosts_of_other_addresses)
{
	AdminGuard one = {.host = "10.1.2.3", .port = 7430};
	AdminGuard all = {.host = "0.0.0.0", .port = 7430, .wildcard = true};

	ck_assert(guard_host_ok(&one, "10.1.2.3:7430"));
	ck_assert(!guard_host_ok(&one, "10.1.2.4:7430"));
	ck_assert(!guard_host_ok(&one, "evil.example:7430"));
	ck_assert(guard_host_ok(&all, "10.1.2.4:7430"));
	ck_assert(guard_host_ok(&all, "[fe80::1]:7430"));
	ck_assert(!guard_host_ok(&all, "evil.example:7430"));
	ck_assert(!guard_host_ok(&all, "[fe80::1:7430"));
	ck_assert(!guard_host_ok(&all, ":7430"));
	ck_assert(!guard_host_ok(&all, ""));
	ck_assert(!guard_host_ok(&all, NULL));
}
END_TEST

/* ---- start ---- */

START_TEST(port_is_written)
{
	char host[64];
	int port = 0;
	struct stat st;

	start();
	ck_assert(statedir_read_port(dir, host, sizeof(host), &port));
	ck_assert_int_eq(port, admin_port(admin));
	ck_assert_str_eq(host, "127.0.0.1");
	ck_assert_int_eq(stat(port_file, &st), 0);
	ck_assert_int_eq((int)(st.st_mode & 0777), 0600);
}
END_TEST

START_TEST(port_in_use)
{
	start();
	config.admin_port = admin_port(admin);
	Admin *second = admin_start(&config, migration, &err);
	ck_assert_ptr_null(second);
	ck_assert_int_eq((int)err.class, (int)ERROR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.message, "cannot listen"));
}
END_TEST

START_TEST(other_addresses_need_token)
{
	config.admin_host = "0.0.0.0";
	ck_assert_ptr_null(admin_start(&config, migration, &err));
	ck_assert_ptr_nonnull(strstr(err.message, "--admin-token-file"));
}
END_TEST

/* ---- the client of the commands ---- */

START_TEST(client_talks)
{
	uint64_t id = 0;

	start_with_token();
	/* Found by the file in the state directory. */
	Client *client = client_new(&config, &err);
	ck_assert_ptr_nonnull(client);
	json_t *status = client_status(client, &err);
	ck_assert_msg(status != NULL, "%s", err.message);
	ck_assert_str_eq(doc_text(status, "state"), "copying");
	json_decref(status);
	ck_assert(client_post(client, "pause", NULL, &id, &err));
	ck_assert_uint_eq(id, 7);

	pthread_mutex_lock(&migration->lock);
	error_set(&migration->refuse, ERROR_CONFIG, "no");
	error_set_hint(&migration->refuse, "why");
	pthread_mutex_unlock(&migration->lock);
	ck_assert(!client_post(client, "pause", NULL, &id, &err));
	ck_assert_str_eq(err.message, "no");
	ck_assert_str_eq(err.hint, "why");
	ck_assert(!client_post(client, "nothing", NULL, &id, &err));
	ck_assert_ptr_nonnull(strstr(err.message, "no such path"));
	client_free(client);
}
END_TEST

START_TEST(client_without_token)
{
	start_with_token();
	config.admin_token_file = NULL;
	Client *client = client_new(&config, &err);
	ck_assert_ptr_null(client_status(client, &err));
	ck_assert_int_eq((int)err.class, (int)ERROR_AUTH);
	ck_assert_ptr_nonnull(strstr(err.hint, "--admin-token-file"));
	client_free(client);
}
END_TEST

START_TEST(client_finds_the_last_word)
{
	start();
	Client *client = client_new(&config, &err);
	json_t *status = client_status(client, &err);
	ck_assert_ptr_nonnull(status);
	ck_assert_ptr_null(client_last_status(client));
	ck_assert(statedir_write_last(dir, status, &err));
	json_decref(status);
	admin_stop(admin);
	admin = NULL;
	ck_assert_ptr_null(client_status(client, &err));
	ck_assert_int_eq((int)err.class, (int)ERROR_NETWORK);
	status = client_last_status(client);
	ck_assert_str_eq(doc_text(status, "state"), "copying");
	json_decref(status);
	client_free(client);
}
END_TEST

START_TEST(state_directory_is_for_one)
{
	int lock = statedir_open(dir, &err);

	ck_assert_msg(lock >= 0, "%s", err.message);
	ck_assert_int_eq(statedir_open(dir, &err), -1);
	ck_assert_int_eq((int)err.class, (int)ERROR_CONFIG);
	close(lock);
	lock = statedir_open(dir, &err);
	ck_assert_int_ge(lock, 0);
	close(lock);
}
END_TEST

static Suite *
admin_suite(void)
{
	Suite *suite = suite_create("admin");
	TCase *tests = tcase_create("admin");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, status_is_json);
	tcase_add_test(tests, status_has_as_many_tables);
	tcase_add_loop_test(tests, wrong_parameter_is_refused, 0,
	                    sizeof(wrong_parameters) / sizeof(*wrong_parameters));
	tcase_add_test(tests, metrics_are_text);
	tcase_add_test(tests, page_is_alone);
	tcase_add_test(tests, health_follows_state);
	tcase_add_test(tests, commands_are_handed_over);
	tcase_add_test(tests, sessions_are_listed);
	tcase_add_test(tests, refusal_is_a_conflict);
	tcase_add_test(tests, body_is_read);
	tcase_add_test(tests, limits_are_read);
	tcase_add_test(tests, tables_to_verify_are_read);
	tcase_add_loop_test(tests, wrong_tables_are_refused, 0,
	                    (int)(sizeof(wrong_tables) / sizeof(*wrong_tables)));
	tcase_add_test(tests, patterns_are_read);
	tcase_add_loop_test(tests, wrong_patterns_are_refused, 0,
	                    (int)(sizeof(wrong_patterns) / sizeof(*wrong_patterns)));
	tcase_add_test(tests, long_patterns_are_refused);
	tcase_add_loop_test(tests, wrong_limits_are_refused, 0,
	                    (int)(sizeof(wrong_limits) / sizeof(*wrong_limits)));
	tcase_add_loop_test(tests, wrong_body_is_refused, 0,
	                    (int)(sizeof(wrong_bodies) / sizeof(*wrong_bodies)));
	tcase_add_test(tests, body_must_be_json);
	tcase_add_test(tests, large_body_is_refused);
	tcase_add_test(tests, methods_and_paths);
	tcase_add_test(tests, host_is_checked);
	tcase_add_test(tests, origin_is_checked);
	tcase_add_test(tests, token_is_checked);
	tcase_add_test(tests, token_as_password);
	tcase_add_test(tests, hosts_of_other_addresses);
	tcase_add_test(tests, port_is_written);
	tcase_add_test(tests, port_in_use);
	tcase_add_test(tests, other_addresses_need_token);
	tcase_add_test(tests, client_talks);
	tcase_add_test(tests, client_without_token);
	tcase_add_test(tests, client_finds_the_last_word);
	tcase_add_test(tests, state_directory_is_for_one);
	suite_add_tcase(suite, tests);
	return suite;
}

TEST_SUITE(admin_suite)
