#include "tests/harness/cluster.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/db.h"
#include "tests/harness/install.h"
#include "tests/harness/process.h"
#include "tests/harness/spawn.h"
#include "tests/harness/tls.h"
#include "tests/harness/watcher.h"

enum {
	TEXTS = 16,      /* how many cluster_uri results live at once */
	TEMPLATES = 4,   /* servers of one process with system identifiers of their own */
	START_TRIES = 5, /* another program may take the free port first */
	START_SECONDS = 60
};

struct Cluster {
	int major;
	int port;
	int template;
	char *name;
	char *dir; /* holds data/, sock/, log and the TLS files */
	char *data;
	char *sock;
	char *postgres;
	char *texts[TEXTS];
	unsigned next_text;
};

static bool template_used[TEMPLATES];

static const char *
keep_text(Cluster *cluster, char *text)
{
	char **at = &cluster->texts[cluster->next_text++ % TEXTS];
	free(*at);
	*at = text;
	return text;
}

const char *
cluster_uri(Cluster *cluster, const char *db)
{
	return keep_text(cluster, mem_printf("postgresql://postgres@127.0.0.1:%d/%s", cluster->port,
	                                     db != NULL ? db : "postgres"));
}

const char *
cluster_socket_uri(Cluster *cluster, const char *db)
{
	return keep_text(cluster, mem_printf("host=%s port=%d user=postgres dbname='%s'", cluster->sock,
	                                     cluster->port, db != NULL ? db : "postgres"));
}

const char *
cluster_tls_file(Cluster *cluster, const char *file)
{
	return keep_text(cluster, mem_printf("%s/%s", cluster->dir, file));
}

pid_t
cluster_pid(const Cluster *cluster)
{
	return server_pid(cluster->dir);
}

int
cluster_port(const Cluster *cluster)
{
	return cluster->port;
}

int
cluster_major(const Cluster *cluster)
{
	return cluster->major;
}

const char *
cluster_data_dir(const Cluster *cluster)
{
	return cluster->data;
}

const char *
cluster_socket_dir(const Cluster *cluster)
{
	return cluster->sock;
}

bool
cluster_running(const Cluster *cluster)
{
	return cluster_pid(cluster) != 0;
}

char *
cluster_log(const Cluster *cluster)
{
	char *path = mem_printf("%s/log", cluster->dir);
	char *text = file_read(path);

	free(path);
	return text != NULL ? text : mem_strdup("");
}

NORETURN static void
abort_with_log(const Cluster *cluster, const char *what)
{
	char *log = cluster_log(cluster);
	size_t len = strlen(log);

	fprintf(stderr, "--- log of %s (PostgreSQL %d), last lines\n%s---\n", cluster->name,
	        cluster->major, len > 8000 ? log + len - 8000 : log);
	ck_abort_msg("%s (PostgreSQL %d): %s; its log is above", cluster->name, cluster->major, what);
	abort();
}

/* Appends to, or with in_front puts lines before, a file of the data directory. */
static void
edit_file(const Cluster *cluster, const char *file, const char *lines, bool in_front)
{
	char *path = mem_printf("%s/%s", cluster->data, file);
	char *old = file_read(path);
	FILE *out = fopen(path, "we");

	if (old == NULL || out == NULL)
		ck_abort_msg("%s: %s", path, strerror(errno));
	fprintf(out, "%s\n%s\n", in_front ? lines : old, in_front ? old : lines);
	fclose(out);
	free(old);
	free(path);
}

static void
write_settings(Cluster *cluster, const ClusterOptions *options)
{
	char *conf = mem_printf(
		"listen_addresses = '127.0.0.1'\n"
		"unix_socket_directories = '%s'\n"
		"wal_level = logical\n"
		"max_wal_senders = 20\n"
		"max_replication_slots = 20\n"
		"max_prepared_transactions = 10\n"
		"max_connections = 100\n"
		"shared_buffers = 64MB\n"
		"min_wal_size = 32MB\n"
		"max_wal_size = 512MB\n"
		"timezone = 'UTC'\n"
		"log_timezone = 'UTC'\n"
		"log_line_prefix = '%%m [%%p] %%a %%d: '\n"
		"logging_collector = off\n"
		"jit = off\n"
		"%s%s%s",
		cluster->sock, options->durable ? "" : "fsync = off\nfull_page_writes = off\n",
		options->tls ? "ssl = on\nssl_cert_file = '../server.crt'\nssl_key_file = '../server.key'\n"
					   "ssl_ca_file = '../root.crt'\n"
					 : "",
		options->conf != NULL ? options->conf : "");
	/* The harness's own way in stays first, whatever a test writes behind it. */
	char *hba = mem_printf("local postgres postgres trust\n%s",
	                       options->hba != NULL ? options->hba : "");

	edit_file(cluster, "postgresql.conf", conf, false);
	edit_file(cluster, "pg_hba.conf", hba, true);
	free(hba);
	free(conf);
}

static void
make_dirs(Cluster *cluster, const ClusterOptions *options)
{
	cluster->dir = scratch_dir_new("server");
	cluster->data = mem_printf("%s/data", cluster->dir);
	cluster->sock = mem_printf("%s/sock", cluster->dir);
	if (mkdir(cluster->sock, 0700) != 0 || chown(cluster->sock, server_uid(), server_gid()) != 0 ||
	    chown(cluster->dir, server_uid(), server_gid()) != 0)
		ck_abort_msg("%s: %s", cluster->sock, strerror(errno));
	install_data_dir(cluster->major, cluster->template, cluster->data);
	if (options->tls)
		tls_make_files(cluster->dir);
	write_settings(cluster, options);
}

/* The server writes its log into a file that we opened: it stays readable. */
static pid_t
launch(Cluster *cluster)
{
	char port[16];
	char *path = mem_printf("%s/log", cluster->dir);
	int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

	if (log < 0)
		ck_abort_msg("%s: %s", path, strerror(errno));
	snprintf(port, sizeof(port), "%d", cluster->port);
	pid_t pid = spawn(&(Spawn){
		.argv = (const char *const[]){cluster->postgres, "-D", cluster->data, "-p", port, NULL},
		.out_fd = log,
		.err_fd = log,
		.as_server_user = true,
		.new_session = true,
	});
	close(log);
	free(path);
	return pid;
}

static bool
answers(Cluster *cluster)
{
	PGconn *conn = PQconnectdb(cluster_socket_uri(cluster, "postgres"));
	bool ok = PQstatus(conn) == CONNECTION_OK;

	PQfinish(conn);
	return ok;
}

/* False when the server has ended instead. */
static bool
wait_ready(Cluster *cluster, pid_t pid)
{
	int64_t deadline = deadline_in_ms(START_SECONDS * 1000);

	while (!answers(cluster)) {
		if (process_gone(pid))
			return false;
		if (deadline_left_ms(deadline) == 0)
			abort_with_log(cluster, "did not take connections in time");
		poll(NULL, 0, 10);
	}
	return true;
}

static bool
port_was_taken(const Cluster *cluster)
{
	char *log = cluster_log(cluster);
	bool taken = strstr(log, "Address already in use") != NULL;

	free(log);
	return taken;
}

Cluster *
cluster_start(const ClusterOptions *options)
{
	static const ClusterOptions defaults = {0};
	if (options == NULL)
		options = &defaults;

	int major = options->major != 0 ? options->major : cluster_default_major();
	char *bin_dir = install_bin_dir(major);
	if (bin_dir == NULL)
		ck_abort_msg("no server of major %d is installed (tools/deps --test)", major);

	Cluster *cluster = mem_zalloc(sizeof(Cluster));
	cluster->major = major;
	cluster->name = mem_strdup(options->name != NULL ? options->name : "server");
	cluster->postgres = mem_printf("%s/postgres", bin_dir);
	free(bin_dir);
	while (cluster->template <TEMPLATES - 1 && template_used[cluster->template])
		cluster->template ++;
	template_used[cluster->template] = true;
	make_dirs(cluster, options);

	for (int i = 0; i < START_TRIES; i++) {
		cluster->port = free_port();
		if (wait_ready(cluster, launch(cluster)))
			return cluster;
		if (!port_was_taken(cluster))
			break;
	}
	abort_with_log(cluster, "did not start");
}

void
cluster_resume(Cluster *cluster)
{
	if (!wait_ready(cluster, launch(cluster)))
		abort_with_log(cluster, "did not start again");
}

void
cluster_stop(Cluster *cluster, ClusterStop mode)
{
	static const int signals[] = {
		[CLUSTER_SMART] = SIGTERM,
		[CLUSTER_FAST] = SIGINT,
		[CLUSTER_IMMEDIATE] = SIGQUIT,
	};
	pid_t pid = cluster_pid(cluster);

	if (pid == 0)
		return;
	kill(pid, signals[mode]);
	if (!process_wait_gone(pid, 60000))
		abort_with_log(cluster, "did not stop in time");
}

void
cluster_restart(Cluster *cluster, ClusterStop mode)
{
	cluster_stop(cluster, mode);
	cluster_resume(cluster);
}

void
cluster_kill9(Cluster *cluster)
{
	server_signal_all(cluster->dir, SIGKILL);
}

void
cluster_freeze(Cluster *cluster)
{
	server_signal_all(cluster->dir, SIGSTOP);
}

void
cluster_thaw(Cluster *cluster)
{
	server_signal_all(cluster->dir, SIGCONT);
}

/* The new settings hold for sessions that start after this returns. */
static void
reload(Cluster *cluster)
{
	PGconn *conn = db_connect_uri(cluster_socket_uri(cluster, "postgres"));
	char *before = db_value(conn, "SELECT pg_conf_load_time()");
	char *changed = mem_printf("SELECT pg_conf_load_time() > '%s'", before);

	kill(cluster_pid(cluster), SIGHUP);
	db_wait_until(conn, changed, 10);
	PQfinish(conn);
	free(changed);
	free(before);
}

void
cluster_configure(Cluster *cluster, const char *lines)
{
	edit_file(cluster, "postgresql.conf", lines, false);
	reload(cluster);
}

void
cluster_allow(Cluster *cluster, const char *hba_lines)
{
	char *lines = mem_printf("local postgres postgres trust\n%s", hba_lines);

	edit_file(cluster, "pg_hba.conf", lines, true);
	reload(cluster);
	free(lines);
}

void
cluster_free(Cluster *cluster)
{
	if (cluster == NULL)
		return;
	server_kill(cluster->dir);
	scratch_dir_free(cluster->dir);
	template_used[cluster->template] = false;
	for (int i = 0; i < TEXTS; i++)
		free(cluster->texts[i]);
	free(cluster->postgres);
	free(cluster->sock);
	free(cluster->data);
	free(cluster->name);
	free(cluster);
}
