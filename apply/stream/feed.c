#include "apply/stream/feed.h"

#include <stdlib.h>

#include "common/memory.h"
#include "decoder/relation.h"

struct Feed {
	FeedOptions options;
	PgoContext context;
	TxLogReader *reader;
	RelationMap *relations;
	Arena *plans;
	Arena *message; /* of the message in hand */
	Slice pending;  /* belongs to the next batch; valid until the reader goes on */
	Progress from;  /* P3 */
	bool inside;    /* between Begin and Commit */
	Lsn commit_lsn; /* of the transaction in hand */
	uint32_t xid;
	int64_t position;
	int64_t skip; /* changes of it that are on the target */
	FeedPassed passed;
	uint64_t expected; /* feed_expect's */
	void (*on_old_marker)(void *arg, const char *content);
	void *arg;
};

int
progress_cmp(Progress a, Progress b)
{
	int by_lsn = lsn_cmp(a.commit_lsn, b.commit_lsn);
	return by_lsn != 0 ? by_lsn : (a.position > b.position) - (a.position < b.position);
}

Feed *
feed_open(const FeedOptions *options, Progress from, Error *err)
{
	/* The transaction that is only partly in must be read again. */
	uint64_t after = from.commit_lsn.v;
	if (from.position != LEDGER_WHOLE && after > 0)
		after--;
	TxLogReader *reader = txlog_reader_open(options->log, lsn_make(after), err);
	if (reader == NULL)
		return NULL;
	Feed *feed = mem_zalloc(sizeof(Feed));
	feed->options = *options;
	feed->context.proto_version = options->proto_version;
	feed->reader = reader;
	feed->relations = relation_map_new();
	feed->plans = arena_new(0);
	feed->message = arena_new(0);
	feed->from = from;
	return feed;
}

void
feed_close(Feed *feed)
{
	if (feed == NULL)
		return;
	txlog_reader_close(feed->reader);
	relation_map_free(feed->relations);
	arena_free(feed->plans);
	arena_free(feed->message);
	free(feed);
}

bool
feed_ready(Feed *feed)
{
	return feed->pending.data != NULL || txlog_reader_ready(feed->reader);
}

FeedPassed
feed_passed(const Feed *feed)
{
	return feed->passed;
}

void
feed_on_old_marker(Feed *feed, void (*callback)(void *arg, const char *content), void *arg)
{
	feed->on_old_marker = callback;
	feed->arg = arg;
}

void
feed_expect(Feed *feed, uint64_t stream)
{
	feed->expected = stream;
}

TxLogStreamed
feed_met(const Feed *feed)
{
	return txlog_reader_streamed(feed->reader);
}

void
feed_pass_met(Feed *feed)
{
	feed->from = (Progress){feed_met(feed).commit, LEDGER_WHOLE};
	feed->pending = SLICE_EMPTY;
	feed->expected = 0;
	txlog_reader_skip_streamed(feed->reader);
}

/* All of the transaction in hand is on the target (P3). */
static bool
is_old(const Feed *feed)
{
	return feed->skip == LEDGER_WHOLE;
}

static bool
add_transaction(const Feed *feed, Error *err)
{
	return error_add_context(err, "source transaction %u committed at %s", feed->xid,
	                         LSN_STR(feed->commit_lsn));
}

static const Plan *
plan_of(Feed *feed, uint32_t oid, Error *err)
{
	Relation *relation = relation_map_get(feed->relations, oid);

	if (relation == NULL) {
		error_set(err, ERROR_PROTOCOL, "change of a relation (%u) that was never described", oid);
		return NULL;
	}
	if (relation->user == NULL)
		relation->user = plan_new(feed->options.catalog, feed->options.name, feed->options.apart,
		                          &relation->def, feed->plans, err);
	if (relation->user == NULL)
		add_transaction(feed, err);
	return relation->user;
}

/* ---- markers (K3) ---- */

static void
take_marker(Feed *feed, Batch *batch, Slice content)
{
	if (!is_old(feed)) {
		batch_add_marker(batch, content);
	} else if (feed->on_old_marker != NULL) {
		char *text = mem_strndup((const char *)content.data, content.len);
		feed->on_old_marker(feed->arg, text);
		free(text);
	}
}

static bool
take_marker_row(Feed *feed, Batch *batch, const Plan *plan, Slice bytes, Error *err)
{
	PgoMessage message;

	if (!pgoutput_parse(&feed->context, bytes, feed->message, &message, err))
		return false;
	const Tuple *row = &message.change.new_row;
	if (message.kind == PGO_INSERT && row->count == plan->count &&
	    row->values[plan->content].kind != VALUE_NULL)
		take_marker(feed, batch, row->values[plan->content].bytes);
	return true;
}

/* Old markers are made known even where the plan of other tables is not wanted. */
static bool
is_marker_table(const Feed *feed, uint32_t oid)
{
	const Relation *relation = relation_map_get(feed->relations, oid);

	return relation != NULL && strcmp(relation->def.schema, feed->options.name) == 0 &&
	       strcmp(relation->def.name, "marker") == 0;
}

/* ---- changes ---- */

/* One change more is behind us. */
static void
advance(Feed *feed, Batch *batch)
{
	feed->position++;
	if (is_old(feed) || feed->position <= feed->skip)
		return;
	batch->any = true;
	batch->whole = false;
	batch->end = (Progress){feed->commit_lsn, feed->position};
	if (batch->change_count >= feed->options.batch_rows ||
	    batch_bytes(batch) >= feed->options.batch_bytes)
		batch->closed = true;
}

static bool
is_behind(const Feed *feed)
{
	return is_old(feed) || feed->position < feed->skip;
}

static FeedNext
close_first(Feed *feed, Batch *batch, Slice bytes)
{
	batch->closed = true;
	feed->pending = bytes;
	return FEED_FULL;
}

/* A batch is larger than its limit only where it is a single change. A row of hundreds of
 * megabytes is taken over with the memory in which the log's reader had it. */
static BatchAdd
add_change(Feed *feed, Batch *batch, const Plan *plan, Slice bytes, Error *err)
{
	bool alone = txlog_reader_is_alone(feed->reader, bytes);

	if (batch->change_count > 0 && batch_bytes(batch) + bytes.len > feed->options.batch_bytes)
		return BATCH_CLOSE_FIRST;
	if (!alone)
		return batch_add(batch, plan, &feed->context, bytes, feed->commit_lsn, feed->xid, err);
	BatchAdd added = batch_add_in_place(batch, plan, &feed->context, bytes, feed->commit_lsn,
	                                    feed->xid, err);
	if (added == BATCH_ADDED)
		arena_adopt(batch->arena, txlog_reader_detach(feed->reader), bytes.len);
	return added;
}

static FeedNext
take_change(Feed *feed, Batch *batch, const PgoMessage *message, Slice bytes, Error *err)
{
	bool behind = is_behind(feed);

	if (!behind || is_marker_table(feed, message->change.relation)) {
		const Plan *plan = plan_of(feed, message->change.relation, err);
		if (plan == NULL)
			return FEED_ERROR;
		if (plan->marker) {
			if (!take_marker_row(feed, batch, plan, bytes, err))
				return FEED_ERROR;
		} else if (!plan_skips(plan, feed->commit_lsn, feed->xid)) {
			if (!plan_fits(plan, err)) {
				add_transaction(feed, err);
				return FEED_ERROR;
			}
			switch (add_change(feed, batch, plan, bytes, err)) {
			case BATCH_BAD:
				return FEED_ERROR;
			case BATCH_CLOSE_FIRST:
				return close_first(feed, batch, bytes);
			case BATCH_ADDED:
				break;
			}
		}
	}
	advance(feed, batch);
	return batch->closed ? FEED_FULL : FEED_MORE;
}

static FeedNext
take_truncate(Feed *feed, Batch *batch, const PgoMessage *message, Slice bytes, Error *err)
{
	uint32_t count = 0;

	if (!is_behind(feed)) {
		Table **tables = arena_new_array(feed->message, Table *, message->truncate.count);
		for (uint32_t i = 0; i < message->truncate.count; i++) {
			const Plan *plan = plan_of(feed, message->truncate.relations[i], err);
			if (plan == NULL)
				return FEED_ERROR;
			if (!plan->marker && !plan_skips(plan, feed->commit_lsn, feed->xid))
				tables[count++] = plan->table;
		}
		if (count > 0 && batch->change_count > 0)
			return close_first(feed, batch, bytes); /* P5 */
		if (count > 0)
			batch_add_truncate(batch, tables, count, message->truncate.restart_identity,
			                   feed->commit_lsn, feed->xid);
	}
	advance(feed, batch);
	return batch->closed ? FEED_FULL : FEED_MORE;
}

/* ---- transactions ---- */

static FeedNext
take_begin(Feed *feed, const PgoMessage *message, Error *err)
{
	if (feed->inside) {
		error_set(err, ERROR_PROTOCOL, "a transaction begins inside another");
		return FEED_ERROR;
	}
	int at = lsn_cmp(message->begin.final_lsn, feed->from.commit_lsn);
	feed->inside = true;
	feed->commit_lsn = message->begin.final_lsn;
	feed->xid = message->begin.xid;
	feed->position = 0;
	feed->skip = at < 0 ? LEDGER_WHOLE : at == 0 ? feed->from.position : 0;
	return FEED_MORE;
}

static FeedNext
take_commit(Feed *feed, Batch *batch, const PgoMessage *message, Error *err)
{
	if (!feed->inside || lsn_cmp(message->commit.commit_lsn, feed->commit_lsn) != 0) {
		error_set(err, ERROR_PROTOCOL, "a commit at %s without its begin",
		          LSN_STR(message->commit.commit_lsn));
		return FEED_ERROR;
	}
	feed->inside = false;
	if (is_old(feed)) {
		feed->passed = (FeedPassed){message->commit.commit_lsn, message->commit.end_lsn,
		                            message->commit.time_us};
		return FEED_MORE;
	}
	feed->from = batch->end = (Progress){feed->commit_lsn, LEDGER_WHOLE};
	batch->any = true;
	batch->whole = true;
	batch->end_lsn = message->commit.end_lsn;
	batch->commit_lsn = message->commit.commit_lsn;
	batch->commit_time_us = message->commit.time_us;
	batch->transactions++;
	/* With one lane what a reader of the target sees ends here; half a batch is better than
	 * one that ends inside the next transaction. A transaction that began in an earlier
	 * batch is waiting for its commit. */
	bool enough = batch->change_count >= feed->options.batch_rows / 2 ||
	              batch_bytes(batch) >= feed->options.batch_bytes / 2;
	if ((feed->options.whole && (enough || batch->continues)) || batch->marker_count > 0)
		batch->closed = true;
	return batch->closed ? FEED_FULL : FEED_MORE;
}

/* A new definition of a table that the batch has rows of: those have the old columns. */
static FeedNext
take_relation(Feed *feed, Batch *batch, const PgoMessage *message)
{
	const Relation *old = relation_map_get(feed->relations, message->relation.oid);
	const Relation *now = relation_map_put(feed->relations, &message->relation);

	if (old != NULL && old != now && batch->change_count > 0) {
		batch->closed = true;
		return FEED_FULL;
	}
	return FEED_MORE;
}

static FeedNext
take_message(Feed *feed, Batch *batch, const PgoMessage *message)
{
	if (message->message.transactional && feed->inside &&
	    strcmp(message->message.prefix, feed->options.name) == 0)
		take_marker(feed, batch, message->message.content);
	return FEED_MORE;
}

static FeedNext
take(Feed *feed, Batch *batch, const PgoMessage *message, Slice bytes, Error *err)
{
	switch (message->kind) {
	case PGO_BEGIN:
		if (feed->expected != 0 && feed_met(feed).stream == feed->expected) {
			feed->pending = bytes;
			return FEED_MET;
		}
		return take_begin(feed, message, err);
	case PGO_COMMIT:
		return take_commit(feed, batch, message, err);
	case PGO_RELATION:
		return take_relation(feed, batch, message);
	case PGO_ORIGIN:
	case PGO_TYPE:
		return FEED_MORE;
	case PGO_INSERT:
	case PGO_UPDATE:
	case PGO_DELETE:
		return take_change(feed, batch, message, bytes, err);
	case PGO_TRUNCATE:
		return take_truncate(feed, batch, message, bytes, err);
	case PGO_MESSAGE:
		return take_message(feed, batch, message);
	default:
		error_set(err, ERROR_PROTOCOL, "pgoutput message '%c' in the transaction log",
		          (char)message->kind);
		return FEED_ERROR;
	}
}

/* Row changes are parsed once, by the batch that keeps them: here only the relation. */
static bool
parse(Feed *feed, Slice bytes, PgoMessage *message, Error *err)
{
	ByteReader r = reader_of(bytes);
	uint8_t kind = read_u8(&r);

	if (kind != PGO_INSERT && kind != PGO_UPDATE && kind != PGO_DELETE)
		return pgoutput_parse(&feed->context, bytes, feed->message, message, err);
	memset(message, 0, sizeof(*message));
	message->kind = (PgoKind)kind;
	message->change.relation = read_u32(&r);
	return !r.failed || error_set(err, ERROR_PROTOCOL, "pgoutput message cut short");
}

FeedNext
feed_next(Feed *feed, Batch *batch, const Stop *stop, int64_t deadline_ms, Error *err)
{
	PgoMessage message;
	Slice bytes = feed->pending;

	CHECK(!batch->closed);
	feed->pending = SLICE_EMPTY;
	if (bytes.data == NULL) {
		switch (txlog_reader_next(feed->reader, stop, deadline_ms, &bytes, err)) {
		case TXLOG_MESSAGE:
			break;
		case TXLOG_WAIT:
			return FEED_WAIT;
		case TXLOG_ERROR:
			return FEED_ERROR;
		}
	}
	arena_reset(feed->message);
	if (!parse(feed, bytes, &message, err)) {
		error_add_context(err, "transaction log, transaction %s", LSN_STR(feed->commit_lsn));
		return FEED_ERROR;
	}
	bool change = message.kind == PGO_INSERT || message.kind == PGO_UPDATE ||
	              message.kind == PGO_DELETE || message.kind == PGO_TRUNCATE;
	if (change && !feed->inside) {
		error_set(err, ERROR_PROTOCOL, "a change outside of a transaction");
		return FEED_ERROR;
	}
	return take(feed, batch, &message, bytes, err);
}
