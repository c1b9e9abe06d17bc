/*
 * fake_migration.h: a migration that only keeps what it was told and shows what
 * it was given, for the tests of the admin port.
 */
#ifndef PGBATON_TESTS_UNIT_PROXY_FAKE_MIGRATION_H
#define PGBATON_TESTS_UNIT_PROXY_FAKE_MIGRATION_H

#include <pthread.h>

#include "proxy/migration/migration.h"

/* The admin port's threads are at work beside the test: it sets and reads the fields under
 * the lock, or through the functions below. */
struct Migration {
	pthread_mutex_t lock;
	MigrationStatus status;
	int commands; /* how many came */
	int statuses; /* how often it was looked at */
	MigrationRequest last;
	Error refuse; /* not NONE: the answer to every command */
	uint64_t ticket;
	ListenerSession sessions[2];
	size_t session_count; /* 0: there is no listener */
};

Migration *fake_migration_new(void);
MigrationRequest fake_migration_last(Migration *m);
int fake_migration_commands(Migration *m);
int fake_migration_statuses(Migration *m);

/* Two tables with awkward names; catalog_free-like: fake_catalog_free. */
Catalog *fake_catalog_new(void);
void fake_catalog_free(Catalog *catalog);
/* Every number another one, so that a mix-up shows. */
void fake_status_fill(MigrationStatus *status, const Catalog *catalog);

#endif
