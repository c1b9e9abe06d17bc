/*
 * What a move of N sessions costs: asking them, opening them on the other server ahead of the
 * hold, and the hold itself with sessions that have executed nothing since, or something.
 *
 *   build/bench/move [SESSIONS]        two servers of its own, 500 sessions
 *
 * Each session has a setting, a custom setting, five prepared statements. Printed are
 * milliseconds: best, median, worst of the rounds. The clients are in this process, and
 * silent while it is measured.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/listener/listener.h"
#include "tests/harness/cluster.h"
#include "tests/harness/db.h"
#include "tests/harness/process.h"

enum { ROUNDS = 7, FOREVER_MS = 60000 };

static Listener *listener;

static void
must(bool ok, const Error *err)
{
	if (ok)
		return;
	fprintf(stderr, "%s: %s\n", err->context, err->message);
	exit(1);
}

static Cluster *
start_server(const char *name, const char *verifier)
{
	Cluster *cluster = cluster_start(
		&(ClusterOptions){.name = name,
	                      .conf = "max_connections = 2200\n",
	                      .hba = "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\n"
	                             "host all all 127.0.0.1/32 scram-sha-256\n"});
	PGconn *conn = db_connect(cluster, NULL);

	db_exec(conn, "SET password_encryption = 'scram-sha-256'; CREATE ROLE app LOGIN PASSWORD '%s'",
	        verifier != NULL ? verifier : "secret");
	PQfinish(conn);
	return cluster;
}

static PGconn *
open_session(int port)
{
	char text[200];

	snprintf(text, sizeof(text), "host=127.0.0.1 port=%d dbname=postgres user=app password=secret",
	         port);
	PGconn *conn = db_connect_uri(text);
	db_exec(conn, "SET work_mem = '8MB'; SET app.tenant = '7'");
	for (int i = 0; i < 5; i++) {
		char name[8];
		snprintf(name, sizeof(name), "s%d", i);
		PQclear(PQprepare(conn, name, "SELECT count(*) FROM pg_class WHERE relname = $1", 0, NULL));
	}
	return conn;
}

static int
compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void
print(const char *what, int64_t us[ROUNDS])
{
	qsort(us, ROUNDS, sizeof(us[0]), compare);
	printf("%-44s %8.1f %8.1f %8.1f\n", what, (double)us[0] / 1000, (double)us[ROUNDS / 2] / 1000,
	       (double)us[ROUNDS - 1] / 1000);
	fflush(stdout);
}

static void
busy(PGconn **sessions, int count)
{
	for (int i = 0; i < count; i++)
		db_exec(sessions[i], "SELECT 1");
}

static int64_t
prepare(ListenerRoute to)
{
	MoveReport report;
	Error err = ERROR_INIT;
	int64_t began = clock_mono_us();

	must(listener_move_prepare(listener, to, deadline_in_ms(FOREVER_MS), NULL, &report, &err),
	     &err);
	if (report.unmovable > 0) {
		fprintf(stderr, "%s\n", report.which[0].reason);
		exit(1);
	}
	move_report_free(&report);
	return clock_mono_us() - began;
}

/* Hold, open and commit (or abort); the time from the first to the end. */
static int64_t
move(ListenerRoute to, bool commit, int64_t *opening)
{
	MoveReport report;
	Error err = ERROR_INIT;
	int64_t began = clock_mono_us();

	must(listener_hold(listener, deadline_in_ms(FOREVER_MS), NULL, &err), &err);
	must(listener_move_open(listener, to, UNMOVABLE_ABORT, deadline_in_ms(FOREVER_MS), NULL,
	                        &report, &err),
	     &err);
	*opening = report.took_us;
	if (commit) {
		listener_move_commit(listener);
	} else {
		listener_move_abort(listener);
		listener_release(listener);
	}
	move_report_free(&report);
	return clock_mono_us() - began;
}

static void
measure(PGconn **sessions, int count)
{
	int64_t first[ROUNDS], again[ROUNDS], idle[ROUNDS], whole[ROUNDS], asked[ROUNDS], waste;
	ListenerRoute to = ROUTE_TARGET;

	for (int i = 0; i < ROUNDS; i++) {
		first[i] = prepare(to);
		busy(sessions, count);
		again[i] = prepare(to);
		(void)move(to, false, &idle[i]);
		busy(sessions, count);
		(void)move(to, false, &asked[i]);
		whole[i] = move(to, true, &waste);
		to = to == ROUTE_TARGET ? ROUTE_SOURCE : ROUTE_TARGET;
	}
	printf("%d sessions%36s %8s %8s %8s\n", count, "", "best", "median", "worst");
	print("prepare: ask all, log in, bring level", first);
	print("prepare again, all have executed something", again);
	print("open in the hold, nothing executed since", idle);
	print("open in the hold, all have executed something", asked);
	print("hold, open and commit, nothing executed", whole);
}

int
main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 500;
	Error err = ERROR_INIT;

	log_set_level(LOG_ERROR);
	Cluster *source = start_server("source", NULL);
	PGconn *admin = db_connect(source, NULL);
	char *verifier = db_value(admin, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'");
	Cluster *target = start_server("target", verifier);
	PQfinish(admin);
	ConnInfo *source_info = conninfo_parse(cluster_uri(source, NULL), &err);
	ConnInfo *target_info = conninfo_parse(cluster_uri(target, NULL), &err);
	ListenAddress address = {.host = "127.0.0.1", .port = free_port()};
	listener = listener_start(&(ListenerOptions){.addresses = &address,
	                                             .address_count = 1,
	                                             .threads = 2,
	                                             .max_clients = 5000,
	                                             .login_timeout_ms = FOREVER_MS,
	                                             .source = source_info,
	                                             .target = target_info},
	                          &err);
	must(listener != NULL, &err);
	listener_set_route(listener, ROUTE_SOURCE);
	PGconn **sessions = mem_alloc((size_t)count * sizeof(PGconn *));
	for (int i = 0; i < count; i++)
		sessions[i] = open_session(address.port);
	measure(sessions, count);
	for (int i = 0; i < count; i++)
		PQfinish(sessions[i]);
	free(sessions);
	free(verifier);
	listener_stop(listener);
	conninfo_free(source_info);
	conninfo_free(target_info);
	cluster_free(source);
	cluster_free(target);
	return 0;
}
