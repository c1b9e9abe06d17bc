/*
 * test_stream_rig.h: a source that is really followed: slot, receiver, log, applier. Both
 * databases lie on one server.
 */
#ifndef PGBATON_TESTS_UNIT_APPLY_TEST_STREAM_RIG_H
#define PGBATON_TESTS_UNIT_APPLY_TEST_STREAM_RIG_H

#include "apply/stream/applier.h"
#include "decoder/receiver/receiver.h"
#include "tests/unit/apply/servers.h"

typedef struct {
	int lanes;
	bool binary;
	uint32_t batch_rows;
	uint64_t batch_bytes;
} RigOptions;

typedef struct {
	Cluster *cluster;
	PGconn *source;
	PGconn *target;
	Sql *sql;
	Ledger ledger;
	Catalog *catalog;
	ConnInfo *source_info;
	ConnInfo *target_info;
	char directory[64];
	TxLog *log;
	Receiver *receiver;
	Applier *applier;
	char *system_id;
	Lsn start;
	RigOptions options;
	int markers;
	_Atomic uint64_t durable;
} Rig;

/* The same tables on both sides; nothing runs yet. */
void rig_open(Rig *rig, Cluster *cluster, const char *tables, RigOptions options);
void rig_start(Rig *rig); /* receiver and applier */
void rig_start_applier(Rig *rig, int lanes);
void rig_stop_applier(Rig *rig);
/* Everything committed on the source so far is on the target. */
void rig_sync(Rig *rig);
/* rig_sync, then row by row. */
void rig_compare(Rig *rig);
/* Waits until the applier has failed. */
Error rig_wait_failed(Rig *rig);
void rig_close(Rig *rig);

#endif
