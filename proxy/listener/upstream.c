#include "proxy/listener/upstream.h"

#include <openssl/rand.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/sql.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/listener/authfile.h"

enum { MOST_AT_ONCE = 256, QUERY_TIMEOUT_MS = 10000 };

struct Upstream {
	const ConnInfo *infos[3]; /* by route */
	AuthFile *file;
	uint8_t mock_nonce[SCRAM_KEY_SIZE];
	Stop *stop;
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	Question *first;
	Question **last;
	ListenerRoute route;
	ListenerRoute pid_route; /* where `pid` is a process of the thread's session */
	uint32_t pid;

	/* the thread's own */
	Sql *sql;
	Endpoint *endpoint;
	bool denied; /* pg_authid may not be read; said once */
};

/* ---- endpoints ---- */

Endpoint *
endpoint_share(Endpoint *endpoint)
{
	__atomic_add_fetch(&endpoint->users, 1, __ATOMIC_RELAXED);
	return endpoint;
}

void
endpoint_release(Endpoint *endpoint)
{
	if (endpoint == NULL || __atomic_sub_fetch(&endpoint->users, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	tls_config_free(endpoint->tls);
	free(endpoint->host);
	free(endpoint);
}

Endpoint *
endpoint_of(PGconn *conn, const ConnInfo *info, ListenerRoute route, Error *err)
{
	const char *host = PQhost(conn), *numeric = PQhostaddr(conn);
	bool local = host != NULL && (host[0] == '/' || host[0] == '@');
	ConnHost where = {.host = host,
	                  .hostaddr = !local && numeric != NULL && numeric[0] != '\0' ? numeric : NULL,
	                  .port = PQport(conn)};
	ChannelAddress *addresses = NULL;
	size_t count = 0;
	TlsConfig *tls = NULL;

	if (!channel_resolve(&where, &addresses, &count, err))
		return NULL;
	if (PQsslInUse(conn)) {
		tls = tls_config_new(info, err);
		if (tls == NULL) {
			free(addresses);
			return NULL;
		}
	}
	Endpoint *endpoint = mem_zalloc(sizeof(Endpoint));
	*endpoint = (Endpoint){.route = route,
	                       .address = addresses[0],
	                       .info = info,
	                       .host = mem_strdup(host != NULL ? host : ""),
	                       .tls = tls,
	                       .users = 1};
	free(addresses);
	return endpoint;
}

/* ---- the session ---- */

static void
note_pid(Upstream *up, ListenerRoute route, uint32_t pid)
{
	pthread_mutex_lock(&up->lock);
	up->pid_route = route;
	up->pid = pid;
	pthread_mutex_unlock(&up->lock);
}

static void
disconnect(Upstream *up)
{
	note_pid(up, ROUTE_NONE, 0);
	sql_close(up->sql);
	up->sql = NULL;
	endpoint_release(up->endpoint);
	up->endpoint = NULL;
}

static bool
connect_route(Upstream *up, ListenerRoute route, Error *err)
{
	if (up->endpoint != NULL && up->endpoint->route != route)
		disconnect(up);
	if (up->sql != NULL && PQstatus(sql_pgconn(up->sql)) == CONNECTION_OK)
		return true;
	disconnect(up);
	up->sql = sql_connect(up->infos[route], listener_route_name(route), "listener", up->stop, err);
	if (up->sql == NULL)
		return false;
	sql_set_timeout_ms(up->sql, QUERY_TIMEOUT_MS);
	up->endpoint = endpoint_of(sql_pgconn(up->sql), up->infos[route], route, err);
	if (up->endpoint != NULL) {
		note_pid(up, route, (uint32_t)PQbackendPID(sql_pgconn(up->sql)));
		return true;
	}
	disconnect(up);
	return false;
}

/* ---- answers ---- */

static void
answer_pass(Question *q, const char *reason)
{
	q->answer.kind = LOGIN_PASSED;
	q->answer.reason = reason;
}

static bool
answer_from_file(Upstream *up, Question *q)
{
	const Secret *secret = up->file != NULL ? authfile_find(up->file, q->user) : NULL;

	if (secret == NULL)
		return false;
	q->answer.kind = LOGIN_VERIFIED;
	q->answer.secret = *secret;
	return true;
}

static void
answer_from_row(Upstream *up, Question *q, const PGresult *rows, int row)
{
	Secret secret;

	if (row < 0) {
		if (answer_from_file(up, q))
			return;
		q->answer.kind = LOGIN_DOOMED;
		secret_mock(q->user, up->mock_nonce, &q->answer.secret);
		return;
	}
	if (!secret_parse(sql_get(rows, row, 1), &secret) || secret.kind == SECRET_NONE ||
	    secret.kind == SECRET_PLAIN) {
		if (!answer_from_file(up, q))
			answer_pass(q, "the role has no password on the server");
		secret_wipe(&secret);
		return;
	}
	q->answer.kind = sql_get_bool(rows, row, 2) ? LOGIN_DOOMED : LOGIN_VERIFIED;
	q->answer.secret = secret;
	secret_wipe(&secret);
}

static int
find_row(const PGresult *rows, const char *user)
{
	for (int i = 0; i < PQntuples(rows); i++)
		if (strcmp(sql_get(rows, i, 0), user) == 0)
			return i;
	return -1;
}

static void
wipe_column(PGresult *rows, int column)
{
	for (int i = 0; i < PQntuples(rows); i++)
		mem_wipe(PQgetvalue(rows, i, column), (size_t)PQgetlength(rows, i, column));
}

static char *
array_of_users(const Question *list)
{
	Buffer text = BUFFER_INIT;

	buffer_put_u8(&text, '{');
	for (const Question *q = list; q != NULL; q = q->next) {
		buffer_put_text(&text, q == list ? "\"" : ",\"");
		for (const char *c = q->user; *c != '\0'; c++) {
			if (*c == '"' || *c == '\\')
				buffer_put_u8(&text, '\\');
			buffer_put_u8(&text, (uint8_t)*c);
		}
		buffer_put_u8(&text, '"');
	}
	buffer_put_u8(&text, '}');
	char *result = mem_strdup(buffer_cstr(&text));
	buffer_free(&text);
	return result;
}

static PGresult *
read_roles(Upstream *up, const Question *list, Error *err)
{
	char *users = array_of_users(list);
	const char *values[] = {users};
	PGresult *rows = sql_query_params(up->sql, err,
	                                  "SELECT rolname, rolpassword, rolvaliduntil < now() "
	                                  "FROM pg_catalog.pg_authid WHERE rolname = ANY ($1::text[])",
	                                  1, values);
	free(users);
	return rows;
}

static void
answer_denied(Upstream *up, Question *list)
{
	if (!up->denied)
		log_warning("listener", "the migration's role may not read pg_authid: clients are "
		                        "authenticated by --auth-file or by the server itself, and "
		                        "sessions of the latter cannot be moved");
	up->denied = true;
	for (Question *q = list; q != NULL; q = q->next)
		if (!answer_from_file(up, q))
			answer_pass(q, "the migration's role may not read pg_authid");
}

static bool
answer_all(Upstream *up, Question *list, ListenerRoute route, Error *err)
{
	if (!connect_route(up, route, err))
		return false;
	PGresult *rows = read_roles(up, list, err);
	if (rows == NULL && err->class == ERROR_NETWORK && !stop_requested(up->stop)) {
		/* The server was restarted since we asked last. */
		if (!connect_route(up, route, err))
			return false;
		rows = read_roles(up, list, err);
	}
	if (rows == NULL && !error_has_sqlstate(err, "42501"))
		return false;
	if (rows == NULL) {
		answer_denied(up, list);
	} else {
		for (Question *q = list; q != NULL; q = q->next)
			answer_from_row(up, q, rows, find_row(rows, q->user));
		wipe_column(rows, 1);
		PQclear(rows);
	}
	for (Question *q = list; q != NULL; q = q->next)
		q->answer.endpoint = endpoint_share(up->endpoint);
	return true;
}

static void
give_back(Question *list, const Error *failure)
{
	while (list != NULL) {
		Question *q = list;
		list = q->next;
		if (failure != NULL) {
			q->answer.kind = LOGIN_UNREACHABLE;
			q->answer.err = *failure;
		}
		q->done(q);
	}
}

/* ---- the thread ---- */

/* The questions that wait; NULL: stop. */
static Question *
take_questions(Upstream *up, ListenerRoute *route)
{
	pthread_mutex_lock(&up->lock);
	while (!stop_requested(up->stop) && (up->first == NULL || up->route == ROUTE_NONE))
		pthread_cond_wait(&up->changed, &up->lock);
	Question *list = up->first;
	Question **end = &up->first;
	for (int i = 0; *end != NULL && i < MOST_AT_ONCE; i++)
		end = &(*end)->next;
	up->first = *end;
	if (up->first == NULL)
		up->last = &up->first;
	*end = NULL;
	if (end == &up->first)
		list = NULL;
	*route = up->route;
	pthread_mutex_unlock(&up->lock);
	return list;
}

static void *
upstream_main(void *arg)
{
	Upstream *up = arg;

	for (;;) {
		Error err = ERROR_INIT;
		ListenerRoute route;
		Question *list = take_questions(up, &route);

		if (list == NULL)
			break;
		if (stop_requested(up->stop))
			error_set(&err, ERROR_CANCELLED, "pgbaton is stopping");
		if (!stop_requested(up->stop) && answer_all(up, list, route, &err)) {
			give_back(list, NULL);
		} else {
			log_failure(LOG_WARNING, "listener", &err);
			give_back(list, &err);
		}
	}
	disconnect(up);
	return NULL;
}

Upstream *
upstream_start(const ListenerOptions *options, Error *err)
{
	Upstream *up = mem_zalloc(sizeof(Upstream));

	up->infos[ROUTE_SOURCE] = options->source;
	up->infos[ROUTE_TARGET] = options->target;
	up->last = &up->first;
	up->stop = stop_new();
	pthread_mutex_init(&up->lock, NULL);
	pthread_cond_init(&up->changed, NULL);
	bool ok = RAND_bytes(up->mock_nonce, sizeof(up->mock_nonce)) == 1 ||
	          error_set(err, ERROR_AUTH, "no random bytes");
	if (ok && options->auth_file != NULL) {
		up->file = authfile_load(options->auth_file, err);
		ok = up->file != NULL;
	}
	if (ok && pthread_create(&up->thread, NULL, upstream_main, up) == 0)
		return up;
	if (ok)
		error_set(err, ERROR_BUG, "cannot start a thread");
	authfile_free(up->file);
	stop_free(up->stop);
	free(up);
	return NULL;
}

static void
wake(Upstream *up)
{
	pthread_cond_broadcast(&up->changed);
}

void
upstream_stop(Upstream *up)
{
	if (up == NULL)
		return;
	pthread_mutex_lock(&up->lock);
	stop_request(up->stop);
	wake(up);
	pthread_mutex_unlock(&up->lock);
	pthread_join(up->thread, NULL);
	authfile_free(up->file);
	stop_free(up->stop);
	pthread_mutex_destroy(&up->lock);
	pthread_cond_destroy(&up->changed);
	free(up);
}

void
upstream_set_route(Upstream *up, ListenerRoute route)
{
	pthread_mutex_lock(&up->lock);
	up->route = route;
	wake(up);
	pthread_mutex_unlock(&up->lock);
}

uint32_t
upstream_pid_on(Upstream *up, ListenerRoute route)
{
	pthread_mutex_lock(&up->lock);
	uint32_t pid = up->pid_route == route ? up->pid : 0;
	pthread_mutex_unlock(&up->lock);
	return pid;
}

void
upstream_ask(Upstream *up, Question *question)
{
	question->next = NULL;
	question->answer = (LoginAnswer){.kind = LOGIN_UNREACHABLE};
	pthread_mutex_lock(&up->lock);
	*up->last = question;
	up->last = &question->next;
	wake(up);
	pthread_mutex_unlock(&up->lock);
}
