/* The statements that move progress rows (P1): in every batch, so all of them are prepared. */
#include "apply/ledger.h"

/*
 * Compares with the row as it is when its lock is had, after whoever held it before. An error
 * and not a row count, since it must also stop what is queued behind it. Who writes all rows
 * does so whatever their number is by now; a share of one lane has a meaning only for the
 * number of lanes that it was routed for (P4). Prepared, since planning it costs a small
 * batch as much as one of its rows.
 */
bool
ledger_prepare_progress(Sql *target, const Ledger *ledger, Error *err)
{
	return sql_execf(target, err,
	                 "PREPARE pgbaton_all (pg_catalog.pg_lsn, int8, pg_catalog.pg_lsn, int8) AS"
	                 " UPDATE %s.progress SET commit_lsn = $1, position ="
	                 " $2 / (commit_lsn = $3 AND position = $4)::pg_catalog.int4;"
	                 "PREPARE pgbaton_some (pg_catalog.pg_lsn, int8, pg_catalog.pg_lsn, int8,"
	                 " int4, int4, int4) AS"
	                 " UPDATE %s.progress SET commit_lsn = $1, position ="
	                 " $2 / (commit_lsn = $3 AND position = $4"
	                 " AND (SELECT pg_catalog.count(*) FROM %s.progress) = $5)::pg_catalog.int4"
	                 " WHERE lane >= $6 AND lane < $7",
	                 ledger->schema, ledger->schema, ledger->schema);
}

static void
put_value(LedgerMove *move, Buffer *bytes, int size)
{
	move->values[move->count] = (const char *)bytes->data + bytes->len - size;
	move->lengths[move->count++] = size;
}

static void
put_progress(LedgerMove *move, Buffer *bytes, Progress progress)
{
	buffer_put_u64(bytes, progress.commit_lsn.v);
	put_value(move, bytes, 8);
	buffer_put_u64(bytes, (uint64_t)progress.position);
	put_value(move, bytes, 8);
}

static void
put_number(LedgerMove *move, Buffer *bytes, int number)
{
	buffer_put_u32(bytes, (uint32_t)number);
	put_value(move, bytes, 4);
}

void
ledger_move(const Ledger *ledger, int first, int count, Progress from, Progress to,
            LedgerMove *move)
{
	bool all = count == ledger->lanes;
	Buffer bytes = {move->bytes, 0, sizeof(move->bytes)}; /* never grows */

	move->statement = all ? "pgbaton_all" : "pgbaton_some";
	move->count = 0;
	put_progress(move, &bytes, to);
	put_progress(move, &bytes, from);
	if (all)
		return;
	put_number(move, &bytes, ledger->lanes);
	put_number(move, &bytes, first);
	put_number(move, &bytes, first + count);
}
