/*
 * servers.h: one server with databases "source" and "target", for the tests of
 * apply/ that need real sessions. Each suite starts its own in an unchecked
 * fixture.
 */
#ifndef PGBATON_TESTS_UNIT_APPLY_SERVERS_H
#define PGBATON_TESTS_UNIT_APPLY_SERVERS_H

#include "apply/catalog/catalog.h"
#include "apply/ledger.h"
#include "apply/sql.h"
#include "tests/harness/cluster.h"
#include "tests/harness/db.h"

/* major 0: the default one; conf may be NULL. */
Cluster *servers_start(int major, const char *conf);

/* Ends the test when the session cannot be had. db "source" is the source's side. */
Sql *servers_open(Cluster *cluster, const char *db);
Sql *servers_open_as(Cluster *cluster, const char *db, const char *user);
ConnInfo *servers_info(Cluster *cluster, const char *db, const char *user);

/* Drops and makes both databases, so that a test starts from nothing. */
void servers_clean(Cluster *cluster);

/* A ledger called name, made on the target. */
Ledger servers_ledger(Sql *target, const char *name);
/* The whole catalogue of the source. */
Catalog *servers_catalog(Sql *source);

/* For ck_assert_msg(ok, "%s", servers_error(&err)). */
const char *servers_error(const Error *err);

#define ASSERT_OK(call)                                           \
	do {                                                          \
		err = (Error)ERROR_INIT;                                  \
		bool ok_ = (call);                                        \
		ck_assert_msg(ok_, "%s: %s", #call, servers_error(&err)); \
	} while (0)

#endif
