#include "tests/unit/decoder/messages.h"

#include <stdio.h>

void
message_begin(Buffer *out, uint64_t final_lsn, uint32_t xid)
{
	buffer_put_u8(out, 'B');
	buffer_put_u64(out, final_lsn);
	buffer_put_u64(out, 800000000000000); /* some day in 2025 */
	buffer_put_u32(out, xid);
}

void
message_commit(Buffer *out, uint64_t commit_lsn, uint64_t end_lsn)
{
	buffer_put_u8(out, 'C');
	buffer_put_u8(out, 0);
	buffer_put_u64(out, commit_lsn);
	buffer_put_u64(out, end_lsn);
	buffer_put_u64(out, 800000000000000 + commit_lsn);
}

static void
put_column(Buffer *out, bool key, const char *name, uint32_t type)
{
	buffer_put_u8(out, key ? 1 : 0);
	buffer_put_cstr(out, name);
	buffer_put_u32(out, type);
	buffer_put_u32(out, UINT32_MAX); /* typmod -1 */
}

void
message_relation(Buffer *out, uint32_t xid, uint32_t oid, const char *name)
{
	buffer_put_u8(out, 'R');
	if (xid != 0)
		buffer_put_u32(out, xid);
	buffer_put_u32(out, oid);
	buffer_put_cstr(out, "public");
	buffer_put_cstr(out, name);
	buffer_put_u8(out, 'd');
	buffer_put_u16(out, 2);
	put_column(out, true, "id", 23);
	put_column(out, false, "note", 25);
}

void
message_type(Buffer *out, uint32_t oid, const char *name)
{
	buffer_put_u8(out, 'Y');
	buffer_put_u32(out, oid);
	buffer_put_cstr(out, "public");
	buffer_put_cstr(out, name);
}

static void
put_text(Buffer *out, const char *text)
{
	if (text == NULL) {
		buffer_put_u8(out, 'n');
		return;
	}
	buffer_put_u8(out, 't');
	buffer_put_u32(out, (uint32_t)strlen(text));
	buffer_put_text(out, text);
}

static void
put_insert_head(Buffer *out, uint32_t xid, uint32_t oid, const char *id)
{
	buffer_put_u8(out, 'I');
	if (xid != 0)
		buffer_put_u32(out, xid);
	buffer_put_u32(out, oid);
	buffer_put_u8(out, 'N');
	buffer_put_u16(out, 2);
	put_text(out, id);
}

void
message_insert(Buffer *out, uint32_t xid, uint32_t oid, const char *id, const char *note)
{
	put_insert_head(out, xid, oid, id);
	put_text(out, note);
}

void
message_insert_filler(Buffer *out, uint32_t xid, uint32_t oid, uint32_t id, size_t note_bytes,
                      uint8_t fill)
{
	char text[16];
	snprintf(text, sizeof(text), "%u", id);
	put_insert_head(out, xid, oid, text);
	buffer_put_u8(out, 't');
	buffer_put_u32(out, (uint32_t)note_bytes);
	memset(buffer_reserve(out, note_bytes), fill, note_bytes);
	out->len += note_bytes;
}

void
message_logical(Buffer *out, bool transactional, uint64_t lsn, const char *text)
{
	buffer_put_u8(out, 'M');
	buffer_put_u8(out, transactional ? 1 : 0);
	buffer_put_u64(out, lsn);
	buffer_put_cstr(out, "prefix");
	buffer_put_u32(out, (uint32_t)strlen(text));
	buffer_put_text(out, text);
}

void
message_stream_start(Buffer *out, uint32_t xid, bool first)
{
	buffer_put_u8(out, 'S');
	buffer_put_u32(out, xid);
	buffer_put_u8(out, first ? 1 : 0);
}

void
message_stream_stop(Buffer *out)
{
	buffer_put_u8(out, 'E');
}

void
message_stream_commit(Buffer *out, uint32_t xid, uint64_t commit_lsn, uint64_t end_lsn)
{
	buffer_put_u8(out, 'c');
	buffer_put_u32(out, xid);
	buffer_put_u8(out, 0);
	buffer_put_u64(out, commit_lsn);
	buffer_put_u64(out, end_lsn);
	buffer_put_u64(out, 800000000000000 + commit_lsn);
}

void
message_stream_abort(Buffer *out, uint32_t xid, uint32_t subxid)
{
	buffer_put_u8(out, 'A');
	buffer_put_u32(out, xid);
	buffer_put_u32(out, subxid);
}
