#include "proxy/cli/client.h"

#include <curl/curl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/memory.h"
#include "proxy/admin/admin.h"
#include "proxy/cli/statedir.h"

enum {
	CONNECT_TIMEOUT_MS = 5000,
	REQUEST_TIMEOUT_MS = 30000,
	MISDIRECTED = 421,
	ANSWER_MAX = 256 * 1024 * 1024 /* a status with very many tables */
};

struct Client {
	const Config *config;
	CURL *curl;
	struct curl_slist *headers; /* may hold the token: wiped */
	char *state_dir;            /* as the process itself named it; NULL: not yet */
	bool says_state_dir;        /* in the headers */
};

static void
say(Client *client, const char *header, const char *value)
{
	char *line = mem_printf("%s: %s", header, value);

	client->headers = curl_slist_append(client->headers, line);
	mem_wipe_free_cstr(line);
}

/* Whom we mean, where the address does not say it: so that a command for a process that has ended
 * is not done by another one, which has the default port, or the port it had. */
static void
say_state_dir(Client *client)
{
	char absolute[PATH_MAX];
	const char *path = client->config->state_dir;

	if (!client->says_state_dir)
		say(client, ADMIN_HEADER_STATE_DIR, realpath(path, absolute) != NULL ? absolute : path);
	client->says_state_dir = true;
}

/* Port 0 (a configuration file that run and the others share) is whichever was free. */
static bool
is_told_where(const Config *config)
{
	return config->admin_given && config->admin_port != 0;
}

Client *
client_new(const Config *config, Error *err)
{
	Client *client = mem_zalloc(sizeof(*client));

	client->config = config;
	client->headers = curl_slist_append(NULL, "Content-Type: application/json");
	if (config->admin_token_file != NULL) {
		char *token = config_read_token(config->admin_token_file, err);
		if (token == NULL) {
			client_free(client);
			return NULL;
		}
		char *value = mem_printf("Bearer %s", token);
		say(client, "Authorization", value);
		mem_wipe_free_cstr(value);
		mem_wipe_free_cstr(token);
	}
	if (config->name_given)
		say(client, ADMIN_HEADER_NAME, config->name);
	if (config->state_dir_given && !is_told_where(config))
		say_state_dir(client);
	client->curl = curl_easy_init();
	if (client->curl == NULL || client->headers == NULL) {
		client_free(client);
		error_set(err, ERROR_BUG, "libcurl does not start");
		return NULL;
	}
	return client;
}

void
client_free(Client *client)
{
	if (client == NULL)
		return;
	for (struct curl_slist *at = client->headers; at != NULL; at = at->next)
		mem_wipe(at->data, strlen(at->data));
	curl_slist_free_all(client->headers);
	curl_easy_cleanup(client->curl);
	free(client->state_dir);
	free(client);
}

/* Where the process is believed to be; free it. */
static char *
base_url(Client *client)
{
	const Config *config = client->config;
	char found[300];
	const char *host = config->admin_host;
	int port = config->admin_port;

	if (!is_told_where(config)) {
		int found_port;
		if (statedir_read_port(config->state_dir, found, sizeof(found), &found_port)) {
			host = found;
			port = found_port;
			say_state_dir(client);
		}
	}
	bool v6 = strchr(host, ':') != NULL;
	return mem_printf("http://%s%s%s:%d", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

static size_t
on_data(char *data, size_t one, size_t len, void *arg)
{
	Buffer *answer = arg;

	if (answer->len + len * one > ANSWER_MAX)
		return 0; /* libcurl: an error */
	buffer_put(answer, data, one * len);
	return one * len;
}

/* One request; *status is HTTP's, answer gets the body. */
static bool
exchange(Client *client, const char *path, const char *body, Buffer *answer, long *status,
         Error *err)
{
	CURL *curl = client->curl;
	char *base = base_url(client);
	char *url = mem_printf("%s%s", base, path);

	curl_easy_reset(curl); /* the connection is kept */
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http");
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)REQUEST_TIMEOUT_MS);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, client->headers);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
	if (body != NULL) {
		curl_easy_setopt(curl, CURLOPT_POST, 1L);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
	}
	CURLcode code = curl_easy_perform(curl);
	if (code != CURLE_OK) {
		error_set(err, ERROR_NETWORK, "no answer from %s: %s", base, curl_easy_strerror(code));
		error_set_hint(err, "is `pgbaton run` running? --admin or --state-dir say where");
	} else {
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, status);
	}
	free(url);
	free(base);
	return code == CURLE_OK;
}

/* An answer that is not a success, as an error: the process's own words if it has any. */
static bool
refusal(long status, const json_t *answer, Error *err)
{
	if (!doc_error(answer, "error", err))
		return error_set(err, ERROR_PROTOCOL,
		                 "HTTP status %ld from something that does not seem to be pgbaton", status);
	if (status == MISDIRECTED) {
		err->class = ERROR_NETWORK; /* the one that was meant does not answer */
		error_set_hint(err, "is `pgbaton run` running? --admin or --state-dir say where");
	} else if (status == 401) {
		err->class = ERROR_AUTH;
		error_set_hint(err, "--admin-token-file FILE, the same token as the process has");
	}
	return false;
}

static json_t *
request(Client *client, const char *path, const char *body, long wanted, Error *err)
{
	Buffer answer = BUFFER_INIT;
	long status = 0;
	json_t *json = NULL;

	if (exchange(client, path, body, &answer, &status, err)) {
		json = json_loadb((const char *)answer.data, answer.len, 0, NULL);
		if (status != wanted || !json_is_object(json)) {
			refusal(status, json, err);
			json_decref(json);
			json = NULL;
		}
	}
	buffer_free(&answer);
	return json;
}

json_t *
client_status(Client *client, Error *err)
{
	return client_status_tables(client, "0", err);
}

json_t *
client_status_tables(Client *client, const char *tables, Error *err)
{
	char *path = mem_printf("/v1/status?tables=%s", tables);
	json_t *status = request(client, path, NULL, 200, err);
	const char *directory = status != NULL ? doc_text(status, "state_dir") : "";

	free(path);
	if (directory[0] != '\0' &&
	    (client->state_dir == NULL || strcmp(client->state_dir, directory) != 0)) {
		free(client->state_dir);
		client->state_dir = mem_strdup(directory);
	}
	return status;
}

json_t *
client_get(Client *client, const char *path, Error *err)
{
	return request(client, path, NULL, 200, err);
}

bool
client_post(Client *client, const char *command, const json_t *body, uint64_t *id, Error *err)
{
	char *path = mem_printf("/v1/%s", command);
	char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : mem_strdup("");
	json_t *answer = request(client, path, text, 202, err);

	if (answer != NULL && id != NULL)
		*id = (uint64_t)doc_number(answer, "id");
	free(path);
	free(text);
	json_decref(answer);
	return answer != NULL;
}

json_t *
client_last_status(Client *client)
{
	return statedir_read_last(client->state_dir != NULL ? client->state_dir
	                                                    : client->config->state_dir);
}

/* ---- documents ---- */

const json_t *
doc_at(const json_t *doc, const char *path)
{
	while (doc != NULL && *path != '\0') {
		size_t len = strcspn(path, ".");
		char key[64]; /* json_object_getn is younger than some Jansson here */
		snprintf(key, sizeof(key), "%.*s", (int)len, path);
		doc = json_object_get(doc, key);
		path += len + (path[len] == '.');
	}
	return doc;
}

double
doc_number(const json_t *doc, const char *path)
{
	return json_number_value(doc_at(doc, path));
}

const char *
doc_text(const json_t *doc, const char *path)
{
	const char *text = json_string_value(doc_at(doc, path));

	return text != NULL ? text : "";
}

bool
doc_true(const json_t *doc, const char *path)
{
	return json_is_true(doc_at(doc, path));
}

bool
doc_state(const json_t *doc, MigrationState *out)
{
	return migration_state_parse(doc_text(doc, "state"), out);
}

bool
doc_error(const json_t *doc, const char *path, Error *err)
{
	const json_t *error = doc_at(doc, path);

	if (!json_is_object(error))
		return false;
	error_set(err, ERROR_CONFIG, "%s", doc_text(error, "message"));
	if (doc_text(error, "context")[0] != '\0')
		error_add_context(err, "%s", doc_text(error, "context"));
	if (doc_text(error, "hint")[0] != '\0')
		error_set_hint(err, "%s", doc_text(error, "hint"));
	error_set_sqlstate(err, doc_text(error, "sqlstate"));
	return true;
}
