/*
 * The schema's way from source to target: equal dumps, steps done once, foreign keys in
 * cycles, partitions, what is in the way, selection; and the reading of pg_restore's text.
 */
#include <check.h>
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apply/schema/child.h"
#include "apply/schema/definitions.h"
#include "apply/schema/schema.h"
#include "apply/schema/script.h"
#include "common/memory.h"
#include "tests/unit/apply/build_all.h"
#include "tests/unit/apply/servers.h"
#include "tests/unit/runner.h"

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, NULL);
}

static void
stop(void)
{
	cluster_free(cluster);
}

typedef struct {
	PGconn *source;
	PGconn *target;
	Sql *sql;
	Ledger ledger;
	Catalog *catalog;
	ConnInfo *source_info;
	ConnInfo *target_info;
	Stop *stop;
	char state_dir[64];
	Selection selection;
	SchemaWork work;
} Job;

/* NULL: everything; the selection's patterns live as long as the job. */
static void
job_open(Job *job, const char *tables, const Selection *selection)
{
	Error err = ERROR_INIT;

	servers_clean(cluster);
	*job = (Job){0};
	snprintf(job->state_dir, sizeof(job->state_dir), "/tmp/pgbaton-schema-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(job->state_dir));
	job->source = db_connect(cluster, "source");
	job->target = db_connect(cluster, "target");
	db_exec(job->source, "%s", tables);
	job->sql = servers_open(cluster, "target");
	job->ledger = servers_ledger(job->sql, "pgbaton");
	if (selection != NULL)
		job->selection = *selection;
	Sql *source = servers_open(cluster, "source");
	job->catalog = catalog_read_source(source, &job->selection, "pgbaton", &err);
	ck_assert_msg(job->catalog != NULL, "%s", servers_error(&err));
	sql_close(source);
	job->source_info = servers_info(cluster, "source", NULL);
	job->target_info = servers_info(cluster, "target", NULL);
	job->stop = stop_new();
	job->work = (SchemaWork){
		.source = job->source_info,
		.target = job->target_info,
		.target_sql = job->sql,
		.ledger = &job->ledger,
		.catalog = job->catalog,
		.state_dir = job->state_dir,
		.selection = &job->selection,
		.jobs = 3,
		.stop = job->stop,
	};
}

static void
job_close(Job *job)
{
	char *dump = mem_printf("%s/schema.dump", job->state_dir);

	unlink(dump);
	free(dump);
	definitions_forget(job->state_dir);
	ck_assert_msg(rmdir(job->state_dir) == 0, "files are left in %s", job->state_dir);
	catalog_free(job->catalog);
	conninfo_free(job->source_info);
	conninfo_free(job->target_info);
	stop_free(job->stop);
	sql_close(job->sql);
	PQfinish(job->source);
	PQfinish(job->target);
}

static void
restore_all(const Job *job)
{
	Error err = ERROR_INIT;

	ASSERT_OK(schema_pre_data(&job->work, &err));
	ASSERT_OK(build_all(&job->work, &err));
	ASSERT_OK(schema_rest_locking(&job->work, &err));
	ASSERT_OK(schema_rest_validate(&job->work, &err));
}

/* pg_dump's own text of a database, without what differs between any two dumps. */
static char *
dump_of(const char *db)
{
	Error err = ERROR_INIT;
	char *program = cluster_program(cluster_major(cluster), "pg_dump");
	const char *argv[] = {program,
	                      "--schema-only",
	                      "--exclude-schema=pgbaton",
	                      "--no-publications",
	                      "-d",
	                      cluster_uri(cluster, db),
	                      NULL};
	ChildRun run = {.argv = argv};
	Buffer out = BUFFER_INIT;
	Buffer kept = BUFFER_INIT;

	ASSERT_OK(child_run(&run, &out, &err));
	for (char *line = strtok(buffer_cstr(&out), "\n"); line != NULL; line = strtok(NULL, "\n"))
		if (line[0] != '\\')
			buffer_printf(&kept, "%s\n", line);
	free(program);
	buffer_free(&out);
	char *text = mem_strdup(buffer_cstr(&kept));
	buffer_free(&kept);
	return text;
}

static void
assert_equal_dumps(void)
{
	char *from = dump_of("source");
	char *to = dump_of("target");

	ck_assert_str_eq(from, to);
	ck_assert(strlen(from) > 500);
	free(from);
	free(to);
}

/* ---- the whole ---- */

static const char rich[] =
	"CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('a', 'b');"
	"CREATE SEQUENCE app.counter INCREMENT -3 CYCLE MINVALUE -100 MAXVALUE 5;"
	"CREATE TABLE app.p (id int PRIMARY KEY, k int NOT NULL, m app.mood);"
	"CREATE TABLE app.c (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
	" p int REFERENCES app.p DEFERRABLE, x text UNIQUE, EXCLUDE USING btree (x WITH =),"
	" self int REFERENCES app.c);"
	"ALTER TABLE app.p ADD CONSTRAINT cycle FOREIGN KEY (k) REFERENCES app.c (id);"
	"ALTER TABLE app.p ADD CONSTRAINT unsure FOREIGN KEY (k) REFERENCES app.c (id) NOT VALID;"
	"CREATE TABLE pt (id int, d date, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);"
	"CREATE TABLE pt1 PARTITION OF pt FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');"
	"CREATE TABLE pt2 PARTITION OF pt FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');"
	"CREATE INDEX pti ON pt (d);"
	"CREATE TABLE ref (id int, d date, FOREIGN KEY (id, d) REFERENCES pt);"
	"CREATE TABLE pref (id int REFERENCES app.p, d date) PARTITION BY RANGE (d);"
	"CREATE TABLE pref1 PARTITION OF pref FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');"
	"CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN RETURN new; -- ';\nEND$f$;"
	"CREATE FUNCTION plain_sql(a int) RETURNS int BEGIN ATOMIC SELECT 1; SELECT a + 1; END;"
	"CREATE TRIGGER t1 BEFORE INSERT ON app.p FOR EACH ROW EXECUTE FUNCTION tf();"
	"CREATE TRIGGER t2 BEFORE INSERT ON pt FOR EACH ROW EXECUTE FUNCTION tf();"
	"ALTER TABLE app.p ENABLE ALWAYS TRIGGER t1;"
	"CREATE RULE r1 AS ON INSERT TO ref DO ALSO (UPDATE app.c SET x = E'a\\\\'';' WHERE false;"
	" DELETE FROM app.c WHERE false);"
	"ALTER TABLE app.c ENABLE ROW LEVEL SECURITY; CREATE POLICY pol ON app.c USING (true);"
	"CREATE MATERIALIZED VIEW mv AS SELECT id FROM app.p; CREATE UNIQUE INDEX mvi ON mv (id);"
	"CREATE VIEW v AS SELECT id, k FROM app.p GROUP BY id;"
	"CREATE STATISTICS st ON id, k FROM app.p; ALTER STATISTICS st SET STATISTICS 5;"
	"CREATE INDEX ei ON app.p ((id + 1)); ALTER INDEX app.ei ALTER COLUMN 1 SET STATISTICS 7;"
	"ALTER TABLE app.p CLUSTER ON p_pkey; ALTER TABLE app.p REPLICA IDENTITY USING INDEX p_pkey;"
	"CREATE TABLE \"we\"\"ird;\nx\" (\"a;b\" int, UNIQUE (\"a;b\"),"
	" FOREIGN KEY (\"a;b\") REFERENCES app.p);"
	"CREATE SCHEMA \"ATTACH\"; CREATE TABLE \"ATTACH\".t (a int); CREATE INDEX i ON \"ATTACH\".t (a);"
	"COMMENT ON TRIGGER t1 ON app.p IS E'a comment;\n--\n-- TOC entry 1 (class 2606 OID 1)\n';"
	"COMMENT ON INDEX pti IS 'x'; COMMENT ON CONSTRAINT cycle ON app.p IS 'cy''c';"
	"COMMENT ON POLICY pol ON app.c IS 'pol';"
	"GRANT SELECT ON app.p TO public;"
	"ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO public;"
	"CREATE FUNCTION et() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
	"CREATE EVENT TRIGGER evt ON ddl_command_end EXECUTE FUNCTION et();"
	"CREATE PUBLICATION pb FOR ALL TABLES;";

START_TEST(the_targets_dump_is_the_sources)
{
	Job job;

	job_open(&job, rich, NULL);
	restore_all(&job);
	assert_equal_dumps();
	/* "unsure". (Below a key to a partitioned table the server itself leaves the rows of its
	 * partitions unmarked until 17; they mean nothing on their own.) */
	ck_assert_int_eq(db_int(job.target,
	                        "SELECT count(*) FROM pg_constraint"
	                        " WHERE contype = 'f' AND NOT convalidated AND conparentid = 0"),
	                 1);
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM pg_publication"), 0);
	job_close(&job);
}
END_TEST

/* That what is made belongs to who makes it is not said again; what belongs to others is, also
 * where a name looks like it. */
START_TEST(owners_are_kept)
{
	static const char owners[] =
		"SELECT relname, relkind, relowner::regrole FROM pg_class"
		" WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S', 'p') ORDER BY 1";
	Error err = ERROR_INIT;
	Job job;

	job_open(
		&job,
		"CREATE ROLE \"some body\"; GRANT CREATE ON SCHEMA public TO \"some body\";"
		"CREATE TABLE ours (id int GENERATED ALWAYS AS IDENTITY); CREATE SEQUENCE our_s;"
		"CREATE TABLE parted (a serial) PARTITION BY LIST (a);"
		"CREATE TABLE \"x\nALTER TABLE ours OWNER TO postgres;\" (a int);"
		"DO $$ BEGIN EXECUTE format('CREATE TABLE %I (a int)',"
		"  E'y\\nALTER TABLE ours OWNER TO ' || current_user || ';'); END $$;"
		"SET ROLE \"some body\";"
		"CREATE TABLE theirs (id int GENERATED ALWAYS AS IDENTITY); CREATE SEQUENCE their_s;"
		"CREATE TABLE \"z\nALTER TABLE theirs OWNER TO \"\"some body\"\";\" (a int); RESET ROLE;",
		NULL);
	ASSERT_OK(schema_pre_data(&job.work, &err));
	char *from = db_rows(job.source, "%s", owners);
	char *to = db_rows(job.target, "%s", owners);
	ck_assert_str_eq(from, to);
	ck_assert_ptr_nonnull(strstr(to, "some body"));
	free(from);
	free(to);
	assert_equal_dumps();
	job_close(&job);
}
END_TEST

START_TEST(the_last_statement_is_found)
{
	static const char *const texts[] = {
		"", "a", "a;\n", "a; b;", "a;\n\n b\n", "a 'x; y'; $$ b; c $$ d;", "a \"\n;b\";\n",
	};
	static const char *const last[] = {
		"", "a", "a;\n", "b;", "b\n", "$$ b; c $$ d;", "a \"\n;b\";\n"};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		ck_assert_str_eq(script_last(texts[i]), last[i]);
}
END_TEST

/* Rows between the stages, as in a migration: the keys are checked against them. */
START_TEST(stages_come_in_order)
{
	Error err = ERROR_INIT;
	struct stat info;
	Job job;

	job_open(&job, rich, NULL);
	ASSERT_OK(schema_pre_data(&job.work, &err));
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM pg_constraint WHERE contype IN"
	                                    " ('p', 'f', 'u') AND connamespace = 'app'::regnamespace"),
	                 0);
	char *dump = mem_printf("%s/schema.dump", job.state_dir);
	ck_assert_int_eq(stat(dump, &info), 0);
	ck_assert_uint_eq(info.st_mode & 0777, 0600);
	free(dump);

	ASSERT_OK(build_all(&job.work, &err));
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM pg_index WHERE NOT indisvalid"), 0);
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"),
	                 0);
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM pg_trigger"), 0);

	ASSERT_OK(schema_rest_locking(&job.work, &err));
	/* cycle, unsure, c.p, c.self, ref, we"ird; not those of the partitioned one. */
	ck_assert_int_ge(db_int(job.target, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"
	                                    " AND NOT convalidated"),
	                 6);
	ck_assert(db_true(job.target,
	                  "SELECT bool_and(convalidated) FROM pg_constraint WHERE"
	                  " contype = 'f' AND conrelid IN ('pref'::regclass, 'pref1'::regclass)"));
	ASSERT_OK(schema_rest_validate(&job.work, &err));
	ck_assert_int_eq(db_int(job.target,
	                        "SELECT count(*) FROM pg_constraint"
	                        " WHERE contype = 'f' AND NOT convalidated AND conparentid = 0"),
	                 1);
	job_close(&job);
}
END_TEST

/* Beside the definitions already, and then by nobody any more: the archive is taken away. */
START_TEST(the_rest_of_the_archive_is_read_once)
{
	Error err = ERROR_INIT;
	SchemaTools tools = {0};
	Job job;

	job_open(&job, rich, NULL);
	job.work.tools = &tools;
	ASSERT_OK(schema_pre_data(&job.work, &err));
	char *dump = mem_printf("%s/schema.dump", job.state_dir);
	ck_assert_int_eq(truncate(dump, 0), 0);
	free(dump);
	ASSERT_OK(build_all(&job.work, &err));
	ASSERT_OK(schema_rest_locking(&job.work, &err));
	ASSERT_OK(schema_rest_validate(&job.work, &err));
	assert_equal_dumps();
	ck_assert_ptr_null(tools.post);
	job_close(&job);
}
END_TEST

/* Each stage again, as after a crash behind its last step, and in the middle: an entry's
 * record is taken away together with its object. */
START_TEST(a_second_call_repeats_only_what_is_missing)
{
	Error err = ERROR_INIT;
	Job job;

	job_open(&job, rich, NULL);
	ASSERT_OK(schema_pre_data(&job.work, &err));
	ASSERT_OK(schema_pre_data(&job.work, &err));
	ASSERT_OK(build_all(&job.work, &err));
	int64_t oid = db_int(job.target, "SELECT 'app.ei'::regclass::oid::bigint");
	db_exec(job.target,
	        "DROP INDEX mvi; DELETE FROM pgbaton.post_data WHERE step LIKE '%% mvi %%'");
	ASSERT_OK(build_all(&job.work, &err));
	ck_assert_int_eq(db_int(job.target, "SELECT 'app.ei'::regclass::oid::bigint"), oid);
	ASSERT_OK(schema_rest_locking(&job.work, &err));
	db_exec(job.target, "ALTER TABLE ref DROP CONSTRAINT ref_id_d_fkey;"
	                    "DELETE FROM pgbaton.post_data WHERE step LIKE '%% ref_id_d_fkey %%'"
	                    " OR step = 'all constraints and triggers'");
	ASSERT_OK(schema_rest_locking(&job.work, &err));
	ASSERT_OK(schema_rest_validate(&job.work, &err));
	assert_equal_dumps();
	/* What is done to its end needs no archive any more. */
	job.work.state_dir = "/nowhere";
	ASSERT_OK(schema_rest_locking(&job.work, &err));
	ASSERT_OK(schema_rest_validate(&job.work, &err));
	job_close(&job);
}
END_TEST

START_TEST(an_object_in_the_way_is_named)
{
	Error err = ERROR_INIT;
	Job job;

	job_open(&job, "CREATE TABLE a (x int); CREATE TABLE b (x int)", NULL);
	db_exec(job.target, "CREATE TABLE b (y text); INSERT INTO b VALUES ('keep')");
	ck_assert(!schema_pre_data(&job.work, &err));
	ck_assert_str_eq(err.sqlstate, "42P07");
	ck_assert(strstr(servers_error(&err), "\"b\" already exists") != NULL);
	ck_assert(strstr(err.hint, "--schema none") != NULL);
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM pg_class WHERE relname = 'a'"), 0);
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM b WHERE y = 'keep'"), 1);
	/* Out of the way, and the same call works. */
	db_exec(job.target, "DROP TABLE b");
	ASSERT_OK(schema_pre_data(&job.work, &err));
	job_close(&job);
}
END_TEST

START_TEST(a_row_without_its_parent_is_divergence)
{
	Error err = ERROR_INIT;
	Job job;

	job_open(&job, "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES p)",
	         NULL);
	ASSERT_OK(schema_pre_data(&job.work, &err));
	ASSERT_OK(build_all(&job.work, &err));
	db_exec(job.target, "INSERT INTO c VALUES (5)");
	ASSERT_OK(schema_rest_locking(&job.work, &err));
	ck_assert(!schema_rest_validate(&job.work, &err));
	ck_assert_int_eq(err.class, ERROR_DIVERGENCE);
	ck_assert_str_eq(err.sqlstate, "23503");
	ck_assert(strstr(servers_error(&err), "c_p_fkey") != NULL);
	db_exec(job.target, "DELETE FROM c");
	ASSERT_OK(schema_rest_validate(&job.work, &err));
	job_close(&job);
}
END_TEST

static void *
validate_main(void *arg)
{
	Error err = ERROR_INIT;

	ASSERT_OK(schema_rest_validate(arg, &err));
	return NULL;
}

static bool
is_valid(const Job *job, const char *table)
{
	return db_true(job->target,
	               "SELECT convalidated FROM pg_constraint WHERE contype = 'f' AND conrelid ="
	               " '%s'::regclass",
	               table);
}

/* The check of the largest waits for a lock; that of its neighbour, which reads the same
 * parent, is passed over, and that of a table of its own is done meanwhile. */
START_TEST(no_large_table_is_read_by_two_checks)
{
	static const char rows[] =
		"INSERT INTO p SELECT i, repeat('x', 100) FROM generate_series(1, 10000) i;"
		"INSERT INTO q SELECT * FROM p;"
		"INSERT INTO c1 SELECT 1 + i %% 10000, repeat('x', 300) FROM generate_series(1, 10000) i;"
		"INSERT INTO c2 SELECT p, left(x, 200) FROM c1; INSERT INTO c3 SELECT p, left(x, 120) FROM c1";
	Error err = ERROR_INIT;
	pthread_t thread;
	Job job;

	job_open(
		&job,
		"CREATE TABLE p (id int PRIMARY KEY, x text); CREATE TABLE q (id int PRIMARY KEY, x text);"
		"CREATE TABLE c1 (p int REFERENCES p, x text); CREATE TABLE c2 (p int REFERENCES p, x text);"
		"CREATE TABLE c3 (p int REFERENCES q, x text)",
		NULL);
	db_exec(job.source, rows);
	catalog_free(job.catalog);
	Sql *source = servers_open(cluster, "source");
	job.catalog = servers_catalog(source);
	sql_close(source);
	job.work.catalog = job.catalog;
	ASSERT_OK(schema_pre_data(&job.work, &err));
	db_exec(job.target, rows);
	ASSERT_OK(build_all(&job.work, &err));
	ASSERT_OK(schema_rest_locking(&job.work, &err));
	ck_assert(!is_valid(&job, "c1") && !is_valid(&job, "c3"));

	PGconn *holder = db_connect(cluster, "target");
	db_exec(holder, "BEGIN; LOCK TABLE c1 IN SHARE UPDATE EXCLUSIVE MODE");
	ck_assert_int_eq(pthread_create(&thread, NULL, validate_main, &job.work), 0);
	db_wait_until(job.target,
	              "SELECT convalidated FROM pg_constraint WHERE conrelid = 'c3'::regclass", 30);
	ck_assert(!is_valid(&job, "c2"));
	PQfinish(holder);
	pthread_join(thread, NULL);
	ck_assert(is_valid(&job, "c1") && is_valid(&job, "c2"));
	job_close(&job);
}
END_TEST

START_TEST(only_the_chosen_tables)
{
	const char *include[] = {"s.b"};
	Job job;

	job_open(&job,
	         "CREATE SCHEMA s; CREATE TABLE s.a (id serial PRIMARY KEY);"
	         "CREATE TABLE s.b (id int PRIMARY KEY, a int REFERENCES s.a);"
	         "CREATE TABLE public.a2 (id int)",
	         &(Selection){.lists = {[INCLUDE_TABLE] = {include, 1}}});
	restore_all(&job); /* the key to s.a is left out */
	ck_assert_int_eq(db_int(job.target,
	                        "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND"
	                        " relnamespace IN ('s'::regnamespace, 'public'::regnamespace)"),
	                 1);
	ck_assert_int_eq(
		db_int(job.target, "SELECT count(*) FROM pg_index WHERE indrelid = 's.b'::regclass"), 1);
	job_close(&job);
}
END_TEST

/* pg_dump leaves out the schemas of tables that are chosen by name; without their owner and
 * privileges nobody could use the tables. What is there already stays as it is. */
START_TEST(chosen_tables_schemas)
{
	static const char here[] =
		"CREATE SCHEMA \"S x\" AUTHORIZATION shop_owner; GRANT USAGE ON SCHEMA \"S x\" TO PUBLIC;"
		"GRANT CREATE ON SCHEMA \"S x\" TO \"S user\" WITH GRANT OPTION;"
		"CREATE TABLE \"S x\".t (id int); CREATE SCHEMA ours; CREATE TABLE ours.t (id int);"
		"CREATE SCHEMA old AUTHORIZATION shop_owner; CREATE TABLE old.t (id int);"
		"GRANT USAGE ON SCHEMA old TO PUBLIC";
	static const char look[] =
		"SELECT string_agg(nspname || ' ' || nspowner::regrole::text || ' ' ||"
		" COALESCE(nspacl::text, '-'), ' ' ORDER BY nspname) FROM pg_namespace"
		" WHERE nspname IN ('S x', 'ours', 'old')";
	const char *include[] = {"*.t"};
	Selection selection = {.lists = {[INCLUDE_TABLE] = {include, 1}}};
	static const struct {
		bool no_owner, no_privileges;
		const char *expected;
	} cases[] = {
		{false, false,
	     "S x shop_owner {shop_owner=UC/shop_owner,\"\\\"S user\\\"=C*/shop_owner\",=U/shop_owner}"
	     " old postgres - ours postgres -"},
		{true, false,
	     "S x postgres {postgres=UC/postgres,\"\\\"S user\\\"=C*/postgres\",=U/postgres}"
	     " old postgres - ours postgres -"},
		{false, true, "S x shop_owner - old postgres - ours postgres -"},
	};

	PGconn *admin = db_connect(cluster, NULL);
	db_exec(admin, "CREATE ROLE shop_owner; CREATE ROLE \"S user\"");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Job job;
		Error err = ERROR_INIT;
		job_open(&job, here, &selection);
		job.work.no_owner = cases[i].no_owner;
		job.work.no_privileges = cases[i].no_privileges;
		db_exec(job.target, "CREATE SCHEMA old");
		ASSERT_OK(schema_pre_data(&job.work, &err));
		char *got = db_rows(job.target, look);
		ck_assert_str_eq(got, cases[i].expected);
		free(got);
		job_close(&job);
	}
	servers_clean(cluster);
	db_exec(admin, "DROP ROLE shop_owner; DROP ROLE \"S user\"");
	PQfinish(admin);
}
END_TEST

/* What must have come, and nothing else; names sorted. */
static void
assert_relations(const Job *job, const char *expected)
{
	char *names = db_rows(job->target,
	                      "SELECT string_agg(n.nspname || '.' || c.relname, ' ' ORDER BY n.nspname,"
	                      " c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
	                      " WHERE n.nspname !~ '^(pg_|information|pgbaton)'");
	ck_assert_str_eq(names, expected);
	free(names);
}

static const char shop[] =
	"CREATE SCHEMA \"S x\"; CREATE TYPE \"S x\".mood AS ENUM ('a');"
	"CREATE TABLE \"S x\".\"T\" (id serial PRIMARY KEY, m \"S x\".mood);"
	"CREATE TABLE \"S x\".log (id int PRIMARY KEY, t int REFERENCES \"S x\".\"T\");"
	"CREATE TABLE public.log (id int, t int CONSTRAINT \"C 1\" REFERENCES \"S x\".\"T\");"
	"COMMENT ON CONSTRAINT \"C 1\" ON public.log IS 'a comment';"
	"CREATE VIEW public.v AS SELECT id FROM public.log;"
	"CREATE TABLE part (k int, v int) PARTITION BY RANGE (k);"
	"CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (1) TO (9) PARTITION BY LIST (k);"
	"CREATE TABLE part1a PARTITION OF part1 FOR VALUES IN (1);"
	"CREATE INDEX \"I k\" ON part (k); COMMENT ON INDEX \"I k\" IS 'of part';"
	"CREATE INDEX log_t ON public.log (t); CREATE INDEX log_id ON public.log (id);";

START_TEST(a_schema_is_chosen)
{
	const char *schema[] = {"\"S x\""};
	const char *common[] = {"public"};
	Job job;

	job_open(&job, shop, &(Selection){.lists = {[INCLUDE_SCHEMA] = {schema, 1}}});
	restore_all(&job);
	assert_relations(&job, "S x.T S x.T_id_seq S x.T_pkey S x.log S x.log_pkey");
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"),
	                 1);
	job_close(&job);

	/* pg_dump makes a chosen "public", which every database has. */
	job_open(&job, shop, &(Selection){.lists = {[INCLUDE_SCHEMA] = {common, 1}}});
	restore_all(&job);
	assert_relations(&job, "public.I k public.log public.log_id public.log_t public.part"
	                       " public.part1 public.part1_k_idx public.part1a public.part1a_k_idx"
	                       " public.v");
	/* The key to "S x" and its comment have nothing to stand on. */
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"),
	                 0);
	job_close(&job);

	job_open(&job, shop, &(Selection){.lists = {[EXCLUDE_SCHEMA] = {common, 1}}});
	restore_all(&job);
	assert_relations(&job, "S x.T S x.T_id_seq S x.T_pkey S x.log S x.log_pkey");
	job_close(&job);
}
END_TEST

START_TEST(tables_rows_and_indexes_are_left_out)
{
	const char *tables[] = {"part*", "v"};
	const char *parent[] = {"part", "\"S x\".\"T\""};
	const char *rows[] = {"\"T\"", "part"};
	const char *indexes[] = {"\"I k\"", "public.log_t"};
	Job job;

	job_open(&job, shop,
	         &(Selection){.lists = {[EXCLUDE_TABLE] = {tables, 2}, [EXCLUDE_DATA] = {rows, 1}}});
	restore_all(&job);
	assert_relations(&job, "S x.T S x.T_id_seq S x.T_pkey S x.log S x.log_pkey public.log"
	                       " public.log_id public.log_t");
	/* Without the rows of T nothing may point to it. */
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"),
	                 0);
	job_close(&job);

	job_open(
		&job, shop,
		&(Selection){.lists = {[EXCLUDE_TABLE] = {parent, 2}, [EXCLUDE_INDEX] = {&indexes[1], 1}}});
	restore_all(&job);
	assert_relations(&job, "S x.log S x.log_pkey public.log public.log_id public.v");
	job_close(&job);

	job_open(&job, shop,
	         &(Selection){.lists = {[EXCLUDE_DATA] = {rows, 2}, [EXCLUDE_INDEX] = {indexes, 2}}});
	restore_all(&job);
	assert_relations(&job, "S x.T S x.T_id_seq S x.T_pkey S x.log S x.log_pkey public.log"
	                       " public.log_id public.part public.part1 public.part1a public.v");
	job_close(&job);
}
END_TEST

/* A leaf needs the tables above it, a name without schema is of any. */
START_TEST(tables_are_chosen_with_what_they_need)
{
	const char *tables[] = {"part1a", "log", "v"};
	const char *rows[] = {"part1a"};
	Job job;

	job_open(&job, shop,
	         &(Selection){.lists = {[INCLUDE_TABLE] = {tables, 3}, [EXCLUDE_DATA] = {rows, 1}}});
	restore_all(&job);
	assert_relations(&job, "S x.log S x.log_pkey public.I k public.log public.log_id public.log_t"
	                       " public.part public.part1 public.part1_k_idx public.part1a"
	                       " public.part1a_k_idx public.v");
	job_close(&job);
}
END_TEST

/* citext stands in for an extension that has tables to be filled. */
START_TEST(rows_of_extensions_come_by_their_condition)
{
	static const char tables[] =
		"CREATE SCHEMA conf; CREATE EXTENSION citext;"
		"CREATE TABLE conf.\"T\" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text,"
		" \"own row\" bool, twice int GENERATED ALWAYS AS (2) STORED);"
		"CREATE SEQUENCE conf.s;";
	Error err = ERROR_INIT;
	Job job;

	job_open(&job, tables, NULL);
	db_exec(job.source, "ALTER EXTENSION citext ADD SCHEMA conf;"
	                    "ALTER EXTENSION citext ADD TABLE conf.\"T\";"
	                    "ALTER EXTENSION citext ADD SEQUENCE conf.s;"
	                    "UPDATE pg_extension SET extconfig = ARRAY['conf.\"T\"'::regclass,"
	                    " 'conf.s'::regclass]::oid[], extcondition = ARRAY['WHERE \"own row\"', '']"
	                    " WHERE extname = 'citext';"
	                    "INSERT INTO conf.\"T\" (v, \"own row\") VALUES ('standard', false),"
	                    " (E'it''s\\n', true), (NULL, true); SELECT setval('conf.s', 77)");
	db_exec(job.target, "%s", tables);
	ASSERT_OK(schema_pre_data(&job.work, &err));
	ASSERT_OK(schema_pre_data(&job.work, &err)); /* once */
	char *rows = db_rows(job.target, "SELECT * FROM conf.\"T\" ORDER BY id");
	ck_assert_str_eq(rows, "2|it's\n|t|2\n3||t|2");
	free(rows);
	ck_assert_int_eq(db_int(job.target, "SELECT nextval('conf.s')"), 78);

	/* A row that is there already stops, and says what to do. */
	db_exec(job.target, "DELETE FROM pgbaton.post_data WHERE step = 'extension rows'");
	ck_assert(!schema_pre_data(&job.work, &err));
	ck_assert_str_eq(err.sqlstate, "23505");
	ck_assert_ptr_nonnull(strstr(err.hint, "--exclude-table-data"));
	job_close(&job);
}
END_TEST

START_TEST(our_own_fence_is_not_moved)
{
	Job job;

	job_open(
		&job,
		"CREATE SCHEMA pgbaton; CREATE FUNCTION pgbaton.refuse() RETURNS trigger"
		" LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TABLE t (a int);"
		"CREATE TRIGGER fence BEFORE INSERT ON t EXECUTE FUNCTION pgbaton.refuse();"
		"CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
		"CREATE TRIGGER theirs BEFORE INSERT ON t EXECUTE FUNCTION theirs();",
		NULL);
	restore_all(&job);
	char *names = db_rows(job.target, "SELECT tgname FROM pg_trigger");
	ck_assert_str_eq(names, "theirs");
	free(names);
	job_close(&job);
}
END_TEST

/* ---- the child's connection ---- */

/* A file of /proc with its zeros as line ends; "" when the process is gone. */
static char *
read_proc(const char *pid, const char *file)
{
	char *path = mem_printf("/proc/%s/%s", pid, file);
	FILE *in = fopen(path, "r");
	char *text = mem_zalloc(65536);
	size_t len = in != NULL ? fread(text, 1, 65535, in) : 0;

	for (size_t i = 0; i < len; i++)
		if (text[i] == '\0')
			text[i] = '\n';
	if (in != NULL)
		fclose(in);
	free(path);
	return text;
}

/* The process of pg_dump that writes into that directory. */
static bool
find_child(const char *state_dir, char pid[32])
{
	DIR *proc = opendir("/proc");
	bool found = false;

	for (struct dirent *entry; !found && (entry = readdir(proc)) != NULL;) {
		char *line = read_proc(entry->d_name, "cmdline");
		found = strstr(line, state_dir) != NULL && strstr(line, "pg_dump") != NULL;
		if (found)
			snprintf(pid, 32, "%.31s", entry->d_name);
		free(line);
	}
	closedir(proc);
	return found;
}

typedef struct {
	const Job *job;
	pthread_t thread;
	bool ok;
	Error err;
} Worker;

static void *
worker_main(void *arg)
{
	Worker *worker = arg;
	worker->ok = schema_pre_data(&worker->job->work, &worker->err);
	return NULL;
}

static const char dump_waits[] =
	"SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'pgbaton pg_dump'"
	" AND wait_event_type = 'Lock'";

START_TEST(the_password_is_in_no_argv)
{
	Worker worker = {.ok = false};
	char pid[32];
	Job job;

	job_open(&job, "CREATE TABLE t (a int)", NULL);
	db_exec(job.source, "CREATE ROLE dumper SUPERUSER LOGIN PASSWORD 's3cret-pass'");
	cluster_allow(cluster, "host all dumper all scram-sha-256");
	conninfo_set(job.source_info, "user", "dumper");
	conninfo_set(job.source_info, "password", "s3cret-pass");
	conninfo_set(job.source_info, "keepalives_idle", "77");
	PGconn *holder = db_connect(cluster, "source");
	db_exec(holder, "BEGIN; LOCK TABLE t");
	worker.job = &job;
	ck_assert_int_eq(pthread_create(&worker.thread, NULL, worker_main, &worker), 0);
	db_wait_until(job.target, dump_waits, 20);

	ck_assert(find_child(job.state_dir, pid));
	char *argv = read_proc(pid, "cmdline");
	char *environment = read_proc(pid, "environ");
	ck_assert_msg(strstr(argv, "s3cret-pass") == NULL, "%s", argv);
	ck_assert_msg(strstr(argv, "keepalives_idle='77'") != NULL, "%s", argv);
	ck_assert(strstr(environment, "PGPASSWORD=s3cret-pass\n") != NULL);
	free(argv);
	free(environment);
	db_exec(holder, "COMMIT");
	pthread_join(worker.thread, NULL);
	ck_assert_msg(worker.ok, "%s", servers_error(&worker.err));
	PQfinish(holder);
	job_close(&job);
}
END_TEST

START_TEST(stop_ends_the_child)
{
	Worker worker = {.ok = true};
	char pid[32];
	Job job;

	job_open(&job, "CREATE TABLE t (a int)", NULL);
	PGconn *holder = db_connect(cluster, "source");
	db_exec(holder, "BEGIN; LOCK TABLE t");
	worker.job = &job;
	ck_assert_int_eq(pthread_create(&worker.thread, NULL, worker_main, &worker), 0);
	db_wait_until(job.target, dump_waits, 20);
	stop_request(job.stop);
	pthread_join(worker.thread, NULL);
	ck_assert(!worker.ok);
	ck_assert_int_eq(worker.err.class, ERROR_CANCELLED);
	ck_assert(!find_child(job.state_dir, pid));
	PQfinish(holder);
	job_close(&job);
}
END_TEST

START_TEST(a_failing_child_says_why)
{
	Error err = ERROR_INIT;
	Job job;

	job_open(&job, "CREATE TABLE t (a int)", NULL);
	const char *argv[] = {"/bin/sh", "-c", "echo out; echo first >&2; echo last reason >&2; exit 3",
	                      NULL};
	Buffer out = BUFFER_INIT;
	ck_assert(!child_run(&(ChildRun){.argv = argv}, &out, &err));
	ck_assert_str_eq(buffer_cstr(&out), "out\n");
	ck_assert(strstr(err.message, "exit 3") != NULL && strstr(err.message, "last reason") != NULL);
	buffer_free(&out);
	const char *nothing[] = {"/nonexistent/pg_dump", NULL};
	ck_assert(!child_run(&(ChildRun){.argv = nothing}, NULL, &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	job_close(&job);
}
END_TEST

START_TEST(tools_must_be_new_enough)
{
	Error err = ERROR_INIT;
	char dump[512];
	char restore[512];

	ASSERT_OK(schema_find_tools(150000, dump, restore, sizeof(dump), &err));
	ck_assert_int_eq(access(dump, X_OK), 0);
	ck_assert_int_eq(access(restore, X_OK), 0);
	ck_assert(!schema_find_tools(990000, dump, restore, sizeof(dump), &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	ck_assert(strstr(err.message, "PostgreSQL 99") != NULL);
	ck_assert(strstr(err.hint, "postgresql-client-99") != NULL);
}
END_TEST

static void
link_to(const char *directory, const char *name, const char *to)
{
	char *path = mem_printf("%s/%s", directory, name);

	if (to != NULL)
		ck_assert_int_eq(symlink(to, path), 0);
	else
		unlink(path);
	free(path);
}

/* It would leave a file beside it. */
START_TEST(debians_wrapper_is_not_started)
{
	static const char *const names[] = {"pg_wrapper", "pg_dump", "pg_restore", "started"};
	Error err = ERROR_INIT;
	char directory[] = "/tmp/pgbaton-schema-XXXXXX";
	char dump[512];
	char restore[512];

	ck_assert_ptr_nonnull(mkdtemp(directory));
	char *wrapper = mem_printf("%s/pg_wrapper", directory);
	FILE *file = fopen(wrapper, "w");
	ck_assert_ptr_nonnull(file);
	fprintf(file, "#!/bin/sh\n: >%s/started\necho 'pg_dump (PostgreSQL) 98.1'\n", directory);
	ck_assert_int_eq(fclose(file), 0);
	ck_assert_int_eq(chmod(wrapper, 0700), 0);
	free(wrapper);
	link_to(directory, "pg_dump", "pg_wrapper");
	link_to(directory, "pg_restore", "pg_wrapper");
	char *path = mem_strdup(getenv("PATH"));
	setenv("PATH", directory, 1);
	ASSERT_OK(schema_find_tools(150000, dump, restore, sizeof(dump), &err));
	setenv("PATH", path, 1);
	free(path);
	ck_assert_ptr_null(strstr(dump, directory));
	char *started = mem_printf("%s/started", directory);
	ck_assert_int_ne(access(started, F_OK), 0);
	free(started);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		link_to(directory, names[i], NULL);
	ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

/* ---- pg_restore's text ---- */

static const char list[] = ";\n; comment\n"
						   "12; 1259 100 INDEX s i postgres\n"
						   "13; 2606 101 CONSTRAINT s t t_pkey postgres\n"
						   "14; 2606 102 FK CONSTRAINT s t fk postgres\n"
						   "15; 0 0 INDEX ATTACH s i postgres\n"
						   "16; 1259 103 INDEX ATTACH i postgres\n"
						   "17; 0 0 COMMENT s INDEX i postgres\n";

#define HEADER(id) "--\n-- TOC entry " #id " (class 1 OID 2)\n-- Name: x; Type: Y\n--\n\n"

static void
read_script(const char *script, Arena *arena, Entries *entries)
{
	Error err = ERROR_INIT;

	ASSERT_OK(toc_read(slice_cstr(list), arena, entries, &err));
	ASSERT_OK(script_read(slice_cstr(script), arena, entries, &err));
}

/* No provider is packaged, so the one that is named is loaded nowhere: with its labels nothing
 * is made, without them all is. */
START_TEST(security_labels_can_be_left_out)
{
	Job job;
	Error err = ERROR_INIT;

	job_open(&job,
	         "CREATE TABLE t (id int PRIMARY KEY, v text); COMMENT ON TABLE t IS 'kept';"
	         "INSERT INTO pg_seclabel VALUES ('t'::regclass, 'pg_class'::regclass, 0, 'mac', 'a'),"
	         " ('t'::regclass, 'pg_class'::regclass, 2, 'mac', 'b')",
	         NULL);
	ck_assert(!schema_pre_data(&job.work, &err));
	ck_assert_msg(error_has_sqlstate(&err, "22023") && strstr(err.message, "\"mac\"") != NULL, "%s",
	              servers_error(&err));
	ck_assert(db_true(job.target, "SELECT to_regclass('t') IS NULL"));
	job.work.no_security_labels = true;
	restore_all(&job);
	ck_assert(db_true(job.target, "SELECT obj_description('t'::regclass) = 'kept'"));
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM pg_seclabel"), 0);
	job_close(&job);
}
END_TEST

START_TEST(kinds_are_told_by_class)
{
	static const EntryKind kinds[] = {ENTRY_INDEX,  ENTRY_CONSTRAINT, ENTRY_FOREIGN_KEY,
	                                  ENTRY_ATTACH, ENTRY_INDEX,      ENTRY_OTHER};
	Arena *arena = arena_new(0);
	Entries entries;

	read_script("", arena, &entries);
	ck_assert_uint_eq(entries.count, 6);
	for (size_t i = 0; i < 6; i++)
		ck_assert_int_eq(entries.items[i].kind, kinds[i]);
	ck_assert_str_eq(entries.items[0].what, "1259 100 INDEX s i postgres");
	arena_free(arena);
}
END_TEST

/* Headers inside every kind of literal stay there. */
START_TEST(literals_cannot_smuggle_entries)
{
	static const char *const statements[] = {
		"COMMENT ON x IS 'a''\n-- TOC entry 13 (class 1 OID 2)\n';",
		"COMMENT ON x IS E'a\\'\n-- TOC entry 13 (class 1 OID 2)\n';",
		"CREATE INDEX \"\n-- TOC entry 13 (class 1 OID 2)\n\" ON t (a);",
		"DO $$\n-- TOC entry 13 (class 1 OID 2)\n$$;",
		"DO $a$ $$ $b$\n-- TOC entry 13 (class 1 OID 2)\n$a$;",
		"SELECT 1 /* /* ' */\n-- TOC entry 13 (class 1 OID 2)\n */;",
	};

	for (size_t i = 0; i < sizeof(statements) / sizeof(statements[0]); i++) {
		Arena *arena = arena_new(0);
		char *script = mem_printf("\\restrict k\nSET x = 1;\n" HEADER(12) "%s\n" HEADER(
									  13) "SELECT 13;\n\\unrestrict k\n",
		                          statements[i]);
		char *wanted = mem_printf("%s\n", statements[i]);
		Entries entries;
		read_script(script, arena, &entries);
		ck_assert_str_eq(entries.items[0].sql, wanted);
		ck_assert_str_eq(entries.items[1].sql, "SELECT 13;\n");
		free(script);
		free(wanted);
		arena_free(arena);
	}
}
END_TEST

START_TEST(tablespaces_follow_their_entries)
{
	Arena *arena = arena_new(0);
	Entries entries;

	read_script("SET default_tablespace = '';\n" HEADER(
					12) "SELECT 12; SELECT 12;\n"
	                    "SET default_tablespace = fast;\n" HEADER(13) "SELECT 13;\n" HEADER(
							14) "SELECT 14;\n",
	            arena, &entries);
	ck_assert_str_eq(entries.items[0].sql, "SELECT 12;\nSELECT 12;\n");
	ck_assert_str_eq(entries.items[0].settings, "SET LOCAL default_tablespace = '';\n");
	ck_assert_str_eq(entries.items[1].sql, "SELECT 13;\n");
	ck_assert_str_eq(entries.items[1].settings, "SET LOCAL default_tablespace = fast;\n");
	ck_assert_str_eq(entries.items[2].settings, "SET LOCAL default_tablespace = fast;\n");
	ck_assert_str_eq(entries.items[3].sql, "");
	arena_free(arena);
}
END_TEST

/* Any beginning of a script: no read past its end (for the sanitizer), no crash. */
START_TEST(torn_scripts_are_read_to_their_end)
{
	static const char whole[] = HEADER(
		12) "SELECT E'a\\'b', \"c\"\"\", $x$ ' $x$ /* a */ -- b\n;" HEADER(13) "SELECT $1, a$b$c;";

	for (size_t len = 0; len < sizeof(whole); len++) {
		Error err = ERROR_INIT;
		Arena *arena = arena_new(0);
		Entries entries;
		char *torn = mem_alloc(len + 1);
		memcpy(torn, whole, len);
		ASSERT_OK(toc_read(slice_cstr(list), arena, &entries, &err));
		/* A header cut within its number names another entry: refused. */
		bool ok = script_read(slice_of(torn, len), arena, &entries, &err);
		ck_assert(ok || err.class == ERROR_BUG);
		free(torn);
		arena_free(arena);
	}
}
END_TEST

START_TEST(foreign_keys_are_taken_apart)
{
	ForeignKey fk;

	ck_assert(foreign_key_read("ALTER TABLE ONLY a.\"b\"\"\n ADD\"\n    ADD CONSTRAINT \"c d\""
	                           " FOREIGN KEY (x) REFERENCES y(z);\n",
	                           &fk));
	ck_assert(slice_eq_cstr(fk.table, "a.\"b\"\"\n ADD\""));
	ck_assert(slice_eq_cstr(fk.constraint, "\"c d\""));
	ck_assert(!fk.partitioned && !fk.not_valid && !fk.not_enforced);
	ck_assert(foreign_key_read("ALTER TABLE t\n    ADD CONSTRAINT c FOREIGN KEY (x) REFERENCES y(z)"
	                           " NOT VALID;\n\n",
	                           &fk));
	ck_assert(fk.partitioned && fk.not_valid);
	ck_assert(foreign_key_read("ALTER TABLE ONLY t\n    ADD CONSTRAINT c FOREIGN KEY (x) REFERENCES"
	                           " y(z) NOT ENFORCED;",
	                           &fk));
	ck_assert(fk.not_enforced);
	ck_assert(!foreign_key_read("ALTER TABLE ONLY t ADD CONSTRAINT c UNIQUE (x);", &fk));
	ck_assert(!foreign_key_read("ALTER TABLE ONLY \"t", &fk));
	ck_assert(!foreign_key_read("", &fk));
}
END_TEST

/* A file that is damaged is named; one that is not there tells of nothing. */
START_TEST(definitions_are_noted_and_compared)
{
	Error err = ERROR_INIT;
	DefinitionChanges found;
	struct stat info;
	Job job;

	job_open(&job, rich, NULL);
	char *path = mem_printf("%s/schema.definitions", job.state_dir);
	Sql *source = servers_open(cluster, "source");
	ASSERT_OK(definitions_compare(source, job.sql, &job.ledger, job.state_dir, &found, &err));
	ck_assert_uint_eq(found.count, 0);
	ASSERT_OK(definitions_ask(source, &job.ledger, &err));
	ASSERT_OK(definitions_note(source, job.state_dir, &err));
	ASSERT_OK(sql_exec(source, &err, "COMMIT"));
	ck_assert_int_eq(stat(path, &info), 0);
	ck_assert_uint_eq(info.st_mode & 0777, 0600);
	ck_assert_int_gt(info.st_size, 1000);
	ASSERT_OK(definitions_compare(source, job.sql, &job.ledger, job.state_dir, &found, &err));
	ck_assert_uint_eq(found.count, 0);

	/* What is no object by itself. A comment that the target has, too, is not new there. */
	static const char *const said[] = {
		"changed: table app.\"Told\"",        "changed: text search configuration app.told",
		"new: cast (app.told_of AS ",         "new: default acl for role",
		"new: comment on table app.\"Told\"", "new: comment on table column app.\"Told\".a",
	};
	enum { SAID = sizeof(said) / sizeof(said[0]) };
	static const char on_both[] =
		"CREATE TABLE app.\"Told\" (a int, b int); CREATE TYPE app.told_of AS ENUM ('a');"
		"CREATE FUNCTION app.told_to_int(app.told_of) RETURNS int LANGUAGE sql AS 'SELECT 1';"
		"CREATE TEXT SEARCH CONFIGURATION app.told (COPY = pg_catalog.simple);"
		"COMMENT ON COLUMN app.\"Told\".b IS 'both'";
	db_exec(job.source, "%s", on_both);
	db_exec(job.target, "CREATE SCHEMA app; %s", on_both);
	ASSERT_OK(definitions_ask(source, &job.ledger, &err));
	ASSERT_OK(definitions_note(source, job.state_dir, &err));
	ASSERT_OK(sql_exec(source, &err, "COMMIT"));
	db_exec(job.source,
	        "GRANT SELECT (a) ON app.\"Told\" TO PUBLIC; COMMENT ON TABLE app.\"Told\" IS 'x';"
	        "COMMENT ON COLUMN app.\"Told\".a IS 'y'; COMMENT ON COLUMN app.\"Told\".b IS 'both';"
	        "ALTER TEXT SEARCH CONFIGURATION app.told DROP MAPPING FOR word;"
	        "CREATE CAST (app.told_of AS int) WITH FUNCTION app.told_to_int(app.told_of);"
	        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC");
	ASSERT_OK(definitions_compare(source, job.sql, &job.ledger, job.state_dir, &found, &err));
	for (int i = 0; i < SAID; i++) {
		bool named = false;
		for (size_t k = 0; k < found.count && k < DEFINITIONS_NAMED; k++)
			named = named || strncmp(found.named[k], said[i], strlen(said[i])) == 0;
		ck_assert_msg(named, "no \"%s\" (%zu: %s ...)", said[i], found.count, found.named[0]);
	}
	ck_assert_uint_eq(found.count, SAID);
	ASSERT_OK(definitions_ask(source, &job.ledger, &err));
	ASSERT_OK(definitions_note(source, job.state_dir, &err));
	ASSERT_OK(sql_exec(source, &err, "COMMIT"));
	ck_assert_int_eq(stat(path, &info), 0);

	/* More than can be named are counted; a newline in a name does not make two of it. */
	for (int i = 0; i < DEFINITIONS_NAMED + 3; i++)
		db_exec(job.source, "CREATE VIEW app.\"late\n%d\" AS SELECT 1", i);
	ASSERT_OK(definitions_compare(source, job.sql, &job.ledger, job.state_dir, &found, &err));
	ck_assert_uint_eq(found.count, DEFINITIONS_NAMED + 3);
	ck_assert_ptr_nonnull(strstr(found.named[DEFINITIONS_NAMED - 1], "new: view app.\"late "));

	ck_assert_int_eq(truncate(path, info.st_size - 20), 0);
	ck_assert(!definitions_compare(source, job.sql, &job.ledger, job.state_dir, &found, &err));
	ck_assert_int_eq(err.class, ERROR_STORAGE);
	ck_assert_ptr_nonnull(strstr(err.message, "schema.definitions: this is no line of it"));
	sql_close(source);
	free(path);
	job_close(&job);
}
END_TEST

static Suite *
make_schema(void)
{
	Suite *suite = suite_create("schema");
	TCase *text = tcase_create("text");
	TCase *tc = tcase_create("servers");
	TCase *definitions = tcase_create("definitions");

	tcase_add_test(text, kinds_are_told_by_class);
	tcase_add_test(text, literals_cannot_smuggle_entries);
	tcase_add_test(text, tablespaces_follow_their_entries);
	tcase_add_test(text, the_last_statement_is_found);
	tcase_add_test(text, torn_scripts_are_read_to_their_end);
	tcase_add_test(text, foreign_keys_are_taken_apart);
	tcase_add_test(text, tools_must_be_new_enough);
	tcase_add_test(text, debians_wrapper_is_not_started);
	suite_add_tcase(suite, text);

	tcase_add_unchecked_fixture(tc, start, stop);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, security_labels_can_be_left_out);
	tcase_add_test(tc, the_targets_dump_is_the_sources);
	tcase_add_test(tc, owners_are_kept);
	tcase_add_test(tc, stages_come_in_order);
	tcase_add_test(tc, the_rest_of_the_archive_is_read_once);
	tcase_add_test(tc, a_second_call_repeats_only_what_is_missing);
	tcase_add_test(tc, an_object_in_the_way_is_named);
	tcase_add_test(tc, a_row_without_its_parent_is_divergence);
	tcase_add_test(tc, no_large_table_is_read_by_two_checks);
	tcase_add_test(tc, only_the_chosen_tables);
	tcase_add_test(tc, chosen_tables_schemas);
	tcase_add_test(tc, a_schema_is_chosen);
	tcase_add_test(tc, tables_rows_and_indexes_are_left_out);
	tcase_add_test(tc, tables_are_chosen_with_what_they_need);
	tcase_add_test(tc, our_own_fence_is_not_moved);
	tcase_add_test(tc, rows_of_extensions_come_by_their_condition);
	tcase_add_test(tc, the_password_is_in_no_argv);
	tcase_add_test(tc, stop_ends_the_child);
	tcase_add_test(tc, a_failing_child_says_why);
	tcase_set_timeout(definitions, 60);
	tcase_add_unchecked_fixture(definitions, start, stop);
	tcase_add_test(definitions, definitions_are_noted_and_compared);
	suite_add_tcase(suite, definitions);
	suite_add_tcase(suite, tc);
	return suite;
}

TEST_SUITE(make_schema)
