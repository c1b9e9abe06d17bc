#include "tests/integration/move.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"

enum {
	PG_DUMP_MAJOR = 15, /* what Debian 12 has */
	CUTOVERS = 10,
	COMMITS_BETWEEN = 20
};

static int
schema_level(const Move *m)
{
	int source = cluster_major(m->source_cluster);
	int target = cluster_major(m->target_cluster);

	return source < target ? source : target;
}

static bool
schema_is_copied(const Move *m)
{
	return cluster_major(m->source_cluster) <= PG_DUMP_MAJOR;
}

static void
load_schema(const Move *m, PGconn *conn)
{
	workload_load(conn, "objects.sql", schema_level(m));
	if (m->options.types)
		workload_load(conn, "types.sql", schema_level(m));
}

void
move_reconnect(Move *m)
{
	PQfinish(m->source);
	PQfinish(m->target);
	m->source = db_connect_uri(m->source_uri);
	m->target = db_connect_uri(m->target_uri);
}

static void
start_writer(Move *m)
{
	m->writer = workload_start(&(WorkloadOptions){
		.uri = m->source_uri,
		.seed = m->seed,
		.sessions = m->options.sessions > 0 ? m->options.sessions : 3,
		.per_second = m->options.per_second > 0 ? m->options.per_second : 40,
		.types = m->options.types,
	});
}

void
move_open(Move *m, const MoveOptions *options)
{
	*m = (Move){.options = *options, .seed = workload_seed()};
	m->source_cluster = cluster_start(&(ClusterOptions){.major = options->source_major,
	                                                    .name = "source",
	                                                    .conf = options->source_conf,
	                                                    .durable = options->durable});
	m->target_cluster = cluster_start(&(ClusterOptions){.major = options->target_major,
	                                                    .name = "target",
	                                                    .conf = options->target_conf,
	                                                    .durable = options->durable});
	db_create(m->source_cluster, "shop");
	db_create(m->target_cluster, "shop");
	snprintf(m->source_uri, sizeof(m->source_uri), "%s", cluster_uri(m->source_cluster, "shop"));
	snprintf(m->target_uri, sizeof(m->target_uri), "%s", cluster_uri(m->target_cluster, "shop"));
	move_reconnect(m);
	load_schema(m, m->source);
	if (!schema_is_copied(m)) {
		load_schema(m, m->target);
		workload_load(m->target, "empty.sql", schema_level(m));
	}
	m->traces = source_traces(m->source);
	start_writer(m);
}

void
move_run(Move *m)
{
	int n = 0;

	if (!schema_is_copied(m)) {
		m->args[n++] = "--schema";
		m->args[n++] = "none";
	}
	for (const char *const *arg = m->options.args; arg != NULL && *arg != NULL; arg++) {
		ck_assert_int_lt(n, (int)(sizeof(m->args) / sizeof(m->args[0])) - 1);
		m->args[n++] = *arg;
	}
	m->p = pgbaton_start(
		&(PgbatonOptions){.source = m->source_uri, .target = m->target_uri, .args = m->args});
}

/* True when it has switched; the reason of an undone one goes to stdout. */
static bool
ask_for_cutover(Move *m)
{
	char *out;
	int code = pgbaton_cli(m->p, &out, 120, "cutover", "--json", "--hold-timeout", "10", NULL);

	m->cutovers++;
	json_t *cutover = json_loads(out, JSON_DISABLE_EOF_CHECK, NULL);
	if (code == 0)
		printf("  %d to %d: hold_ms %.1f, %ld commits, %ld refusals\n",
		       cluster_major(m->source_cluster), cluster_major(m->target_cluster),
		       json_number_value(json_object_get(cutover, "hold_ms")), workload_commits(m->writer),
		       workload_refusals(m->writer));
	else
		printf("  cutover undone: %s\n", out);
	json_decref(cutover);
	free(out);
	return code == 0;
}

void
move_cutover(Move *m)
{
	while (!ask_for_cutover(m)) {
		if (m->cutovers >= CUTOVERS || pgbaton_ended(m->p)) {
			fprintf(stderr, "--- log of pgbaton\n%s---\n", pgbaton_log(m->p));
			ck_abort_msg("PGBATON_SEED=%llu: no cutover in %d attempts; the log is above",
			             (unsigned long long)m->seed, m->cutovers);
		}
		workload_wait_commits(m->writer, COMMITS_BETWEEN, 30);
	}
	/* The command returns once the state says so. */
	pgbaton_wait_state(m->p, "switched", 10);
	/* Nothing that we set up counts as a change of the source, of whatever version. */
	ck_assert_int_eq(pgbaton_status_int(m->p, "cutover.definitions_changed"), 0);
}

static void
check_rows(Move *m)
{
	Buffer report = BUFFER_INIT;

	if (!databases_equal(m->source, m->target, &(CompareOptions){.sequences = SEQUENCES_AT_LEAST},
	                     &report)) {
		fprintf(stderr, "--- log of pgbaton\n%s---\n--- source and target differ\n%s---\n",
		        pgbaton_log(m->p), buffer_cstr(&report));
		ck_abort_msg("PGBATON_SEED=%llu: source and target differ: %.1500s",
		             (unsigned long long)m->seed, buffer_cstr(&report));
	}
	buffer_free(&report);
}

static void
check_views(Move *m)
{
	static const char sql[] = "SELECT n FROM shop.a_top";
	int64_t now = db_int(m->source, "SELECT count(*) FROM shop.customer");

	/* Refreshed before the hold, so a little older than the rows. */
	ck_assert(
		db_true(m->target, "SELECT EXISTS (%s WHERE n > 0) OR %lld < 20", sql, (long long)now));
	ck_assert(
		!db_true(m->target, "SELECT relispopulated FROM pg_class WHERE relname = 'unfilled'"));
}

static void
check_traces(Move *m)
{
	char *traces = source_traces(m->source);

	ck_assert_str_eq(traces, m->traces);
	free(traces);
	ck_assert_int_eq(
		db_int(m->target, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgbaton'"), 0);
	ck_assert_int_eq(db_int(m->target, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"),
	                 db_int(m->source, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"));
	ck_assert_int_eq(db_int(m->target, "SELECT count(*) FROM pg_constraint WHERE NOT convalidated"),
	                 0);
	ck_assert_int_eq(
		db_int(m->target,
	           "SELECT count(*) FROM pg_attribute WHERE attidentity = 'a' AND attnum > 0"),
		db_int(m->source,
	           "SELECT count(*) FROM pg_attribute WHERE attidentity = 'a' AND attnum > 0"));
}

void
move_check(Move *m)
{
	char *out;

	workload_stop(m->writer);
	free(db_expect_error(m->source, "25006", "INSERT INTO hist.commits VALUES (-1, -1)"));
	check_rows(m);
	workload_check_book(m->writer, m->target);
	check_views(m);
	int code = pgbaton_cli(m->p, &out, 60, "finish", NULL);
	ck_assert_msg(code == 0, "finish: %s\n%s", out, pgbaton_log(m->p));
	free(out);
	ck_assert_int_eq(pgbaton_wait_exit(m->p, 30), 0);
	check_traces(m);
}

void
move_close(Move *m)
{
	pgbaton_free(m->p);
	workload_free(m->writer);
	PQfinish(m->source);
	PQfinish(m->target);
	cluster_free(m->source_cluster);
	cluster_free(m->target_cluster);
	free(m->traces);
}
