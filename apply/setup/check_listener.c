/*
 * Those who log in through the listener: at the switch their sessions are opened on the target, with
 * what their logins have shown (proxy/listener). Whom the target does not let in stays where he is.
 */
#include <stdlib.h>
#include <string.h>

#include "apply/setup/check_internal.h"

enum { ROLE_NAME, ROLE_SESSIONS, ROLE_KIND, ROLE_DIGEST };
enum {
	THEIR_NAME,
	THEIR_LOGIN,
	THEIR_CONNECT,
	THEIR_LIMIT,
	THEIR_KIND,
	THEIR_DIGEST,
	THEIR_EXPIRED
};

/* Of the verifier: its kind, and enough of it to tell whether two are the same. */
static const char *
secret_columns(bool readable)
{
	return readable ? "CASE WHEN h.rolpassword LIKE 'SCRAM-SHA-256$%' THEN 'SCRAM-SHA-256'"
	                  " WHEN h.rolpassword LIKE 'md5%' THEN 'md5' ELSE '' END,"
	                  " coalesce(pg_catalog.sha256(h.rolpassword::pg_catalog.bytea)::text, '')"
	                : "'', ''";
}

static bool
secrets_readable(Check *check, Sql *sql)
{
	const char *value = check_value(
		check, sql, "listener_auth",
		"SELECT pg_catalog.bool_and(pg_catalog.has_column_privilege("
		"'pg_catalog.pg_authid', c, 'SELECT')) FROM"
		" pg_catalog.unnest('{rolname,rolpassword,rolvaliduntil}'::text[]) c");

	return value != NULL && strcmp(value, "t") == 0;
}

static const char *
join(bool readable)
{
	return readable ? "JOIN pg_catalog.pg_authid h ON h.oid = r.oid" : "";
}

/* Who may log in to the source's database; of superusers those who do so now. */
static PGresult *
ask_roles(Check *check, bool readable)
{
	return check_askf(
		check, check->source, "listener_role",
		"SELECT r.rolname, coalesce(s.sessions, 0), %s FROM pg_catalog.pg_roles r %s LEFT JOIN"
		" (SELECT a.usesysid, count(*) AS sessions FROM pg_catalog.pg_stat_activity a"
		" WHERE a.datname = current_database() AND a.application_name !~ '^pgbaton '"
		" AND a.pid <> pg_catalog.pg_backend_pid() GROUP BY 1) s ON s.usesysid = r.oid"
		" WHERE r.rolcanlogin AND r.rolname !~ '^pg_' AND"
		" pg_catalog.has_database_privilege(r.oid, current_database(), 'CONNECT')"
		" AND (NOT r.rolsuper OR s.sessions > 0) ORDER BY 2 DESC, 1",
		secret_columns(readable), join(readable));
}

static PGresult *
ask_their_roles(Check *check, bool readable)
{
	return check_askf(check, check->target, "listener_role",
	                  "SELECT r.rolname, r.rolcanlogin,"
	                  " pg_catalog.has_database_privilege(r.oid, current_database(), 'CONNECT'),"
	                  " r.rolconnlimit, %s, coalesce(r.rolvaliduntil < now(), false)"
	                  " FROM pg_catalog.pg_roles r %s",
	                  secret_columns(readable), join(readable));
}

static const char *
passwords_differ(const PGresult *ours, int i, const PGresult *theirs, int k)
{
	const char *kind = PQgetvalue(ours, i, ROLE_KIND);

	if (*kind == '\0')
		return NULL; /* none that we know: whatever lets him in, lets him in there or not */
	if (*PQgetvalue(theirs, k, THEIR_KIND) == '\0')
		return "has no password there, for which the target may ask";
	if (strcmp(kind, PQgetvalue(theirs, k, THEIR_KIND)) != 0)
		return "has a password of another kind there, for which the target may ask";
	if (strcmp(PQgetvalue(ours, i, ROLE_DIGEST), PQgetvalue(theirs, k, THEIR_DIGEST)) != 0)
		return "has another password there, or the same one with another salt, for which the target"
			   " may ask";
	return NULL;
}

/* k: its row on the target; -1: none. NULL: nothing is in its way. */
static const char *
why_kept_out(Check *check, const PGresult *ours, int i, const PGresult *theirs, int k, bool secrets,
             const char **fix)
{
	const char *role = check_quoted(check, PQgetvalue(ours, i, ROLE_NAME));

	*fix = check_text(check,
	                  "on the source pg_dumpall --roles-only prints the statements; run on the"
	                  " target those about %s",
	                  role);
	if (k < 0)
		return "does not exist on the target";
	if (!sql_get_bool(theirs, k, THEIR_LOGIN)) {
		*fix = check_text(check, "ALTER ROLE %s LOGIN;", role);
		return "is NOLOGIN there";
	}
	if (!sql_get_bool(theirs, k, THEIR_CONNECT)) {
		*fix = check_text(check, "GRANT CONNECT ON DATABASE %s TO %s;",
		                  check_quoted(check, PQdb(sql_pgconn(check->target))), role);
		return "may not connect to the database there";
	}
	if (sql_get_bool(theirs, k, THEIR_EXPIRED)) {
		*fix = check_text(check, "ALTER ROLE %s VALID UNTIL 'infinity';", role);
		return "has a password there that is no longer valid";
	}
	int64_t limit = sql_get_int(theirs, k, THEIR_LIMIT);
	if (limit >= 0 && limit < sql_get_int(ours, i, ROLE_SESSIONS)) {
		*fix = check_text(check, "ALTER ROLE %s CONNECTION LIMIT -1;", role);
		return check_text(check, "has CONNECTION LIMIT %lld there", (long long)limit);
	}
	return secrets ? passwords_differ(ours, i, theirs, k) : NULL;
}

static bool
check_role(Check *check, const PGresult *ours, int i, const PGresult *theirs, bool secrets)
{
	const char *name = PQgetvalue(ours, i, ROLE_NAME);
	const char *sessions = PQgetvalue(ours, i, ROLE_SESSIONS);
	const char *fix;
	const char *why = why_kept_out(check, ours, i, theirs, check_row_of(theirs, name), secrets,
	                               &fix);

	if (why != NULL)
		findings_add(
			check->findings, FINDING_WARNING, "listener_role", check_text(check, "role %s", name),
			fix,
			"it can log in on the source (sessions now: %s) and %s: the listener cannot move its"
			" sessions",
			sessions, why);
	return why == NULL;
}

static void
check_roles(Check *check, bool ours_readable, bool theirs_readable)
{
	PGresult *ours = ask_roles(check, ours_readable);
	PGresult *theirs = ours != NULL ? ask_their_roles(check, theirs_readable) : NULL;
	int named = 0;

	for (int i = 0; theirs != NULL && i < PQntuples(ours); i++) {
		if (named == CHECK_CAP) {
			findings_add(check->findings, FINDING_WARNING, "listener_role", "more roles", NULL,
			             "there may be more roles like these; the rest is not listed");
			break;
		}
		if (!check_role(check, ours, i, theirs, ours_readable && theirs_readable))
			named++;
	}
	PQclear(ours);
	PQclear(theirs);
}

/* One connection on the target for each of the listener's, and as many at once. */
static void
check_connections(Check *check)
{
	const char *sessions = check_value(
		check, check->source, "listener_connections",
		"SELECT count(*) FROM pg_catalog.pg_stat_activity a"
		" WHERE a.datname = current_database() AND a.usesysid IS NOT NULL"
		" AND a.application_name !~ '^pgbaton '"
		" AND a.pid <> pg_catalog.pg_backend_pid()");
	PGresult *theirs = check_ask(
		check, check->target, "listener_connections",
		"SELECT current_setting('max_connections')::int - (SELECT count(*) FROM"
		" pg_catalog.pg_stat_activity a WHERE a.usesysid IS NOT NULL AND a.pid <>"
		" pg_catalog.pg_backend_pid()), current_setting('max_connections')");

	if (sessions != NULL && theirs != NULL &&
	    sql_get_int(theirs, 0, 0) < strtoll(sessions, NULL, 10))
		findings_add(
			check->findings, FINDING_WARNING, "listener_connections", "target",
			"raise the target's max_connections, and restart it",
			"max_connections is %s, of which %s are left: the source's database has %s"
			" sessions now, and a cutover opens one on the target for each of the listener's",
			PQgetvalue(theirs, 0, 1), PQgetvalue(theirs, 0, 0), sessions);
	PQclear(theirs);
}

void
check_listener(Check *check)
{
	if (!check->options->listens)
		return;
	bool ours = secrets_readable(check, check->source);
	bool theirs = check->broken.class == ERROR_NONE && secrets_readable(check, check->target);

	if (check->broken.class == ERROR_NONE && !ours && !check->options->auth_file)
		findings_add(
			check->findings, FINDING_WARNING, "listener_auth", "source",
			check_text(check,
		               "GRANT SELECT ON pg_catalog.pg_authid TO %s; (as a superuser, in this"
		               " database), or name users and secrets in --auth-file",
		               check->user),
			"%s may not read pg_authid: the listener's clients are passed to the server's own"
			" login, and such sessions cannot be moved",
			check->user);
	if (check->broken.class == ERROR_NONE)
		check_roles(check, ours, theirs);
	if (check->broken.class == ERROR_NONE)
		check_connections(check);
}
