#include "tests/unit/apply/load_rig.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply/schema/child.h"
#include "apply/schema/definitions.h"
#include "common/memory.h"

static void
read_catalog(Load *load)
{
	Sql *source = servers_open(load->cluster, "source");

	load->catalog = servers_catalog(source);
	sql_close(source);
	load->options.catalog = load->catalog;
	load->work.catalog = load->catalog;
}

static void
match(Load *load)
{
	Error err = ERROR_INIT;

	ASSERT_OK(catalog_match_target(load->catalog, load->sql, &err));
	ASSERT_OK(ledger_sync_tables(load->sql, &load->ledger, load->catalog, &err));
}

static void
set_options(Load *load)
{
	load->stop = stop_new();
	load->options = (CopyOptions){
		.source = load->source_info,
		.target = load->target_info,
		.ledger = &load->ledger,
		.jobs = 3,
		.stop = load->stop,
	};
	load->work = (SchemaWork){
		.source = load->source_info,
		.target = load->target_info,
		.target_sql = load->sql,
		.ledger = &load->ledger,
		.state_dir = load->state_dir,
		.selection = &load->selection,
		.jobs = 3,
		.stop = load->stop,
	};
}

static void
empty_target(const Load *load)
{
	for (size_t i = 0; i < load->catalog->table_count; i++)
		db_exec(load->target, "TRUNCATE %s CASCADE", load->catalog->tables[i].qualified);
}

void
load_open(Load *load, Cluster *cluster, const char *tables, bool definitions)
{
	Error err = ERROR_INIT;

	servers_clean(cluster);
	*load = (Load){.cluster = cluster};
	snprintf(load->state_dir, sizeof(load->state_dir), "/tmp/pgbaton-load-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(load->state_dir));
	load->source = db_connect(cluster, "source");
	load->target = db_connect(cluster, "target");
	db_exec(load->source, "%s", tables);
	load->sql = servers_open(cluster, "target");
	load->ledger = servers_ledger(load->sql, "pgbaton");
	load->source_info = servers_info(cluster, "source", NULL);
	load->target_info = servers_info(cluster, "target", NULL);
	set_options(load);
	read_catalog(load);
	if (definitions) {
		ASSERT_OK(schema_pre_data(&load->work, &err));
	} else {
		db_exec(load->target, "%s", tables);
		empty_target(load);
	}
	match(load);
}

void
load_restart(Load *load)
{
	catalog_free(load->catalog);
	stop_free(load->stop);
	load->stop = stop_new();
	load->options.stop = load->work.stop = load->stop;
	read_catalog(load);
	match(load);
}

void
load_close(Load *load)
{
	char *dump = mem_printf("%s/schema.dump", load->state_dir);

	unlink(dump);
	free(dump);
	definitions_forget(load->state_dir);
	ck_assert_msg(rmdir(load->state_dir) == 0, "files are left in %s", load->state_dir);
	catalog_free(load->catalog);
	conninfo_free(load->source_info);
	conninfo_free(load->target_info);
	stop_free(load->stop);
	sql_close(load->sql);
	PQfinish(load->source);
	PQfinish(load->target);
}

Table *
load_table(const Load *load, const char *name)
{
	Table *table = catalog_find(load->catalog, "public", name);

	ck_assert_msg(table != NULL, "no table %s", name);
	return table;
}

void
load_same(const Load *load, const char *query)
{
	char *from = db_rows(load->source, "%s", query);
	char *to = db_rows(load->target, "%s", query);

	ck_assert_str_eq(from, to);
	ck_assert_str_ne(from, "");
	free(from);
	free(to);
}

static char *
dump_of(const Load *load, const char *db)
{
	Error err = ERROR_INIT;
	char *program = cluster_program(cluster_major(load->cluster), "pg_dump");
	const char *argv[] = {
		program, "--schema-only", "--exclude-schema=pgbaton", "-d", cluster_uri(load->cluster, db),
		NULL};
	ChildRun run = {.argv = argv};
	Buffer out = BUFFER_INIT;
	Buffer kept = BUFFER_INIT;

	ASSERT_OK(child_run(&run, &out, &err));
	for (char *line = strtok(buffer_cstr(&out), "\n"); line != NULL; line = strtok(NULL, "\n"))
		if (line[0] != '\\') /* psql's \restrict has a new key each time */
			buffer_printf(&kept, "%s\n", line);
	free(program);
	buffer_free(&out);
	char *text = mem_strdup(buffer_cstr(&kept));
	buffer_free(&kept);
	return text;
}

void
load_same_dumps(const Load *load)
{
	char *from = dump_of(load, "source");
	char *to = dump_of(load, "target");

	size_t same = 0;
	while (from[same] != '\0' && from[same] == to[same])
		same++;
	while (same > 0 && from[same - 1] != '\n')
		same--;
	ck_assert_msg(strcmp(from, to) == 0, "source: %.400s\ntarget: %.400s", from + same, to + same);
	free(from);
	free(to);
}

bool
load_run(Load *load, Error *err)
{
	Build *build = build_open(&load->work, true, err);

	load->options.build = build;
	bool ok = build != NULL && copy_tables(&load->options, err) && build_finish(build, err);
	load->options.build = NULL;
	build_close(build);
	return ok && schema_rest_locking(&load->work, err) && schema_rest_validate(&load->work, err);
}

static void *
loader_main(void *arg)
{
	Loader *loader = arg;
	loader->ok = copy_tables(&loader->load->options, &loader->err);
	return NULL;
}

void
loader_start(Loader *loader, const Load *load)
{
	*loader = (Loader){.load = load};
	ck_assert_int_eq(pthread_create(&loader->thread, NULL, loader_main, loader), 0);
}

void
loader_join(Loader *loader)
{
	pthread_join(loader->thread, NULL);
}

PGconn *
load_hold(const Load *load)
{
	PGconn *holder = db_connect(load->cluster, "target");

	db_exec(load->target, "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
	                      " 'BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN new; END'");
	db_exec(load->target, "CREATE TRIGGER held BEFORE INSERT ON t FOR EACH ROW"
	                      " WHEN (new.a = 500) EXECUTE FUNCTION wait()");
	db_exec(load->target, "ALTER TABLE t ENABLE ALWAYS TRIGGER held");
	db_exec(holder, "SELECT pg_advisory_lock(42)");
	return holder;
}

const char load_held[] = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = 'target'"
						 " AND application_name = 'pgbaton copy' AND wait_event = 'advisory'";
