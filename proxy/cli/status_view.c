#include "proxy/cli/status_view.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/memory.h"
#include "proxy/cli/client.h"
#include "proxy/cli/format.h"

enum { BAR = 30, SMALL_BAR = 12 };

#define BYTES(n) format_bytes((n), (char[FORMAT_SIZE]){0})
#define SECONDS(n) format_seconds((n), (char[FORMAT_SIZE]){0})
#define COUNT(n) format_count((n), (char[FORMAT_SIZE]){0})

/* Change of a number a second. -1: unknown. */
static double
rate_of(const json_t *status, const json_t *before, double seconds, const char *path)
{
	if (before == NULL || seconds <= 0)
		return -1;
	double change = doc_number(status, path) - doc_number(before, path);
	return change < 0 ? -1 : change / seconds;
}

/* As the process has measured it, over more than the last second. */
static double
copy_rate(const json_t *status, const json_t *before, double seconds)
{
	double rate = doc_number(status, "copy.rate");

	return rate > 0 ? rate : rate_of(status, before, seconds, "copy.bytes");
}

/* Seconds from `since` to `now`, both of the process's clock; -1: unknown. */
static double
age_of_state(const json_t *status)
{
	struct tm since = {0}, now = {0};

	if (strptime(doc_text(status, "since"), "%Y-%m-%dT%H:%M:%S", &since) == NULL ||
	    strptime(doc_text(status, "now"), "%Y-%m-%dT%H:%M:%S", &now) == NULL)
		return -1;
	return difftime(timegm(&now), timegm(&since));
}

static void
view_head(FILE *out, const json_t *status)
{
	fprintf(out, "migration  ");
	print_plain(out, doc_text(status, "name"));
	fprintf(out, " (%s)\n", doc_text(status, "mode"));
	fprintf(out, "state      %s%s for %s", doc_text(status, "state"),
	        doc_true(status, "paused") ? ", paused," : "", SECONDS(age_of_state(status)));
	if (doc_text(status, "detail")[0] != '\0') {
		fputs(": ", out);
		print_plain(out, doc_text(status, "detail"));
	}
	fputc('\n', out);
}

static void
view_error(FILE *out, const json_t *status, const char *path, const char *title)
{
	Error err = ERROR_INIT;

	if (!doc_error(status, path, &err))
		return;
	fprintf(out, "%-10s ", title);
	if (err.context[0] != '\0') {
		print_plain(out, err.context);
		fputs(": ", out);
	}
	print_plain(out, err.message);
	if (err.sqlstate[0] != '\0')
		fprintf(out, " (SQLSTATE %s)", err.sqlstate);
	if (err.hint[0] != '\0') {
		fputs("\n           ", out);
		print_plain(out, err.hint);
	}
	fputc('\n', out);
}

static void
view_copy(FILE *out, const json_t *status, const json_t *before, double seconds)
{
	char bar[FORMAT_SIZE];
	double bytes = doc_number(status, "copy.bytes");
	double total = doc_number(status, "copy.bytes_total");

	fprintf(out, "copy       %s  %s of about %s, %s rows", format_bar(bytes, total, BAR, bar),
	        BYTES(bytes), BYTES(total), COUNT(doc_number(status, "copy.rows")));
	if (strcmp(doc_text(status, "state"), "copying") == 0) {
		double rate = copy_rate(status, before, seconds);
		if (rate >= 0)
			fprintf(out, ", %s/s", BYTES(rate));
		if (json_is_number(doc_at(status, "copy.eta_seconds")))
			fprintf(out, ", about %s left", SECONDS(doc_number(status, "copy.eta_seconds")));
	}
	fputc('\n', out);
}

static void
view_large_objects(FILE *out, const json_t *status)
{
	double total = doc_number(status, "large_objects.objects_total");

	if (total > 0)
		fprintf(out, "           %s of %s large objects, %s of about %s\n",
		        COUNT(doc_number(status, "large_objects.objects")), COUNT(total),
		        BYTES(doc_number(status, "large_objects.bytes")),
		        BYTES(doc_number(status, "large_objects.bytes_total")));
}

static void
view_stream(FILE *out, const json_t *status, const json_t *before, double seconds)
{
	double rate = rate_of(status, before, seconds, "stream.transactions");

	fprintf(out, "lag        %s; %s to receive, %s to apply, %s transactions waiting\n",
	        SECONDS(doc_number(status, "lag.seconds")),
	        BYTES(doc_number(status, "lag.received_bytes")),
	        BYTES(doc_number(status, "lag.applied_bytes")),
	        COUNT(doc_number(status, "lag.pending_transactions")));
	if (json_is_string(doc_at(status, "stream.waiting"))) {
		fputs("waiting    ", out);
		print_plain(out, doc_text(status, "stream.waiting"));
		fputc('\n', out);
	}
	fprintf(out, "stream     %s transactions applied",
	        COUNT(doc_number(status, "stream.transactions")));
	if (rate >= 0)
		fprintf(out, " (%s a second)", COUNT(rate));
	fprintf(
		out, ": %s inserts, %s updates, %s deletes, %s truncates\n",
		COUNT(doc_number(status, "stream.inserts")), COUNT(doc_number(status, "stream.updates")),
		COUNT(doc_number(status, "stream.deletes")), COUNT(doc_number(status, "stream.truncates")));
	fprintf(out, "position   source %s, received %s, logged %s, applied %s\n",
	        doc_text(status, "stream.source_lsn"), doc_text(status, "stream.received_lsn"),
	        doc_text(status, "stream.logged_lsn"), doc_text(status, "stream.applied_lsn"));
	fprintf(out, "log        %s on disk in %s segments%s\n",
	        BYTES(doc_number(status, "log.bytes_on_disk")),
	        COUNT(doc_number(status, "log.segments")),
	        doc_true(status, "receiver.held_by_log") ? "; at its limit: the source is held back"
	        : doc_true(status, "receiver.held_by_disk")
	            ? "; its disk is behind: the source is held back"
	            : "");
}

static void
view_slot(FILE *out, const json_t *status)
{
	if (!doc_true(status, "slot.exists"))
		return;
	fprintf(out, "slot       holds back %s of WAL on the source",
	        BYTES(doc_number(status, "slot.kept_bytes")));
	if (json_is_number(doc_at(status, "slot.safe_bytes")))
		fprintf(out, ", lost after %s more", BYTES(doc_number(status, "slot.safe_bytes")));
	if (doc_true(status, "slot.lost")) {
		fputs("; LOST: ", out);
		print_plain(out, doc_text(status, "slot.why"));
	}
	fputc('\n', out);
	if (doc_number(status, "slot.reading_seconds") > 0)
		fprintf(out, "source     decodes at %s, %s before its end; has sent no change for %.0f s\n",
		        doc_text(status, "slot.read_lsn"), BYTES(doc_number(status, "slot.unread_bytes")),
		        doc_number(status, "slot.reading_seconds"));
	if (json_is_string(doc_at(status, "slot.warning"))) {
		fputs("WARNING    ", out);
		print_plain(out, doc_text(status, "slot.warning"));
		fputc('\n', out);
	}
}

static void
view_index(FILE *out, const json_t *running)
{
	char bar[FORMAT_SIZE];

	fprintf(out, "  indexing %s  ", format_bar(doc_number(running, "share"), 1, SMALL_BAR, bar));
	print_plain(out, doc_text(running, "name"));
	fputs(" of ", out);
	print_plain(out, doc_text(running, "schema"));
	fputc('.', out);
	print_plain(out, doc_text(running, "table"));
	fputs(": ", out);
	print_plain(out, doc_text(running, "phase"));
	fputc('\n', out);
}

static void
view_indexes(FILE *out, const json_t *status)
{
	char bar[FORMAT_SIZE];
	const json_t *list = doc_at(status, "index.running");
	double bytes = doc_number(status, "index.bytes");
	double total = doc_number(status, "index.bytes_total");

	if (doc_number(status, "index.count") < 1)
		return;
	fprintf(out, "indexes    %s  %.0f of %.0f steps, %s of about %s\n",
	        format_bar(bytes, total, BAR, bar), doc_number(status, "index.done"),
	        doc_number(status, "index.count"), BYTES(bytes), BYTES(total));
	for (size_t i = 0; i < json_array_size(list); i++)
		view_index(out, json_array_get(list, i));
}

static void
view_eta(FILE *out, const json_t *status)
{
	const char *until = doc_text(status, "eta.until");

	if (until[0] == '\0')
		return;
	if (json_is_number(doc_at(status, "eta.seconds"))) {
		fprintf(out, "eta        about %s", SECONDS(doc_number(status, "eta.seconds")));
	} else {
		fputs("eta        unknown: ", out);
		print_plain(out, doc_text(status, "eta.unknown"));
	}
	fprintf(out, " (until %s)\n",
	        strcmp(until, "copied") == 0 ? "rows and indexes are in" : "it follows");
}

/* What the copy costs the source, and what it is kept to. */
static void
view_care(FILE *out, const json_t *status)
{
	double age = doc_number(status, "copy.oldest_snapshot_seconds");
	double limit = doc_number(status, "copy.rate_limit");

	if (age > 0)
		fprintf(out, "snapshot   the oldest of ours on the source is %s old\n", SECONDS(age));
	if (json_is_string(doc_at(status, "copy.waiting"))) {
		fputs("waiting    ", out);
		print_plain(out, doc_text(status, "copy.waiting"));
		fputc('\n', out);
	}
	if (limit > 0)
		fprintf(out, "throttle   at most %s a second\n", BYTES(limit));
	if (json_is_string(doc_at(status, "copy.held"))) {
		fputs("held       the copy rests: ", out);
		print_plain(out, doc_text(status, "copy.held"));
		fputc('\n', out);
	}
}

static void
view_addition(FILE *out, const json_t *status)
{
	const json_t *addition = doc_at(status, "addition");

	if (doc_number(addition, "id") < 1)
		return;
	fprintf(out, "%-10s %s, %.0f tables", doc_true(addition, "recopy") ? "recopy" : "addition",
	        doc_text(addition, "outcome"), doc_number(addition, "tables"));
	if (doc_text(addition, "step")[0] != '\0') {
		fputs(": ", out);
		print_plain(out, doc_text(addition, "step"));
	}
	fputc('\n', out);
	view_error(out, addition, "error", "");
}

static void
view_way_back(FILE *out, const json_t *status)
{
	const json_t *back = doc_at(status, "way_back");
	const char *state = doc_text(back, "state");

	if (state[0] == '\0' || strcmp(state, "none") == 0)
		return;
	fprintf(out, "way back   %s", state);
	if (strcmp(state, "following") == 0)
		fprintf(out, "; %s to receive, %s to apply, %s transactions applied on the old source",
		        BYTES(doc_number(back, "received_bytes")), BYTES(doc_number(back, "applied_bytes")),
		        COUNT(doc_number(back, "transactions")));
	fputc('\n', out);
	view_error(out, back, "error", "");
}

static void
view_cutover(FILE *out, const json_t *status)
{
	const json_t *cutover = doc_at(status, "cutover");
	const char *outcome = doc_text(cutover, "outcome");
	const char *what = doc_true(cutover, "failback") ? "failback" : "cutover";

	if (doc_number(cutover, "id") < 1)
		return;
	if (strcmp(outcome, "running") == 0) {
		fprintf(out, "%-10s running: %s\n", what, doc_text(cutover, "step"));
		return;
	}
	fprintf(out,
	        "%-10s %s; writes held %.1f ms (fence %.1f, drain %.1f, sequences %.1f, "
	        "commit %.1f), %.0f sequences\n",
	        what, outcome, doc_number(cutover, "hold_ms"), doc_number(cutover, "fence_ms"),
	        doc_number(cutover, "drain_ms"), doc_number(cutover, "sequences_ms"),
	        doc_number(cutover, "commit_ms"), doc_number(cutover, "sequences"));
	view_error(out, cutover, "error", "");
}

/* ---- tables ---- */

/* What needs eyes first: errored, copying, queued, copied. */
static int
table_rank(const json_t *table)
{
	static const char *const order[] = {"errored", "copying", "queued", "copied"};

	for (int i = 0; i < 4; i++) {
		if (strcmp(doc_text(table, "state"), order[i]) == 0)
			return i;
	}
	return 4;
}

typedef struct {
	const json_t *table;
	size_t place; /* in the document: largest first, kept within a rank */
} Ranked;

static int
by_rank(const void *left, const void *right)
{
	const Ranked *a = left;
	const Ranked *b = right;
	int ranks = table_rank(a->table) - table_rank(b->table);

	return ranks != 0 ? ranks : (a->place > b->place) - (a->place < b->place);
}

/* On the wire where that is known, else on the source's disk. */
static double
expected_of(const json_t *table)
{
	double expected = doc_number(table, "bytes_expected");

	return expected > 0 ? expected : doc_number(table, "bytes_total");
}

static void
view_table(FILE *out, const json_t *table)
{
	char bar[FORMAT_SIZE];
	const char *state = doc_text(table, "state");

	fprintf(out, "  %-8s ", state);
	bool copying = strcmp(state, "copying") == 0;
	if (copying)
		fprintf(out, "%s  ",
		        format_bar(doc_number(table, "bytes"), expected_of(table), SMALL_BAR, bar));
	print_plain(out, doc_text(table, "schema"));
	fputc('.', out);
	print_plain(out, doc_text(table, "name"));
	fprintf(out, "  %s rows, %s", COUNT(doc_number(table, "rows")),
	        BYTES(doc_number(table, "bytes")));
	if (copying || strcmp(state, "queued") == 0)
		fprintf(out, " of about %s", BYTES(expected_of(table)));
	if (copying && doc_number(table, "rate") > 0)
		fprintf(out, ", %s/s", BYTES(doc_number(table, "rate")));
	if (copying && json_is_number(doc_at(table, "eta_seconds")))
		fprintf(out, ", about %s left", SECONDS(doc_number(table, "eta_seconds")));
	double changes = doc_number(table, "inserts") + doc_number(table, "updates") +
	                 doc_number(table, "deletes");
	if (changes > 0)
		fprintf(out, "; +%s ~%s -%s", COUNT(doc_number(table, "inserts")),
		        COUNT(doc_number(table, "updates")), COUNT(doc_number(table, "deletes")));
	if (json_is_string(doc_at(table, "error"))) {
		fputs("\n           ", out);
		print_plain(out, doc_text(table, "error"));
	}
	fputc('\n', out);
}

static void
view_listener(FILE *out, const json_t *status)
{
	if (!json_is_object(doc_at(status, "listener")))
		return;
	fprintf(out, "listener   %.0f clients on the %s, %.0f held, %.0f logging in\n",
	        doc_number(status, "listener.sessions"), doc_text(status, "listener.route"),
	        doc_number(status, "listener.held"), doc_number(status, "listener.logins"));
}

/* The process was asked for no more; its last word has all. */
static void
view_tables(FILE *out, const json_t *status, const char *tables)
{
	const json_t *list = doc_at(status, "table");
	size_t count = json_array_size(list);
	size_t all = (size_t)doc_number(status, "tables.matching");
	size_t most = strcmp(tables, "all") == 0 ? count : (size_t)strtoul(tables, NULL, 10);

	fprintf(out, "tables     %.0f copied, %.0f copying, %.0f queued, %.0f errored\n",
	        doc_number(status, "tables.copied"), doc_number(status, "tables.copying"),
	        doc_number(status, "tables.queued"), doc_number(status, "tables.errored"));
	if (count == 0)
		return;
	Ranked *ranked = mem_alloc(count * sizeof(*ranked));
	for (size_t i = 0; i < count; i++)
		ranked[i] = (Ranked){json_array_get(list, i), i};
	qsort(ranked, count, sizeof(*ranked), by_rank);
	if (most > count)
		most = count;
	for (size_t i = 0; i < most; i++)
		view_table(out, ranked[i].table);
	if (all > most)
		fprintf(out, "  and %zu more (--tables all)\n", all - most);
	free(ranked);
}

void
status_view(FILE *out, const json_t *status, const char *tables, const json_t *before,
            double seconds)
{
	view_head(out, status);
	view_error(out, status, "error", doc_true(status, "retrying") ? "retrying" : "error");
	if (strcmp(doc_text(status, "mode"), "online") == 0) {
		view_stream(out, status, before, seconds);
		view_slot(out, status);
		view_addition(out, status);
		view_cutover(out, status);
		view_way_back(out, status);
	}
	view_listener(out, status);
	view_copy(out, status, before, seconds);
	view_indexes(out, status);
	view_eta(out, status);
	view_care(out, status);
	view_large_objects(out, status);
	view_tables(out, status, tables);
}

void
status_line(FILE *out, const json_t *status, const json_t *before, double seconds)
{
	Error err = ERROR_INIT;

	fprintf(out, "%s %s%s", doc_text(status, "now"), doc_text(status, "state"),
	        doc_true(status, "paused") ? " (paused)" : "");
	if (strcmp(doc_text(status, "state"), "copying") == 0) {
		double rate = copy_rate(status, before, seconds);
		fprintf(out, ", %s of about %s", BYTES(doc_number(status, "copy.bytes")),
		        BYTES(doc_number(status, "copy.bytes_total")));
		if (rate >= 0)
			fprintf(out, ", %s/s", BYTES(rate));
		if (doc_number(status, "index.count") > 0)
			fprintf(out, ", indexes %.0f of %.0f", doc_number(status, "index.done"),
			        doc_number(status, "index.count"));
		if (json_is_number(doc_at(status, "eta.seconds")))
			fprintf(out, ", about %s left", SECONDS(doc_number(status, "eta.seconds")));
	}
	fprintf(out, ", lag %s, %s transactions", SECONDS(doc_number(status, "lag.seconds")),
	        COUNT(doc_number(status, "stream.transactions")));
	if (doc_error(status, "error", &err)) {
		fputs(", error: ", out);
		print_plain(out, err.message);
	}
	fputc('\n', out);
}
