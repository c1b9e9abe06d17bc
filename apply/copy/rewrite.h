/*
 * rewrite.h: tells a table whose rows changed on the source after their copy by what no stream
 * carries, and the catalogue does not show.
 *
 * ALTER TABLE ... TYPE ... USING writes every row anew, and one that drops a column and adds
 * another of the same name gives every row another value. What happens to a table while it is taken
 * out of the publication, or while that publishes no updates, is not sent. The catalogue reads the
 * same before and after. So each copy notes, under its lock, in which file the rows lay, for each
 * column its number and the transaction that last wrote its catalogue row, the row that publishes the
 * table and the transaction that last wrote its publication's: the stamp, a line of JSON,
 *
 *     {"file": relfilenode, "columns": {"name": "attnum:xmin", ...}, "published": "oid:xmin;"}
 *
 * VACUUM FULL, CLUSTER and TRUNCATE change the file, SET STATISTICS and the like a column's row;
 * a rewrite by ALTER TABLE both. Where both were changed by other means, it is taken for a rewrite
 * until a comparison of all rows says otherwise (rewrite_stamp_again). Generated columns are left
 * out: their values are the target's own.
 */
#ifndef PGBATON_APPLY_COPY_REWRITE_H
#define PGBATON_APPLY_COPY_REWRITE_H

#include <stdbool.h>
#include <stddef.h>

#include "apply/catalog/catalog.h"
#include "apply/ledger.h"
#include "apply/sql.h"
#include "common/bytes.h"
#include "common/error.h"

/* An expression for the source: the tables' stamps as text, a line each, in the order of OIDs. */
void rewrite_put_stamps(Buffer *sql, const Ledger *ledger, Table *const *tables, size_t count);

/* False in *same: what says of the first of them what happened: "t was rewritten (column a), u was out of
 * the publication, or that was altered, for a time". */
MUST_CHECK bool rewrite_compare(Sql *source, Sql *target, const Ledger *ledger,
                                const Catalog *catalog, bool *same, char *what, size_t what_size,
                                Error *err);

/* Tables that are equal on both sides, in the very snapshot that this session of the source is in.
 * marked: only those that are marked in the catalogue. */
MUST_CHECK bool rewrite_stamp_again(Sql *source, Sql *target, const Ledger *ledger,
                                    const Catalog *catalog, bool marked, Error *err);

#endif
