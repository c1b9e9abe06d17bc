/*
 * cluster.h: throw-away PostgreSQL servers for tests.
 *
 * A Cluster is a data directory of its own below ${TMPDIR:-/tmp} and a server
 * on it, on a free port of 127.0.0.1 and on a Unix socket. As root the server
 * runs as the user `postgres` (or `nobody`), for PostgreSQL refuses root. The
 * database directory is copied from a template that initdb makes once per
 * version and machine, so that a start costs well below a second.
 *
 * Nothing is left behind: a watcher process (watcher.h) stops the server and
 * removes the directory when this process ends, however it ends.
 *
 * Every function that cannot do its work ends the test with ck_abort_msg and
 * the server's log. A Cluster that was started in an unchecked fixture may be
 * used, stopped and restarted by the tests that Check forks.
 *
 * Settings are those that a migration needs (wal_level = logical, 20 slots and
 * senders); fsync is off unless asked for. Superuser `postgres`, no password
 * (trust), encoding UTF8, locale C, timezone UTC.
 */
#ifndef PGBATON_TESTS_HARNESS_CLUSTER_H
#define PGBATON_TESTS_HARNESS_CLUSTER_H

#include <stdbool.h>
#include <sys/types.h>

/* The majors that a source or a target may have. */
enum { CLUSTER_OLDEST = 12, CLUSTER_NEWEST = 18 };

typedef struct Cluster Cluster;

typedef struct {
	int major;        /* 0: cluster_default_major() */
	const char *name; /* for messages: "source"; NULL: "server" */
	const char *conf; /* more lines for postgresql.conf (the last one wins), or NULL */
	const char *hba;  /* lines put in front of pg_hba.conf (the first match wins), or NULL */
	bool tls;         /* ssl = on, with a certificate for localhost and 127.0.0.1 */
	bool durable;     /* fsync = on: for tests that kill the server's machine */
} ClusterOptions;

typedef enum {
	CLUSTER_SMART,    /* SIGTERM: waits for the sessions to end */
	CLUSTER_FAST,     /* SIGINT: ends the sessions; walsenders get everything first */
	CLUSTER_IMMEDIATE /* SIGQUIT: recovery at the next start */
} ClusterStop;

/* Is a server of that major on this machine? Looks at /usr/lib/postgresql, at
 * the cache that tools/deps --test fills, and at postgres on PATH. */
bool cluster_available(int major);
/* The newest major that is installed with psql's family (pg_dump, pgbench)
 * beside it: the one for tests that do not care. */
int cluster_default_major(void);
/* The path of a program of that major ("pg_dump"); NULL when it is not there.
 * The caller frees it. */
char *cluster_program(int major, const char *program);

/* options NULL: all defaults. Returns when the server takes connections. */
Cluster *cluster_start(const ClusterOptions *options);
/* Stops the server if it runs (fast), removes the directory, frees. NULL: nothing. */
void cluster_free(Cluster *cluster);

/* The server only; the directory and the port stay for cluster_resume. */
void cluster_stop(Cluster *cluster, ClusterStop mode);
void cluster_resume(Cluster *cluster);
void cluster_restart(Cluster *cluster, ClusterStop mode);
/* SIGKILL for the postmaster and every child, as if the machine had stopped. */
void cluster_kill9(Cluster *cluster);
/* SIGSTOP and SIGCONT for all its processes: a server that does not answer. */
void cluster_freeze(Cluster *cluster);
void cluster_thaw(Cluster *cluster);
bool cluster_running(const Cluster *cluster);
/* Appends lines to postgresql.conf and makes the server read them (SIGHUP);
 * returns when it has. What needs a restart needs cluster_restart. */
void cluster_configure(Cluster *cluster, const char *lines);
/* Puts lines in front of pg_hba.conf, likewise. */
void cluster_allow(Cluster *cluster, const char *hba_lines);

/* postgresql://postgres@127.0.0.1:PORT/DB; db NULL: postgres. Lives as long as
 * the cluster or until 16 more were asked for. */
const char *cluster_uri(Cluster *cluster, const char *db);
/* The same over the Unix socket, as a conninfo string. */
const char *cluster_socket_uri(Cluster *cluster, const char *db);
pid_t cluster_pid(const Cluster *cluster); /* postmaster; 0 when it does not run */
int cluster_port(const Cluster *cluster);
int cluster_major(const Cluster *cluster);
const char *cluster_data_dir(const Cluster *cluster);
const char *cluster_socket_dir(const Cluster *cluster);
/* With tls: "root.crt", "server.crt", "client.crt", "client.key" (CN=postgres).
 * Lives like cluster_uri's. */
const char *cluster_tls_file(Cluster *cluster, const char *file);
/* The server's log so far; the caller frees it. */
char *cluster_log(const Cluster *cluster);

#endif
