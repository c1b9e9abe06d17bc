#include "tests/unit/proxy/listener_move_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "tests/harness/process.h"

Cluster *move_source;
Cluster *move_target;
Listener *move_listener;
int move_port;

static ConnInfo *source_info, *target_info;
static ListenAddress addresses[2];
static char socket_dir[128];

#define HBA                                  \
	"local all postgres trust\n"             \
	"host all hashed 127.0.0.1/32 md5\n"     \
	"host all guest 127.0.0.1/32 trust\n"    \
	"host all postgres 127.0.0.1/32 trust\n" \
	"host all all 127.0.0.1/32 scram-sha-256\n"
/* Only the source trusts role open. */
static const char source_hba[] = "host all open 127.0.0.1/32 trust\n" HBA;
static const char target_hba[] = HBA;

static const char schema[] =
	"SET password_encryption = 'scram-sha-256';"
	"CREATE ROLE open LOGIN; CREATE ROLE guest LOGIN; CREATE ROLE boss;"
	"CREATE TYPE mood AS ENUM ('sad', 'happy');"
	"CREATE TABLE item (id int PRIMARY KEY, mood mood);"
	"INSERT INTO item VALUES (1, 'happy');"
	"CREATE SCHEMA other; CREATE TABLE other.item (id int, place text);"
	"CREATE TABLE ledger (id int PRIMARY KEY, n bigint NOT NULL);"
	"INSERT INTO ledger VALUES (1, 0);"
	"CREATE SEQUENCE numbers;"
	"GRANT USAGE ON SCHEMA other TO PUBLIC;"
	"GRANT ALL ON ALL TABLES IN SCHEMA public, other TO PUBLIC;"
	"GRANT ALL ON SEQUENCE numbers TO PUBLIC;"
	/* The only mention of this setting is in a function that the client calls with a parameter. */
	"CREATE FUNCTION become(who text) RETURNS void LANGUAGE plpgsql AS $$"
	" BEGIN PERFORM set_config('app.hidden', who, false); END $$;";

void
move_servers_start(void)
{
	move_servers_start_of(0, 0, false);
}

void
move_servers_start_of(int source_major, int target_major, bool tls)
{
	move_source = cluster_start(
		&(ClusterOptions){.major = source_major,
	                      .name = "source",
	                      .conf = "max_connections = 60\nwork_mem = '5MB'\n",
	                      .hba = source_hba,
	                      .tls = tls});
	move_target = cluster_start(&(ClusterOptions){
		.major = target_major,
		.name = "target",
		.conf = "max_connections = 60\nwork_mem = '7MB'\nintervalstyle = 'iso_8601'\n",
		.hba = target_hba,
		.tls = tls});
	PGconn *source = move_admin(move_source), *target = move_admin(move_target);
	db_exec(source,
	        "SET password_encryption = 'scram-sha-256'; CREATE ROLE app LOGIN PASSWORD 'secret';"
	        "CREATE ROLE root LOGIN SUPERUSER PASSWORD 'secret';"
	        "SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN PASSWORD 'secret'");
	db_exec(target,
	        "CREATE TABLE first (a int); DROP TABLE first; CREATE TYPE early AS ENUM ('a')");
	static const char *const roles[] = {"app", "root", "hashed"};
	for (int i = 0; i < 3; i++) {
		char *stored = db_value(source, "SELECT rolpassword FROM pg_authid WHERE rolname = '%s'",
		                        roles[i]);
		db_exec(target, "CREATE ROLE %s LOGIN %s PASSWORD '%s'", roles[i],
		        strcmp(roles[i], "root") == 0 ? "SUPERUSER" : "", stored);
		free(stored);
	}
	db_exec(source, "%s", schema);
	db_exec(target, "%s", schema);
	db_exec(source, "GRANT boss TO app");
	db_exec(target, "GRANT boss TO app");
	PQfinish(source);
	PQfinish(target);
}

void
move_servers_stop(void)
{
	cluster_free(move_source);
	cluster_free(move_target);
}

void
move_listen_between(const char *source_uri, const char *target_uri)
{
	Error err = ERROR_INIT;

	log_set_level(LOG_ERROR);
	source_info = conninfo_parse(source_uri != NULL ? source_uri : cluster_uri(move_source, NULL),
	                             &err);
	target_info = conninfo_parse(target_uri != NULL ? target_uri : cluster_uri(move_target, NULL),
	                             &err);
	move_port = free_port();
	addresses[0] = (ListenAddress){.host = "127.0.0.1", .port = move_port};
	char *dir = scratch_dir_new("move");
	snprintf(socket_dir, sizeof(socket_dir), "%s", dir);
	free(dir);
	addresses[1] = (ListenAddress){.path = socket_dir};
	static const char *const trust[] = {"local"};
	move_listener = listener_start(&(ListenerOptions){.addresses = addresses,
	                                                  .address_count = 2,
	                                                  .trust = trust,
	                                                  .trust_count = 1,
	                                                  .threads = 2,
	                                                  .max_clients = 100,
	                                                  .login_timeout_ms = 60000,
	                                                  .source = source_info,
	                                                  .target = target_info},
	                               &err);
	ck_assert_msg(move_listener != NULL, "%s: %s", err.context, err.message);
	listener_set_route(move_listener, ROUTE_SOURCE);
}

void
move_listen(void)
{
	move_listen_between(NULL, NULL);
}

void
move_unlisten(void)
{
	listener_stop(move_listener);
	move_listener = NULL;
	conninfo_free(source_info);
	conninfo_free(target_info);
}

PGconn *
move_session(const char *more)
{
	char all[600];

	snprintf(all, sizeof(all),
	         "host=127.0.0.1 port=%d dbname=postgres connect_timeout=60 user=app password=secret "
	         "%s",
	         move_port, more);
	PGconn *conn = PQconnectdb(all);
	ck_assert_msg(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
	return conn;
}

PGconn *
move_trusted(const char *role)
{
	char more[200];

	snprintf(more, sizeof(more), "host=%s port=5432 user=%s", socket_dir, role);
	return move_session(more);
}

const char *
move_socket_dir(void)
{
	return socket_dir;
}

PGconn *
move_admin(Cluster *cluster)
{
	return db_connect_uri(cluster_socket_uri(cluster, NULL));
}

int
move_where(PGconn *conn)
{
	return (int)db_int(conn, "SHOW port");
}

static const char *
said(const MoveReport *report, const Error *err)
{
	static char text[2000];

	snprintf(text, sizeof(text), "%s: %s; %zu unmovable: %s", err->context, err->message,
	         report->unmovable, report->unmovable > 0 ? report->which[0].reason : "-");
	return text;
}

void
move_prepare(MoveReport *report)
{
	Error err = ERROR_INIT;
	ck_assert_msg(listener_move_prepare(move_listener, ROUTE_TARGET, deadline_in_ms(30000), NULL,
	                                    report, &err),
	              "%s", said(report, &err));
}

void
move_hold(void)
{
	Error err = ERROR_INIT;
	ck_assert_msg(listener_hold(move_listener, deadline_in_ms(30000), NULL, &err), "%s",
	              err.message);
}

void
move_open(UnmovablePolicy policy, MoveReport *report)
{
	Error err = ERROR_INIT;
	ck_assert_msg(listener_move_open(move_listener, ROUTE_TARGET, policy, deadline_in_ms(30000),
	                                 NULL, report, &err),
	              "%s", said(report, &err));
}

void
move_all(void)
{
	move_all_to(ROUTE_TARGET);
}

void
move_all_to(ListenerRoute to)
{
	MoveReport report;
	Error err = ERROR_INIT;

	ck_assert_msg(
		listener_move_prepare(move_listener, to, deadline_in_ms(30000), NULL, &report, &err), "%s",
		said(&report, &err));
	ck_assert_msg(report.unmovable == 0, "%s: %s", report.which[0].who, report.which[0].reason);
	move_report_free(&report);
	move_hold();
	ck_assert_msg(listener_move_open(move_listener, to, UNMOVABLE_ABORT, deadline_in_ms(30000),
	                                 NULL, &report, &err),
	              "%s", said(&report, &err));
	move_report_free(&report);
	listener_move_commit(move_listener);
}

const char *
move_reason_of_or_gone(PGconn *conn)
{
	static char reason[LISTENER_REASON_MAX];
	ListenerSession *rows;
	Error err = ERROR_INIT;
	size_t count;
	bool found = false;

	ck_assert(listener_sessions(move_listener, deadline_in_ms(30000), &rows, &count, &err));
	for (size_t i = 0; i < count; i++) {
		if (rows[i].pid != (uint32_t)PQbackendPID(conn))
			continue;
		snprintf(reason, sizeof(reason), "%s", rows[i].reason);
		found = true;
	}
	free(rows);
	return found ? reason : NULL;
}

const char *
move_reason_of(PGconn *conn)
{
	const char *reason = move_reason_of_or_gone(conn);

	ck_assert_msg(reason != NULL, "pid %d is not listed", PQbackendPID(conn));
	return reason;
}
