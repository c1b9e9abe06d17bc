/*
 * The end of a migration, in either way: everything that was made on the source is undone,
 * newest first, then what was changed on the target, then our schema and the log (S2).
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "proxy/migration/internal.h"

static void
remove_files(const char *directory)
{
	DIR *dir = opendir(directory);
	struct dirent *entry;

	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		char *path = mem_printf("%s/%s", directory, entry->d_name);
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			unlink(path);
		free(path);
	}
	if (dir != NULL)
		closedir(dir);
}

/* The log's changes are of no use to anybody any more; the directory stays. */
static void
remove_log(const Config *config, const char *name)
{
	char *log = mem_printf("%s/%s", config->state_dir, name);

	remove_files(log);
	rmdir(log);
	free(log);
}

static void
remove_state(const Config *config, int additions)
{
	char *dump = mem_printf("%s/schema.dump", config->state_dir);

	remove_log(config, "log");
	remove_log(config, "log_back");
	unlink(dump);
	free(dump);
	definitions_forget(config->state_dir);
	for (int i = 1; i <= additions; i++) {
		dump = mem_printf("%s/schema-%d.dump", config->state_dir, i);
		unlink(dump);
		free(dump);
	}
}

/* Kept from the first try: a second one finds only what was left. */
static void
note_what_goes(Migration *m)
{
	char sum[sizeof(m->removed)];
	Error err = ERROR_INIT;

	if (!ledger_objects_sum(m->target, &m->ledger, sum, sizeof(sum), &err)) {
		log_failure(LOG_WARNING, "cleanup", &err);
		return;
	}
	log_info("cleanup", "removing, or putting back as it was: %s%sschema %s of the target", sum,
	         sum[0] != '\0' ? "; " : "", m->ledger.schema);
	pthread_mutex_lock(&m->lock);
	if (m->removed[0] == '\0')
		snprintf(m->removed, sizeof(m->removed), "%s", sum);
	pthread_mutex_unlock(&m->lock);
}

/* What is on the target, without the source: a slot there keeps the WAL of the server that is
 * live. The ledger stays, and with it what is left on the source. */
static bool
without_source(Migration *m, const Error *unreachable, Error *err)
{
	LedgerObject *objects;
	size_t count;

	if (!ledger_undo(m->target, m->target, &m->ledger, "target", NULL, err) ||
	    !ledger_objects(m->target, &m->ledger, "source", NULL, &objects, &count, err))
		return false;
	for (size_t i = 0; i < count; i++)
		log_warning("cleanup", "left over on the source: %s; remove it by: %s", objects[i].what,
		            objects[i].undo);
	ledger_objects_free(objects, count);
	*err = *unreachable;
	error_add_context(err, "%zu things are left on the source, nothing on the target but schema %s",
	                  count, m->ledger.schema);
	return error_set_hint(err,
	                      "ask again when the source can be reached; if it never will be: DROP "
	                      "SCHEMA %s CASCADE on the target (SELECT what, undo FROM %s.object tells "
	                      "what is left on the source)",
	                      m->ledger.schema, m->ledger.schema);
}

bool
cleanup_all(Migration *m, bool finish, Error *err)
{
	Error unreachable = ERROR_INIT;

	migration_set_detail(m, "removing what was made");
	phase_stop_stream(m);
	way_back_end(m);
	if (!migration_connect_target(m, err))
		return false;
	note_what_goes(m);
	if (finish && !migration_connect_source(m, &unreachable))
		return without_source(m, &unreachable, err);
	if (!ledger_undo(m->target, m->source, &m->ledger, "source", NULL, err) ||
	    !ledger_undo(m->target, m->target, &m->ledger, "target", NULL, err) ||
	    !ledger_drop(m->target, m->config->name, err))
		return false;
	remove_state(m->config, m->apart.number);
	log_info("cleanup", finish ? "finished: nothing of the migration is left on either side"
	                           : "cancelled: nothing of the migration is left on the source; "
	                             "copied tables stay on the target");
	return true;
}

bool
migration_cleanup(const Config *config, bool finish, Error *err)
{
	Migration m = {.config = config};
	bool exists = false;
	Journal journal = JOURNAL_NONE;
	char state[32] = "";

	pthread_mutex_init(&m.lock, NULL);
	/* Finish begins with the target; what it needs of the source it asks for itself. */
	bool ok = (finish ? migration_connect_target(&m, err) : migration_connect(&m, err)) &&
	          ledger_lock(m.target, config->name, err) &&
	          ledger_exists(m.target, config->name, &exists, err);
	if (ok && !exists) {
		ok = error_set(err, ERROR_CONFIG, "the target has no migration \"%s\"", config->name);
		error_set_hint(err, "there is nothing to %s; see --name", finish ? "finish" : "cancel");
	}
	ok = ok && ledger_load(m.target, config->name, &m.ledger, err) &&
	     ledger_journal(m.target, &m.ledger, &journal, err) &&
	     ledger_get_state(m.target, &m.ledger, state, err);
	if (ok && finish && journal != JOURNAL_SWITCHED) {
		ok = error_set(err, ERROR_CONFIG, "migration \"%s\" has not switched", config->name);
		error_set_hint(err, "`pgbaton cancel` gives it up");
	} else if (ok && !finish && journal == JOURNAL_SWITCHED) {
		bool back = strcmp(state, migration_state_name(STATE_FAILED_BACK)) == 0;
		ok = error_set(err, ERROR_CONFIG, "migration \"%s\" has switched%s: the %s is live",
		               config->name, back ? " and gone back" : "", back ? "source" : "target");
		error_set_hint(err, "`pgbaton finish` ends it");
	}
	ok = ok && cleanup_all(&m, finish, err);
	sql_close(m.source);
	sql_close(m.target);
	pthread_mutex_destroy(&m.lock);
	return ok;
}
