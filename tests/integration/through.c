#include "tests/integration/through.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/db.h"

enum { PAUSE_US = 1000, AGAIN_US = 10000, PATIENCE_MS = 60000 };

const char through_schema[] =
	"CREATE TABLE entry (client int, n bigint, s bigserial UNIQUE, PRIMARY KEY (client, n));";

typedef struct {
	Through *of;
	int number;
	PGconn *conn;
	pthread_t thread;
	_Atomic long acknowledged;
	_Atomic int connects;
	_Atomic int64_t worst_us;
} Client;

struct Through {
	char uri[200];
	Client *clients;
	int count;
	atomic_bool end;
};

/* ---- one client ---- */

static bool
prepare(PGconn *conn)
{
	PGresult *result = PQprepare(conn, "put", "INSERT INTO entry (client, n) VALUES ($1, $2)", 2,
	                             NULL);
	bool ok = PQresultStatus(result) == PGRES_COMMAND_OK;

	PQclear(result);
	return ok;
}

/* Until there is a listener again; false at the end. */
static bool
connect_again(Client *client)
{
	while (!client->of->end) {
		PQfinish(client->conn);
		client->conn = PQconnectdb(client->of->uri);
		if (PQstatus(client->conn) == CONNECTION_OK && prepare(client->conn)) {
			client->connects++;
			return true;
		}
		usleep(AGAIN_US);
	}
	return false;
}

static PGresult *
run(Client *client, long n, bool put)
{
	char number[16], row[24];
	const char *values[] = {number, row};

	snprintf(number, sizeof(number), "%d", client->number);
	snprintf(row, sizeof(row), "%ld", n);
	if (put)
		return PQexecPrepared(client->conn, "put", 2, values, NULL, NULL, 0);
	return PQexecParams(client->conn, "SELECT 1 FROM entry WHERE client = $1::int AND n = $2::int8",
	                    2, NULL, values, NULL, NULL, 0);
}

/* The connection is gone, or about to go; everything else is an error of the application's. */
static bool
is_lost(const Client *client, const PGresult *result)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	if (sqlstate == NULL)
		return PQstatus(client->conn) != CONNECTION_OK;
	return strncmp(sqlstate, "57P", 3) == 0;
}

static bool
put(Client *client, long n)
{
	int64_t start_us = clock_mono_us();
	PGresult *result = run(client, n, true);
	int64_t took_us = clock_mono_us() - start_us;
	bool ok = PQresultStatus(result) == PGRES_COMMAND_OK;

	if (!ok && !is_lost(client, result))
		ck_abort_msg("client %d: %s", client->number, PQresultErrorMessage(result));
	PQclear(result);
	if (ok && took_us > client->worst_us)
		client->worst_us = took_us;
	return ok;
}

/* True: the row is in. Only a server that answers can say so. */
static bool
look_up(Client *client, long n)
{
	while (connect_again(client)) {
		PGresult *result = run(client, n, false);
		bool known = PQresultStatus(result) == PGRES_TUPLES_OK;
		bool found = known && PQntuples(result) > 0;
		PQclear(result);
		if (known)
			return found;
	}
	return false;
}

static void *
client_main(void *arg)
{
	Client *client = arg;
	bool connected = connect_again(client);

	for (long n = 1; connected && !client->of->end;) {
		if (put(client, n) || look_up(client, n))
			client->acknowledged = n++;
		usleep(PAUSE_US);
	}
	PQfinish(client->conn);
	return NULL;
}

/* ---- all of them ---- */

Through *
through_start(const char *uri, int clients)
{
	Through *through = mem_zalloc(sizeof(Through));

	snprintf(through->uri, sizeof(through->uri), "%s", uri);
	through->count = clients;
	through->clients = mem_zalloc((size_t)clients * sizeof(Client));
	for (int i = 0; i < clients; i++) {
		Client *client = &through->clients[i];
		client->of = through;
		client->number = i;
		ck_assert_int_eq(pthread_create(&client->thread, NULL, client_main, client), 0);
	}
	return through;
}

void
through_progress(Through *through, int more)
{
	int64_t until_ms = clock_mono_ms() + PATIENCE_MS;

	for (int i = 0; i < through->count; i++) {
		Client *client = &through->clients[i];
		long from = client->acknowledged;
		while (client->acknowledged < from + more) {
			ck_assert_msg(clock_mono_ms() < until_ms, "client %d does not come on", i);
			usleep(2000);
		}
	}
}

int
through_reconnects(const Through *through)
{
	int count = 0;

	for (int i = 0; i < through->count; i++)
		count += through->clients[i].connects - 1;
	return count;
}

double
through_worst_ms(Through *through)
{
	int64_t worst_us = 0;

	for (int i = 0; i < through->count; i++) {
		int64_t one_us = atomic_exchange(&through->clients[i].worst_us, 0);
		worst_us = one_us > worst_us ? one_us : worst_us;
	}
	return (double)worst_us / 1000.0;
}

void
through_end(Through *through, PGconn *database)
{
	through->end = true;
	for (int i = 0; i < through->count; i++)
		pthread_join(through->clients[i].thread, NULL);
	for (int i = 0; i < through->count; i++) {
		long wanted = through->clients[i].acknowledged;
		int64_t most = db_int(database, "SELECT coalesce(max(n), 0) FROM entry WHERE client = %d",
		                      i);
		int64_t all = db_int(database, "SELECT count(*) FROM entry WHERE client = %d", i);
		/* The last answer may have been lost at the end. */
		ck_assert_msg(all == most && (most == wanted || most == wanted + 1),
		              "client %d: %ld acknowledged, %lld rows up to %lld", i, wanted,
		              (long long)all, (long long)most);
	}
	free(through->clients);
	free(through);
}
