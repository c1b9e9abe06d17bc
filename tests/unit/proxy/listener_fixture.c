#include "tests/unit/proxy/listener_fixture.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "tests/harness/process.h"

Cluster *fixture_server;
Listener *fixture_listener;
int fixture_port;
char fixture_socket[128];

static ConnInfo *server_info;
static ListenAddress addresses[2];

static const char roles[] = "SET password_encryption = 'scram-sha-256';"
							"CREATE ROLE scram LOGIN PASSWORD 'secret';"
							"CREATE ROLE late LOGIN PASSWORD 'secret' VALID UNTIL '2020-01-01';"
							"CREATE ROLE locked NOLOGIN PASSWORD 'secret';"
							"CREATE ROLE open LOGIN;"
							"SET password_encryption = 'md5';"
							"CREATE ROLE hashed LOGIN PASSWORD 'secret';"
							"CREATE TABLE public.ledger (id int PRIMARY KEY, n bigint NOT NULL);"
							"INSERT INTO public.ledger VALUES (1, 0);"
							"GRANT ALL ON public.ledger TO PUBLIC";

void
fixture_server_start(void)
{
	fixture_server = cluster_start(
		&(ClusterOptions){.name = "source",
	                      .conf = "max_connections = 60\n",
	                      .tls = true,
	                      .hba = "local all postgres trust\nhost all hashed 127.0.0.1/32 md5\n"
	                             "host all open 127.0.0.1/32 trust\n"
	                             "host all postgres 127.0.0.1/32 trust\n"
	                             "host all all 127.0.0.1/32 scram-sha-256\n"
	                             "host replication all 127.0.0.1/32 scram-sha-256\n"});
	PGconn *admin = fixture_admin();
	db_exec(admin, "%s", roles);
	PQfinish(admin);
}

void
fixture_server_stop(void)
{
	cluster_free(fixture_server);
}

void
fixture_listen(void (*adjust)(ListenerOptions *options))
{
	Error err = ERROR_INIT;
	char *uri = mem_printf("%s sslmode=disable", cluster_socket_uri(fixture_server, NULL));

	log_set_level(LOG_ERROR);
	char *dir = scratch_dir_new("listener");
	snprintf(fixture_socket, sizeof(fixture_socket), "%s", dir);
	free(dir);
	server_info = conninfo_parse(cluster_uri(fixture_server, NULL), &err);
	free(uri);
	fixture_port = free_port();
	addresses[0] = (ListenAddress){.host = "127.0.0.1", .port = fixture_port};
	addresses[1] = (ListenAddress){.path = fixture_socket};
	ListenerOptions options = {.addresses = addresses,
	                           .address_count = 2,
	                           .threads = 2,
	                           .max_clients = 100,
	                           .login_timeout_ms = 60000,
	                           .source = server_info,
	                           .target = server_info};
	if (adjust != NULL)
		adjust(&options);
	fixture_listener = listener_start(&options, &err);
	ck_assert_msg(fixture_listener != NULL, "%s: %s", err.context, err.message);
	listener_set_route(fixture_listener, ROUTE_SOURCE);
}

void
fixture_unlisten(void)
{
	listener_stop(fixture_listener);
	fixture_listener = NULL;
	conninfo_free(server_info);
}

PGconn *
fixture_client(const char *fmt, ...)
{
	char more[1024], all[1400];
	va_list args;

	va_start(args, fmt);
	vsnprintf(more, sizeof(more), fmt, args);
	va_end(args);
	snprintf(all, sizeof(all), "host=127.0.0.1 port=%d dbname=postgres connect_timeout=60 %s",
	         fixture_port, more);
	return PQconnectdb(all);
}

PGconn *
fixture_session(void)
{
	PGconn *conn = fixture_client("user=scram password=secret");
	ck_assert_msg(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
	return conn;
}

PGconn *
fixture_admin(void)
{
	return db_connect_uri(cluster_socket_uri(fixture_server, NULL));
}

int
fixture_raw(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
	                         .sin_port = htons((uint16_t)fixture_port),
	                         .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

void
fixture_send(int fd, const void *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = send(fd, (const char *)data + done, len - done, MSG_NOSIGNAL);
		ck_assert_msg(n > 0, "send: %m");
		done += (size_t)n;
	}
}

size_t
fixture_recv(int fd, void *data, size_t len)
{
	size_t done = 0;

	while (done < len) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};
		ck_assert_msg(poll(&ready, 1, 30000) == 1, "nothing comes");
		ssize_t n = recv(fd, (char *)data + done, len - done, 0);
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	return done;
}
