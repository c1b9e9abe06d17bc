#include "decoder/pgoutput.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/bytes.h"

/*
 * One message being taken apart. The ByteReader is sticky: reads past the end
 * give zeros, so each layout reads all its fields and the end is asked once.
 */
typedef struct {
	const PgoContext *context;
	ByteReader r;
	Arena *arena;
	PgoKind kind;
	Error *err;
} Parser;

/* Which messages exist from which protocol version on, and where they may
 * stand: inside a stream block, outside, or both. */
typedef enum { OUTSIDE = 1, INSIDE = 2, BOTH = 3 } Place;

typedef struct {
	PgoKind kind;
	const char *name;
	int since;
	Place place;
	bool has_xid; /* starts with an xid inside a stream block */
} KindInfo;

static const KindInfo kinds[] = {
	{PGO_BEGIN, "Begin", 1, OUTSIDE, false},
	{PGO_COMMIT, "Commit", 1, OUTSIDE, false},
	{PGO_ORIGIN, "Origin", 1, BOTH, false},
	{PGO_RELATION, "Relation", 1, BOTH, true},
	{PGO_TYPE, "Type", 1, BOTH, true},
	{PGO_INSERT, "Insert", 1, BOTH, true},
	{PGO_UPDATE, "Update", 1, BOTH, true},
	{PGO_DELETE, "Delete", 1, BOTH, true},
	{PGO_TRUNCATE, "Truncate", 1, BOTH, true},
	{PGO_MESSAGE, "Message", 1, BOTH, true},
	{PGO_STREAM_START, "Stream Start", 2, OUTSIDE, false},
	{PGO_STREAM_STOP, "Stream Stop", 2, INSIDE, false},
	{PGO_STREAM_COMMIT, "Stream Commit", 2, OUTSIDE, false},
	{PGO_STREAM_ABORT, "Stream Abort", 2, OUTSIDE, false},
	{PGO_BEGIN_PREPARE, "Begin Prepare", 3, OUTSIDE, false},
	{PGO_PREPARE, "Prepare", 3, OUTSIDE, false},
	{PGO_STREAM_PREPARE, "Stream Prepare", 3, OUTSIDE, false},
	{PGO_COMMIT_PREPARED, "Commit Prepared", 3, OUTSIDE, false},
	{PGO_ROLLBACK_PREPARED, "Rollback Prepared", 3, OUTSIDE, false},
};

static const KindInfo *
kind_find(uint8_t byte)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if ((uint8_t)kinds[i].kind == byte)
			return &kinds[i];
	return NULL;
}

/* What is wrong with the message; a message that has ended already is the
 * better explanation for any value that looks wrong. */
static bool
bad(Parser *p, const char *what, unsigned value)
{
	const KindInfo *info = kind_find((uint8_t)p->kind);

	if (p->r.failed)
		return error_set(p->err, ERROR_PROTOCOL, "pgoutput %s message ends too early", info->name);
	return error_set(p->err, ERROR_PROTOCOL, "pgoutput %s message: %s (0x%02X)", info->name, what,
	                 value);
}

static Lsn
read_lsn(Parser *p)
{
	return lsn_make(read_u64(&p->r));
}

/* A flags byte that the protocol defines as unused. */
static bool
read_no_flags(Parser *p)
{
	uint8_t flags = read_u8(&p->r);
	return flags == 0 || bad(p, "unknown flags", flags);
}

static bool
parse_begin(Parser *p, PgoMessage *out)
{
	out->begin.final_lsn = read_lsn(p);
	out->begin.time_us = (int64_t)read_u64(&p->r);
	out->begin.xid = read_u32(&p->r);
	return lsn_valid(out->begin.final_lsn) || bad(p, "no commit position", 0);
}

static bool
parse_commit(Parser *p, PgoMessage *out)
{
	if (!read_no_flags(p))
		return false;
	out->commit.commit_lsn = read_lsn(p);
	out->commit.end_lsn = read_lsn(p);
	out->commit.time_us = (int64_t)read_u64(&p->r);
	if (!lsn_valid(out->commit.commit_lsn) ||
	    lsn_cmp(out->commit.end_lsn, out->commit.commit_lsn) < 0)
		return bad(p, "commit position missing or behind its end", 0);
	return true;
}

static bool
parse_origin(Parser *p, PgoMessage *out)
{
	out->origin.lsn = read_lsn(p);
	out->origin.name = read_cstr(&p->r);
	return true;
}

static const char *
read_schema(Parser *p)
{
	const char *schema = read_cstr(&p->r);
	return schema != NULL && schema[0] == '\0' ? "pg_catalog" : schema;
}

/* At least flags, the name's zero, type and typmod: the smallest column. What
 * the peer counts is capped by what it sent before anything is allocated. */
enum { COLUMN_MIN = 1 + 1 + 4 + 4 };

static bool
parse_relation(Parser *p, PgoMessage *out)
{
	PgoRelation *rel = &out->relation;

	rel->oid = read_u32(&p->r);
	rel->schema = read_schema(p);
	rel->name = read_cstr(&p->r);
	rel->replica_identity = (char)read_u8(&p->r);
	rel->count = read_u16(&p->r);
	if (p->r.failed)
		return bad(p, "", 0);
	if (memchr("dnfi", rel->replica_identity, 4) == NULL)
		return bad(p, "unknown replica identity", (uint8_t)rel->replica_identity);
	if (rel->count > reader_left(&p->r) / COLUMN_MIN)
		return bad(p, "more columns than bytes", rel->count);

	rel->columns = arena_new_array(p->arena, PgoColumn, rel->count);
	for (unsigned i = 0; i < rel->count; i++) {
		PgoColumn *column = &rel->columns[i];
		uint8_t flags = read_u8(&p->r);
		column->key = (flags & 1) != 0;
		column->name = read_cstr(&p->r);
		column->type_oid = read_u32(&p->r);
		column->typmod = (int32_t)read_u32(&p->r);
		if ((flags & ~1U) != 0 || p->r.failed)
			return bad(p, "unknown column flags", flags);
	}
	return true;
}

static bool
parse_type(Parser *p, PgoMessage *out)
{
	out->type.oid = read_u32(&p->r);
	out->type.schema = read_schema(p);
	out->type.name = read_cstr(&p->r);
	return true;
}

/*
 * 'u' is possible only in the new row of an Update: the old row and the key are
 * written with their TOAST values inline (heapam.c, ExtractReplicaIdentity), an
 * Insert's are put together again by the reorder buffer. Elsewhere it would be
 * a value that nobody has.
 */
static bool
parse_tuple(Parser *p, bool may_be_unchanged, Tuple *out)
{
	out->count = read_u16(&p->r);
	if (out->count > reader_left(&p->r))
		return bad(p, "more columns than bytes", out->count);
	out->values = arena_alloc(p->arena, sizeof(Value) * out->count);

	for (unsigned i = 0; i < out->count; i++) {
		Value *value = &out->values[i];
		uint8_t kind = read_u8(&p->r);

		value->kind = (ValueKind)kind;
		value->bytes = SLICE_EMPTY;
		switch (kind) {
		case VALUE_NULL:
			break;
		case VALUE_UNCHANGED:
			if (!may_be_unchanged)
				return bad(p, "unchanged value where there is none before it", kind);
			break;
		case VALUE_TEXT:
		case VALUE_BINARY:
			value->bytes = read_bytes(&p->r, read_u32(&p->r));
			if (p->r.failed)
				return bad(p, "", 0);
			break;
		default:
			return bad(p, "unknown kind of value", kind);
		}
	}
	return true;
}

static bool
parse_insert(Parser *p, PgoMessage *out)
{
	out->change.relation = read_u32(&p->r);
	uint8_t mark = read_u8(&p->r);
	if (mark != 'N')
		return bad(p, "new row expected", mark);
	return parse_tuple(p, false, &out->change.new_row);
}

static bool
parse_update(Parser *p, PgoMessage *out)
{
	out->change.relation = read_u32(&p->r);
	uint8_t mark = read_u8(&p->r);
	if (mark == OLD_KEY || mark == OLD_FULL) {
		out->change.old_kind = (OldKind)mark;
		if (!parse_tuple(p, false, &out->change.old_row))
			return false;
		mark = read_u8(&p->r);
	}
	if (mark != 'N')
		return bad(p, "new row expected", mark);
	return parse_tuple(p, true, &out->change.new_row);
}

static bool
parse_delete(Parser *p, PgoMessage *out)
{
	out->change.relation = read_u32(&p->r);
	uint8_t mark = read_u8(&p->r);
	if (mark != OLD_KEY && mark != OLD_FULL)
		return bad(p, "old row or key expected", mark);
	out->change.old_kind = (OldKind)mark;
	return parse_tuple(p, false, &out->change.old_row);
}

static bool
parse_truncate(Parser *p, PgoMessage *out)
{
	uint32_t count = read_u32(&p->r);
	uint8_t flags = read_u8(&p->r);

	if ((flags & ~3U) != 0)
		return bad(p, "unknown flags", flags);
	if (count != reader_left(&p->r) / 4)
		return bad(p, "the number of tables does not fit the bytes", count);
	out->truncate.cascade = (flags & 1) != 0;
	out->truncate.restart_identity = (flags & 2) != 0;
	out->truncate.count = count;
	out->truncate.relations = arena_new_array(p->arena, uint32_t, count);
	for (uint32_t i = 0; i < count; i++)
		out->truncate.relations[i] = read_u32(&p->r);
	return true;
}

static bool
parse_message(Parser *p, PgoMessage *out)
{
	uint8_t flags = read_u8(&p->r);

	if (flags > 1)
		return bad(p, "unknown flags", flags);
	out->message.transactional = flags == 1;
	out->message.lsn = read_lsn(p);
	out->message.prefix = read_cstr(&p->r);
	out->message.content = read_bytes(&p->r, read_u32(&p->r));
	return true;
}

static bool
parse_stream_start(Parser *p, PgoMessage *out)
{
	out->stream_start.xid = read_u32(&p->r);
	uint8_t first = read_u8(&p->r);
	out->stream_start.first = first == 1;
	if (first > 1 || out->stream_start.xid == 0)
		return bad(p, "unknown flags or no transaction", first);
	return true;
}

static bool
parse_stream_commit(Parser *p, PgoMessage *out)
{
	out->stream_commit.xid = read_u32(&p->r);
	if (!read_no_flags(p))
		return false;
	out->stream_commit.commit_lsn = read_lsn(p);
	out->stream_commit.end_lsn = read_lsn(p);
	out->stream_commit.time_us = (int64_t)read_u64(&p->r);
	if (out->stream_commit.xid == 0 || !lsn_valid(out->stream_commit.commit_lsn) ||
	    lsn_cmp(out->stream_commit.end_lsn, out->stream_commit.commit_lsn) < 0)
		return bad(p, "no transaction, or commit position missing or behind its end", 0);
	return true;
}

static bool
parse_stream_abort(Parser *p, PgoMessage *out)
{
	out->stream_abort.xid = read_u32(&p->r);
	out->stream_abort.subxid = read_u32(&p->r);
	if (p->context->parallel_streaming) {
		out->stream_abort.abort_lsn = read_lsn(p);
		out->stream_abort.time_us = (int64_t)read_u64(&p->r);
	}
	if (out->stream_abort.xid == 0 || out->stream_abort.subxid == 0)
		return bad(p, "no transaction", 0);
	return true;
}

/* b has no flags byte; r has two end positions and two times, of which the
 * rollback's are kept. */
static bool
parse_prepared(Parser *p, PgoMessage *out)
{
	if (p->kind != PGO_BEGIN_PREPARE && !read_no_flags(p))
		return false;
	out->prepared.lsn = read_lsn(p);
	out->prepared.end_lsn = read_lsn(p);
	out->prepared.time_us = (int64_t)read_u64(&p->r);
	if (p->kind == PGO_ROLLBACK_PREPARED)
		out->prepared.time_us = (int64_t)read_u64(&p->r);
	out->prepared.xid = read_u32(&p->r);
	out->prepared.gid = read_cstr(&p->r);
	return out->prepared.xid != 0 || bad(p, "no transaction", 0);
}

static bool
parse_body(Parser *p, PgoMessage *out)
{
	switch (p->kind) {
	case PGO_BEGIN:
		return parse_begin(p, out);
	case PGO_COMMIT:
		return parse_commit(p, out);
	case PGO_ORIGIN:
		return parse_origin(p, out);
	case PGO_RELATION:
		return parse_relation(p, out);
	case PGO_TYPE:
		return parse_type(p, out);
	case PGO_INSERT:
		return parse_insert(p, out);
	case PGO_UPDATE:
		return parse_update(p, out);
	case PGO_DELETE:
		return parse_delete(p, out);
	case PGO_TRUNCATE:
		return parse_truncate(p, out);
	case PGO_MESSAGE:
		return parse_message(p, out);
	case PGO_STREAM_START:
		return parse_stream_start(p, out);
	case PGO_STREAM_STOP:
		return true;
	case PGO_STREAM_COMMIT:
		return parse_stream_commit(p, out);
	case PGO_STREAM_ABORT:
		return parse_stream_abort(p, out);
	case PGO_BEGIN_PREPARE:
	case PGO_PREPARE:
	case PGO_STREAM_PREPARE:
	case PGO_COMMIT_PREPARED:
	case PGO_ROLLBACK_PREPARED:
		return parse_prepared(p, out);
	}
	return error_set(p->err, ERROR_BUG, "pgoutput kind 0x%02X is not handled", p->kind);
}

/* The message exists in this protocol version and may stand here. */
static bool
kind_check(Parser *p, const KindInfo *info)
{
	if (info->since > p->context->proto_version)
		return error_set(p->err, ERROR_PROTOCOL,
		                 "pgoutput %s message in protocol version %d (since %d)", info->name,
		                 p->context->proto_version, info->since);
	if ((info->place & (p->context->in_stream ? INSIDE : OUTSIDE)) == 0)
		return error_set(p->err, ERROR_PROTOCOL, "pgoutput %s message %s a stream block",
		                 info->name, p->context->in_stream ? "inside" : "outside");
	return true;
}

bool
pgoutput_parse(const PgoContext *context, Slice bytes, Arena *arena, PgoMessage *out, Error *err)
{
	Parser p = {.context = context, .r = reader_of(bytes), .arena = arena, .err = err};

	if (bytes.len == 0)
		return error_set(err, ERROR_PROTOCOL, "empty pgoutput message");
	const KindInfo *info = kind_find(read_u8(&p.r));
	if (info == NULL)
		return error_set(err, ERROR_PROTOCOL, "unknown pgoutput message type 0x%02X",
		                 bytes.data[0]);
	p.kind = info->kind;
	if (!kind_check(&p, info))
		return false;

	memset(out, 0, sizeof(*out));
	out->kind = p.kind;
	if (info->has_xid && context->in_stream) {
		out->xid = read_u32(&p.r);
		if (out->xid == 0)
			return bad(&p, "no transaction", 0);
	}
	if (!parse_body(&p, out))
		return false;
	if (p.r.failed)
		return bad(&p, "", 0);
	if (!reader_done(&p.r))
		return error_set(err, ERROR_PROTOCOL, "pgoutput %s message: %zu bytes too many", info->name,
		                 reader_left(&p.r));
	return true;
}
