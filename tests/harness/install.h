/*
 * install.h: where the servers' programs are, and database directories made
 * ahead of time. Part of cluster.c's work; tests use cluster.h.
 */
#ifndef PGBATON_TESTS_HARNESS_INSTALL_H
#define PGBATON_TESTS_HARNESS_INSTALL_H

/* What tools/deps --test fills: $PGBATON_CACHE, or the place it has for this user. The caller
 * frees it. */
char *install_cache_dir(void);

/* The folder with postgres and initdb of that major; NULL: not installed. The
 * caller frees it. */
char *install_bin_dir(int major);

/*
 * A new database directory at `data`, owned by the server's user: a copy of
 * template number `which`, made by initdb when it is not there yet. Directories
 * from different templates have different system identifiers; two servers that
 * are to be told apart need that.
 */
void install_data_dir(int major, int which, const char *data);

#endif
