/*
 * Large objects in a migration: copied with the tables, compared and brought up to date before
 * and within the cutover's hold; on the way back, too.
 *
 * The fence's locks keep their writers out where we are a superuser on `from`. Where not, a
 * transaction that writes a migrated table as well is kept out by that table's lock, and
 * refused after the switch; one that writes nothing but large objects is not (the check says so).
 */
#include <string.h>

#include "apply/finish/limit.h"
#include "common/fault.h"
#include "common/log.h"
#include "proxy/migration/cutover/internal.h"

static LobWork
work_of(const Way *way, const Stop *stop)
{
	const Config *config = way->m->config;

	return (LobWork){
		.from = way->from_info,
		.to = way->to_info,
		.from_side = way->from_side,
		.to_side = way->to_side,
		.jobs = config->jobs,
		.no_owner = config->no_owner,
		.no_privileges = config->no_privileges,
		.contents_only = way->back,
		.stop = stop,
	};
}

/* Where we are no superuser the old source's objects may be closed to us, and half of them is
 * not what anybody wants: they then stay as they were at the switch. */
static bool
moves(const Way *way, bool *wanted, Error *err)
{
	*wanted = way->catalog->moves_large_objects;
	if (!*wanted || !way->back)
		return true;
	if (!lobs_by_pages(way_from(way), way_to(way), wanted, err))
		return false;
	if (!*wanted)
		log_warning("large objects", "the way back does not carry them: its users are not "
		                             "superusers on both sides");
	return true;
}

bool
large_objects_copy(Migration *m, Error *err)
{
	Way way = way_forth(m);
	LobWork work = work_of(&way, m->stop);

	return !m->catalog->moves_large_objects ||
	       lobs_copy(&work, m->target, &m->ledger, &m->lobs, err);
}

static bool
none_differ(const LobDifference *found, Error *err)
{
	return lobs_differ(found) == 0 ||
	       error_set(err, ERROR_DIVERGENCE,
	                 "%llu large objects are not the same on both sides (%s)",
	                 (unsigned long long)lobs_differ(found), found->first);
}

bool
large_objects_verify(const Way *way, Sql *holder, bool held, Error *err)
{
	LobWork work = work_of(way, way->m->stop);
	LobDifference found;
	bool wanted;

	work.holder = holder;
	work.held = held;
	return moves(way, &wanted, err) &&
	       (!wanted || (lobs_compare(&work, false, &found, err) && none_differ(&found, err)));
}

static void
log_found(const char *when, bool write, const LobDifference *found)
{
	log_info("cutover",
	         "large objects %s: %llu compared (%llu bytes), %llu new, %llu changed, %llu gone%s",
	         when, (unsigned long long)found->objects, (unsigned long long)found->bytes,
	         (unsigned long long)found->created, (unsigned long long)found->changed,
	         (unsigned long long)found->dropped, write ? "; brought up to date" : "");
}

bool
cutover_large_objects_ahead(Cutover *c, Error *err)
{
	LobWork work = work_of(&c->way, c->way.stop);
	LobDifference found;
	bool wanted;

	if (c->rehearsal)
		return true;
	if (!moves(&c->way, &wanted, err) || !wanted)
		return !wanted;
	if (!lobs_compare(&work, true, &found, err))
		return error_add_context(err, "before the hold");
	log_found("before the hold", true, &found);
	return true;
}

typedef struct {
	LobWork work;
	bool write;
	LobDifference found;
} Late;

static bool
compare(const Stop *limit, void *arg, Error *err)
{
	Late *late = arg;

	late->work.stop = limit;
	return lobs_compare(&late->work, late->write, &late->found, err);
}

/* On neither side: then there is nothing to compare, for which sessions would be opened in the
 * hold. Of the control sessions, which the fence's lock does not keep from reading. */
static bool
there_are_none(const Way *way, bool *none, Error *err)
{
	static const char count[] = "SELECT count(*) FROM (SELECT FROM"
								" pg_catalog.pg_largeobject_metadata LIMIT 1) AS m";
	char here[8], there[8];

	if (!sql_value(way_from(way), err, here, sizeof(here), count) ||
	    !sql_value(way_to(way), err, there, sizeof(there), count))
		return false;
	*none = strcmp(here, "0") == 0 && strcmp(there, "0") == 0;
	return true;
}

bool
cutover_large_objects(Cutover *c, Error *err)
{
	bool held = c->way.catalog->locks_large_objects;
	Late late = {.work = work_of(&c->way, c->way.stop), .write = !c->rehearsal};
	bool wanted, none = false;

	if (!moves(&c->way, &wanted, err) || !wanted)
		return !wanted;
	steps_bound(c);
	if (!there_are_none(&c->way, &none, err) || none)
		return none;
	/* The comparison keeps the deadline itself, and says what would help; it reads through the
	 * fence's session. */
	steps_unbound(c);
	if (!source_fence_enable_end(c->fence, err))
		return false;
	late.work.holder = held ? c->fence : NULL;
	late.work.held = held;
	late.work.deadline_ms = c->deadline_ms;
	bool ok = within_deadline(c->way.stop, c->deadline_ms, compare, &late, err);
	FAULT_POINT("cutover_lobs");
	c->now.large_objects = late.found.objects;
	c->now.large_objects_differed = lobs_differ(&late.found);
	if (ok) {
		log_found("within the hold", late.write, &late.found);
		return true;
	}
	error_add_context(err, "bringing the large objects up to date");
	if (err->class == ERROR_TIMEOUT) {
		err->class = ERROR_CONFIG;
		error_set_hint(err, "a longer --hold-timeout gives them the time; --large-objects skip "
		                    "leaves them out");
	}
	return false;
}
