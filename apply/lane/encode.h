/*
 * encode.h: PostgreSQL's binary forms of what we send: arrays as parameters, COPY rows.
 *
 * Sources: array_recv in src/backend/utils/adt/arrayfuncs.c (dimensions, null flag,
 * element type, length and lower bound, elements as Int32 length and bytes); PostgreSQL
 * documentation, "COPY", Binary Format.
 */
#ifndef PGBATON_APPLY_LANE_ENCODE_H
#define PGBATON_APPLY_LANE_ENCODE_H

#include "common/bytes.h"
#include "decoder/pgoutput.h"

/* A one-dimensional array with `count` elements, which the caller puts next. */
void encode_array_begin(Buffer *out, uint32_t element_oid, uint32_t count);
/* An element of an array, a field of a COPY row: NULL (and what is masked) is the length -1. */
void encode_value(Buffer *out, const Value *value);
void encode_int4(Buffer *out, int32_t value);
void encode_int8(Buffer *out, int64_t value);

void encode_copy_begin(Buffer *out);
void encode_copy_row(Buffer *out, uint16_t fields);
void encode_copy_end(Buffer *out);

#endif
