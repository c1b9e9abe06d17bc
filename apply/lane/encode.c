#include "apply/lane/encode.h"

void
encode_array_begin(Buffer *out, uint32_t element_oid, uint32_t count)
{
	buffer_put_u32(out, 1); /* dimensions */
	buffer_put_u32(out, 1); /* may have NULLs */
	buffer_put_u32(out, element_oid);
	buffer_put_u32(out, count);
	buffer_put_u32(out, 1); /* lower bound */
}

void
encode_value(Buffer *out, const Value *value)
{
	if (value->kind == VALUE_NULL || value->kind == VALUE_UNCHANGED) {
		buffer_put_u32(out, UINT32_MAX);
		return;
	}
	buffer_put_u32(out, (uint32_t)value->bytes.len);
	buffer_put_slice(out, value->bytes);
}

void
encode_int4(Buffer *out, int32_t value)
{
	buffer_put_u32(out, 4);
	buffer_put_u32(out, (uint32_t)value);
}

void
encode_int8(Buffer *out, int64_t value)
{
	buffer_put_u32(out, 8);
	buffer_put_u64(out, (uint64_t)value);
}

void
encode_copy_begin(Buffer *out)
{
	static const char signature[11] = "PGCOPY\n\377\r\n"; /* and its zero */

	buffer_put(out, signature, sizeof(signature));
	buffer_put_u32(out, 0); /* flags */
	buffer_put_u32(out, 0); /* header extension */
}

void
encode_copy_row(Buffer *out, uint16_t fields)
{
	buffer_put_u16(out, fields);
}

void
encode_copy_end(Buffer *out)
{
	buffer_put_u16(out, UINT16_MAX);
}
