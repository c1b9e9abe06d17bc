/*
 * internal.h: what the files of apply/lobs share.
 */
#ifndef PGBATON_APPLY_LOBS_INTERNAL_H
#define PGBATON_APPLY_LOBS_INTERNAL_H

#include <pthread.h>

#include "apply/lobs/lobs.h"
#include "common/bytes.h"

#define LOB_UNIT_BYTES (1 << 20)

enum { LOB_RANGE_OBJECTS = 500 };

/* OIDs, both included. All ranges together are all OIDs. */
typedef struct {
	uint32_t first;
	uint32_t last;
	bool done; /* of a copy: recorded */
} LobRange;

typedef struct {
	LobRange *items;
	size_t count;
} LobRanges;

/* One pair of sessions, of one worker. */
typedef struct {
	Sql *from;
	Sql *to;
	bool borrowed; /* from is the work's holder */
} LobSession;

/* One call of lobs_copy or lobs_compare. */
typedef struct {
	const LobWork *work;
	bool pages;
	bool write;
	const Ledger *ledger; /* NULL: a comparison */
	LobProgress *progress;
	Buffer meta_from; /* SELECT ... up to where the range belongs */
	Buffer meta_to;
	uint32_t page_bytes; /* of pg_largeobject: a quarter of a block */
	LobRanges ranges;

	pthread_mutex_t lock; /* all below */
	size_t next;
	bool failed;
	Error first;
	LobDifference found;
} LobRun;

/* ---- session.c ---- */

MUST_CHECK bool lob_session_open(const LobRun *run, LobSession *session, Error *err);
void lob_session_close(LobSession *session);
/* The ranges of what is on `from`, about bytes_wanted each and LOB_RANGE_OBJECTS at most. */
MUST_CHECK bool lob_ranges_read(Sql *from, LobRanges *out, Error *err);
/* text with up to 3 binary parameters, binary result; NULL on error. */
typedef struct {
	uint32_t type;
	const Buffer *value;
} LobParam;
PGresult *lob_query(Sql *sql, const char *text, const LobParam *params, int count, Error *err);

/* An array of n elements for it: the header, then each. */
void lob_array_begin(Buffer *out, uint32_t element, size_t n);
void lob_array_u32(Buffer *out, uint32_t value);
void lob_array_bytes(Buffer *out, const void *data, size_t len);
uint32_t lob_u32(const char *data);
uint64_t lob_u64(const char *data);

#define LOB_OID 26
#define LOB_INT4 23
#define LOB_INT8 20
#define LOB_BYTEA 17
#define LOB_OID_ARRAY 1028
#define LOB_INT4_ARRAY 1007
#define LOB_INT8_ARRAY 1016
#define LOB_BYTEA_ARRAY 1001

/* ---- meta.c: owner, privileges, comment ---- */

/* Which roles of `from` are on `to`; fills meta_from and meta_to. */
MUST_CHECK bool lob_meta_open(LobRun *run, Sql *from, Sql *to, Error *err);

enum { META_OID, META_OWNER, META_GRANTS, META_COMMENT, META_REVOKES };

/* Statements for a transaction on `to`. */
void lob_meta_create(const PGresult *from, const int *rows, size_t count, Buffer *sql);
bool lob_meta_same(const PGresult *from, int from_row, const PGresult *to, int to_row);
void lob_meta_change(const PGresult *from, int from_row, const PGresult *to, int to_row,
                     Buffer *sql);

/* ---- units.c: contents ---- */

/* Columns of a list of units: oid, unit, bytes, hash (NULL without it); ordered. */
enum { UNIT_OID, UNIT_NUMBER, UNIT_BYTES, UNIT_HASH };

void lob_units_sql(const LobRun *run, const LobRange *range, bool hash, Buffer *sql);

typedef struct {
	uint32_t oid;
	uint32_t number;
	uint64_t bytes; /* on `from` */
} LobUnit;

typedef struct {
	LobUnit *items;
	size_t count;
	size_t capacity;
} LobUnits;

void lob_units_add(LobUnits *units, LobUnit unit);
/* Takes these units of `to` away, in its transaction (pages only). */
MUST_CHECK bool lob_units_clear(const LobRun *run, Sql *to, const LobUnits *units, Error *err);
/* Cuts objects to that length (contents only); oids as units, bytes their length. */
MUST_CHECK bool lob_units_cut(Sql *to, const LobUnits *units, Error *err);
/* Reads them on `from` and writes them on `to`; adds to progress. */
MUST_CHECK bool lob_units_move(const LobRun *run, const LobSession *session, const LobUnits *units,
                               Error *err);

/* ---- range.c ---- */

/* One range, from the beginning to the commit. */
MUST_CHECK bool lob_range_do(LobRun *run, const LobSession *session, LobRange *range, Error *err);

/* ---- record.c: the ledger's table large_object ---- */

/* Makes the table; the first call plans the ranges, a later one reads them and adds what is
 * done already to progress. */
MUST_CHECK bool lob_record_open(LobRun *run, Sql *from, Sql *to, Error *err);
/* Locks the range's row in the transaction, waiting for whoever copies it. */
MUST_CHECK bool lob_record_lock(const LobRun *run, Sql *to, LobRange *range, Error *err);
void lob_record_sql(const LobRun *run, const LobRange *range, uint64_t objects, uint64_t bytes,
                    Buffer *sql);

#endif
