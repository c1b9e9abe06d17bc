/*
 * What must not have happened between the copy and the switch: DDL is not replicated, and a
 * table that came later would be lost.
 */
#include <stdio.h>
#include <string.h>

#include "apply/copy/rewrite.h"
#include "common/log.h"
#include "proxy/migration/cutover/internal.h"

/* Which relations there are, how many columns they have and in which files they lie, in one cheap
 * query: to see under the locks that nothing has come or changed since cutover_refuse_ddl looked
 * closely. */
static bool
relations_print(Cutover *c, char *out, size_t size, Error *err)
{
	char query[560];

	snprintf(
		query, sizeof(query),
		"SELECT count(*) || '.' || coalesce(sum(pg_catalog.hashtext(c.oid || '.' || c.relnatts"
		" || '.' || c.relname)), 0) || ' ' || coalesce(sum(pg_catalog.hashtext(c.oid || '.' ||"
		" c.relfilenode)), 0) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
		" ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'"
		" AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '%s', '%s_back')",
		c->m->ledger.name, c->m->ledger.name);
	return sql_value(way_from(&c->way), err, out, size, query);
}

/* Of the way back no copy has been made that could have noted anything. */
static bool
refuse_rewritten(Cutover *c, Error *err)
{
	const Way *way = &c->way;
	bool same = true;
	char what[400];

	if (way->back)
		return true;
	if (!rewrite_compare(way_from(way), way_to(way), way->ledger, way->catalog, &same, what,
	                     sizeof(what), err))
		return false;
	if (same)
		return true;
	error_set(err, ERROR_CONFIG,
	          "changed on the source since the copy by what no stream carries: %s", what);
	return error_set_hint(err,
	                      "pgbaton recopy copies such a table afresh; where pgbaton verify"
	                      " --table finds it equal (VACUUM FULL, CLUSTER or TRUNCATE and a"
	                      " column's statistics or default look like a rewrite), the cutover is"
	                      " free, too");
}

/* Dropped on the source before this process began, so its catalogue does not have them. Left on the
 * target, a partition's rows would be there that the source has not. */
bool
cutover_refuse_dropped(const Migration *m, Error *err)
{
	Buffer list = BUFFER_INIT;
	bool ok = ledger_list_dropped(m->target, &m->ledger, m->catalog, &list, err);

	if (ok && list.len > 0) {
		error_set(err, ERROR_CONFIG,
		          "copied tables were dropped on the source since, and are on the target still: %s",
		          buffer_cstr(&list));
		ok = error_set_hint(err, "on the target, DROP TABLE %s; or rename what is to stay",
		                    buffer_cstr(&list));
	}
	buffer_free(&list);
	return ok;
}

/* A table that was made, or a column that was added, while we drained would be lost. */
bool
cutover_refuse_late_ddl(Cutover *c, Error *err)
{
	char now[sizeof(c->tables)];

	if (!relations_print(c, now, sizeof(now), err))
		return false;
	if (strcmp(now, c->tables) == 0)
		return true;
	/* Other files alone: TRUNCATE as a rule, which the stream carries. */
	size_t len = strcspn(now, " ");
	if (strncmp(now, c->tables, len + 1) == 0)
		return refuse_rewritten(c, err);
	error_set(err, ERROR_CONFIG, "tables were made or changed on the %s while the cutover began",
	          c->way.from_side);
	return error_set_hint(err, "ask for the cutover again: it will name them");
}

bool
cutover_refuse_ddl(Cutover *c, Error *err)
{
	const Way *way = &c->way;
	bool same;
	char what[400];

	if (!relations_print(c, c->tables, sizeof(c->tables), err) ||
	    !source_check_publication(way_from(way), way->ledger, way->catalog, err) ||
	    !catalog_compare_source(way->catalog, way_from(way), &c->m->selection, way->ledger->name,
	                            &same, what, sizeof(what), err))
		return false;
	if (same)
		return (way->back || cutover_refuse_dropped(c->m, err)) && refuse_rewritten(c, err);
	error_set(err, ERROR_CONFIG, "the %s's tables are not those that were %s: %s", way->from_side,
	          way->back ? "switched to" : "copied", what);
	return error_set_hint(
		err, way->back ? "a changed table: make the same change on the source and start "
						 "pgbaton again; a new one cannot go back: start it again with "
						 "--exclude-table, and its rows stay on the target"
					   : "a new table: pgbaton add-table; a changed one: undo it on "
						 "the source, or make the same change on the target and start "
						 "pgbaton again");
}

/* Told, not refused: a view or an index more is no row less, and whether the target has a change
 * can only be seen by whoever made it. */
bool
cutover_name_definitions(Cutover *c, Error *err)
{
	const Way *way = &c->way;
	DefinitionChanges *found = &c->now.definitions;

	if (way->back)
		return true;
	if (!definitions_compare(way_from(way), way_to(way), way->ledger, c->m->config->state_dir,
	                         found, err))
		return false;
	for (size_t i = 0; i < found->count && i < DEFINITIONS_NAMED; i++)
		log_warning(
			"cutover",
			"a definition has changed on the source since the schema was copied, and DDL is "
			"not replicated: %s",
			found->named[i]);
	if (found->count > DEFINITIONS_NAMED)
		log_warning("cutover", "and %zu more", found->count - DEFINITIONS_NAMED);
	return true;
}
