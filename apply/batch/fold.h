/*
 * fold.h: one change into a batch's net changes (batch.h, N1-N5).
 */
#ifndef PGBATON_APPLY_BATCH_FOLD_H
#define PGBATON_APPLY_BATCH_FOLD_H

#include "apply/batch/batch.h"

/* change and its values live in the batch's arena. */
BatchAdd fold_change(Batch *batch, const Change *change, Error *err);

#endif
