/*
 * messages.h: builds pgoutput messages for tests. Each function appends one
 * message to the buffer (reset it first where one message is wanted).
 */
#ifndef PGBATON_TESTS_UNIT_DECODER_MESSAGES_H
#define PGBATON_TESTS_UNIT_DECODER_MESSAGES_H

#include "common/bytes.h"

void message_begin(Buffer *out, uint64_t final_lsn, uint32_t xid);
void message_commit(Buffer *out, uint64_t commit_lsn, uint64_t end_lsn);
/* Two columns: id (int4, key) and note (text). xid 0: none on the wire. */
void message_relation(Buffer *out, uint32_t xid, uint32_t oid, const char *name);
void message_type(Buffer *out, uint32_t oid, const char *name);
/* Into message_relation's columns; note NULL: SQL NULL. */
void message_insert(Buffer *out, uint32_t xid, uint32_t oid, const char *id, const char *note);
void message_insert_filler(Buffer *out, uint32_t xid, uint32_t oid, uint32_t id, size_t note_bytes,
                           uint8_t fill);
void message_logical(Buffer *out, bool transactional, uint64_t lsn, const char *text);

void message_stream_start(Buffer *out, uint32_t xid, bool first);
void message_stream_stop(Buffer *out);
void message_stream_commit(Buffer *out, uint32_t xid, uint64_t commit_lsn, uint64_t end_lsn);
void message_stream_abort(Buffer *out, uint32_t xid, uint32_t subxid);

#endif
