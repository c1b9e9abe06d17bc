/*
 * Exactly once, whatever stops: pgbaton is killed (kill -9) inside the apply, between two lanes'
 * commits, around a table's copy and inside a schema step, connections break around a COMMIT,
 * and the target's server loses what it had not flushed. After each a start goes on, and at the end both sides are equal; a table
 * without a key would show what was done twice.
 */
#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/lsn.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/harness/relay.h"
#include "tests/harness/skip.h"
#include "tests/integration/workload.h"
#include "tests/unit/runner.h"

static Cluster *source_cluster;
static Cluster *target_cluster;

static void
start_clusters(void)
{
	source_cluster = cluster_start(&(ClusterOptions){.name = "source"});
	target_cluster = cluster_start(&(ClusterOptions){.name = "target"});
}

/* Commits without waiting stay in memory until somebody asks for them: not autovacuum, and not
 * the WAL writer, which is stopped when it matters. */
static void
start_durable_clusters(void)
{
	source_cluster = cluster_start(&(ClusterOptions){.name = "source"});
	target_cluster = cluster_start(&(ClusterOptions){
		.name = "target",
		.durable = true,
		.conf = "wal_writer_delay = 10s\nwal_writer_flush_after = 1GB\nwal_buffers = 64MB\n"
				"autovacuum = off\n"});
}

static void
stop_clusters(void)
{
	cluster_free(source_cluster);
	cluster_free(target_cluster);
}

/* ---- a migration of one database ---- */

typedef struct {
	char name[32];
	char lanes[16];
	const char *confirm;
	PGconn *source;
	PGconn *target;
	char source_uri[160];
	char target_uri[160];
	char *state_dir;
	Pgbaton *p;
	int steps;      /* rows in the table step */
	int batch_rows; /* 0: as many as usual */
} Case;

static const char schema[] =
	"CREATE TABLE acc (id int PRIMARY KEY, n int NOT NULL, t text);"
	"CREATE TABLE uni (id int PRIMARY KEY, e int UNIQUE);"
	"CREATE TABLE bare (a int, f text);"
	"CREATE TABLE parent (id int PRIMARY KEY, v int);"
	"CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, v int);"
	"CREATE INDEX child_v ON child (v); CREATE INDEX acc_n ON acc (n);"
	"CREATE TABLE step (id int PRIMARY KEY);"
	"INSERT INTO acc SELECT i, i, repeat('t', 20) FROM generate_series(1, 6000) i;"
	"INSERT INTO uni SELECT i, i FROM generate_series(1, 400) i;"
	"INSERT INTO bare SELECT i % 50, 'f' FROM generate_series(1, 500) i;"
	"INSERT INTO parent SELECT i, i FROM generate_series(1, 100) i;"
	"INSERT INTO child SELECT i, 1 + i % 100, i FROM generate_series(1, 2000) i;";

static void
case_open(Case *c, const char *name, int lanes, const char *confirm)
{
	memset(c, 0, sizeof(*c));
	snprintf(c->name, sizeof(c->name), "%s_%d_%s", name, lanes, confirm);
	snprintf(c->lanes, sizeof(c->lanes), "%d", lanes);
	c->confirm = confirm;
	db_create(source_cluster, c->name);
	db_create(target_cluster, c->name);
	snprintf(c->source_uri, sizeof(c->source_uri), "%s", cluster_uri(source_cluster, c->name));
	snprintf(c->target_uri, sizeof(c->target_uri), "%s", cluster_uri(target_cluster, c->name));
	c->source = db_connect_uri(c->source_uri);
	c->target = db_connect_uri(c->target_uri);
	db_exec(c->source, "%s", schema);
	c->state_dir = scratch_dir_new(c->name);
}

/* fault NULL: none. Goes on with the same migration. */
static void
case_run(Case *c, const char *fault)
{
	char text[96], batch[40];
	const char *env[] = {text, batch, NULL};
	const char *args[] = {"--name", c->name, "--lanes", c->lanes, "--confirm", c->confirm, NULL};

	snprintf(text, sizeof(text), "PGBATON_FAULT=%s", fault != NULL ? fault : "none");
	snprintf(batch, sizeof(batch), "PGBATON_BATCH_ROWS=%d", c->batch_rows);
	pgbaton_free(c->p);
	c->p = pgbaton_start(&(PgbatonOptions){.source = c->source_uri,
	                                       .target = c->target_uri,
	                                       .args = args,
	                                       .env = env,
	                                       .state_dir = c->state_dir});
}

static void
case_close(Case *c)
{
	pgbaton_free(c->p);
	PQfinish(c->source);
	PQfinish(c->target);
	scratch_dir_free(c->state_dir);
}

static void
case_wait_killed(Case *c, const char *point)
{
	int ended = pgbaton_wait_exit(c->p, 60);

	ck_assert_msg(ended == 128 + SIGKILL, "%s was not passed: exit %d\n%s", point, ended,
	              pgbaton_log(c->p));
}

/* Everything committed on the source so far is on the target: a batch begins when the one
 * before is committed on all lanes, so the second step tells of the first. */
static void
case_sync(Case *c)
{
	char sql[80];

	for (int i = 0; i < 2; i++) {
		db_exec(c->source, "INSERT INTO step VALUES (%d)", ++c->steps);
		snprintf(sql, sizeof(sql), "SELECT count(*) = 1 FROM step WHERE id = %d", c->steps);
		db_wait_until(c->target, sql, 30);
	}
}

static void
case_equal(Case *c)
{
	case_sync(c);
	compare_databases(c->source, c->target, &(CompareOptions){.own_schema = c->name});
}

/* ---- a backlog that lies in the log, so that a start makes large batches of it ---- */

static Lsn
status_lsn(Pgbaton *p, const char *path)
{
	char *text = pgbaton_status_text(p, path);
	Lsn lsn;

	ck_assert(lsn_parse(text, &lsn));
	free(text);
	return lsn;
}

static void
wait_logged(Case *c)
{
	int64_t deadline = deadline_in_ms(30000);
	char *text = db_value(c->source, "SELECT pg_current_wal_insert_lsn()");
	Lsn until;

	ck_assert(lsn_parse(text, &until));
	free(text);
	/* What is logged after that lies behind it. */
	db_exec(c->source, "INSERT INTO step VALUES (%d)", ++c->steps);
	while (lsn_cmp(status_lsn(c->p, "stream.logged_lsn"), until) < 0) {
		ck_assert_msg(deadline_left_ms(deadline) > 0, "not logged in time\n%s", pgbaton_log(c->p));
		poll(NULL, 0, 10);
	}
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
		poll(NULL, 0, paused ? 0 : 10);
	}
}

/* Large transactions over many keys, so that several lanes share each batch and batches end
 * inside of transactions; no unique value wanders, or one lane would do all of it. */
static void
write_shared(Case *c)
{
	for (int i = 0; i < 3; i++)
		db_exec(c->source,
		        "BEGIN; UPDATE acc SET n = n + 1, t = md5(id::text || n);"
		        "UPDATE child SET v = v + 1 WHERE id %% 2 = 0;"
		        "DELETE FROM bare WHERE ctid = ANY (ARRAY(SELECT ctid FROM bare LIMIT 50));"
		        "INSERT INTO bare SELECT i %% 7, 'g' FROM generate_series(1, 60) i;"
		        "COMMIT");
	db_exec(c->source,
	        "BEGIN; INSERT INTO acc SELECT 1 + i + (SELECT max(id) FROM acc), 0, 'new'"
	        " FROM generate_series(1, 500) i;"
	        "DELETE FROM acc WHERE id = ANY (ARRAY(SELECT id FROM acc ORDER BY n, id LIMIT 400));"
	        "UPDATE acc SET id = id + 100000 WHERE id %% 17 = 0; COMMIT");
	db_exec(c->source, "UPDATE bare SET a = a + 1 WHERE a < 5");
}

/* Unique values that wander: what is replayed in order. */
static void
write_swaps(Case *c)
{
	for (int i = 1; i < 40; i++)
		db_exec(c->source,
		        "BEGIN; UPDATE uni SET e = -1 WHERE id = %d;"
		        "UPDATE uni SET e = (SELECT e FROM uni WHERE id = %d) + 10000 WHERE id = %d;"
		        "UPDATE uni SET e = %d WHERE id = %d; COMMIT",
		        i, i + 200, i, 20000 + i, i + 200);
	db_exec(c->source, "BEGIN; TRUNCATE child; INSERT INTO child SELECT i, 1, i"
	                   " FROM generate_series(1, 1500) i; COMMIT");
}

/* Leaves pgbaton killed, with all of it logged and (but for a little) not applied. */
static void
make_backlog(Case *c)
{
	pause_apply(c);
	write_shared(c);
	write_swaps(c);
	write_shared(c);
	wait_logged(c);
	pgbaton_stop(c->p, SIGKILL);
}

/* ---- killed inside the apply ---- */

/* Two kills before each comparison: the second one while the first one's rest is made good. */
static const char *const apply_points[][2] = {
	{"apply_execute:1", "apply_execute:6"},     {"apply_executed:2", "apply_executed:5"},
	{"apply_committed:1", "apply_committed:1"}, {"apply_committed:6", "apply_executed:1"},
	{"apply_batch_done:1", "apply_execute:3"},  {"apply_batch_done:3", "apply_committed:2"},
};

/* Every step-th of the points. */
static void
killed_in_apply(Case *c, size_t step)
{
	case_run(c, NULL);
	pgbaton_wait_state(c->p, "following", 60);
	for (size_t i = 0; i < sizeof(apply_points) / sizeof(apply_points[0]); i += step) {
		make_backlog(c);
		for (int n = 0; n < 2; n++) {
			case_run(c, apply_points[i][n]);
			case_wait_killed(c, apply_points[i][n]);
		}
		case_run(c, NULL);
		pgbaton_wait_state(c->p, "following", 60);
		case_equal(c);
	}
}

START_TEST(killed_in_apply_of_lanes)
{
	static const int lanes[] = {4, 1};
	Case c;

	case_open(&c, "apply", lanes[_i], "logged");
	killed_in_apply(&c, _i == 0 ? 1 : 2);
	case_close(&c);
}
END_TEST

/*
 * Between two lanes' commits: one lane's COMMIT is kept waiting by a trigger on its progress row
 * (without the lock_timeout that the lane has), its neighbours commit, but not before it waits,
 * and pgbaton is killed. The waiting one is then rolled back (levelling must do its share, and
 * only that), or goes through after all.
 */
static void
hold_commit_of(Case *c, int lane)
{
	db_exec(c->target,
	        "CREATE FUNCTION public.wait_here() RETURNS trigger LANGUAGE plpgsql"
	        " SET lock_timeout = 0 AS"
	        " $$BEGIN IF current_setting('application_name') LIKE '%% apply %d' THEN"
	        " PERFORM pg_advisory_xact_lock(4711); ELSE"
	        " WHILE (SELECT bool_and(granted) FROM pg_locks"
	        " WHERE locktype = 'advisory' AND objid = 4711) LOOP"
	        " PERFORM pg_sleep(0.005); END LOOP; END IF; RETURN NULL; END$$;"
	        "CREATE CONSTRAINT TRIGGER wait_here AFTER UPDATE ON %s.progress"
	        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.wait_here();"
	        "ALTER TABLE %s.progress ENABLE ALWAYS TRIGGER wait_here;"
	        "SELECT pg_advisory_lock(4711)",
	        lane, c->name, c->name);
}

static const char commit_waits[] = "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory'"
								   " AND objid = 4711 AND NOT granted";

static void
stop_holding(Case *c)
{
	db_exec(c->target,
	        "SELECT pg_advisory_unlock_all(); DROP TRIGGER wait_here ON %s.progress;"
	        "DROP FUNCTION public.wait_here()",
	        c->name);
}

static void
let_commit_go(Case *c, bool through)
{
	db_wait_until(c->target, commit_waits, 30);
	if (!through)
		db_exec(c->target, "SELECT pg_terminate_backend(pid) FROM pg_locks"
		                   " WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted");
	else
		db_exec(c->target, "SELECT pg_advisory_unlock(4711)");
	db_wait_until(c->target,
	              "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname ="
	              " current_database() AND application_name LIKE 'pgbaton apply%'",
	              30);
	stop_holding(c);
}

START_TEST(killed_between_commits)
{
	static const struct {
		int lane;
		bool through;
		int wanted; /* lanes of the next start */
	} rounds[] = {{0, false, 4}, {2, false, 4}, {3, true, 4}, {1, false, 2}};
	char log_line[64];
	Case c;

	case_open(&c, "between", 4, "logged");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	for (size_t i = 0; i < sizeof(rounds) / sizeof(rounds[0]); i++) {
		make_backlog(&c);
		hold_commit_of(&c, rounds[i].lane);
		case_run(&c, "apply_committed:3");
		case_wait_killed(&c, "apply_committed:3");
		let_commit_go(&c, rounds[i].through);
		ck_assert_int_eq(db_int(c.target,
		                        "SELECT count(DISTINCT (commit_lsn, position))"
		                        " FROM %s.progress",
		                        c.name),
		                 rounds[i].through ? 1 : 2);

		snprintf(c.lanes, sizeof(c.lanes), "%d", rounds[i].wanted);
		case_run(&c, NULL);
		pgbaton_wait_state(c.p, "following", 60);
		snprintf(log_line, sizeof(log_line), "lane %d brought level", rounds[i].lane);
		bool levelled = strstr(pgbaton_log(c.p), log_line) != NULL;
		ck_assert_msg(levelled == !rounds[i].through, "%s\n%s", log_line, pgbaton_log(c.p));
		case_equal(&c);
	}
	ck_assert_int_eq(db_int(c.target, "SELECT count(*) FROM %s.progress", c.name), 2);
	case_close(&c);
}
END_TEST

/*
 * The next start comes while a COMMIT of the one before is still under way on the target: its
 * outcome must be known before the progress is believed, or what it brings is done twice.
 */
START_TEST(commit_outlives_its_sender)
{
	Case c;

	case_open(&c, "outlives", 4, "logged");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	for (int lane = 0; lane < 4; lane++) {
		make_backlog(&c);
		hold_commit_of(&c, lane);
		case_run(&c, "apply_committed:3");
		case_wait_killed(&c, "apply_committed:3");
		db_wait_until(c.target, commit_waits, 30);
		case_run(&c, NULL);
		/* The old session has been ended, or somebody waits for what it does. */
		db_wait_until(c.target,
		              "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory'"
		              " AND objid = 4711 AND NOT granted) OR EXISTS (SELECT FROM pg_stat_activity"
		              " a, pg_locks l WHERE l.locktype = 'advisory' AND l.objid = 4711 AND NOT"
		              " l.granted AND l.pid = ANY (pg_blocking_pids(a.pid)))",
		              30);
		stop_holding(&c);
		pgbaton_wait_state(c.p, "following", 60);
		case_equal(&c);
	}
	case_close(&c);
}
END_TEST

/* ---- transactions one at a time ---- */

/* Of every size: a row (one lane does it), a share for each lane, a batch that is replayed. */
static void
write_some(Case *c, uint64_t *random)
{
	switch (random_below(random, 5)) {
	case 0:
		db_exec(c->source, "INSERT INTO bare VALUES (%d, 'one')", (int)random_below(random, 9));
		break;
	case 1:
		db_exec(c->source, "UPDATE acc SET n = n + 1 WHERE id <= 300");
		break;
	case 2:
		db_exec(c->source, "DELETE FROM bare WHERE ctid = (SELECT max(ctid) FROM bare);"
		                   "INSERT INTO bare SELECT 3, 'x' FROM generate_series(1, 5)");
		break;
	case 3:
		db_exec(c->source, "BEGIN; UPDATE uni SET e = -e WHERE id <= 100;"
		                   "INSERT INTO bare VALUES (8, 'swap');"
		                   "UPDATE acc SET id = id + 200000 WHERE id BETWEEN 400 AND 500;"
		                   "UPDATE acc SET id = id - 200000 WHERE id > 200000; COMMIT");
		break;
	default:
		db_exec(c->source, "BEGIN; UPDATE acc SET t = md5(t) WHERE id <= 900;"
		                   "UPDATE child SET v = v + 1 WHERE id %% 4 = 0;"
		                   "UPDATE bare SET a = a + 1 WHERE a < 2; COMMIT");
	}
}

/* ---- killed at every step of a drain, again and again ---- */

/* Before and behind all that changes what a start finds. The number: passings to choose from. */
static const struct {
	const char *name;
	int most;
} drain_points[] = {
	{"apply_execute", 8}, {"apply_executed", 8},   {"apply_commit", 10}, {"apply_committed", 10},
	{"apply_replay", 2},  {"apply_batch_done", 4}, {"apply_durable", 2}, {"apply_released", 2},
	{"level_read", 1},    {"level_lane", 2},       {"level_done", 1},    {"confirm_noted", 2},
	{"confirm_sent", 2},
};
enum { DRAIN_POINTS = sizeof(drain_points) / sizeof(drain_points[0]), DRAIN_KILLS = 60 };

/* Kills at a point, or, where it is not passed any more or none was wanted, at some moment. */
static bool
kill_while_draining(Case *c, uint64_t *random, int point)
{
	char fault[64];

	if (point < DRAIN_POINTS)
		snprintf(fault, sizeof(fault), "%s:%d", drain_points[point].name,
		         1 + (int)random_below(random, (uint64_t)drain_points[point].most));
	case_run(c, point < DRAIN_POINTS ? fault : NULL);
	if (point == DRAIN_POINTS)
		poll(NULL, 0, 150 + (int)random_below(random, 400)); /* that is the moment */
	while (point < DRAIN_POINTS && !pgbaton_ended(c->p) && !pgbaton_reached(c->p, "following"))
		poll(NULL, 0, 5);
	bool passed = pgbaton_ended(c->p);
	if (!passed)
		pgbaton_stop(c->p, SIGKILL);
	ck_assert_int_eq(pgbaton_wait_exit(c->p, 60), 128 + SIGKILL);
	return passed;
}

/* Every point in turn, and after each round a kill at a moment. Twice as often with four lanes
 * as with another number, so that lanes which are not level meet a new number, too. */
START_TEST(killed_while_draining)
{
	const char *more = getenv("KILLS");
	int kills = more != NULL ? atoi(more) : DRAIN_KILLS;
	uint64_t seed = workload_seed();
	uint64_t random = seed;
	int passed[DRAIN_POINTS + 1] = {0};
	Case c;

	printf("  PGBATON_SEED=%llu\n", (unsigned long long)seed);
	case_open(&c, "drain", 4, "logged");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	pgbaton_stop(c.p, SIGKILL);
	for (int i = 0; i < kills; i++) {
		int point = i % (DRAIN_POINTS + 1);
		write_some(&c, &random);
		write_some(&c, &random);
		write_some(&c, &random);
		c.confirm = i % 2 == 0 ? "logged" : "applied";
		snprintf(c.lanes, sizeof(c.lanes), "%d",
		         random_below(&random, 3) < 2 ? 4 : 1 + (int)random_below(&random, 8));
		passed[point] += kill_while_draining(&c, &random, point);
		if (i % 20 == 19 || i == kills - 1) {
			case_run(&c, NULL);
			pgbaton_wait_state(c.p, "following", 60);
			case_equal(&c);
			pgbaton_stop(c.p, SIGKILL);
		}
	}
	int at_points = 0;
	for (int i = 0; i < DRAIN_POINTS; i++)
		at_points += passed[i];
	printf("  %d kills, %d of them at a named point\n", kills, at_points);
	ck_assert_int_ge(at_points, kills / 3);
	case_close(&c);
}
END_TEST

/* ---- a COMMIT that does not come through, or whose answer does not ---- */

/* What the writer commits is on the target exactly once, whether the answer to COMMIT was lost,
 * the COMMIT itself, or the whole connection without the server's knowing. */
START_TEST(cut_in_commit)
{
	static const struct {
		int lanes;
		int cuts;
	} rounds[] = {{4, 18}, {1, 9}};
	const char *more = getenv("CUTS");
	int cuts = more != NULL ? atoi(more) : rounds[_i].cuts;
	Relay *relay = relay_start(cluster_port(target_cluster), "pgbaton apply");
	uint64_t seed = workload_seed();
	uint64_t random = seed + (uint64_t)_i;
	Case c;

	case_open(&c, "cut", rounds[_i].lanes, _i == 0 ? "applied" : "logged");
	snprintf(c.target_uri, sizeof(c.target_uri),
	         "postgresql://postgres@127.0.0.1:%d/%s?sslmode=disable&gssencmode=disable",
	         relay_port(relay), c.name);
	/* The first of all COMMITs never arrives, and the server does not hear that we are gone:
	 * that session holds what it holds while the next one is opened. */
	relay_cut(relay, 1, RELAY_SILENT);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	for (int done = relay_cuts(relay); done < cuts;) {
		relay_cut(relay, 1 + (int)random_below(&random, 6), (RelayCut)random_below(&random, 3));
		for (int64_t deadline = deadline_in_ms(60000); relay_cuts(relay) == done;) {
			ck_assert_msg(deadline_left_ms(deadline) > 0, "PGBATON_SEED=%llu: no commit\n%s",
			              (unsigned long long)seed, pgbaton_log(c.p));
			write_some(&c, &random);
			case_sync(&c);
		}
		done = relay_cuts(relay);
		if (done % 6 == 0)
			case_equal(&c);
	}
	case_equal(&c);
	case_close(&c);
	relay_free(relay);
}
END_TEST

/* ---- killed while the copy and the schema are made ---- */

static const char *const start_points[] = {
	"schema_step:1",    "copy_commit:1", "copy_committed:1", "copy_commit:2",
	"copy_committed:2", "schema_step:1", "schema_step:2",    "schema_step:3",
};

/* One after the other in one migration: what each leaves is the next one's beginning. Points
 * that count further than there is left to do are not passed, and the start just goes on. */
START_TEST(killed_at_start)
{
	static const int lanes[] = {4, 1};
	Case c;
	int killed = 0; /* of eight, or of every second one */

	case_open(&c, "start", lanes[_i], "logged");
	for (size_t i = 0; i < sizeof(start_points) / sizeof(start_points[0]); i += 1 + (size_t)_i) {
		case_run(&c, start_points[i]);
		while (!pgbaton_ended(c.p) && !pgbaton_reached(c.p, "following"))
			poll(NULL, 0, 10);
		if (!pgbaton_ended(c.p))
			pgbaton_stop(c.p, SIGKILL);
		else
			killed++;
		ck_assert_int_eq(pgbaton_wait_exit(c.p, 60), 128 + SIGKILL);
		write_shared(&c);
	}
	ck_assert_int_ge(killed, _i == 0 ? 6 : 3);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_equal(&c);
	ck_assert_int_eq(
		db_int(c.target, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'"),
		db_int(c.source, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'"));
	case_close(&c);
}
END_TEST

/* ---- a source that has no messages in its WAL: the marker is a row (before 14) ---- */

START_TEST(killed_behind_13)
{
	Case c;
	char *out;

	TEST_NEEDS_MAJOR(13);
	Cluster *of_all = source_cluster;

	source_cluster = cluster_start(&(ClusterOptions){.name = "source", .major = 13});
	case_open(&c, "old_source", 4, "logged");
	case_run(&c, "apply_batch_done:2");
	pgbaton_wait_exit(c.p, 60); /* the markers of the catch-up and what comes with them */
	write_shared(&c);
	write_swaps(&c);
	case_run(&c, "apply_committed:5");
	pgbaton_wait_exit(c.p, 60);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_equal(&c);
	/* The marker comes through, or there is no cutover. */
	ck_assert_int_gt(db_int(c.source, "SELECT count(*) FROM %s.marker", c.name), 0);
	write_shared(&c);
	int code = pgbaton_cli(c.p, &out, 60, "cutover", NULL);
	ck_assert_msg(code == 0, "%s\n%s", out, pgbaton_log(c.p));
	free(out);
	compare_databases(c.source, c.target, &(CompareOptions){.own_schema = c.name});
	case_close(&c);
	cluster_free(source_cluster);
	source_cluster = of_all;
}
END_TEST

/* ---- the target's server dies with commits that it had not flushed ---- */

enum { TRANSACTIONS = 600 };

/* Positions of the source after each commit. */
static void
write_numbered(Case *c, Lsn after[TRANSACTIONS + 1])
{
	for (int i = 1; i <= TRANSACTIONS; i++) {
		db_exec(c->source,
		        "BEGIN; INSERT INTO acc VALUES (%d, %d, 'numbered');"
		        "UPDATE acc SET n = n + 1 WHERE id BETWEEN %d AND %d;"
		        "INSERT INTO bare VALUES (%d, 'once'); COMMIT",
		        1000000 + i, i, i * 10, i * 10 + 99, i);
		char *text = db_value(c->source, "SELECT pg_current_wal_insert_lsn()");
		ck_assert(lsn_parse(text, &after[i]));
		free(text);
	}
}

static int
last_numbered(PGconn *conn)
{
	return (int)db_int(conn, "SELECT coalesce(max(n), 0) FROM acc WHERE id > 1000000"
	                         " AND t = 'numbered'");
}

/* P6: the slot's position never lies beyond what a crash of the target leaves. */
static void
check_confirmed(Case *c, const Lsn after[TRANSACTIONS + 1])
{
	char *text = db_value(c->source,
	                      "SELECT confirmed_flush_lsn FROM pg_replication_slots"
	                      " WHERE slot_name = '%s'",
	                      c->name);
	int confirmed = 0;
	Lsn lsn;

	ck_assert(lsn_parse(text, &lsn));
	while (confirmed < TRANSACTIONS && lsn_cmp(after[confirmed + 1], lsn) <= 0)
		confirmed++;
	int left = (int)db_int(c->target, "SELECT count(*) FROM bare WHERE f = 'once'");
	ck_assert_msg(confirmed <= left, "confirmed up to %s, transaction %d; the target has %d", text,
	              confirmed, left);
	free(text);
}

/* The WAL writer rests, so that what is committed stays unflushed until somebody asks; then the
 * server dies as soon as it has shown more than it had. */
static void
crash_target(Case *c, const Lsn after[TRANSACTIONS + 1], bool must_lose)
{
	char sql[120];
	int had = (int)db_int(c->target, "SELECT count(*) FROM bare WHERE f = 'once'");

	kill((pid_t)db_int(c->target, "SELECT pid FROM pg_stat_activity"
	                              " WHERE backend_type = 'walwriter'"),
	     SIGSTOP);
	kill(pgbaton_pid(c->p), SIGCONT);
	if (must_lose)
		ck_assert_int_eq(pgbaton_cli(c->p, NULL, 30, "resume", NULL), 0);
	snprintf(sql, sizeof(sql), "SELECT count(*) > %d FROM bare WHERE f = 'once'", had);
	db_wait_until(c->target, sql, 30);
	kill(pgbaton_pid(c->p), SIGSTOP);
	int before = (int)db_int(c->target, "SELECT count(*) FROM bare WHERE f = 'once'");

	cluster_restart(target_cluster, CLUSTER_IMMEDIATE);
	PQfinish(c->target);
	c->target = db_connect_uri(c->target_uri);
	int left = (int)db_int(c->target, "SELECT count(*) FROM bare WHERE f = 'once'");
	printf("  %s: %d transactions were visible, %d were left\n", c->name, before, left);
	if (must_lose) /* Otherwise nothing was tried. */
		ck_assert_int_lt(left, before);
	if (strcmp(c->confirm, "applied") == 0)
		check_confirmed(c, after);
}

START_TEST(target_loses_commits)
{
	static const struct {
		const char *confirm;
		bool host_lost; /* pgbaton's machine too, with the log */
		int lanes;
		int crashes; /* one after the other, while what was lost is applied again */
	} rounds[] = {{"applied", false, 4, 4},
	              {"applied", true, 4, 1},
	              {"applied", true, 1, 1},
	              {"logged", false, 4, 2}};
	Lsn after[TRANSACTIONS + 1] = {LSN_INVALID};
	char name[32];
	Case c;

	snprintf(name, sizeof(name), "lost_%d", _i);
	case_open(&c, name, rounds[_i].lanes, rounds[_i].confirm);
	/* Many batches: it asks for a flush only when it has nothing more to do, and must not come
	 * to that before the test has seen the first of them and stopped it. */
	c.batch_rows = 300;
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	pause_apply(&c);
	write_numbered(&c, after);
	wait_logged(&c);
	db_exec(c.target, "CHECKPOINT");
	/* What is to be confirmed is noted by a commit that is flushed, and what the lanes committed with it:
	 * not now. The first crash ends it. */
	PGconn *lock = db_connect_uri(c.target_uri);
	db_exec(lock, "BEGIN; SELECT FROM %s.migration FOR UPDATE", c.name);
	for (int i = 0; i < rounds[_i].crashes; i++)
		if (i == 0 || db_int(c.target, "SELECT count(*) FROM bare WHERE f = 'once'") < TRANSACTIONS)
			crash_target(&c, after, i == 0);
	PQfinish(lock);

	if (rounds[_i].host_lost) {
		pgbaton_stop(c.p, SIGKILL);
		scratch_dir_free(c.state_dir);
		c.state_dir = scratch_dir_new(c.name);
		case_run(&c, NULL);
	} else {
		kill(pgbaton_pid(c.p), SIGCONT);
	}
	pgbaton_wait_state(c.p, "following", 60);
	case_equal(&c);
	ck_assert_int_eq(last_numbered(c.target), last_numbered(c.source));
	ck_assert_int_eq(db_int(c.target, "SELECT count(*) FROM bare WHERE f = 'once'"), TRANSACTIONS);
	case_close(&c);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("apply_kill");
	TCase *tcase = tcase_create("killed");

	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_set_timeout(tcase, 180);
	tcase_add_loop_test(tcase, killed_in_apply_of_lanes, 0, 2);
	tcase_add_test(tcase, killed_between_commits);
	tcase_add_test(tcase, commit_outlives_its_sender);
	suite_add_tcase(suite, tcase);
	tcase = tcase_create("cut");
	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_set_timeout(tcase, 180);
	tcase_add_loop_test(tcase, cut_in_commit, 0, 2);
	suite_add_tcase(suite, tcase);
	tcase = tcase_create("drain");
	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_set_timeout(tcase, getenv("KILLS") != NULL ? 86400 : 180);
	tcase_add_test(tcase, killed_while_draining);
	suite_add_tcase(suite, tcase);
	tcase = tcase_create("start");
	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_set_timeout(tcase, 180);
	tcase_add_loop_test(tcase, killed_at_start, 0, 2);
	tcase_add_test(tcase, killed_behind_13);
	suite_add_tcase(suite, tcase);

	tcase = tcase_create("not_flushed");
	tcase_add_unchecked_fixture(tcase, start_durable_clusters, stop_clusters);
	tcase_set_timeout(tcase, 180);
	tcase_add_loop_test(tcase, target_loses_commits, 0, 4);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
