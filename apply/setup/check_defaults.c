/*
 * ALTER DATABASE ... SET and ALTER ROLE ... SET, side by side. No dump of a database has them,
 * and no session carries them along: a session that is moved, like a new one, has the target's.
 */
#include <string.h>

#include "apply/setup/check_internal.h"
#include "protocol/replication.h"

/* WHOSE: the finding's object; ALTER: the statement up to SET; NEW: what stands behind TO. */
enum { WHOSE, ROLE, ALTER, NAME, QUOTED, VALUE, NEW };

/* Our database is called as on the target, on both sides. A list is kept as SET takes it, with each
 * of its names quoted where it must be (pg_dump's makeAlterConfigCommand). */
static PGresult *
ask_settings(Check *check, Sql *sql)
{
	Buffer database = BUFFER_INIT;

	sql_put_literal(&database, PQdb(sql_pgconn(check->target)));
	PGresult *rows = check_askf(
		check, sql, "settings of roles and databases",
		"SELECT concat('target', ', role ' || role, ', database ' || db, CASE WHEN role IS NULL AND"
		" db IS NULL THEN ', all roles' END) COLLATE \"C\", role,"
		" CASE WHEN role IS NULL AND db IS NOT NULL THEN 'ALTER DATABASE ' || quote_ident(db) ELSE"
		" 'ALTER ROLE ' || coalesce(quote_ident(role), 'ALL')"
		" || coalesce(' IN DATABASE ' || quote_ident(db), '') END,"
		" name COLLATE \"C\", (SELECT string_agg(quote_ident(part), '.')"
		" FROM unnest(string_to_array(name, '.')) part), value,"
		" CASE WHEN name NOT IN ('search_path', 'temp_tablespaces', 'local_preload_libraries',"
		" 'session_preload_libraries') THEN quote_literal(value)"
		" WHEN value = '\"\"' THEN '''''' ELSE value END"
		" FROM (SELECT r.rolname::text AS role, CASE WHEN s.setdatabase <> 0 THEN %s::text END AS db,"
		" split_part(item, '=', 1) AS name, substr(item, strpos(item, '=') + 1) AS value"
		" FROM pg_catalog.pg_db_role_setting s CROSS JOIN unnest(s.setconfig) item"
		" LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole WHERE s.setdatabase IN (0,"
		" (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))) x"
		" ORDER BY 1, 4",
		buffer_cstr(&database));
	buffer_free(&database);
	return rows;
}

static PGresult *
ask_roles(Check *check, Sql *sql)
{
	return check_ask(check, sql, "roles", "SELECT rolname FROM pg_catalog.pg_roles");
}

/* A side's settings, in the order of ask_settings, and whom the other side knows. */
typedef struct {
	PGresult *rows;
	PGresult *their_roles;
	int at;
} Side;

static bool
ended(const Side *side)
{
	return side->at >= PQntuples(side->rows);
}

/* A role that one side alone has is no difference of settings (check_roles). */
static bool
known_there(const Side *side)
{
	return PQgetisnull(side->rows, side->at, ROLE) ||
	       check_row_of(side->their_roles, PQgetvalue(side->rows, side->at, ROLE)) >= 0;
}

/* Below 0: a's comes first. One that has ended comes last. */
static int
compare(const Side *a, const Side *b)
{
	if (ended(a) || ended(b))
		return (int)ended(a) - (int)ended(b);
	int order = strcmp(PQgetvalue(a->rows, a->at, WHOSE), PQgetvalue(b->rows, b->at, WHOSE));
	return order != 0 ? order
	                  : strcmp(PQgetvalue(a->rows, a->at, NAME), PQgetvalue(b->rows, b->at, NAME));
}

/* What differs of one role or database, to become one finding. */
typedef struct {
	const char *whose; /* NULL: nothing yet */
	Buffer message;
	Buffer fix;
	int count;
} Difference;

static void
tell(Check *check, Difference *found)
{
	if (found->whose == NULL)
		return;
	if (found->count++ < CHECK_CAP)
		findings_add(check->findings, FINDING_WARNING, "settings", found->whose,
		             buffer_cstr(&found->fix), "%s: sessions have other defaults there",
		             buffer_cstr(&found->message));
	else
		findings_add(check->findings, FINDING_WARNING, "settings", "more roles", NULL,
		             "there are more than %d whose settings differ", CHECK_CAP);
	found->whose = NULL;
}

static void
put_value(Buffer *out, const Side *side, bool sets)
{
	if (sets)
		buffer_printf(out, "'%s'", PQgetvalue(side->rows, side->at, VALUE));
	else
		buffer_put_text(out, "not set");
}

/* order: whose setting it is, as compare says; 0: both sides', with different values. */
static void
add(Check *check, Difference *found, const Side *source, const Side *target, int order)
{
	const Side *at = order > 0 ? target : source;
	const char *whose = PQgetvalue(at->rows, at->at, WHOSE);

	if (found->whose == NULL || strcmp(found->whose, whose) != 0) {
		tell(check, found);
		buffer_reset(&found->message);
		buffer_reset(&found->fix);
	} else {
		buffer_put_text(&found->message, "; ");
		buffer_put_text(&found->fix, " ");
	}
	found->whose = whose;
	buffer_printf(&found->message, "%s is ", PQgetvalue(at->rows, at->at, NAME));
	put_value(&found->message, source, order <= 0);
	buffer_put_text(&found->message, " on the source and ");
	put_value(&found->message, target, order >= 0);
	buffer_put_text(&found->message, " on the target");
	buffer_printf(&found->fix, order > 0 ? "%s RESET %s;" : "%s SET %s TO %s;",
	              PQgetvalue(at->rows, at->at, ALTER), PQgetvalue(at->rows, at->at, QUOTED),
	              PQgetvalue(at->rows, at->at, NEW));
}

static void
compare_settings(Check *check, Side *source, Side *target)
{
	Difference found = {.message = BUFFER_INIT, .fix = BUFFER_INIT};

	while (!ended(source) || !ended(target)) {
		int order = compare(source, target);
		bool differs = order < 0   ? known_there(source)
		               : order > 0 ? known_there(target)
		                           : strcmp(PQgetvalue(source->rows, source->at, VALUE),
		                                    PQgetvalue(target->rows, target->at, VALUE)) != 0;
		if (differs)
			add(check, &found, source, target, order);
		source->at += order <= 0;
		target->at += order >= 0;
	}
	tell(check, &found);
	buffer_free(&found.message);
	buffer_free(&found.fix);
}

void
check_defaults(Check *check)
{
	Side source = {.rows = ask_settings(check, check->source)};
	Side target = {.rows = source.rows != NULL ? ask_settings(check, check->target) : NULL};

	source.their_roles = target.rows != NULL ? ask_roles(check, check->target) : NULL;
	target.their_roles = source.their_roles != NULL ? ask_roles(check, check->source) : NULL;
	if (target.their_roles != NULL)
		compare_settings(check, &source, &target);
	PQclear(source.rows);
	PQclear(source.their_roles);
	PQclear(target.rows);
	PQclear(target.their_roles);
}
