/* The mover's own sessions on both servers: where they are, and what is asked once for all. */
#include <stdlib.h>
#include <string.h>

#include "apply/sql.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/listener/move/move.h"

enum { QUERY_MS = 10000 };

void
mover_init(Listener *listener)
{
	Mover *mover = mem_zalloc(sizeof(Mover));

	pthread_mutex_init(&mover->phase, NULL);
	pthread_mutex_init(&mover->lock, NULL);
	pthread_cond_init(&mover->changed, NULL);
	mover->stop = stop_new();
	listener->mover = mover;
}

void
mover_stop(Listener *listener)
{
	Mover *mover = listener->mover;

	pthread_mutex_lock(&mover->lock);
	stop_request(mover->stop);
	pthread_cond_broadcast(&mover->changed);
	pthread_mutex_unlock(&mover->lock);
	/* Whoever is in there leaves. */
	pthread_mutex_lock(&mover->phase);
	pthread_mutex_unlock(&mover->phase);
}

void
mover_free(Listener *listener)
{
	Mover *mover = listener->mover;

	for (size_t i = 0; i < sizeof(mover->sql) / sizeof(mover->sql[0]); i++)
		sql_close(mover->sql[i]);
	endpoint_release(mover->endpoint);
	mentions_free(&mover->names);
	for (size_t i = 0; i < sizeof(mover->settings) / sizeof(char *); i++)
		free(mover->settings[i]);
	for (size_t i = 0; i < sizeof(mover->known) / sizeof(mover->known[0]); i++)
		free(mover->known[i]);
	stop_free(mover->stop);
	pthread_mutex_destroy(&mover->phase);
	pthread_mutex_destroy(&mover->lock);
	pthread_cond_destroy(&mover->changed);
	free(mover);
	listener->mover = NULL;
}

static void
drop(Mover *mover, ListenerRoute route)
{
	sql_close(mover->sql[route]);
	mover->sql[route] = NULL;
}

bool
outside_connect(Listener *listener, ListenerRoute route, int64_t deadline_ms, Error *err)
{
	Mover *mover = listener->mover;
	const ConnInfo *info = route == ROUTE_SOURCE ? listener->options.source
	                                             : listener->options.target;

	if (mover->sql[route] == NULL)
		mover->sql[route] = sql_connect(info, listener_route_name(route), "mover", mover->stop,
		                                err);
	if (mover->sql[route] == NULL)
		return false;
	int left = deadline_left_ms(deadline_ms);
	sql_set_timeout_ms(mover->sql[route], left < QUERY_MS ? (left > 0 ? left : 1) : QUERY_MS);
	return true;
}

/* A session of ours that has ended since is made again, once. */
static PGresult *
ask(Listener *listener, ListenerRoute route, const char *text, Error *err)
{
	Mover *mover = listener->mover;
	PGresult *rows = sql_query(mover->sql[route], err, text);

	if (rows != NULL || err->class != ERROR_NETWORK || stop_requested(mover->stop))
		return rows;
	drop(mover, route);
	if (!outside_connect(listener, route, deadline_in_ms(QUERY_MS), err))
		return NULL;
	return sql_query(mover->sql[route], err, text);
}

bool
outside_endpoint(Listener *listener, ListenerRoute route, int64_t deadline_ms, Error *err)
{
	Mover *mover = listener->mover;
	const ConnInfo *info = route == ROUTE_SOURCE ? listener->options.source
	                                             : listener->options.target;

	if (!outside_connect(listener, route, deadline_ms, err))
		return false;
	/* Also tells whether it is still there, and still the server that it was. */
	PGresult *rows = ask(listener, route, "SELECT 1", err);
	if (rows == NULL)
		return false;
	PQclear(rows);
	Endpoint *endpoint = endpoint_of(sql_pgconn(mover->sql[route]), info, route, err);
	if (endpoint == NULL)
		return false;
	endpoint_release(mover->endpoint);
	mover->endpoint = endpoint;
	return true;
}

/*
 * Whatever reads or writes a custom setting names it: functions, policies, views and defaults
 * do (the functions current_setting have the OIDs 2077 and 3294 in all versions, and a stored
 * expression has its functions' OIDs as text), and settings of roles, databases, functions.
 */
static const char names_sql[] =
	"SELECT DISTINCT pg_catalog.lower(m[1]) FROM ("
	"SELECT p.prosrc FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang"
	" WHERE p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal')"
	" AND p.prosrc ~* 'set_config|current_setting|\\mset\\M'"
	" UNION ALL SELECT pg_catalog.pg_get_functiondef(p.oid) FROM pg_catalog.pg_proc p"
	" JOIN pg_catalog.pg_language l ON l.oid = p.prolang"
	" WHERE p.oid >= 16384 AND p.prokind IN ('f', 'p') AND l.lanname = 'sql' AND p.prosrc = ''"
	" UNION ALL SELECT pg_catalog.concat_ws(' ', pg_catalog.pg_get_expr(polqual, polrelid),"
	" pg_catalog.pg_get_expr(polwithcheck, polrelid)) FROM pg_catalog.pg_policy"
	" UNION ALL SELECT pg_catalog.pg_get_viewdef(ev_class) FROM pg_catalog.pg_rewrite"
	" WHERE ev_class >= 16384 AND rulename = '_RETURN'"
	" AND ev_action::pg_catalog.text ~ ':funcid (2077|3294) '"
	" UNION ALL SELECT pg_catalog.pg_get_expr(adbin, adrelid) FROM pg_catalog.pg_attrdef"
	" WHERE adbin::pg_catalog.text ~ ':funcid (2077|3294) '"
	") t(source), pg_catalog.regexp_matches(source,"
	" '(?:(?:set_config|current_setting)\\s*\\(\\s*''|\\mset\\s+(?:session\\s+|local\\s+)?)"
	"([a-z_][a-z0-9_$]*(?:\\.[a-z_][a-z0-9_$]*)+)', 'gi') m"
	" UNION SELECT pg_catalog.lower(pg_catalog.split_part(c, '=', 1)) FROM ("
	"SELECT pg_catalog.unnest(setconfig) FROM pg_catalog.pg_db_role_setting"
	" UNION ALL SELECT pg_catalog.unnest(proconfig) FROM pg_catalog.pg_proc"
	" WHERE proconfig IS NOT NULL) s(c) WHERE pg_catalog.split_part(c, '=', 1) LIKE '%.%'";

void
outside_names(Listener *listener, Mentions *names)
{
	Error err = ERROR_INIT;
	PGresult *rows = ask(listener, listener->mover->from, names_sql, &err);

	if (rows == NULL) {
		log_failure(LOG_WARNING, "listener", &err);
		return;
	}
	for (int i = 0; i < PQntuples(rows); i++)
		mentions_add(names, slice_cstr(sql_get(rows, i, 0)));
	PQclear(rows);
}

/* A function that SETs for more than its transaction does so unseen, maybe to the value that
 * was there: then sessions are asked for all each time. */
static const char sets_sql[] =
	"SELECT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l"
	" ON l.oid = p.prolang WHERE p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal')"
	" AND p.prosrc ~* '\\mset_config\\M(?!\\s*\\(\\s*''[a-z_][a-z0-9_$]*\\.)"
	"|(^|;|''|\\m(begin|then|else|loop)\\M)\\s*set\\s+(session\\s+)?(?!local\\M)[a-z_]+\\s*(=|\\mto\\M)')";

void
outside_sets(Listener *listener)
{
	Mover *mover = listener->mover;
	Error err = ERROR_INIT;
	PGresult *rows = ask(listener, mover->from, sets_sql, &err);

	mover->hidden_sets = rows == NULL || sql_get_bool(rows, 0, 0);
	if (rows == NULL)
		log_failure(LOG_WARNING, "listener", &err);
	PQclear(rows);
}

void
outside_known(Listener *listener, ListenerRoute route, int64_t deadline_ms)
{
	Mover *mover = listener->mover;
	Error err = ERROR_INIT;
	PGresult *rows = NULL;

	if (mover->known[route] != NULL) /* written by who has the phase only */
		return;
	if (outside_connect(listener, route, deadline_ms, &err))
		rows = ask(listener, route,
		           "SELECT ',' || pg_catalog.string_agg(name, ',') || ','"
		           " FROM pg_catalog.pg_show_all_settings()",
		           &err);
	if (rows == NULL) {
		log_failure(LOG_WARNING, "listener", &err);
		return;
	}
	pthread_mutex_lock(&mover->lock);
	mover->known[route] = mem_strdup(sql_get(rows, 0, 0));
	pthread_mutex_unlock(&mover->lock);
	PQclear(rows);
}

bool
mover_knows(Mover *mover, ListenerRoute route, const char *setting)
{
	char name[80];

	pthread_mutex_lock(&mover->lock);
	const char *known = mover->known[route == ROUTE_SOURCE ? ROUTE_TARGET : ROUTE_SOURCE];
	pthread_mutex_unlock(&mover->lock);
	/* One with a dot is an extension's, and a custom one where that is not loaded. */
	if (known == NULL || strchr(setting, '.') != NULL ||
	    snprintf(name, sizeof(name), ",%s,", setting) >= (int)sizeof(name))
		return true;
	return strstr(known, name) != NULL;
}

const char *
mover_settings(Mover *mover, const char *list)
{
	const char *found = NULL;

	pthread_mutex_lock(&mover->lock);
	for (size_t i = 0; found == NULL && i < sizeof(mover->settings) / sizeof(char *); i++) {
		if (mover->settings[i] == NULL)
			mover->settings[i] = mem_strdup(list);
		if (strcmp(mover->settings[i], list) == 0)
			found = mover->settings[i];
	}
	pthread_mutex_unlock(&mover->lock);
	return found;
}

static int
compare_pids(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

bool
outside_locks(Listener *listener, uint32_t **pids, size_t *count, Error *err)
{
	PGresult *rows = ask(listener, listener->mover->from,
	                     "SELECT DISTINCT pid FROM pg_catalog.pg_locks"
	                     " WHERE locktype = 'advisory' AND granted AND pid IS NOT NULL",
	                     err);

	*pids = NULL;
	*count = 0;
	if (rows == NULL)
		return false;
	int found = PQntuples(rows);
	*count = (size_t)found;
	*pids = mem_alloc((size_t)found * sizeof(uint32_t) + 1);
	for (int i = 0; i < found; i++)
		(*pids)[i] = (uint32_t)sql_get_int(rows, i, 0);
	qsort(*pids, *count, sizeof(uint32_t), compare_pids);
	PQclear(rows);
	return true;
}
