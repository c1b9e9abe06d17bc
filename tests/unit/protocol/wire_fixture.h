/*
 * wire_fixture.h: what the tests of wire.h against a real server share.
 */
#ifndef PGBATON_TESTS_UNIT_PROTOCOL_WIRE_FIXTURE_H
#define PGBATON_TESTS_UNIT_PROTOCOL_WIRE_FIXTURE_H

#include "protocol/replication.h"
#include "tests/harness/cluster.h"
#include "tests/harness/db.h"
#include "tests/unit/runner.h"

/* Connects or ends the test. fmt: a connection string. */
Wire *fixture_connect(const char *fmt, ...) PRINTF_LIKE(1, 2);
Wire *fixture_connect_with(WireOptions options, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Expects the connection to fail with this class; *err says why. */
void fixture_refused(ErrorClass class, Error *err, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Runs sql or ends the test; the first value, to be freed ("" for none). */
char *fixture_value(Wire *wire, const char *sql);
/* The text of an error, for messages of a test; static. */
const char *fixture_text(const Error *err);

#endif
