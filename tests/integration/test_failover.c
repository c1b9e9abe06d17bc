/*
 * A server is another one than before behind the same address: a standby that was promoted,
 * a backup, a snapshot of its disk. Where a source has all that pgbaton has received it is followed
 * on; where it has lost some of it, the target has rows that it never had, its positions mean
 * other transactions, and pgbaton stops and says so. What a target has lost is done again.
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
#include "tests/harness/process.h"
#include "tests/harness/skip.h"
#include "tests/unit/runner.h"

typedef struct {
	Cluster *source_cluster;
	Cluster *target_cluster;
	Cluster *changes; /* the one of the two that becomes another */
	char *data;       /* its directory */
	char *kept;       /* and a copy of it */
	PGconn *source;
	PGconn *target;
	Pgbaton *p;
	const char *standby_seen; /* in the log, before it is promoted */
} Case;

static void
run(const char *const argv[])
{
	char *out;

	ck_assert_msg(process_run(argv, NULL, 60, &out) == 0, "%s", out);
	free(out);
}

static void
case_servers(Case *c, bool target_changes)
{
	memset(c, 0, sizeof(*c));
	c->source_cluster = cluster_start(&(ClusterOptions){.name = "source"});
	c->target_cluster = cluster_start(&(ClusterOptions){.name = "target"});
	c->changes = target_changes ? c->target_cluster : c->source_cluster;
	c->data = mem_strdup(cluster_data_dir(c->changes));
	c->kept = mem_printf("%s.kept", c->data);
	c->source = db_connect(c->source_cluster, NULL);
	c->target = db_connect(c->target_cluster, NULL);
	db_exec(c->source, "CREATE TABLE t (id int PRIMARY KEY, note text);"
	                   "INSERT INTO t SELECT g, 'old' FROM generate_series(1, 100) g");
}

static void
case_begin(Case *c, const char *const *args, const char *const *env)
{
	char *source_uri = mem_strdup(cluster_uri(c->source_cluster, NULL));
	c->p = pgbaton_start(&(PgbatonOptions){.source = source_uri,
	                                       .target = cluster_uri(c->target_cluster, NULL),
	                                       .args = args,
	                                       .env = env});
	free(source_uri);
}

static void
case_open(Case *c, const char *const *args)
{
	case_servers(c, false);
	case_begin(c, args, NULL);
	pgbaton_wait_state(c->p, "following", 60);
}

static void
case_close(Case *c)
{
	pgbaton_free(c->p);
	PQfinish(c->source);
	PQfinish(c->target);
	run((const char *const[]){"rm", "-rf", c->kept, NULL});
	cluster_free(c->source_cluster);
	cluster_free(c->target_cluster);
	free(c->data);
	free(c->kept);
}

/* As long as the target has the row. */
static void
write_and_wait(Case *c, int id, const char *note)
{
	char sql[100];

	db_exec(c->source, "INSERT INTO t VALUES (%d, '%s')", id, note);
	snprintf(sql, sizeof(sql), "SELECT count(*) = 1 FROM t WHERE id = %d", id);
	db_wait_until(c->target, sql, 30);
}

static void
reconnect(Case *c)
{
	PGconn **conn = c->changes == c->source_cluster ? &c->source : &c->target;

	PQfinish(*conn);
	*conn = db_connect(c->changes, NULL);
}

/* As a standby that has come to here, or a backup. */
static void
keep(Case *c)
{
	cluster_stop(c->changes, CLUSTER_FAST);
	run((const char *const[]){"cp", "-a", c->data, c->kept, NULL});
	cluster_resume(c->changes);
	reconnect(c);
}

/* The server comes up with what was kept: on the same timeline, as from a snapshot of its disk, or
 * promoted to one of its own, at once or when it is told to. */
typedef enum { SAME, PROMOTED, STANDBY } Comes;

static void
put_back(Case *c, Comes comes)
{
	cluster_kill9(c->changes);
	run((const char *const[]){"rm", "-rf", c->data, NULL});
	run((const char *const[]){"mv", c->kept, c->data, NULL});
	if (comes != SAME) {
		const char *file = comes == STANDBY ? "standby.signal" : "recovery.signal";
		char *script = mem_printf("cd %s && touch %s && "
		                          "echo \"restore_command = 'false'\" >> postgresql.auto.conf && "
		                          "chown --reference=PG_VERSION %s",
		                          c->data, file, file);
		run((const char *const[]){"sh", "-c", script, NULL});
		free(script);
	}
	cluster_resume(c->changes);
	reconnect(c);
	PGconn *conn = c->changes == c->source_cluster ? c->source : c->target;
	if (comes == STANDBY) {
		pgbaton_wait_log(c->p, c->standby_seen != NULL ? c->standby_seen : "is a standby", 60);
		db_exec(conn, "SELECT pg_promote()");
	}
	db_wait_until(conn, "SELECT NOT pg_is_in_recovery()", 30);
	ck_assert_int_eq(db_int(conn, "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)::int"),
	                 comes == SAME ? 1 : 2);
}

static void
wait_failed(Case *c, const char *word)
{
	int64_t deadline = deadline_in_ms(30000);
	bool failed = false;

	while (!failed) {
		json_t *status = pgbaton_status(c->p); /* NULL: it has only just begun */
		const char *state = json_string_value(json_object_get(status, "state"));
		failed = state != NULL && strcmp(state, "failed") == 0;
		json_decref(status);
		ck_assert_msg(failed || deadline_left_ms(deadline) > 0, "goes on\n%s", pgbaton_log(c->p));
		poll(NULL, 0, failed ? 0 : 10);
	}
	char *error = pgbaton_status_text(c->p, "error.message");
	ck_assert_msg(strstr(error, word) != NULL, "%s", error);
	free(error);
}

static const char *const applied[] = {"--confirm", "applied", NULL};

/* Promoted or not, noticed while it runs or by a start; by what the log or the target has. */
static const struct {
	Comes comes;
	bool started_again;
	bool state_lost; /* pgbaton's directory too */
	const char *const *args;
	const char *word;
} losses[] = {
	{PROMOTED, false, false, NULL, "timeline 2"},    {PROMOTED, true, false, NULL, "timeline 2"},
	{SAME, false, false, NULL, "gone back"},         {SAME, true, false, NULL, "gone back"},
	{PROMOTED, false, false, applied, "timeline 2"}, {PROMOTED, true, false, applied, "timeline 2"},
	{PROMOTED, true, true, applied, "timeline 2"},   {SAME, true, true, applied, "gone back"},
};
enum { LOSSES = sizeof(losses) / sizeof(losses[0]) };

static void
lose_state(Case *c)
{
	run((const char *const[]){"rm", "-rf", pgbaton_state_dir(c->p), NULL});
}

START_TEST(a_source_that_has_lost_rows)
{
	Case c;

	case_open(&c, losses[_i].args);
	write_and_wait(&c, 1001, "on both");
	keep(&c);
	for (int id = 2001; id < 2010; id++)
		write_and_wait(&c, id, "lost by the source");
	if (losses[_i].started_again)
		pgbaton_stop(c.p, SIGKILL);
	if (losses[_i].state_lost)
		lose_state(&c);
	put_back(&c, losses[_i].comes);
	db_exec(c.source, "INSERT INTO t VALUES (3001, 'new')");
	if (losses[_i].started_again)
		pgbaton_again(c.p);
	wait_failed(&c, losses[_i].word);
	/* Neither a new start nor more WAL makes it go on. */
	if (losses[_i].comes == PROMOTED) {
		db_exec(c.source, "INSERT INTO t SELECT g, 'new' FROM generate_series(10000, 20000) g");
		pgbaton_stop(c.p, SIGTERM);
		pgbaton_again(c.p);
		wait_failed(&c, losses[_i].word);
	}
	ck_assert_int_eq(db_int(c.target, "SELECT count(*) FROM t WHERE note = 'new'"), 0);
	case_close(&c);
}
END_TEST

/* All that was received is there: nothing is lost, and the second change is told from the first. */
START_TEST(a_source_that_has_everything)
{
	Case c;

	case_open(&c, _i % 2 == 1 ? applied : NULL);
	write_and_wait(&c, 1001, "before");
	cluster_stop(c.source_cluster, CLUSTER_FAST);
	run((const char *const[]){"cp", "-a", c.data, c.kept, NULL});
	if (_i == 3) {
		pgbaton_stop(c.p, SIGKILL);
		lose_state(&c);
	}
	put_back(&c, _i == 2 ? STANDBY : PROMOTED);
	if (_i == 3)
		pgbaton_again(c.p);
	write_and_wait(&c, 1002, "on timeline 2");
	compare_databases(c.source, c.target, NULL);
	pgbaton_stop(c.p, SIGTERM);
	pgbaton_again(c.p);
	write_and_wait(&c, 1003, "after a start");
	pgbaton_wait_state(c.p, "following", 60);
	char *out;
	ck_assert_msg(pgbaton_cli(c.p, &out, 60, "verify", NULL) == 0, "%s", out);
	free(out);
	case_close(&c);
}
END_TEST

/* With --confirm applied the state directory may be lost, and only with that: what the source has
 * sent to somebody else in between is not sent again. */
START_TEST(a_slot_that_was_moved_while_the_state_was_lost)
{
	Case c;

	case_open(&c, applied);
	write_and_wait(&c, 1001, "before");
	pgbaton_stop(c.p, SIGTERM);
	lose_state(&c);
	db_exec(c.source, "INSERT INTO t VALUES (1002, 'while it was down')");
	pgbaton_again(c.p);
	write_and_wait(&c, 1003, "after it");
	compare_databases(c.source, c.target, NULL);
	pgbaton_stop(c.p, SIGKILL);
	lose_state(&c);
	db_exec(c.source, "INSERT INTO t VALUES (1004, 'not sent')");
	db_wait_until(c.source, "SELECT NOT active FROM pg_replication_slots", 30);
	db_exec(c.source, "SELECT pg_replication_slot_advance('pgbaton', pg_current_wal_lsn())");
	pgbaton_again(c.p);
	wait_failed(&c, "the slot stands at");
	case_close(&c);
}
END_TEST

/* ---- a standby that has the slot, too ---- */

static void
sh(char *script)
{
	run((const char *const[]){"sh", "-c", script, NULL});
	free(script);
}

/* Streaming from the source, which sends pgbaton nothing that this one has not. */
static Cluster *
standby_start(Cluster *primary, PGconn **conn)
{
	Cluster *standby = cluster_start(
		&(ClusterOptions){.major = cluster_major(primary), .name = "standby"});

	db_exec(*conn, "SELECT pg_create_physical_replication_slot('standby', true)");
	PQfinish(*conn);
	cluster_stop(standby, CLUSTER_FAST);
	cluster_stop(primary, CLUSTER_FAST);
	sh(mem_printf(
		"rm -rf %s && cp -a %s %s && cd %s && touch standby.signal && "
		"chown --reference=PG_VERSION standby.signal && cat >> postgresql.auto.conf <<END\n"
		"unix_socket_directories = '%s'\n"
		"primary_conninfo = 'host=127.0.0.1 port=%d user=postgres dbname=postgres'\n"
		"primary_slot_name = 'standby'\nhot_standby_feedback = on\nEND",
		cluster_data_dir(standby), cluster_data_dir(primary), cluster_data_dir(standby),
		cluster_data_dir(standby), cluster_socket_dir(standby), cluster_port(primary)));
	cluster_resume(primary);
	cluster_resume(standby);
	cluster_configure(primary, "synchronized_standby_slots = 'standby'");
	*conn = db_connect(primary, NULL);
	return standby;
}

/* A slot is taken over when nothing that it needs is gone from the standby. */
static void
sync_slot(PGconn *source, PGconn *standby)
{
	int64_t deadline = deadline_in_ms(60000);

	do {
		ck_assert(deadline_left_ms(deadline) > 0);
		db_exec(source, "SELECT pg_log_standby_snapshot()");
		db_exec(standby, "SELECT pg_sync_replication_slots()");
		poll(NULL, 0, 50);
	} while (!db_true(standby, "SELECT count(*) = 1 FROM pg_replication_slots"
	                           " WHERE slot_name = 'pgbaton' AND synced AND NOT temporary"));
}

START_TEST(a_standby_that_has_the_slot)
{
	static const char *const args[] = {"--schema", "none", NULL};
	static const char table[] = "CREATE TABLE t (id int PRIMARY KEY, note text)";
	Case c = {0};

	TEST_NEEDS_MAJOR(_i);
	c.source_cluster = cluster_start(&(ClusterOptions){.major = _i, .name = "source"});
	c.target_cluster = cluster_start(&(ClusterOptions){.major = _i, .name = "target"});
	c.source = db_connect(c.source_cluster, NULL);
	c.target = db_connect(c.target_cluster, NULL);
	db_exec(c.source, table);
	db_exec(c.target, table);
	db_exec(c.source, "INSERT INTO t SELECT g, 'old' FROM generate_series(1, 100) g");
	Cluster *second = standby_start(c.source_cluster, &c.source);
	PGconn *standby = db_connect(second, NULL);
	char *uri = mem_printf("postgresql://postgres@127.0.0.1:%d,127.0.0.1:%d/postgres"
	                       "?target_session_attrs=read-write",
	                       cluster_port(c.source_cluster), cluster_port(second));
	c.p = pgbaton_start(&(PgbatonOptions){
		.source = uri, .target = cluster_uri(c.target_cluster, NULL), .args = args});
	pgbaton_wait_state(c.p, "following", 60);
	ck_assert(db_true(c.source, "SELECT failover FROM pg_replication_slots"
	                            " WHERE slot_name = 'pgbaton'"));
	write_and_wait(&c, 1001, "before");
	sync_slot(c.source, standby);
	for (int id = 2001; id < 2010; id++)
		write_and_wait(&c, id, "behind the slot");
	cluster_kill9(c.source_cluster);
	db_exec(standby, "SELECT pg_promote()");
	PQfinish(c.source);
	c.source = standby;
	write_and_wait(&c, 3001, "on timeline 2");
	compare_databases(c.source, c.target, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	char *out;
	ck_assert_msg(pgbaton_cli(c.p, &out, 60, "verify", NULL) == 0, "%s", out);
	free(out);
	pgbaton_free(c.p);
	PQfinish(c.source);
	PQfinish(c.target);
	cluster_free(second);
	cluster_free(c.source_cluster);
	cluster_free(c.target_cluster);
	free(uri);
}
END_TEST

/* A commit that nobody waits for (synchronous_commit = off) is seen before it is on the disk: rows
 * that a copy has seen must not be lost by the source afterwards, and their xids given to others. */
START_TEST(a_source_that_stops_after_the_copy)
{
	static const char *const split[] = {"--split-above", "1kB", NULL};
	static const char *const env[] = {"PGBATON_FAULT=copy_begin:1:stop", NULL};
	Case c;

	case_servers(&c, false);
	cluster_configure(c.source_cluster, "synchronous_commit = off\nwal_writer_delay = 10s");
	/* 1: of its own, 2: in ranges. 0: among others. */
	if (_i == 0)
		db_exec(c.source,
		        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)");
	else
		db_exec(c.source, "INSERT INTO t SELECT g, repeat(md5(g::text), 20)"
		                  " FROM generate_series(1001, 20000) g");
	case_begin(&c, _i == 2 ? split : NULL, env);
	pgbaton_wait_stopped(c.p, 60);
	/* The first one wakes the server's WAL writer, which rests for ten seconds then. */
	db_exec(c.source, "INSERT INTO t VALUES (100000, 'flushed')");
	poll(NULL, 0, 300);
	db_exec(c.source, "INSERT INTO t VALUES (100001, 'not flushed')");
	kill(pgbaton_pid(c.p), SIGCONT);
	while (
		!db_true(c.target, "SELECT state = 'copied' FROM pgbaton.relation WHERE table_name = 't'"))
		continue; /* as soon as that: what comes next writes, too */
	kill(pgbaton_pid(c.p), SIGSTOP);
	cluster_kill9(c.source_cluster);
	cluster_resume(c.source_cluster);
	kill(pgbaton_pid(c.p), SIGCONT);
	reconnect(&c);
	pgbaton_wait_state(c.p, "following", 60);
	write_and_wait(&c, 300001, "after it");
	compare_databases(c.source, c.target, NULL);
	case_close(&c);
}
END_TEST

/* Until so many tables are recorded as copied. */
static void
wait_copied(Case *c, int count)
{
	char sql[120];

	snprintf(sql, sizeof(sql), "SELECT count(*) >= %d FROM pgbaton.relation WHERE state = 'copied'",
	         count);
	db_wait_until(c->target, sql, 60);
}

/* Not the stream's rows but a copy's, which reads what was not sent yet: by a start from the ledger, and
 * while a table waits for its COMMIT at the target, which needs the old source no more. */
START_TEST(a_source_that_has_lost_what_was_copied)
{
	static const char *const split[] = {"--split-above", "4MB", NULL};
	static const char *const env[] = {"PGBATON_FAULT=prepare_slot:1:stop", NULL};
	static const char copy_waits[] = "SELECT count(*) = 1 FROM pg_stat_activity WHERE"
									 " wait_event = 'relation' AND application_name ="
									 " 'pgbaton copy'";
	bool started_again = _i == 0;
	Case c;

	case_servers(&c, false);
	if (_i == 2)
		db_exec(c.source, "INSERT INTO t SELECT g, repeat(md5(g::text), 20)"
		                  " FROM generate_series(5001, 20000) g");
	case_begin(&c, _i == 2 ? split : NULL, env);
	pgbaton_wait_stopped(c.p, 60);
	keep(&c);
	PGconn *writer = db_connect(c.source_cluster, NULL);
	PGconn *holder = db_connect(c.target_cluster, NULL);
	db_exec(writer, "BEGIN; LOCK TABLE t");
	kill(pgbaton_pid(c.p), SIGCONT);
	db_wait_until(c.source, "SELECT count(*) = 1 FROM pg_stat_replication", 30);
	db_wait_until(c.source, copy_waits, 30);
	if (!started_again)
		db_exec(holder, "BEGIN; LOCK TABLE pgbaton.relation IN SHARE MODE");
	pid_t sender = (pid_t)db_int(c.source, "SELECT pid FROM pg_stat_replication");
	kill(sender, SIGSTOP);
	db_exec(writer, "INSERT INTO t VALUES (2001, 'lost by the source'); COMMIT");
	PQfinish(writer);
	if (started_again) {
		wait_copied(&c, 1);
		pgbaton_stop(c.p, SIGKILL);
	} else {
		db_wait_until(c.target, copy_waits, 30);
	}
	kill(sender, SIGKILL);
	put_back(&c, PROMOTED);
	db_exec(c.source, "INSERT INTO t VALUES (3001, 'new')");
	if (started_again) {
		pgbaton_again(c.p);
	} else {
		pgbaton_wait_log(c.p, "on timeline 2 now", 30);
		db_exec(holder, "COMMIT");
	}
	PQfinish(holder);
	wait_failed(&c, "timeline 2");
	case_close(&c);
}
END_TEST

/* The copy waits as the receiver does, longer than a table's tries, and takes no snapshot before that
 * has looked: its position would count as one of the old timeline. */
START_TEST(a_source_that_is_promoted_during_the_copy)
{
	static const char *const env[] = {"PGBATON_FAULT=copy_begin:1:stop", NULL};
	Case c;

	case_servers(&c, false);
	c.standby_seen = "warning migration copy: table public.t: the source is a standby";
	case_begin(&c, NULL, env);
	pgbaton_wait_stopped(c.p, 60);
	db_exec(c.source, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication");
	cluster_stop(c.source_cluster, CLUSTER_FAST);
	run((const char *const[]){"cp", "-a", c.data, c.kept, NULL});
	kill(pgbaton_pid(c.p), SIGCONT);
	put_back(&c, STANDBY);
	pgbaton_wait_state(c.p, "following", 60);
	write_and_wait(&c, 1001, "on timeline 2");
	compare_databases(c.source, c.target, NULL);
	case_close(&c);
}
END_TEST

/* A standby in the target's place that has the first table and not the second, which the process knows as
 * copied; and of the third, in ranges, not those that it knows as done. */
START_TEST(a_target_that_has_lost_a_table)
{
	static const char *const whole[] = {"--jobs", "1", NULL};
	static const char *const ranges[] = {"--jobs", "1", "--split-above", "1kB", NULL};
	static const char *const env[] = {"PGBATON_FAULT=copy_committed:1:stop", NULL};
	Case c;

	case_servers(&c, true);
	for (int i = 0; i < 3; i++)
		db_exec(c.source,
		        "CREATE TABLE large%d (id int PRIMARY KEY, note text);"
		        "INSERT INTO large%d SELECT g, repeat(md5(g::text), 20)"
		        " FROM generate_series(1, %d) g; CREATE INDEX ON large%d (note)",
		        i, i, 30000 - 3000 * i, i);
	case_begin(&c, _i == 0 ? whole : ranges, env);
	pgbaton_wait_stopped(c.p, 60);
	keep(&c);
	kill(pgbaton_pid(c.p), SIGCONT);
	wait_copied(&c, 2);
	kill(pgbaton_pid(c.p), SIGSTOP);
	put_back(&c, PROMOTED);
	kill(pgbaton_pid(c.p), SIGCONT);
	pgbaton_wait_state(c.p, "following", 60);
	db_exec(c.source, "INSERT INTO large1 VALUES (-1, 'after it')");
	db_wait_until(c.target, "SELECT count(*) = 1 FROM large1 WHERE id = -1", 30);
	compare_databases(c.source, c.target, NULL);
	ck_assert_int_eq(
		db_int(c.target, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'"), 7);
	case_close(&c);
}
END_TEST

/* It goes on where that server is, or where it was not yet as far as the process had come, says so;
 * a new start then goes on from what is there. */
START_TEST(a_target_that_has_lost_the_end)
{
	static const char *const one[] = {"--jobs", "1", NULL};
	static const char *const env[] = {"PGBATON_FAULT=copy_committed:1:stop", NULL};
	bool while_copying = _i == 1;
	Case c;

	case_servers(&c, true);
	db_exec(c.source, "CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t);"
	                  "CREATE INDEX ON t (note)");
	case_begin(&c, one, while_copying ? env : NULL);
	if (while_copying) {
		pgbaton_wait_stopped(c.p, 60);
		keep(&c);
		kill(pgbaton_pid(c.p), SIGCONT);
	}
	pgbaton_wait_state(c.p, "following", 60);
	if (!while_copying)
		keep(&c);
	for (int id = 2001; id < 2010; id++)
		write_and_wait(&c, id, "lost by the target");
	db_exec(c.source, "INSERT INTO child VALUES (1, 2001)");
	db_wait_until(c.target, "SELECT count(*) = 1 FROM child", 30);
	put_back(&c, PROMOTED);
	if (while_copying) {
		wait_failed(&c, "lacks what was done");
		pgbaton_stop(c.p, SIGTERM);
		pgbaton_again(c.p);
		pgbaton_wait_stopped(c.p, 60); /* its fault is the same */
		kill(pgbaton_pid(c.p), SIGCONT);
	}
	write_and_wait(&c, 3001, "new");
	pgbaton_wait_state(c.p, "following", 60);
	compare_databases(c.source, c.target, NULL);
	ck_assert_int_eq(db_int(c.target, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"), 1);
	ck_assert_int_eq(
		db_int(c.target, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'"), 3);
	case_close(&c);
}
END_TEST

/* After it had come to its end, whatever the table has now: an addition that is not there is not followed
 * on as if it were. A start goes on without it, and takes it anew. */
START_TEST(a_target_that_has_lost_an_addition)
{
	static const char *const args[] = {"--exclude-table", "later", NULL};
	static const char *const commands[] = {"add-table", "recopy"};
	const char *table = _i == 0 ? "later" : "t";
	Case c;
	char *out;

	case_servers(&c, true);
	db_exec(c.source, "CREATE TABLE later (id int PRIMARY KEY, note text);"
	                  "INSERT INTO later SELECT g, 'old' FROM generate_series(1, 100) g");
	case_begin(&c, args, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	keep(&c);
	write_and_wait(&c, 1001, "lost by the target");
	ck_assert_msg(pgbaton_cli(c.p, &out, 60, commands[_i], table, NULL) == 0, "%s", out);
	free(out);
	write_and_wait(&c, 1002, "lost by the target");
	put_back(&c, PROMOTED);
	db_exec(c.source, "INSERT INTO later VALUES (1001, 'new')");
	wait_failed(&c, "lacks what was done");
	pgbaton_stop(c.p, SIGTERM);
	pgbaton_again(c.p);
	write_and_wait(&c, 3001, "new");
	pgbaton_wait_state(c.p, "following", 60);
	ck_assert_msg(pgbaton_cli(c.p, &out, 60, "add-table", "later", NULL) == 0, "%s", out);
	free(out);
	write_and_wait(&c, 3002, "new");
	compare_databases(c.source, c.target, NULL);
	case_close(&c);
}
END_TEST

/* What the application has written since the switch may have come home already. It stays at the target;
 * what cannot be had any more is the way back, and nothing tells to cancel what cannot be cancelled. */
START_TEST(a_target_that_has_lost_what_came_home)
{
	static const char *const args[] = {"--failback", NULL};
	Case c;
	char *out;

	case_servers(&c, true);
	case_begin(&c, args, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	ck_assert_msg(pgbaton_cli(c.p, &out, 60, "cutover", NULL) == 0, "%s", out);
	free(out);
	db_exec(c.target, "INSERT INTO t VALUES (1001, 'on both')");
	db_wait_until(c.source, "SELECT count(*) = 1 FROM t WHERE id = 1001", 30);
	keep(&c);
	db_exec(c.target, "INSERT INTO t VALUES (1002, 'lost by the target')");
	db_wait_until(c.source, "SELECT count(*) = 1 FROM t WHERE id = 1002", 30);
	put_back(&c, PROMOTED);
	db_exec(c.target, "INSERT INTO t VALUES (1003, 'new')");
	pgbaton_wait_log(c.p, "there is no way back any more; `pgbaton finish`", 30);
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "failback", NULL), 1);
	ck_assert_msg(strstr(out, "timeline 2") != NULL, "%s", out);
	free(out);
	ck_assert_int_eq(db_int(c.source, "SELECT count(*) FROM t WHERE id = 1003"), 0);
	ck_assert_msg(pgbaton_cli(c.p, &out, 60, "finish", NULL) == 0, "%s", out);
	free(out);
	case_close(&c);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("failover");
	TCase *tc = tcase_create("failover");

	tcase_set_timeout(tc, 180);
	tcase_add_loop_test(tc, a_source_that_has_lost_rows, 0, LOSSES);
	tcase_add_loop_test(tc, a_source_that_has_everything, 0, 4);
	tcase_add_test(tc, a_slot_that_was_moved_while_the_state_was_lost);
	suite_add_tcase(suite, tc);
	tc = tcase_create("standby");
	tcase_set_timeout(tc, 180);
	tcase_add_loop_test(tc, a_standby_that_has_the_slot, 17, CLUSTER_NEWEST + 1);
	suite_add_tcase(suite, tc);
	tc = tcase_create("stops");
	tcase_set_timeout(tc, 180);
	tcase_add_loop_test(tc, a_source_that_stops_after_the_copy, 0, 3);
	suite_add_tcase(suite, tc);
	tc = tcase_create("copied");
	tcase_set_timeout(tc, 180);
	tcase_add_loop_test(tc, a_source_that_has_lost_what_was_copied, 0, 3);
	tcase_add_test(tc, a_source_that_is_promoted_during_the_copy);
	suite_add_tcase(suite, tc);
	tc = tcase_create("target");
	tcase_set_timeout(tc, 180);
	tcase_add_loop_test(tc, a_target_that_has_lost_a_table, 0, 2);
	tcase_add_loop_test(tc, a_target_that_has_lost_the_end, 0, 2);
	tcase_add_loop_test(tc, a_target_that_has_lost_an_addition, 0, 2);
	tcase_add_test(tc, a_target_that_has_lost_what_came_home);
	suite_add_tcase(suite, tc);
	return suite;
}
TEST_SUITE(make)
