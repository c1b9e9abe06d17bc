/* Large objects: whether they can be moved, and what the comparison at the cutover costs. */
#include <stdlib.h>
#include <string.h>

#include "apply/lobs/lobs.h"
#include "apply/setup/check_internal.h"

#define OBJECTS(check) ((unsigned long long)(check)->catalog->large_objects)

static void
check_left_out(Check *check)
{
	bool asked = check->options->selection.large_objects == LARGE_OBJECTS_SKIP;

	if (check->catalog->large_objects > 0)
		findings_add(check->findings, FINDING_INFO, "large_objects", "source",
		             asked ? NULL : "--large-objects copy",
		             asked ? "%llu large objects are left out, as asked for"
		                   : "%llu large objects are left out, as by pg_dump where tables or "
		                     "schemas to include are named",
		             OBJECTS(check));
}

/* What is not ours to read would be missing on the target. lo_compat_privileges lets everybody
 * read everything. */
static void
check_readable(Check *check)
{
	const char *closed = check_value(
		check, check->source, "large objects",
		"SELECT count(*) FROM pg_catalog.pg_largeobject_metadata m WHERE NOT (SELECT rolsuper"
		" FROM pg_catalog.pg_roles WHERE rolname = current_user)"
		" AND pg_catalog.current_setting('lo_compat_privileges') = 'off'"
		" AND NOT EXISTS (SELECT 1 FROM pg_catalog.aclexplode("
		"coalesce(m.lomacl, pg_catalog.acldefault('L', m.lomowner))) a"
		" WHERE a.privilege_type = 'SELECT'"
		" AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))");

	if (closed != NULL && strcmp(closed, "0") != 0)
		findings_add(check->findings, FINDING_BLOCKER, "large_objects_rights", "source",
		             check_text(check, "make %s a member of their owners; or --large-objects skip",
		                        check->user),
		             "%s may not read %s of %llu large objects", check->user, closed,
		             OBJECTS(check));
}

/* At the cutover what the source does not have is removed from the target. */
static void
check_target_empty(Check *check)
{
	const char *there = check_value(check, check->target, "large objects",
	                                "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata");

	if (!check->options->resuming && there != NULL && strcmp(there, "0") != 0)
		findings_add(check->findings, FINDING_BLOCKER, "large_objects_target", "target",
		             "remove them (SELECT lo_unlink(oid) FROM pg_largeobject_metadata), or "
		             "--large-objects skip",
		             "it has %s large objects: their numbers may be those of the source's, and "
		             "nothing is overwritten",
		             there);
}

/* Whoever writes a migrated table as well waits for its lock, and is refused after it. */
static void
check_writers(Check *check)
{
	if (check->catalog->large_objects == 0)
		return;
	if (check->catalog->locks_large_objects)
		findings_add(check->findings, FINDING_WARNING, "large_objects_fence", "source",
		             "such writers have to connect to the target at the switch (--listen), or "
		             "be stopped before it",
		             "a transaction that writes large objects and no migrated table is held at "
		             "the cutover, but not refused after it: no trigger can be made on them");
	else
		findings_add(check->findings, FINDING_WARNING, "large_objects_fence", "source",
		             "use a superuser as --source, or stop those writers before the cutover",
		             "%s may not lock large objects: a transaction that writes them and no "
		             "migrated table is not held at the cutover nor refused after it, and what it "
		             "commits then can be missing on the target",
		             check->user);
}

static void
check_time(Check *check, bool pages)
{
	const Catalog *catalog = check->catalog;
	double seconds = lobs_estimate_s(pages, catalog->large_objects, catalog->large_object_bytes);

	if (catalog->large_objects == 0)
		return;
	findings_add(
		check->findings, seconds < 0.5 ? FINDING_INFO : FINDING_WARNING, "large_objects", "source",
		seconds < 0.5 ? NULL : "a --hold-timeout that has the time, or --large-objects skip",
		"%llu large objects (%.1f MiB) are copied, and compared at the cutover while "
		"writers are held: about %.1f s, by %s",
		OBJECTS(check), (double)catalog->large_object_bytes / (1024 * 1024), seconds,
		pages ? "the pages of pg_largeobject"
			  : "lo_get, which a superuser on both sides "
				"would not need");
}

static void
check_back(Check *check)
{
	bool pages;

	if (!check->options->failback || check->catalog->large_objects == 0 ||
	    !lobs_by_pages(check->target, check->source, &pages, &check->broken) || pages)
		return;
	findings_add(check->findings, FINDING_WARNING, "way_back_large_objects", "migration",
	             "superusers as --source and --target",
	             "the way back does not carry large objects: after a failback they are those of "
	             "the cutover");
}

void
check_large_objects(Check *check)
{
	bool pages;

	if (check->catalog == NULL)
		return;
	if (!check->catalog->moves_large_objects) {
		check_left_out(check);
		return;
	}
	if (!lobs_by_pages(check->source, check->target, &pages, &check->broken))
		return;
	check_readable(check);
	check_target_empty(check);
	if (!check->options->online)
		return;
	check_writers(check);
	check_time(check, pages);
	check_back(check);
}
