#include "decoder/txlog/known.h"

#include <stdlib.h>

#include "common/map.h"
#include "common/memory.h"
#include "decoder/pgoutput.h"
#include "decoder/txlog/internal.h"

/* Type byte and OID: what a message is about. */
enum { ABOUT_SIZE = 1 + 4 };

struct KnownText {
	size_t users;
	size_t len;
	uint8_t message[];
};

typedef struct {
	uint8_t about[ABOUT_SIZE]; /* the map's key */
	KnownText *text;
	uint64_t arrival;
	bool restate;
} InForce;

struct Known {
	Map *texts;    /* message -> KnownText */
	Map *in_force; /* about -> InForce */
	uint64_t arrivals;
	size_t restated; /* entries with restate */
};

Known *
known_new(void)
{
	Known *known = mem_zalloc(sizeof(Known));
	known->texts = map_new(0);
	known->in_force = map_new(0);
	return known;
}

static Slice
text_slice(const KnownText *text)
{
	return slice_of(text->message, text->len);
}

static KnownText *
text_take(Known *known, Slice message)
{
	KnownText *text = map_get(known->texts, message);

	if (text == NULL) {
		text = mem_alloc(sizeof(KnownText) + message.len);
		text->users = 0;
		text->len = message.len;
		memcpy(text->message, message.data, message.len);
		map_put(known->texts, text_slice(text), text);
	}
	text->users++;
	return text;
}

static void
text_drop(Known *known, KnownText *text)
{
	if (--text->users > 0)
		return;
	map_remove(known->texts, text_slice(text));
	free(text);
}

void
known_free(Known *known)
{
	void *value;

	if (known == NULL)
		return;
	for (size_t i = 0; map_each(known->in_force, &i, NULL, &value);) {
		text_drop(known, ((InForce *)value)->text);
		free(value);
	}
	CHECK(map_count(known->texts) == 0);
	map_free(known->in_force);
	map_free(known->texts);
	free(known);
}

/* The entry of what the text is about; without a text when it is new. */
static InForce *
find(Known *known, const KnownText *text)
{
	InForce *entry = map_get(known->in_force, slice_of(text->message, ABOUT_SIZE));

	if (entry != NULL)
		return entry;
	entry = mem_zalloc(sizeof(InForce));
	memcpy(entry->about, text->message, ABOUT_SIZE);
	map_put(known->in_force, slice_of(entry->about, ABOUT_SIZE), entry);
	return entry;
}

static void
put_in_force(Known *known, InForce *entry, KnownHeld held)
{
	held.text->users++;
	if (entry->text != NULL)
		text_drop(known, entry->text);
	entry->text = held.text;
	entry->arrival = held.arrival;
}

KnownHeld
known_hold(Known *known, Slice message)
{
	return (KnownHeld){text_take(known, message), ++known->arrivals};
}

bool
known_is(KnownHeld held, Slice message)
{
	return slice_eq(text_slice(held.text), message);
}

void
known_drop(Known *known, KnownHeld held)
{
	text_drop(known, held.text);
}

void
known_set(Known *known, Slice message)
{
	KnownHeld held = known_hold(known, message);

	put_in_force(known, find(known, held.text), held);
	known_drop(known, held);
}

/* What the log's own messages say is what was in force before. Where the
 * transaction says anything else, the log says again what is in force now: behind
 * the transaction, where it may be what arrived later, and for a start, which does
 * not read what was streamed. */
void
known_commit(Known *known, KnownHeld held)
{
	InForce *entry = find(known, held.text);

	if (entry->text != held.text && !entry->restate) {
		entry->restate = true;
		known->restated++;
	}
	if (entry->arrival < held.arrival)
		put_in_force(known, entry, held);
}

static void
put_frame(Buffer *out, const KnownText *text)
{
	uint8_t head[FRAME_HEADER_SIZE];

	frame_header_put(text->len, FRAME_MESSAGE, head);
	buffer_put(out, head, sizeof(head));
	buffer_put(out, text->message, text->len);
}

static void
put_kind(Known *known, uint8_t kind, bool restated, Buffer *out)
{
	void *value;

	for (size_t i = 0; map_each(known->in_force, &i, NULL, &value);) {
		InForce *entry = value;
		if (entry->about[0] != kind || (restated && !entry->restate))
			continue;
		put_frame(out, entry->text);
		if (restated)
			entry->restate = false;
	}
}

void
known_put_restated(Known *known, Buffer *out)
{
	if (known->restated == 0)
		return;
	put_kind(known, PGO_TYPE, true, out);
	put_kind(known, PGO_RELATION, true, out);
	known->restated = 0;
}

void
known_put_all(Known *known, Buffer *out)
{
	put_kind(known, PGO_TYPE, false, out);
	put_kind(known, PGO_RELATION, false, out);
}
