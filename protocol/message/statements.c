#include "protocol/message/statements.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

enum { HEADER = 5 };

static void
drop(KeptParse *kept)
{
	buffer_free(&kept->message);
	kept->too_long = false;
}

void
statements_free(Statements *statements)
{
	drop(&statements->unnamed);
	for (uint32_t i = 0; i < statements->pending_count; i++)
		drop(&statements->pending[i].kept);
	free(statements->pending);
	buffer_free(&statements->passing);
	mentions_free(&statements->mentions);
}

/* ---- what was sent ---- */

static void
push(Statements *statements, PendingParse parse)
{
	if (statements->pending_count == statements->pending_cap) {
		statements->pending_cap = statements->pending_cap == 0 ? 2 : statements->pending_cap * 2;
		statements->pending = mem_realloc(statements->pending,
		                                  statements->pending_cap * sizeof(*statements->pending));
	}
	statements->pending[statements->pending_count++] = parse;
}

/* name, query, Int16, Int32...; what is cut in another way the server refuses. */
static bool
names_foreign_types(Slice body)
{
	ByteReader r = reader_of(body);
	const char *name = read_cstr(&r), *sql = read_cstr(&r);
	uint16_t count = read_u16(&r);

	if (name == NULL || sql == NULL)
		return false;
	for (uint16_t i = 0; i < count && !r.failed; i++)
		if (read_u32(&r) >= STATEMENTS_FIRST_USER_OID)
			return true;
	return false;
}

static void
scan(Statements *statements, Slice text, uint32_t group)
{
	Mentions *mentions = &statements->mentions;
	bool before = mentions->sequences;

	mentions->sequences = false;
	mentions_scan(mentions, text);
	if (mentions->sequences)
		statements->sequences_group = group;
	else
		mentions->sequences = before;
}

/* A whole Parse. The body's bytes are in `passing` behind a header. */
static void
parse_passed(Statements *statements, uint32_t group)
{
	Buffer *message = &statements->passing;
	Slice body = slice_of(message->data + HEADER, message->len - HEADER);
	PendingParse parse = {.group = group, .unnamed = body.len > 0 && body.data[0] == 0};

	size_t name = strnlen((const char *)body.data, body.len);
	if (name < body.len)
		scan(statements, slice_of(body.data + name + 1, body.len - name - 1), group);
	if (statements->passing_whole) {
		statements->foreign_types = statements->foreign_types || names_foreign_types(body);
	} else if (parse.unnamed) {
		parse.kept.too_long = true;
	}
	if (parse.unnamed && !parse.kept.too_long) {
		buffer_put_slice(&parse.kept.message, buffer_slice(message));
	}
	push(statements, parse);
}

void
statements_begin(Statements *statements, char type, uint32_t length)
{
	statements->passing_type = type;
	statements->passing_length = length;
	statements->passing_whole = length <= STATEMENTS_PARSE_MAX;
	buffer_reset(&statements->passing);
	if (type != 'P')
		return;
	buffer_put_u8(&statements->passing, 'P');
	buffer_put_u32(&statements->passing, length + 4);
}

/* Of what is not kept as a whole the beginning is enough. */
static void
keep(Statements *statements, Slice bytes)
{
	size_t most = statements->passing_type == 'P' && statements->passing_whole
	                  ? (size_t)STATEMENTS_PARSE_MAX + HEADER
	                  : (size_t)MENTIONS_SCAN_MAX;
	size_t room = statements->passing.len < most ? most - statements->passing.len : 0;

	buffer_put(&statements->passing, bytes.data, bytes.len < room ? bytes.len : room);
}

void
statements_body(Statements *statements, Slice bytes, bool last, uint32_t group)
{
	if (statements->passing_type == 'Q' && statements->passing.len == 0 &&
	    (last || bytes.len >= MENTIONS_SCAN_MAX)) {
		/* The usual case: nothing is copied. A Query is counted already. */
		scan(statements, bytes, group - 1);
		statements->passing_type = 0;
		return;
	}
	keep(statements, bytes);
	if (!last)
		return;
	if (statements->passing_type == 'P')
		parse_passed(statements, group);
	else
		scan(statements, buffer_slice(&statements->passing), group - 1);
	statements->passing_type = 0;
	if (statements->passing.cap > MENTIONS_SCAN_MAX)
		buffer_free(&statements->passing);
}

/* ---- what was answered ---- */

static void
shift(Statements *statements, uint32_t count)
{
	statements->pending_count -= count;
	memmove(statements->pending, statements->pending + count,
	        statements->pending_count * sizeof(*statements->pending));
}

void
statements_parsed(Statements *statements, uint32_t group)
{
	if (statements->pending_count == 0 || statements->pending[0].group != group)
		return;
	if (statements->pending[0].unnamed) {
		drop(&statements->unnamed);
		statements->unnamed = statements->pending[0].kept;
	}
	shift(statements, 1);
}

void
statements_discarded(Statements *statements, uint32_t group)
{
	if ((int32_t)(statements->sequences_group - group) < 0)
		statements->mentions.sequences = false;
}

void
statements_answered(Statements *statements, uint32_t group, bool was_query)
{
	uint32_t gone = 0;

	while (gone < statements->pending_count &&
	       (int32_t)(statements->pending[gone].group - group) < 0)
		drop(&statements->pending[gone++].kept);
	if (gone > 0)
		shift(statements, gone);
	if (was_query)
		drop(&statements->unnamed);
}
