/*
 * The cutover (design.md K1-K4) with real servers: what it does when all is well, and that the
 * source goes on when anything is not: killed and stopped at each step, blocked by an open
 * transaction, by autovacuum, by a difference found.
 */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/unit/runner.h"

static Cluster *source_cluster;
static Cluster *target_cluster;

static void
start_clusters(void)
{
	source_cluster = cluster_start(&(ClusterOptions){
		.name = "source", .conf = "autovacuum_naptime = 1s\nlog_min_messages = warning\n"});
	target_cluster = cluster_start(&(ClusterOptions){.name = "target"});
}

static void
stop_clusters(void)
{
	cluster_free(source_cluster);
	cluster_free(target_cluster);
}

/* One database on each side and a migration between them. */
typedef struct {
	char name[32];
	PGconn *source;
	PGconn *target;
	Pgbaton *p;
	const char *args[24];
	int arg_count;
	char source_uri[160];
	char target_uri[160];
	char *state_dir;
	bool holds_at_once; /* whatever transactions are running */
} Case;

static const char schema[] =
	"CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);"
	"CREATE TABLE seen (id bigserial PRIMARY KEY, what text);"
	"CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS"
	" $$BEGIN INSERT INTO seen (what) VALUES (NEW.v); RETURN NEW; END$$;"
	"CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();"
	"ALTER TABLE t ENABLE ALWAYS TRIGGER note;"
	"CREATE TABLE parent (id int PRIMARY KEY);"
	"CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);"
	"CREATE TABLE part (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);"
	"CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);"
	"CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);"
	"CREATE TABLE no_key (a int, b json);"
	"CREATE SEQUENCE down INCREMENT -2 MINVALUE -1000 MAXVALUE 10 START 10;"
	"CREATE SEQUENCE never;"
	"CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM t;"
	"INSERT INTO t (v) SELECT 'v' || g FROM generate_series(1, 100) g;"
	"INSERT INTO parent SELECT generate_series(1, 10);"
	"INSERT INTO child SELECT g, g FROM generate_series(1, 10) g;"
	"INSERT INTO part SELECT g, 1 + g % 2 FROM generate_series(1, 50) g;"
	"INSERT INTO no_key SELECT g % 3, '{\"a\": 1}' FROM generate_series(1, 12) g;"
	"SELECT nextval('down'), nextval('down');";

static void
case_open(Case *c, const char *name)
{
	memset(c, 0, sizeof(*c));
	snprintf(c->name, sizeof(c->name), "%s", name);
	db_create(source_cluster, name);
	db_create(target_cluster, name);
	snprintf(c->source_uri, sizeof(c->source_uri), "%s", cluster_uri(source_cluster, name));
	snprintf(c->target_uri, sizeof(c->target_uri), "%s", cluster_uri(target_cluster, name));
	c->source = db_connect_uri(c->source_uri);
	c->target = db_connect_uri(c->target_uri);
	db_exec(c->source, "%s", schema);
	c->state_dir = scratch_dir_new(name);
	c->args[c->arg_count++] = "--name";
	c->args[c->arg_count++] = c->name;
}

static void
case_arg(Case *c, const char *option, const char *value)
{
	c->args[c->arg_count++] = option;
	c->args[c->arg_count++] = value;
}

/* fault NULL: none. A second call goes on with the same migration. */
static void
case_run(Case *c, const char *fault)
{
	char text[96];
	const char *env[] = {text, c->holds_at_once ? "PGBATON_HOLD_AT_ONCE=1" : NULL, NULL};

	snprintf(text, sizeof(text), "PGBATON_FAULT=%s", fault != NULL ? fault : "none");
	pgbaton_free(c->p);
	c->p = pgbaton_start(&(PgbatonOptions){.source = c->source_uri,
	                                       .target = c->target_uri,
	                                       .args = c->args,
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
case_write(Case *c, const char *what)
{
	db_exec(c->source,
	        "INSERT INTO t (v) VALUES ('%s'); UPDATE t SET v = v || '+' WHERE id %% 7 = 0;"
	        "DELETE FROM t WHERE id = (SELECT min(id) FROM t);"
	        "UPDATE part SET k = 3 - k WHERE id = 7; UPDATE no_key SET a = a + 1 WHERE a = 1;",
	        what);
}

static bool
source_writable(Case *c)
{
	char sqlstate[6];
	bool ok = db_try(c->source, sqlstate, "INSERT INTO t (v) VALUES ('probe')");
	if (!ok)
		ck_assert_str_eq(sqlstate, "25006");
	return ok;
}

static void
case_equal(Case *c)
{
	compare_databases(c->source, c->target,
	                  &(CompareOptions){.sequences = SEQUENCES_EQUAL, .own_schema = c->name});
}

static void
case_cutover(Case *c)
{
	char *out;
	int code = pgbaton_cli(c->p, &out, 60, "cutover", "--json", NULL);
	ck_assert_msg(code == 0, "cutover exited with %d: %s", code, out);
	free(out);
}

/* The switch has happened: equal, refused on the source, and nothing left after finish. */
static void
case_switched(Case *c)
{
	ck_assert(!source_writable(c));
	case_equal(c);
	char *out;
	int code = pgbaton_cli(c->p, &out, 60, "finish", NULL);
	ck_assert_msg(code == 0, "finish exited with %d: %s\n%s", code, out, pgbaton_log(c->p));
	free(out);
	ck_assert_int_eq(pgbaton_wait_exit(c->p, 20), 0);
	ck_assert_int_eq(db_int(c->source,
	                        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '%s'",
	                        c->name),
	                 0);
	ck_assert_int_eq(db_int(c->source, "SELECT count(*) FROM pg_publication"), 0);
	ck_assert_int_eq(
		db_int(c->source, "SELECT count(*) FROM pg_namespace WHERE nspname = '%s'", c->name), 0);
	ck_assert_int_eq(
		db_int(c->source,
	           "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname <> 'note'"),
		0);
	/* Neither side keeps the identity that was needed on the way. */
	ck_assert_int_eq(
		db_int(c->source,
	           "SELECT count(*) FROM pg_class WHERE relname = 'no_key' AND relreplident = 'd'"),
		1);
	ck_assert_int_eq(
		db_int(c->target,
	           "SELECT count(*) FROM pg_class WHERE relname = 'no_key' AND relreplident = 'd'"),
		1);
	ck_assert_int_eq(
		db_int(c->target, "SELECT count(*) FROM pg_namespace WHERE nspname = '%s'", c->name), 0);
}

START_TEST(moves_everything)
{
	Case c;
	char *out;

	case_open(&c, "moves");
	c.args[c.arg_count++] = "--verify=checksums";
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	for (int i = 0; i < 20; i++)
		case_write(&c, "following");
	int code = pgbaton_cli(c.p, &out, 60, "cutover", "--json", NULL);
	ck_assert_msg(code == 0, "%s\n%s", out, pgbaton_log(c.p));

	json_t *cutover = json_loads(out, 0, NULL);
	ck_assert_ptr_nonnull(cutover);
	ck_assert_str_eq(json_string_value(json_object_get(cutover, "outcome")), "switched");
	ck_assert(json_number_value(json_object_get(cutover, "hold_ms")) > 0);
	ck_assert_int_eq(json_integer_value(json_object_get(cutover, "sequences")), 4);
	printf("hold_ms %.1f\n", json_number_value(json_object_get(cutover, "hold_ms")));
	json_decref(cutover);
	free(out);

	/* What was switched off on the target is on again: triggers, identity ALWAYS. */
	free(db_expect_error(c.target, "428C9", "INSERT INTO t (id, v) VALUES (-1, 'x')"));
	ck_assert(db_true(c.target, "SELECT tgenabled = 'A' FROM pg_trigger WHERE tgname = 'note'"));
	ck_assert_int_eq(db_int(c.target, "SELECT n FROM counted"),
	                 db_int(c.source, "SELECT count(*) FROM t"));
	ck_assert(db_true(c.target, "SELECT bool_and(convalidated) FROM pg_constraint"));
	char *refusal = db_expect_error(c.source, "25006", "DELETE FROM part");
	ck_assert_ptr_nonnull(strstr(refusal, "moved"));
	free(refusal);
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* Asks for the cutover that kills the process, and waits for that end alone: the command
 * would look for the process for ten seconds more. */
static int
case_killed(Case *c, const char *option)
{
	Process *asked = pgbaton_cli_start(c->p, "cutover", option, NULL);
	int ended = pgbaton_wait_exit(c->p, 60);
	process_free(asked);
	return ended;
}

/* ---- rehearsed ---- */

static json_t *
case_rehearse(Case *c, int expected_code)
{
	char *out;
	int code = pgbaton_cli(c->p, &out, 60, "cutover", "--rehearse", "--json", NULL);
	ck_assert_msg(code == expected_code, "rehearse exited with %d: %s\n%s", code, out,
	              pgbaton_log(c->p));
	json_t *json = json_loads(out, 0, NULL);
	free(out);
	return json;
}

/* Everything that a cutover could change on the two sides, in one text each. */
static char *
traces(PGconn *conn, const char *name)
{
	return db_rows(
		conn,
		"SELECT 'sequence', schemaname || '.' || sequencename, last_value::text FROM pg_sequences"
		" WHERE schemaname <> '%s' UNION ALL SELECT 'trigger', tgrelid::regclass || ' ' || tgname,"
		" tgenabled::text FROM pg_trigger WHERE NOT tgisinternal UNION ALL SELECT 'identity',"
		" attrelid::regclass || '.' || attname, attidentity::text FROM pg_attribute WHERE"
		" attidentity <> '' UNION ALL SELECT 'slot', slot_name::text, database::text FROM"
		" pg_replication_slots WHERE database = current_database() UNION ALL SELECT 'publication',"
		" pubname::text, '' FROM pg_publication UNION ALL SELECT 'schema', nspname::text, ''"
		" FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1, 2",
		name);
}

/* A rehearsal holds writers and lets them go; a hundred leave no more behind than none. */
START_TEST(rehearsed)
{
	Case c;

	case_open(&c, "rehearsed");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	PGconn *beside = db_connect_uri(c.source_uri);
	db_exec(beside, "SET application_name = 'a billing job'");
	char *source_before = traces(c.source, c.name);
	char *target_before = traces(c.target, c.name);
	char *journal;

	for (int i = 0; i < 5; i++) {
		case_write(&c, "between");
		json_t *json = case_rehearse(&c, 0);
		ck_assert_str_eq(json_string_value(json_object_get(json, "outcome")), "rehearsed");
		ck_assert(json_number_value(json_object_get(json, "hold_ms")) > 0);
		ck_assert(json_number_value(json_object_get(json, "commit_ms")) > 0);
		ck_assert_int_eq(json_integer_value(json_object_get(json, "sequences")), 4);
		char *text = json_dumps(json_object_get(json, "bypassing"), 0);
		ck_assert_ptr_nonnull(strstr(text, "a billing job"));
		free(text);
		json_decref(json);
		ck_assert(source_writable(&c));
		char *state = pgbaton_status_text(c.p, "state");
		ck_assert_str_eq(state, "following");
		free(state);
	}
	journal = db_value(c.target, "SELECT journal || ' ' || state FROM rehearsed.migration");
	ck_assert_str_eq(journal, "none following");
	free(journal);
	char *target_after = traces(c.target, c.name);
	ck_assert_str_eq(target_before, target_after);
	/* The source's sequence went on by its own rows alone. */
	char *source_after = traces(c.source, c.name);
	ck_assert_ptr_nonnull(strstr(source_after, "rehearsed_fence|D"));
	ck_assert_ptr_null(strstr(source_after, "rehearsed_fence|A"));
	ck_assert_int_eq(db_int(c.source, "SELECT last_value FROM t_id_seq"),
	                 db_int(c.source, "SELECT max(id) FROM t"));
	free(source_before);
	free(source_after);
	free(target_before);
	free(target_after);
	PQfinish(beside);
	case_cutover(&c);
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* What would stop the cutover stops its rehearsal, and is named. */
START_TEST(rehearsal_is_blocked)
{
	Case c;
	char *out;

	case_open(&c, "rehearsed_2");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	PGconn *writer = db_connect_uri(c.source_uri);
	db_exec(writer, "BEGIN; INSERT INTO parent VALUES (1000)");
	int code = pgbaton_cli(c.p, &out, 60, "cutover", "--rehearse", "--hold-timeout", "1", NULL);
	ck_assert_int_eq(code, 1);
	char expected[32];
	snprintf(expected, sizeof(expected), "%d", PQbackendPID(writer));
	ck_assert_msg(strstr(out, expected) != NULL, "the blocker is not named: %s", out);
	free(out);
	ck_assert(source_writable(&c));
	db_exec(writer, "COMMIT");
	PQfinish(writer);
	json_decref(case_rehearse(&c, 0));
	case_cutover(&c);
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* Killed in its hold: the servers take both transactions back by themselves, and a start has
 * nothing to undo. */
START_TEST(rehearsal_survives_kill)
{
	static const char *const points[] = {"cutover_locked", "cutover_fence_enabled"};
	Case c;
	char name[32];

	snprintf(name, sizeof(name), "rehearsed_k%d", _i);
	case_open(&c, name);
	case_run(&c, points[_i]);
	pgbaton_wait_state(c.p, "following", 60);
	case_write(&c, "before");
	ck_assert_int_eq(case_killed(&c, "--rehearse"), 128 + SIGKILL);
	ck_assert(source_writable(&c));
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_cutover(&c);
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* ---- killed at each step ---- */

typedef struct {
	const char *point;
	bool in_cutover;
	bool fenced;   /* the source refuses writes until the next start has undone it */
	bool switched; /* the journal is committed */
} KillPoint;

static const KillPoint kill_points[] = {
	{"prepare_identities", false, false, false},
	{"prepare_publication", false, false, false},
	{"prepare_slot", false, false, false},
	{"copy_begin", false, false, false},
	{"copy_rows", false, false, false},
	{"catch_up_rest", false, false, false},
	{"cutover_journal_begun", true, false, false},
	{"cutover_locked", true, false, false},
	{"cutover_drained", true, false, false},
	{"cutover_late", true, false, false},
	{"cutover_sequences", true, false, false},
	{"cutover_fence_enabled", true, false, false},
	{"cutover_fence_committed", true, true, false},
	{"cutover_switched", true, true, true},
};

START_TEST(survives_kill)
{
	const KillPoint *kill = &kill_points[_i];
	Case c;
	char name[32];

	snprintf(name, sizeof(name), "kill_%d", _i);
	case_open(&c, name);
	case_run(&c, kill->point);
	if (kill->in_cutover) {
		pgbaton_wait_state(c.p, "following", 60);
		case_write(&c, "before");
	}
	int ended = kill->in_cutover ? case_killed(&c, NULL) : pgbaton_wait_exit(c.p, 60);
	ck_assert_msg(ended == 128 + SIGKILL, "%s was not passed: exit %d\n%s", kill->point, ended,
	              pgbaton_log(c.p));
	ck_assert_int_eq(source_writable(&c), !kill->fenced);

	case_run(&c, NULL);
	if (!kill->switched) {
		pgbaton_wait_state(c.p, "following", 60);
		ck_assert(source_writable(&c));
		case_write(&c, "after");
		case_cutover(&c);
	} else {
		pgbaton_wait_state(c.p, "switched", 60);
	}
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* ---- stopped past the deadline: the source's server takes its tables back (K1, K2) ---- */

START_TEST(stopped_past_deadline)
{
	static const char *const points[] = {"cutover_locked:1:stop", "cutover_sequences:1:stop"};
	Case c;
	char name[32];

	snprintf(name, sizeof(name), "stop_%d", _i);
	case_open(&c, name);
	case_arg(&c, "--hold-timeout", "1");
	case_run(&c, points[_i]);
	pgbaton_wait_state(c.p, "following", 60);

	Process *cutover = pgbaton_cli_start(c.p, "cutover", NULL);
	pgbaton_wait_stopped(c.p, 60);  /* the fence's locks are held */
	ck_assert(source_writable(&c)); /* waits for the server's own deadline, then goes in */

	kill(pgbaton_pid(c.p), SIGCONT);
	/* The hold that was slept through is lost; another attempt comes through. */
	int code = process_wait(cutover, 60);
	ck_assert_msg(code == 0, "exit %d: %s", code, process_stderr(cutover));
	process_free(cutover);
	ck_assert_int_ge(pgbaton_status_int(c.p, "cutover.attempts"), 2);
	if (strstr(points[_i], "sequences") != NULL)
		ck_assert_ptr_nonnull(
			strstr(pgbaton_log(c.p), "the hold's 1000 ms were over at step \"sequences\""));
	ck_assert_int_eq(db_int(c.target, "SELECT count(*) FROM t WHERE v = 'probe'"), 1);
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* ---- blocked ---- */

static void
wait_awaiting(const Case *c)
{
	int64_t deadline_ms = deadline_in_ms(30000);
	bool awaiting = false;

	while (!awaiting) {
		char *step = pgbaton_status_text(c->p, "cutover.step");
		awaiting = strcmp(step, "await") == 0;
		free(step);
		ck_assert_msg(awaiting || deadline_left_ms(deadline_ms) > 0, "%s", pgbaton_log(c->p));
		usleep(10000);
	}
}

/* In the hold it is in vain that all others wait for it; ahead of it nobody waits. */
START_TEST(long_transaction)
{
	Case c;
	char *out;

	case_open(&c, _i == 0 ? "long_one" : "long_held");
	c.holds_at_once = _i == 1;
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	PGconn *writer = db_connect_uri(c.source_uri);
	db_exec(writer, "BEGIN; INSERT INTO parent VALUES (1000)");
	char pid[32];
	snprintf(pid, sizeof(pid), "pid %d", PQbackendPID(writer));

	int code = pgbaton_cli(c.p, &out, 60, "cutover", "--hold-timeout", "0.5", NULL);
	ck_assert_int_eq(code, 1);
	ck_assert_msg(strstr(out, pid) != NULL, "the blocker %s is not named: %s", pid, out);
	ck_assert_msg((strstr(out, "nobody was held") != NULL) == (_i == 0), "%s", out);
	free(out);
	ck_assert_int_eq(pgbaton_status_int(c.p, "cutover.attempts"), _i == 0 ? 0 : 3);
	ck_assert(source_writable(&c));
	char *state = pgbaton_status_text(c.p, "state");
	ck_assert_str_eq(state, "following");
	free(state);

	if (_i == 0) {
		/* One that ends in time delays the cutover, and nobody else. */
		Process *cutover = pgbaton_cli_start(c.p, "cutover", NULL);
		wait_awaiting(&c);
		ck_assert(source_writable(&c));
		db_exec(writer, "COMMIT");
		ck_assert_msg(process_wait(cutover, 60) == 0, "%s", process_stderr(cutover));
		process_free(cutover);
		ck_assert_int_eq(pgbaton_status_int(c.p, "cutover.attempts"), 1);
	} else {
		db_exec(writer, "COMMIT");
		case_cutover(&c);
	}
	PQfinish(writer);
	case_switched(&c);
	case_close(&c);
}
END_TEST

START_TEST(autovacuum_in_the_way)
{
	Case c;

	case_open(&c, "vacuumed");
	db_exec(c.source,
	        "CREATE TABLE big (id int PRIMARY KEY, v text);"
	        "INSERT INTO big SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	/* A worker that sleeps 100 ms after every page. */
	db_exec(c.source, "ALTER TABLE big SET (autovacuum_vacuum_cost_delay = 100,"
	                  " autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 1,"
	                  " autovacuum_vacuum_scale_factor = 0);"
	                  "UPDATE big SET v = v || 'y' WHERE id %% 2 = 0");
	db_wait_until(c.source,
	              "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = "
	              "'autovacuum worker' AND query LIKE '%public.big%'",
	              60);
	case_cutover(&c);
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* Transactions that take their tables in opposite orders, all the time: whatever order the
 * fence asks in, it meets some of them half-way (deadlocks), and still comes through. */
START_TEST(busy_in_every_order)
{
	Case c;
	char *up = scratch_dir_new("scripts");
	char path[2][160];
	static const char *const order[2] = {
		"BEGIN;INSERT INTO parent VALUES (DEFAULT);INSERT INTO b1 VALUES (1);"
		"INSERT INTO b2 VALUES (1);INSERT INTO b3 VALUES (1);END;\n",
		"BEGIN;INSERT INTO b3 VALUES (2);INSERT INTO b2 VALUES (2);INSERT INTO b1 VALUES (2);"
		"INSERT INTO parent VALUES (DEFAULT);END;\n"};

	case_open(&c, "busy");
	db_exec(c.source, "CREATE SEQUENCE ids START 1000;"
	                  "ALTER TABLE parent ALTER id SET DEFAULT nextval('ids');"
	                  "CREATE TABLE b1 (a int); CREATE TABLE b2 (a int); CREATE TABLE b3 (a int)");
	for (int i = 0; i < 2; i++) {
		snprintf(path[i], sizeof(path[i]), "%s/%d.sql", up, i);
		FILE *file = fopen(path[i], "w");
		ck_assert_ptr_nonnull(file);
		fputs(order[i], file);
		fclose(file);
	}
	/* Not as fast as it can: without pauses some transaction is always half-way, and then only
	 * luck helps. */
	const char *argv[] = {"pgbench", "-n", "-c",    "4",  "-R",    "200",        "-T",
	                      "120",     "-f", path[0], "-f", path[1], c.source_uri, NULL};
	Process *bench = process_start(argv, NULL);
	db_wait_until(c.source, "SELECT count(*) > 100 FROM b3", 30);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_cutover(&c);
	process_wait(bench, 30); /* every client was refused with 25006 */
	ck_assert_ptr_nonnull(strstr(process_stderr(bench), "moved"));
	process_free(bench);
	case_switched(&c);
	case_close(&c);
	scratch_dir_free(up);
}
END_TEST

/* The target goes away between the fence's commit and the journal's: the source must not
 * stay fenced for that. */
START_TEST(target_away_at_the_switch)
{
	Case c;

	case_open(&c, "away");
	case_run(&c, "cutover_fence_committed:1:stop");
	pgbaton_wait_state(c.p, "following", 60);
	Process *cutover = pgbaton_cli_start(c.p, "cutover", NULL);
	pgbaton_wait_stopped(c.p, 60);
	ck_assert(db_true(c.source, "SELECT count(*) > 0 FROM pg_trigger WHERE tgname = 'away_fence'"
	                            " AND tgenabled <> 'D'"));
	cluster_stop(target_cluster, CLUSTER_IMMEDIATE);
	kill(pgbaton_pid(c.p), SIGCONT);
	/* The journal's outcome is looked up on a target that is away: still fenced, K4. */
	cluster_resume(target_cluster);
	PQfinish(c.target);
	c.target = db_connect_uri(c.target_uri);
	ck_assert_int_ne(process_wait(cutover, 60), 0);
	process_free(cutover);
	db_wait_until(
		c.source,
		"SELECT count(*) = 0 FROM pg_trigger WHERE tgname = 'away_fence' AND tgenabled <> 'D'", 30);
	ck_assert(source_writable(&c));
	pgbaton_wait_state(c.p, "following", 60);
	case_cutover(&c);
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* It goes away between two attempts: that is the end of this cutover, and of nothing else. */
START_TEST(target_away_between_attempts)
{
	static const char *const options[] = {NULL, "--rehearse"};
	Case c;
	char name[32];

	snprintf(name, sizeof(name), "between_%d", _i);
	case_open(&c, name);
	case_arg(&c, "--failback", NULL);
	c.holds_at_once = true;
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	PGconn *writer = db_connect_uri(c.source_uri);
	db_exec(writer, "BEGIN; INSERT INTO parent VALUES (1000)");
	Process *cutover = pgbaton_cli_start(c.p, "cutover", "--hold-timeout", "0.3", "--json",
	                                     options[_i], NULL);
	pgbaton_wait_log(c.p, "undone after", 30);
	cluster_stop(target_cluster, CLUSTER_IMMEDIATE);
	ck_assert_int_eq(process_wait(cutover, 60), 1);
	process_free(cutover);
	db_exec(writer, "COMMIT");
	PQfinish(writer);
	ck_assert(source_writable(&c));
	char *state = pgbaton_status_text(c.p, "state");
	ck_assert_str_eq(state, "following");
	free(state);

	cluster_resume(target_cluster);
	PQfinish(c.target);
	c.target = db_connect_uri(c.target_uri);
	case_cutover(&c);
	ck_assert(!source_writable(&c));
	case_close(&c);
}
END_TEST

/* Told to end within the hold, it undoes what it has begun or leaves it to the next start, and ends
 * as it does at any other time. */
START_TEST(told_to_end)
{
	static const char *const points[] = {"cutover_locked", "cutover_fence_enabled",
	                                     "cutover_fence_committed", "cutover_switched"};
	Case c;
	char name[32], fault[64];

	snprintf(name, sizeof(name), "told_%d", _i);
	snprintf(fault, sizeof(fault), "%s:1:stop", points[_i]);
	case_open(&c, name);
	case_run(&c, fault);
	pgbaton_wait_state(c.p, "following", 60);
	Process *cutover = pgbaton_cli_start(c.p, "cutover", NULL);
	pgbaton_wait_stopped(c.p, 60);
	kill(pgbaton_pid(c.p), SIGTERM);
	kill(pgbaton_pid(c.p), SIGCONT);
	int ended = pgbaton_wait_exit(c.p, 30);
	ck_assert_msg(ended == 0, "exit %d: %s", ended, pgbaton_log(c.p));
	bool done = process_wait(cutover, 30) == 0;
	bool undone = strstr(process_stderr(cutover), "undone") != NULL;

	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	/* What the operator was told is how it is. */
	bool switched = pgbaton_reached(c.p, "switched");
	ck_assert_msg(!(done && !switched) && !(undone && switched), "%s", process_stderr(cutover));
	process_free(cutover);
	if (!switched) {
		ck_assert(source_writable(&c));
		case_cutover(&c);
	}
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* Who interrupts the command, or asks for it from elsewhere, means the cutover: it is undone long
 * before its time is over, and does not switch behind his back. */
START_TEST(given_up)
{
	static const struct {
		int signal; /* 0: by --abort */
		bool ahead; /* it prepares still */
		const char *option;
	} cases[] = {{SIGINT, false, NULL},
	             {SIGTERM, false, "--rehearse"},
	             {0, false, NULL},
	             {0, true, NULL},
	             {SIGINT, true, NULL}};
	Case c;
	char name[32], *out;

	snprintf(name, sizeof(name), "given_up_%d", _i);
	case_open(&c, name);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	PGconn *other = db_connect_uri(cases[_i].ahead ? c.target_uri : c.source_uri);
	db_exec(other, cases[_i].ahead ? "BEGIN; SELECT FROM counted"
	                               : "BEGIN; INSERT INTO parent VALUES (1000)");
	Process *cutover = pgbaton_cli_start(c.p, "cutover", "--hold-timeout", "300", "--json",
	                                     cases[_i].option, NULL);
	db_wait_until(cases[_i].ahead ? c.target : c.source,
	              "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'pgbaton%'"
	              " AND datname = current_database() AND wait_event_type = 'Lock'",
	              60);
	if (cases[_i].signal != 0) {
		process_kill(cutover, cases[_i].signal);
		process_wait_output(cutover, "another interrupt", 30);
	}
	if (!cases[_i].ahead && cases[_i].signal == 0)
		ck_assert_int_eq(pgbaton_cli(c.p, NULL, 60, "cutover", "--abort", NULL), 0);
	if (cases[_i].ahead) { /* a statement of the other side's is not cut short */
		Process *aborting = cases[_i].signal == 0
		                        ? pgbaton_cli_start(c.p, "cutover", "--abort", NULL)
		                        : NULL;
		pgbaton_wait_log(c.p, "to be given up", 30);
		db_exec(other, "COMMIT");
		ck_assert_int_eq(aborting != NULL ? process_wait(aborting, 60) : 0, 0);
		process_free(aborting);
	}
	ck_assert_int_eq(process_wait(cutover, 60), 1);
	ck_assert_msg(strstr(process_stdout(cutover), "given up at step") != NULL, "%s",
	              process_stdout(cutover));
	process_free(cutover);
	char *state = pgbaton_status_text(c.p, "state");
	ck_assert_str_eq(state, "following");
	free(state);
	ck_assert(source_writable(&c));
	/* Whoever had it wait goes on, and so does the migration. */
	if (!cases[_i].ahead)
		db_exec(other, "COMMIT");
	PQfinish(other);
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "cutover", "--abort", NULL), 1);
	ck_assert_msg(strstr(out, "no cutover or failback is running") != NULL, "%s", out);
	free(out);
	case_cutover(&c);
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* A table made while the cutover prepares is seen under the locks. */
START_TEST(table_made_meanwhile)
{
	Case c;
	char *out;

	case_open(&c, "meanwhile");
	case_run(&c, "cutover_journal_begun:1:stop");
	pgbaton_wait_state(c.p, "following", 60);
	Process *cutover = pgbaton_cli_start(c.p, "cutover", NULL);
	pgbaton_wait_stopped(c.p, 60);
	db_exec(c.source, "CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1)");
	kill(pgbaton_pid(c.p), SIGCONT);
	ck_assert_int_eq(process_wait(cutover, 60), 1);
	process_free(cutover);
	ck_assert(source_writable(&c));
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "cutover", NULL), 1);
	ck_assert_msg(strstr(out, "later") != NULL, "%s", out);
	free(out);
	db_exec(c.source, "DROP TABLE later");
	case_cutover(&c);
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* ---- differences ---- */

START_TEST(difference_is_found)
{
	Case c;
	char *out;

	case_open(&c, "differs");
	c.args[c.arg_count++] = "--verify=checksums";
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "verify", NULL), 0);
	free(out);

	db_exec(c.target, "UPDATE child SET parent = 1 WHERE id = 5");
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "verify", NULL), 1);
	ck_assert_msg(strstr(out, "child") != NULL, "%s", out);
	free(out);
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "cutover", NULL), 1);
	ck_assert_msg(strstr(out, "child") != NULL, "%s", out);
	free(out);
	ck_assert(source_writable(&c));

	db_exec(c.target, "UPDATE child SET parent = 5 WHERE id = 5");
	case_cutover(&c);
	case_switched(&c);
	case_close(&c);
}
END_TEST

static void
verify_some(Case *c, int code, const char *a, const char *b, const char *says)
{
	char *out;
	int got = pgbaton_cli(c->p, &out, 60, "verify", "--table", a, "--table", b, NULL);

	ck_assert_msg(got == code && strstr(out, says) != NULL, "%s %s: %d %s", a, b, got, out);
	free(out);
}

/* What is not named is neither compared nor are its writers held. */
START_TEST(some_tables_are_compared)
{
	Case c;

	case_open(&c, "some");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	PGconn *writer = db_connect_uri(c.source_uri);
	db_exec(writer, "BEGIN; INSERT INTO no_key (a) VALUES (1)");
	db_exec(c.target, "UPDATE child SET parent = 1 WHERE id = 5; DELETE FROM part_2 WHERE id = 3");
	verify_some(&c, 0, "parent", "PUBLIC.part_1", "2 tables");
	verify_some(&c, 1, "parent", "ch?ld", "public.child");
	/* By what stands above it. */
	verify_some(&c, 1, "public.part", "parent", "public.part_2");
	verify_some(&c, 1, "parent", "nowhere", "--table 'nowhere' matches no table");
	verify_some(&c, 1, "parent", "par(", "--table 'par('");
	db_exec(writer, "ROLLBACK");
	PQfinish(writer);
	case_close(&c);
}
END_TEST

/* A table that came after the start was never copied: the cutover must not lose it. */
START_TEST(new_table_is_refused)
{
	Case c;
	char *out;

	case_open(&c, "new_table");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	db_exec(c.source, "CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1)");
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "cutover", NULL), 1);
	ck_assert_msg(strstr(out, "later") != NULL, "%s", out);
	free(out);
	/* What is compared is equal, and who reads that learns that there is more. */
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "verify", NULL), 0);
	ck_assert_msg(strstr(out, "equal") != NULL && strstr(out, "later") != NULL, "%s", out);
	free(out);
	db_exec(c.source, "DROP TABLE later");
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "verify", NULL), 0);
	ck_assert_msg(strstr(out, "later") == NULL, "%s", out);
	free(out);
	ck_assert(source_writable(&c));
	case_cutover(&c);
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* Idle sessions that were ended behind our back must not cost the cutover. */
START_TEST(idle_sessions_were_ended)
{
	Case c;

	case_open(&c, "ended");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	for (int i = 0; i < 2; i++)
		db_exec(i == 0 ? c.source : c.target,
		        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
		        " WHERE application_name = 'pgbaton control'");
	case_cutover(&c);
	case_switched(&c);
	case_close(&c);
}
END_TEST

START_TEST(auto_cutover)
{
	Case c;

	case_open(&c, "by_itself");
	case_arg(&c, "--cutover", "auto");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "switched", 60);
	case_switched(&c);
	case_close(&c);
}
END_TEST

/* Nothing is followed: it copies, makes the target whole and ends by itself. */
START_TEST(offline_ends_by_itself)
{
	Case c;

	case_open(&c, "offline");
	case_arg(&c, "--mode", "offline");
	c.args[c.arg_count++] = "--verify=checksums";
	case_run(&c, NULL);
	int code = pgbaton_wait_exit(c.p, 60);
	ck_assert_msg(code == 0, "exit %d: %s", code, pgbaton_log(c.p));
	case_equal(&c);
	ck_assert(source_writable(&c));
	ck_assert(db_true(c.target, "SELECT tgenabled = 'A' FROM pg_trigger WHERE tgname = 'note'"));
	ck_assert(db_true(c.target, "SELECT bool_and(convalidated) FROM pg_constraint"));
	ck_assert_int_eq(db_int(c.target, "SELECT n FROM counted"), 100);
	free(db_expect_error(c.target, "428C9", "INSERT INTO t (id, v) VALUES (-1, 'x')"));
	ck_assert_int_eq(
		db_int(c.target, "SELECT count(*) FROM pg_namespace WHERE nspname = 'offline'"), 0);
	ck_assert_int_eq(db_int(c.source, "SELECT count(*) FROM pg_replication_slots"), 0);
	ck_assert_int_eq(db_int(c.source, "SELECT count(*) FROM pg_publication"), 0);
	case_close(&c);
}
END_TEST

START_TEST(cancel_leaves_nothing)
{
	Case c;

	case_open(&c, "given_up");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_write(&c, "x");
	ck_assert_int_eq(pgbaton_cli(c.p, NULL, 60, "cancel", NULL), 0);
	pgbaton_wait_exit(c.p, 20);
	ck_assert(source_writable(&c));
	ck_assert_int_eq(
		db_int(c.source, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'given_up'"),
		0);
	ck_assert_int_eq(db_int(c.source, "SELECT count(*) FROM pg_publication"), 0);
	ck_assert_int_eq(
		db_int(c.source, "SELECT count(*) FROM pg_namespace WHERE nspname = 'given_up'"), 0);
	ck_assert_int_eq(
		db_int(c.source,
	           "SELECT count(*) FROM pg_class WHERE relname = 'no_key' AND relreplident = 'd'"),
		1);
	ck_assert_int_eq(
		db_int(c.target, "SELECT count(*) FROM pg_namespace WHERE nspname = 'given_up'"), 0);
	ck_assert(db_true(c.target, "SELECT tgenabled = 'A' FROM pg_trigger WHERE tgname = 'note'"));
	case_close(&c);
}
END_TEST

static Suite *
cutover_suite(void)
{
	Suite *suite = suite_create("cutover");
	TCase *tc = tcase_create("cutover");

	tcase_set_timeout(tc, 180);
	tcase_add_unchecked_fixture(tc, start_clusters, stop_clusters);
	tcase_add_test(tc, moves_everything);
	tcase_add_test(tc, rehearsed);
	tcase_add_test(tc, rehearsal_is_blocked);
	tcase_add_loop_test(tc, rehearsal_survives_kill, 0, 2);
	tcase_add_loop_test(tc, survives_kill, 0, (int)(sizeof(kill_points) / sizeof(kill_points[0])));
	tcase_add_loop_test(tc, stopped_past_deadline, 0, 2);
	tcase_add_loop_test(tc, long_transaction, 0, 2);
	tcase_add_test(tc, autovacuum_in_the_way);
	tcase_add_test(tc, busy_in_every_order);
	tcase_add_test(tc, target_away_at_the_switch);
	tcase_add_test(tc, table_made_meanwhile);
	tcase_add_test(tc, difference_is_found);
	tcase_add_test(tc, new_table_is_refused);
	tcase_add_test(tc, idle_sessions_were_ended);
	tcase_add_test(tc, auto_cutover);
	tcase_add_test(tc, offline_ends_by_itself);
	tcase_add_test(tc, cancel_leaves_nothing);
	suite_add_tcase(suite, tc);
	tc = tcase_create("some_tables");
	tcase_set_timeout(tc, 120);
	tcase_add_unchecked_fixture(tc, start_clusters, stop_clusters);
	tcase_add_test(tc, some_tables_are_compared);
	suite_add_tcase(suite, tc);
	tc = tcase_create("ended");
	tcase_set_timeout(tc, 120);
	tcase_add_unchecked_fixture(tc, start_clusters, stop_clusters);
	tcase_add_loop_test(tc, target_away_between_attempts, 0, 2);
	tcase_add_loop_test(tc, told_to_end, 0, 4);
	tcase_add_loop_test(tc, given_up, 0, 5);
	suite_add_tcase(suite, tc);
	return suite;
}
TEST_SUITE(cutover_suite)
