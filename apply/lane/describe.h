/*
 * describe.h: which row of which transaction, for an engineer.
 */
#ifndef PGBATON_APPLY_LANE_DESCRIBE_H
#define PGBATON_APPLY_LANE_DESCRIBE_H

#include "apply/batch/batch.h"

/* Puts "update of row (id)=(7) of "public"."t", source transaction 742 committed at
 * 0/16B3748" in front of err, and a hint behind it. A row count that was not met (pipe.h)
 * becomes a sentence about the row. Returns false. */
bool describe_failure(const Change *change, Error *err);
/* The table (of a TRUNCATE: the first). */
Table *describe_table(const Change *change);

#endif
