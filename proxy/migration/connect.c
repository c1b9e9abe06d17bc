#include <libpq-fe.h>

#include "apply/sql.h"
#include "common/clock.h"
#include "common/log.h"
#include "proxy/migration/internal.h"

enum { LOOK_EVERY_MS = 1000 };

/* libpq knows of a lost connection only when it is used: the server may have been restarted
 * since we last said something, hours ago, or not be reachable any more. */
static bool
is_alive(Sql *sql)
{
	enum { PING_MS = 5000 };

	if (sql == NULL || PQstatus(sql_pgconn(sql)) != CONNECTION_OK)
		return false;
	sql_set_timeout_ms(sql, PING_MS);
	bool alive = sql_exec(sql, NULL, "");
	sql_set_timeout_ms(sql, 0);
	return alive;
}

Sql *
migration_control_session(const ConnInfo *info, const char *side, const char *purpose,
                          const Stop *stop, Error *err)
{
	Sql *sql = sql_connect(info, side, purpose, stop, err);

	if (sql != NULL && !sql_rest_event_triggers(sql, err)) {
		sql_close(sql);
		return NULL;
	}
	return sql;
}

static bool
reopen(Migration *m, Sql **sql, const ConnInfo *info, const char *side, Error *err)
{
	if (is_alive(*sql))
		return true;
	sql_close(*sql);
	*sql = migration_control_session(info, side, "control", m->stop, err);
	return *sql != NULL;
}

bool
migration_connect_source(Migration *m, Error *err)
{
	return reopen(m, &m->source, m->config->source, "source", err);
}

bool
migration_connect_target(Migration *m, Error *err)
{
	return reopen(m, &m->target, m->config->target, "target", err);
}

bool
migration_look_at_target(Migration *m, uint32_t *now, bool *other, Error *err)
{
	Sql *fresh = sql_connect(m->config->target, "target", "look", m->stop, err);
	uint32_t was = atomic_load(&m->target_timeline);

	*now = 0;
	bool ok = fresh != NULL && ledger_read_timeline(fresh, now, err);
	sql_close(fresh);
	*other = ok && was != 0 && *now != 0 && *now != was;
	if (!*other)
		return ok;
	log_warning("migration",
	            "the target is on timeline %u, not %u any more: another server has taken its place",
	            *now, was);
	sql_close(m->target); /* it may lead to the old one still */
	m->target = NULL;
	return migration_connect_target(m, err);
}

bool
migration_same_target(Migration *m, Error *err)
{
	uint32_t now;
	bool other;

	if (!migration_look_at_target(m, &now, &other, err))
		return false;
	return !other || error_set(err, ERROR_NETWORK, "what it has is looked at again");
}

bool
migration_keep_target(Migration *m, int64_t *next_ms, Error *err)
{
	if (clock_mono_ms() < *next_ms)
		return true;
	*next_ms = clock_mono_ms() + LOOK_EVERY_MS;
	return is_alive(m->target) || migration_same_target(m, err);
}

/*
 * The lock that elects us lives as long as its session. A target that was restarted has
 * forgotten it, and somebody else may work on this migration by now: then we must not.
 */
bool
migration_keep_lock(Migration *m, int64_t *next_ms, Error *err)
{
	if (clock_mono_ms() < *next_ms)
		return true;
	*next_ms = clock_mono_ms() + LOOK_EVERY_MS;
	if (is_alive(m->lock_session))
		return true;
	sql_close(m->lock_session);
	m->lock_session = sql_connect(m->config->target, "target", "lock", m->stop, err);
	if (m->lock_session != NULL && ledger_lock(m->lock_session, m->config->name, err) &&
	    (m->state != STATE_FOLLOWING || phase_settle_target(m, STATE_FOLLOWING, err)))
		return true;
	if (err->class != ERROR_CONFIG)
		return true; /* the target is away: the applier retries, and so do we */
	phase_stop_stream(m);
	way_back_stop(m);
	return false;
}

bool
migration_connect(Migration *m, Error *err)
{
	return migration_connect_source(m, err) && migration_connect_target(m, err);
}
