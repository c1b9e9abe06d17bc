#include "tests/unit/apply/servers.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

Cluster *
servers_start(int major, const char *conf)
{
	Cluster *cluster = cluster_start(&(ClusterOptions){.major = major, .conf = conf});

	db_create(cluster, "source");
	db_create(cluster, "target");
	return cluster;
}

ConnInfo *
servers_info(Cluster *cluster, const char *db, const char *user)
{
	Error err = ERROR_INIT;
	ConnInfo *info = conninfo_parse(cluster_uri(cluster, db), &err);

	ck_assert_msg(info != NULL, "%s", servers_error(&err));
	if (user != NULL)
		conninfo_set(info, "user", user);
	return info;
}

Sql *
servers_open_as(Cluster *cluster, const char *db, const char *user)
{
	Error err = ERROR_INIT;
	ConnInfo *info = servers_info(cluster, db, user);
	Sql *sql = sql_connect(info, strcmp(db, "source") == 0 ? "source" : "target", "test", NULL,
	                       &err);

	ck_assert_msg(sql != NULL, "%s", servers_error(&err));
	conninfo_free(info);
	return sql;
}

Sql *
servers_open(Cluster *cluster, const char *db)
{
	return servers_open_as(cluster, db, NULL);
}

void
servers_clean(Cluster *cluster)
{
	PGconn *conn = db_connect(cluster, "postgres");
	const char *const names[] = {"source", "target"};

	db_exec(conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
	              " WHERE datname IN ('source', 'target')");
	db_wait_until(conn,
	              "SELECT count(*) = 0 FROM pg_stat_activity"
	              " WHERE datname IN ('source', 'target')",
	              10);
	db_exec(conn, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
	for (int i = 0; i < 2; i++) {
		db_exec(conn, "DROP DATABASE IF EXISTS %s", names[i]);
		db_create(cluster, names[i]);
	}
	PQfinish(conn);
}

Ledger
servers_ledger(Sql *target, const char *name)
{
	Error err = ERROR_INIT;
	Ledger ledger = {.lanes = 2};

	snprintf(ledger.name, sizeof(ledger.name), "%s", name);
	/* The server has gen_random_uuid() only since 13. */
	snprintf(ledger.id, sizeof(ledger.id), "0000-test");
	snprintf(ledger.system_id, sizeof(ledger.system_id), "7000000000000000001");
	snprintf(ledger.source_db, sizeof(ledger.source_db), "source");
	snprintf(ledger.mode, sizeof(ledger.mode), "online");
	ASSERT_OK(ledger_create(target, &ledger, &err));
	return ledger;
}

Catalog *
servers_catalog(Sql *source)
{
	Error err = ERROR_INIT;
	Selection all = {0};
	Catalog *catalog = catalog_read_source(source, &all, "pgbaton", &err);

	ck_assert_msg(catalog != NULL, "%s", servers_error(&err));
	return catalog;
}

const char *
servers_error(const Error *err)
{
	static char text[2600];

	return error_format(err, text, sizeof(text));
}
