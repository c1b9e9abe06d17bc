/*
 * The target is not what the source believes: a row is missing, is there twice, or is in the
 * way. Each is named with table, key, transaction and LSN, stops the migration with nothing
 * applied past it, is met again by a resume before it is mended, and goes on after.
 */
#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/unit/runner.h"

static Cluster *source_cluster;
static Cluster *target_cluster;

static void
start_clusters(void)
{
	source_cluster = cluster_start(&(ClusterOptions){.name = "source"});
	target_cluster = cluster_start(&(ClusterOptions){.name = "target"});
}

static void
stop_clusters(void)
{
	cluster_free(source_cluster);
	cluster_free(target_cluster);
}

static const char schema[] =
	"CREATE TABLE k (id int PRIMARY KEY, v int NOT NULL, u int UNIQUE);"
	"CREATE TABLE c (a int, b text, v int, PRIMARY KEY (a, b));"
	"CREATE TABLE f (a int, t text, n numeric);" /* REPLICA IDENTITY FULL is set for it */
	"CREATE TABLE e (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&));"
	"CREATE TABLE many (id int PRIMARY KEY, v int);"
	"CREATE TABLE later (id int PRIMARY KEY);"
	"INSERT INTO k SELECT g, 0, g FROM generate_series(1, 500) g;"
	"INSERT INTO c SELECT g, 'it''s \"' || g || '\", (x)=', 0 FROM generate_series(1, 200) g;"
	"INSERT INTO f SELECT g % 20, 'f''' || g % 20, g % 20 FROM generate_series(1, 60) g;"
	"INSERT INTO e SELECT g, int4range(g * 10, g * 10 + 5) FROM generate_series(1, 100) g;";

/* `write` runs in one transaction on the source. */
typedef struct {
	const char *name;
	const char *spoil; /* on the target */
	const char *write;
	const char *table;
	const char *says[3]; /* in the error, message or context */
	const char *sqlstate;
	const char *mend; /* on the target */
} Difference;

static const Difference differences[] = {
	{
		.name = "update of a missing row",
		.spoil = "DELETE FROM k WHERE id = 7",
		.write = "UPDATE k SET v = v + 1 WHERE id BETWEEN 1 AND 300",
		.table = "k",
		.says = {"update of row (id)=(7) of \"public\".\"k\"", "the row is not on the target"},
		.mend = "INSERT INTO k VALUES (7, 0, 7)",
	},
	{
		.name = "delete of a missing row, two columns, quotes",
		.spoil = "DELETE FROM c WHERE a = 3",
		.write = "DELETE FROM c WHERE a <= 100",
		.table = "c",
		.says = {"delete of row (a, b)=(3, it's \"3\", (x)=) of \"public\".\"c\"",
                 "the row is not on the target"},
		.mend = "INSERT INTO c VALUES (3, 'it''s \"3\", (x)=', 0)",
	},
	{
		.name = "a key that moves away from a missing row",
		.spoil = "DELETE FROM c WHERE a = 150",
		.write = "UPDATE c SET b = b || '!' WHERE a > 120",
		.table = "c",
		.says = {"update of row (a, b)=(150, it's \"150\", (x)=)", "the row is not on the target"},
		.mend = "INSERT INTO c VALUES (150, 'it''s \"150\", (x)=', 0)",
	},
	{
		.name = "insert of a row that is there",
		.spoil = "INSERT INTO k VALUES (900, 1, NULL)",
		.write = "INSERT INTO k SELECT g, 0, g FROM generate_series(801, 1100) g",
		.table = "k",
		.says = {"insert of row (id)=(900) of \"public\".\"k\"", "k_pkey"},
		.sqlstate = "23505",
		.mend = "DELETE FROM k WHERE id = 900",
	},
	{
		.name = "a unique value that another row has",
		.spoil = "INSERT INTO k VALUES (5000, 0, 2050)",
		.write = "UPDATE k SET u = u + 2000 WHERE id <= 100",
		.table = "k",
		.says = {"update of row (id)=(50)", "k_u_key"},
		.sqlstate = "23505",
		.mend = "DELETE FROM k WHERE id = 5000",
	},
	{
		.name = "a range in the way",
		.spoil = "INSERT INTO e VALUES (5000, '[5402,5404)')",
		.write = "UPDATE e SET r = int4range(lower(r) + 5000, upper(r) + 5000) WHERE id <= 80",
		.table = "e",
		.says = {"update of row (id)=(40) of \"public\".\"e\"", "e_r_excl"},
		.sqlstate = "23P01",
		.mend = "DELETE FROM e WHERE id = 5000",
	},
	{
		.name = "a copy too few of a row without a key",
		.spoil = "DELETE FROM f WHERE ctid = (SELECT min(ctid) FROM f WHERE a = 4)",
		.write = "DELETE FROM f WHERE a BETWEEN 2 AND 6",
		.table = "f",
		.says = {"delete of row (a, t, n)=(4, f'4, ", "of \"public\".\"f\"",
                 "the row is not on the target"},
		.mend = "INSERT INTO f VALUES (4, 'f''4', 4)",
	},
	{
		.name = "update of a missing row without a key",
		.spoil = "DELETE FROM f WHERE a = 11",
		.write = "UPDATE f SET t = t || 'x' WHERE a >= 10",
		.table = "f",
		.says = {"update of row (a, t, n)=(11, f'11, ", "the row is not on the target"},
		.mend = "INSERT INTO f SELECT 11, 'f''11', 11 FROM generate_series(1, 3)",
	},
	{
		.name = "a row that is there twice",
		.spoil = "ALTER TABLE many DROP CONSTRAINT many_pkey; INSERT INTO many VALUES (20, 0)",
		.write = "UPDATE many SET v = 1 WHERE id BETWEEN 1 AND 100",
		.table = "many",
		.says = {"update of row (id)=(20)", "the row is 2 times on the target"},
		.mend = "DELETE FROM many WHERE ctid = (SELECT max(ctid) FROM many WHERE id = 20);"
				"ALTER TABLE many ADD PRIMARY KEY (id)",
	},
	{
		.name = "near the end of a transaction larger than a batch",
		.spoil = "DELETE FROM many WHERE id = 5990",
		.write = "UPDATE many SET v = v + 10",
		.table = "many",
		.says = {"update of row (id)=(5990) of \"public\".\"many\"",
                 "the row is not on the target"},
		.mend = "INSERT INTO many VALUES (5990, 0)",
	},
};
enum { DIFFERENCES = sizeof(differences) / sizeof(differences[0]) };

typedef struct {
	char name[32];
	PGconn *source;
	PGconn *target;
	Pgbaton *p;
	int later; /* rows of the table `later` */
} Case;

/* Enough for all transactions of a difference, but for the one that is to be larger. */
static const char *const small_batches[] = {"PGBATON_BATCH_ROWS=4000", NULL};

static void
open_case(Case *c, const char *name, int lanes)
{
	char lanes_text[8];
	const char *args[] = {"--name", c->name, "--lanes", lanes_text, NULL};

	memset(c, 0, sizeof(*c));
	snprintf(c->name, sizeof(c->name), "%s_%d", name, lanes);
	snprintf(lanes_text, sizeof(lanes_text), "%d", lanes);
	db_create(source_cluster, c->name);
	db_create(target_cluster, c->name);
	c->source = db_connect(source_cluster, c->name);
	c->target = db_connect(target_cluster, c->name);
	db_exec(c->source, "%s", schema);
	db_exec(c->source, "INSERT INTO many SELECT g, 0 FROM generate_series(1, 6000) g");
	c->p = pgbaton_start(&(PgbatonOptions){.source = cluster_uri(source_cluster, c->name),
	                                       .target = cluster_uri(target_cluster, c->name),
	                                       .args = args,
	                                       .env = small_batches});
	pgbaton_wait_state(c->p, "following", 60);
}

static void
close_case(Case *c)
{
	pgbaton_free(c->p);
	PQfinish(c->source);
	PQfinish(c->target);
}

static void
pause_apply(Case *c)
{
	int64_t deadline = deadline_in_ms(30000);
	bool paused = false;

	ck_assert_int_eq(pgbaton_cli(c->p, NULL, 30, "pause", NULL), 0);
	while (!paused) {
		char *phase = pgbaton_status_text(c->p, "applier.phase");
		paused = strcmp(phase, "paused") == 0;
		free(phase);
		ck_assert(paused || deadline_left_ms(deadline) > 0);
		poll(NULL, 0, paused ? 0 : 5);
	}
}

/* The difference between one transaction and another, which are right. */
typedef struct {
	char *before; /* WAL positions of the source around the transaction's commit */
	char *after;
	char *xid;
} Written;

static Written
write_difference(Case *c, const Difference *d)
{
	Written w;

	db_exec(c->source, "INSERT INTO later VALUES (%d); UPDATE k SET v = v WHERE id > 300",
	        ++c->later);
	db_exec(c->source, "BEGIN; %s", d->write);
	w.xid = db_value(c->source, "SELECT txid_current() & 4294967295");
	w.before = db_value(c->source, "SELECT pg_current_wal_insert_lsn()");
	db_exec(c->source, "COMMIT");
	w.after = db_value(c->source, "SELECT pg_current_wal_insert_lsn()");
	c->later++;
	db_exec(c->source,
	        "INSERT INTO later VALUES (%d); UPDATE k SET v = v WHERE id > 300;"
	        "DELETE FROM e WHERE id = %d; INSERT INTO f VALUES (%d)",
	        c->later, 100 - c->later / 2, 1000 + c->later);
	return w;
}

static void
written_free(Written *w)
{
	free(w->xid);
	free(w->before);
	free(w->after);
}

/* What the status says of a failure: "error" is context: message. */
static char *
error_text(json_t *status)
{
	const json_t *error = json_object_get(status, "error");

	ck_assert(json_is_object(error));
	return mem_printf("%s: %s", json_string_value(json_object_get(error, "context")),
	                  json_string_value(json_object_get(error, "message")));
}

static void
check_named(Case *c, const Difference *d, const Written *w, const char *text)
{
	char xid[64];
	const char *at = strstr(text, "committed at ");

	for (int i = 0; i < 3 && d->says[i] != NULL; i++)
		ck_assert_msg(strstr(text, d->says[i]) != NULL, "%s: \"%s\" is not in: %s", d->name,
		              d->says[i], text);
	snprintf(xid, sizeof(xid), "source transaction %s committed at ", w->xid);
	ck_assert_msg(at != NULL && strstr(text, xid) != NULL, "%s: \"%s\" is not in: %s", d->name, xid,
	              text);
	at += strlen("committed at ");
	int len = (int)strspn(at, "0123456789ABCDEF/");
	ck_assert_msg(db_true(c->source, "SELECT '%.*s'::pg_lsn >= '%s' AND '%.*s'::pg_lsn < '%s'", len,
	                      at, w->before, len, at, w->after),
	              "%s: %s is not between %s and %s", d->name, at, w->before, w->after);
}

static void
check_table(const Difference *d, json_t *status)
{
	size_t i;
	json_t *table;
	int errored = 0;

	ck_assert_int_eq(
		json_integer_value(json_object_get(json_object_get(status, "tables"), "errored")), 1);
	json_array_foreach (json_object_get(status, "table"), i, table) {
		if (strcmp(json_string_value(json_object_get(table, "state")), "errored") != 0)
			continue;
		errored++;
		ck_assert_str_eq(json_string_value(json_object_get(table, "name")), d->table);
		const char *text = json_string_value(json_object_get(table, "error"));
		ck_assert_msg(text != NULL && strstr(text, d->says[0]) != NULL, "%s: %s", d->name, text);
	}
	ck_assert_int_eq(errored, 1);
}

/* Nothing of the transaction, where it fits into one batch, and nothing behind it. */
static void
check_nothing_past(Case *c, const Difference *d, const Written *w)
{
	ck_assert_int_lt(db_int(c->target, "SELECT coalesce(max(id), 0) FROM later"), c->later);
	ck_assert_int_eq(db_int(c->target, "SELECT count(*) FROM f WHERE a >= %d", 1000 + c->later), 0);
	ck_assert_msg(!db_true(c->target,
	                       "SELECT bool_or(commit_lsn >= '%s' AND (commit_lsn >= '%s'"
	                       " OR position = 9223372036854775807)) FROM %s.progress",
	                       w->before, w->after, c->name),
	              "%s: the progress stands behind it", d->name);
}

static void
expect_failed(Case *c, const Difference *d, const Written *w)
{
	pgbaton_wait_state(c->p, "failed", 30);
	json_t *status = pgbaton_status(c->p);
	char *text = error_text(status);
	const char *state = json_string_value(
		json_object_get(json_object_get(status, "error"), "sqlstate"));

	check_named(c, d, w, text);
	ck_assert_str_eq(state != NULL ? state : "", d->sqlstate != NULL ? d->sqlstate : "");
	check_table(d, status);
	check_nothing_past(c, d, w);
	free(text);
	json_decref(status);
}

static void
go_on(Case *c)
{
	char sql[80];

	ck_assert_int_eq(pgbaton_cli(c->p, NULL, 30, "resume", NULL), 0);
	pgbaton_wait_state(c->p, "following", 60);
	snprintf(sql, sizeof(sql), "SELECT count(*) = 1 FROM later WHERE id = %d", c->later);
	db_wait_until(c->target, sql, 30);
	ck_assert_int_eq(pgbaton_status_int(c->p, "tables.errored"), 0);
	compare_databases(c->source, c->target, &(CompareOptions){.own_schema = c->name});
}

/* Three transactions in one batch, of which the middle one meets the difference. */
START_TEST(named_and_mended)
{
	static const int lanes[] = {1, 4};
	Case c;

	open_case(&c, "differs", lanes[_i]);
	for (size_t i = 0; i < DIFFERENCES; i++) {
		const Difference *d = &differences[i];
		pause_apply(&c);
		db_exec(c.target, "%s", d->spoil);
		Written w = write_difference(&c, d);
		ck_assert_int_eq(pgbaton_cli(c.p, NULL, 30, "resume", NULL), 0);
		expect_failed(&c, d, &w);
		/* Not mended yet. */
		ck_assert_int_eq(pgbaton_cli(c.p, NULL, 30, "resume", NULL), 0);
		expect_failed(&c, d, &w);
		db_exec(c.target, "%s", d->mend);
		go_on(&c);
		written_free(&w);
	}
	close_case(&c);
}
END_TEST

/* The same in the first batch of a process. */
START_TEST(first_after_a_start)
{
	static const size_t chosen[] = {0, 3, 6};
	Case c;

	open_case(&c, "start_differs", 4);
	for (size_t i = 0; i < sizeof(chosen) / sizeof(chosen[0]); i++) {
		const Difference *d = &differences[chosen[i]];
		pause_apply(&c);
		db_exec(c.target, "%s", d->spoil);
		pgbaton_stop(c.p, SIGKILL);
		Written w = write_difference(&c, d);
		pgbaton_again(c.p);
		expect_failed(&c, d, &w);
		pgbaton_stop(c.p, SIGTERM);
		pgbaton_again(c.p);
		expect_failed(&c, d, &w);
		db_exec(c.target, "%s", d->mend);
		go_on(&c);
		written_free(&w);
	}
	close_case(&c);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("divergence");
	TCase *tcase = tcase_create("divergence");

	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_set_timeout(tcase, 180);
	tcase_add_loop_test(tcase, named_and_mended, 0, 2);
	tcase_add_test(tcase, first_after_a_start);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
