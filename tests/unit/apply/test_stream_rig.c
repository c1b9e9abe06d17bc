#include "tests/unit/apply/test_stream_rig.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/compare.h"

static void
open_log(Rig *rig)
{
	Error err = ERROR_INIT;

	snprintf(rig->directory, sizeof(rig->directory), "/tmp/pgbaton-stream-XXXXXX");
	ck_assert(mkdtemp(rig->directory) != NULL);
	TxLogOptions options = {.directory = rig->directory, .identity = rig->ledger.id};
	rig->log = txlog_open(&options, &err);
	ck_assert_msg(rig->log != NULL, "%s", servers_error(&err));
}

void
rig_open(Rig *rig, Cluster *cluster, const char *tables, RigOptions options)
{
	Error err = ERROR_INIT;

	servers_clean(cluster);
	memset(rig, 0, sizeof(*rig));
	rig->cluster = cluster;
	rig->options = options;
	rig->source = db_connect(cluster, "source");
	rig->target = db_connect(cluster, "target");
	db_exec(rig->source, "%s", tables);
	db_exec(rig->target, "%s", tables);
	rig->sql = servers_open(cluster, "target");
	rig->ledger = servers_ledger(rig->sql, "pgbaton");
	Sql *source = servers_open(cluster, "source");
	rig->catalog = servers_catalog(source);
	sql_close(source);
	ASSERT_OK(catalog_match_target(rig->catalog, rig->sql, &err));
	rig->source_info = servers_info(cluster, "source", NULL);
	rig->target_info = servers_info(cluster, "target", NULL);
	db_exec(rig->source, "CREATE PUBLICATION p FOR ALL TABLES");
	char *start = db_value(rig->source,
	                       "SELECT lsn FROM pg_create_logical_replication_slot('s', 'pgoutput')");
	ck_assert(lsn_parse(start, &rig->start));
	free(start);
	rig->system_id = db_value(rig->source, "SELECT system_identifier FROM pg_control_system()");
	open_log(rig);
}

static void
on_durable(void *arg, Lsn end)
{
	Rig *rig = arg;
	rig->durable = end.v;
	receiver_set_applied(rig->receiver, end);
}

void
rig_start_applier(Rig *rig, int lanes)
{
	Error err = ERROR_INIT;

	ASSERT_OK(ledger_load(rig->sql, "pgbaton", &rig->ledger, &err));
	ApplierOptions options = {
		.target = rig->target_info,
		.ledger = &rig->ledger,
		.catalog = rig->catalog,
		.log = rig->log,
		.start = rig->start,
		.lanes = lanes,
		.proto_version = 4,
		.batch_bytes = rig->options.batch_bytes,
		.batch_rows = rig->options.batch_rows,
		.on_durable = on_durable,
		.arg = rig,
	};
	rig->applier = applier_start(&options, &err);
	ck_assert_msg(rig->applier != NULL, "%s", servers_error(&err));
}

void
rig_stop_applier(Rig *rig)
{
	applier_stop(rig->applier);
	rig->applier = NULL;
}

void
rig_start(Rig *rig)
{
	Error err = ERROR_INIT;
	ReceiverOptions options = {
		.source = rig->source_info,
		.system_id = rig->system_id,
		.slot = "s",
		.publication = "p",
		.binary = rig->options.binary,
		.confirm = CONFIRM_APPLIED,
		.start = rig->start,
	};

	rig->receiver = receiver_start(&options, rig->log, &err);
	ck_assert_msg(rig->receiver != NULL, "%s", servers_error(&err));
	rig_start_applier(rig, rig->options.lanes);
}

void
rig_sync(Rig *rig)
{
	char marker[32];
	Error err = ERROR_INIT;
	ApplierState state;

	snprintf(marker, sizeof(marker), "m%d", ++rig->markers);
	db_exec(rig->source, "SELECT pg_logical_emit_message(true, 'pgbaton', '%s')", marker);
	bool ok = applier_wait_marker(rig->applier, marker, deadline_in_ms(60000), &err);
	applier_state(rig->applier, &state);
	ck_assert_msg(ok, "marker %s: %s; last error: %s", marker, err.message,
	              servers_error(&state.error));
}

void
rig_compare(Rig *rig)
{
	rig_sync(rig);
	compare_databases(rig->source, rig->target, NULL);
}

Error
rig_wait_failed(Rig *rig)
{
	Error err = ERROR_INIT;
	ApplierState state;

	/* Ends early when the applier fails. */
	ck_assert(!applier_wait_marker(rig->applier, "never", deadline_in_ms(60000), &err));
	applier_state(rig->applier, &state);
	ck_assert_msg(state.phase == APPLIER_FAILED, "phase %d: %s", (int)state.phase,
	              servers_error(&state.error));
	return state.error;
}

void
rig_close(Rig *rig)
{
	char command[128];

	applier_stop(rig->applier);
	receiver_stop(rig->receiver);
	txlog_close(rig->log);
	catalog_free(rig->catalog);
	conninfo_free(rig->source_info);
	conninfo_free(rig->target_info);
	free(rig->system_id);
	sql_close(rig->sql);
	PQfinish(rig->source);
	PQfinish(rig->target);
	snprintf(command, sizeof(command), "rm -rf '%s'", rig->directory);
	ck_assert_int_eq(system(command), 0);
}
