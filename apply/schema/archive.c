#include "apply/schema/archive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply/schema/child.h"
#include "apply/schema/chosen.h"
#include "common/log.h"
#include "common/memory.h"
#include "protocol/replication.h"

/*
 * Roles that definitions of this database mention: 'o' owners, the others by privileges
 * and policies. The bootstrap superuser is pinned, so pg_shdepend does not have it.
 */
static const char roles_sql[] =
	"SELECT DISTINCT CASE d.deptype WHEN 'o' THEN 'o' ELSE 'a' END, r.rolname::text"
	" FROM pg_catalog.pg_shdepend d"
	" JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid"
	" WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.dbid ="
	"  (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
	" UNION SELECT 'o', r.rolname::text FROM pg_catalog.pg_class c"
	" JOIN pg_catalog.pg_roles r ON r.oid = c.relowner"
	" WHERE c.relowner = 10 AND c.oid >= 16384"
	" UNION SELECT 't', s.spcname::text FROM pg_catalog.pg_class c"
	" JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace"
	" WHERE c.oid >= 16384"
	" ORDER BY 1, 2";

static bool
on_target(const SchemaWork *work, const char *type, const char *name, bool *found, Error *err)
{
	const char *values[] = {name};
	PGresult *result = sql_query_params(
		work->target_sql, err,
		type[0] == 't' ? "SELECT 1 FROM pg_catalog.pg_tablespace WHERE spcname = $1"
					   : "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1",
		1, values);

	if (result == NULL)
		return false;
	*found = PQntuples(result) > 0;
	PQclear(result);
	return true;
}

static void
warn_missing(const char *what, const Buffer *names, const char *effect)
{
	if (names->len > 0)
		log_warning("schema", "%s not on the target: %.*s; %s", what, (int)names->len,
		            (const char *)names->data, effect);
}

typedef struct {
	Buffer owners;
	Buffer grantees;
	Buffer tablespaces;
} Missing;

static bool
find_missing(const SchemaWork *work, const PGresult *mentioned, Missing *missing, Error *err)
{
	for (int row = 0; row < PQntuples(mentioned); row++) {
		const char *type = sql_get(mentioned, row, 0);
		const char *name = sql_get(mentioned, row, 1);
		Buffer *to = type[0] == 'o'   ? &missing->owners
		             : type[0] == 't' ? &missing->tablespaces
		                              : &missing->grantees;
		bool found = false;
		if (!on_target(work, type, name, &found, err))
			return false;
		if (!found)
			buffer_printf(to, "%s%s", to->len > 0 ? ", " : "", name);
	}
	return true;
}

static void
settle(const SchemaWork *work, const Missing *missing, SchemaTools *out)
{
	out->no_owner = work->no_owner || missing->owners.len > 0;
	out->no_privileges = work->no_privileges || missing->grantees.len > 0;
	out->no_tablespaces = missing->tablespaces.len > 0;
	if (!work->no_owner)
		warn_missing("owners", &missing->owners, "everything will belong to our user there");
	if (!work->no_privileges)
		warn_missing("roles with privileges or policies", &missing->grantees,
		             "no privileges will be restored");
	warn_missing("tablespaces", &missing->tablespaces, "the default one is used");
}

static bool
compare_roles(const SchemaWork *work, SchemaTools *out, Error *err)
{
	Missing missing = {BUFFER_INIT, BUFFER_INIT, BUFFER_INIT};
	Sql *source = sql_connect(work->source, "source", "schema", work->stop, err);

	if (source == NULL)
		return false;
	PGresult *mentioned = sql_query(source, err, roles_sql);
	bool ok = mentioned != NULL && find_missing(work, mentioned, &missing, err);
	if (ok)
		settle(work, &missing, out);
	PQclear(mentioned);
	sql_close(source);
	buffer_free(&missing.owners);
	buffer_free(&missing.grantees);
	buffer_free(&missing.tablespaces);
	return ok;
}

/* Costs some processes and a session. */
static bool
find_tools(const SchemaWork *work, SchemaTools *out, Error *err)
{
	if (work->tools != NULL && work->tools->known) {
		*out = *work->tools;
		return true;
	}
	if (!schema_find_tools(work->catalog->source_version, out->pg_dump, out->pg_restore,
	                       sizeof(out->pg_dump), err) ||
	    !compare_roles(work, out, err))
		return false;
	out->known = true;
	if (work->tools != NULL)
		*work->tools = *out;
	return true;
}

bool
archive_open(const SchemaWork *work, bool fresh, Archive *out, Error *err)
{
	*out = (Archive){.arena = arena_new(0)};
	char number[16] = "";
	if (work->addition > 0)
		snprintf(number, sizeof(number), "-%d", work->addition);
	if ((size_t)snprintf(out->path, sizeof(out->path), "%s/schema%s.dump", work->state_dir,
	                     number) >= sizeof(out->path))
		return error_set(err, ERROR_CONFIG, "the state directory's name is too long");
	if (!find_tools(work, &out->tools, err))
		return false;
	if (!fresh && access(out->path, R_OK) == 0)
		return true;
	if (work->addition > 0 && work->before == NULL)
		return error_set(err, ERROR_STORAGE,
		                 "%s is gone: the definitions of the tables that are added", out->path);
	if (work->tools != NULL && work->addition == 0)
		schema_tools_free(work->tools);
	return dump_write(work, out, err);
}

void
archive_close(Archive *archive)
{
	arena_free(archive->arena);
	*archive = (Archive){0};
}

/* No connection: pg_restore only translates the archive to text. */
static bool
run_pg_restore(const SchemaWork *work, const Archive *archive, const char *section,
               const char *mode, Buffer *out, Error *err)
{
	const char *argv[12];
	char option[40];
	int n = 0;

	snprintf(option, sizeof(option), "--section=%s", section);
	argv[n++] = archive->tools.pg_restore;
	argv[n++] = option;
	argv[n++] = mode;
	if (archive->tools.no_owner)
		argv[n++] = "--no-owner";
	if (archive->tools.no_privileges)
		argv[n++] = "--no-privileges";
	if (work->no_security_labels)
		argv[n++] = "--no-security-labels";
	if (archive->tools.no_tablespaces)
		argv[n++] = "--no-tablespaces";
	if (strcmp(mode, "--list") != 0)
		argv[n++] = "--file=-";
	argv[n++] = archive->path;
	argv[n] = NULL;
	ChildRun run = {.argv = argv, .stop = work->stop};
	return child_run(&run, out, err);
}

bool
archive_read(const SchemaWork *work, const Archive *archive, const char *section, Entries *out,
             Error *err)
{
	Buffer list = BUFFER_INIT;
	Buffer script = BUFFER_INIT;
	bool ok = run_pg_restore(work, archive, section, "--list", &list, err) &&
	          toc_read(buffer_slice(&list), archive->arena, out, err) &&
	          run_pg_restore(work, archive, section, "--verbose", &script, err) &&
	          script_read(buffer_slice(&script), archive->arena, out, err);

	if (ok)
		chosen_entries(work, archive->arena, out);

	buffer_free(&list);
	buffer_free(&script);
	return ok || error_add_context(err, "reading the %s of %s", section, archive->path);
}

/* ---- the post-data ---- */

struct PostData {
	Arena *arena;
	Entries entries;
};

void
schema_tools_free(SchemaTools *tools)
{
	if (tools->post == NULL)
		return;
	arena_free(tools->post->arena);
	free(tools->post);
	tools->post = NULL;
}

static bool
is_kept(const SchemaWork *work)
{
	return work->tools != NULL && work->addition == 0;
}

bool
archive_post_data(const SchemaWork *work, const Archive *archive, Entries *out, Error *err)
{
	if (!is_kept(work))
		return archive_read(work, archive, "post-data", out, err);
	if (work->tools->post == NULL) {
		Archive into = *archive;
		struct PostData post = {.arena = arena_new(0)};
		into.arena = post.arena;
		if (!archive_read(work, &into, "post-data", &post.entries, err)) {
			arena_free(post.arena);
			return false;
		}
		work->tools->post = mem_alloc(sizeof(post));
		*work->tools->post = post;
	}
	*out = work->tools->post->entries;
	return true;
}

static void *
ahead_main(void *arg)
{
	const ArchiveAhead *ahead = arg;
	Entries entries;
	Error ignored = ERROR_INIT;

	(void)!archive_post_data(ahead->work, ahead->archive, &entries, &ignored);
	return NULL;
}

void
archive_ahead_begin(ArchiveAhead *ahead, const SchemaWork *work, const Archive *archive)
{
	*ahead = (ArchiveAhead){.work = work, .archive = archive, .runs = is_kept(work)};
	if (ahead->runs)
		CHECK(pthread_create(&ahead->thread, NULL, ahead_main, ahead) == 0);
}

void
archive_ahead_end(ArchiveAhead *ahead)
{
	if (ahead->runs)
		pthread_join(ahead->thread, NULL);
	ahead->runs = false;
}
