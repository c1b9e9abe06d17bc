/*
 * pgoutput.h: pgoutput's messages as typed values.
 *
 * Source: PostgreSQL documentation, "Logical Replication Message Formats", and
 * src/backend/replication/logical/proto.c; protocol versions 1 to 4. Anything
 * not in the specification (a type byte, a tuple kind, a byte too many or too
 * few) is ERROR_PROTOCOL: nothing is ever skipped.
 */
#ifndef PGBATON_DECODER_PGOUTPUT_H
#define PGBATON_DECODER_PGOUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/error.h"
#include "common/lsn.h"
#include "common/slice.h"

typedef enum {
	PGO_BEGIN = 'B',
	PGO_COMMIT = 'C',
	PGO_ORIGIN = 'O',
	PGO_RELATION = 'R',
	PGO_TYPE = 'Y',
	PGO_INSERT = 'I',
	PGO_UPDATE = 'U',
	PGO_DELETE = 'D',
	PGO_TRUNCATE = 'T',
	PGO_MESSAGE = 'M',
	PGO_STREAM_START = 'S',
	PGO_STREAM_STOP = 'E',
	PGO_STREAM_COMMIT = 'c',
	PGO_STREAM_ABORT = 'A',
	PGO_BEGIN_PREPARE = 'b',
	PGO_PREPARE = 'P',
	PGO_STREAM_PREPARE = 'p',
	PGO_COMMIT_PREPARED = 'K',
	PGO_ROLLBACK_PREPARED = 'r'
} PgoKind;

typedef enum {
	VALUE_NULL = 'n',
	VALUE_UNCHANGED = 'u', /* TOASTed and not touched: the stream does not have it */
	VALUE_TEXT = 't',
	VALUE_BINARY = 'b'
} ValueKind;

typedef struct {
	ValueKind kind;
	Slice bytes; /* borrowed from the message */
} Value;

typedef struct {
	uint16_t count;
	Value *values; /* in the arena given to pgoutput_parse */
} Tuple;

typedef struct {
	const char *name; /* borrowed from the message */
	uint32_t type_oid;
	int32_t typmod;
	bool key; /* part of the replica identity */
} PgoColumn;

typedef struct {
	uint32_t oid;
	const char *schema; /* "" on the wire means pg_catalog and is given so */
	const char *name;
	char replica_identity; /* 'd' default, 'n' nothing, 'f' full, 'i' index */
	uint16_t count;
	PgoColumn *columns;
} PgoRelation;

typedef enum { OLD_NONE = 0, OLD_KEY = 'K', OLD_FULL = 'O' } OldKind;

typedef struct {
	PgoKind kind;
	uint32_t xid; /* inside a stream block: the (sub)transaction; else 0 */
				  /* clang-format off */
	union {
		struct { Lsn final_lsn; int64_t time_us; uint32_t xid; } begin;
		struct { Lsn commit_lsn; Lsn end_lsn; int64_t time_us; } commit;
		struct { Lsn lsn; const char *name; } origin;
		PgoRelation relation;
		struct { uint32_t oid; const char *schema; const char *name; } type;
		/* Insert: new_row. Update: old_kind and old_row if any, new_row.
		 * Delete: old_kind (never OLD_NONE), old_row. */
		struct { uint32_t relation; OldKind old_kind; Tuple old_row; Tuple new_row; } change;
		struct { bool cascade; bool restart_identity; uint32_t count; uint32_t *relations; } truncate;
		struct { bool transactional; Lsn lsn; const char *prefix; Slice content; } message;
		struct { uint32_t xid; bool first; } stream_start;
		struct { uint32_t xid; Lsn commit_lsn; Lsn end_lsn; int64_t time_us; } stream_commit;
		struct { uint32_t xid; uint32_t subxid; Lsn abort_lsn; int64_t time_us; } stream_abort;
		/* b, P, p, K, r */
		struct { uint32_t xid; Lsn lsn; Lsn end_lsn; int64_t time_us; const char *gid; } prepared;
	};
				  /* clang-format on */
} PgoMessage;

typedef struct {
	int proto_version;
	bool in_stream;          /* between Stream Start and Stream Stop: messages carry an xid */
	bool parallel_streaming; /* proto 4 with streaming 'parallel': Abort carries LSN and time */
} PgoContext;

/* Parses one whole message. *out borrows from bytes and from the arena. */
MUST_CHECK bool pgoutput_parse(const PgoContext *context, Slice bytes, Arena *arena,
                               PgoMessage *out, Error *err);

#endif
