/*
 * What the target's planner and a session's prepared statements must not do: scan a table
 * for a batch, however wrong the statistics are; grow in number with what the rows look like.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/lane/share.h"
#include "common/memory.h"
#include "tests/unit/apply/test_stream_rig.h"
#include "tests/unit/runner.h"

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, "max_connections = 60");
}

static void
stop(void)
{
	cluster_free(cluster);
}

static const RigOptions variants[] = {
	{.lanes = 1, .binary = false},
	{.lanes = 4, .binary = true},
};
enum { VARIANTS = sizeof(variants) / sizeof(variants[0]) };

/* A session's counts are in the views when it has gone. */
static void
end_session(Rig *rig)
{
	char sql[160];

	snprintf(sql, sizeof(sql),
	         "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = %d"
	         " OR application_name LIKE 'pgbaton apply%%'",
	         PQbackendPID(rig->target));
	PQfinish(rig->target);
	rig->target = db_connect(rig->cluster, "target");
	db_wait_until(rig->target, sql, 60);
}

static int64_t
scans(Rig *rig)
{
	return db_int(rig->target, "SELECT sum(seq_scan) FROM pg_stat_user_tables"
	                           " WHERE schemaname = 'public'");
}

static int64_t
fetched(Rig *rig)
{
	return db_int(rig->target, "SELECT sum(idx_tup_fetch) FROM pg_stat_user_tables"
	                           " WHERE schemaname = 'public'");
}

/* never: loaded, and nobody has looked; empty: analysed before it was loaded; parts: leaves
 * of a partitioned table; two: a key of two columns, of which the first says little, and
 * another index that looks as good; told: of a type whose = is an extension's. */
static const char tables_without_statistics[] =
	"CREATE EXTENSION citext;"
	"CREATE TABLE told (id citext PRIMARY KEY, v int) WITH (autovacuum_enabled = off);"
	"CREATE TABLE never (id bigint PRIMARY KEY, v int, t text) WITH (autovacuum_enabled = off);"
	"CREATE TABLE empty (id text PRIMARY KEY, v int) WITH (autovacuum_enabled = off);"
	"CREATE TABLE parts (id int PRIMARY KEY, v int) PARTITION BY HASH (id);"
	"CREATE TABLE p0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0)"
	" WITH (autovacuum_enabled = off);"
	"CREATE TABLE p1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
	" WITH (autovacuum_enabled = off);"
	"CREATE TABLE two (a int, b int, v int, PRIMARY KEY (a, b)) WITH (autovacuum_enabled = off);"
	"CREATE INDEX two_a ON two (a); ANALYZE;"
	"INSERT INTO never SELECT i, i, md5(i::text) FROM generate_series(1, 20000) i;"
	"INSERT INTO empty SELECT 'k' || i, i FROM generate_series(1, 20000) i;"
	"INSERT INTO parts SELECT i, i FROM generate_series(1, 20000) i;"
	"INSERT INTO two SELECT i % 10, i, i FROM generate_series(1, 20000) i;"
	"INSERT INTO told SELECT 'K' || i, i FROM generate_series(1, 20000) i;";

/* 1,000 changes of each table: in a batch, and row by row. */
static void
write_tables(PGconn *c)
{
	db_exec(c, "UPDATE never SET v = -v WHERE id %% 40 = 0; DELETE FROM never WHERE id %% 40 = 1");
	db_exec(c, "UPDATE empty SET v = -v WHERE v %% 40 = 0; DELETE FROM empty WHERE v %% 40 = 1");
	db_exec(c, "UPDATE parts SET v = -v WHERE id %% 40 = 0; DELETE FROM parts WHERE id %% 40 = 1");
	db_exec(c, "UPDATE two SET v = -v WHERE b %% 40 = 0; DELETE FROM two WHERE b %% 40 = 1");
	db_exec(c, "UPDATE told SET v = -v WHERE v %% 40 = 0; DELETE FROM told WHERE v %% 40 = 1");
}

START_TEST(no_scans)
{
	enum { CHANGES = 5 * 1000 };
	Rig rig;

	rig_open(&rig, cluster, tables_without_statistics, variants[_i]);
	end_session(&rig);
	int64_t scans_before = scans(&rig);
	int64_t fetched_before = fetched(&rig);
	rig_start(&rig);
	write_tables(rig.source);
	rig_sync(&rig);
	for (int i = 3; i < 40; i += 10) {
		db_exec(rig.source, "UPDATE never SET v = 7 WHERE id = %d", i);
		db_exec(rig.source, "DELETE FROM two WHERE b = %d", i);
		rig_sync(&rig);
	}
	rig_stop_applier(&rig);
	end_session(&rig);
	ck_assert_int_eq(scans(&rig), scans_before);
	/* Nor a whole index, nor the rows of one value of its first column. */
	ck_assert_int_ge(fetched(&rig) - fetched_before, CHANGES);
	ck_assert_int_lt(fetched(&rig) - fetched_before, 2 * CHANGES);
	rig_start_applier(&rig, variants[_i].lanes);
	rig_compare(&rig);
	rig_close(&rig);
}
END_TEST

/* ---- sets of columns ---- */

enum { SETS_BITS = 8, SETS = 1 << SETS_BITS };

/* Row i changes the large values whose bits i has. */
static void
put_update_of_sets(Buffer *sql)
{
	buffer_put_text(sql, "UPDATE w SET n = n + 1");
	for (int c = 0; c < SETS_BITS; c++)
		buffer_printf(
			sql, ", c%d = CASE WHEN id & %d <> 0 THEN repeat(md5(n || 'x%d'), 80) ELSE c%d END", c,
			1 << c, c, c);
}

static void
put_table_of_sets(Buffer *sql)
{
	buffer_put_text(sql, "CREATE TABLE w (id int PRIMARY KEY, n int, s text");
	for (int c = 0; c < SETS_BITS; c++)
		buffer_printf(sql, ", c%d %s", c, c % 2 == 0 ? "text" : "varchar(9000)");
	buffer_put_text(sql, ");");
	for (int c = 0; c < SETS_BITS; c++)
		buffer_printf(sql, "ALTER TABLE w ALTER c%d SET STORAGE EXTERNAL;", c);
}

static int64_t
toast_bytes(Rig *rig)
{
	return db_int(rig->target, "SELECT pg_relation_size(reltoastrelid) FROM pg_class"
	                           " WHERE relname = 'w'");
}

START_TEST(unchanged_sets)
{
	Rig rig;
	Buffer sql = BUFFER_INIT;
	Buffer update = BUFFER_INIT;

	put_table_of_sets(&sql);
	put_update_of_sets(&update);
	rig_open(&rig, cluster, buffer_cstr(&sql), variants[_i]);
	rig_start(&rig);
	db_exec(rig.source, "INSERT INTO w (id, n) SELECT i, i FROM generate_series(0, %d) i",
	        SETS - 1);
	for (int c = 0; c < SETS_BITS; c++)
		db_exec(rig.source, "UPDATE w SET c%d = repeat(md5(id::text), 80) WHERE id %% 7 <> %d", c,
		        c);
	rig_compare(&rig);
	db_exec(rig.source, "%s", buffer_cstr(&update)); /* one batch, all sets */
	rig_compare(&rig);
	db_exec(rig.source, "%s WHERE id %% 50 = 3", buffer_cstr(&update)); /* few rows */
	rig_sync(&rig);
	/* What stays is not written again. */
	int64_t before = toast_bytes(&rig);
	db_exec(rig.source, "UPDATE w SET n = n + 1, s = 'short'");
	rig_sync(&rig);
	ck_assert_int_eq(toast_bytes(&rig), before);
	/* Two rows change places: the batch is replayed. */
	db_exec(rig.source, "UPDATE w SET n = id * 1000");
	db_exec(rig.source, "CREATE UNIQUE INDEX ON w (n)");
	rig_sync(&rig);
	db_exec(rig.target, "CREATE UNIQUE INDEX ON w (n)");
	db_exec(rig.source,
	        "BEGIN; UPDATE w SET n = -1 WHERE id = 1; UPDATE w SET n = 1000 WHERE id = 2;"
	        "UPDATE w SET n = 2000, c1 = 'small' WHERE id = 1; COMMIT");
	rig_compare(&rig);
	ApplierState state;
	applier_state(rig.applier, &state);
	ck_assert_uint_gt(state.replays, 0);
	rig_close(&rig);
	buffer_free(&sql);
	buffer_free(&update);
}
END_TEST

/* ---- prepared statements ---- */

typedef struct {
	Sql *sql;
	StmtCache *cache;
	Pipe *pipe;
	Arena *arena;
	Plan *plan;
} Session;

static void
session_open(Session *s, Rig *rig)
{
	Error err = ERROR_INIT;
	PgoColumn columns[2 + 1 + SETS_BITS] = {
		{.name = "id", .type_oid = 23, .typmod = -1, .key = true},
		{.name = "n", .type_oid = 23, .typmod = -1},
		{.name = "s", .type_oid = 25, .typmod = -1},
	};
	char names[SETS_BITS][8];

	for (int c = 0; c < SETS_BITS; c++) {
		snprintf(names[c], sizeof(names[c]), "c%d", c);
		columns[3 + c] = (PgoColumn){
			.name = names[c], .type_oid = c % 2 == 0 ? 25 : 1043, .typmod = c % 2 == 0 ? -1 : 9004};
	}
	PgoRelation relation = {.oid = catalog_find(rig->catalog, "public", "w")->oid,
	                        .schema = "public",
	                        .name = "w",
	                        .replica_identity = 'd',
	                        .count = 3 + SETS_BITS,
	                        .columns = columns};
	s->arena = arena_new(0);
	s->plan = plan_new(rig->catalog, "pgbaton", false, &relation, s->arena, &err);
	ck_assert_msg(s->plan != NULL, "%s", servers_error(&err));
	s->sql = servers_open(rig->cluster, "target");
	s->cache = stmt_cache_new();
	s->pipe = pipe_new(s->sql, s->cache);
}

static void
session_close(Session *s)
{
	pipe_free(s->pipe);
	stmt_cache_free(s->cache);
	sql_close(s->sql);
	arena_free(s->arena);
}

static int64_t
prepared(Session *s)
{
	char text[32];
	Error err = ERROR_INIT;

	ASSERT_OK(
		sql_value(s->sql, &err, text, sizeof(text), "SELECT count(*) FROM pg_prepared_statements"));
	return strtoll(text, NULL, 10);
}

/* Each large value is known, NULL or unchanged, as set says (two bits each). */
static void
put_update(Buffer *out, int id, unsigned set)
{
	char text[16];

	buffer_reset(out);
	buffer_put_text(out, "U");
	buffer_put_u32(out, 1);
	buffer_put_u8(out, 'N');
	buffer_put_u16(out, 3 + SETS_BITS);
	int len = snprintf(text, sizeof(text), "%d", id);
	for (int i = 0; i < 2; i++) {
		buffer_put_u8(out, 't');
		buffer_put_u32(out, (uint32_t)len);
		buffer_put_text(out, text);
	}
	buffer_put_u8(out, 'n');
	for (int c = 0; c < SETS_BITS; c++) {
		unsigned kind = set >> (2 * c) & 3;
		buffer_put_u8(out, kind == 0 ? 't' : kind == 1 ? 'n' : 'u');
		if (kind == 0) {
			buffer_put_u32(out, 3);
			buffer_put_text(out, "new");
		}
	}
}

static void
run_batch(Session *s, int rows, bool guarded, unsigned *seed)
{
	PgoContext context = {.proto_version = 1};
	Batch *batch = batch_new(1);
	Buffer message = BUFFER_INIT;
	Error err = ERROR_INIT;
	const void *failed;

	for (int id = 0; id < rows; id++) {
		put_update(&message, id, (unsigned)rand_r(seed));
		ck_assert_int_eq(
			batch_add(batch, s->plan, &context, buffer_slice(&message), lsn_make(5), 9, &err),
			BATCH_ADDED);
	}
	Arena *arena = arena_new(0);
	ck_assert_int_eq(share_run(s->pipe, batch, 0, guarded, arena, &err), PIPE_OK);
	PipeEnd end = pipe_finish(s->pipe, &failed, &err);
	ck_assert_msg(end == PIPE_OK, "%s", servers_error(&err));
	arena_free(arena);
	buffer_free(&message);
	batch_free(batch);
}

/* A table that is apart is one applier's; when it has joined, what that one has applied is
 * passed over, and nothing else. */
START_TEST(each_applier_has_its_tables)
{
	enum { LEVEL = 1000 };
	Error err = ERROR_INIT;
	Rig rig;
	PgoColumn columns[] = {{.name = "id", .type_oid = 23, .typmod = -1, .key = true}};
	PgoRelation relation = {
		.schema = "public", .name = "w", .replica_identity = 'd', .count = 1, .columns = columns};
	Arena *arena = arena_new(0);

	rig_open(&rig, cluster, "CREATE TABLE w (id int PRIMARY KEY)", variants[0]);
	Table *w = catalog_find(rig.catalog, "public", "w");
	relation.oid = w->oid;
	for (int round = 0; round < 2; round++) {
		atomic_store(&w->apart, round == 1);
		for (int apart = 0; apart < 2; apart++) {
			const Plan *plan = plan_new(rig.catalog, "pgbaton", apart == 1, &relation, arena, &err);
			ck_assert_msg(plan != NULL, "%s", servers_error(&err));
			ck_assert(plan_skips(plan, lsn_make(LEVEL), 7) == (apart != round));
		}
	}
	atomic_store(&w->apart, false);
	w->level_lsn = lsn_make(LEVEL);
	const Plan *plan = plan_new(rig.catalog, "pgbaton", false, &relation, arena, &err);
	ck_assert(plan_skips(plan, lsn_make(LEVEL - 1), 7));
	ck_assert(plan_skips(plan, lsn_make(LEVEL), 7));
	ck_assert(!plan_skips(plan, lsn_make(LEVEL + 1), 7));

	/* By its oid, whatever it is called; another one of its name is refused. */
	relation.name = "renamed";
	plan = plan_new(rig.catalog, "pgbaton", false, &relation, arena, &err);
	ck_assert_ptr_nonnull(plan);
	ck_assert_ptr_eq(plan->table, w);
	relation.name = "w";
	relation.oid++;
	ck_assert_ptr_null(plan_new(rig.catalog, "pgbaton", false, &relation, arena, &err));
	ck_assert_ptr_nonnull(strstr(err.message, "public.w is not the one that was copied"));
	/* What is none of them is passed over: it was dropped since. */
	relation.name = "unknown";
	plan = plan_new(rig.catalog, "pgbaton", false, &relation, arena, &err);
	ck_assert_ptr_nonnull(plan);
	ck_assert(plan_skips(plan, lsn_make(LEVEL + 1), 7));
	rig_close(&rig);
	arena_free(arena);
}
END_TEST

/* Known, NULL and unchanged values in any combination make a few statements: masked and
 * not, arrays and single rows, these guarded and not. */
START_TEST(few_statements)
{
	Rig rig;
	Session s;
	Buffer sql = BUFFER_INIT;
	unsigned seed = 1;

	put_table_of_sets(&sql);
	buffer_printf(&sql, "INSERT INTO w SELECT i, i FROM generate_series(0, %d) i;", SETS - 1);
	rig_open(&rig, cluster, buffer_cstr(&sql), variants[0]);
	rig.catalog->stream_binary = false;
	session_open(&s, &rig);
	for (int round = 0; round < 10; round++)
		run_batch(&s, SETS, false, &seed);
	for (int round = 0; round < 50; round++)
		run_batch(&s, 1, round % 2 == 0, &seed);
	ck_assert_int_le(prepared(&s), 6);
	session_close(&s);
	buffer_free(&sql);
	rig_close(&rig);
}
END_TEST

/* The longest unused goes when there are 512. */
START_TEST(bounded_statements)
{
	enum { MOST = 520 };
	Rig rig;
	Session s;
	Buffer sql = BUFFER_INIT;
	Error err = ERROR_INIT;
	const void *failed;
	static const char zero[8];
	const char *values[2 * MOST];
	int lengths[2 * MOST];

	put_table_of_sets(&sql);
	rig_open(&rig, cluster, buffer_cstr(&sql), variants[0]);
	session_open(&s, &rig);
	uint8_t forms[3 + SETS_BITS] = {VALUE_TEXT};
	Shape shape = {.plan = s.plan, .op = STMT_DELETE_IMAGE, .key_forms = forms, .forms = forms};
	for (int i = 0; i < MOST; i++) { /* counts and images: nothing is deleted */
		values[2 * i] = zero;
		lengths[2 * i] = sizeof(zero);
		values[2 * i + 1] = NULL;
		lengths[2 * i + 1] = 0;
	}
	for (uint32_t rows = 2; rows < MOST; rows++) {
		shape.rows = rows;
		ASSERT_OK(pipe_shape(s.pipe, &shape, values, lengths, 0, NULL, NULL, NULL, &err));
	}
	PipeEnd end = pipe_finish(s.pipe, &failed, &err);
	ck_assert_msg(end == PIPE_OK, "%s", servers_error(&err));
	ck_assert_int_eq(prepared(&s), 512);
	session_close(&s);
	buffer_free(&sql);
	rig_close(&rig);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("stream/plans");
	TCase *tcase = tcase_create("stream_plans");

	tcase_add_unchecked_fixture(tcase, start, stop);
	tcase_set_timeout(tcase, 120);
	tcase_add_loop_test(tcase, no_scans, 0, VARIANTS);
	tcase_add_loop_test(tcase, unchanged_sets, 0, VARIANTS);
	tcase_add_test(tcase, each_applier_has_its_tables);
	tcase_add_test(tcase, few_statements);
	tcase_add_test(tcase, bounded_statements);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
