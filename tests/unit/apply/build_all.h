/*
 * build_all.h: a Build walked through to its end on one session, for tests that want the
 * indexes and have no copy.
 */
#ifndef PGBATON_TESTS_UNIT_APPLY_BUILD_ALL_H
#define PGBATON_TESTS_UNIT_APPLY_BUILD_ALL_H

#include "apply/schema/build.h"

/* As if the rows of all tables had just come in. */
MUST_CHECK bool build_all(const SchemaWork *work, Error *err);

#endif
