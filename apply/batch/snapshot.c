#include "apply/batch/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One decimal number, then `end` (0: the end of the text). */
static bool
parse_number(const char **at, char end, uint64_t *out)
{
	char *stop;

	if (**at < '0' || **at > '9')
		return false;
	errno = 0;
	*out = strtoull(*at, &stop, 10);
	if (errno != 0 || *stop != end)
		return false;
	*at = end == '\0' ? stop : stop + 1;
	return true;
}

static int
compare_xids(const void *a, const void *b)
{
	uint64_t x;
	uint64_t y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return (x > y) - (x < y);
}

static bool
parse_running(const char *at, Arena *arena, Snapshot *out)
{
	size_t count = 1;

	for (const char *c = at; *c != '\0'; c++)
		count += *c == ',';
	out->xip = arena_new_array(arena, uint64_t, count);
	for (size_t i = 0; i < count; i++)
		if (!parse_number(&at, i + 1 < count ? ',' : '\0', &out->xip[i]))
			return false;
	out->xip_count = count;
	qsort(out->xip, count, sizeof(uint64_t), compare_xids);
	return out->xip[0] >= out->xmin && out->xip[count - 1] < out->xmax;
}

bool
snapshot_parse(const char *text, Arena *arena, Snapshot *out, Error *err)
{
	const char *at = text;

	memset(out, 0, sizeof(*out));
	if (!parse_number(&at, ':', &out->xmin) || !parse_number(&at, ':', &out->xmax) ||
	    out->xmin > out->xmax || (*at != '\0' && !parse_running(at, arena, out)))
		return error_set(err, ERROR_PROTOCOL, "not a snapshot: \"%.200s\"", text);
	return true;
}

/* The stream has an xid's low 32 bits. A transaction that can matter ran within two
 * billion of the snapshot (the server itself cannot tell more apart), so the distance to
 * xmax as a signed 32-bit number is the true one. */
static uint64_t
widen(uint64_t near, uint32_t xid)
{
	int32_t distance = (int32_t)(xid - (uint32_t)near);

	if (distance < 0 && (uint64_t) - (int64_t)distance > near)
		return xid; /* before the first epoch there is nothing */
	return near + (uint64_t)(int64_t)distance;
}

bool
snapshot_sees(const Snapshot *snapshot, uint32_t xid)
{
	uint64_t full = widen(snapshot->xmax, xid);

	if (full >= snapshot->xmax)
		return false;
	if (full < snapshot->xmin || snapshot->xip_count == 0)
		return true;
	return bsearch(&full, snapshot->xip, snapshot->xip_count, sizeof(uint64_t), compare_xids) ==
	       NULL;
}
