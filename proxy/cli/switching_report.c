#include "proxy/cli/switching_report.h"

#include <stdio.h>
#include <string.h>

#include "proxy/cli/client.h"
#include "proxy/cli/format.h"

/* ---- whom it concerns ---- */

static void
print_bypassing(const json_t *cutover)
{
	const json_t *list = doc_at(cutover, "bypassing");
	size_t i;
	json_t *group;

	if (json_array_size(list) == 0)
		return;
	printf("%.0f sessions on the side that is left; their writes are refused (25006) after the "
	       "switch:\n",
	       doc_number(cutover, "bypassing_sessions"));
	json_array_foreach (list, i, group) {
		printf("  %.0f of user ", doc_number(group, "sessions"));
		print_plain(stdout, doc_text(group, "user"));
		fputs(", application \"", stdout);
		print_plain(stdout, doc_text(group, "application"));
		fputs("\", from ", stdout);
		print_plain(stdout, doc_text(group, "address"));
		puts(doc_number(group, "writing") > 0 ? " (writing as it began)" : "");
	}
}

static void
print_unmovable(const json_t *cutover)
{
	const json_t *list = doc_at(cutover, "unmovable");
	double count = doc_number(cutover, "sessions_unmovable");
	size_t i;
	json_t *session;

	if (count < 1)
		return;
	printf("%.0f of the listener's sessions that cannot be moved, and would be %s:\n", count,
	       doc_number(cutover, "sessions_closed") > 0 ? "closed (57P01)" : "waited for");
	json_array_foreach (list, i, session) {
		printf("  %.0f ", doc_number(session, "pid"));
		print_plain(stdout, doc_text(session, "who"));
		fputs(": ", stdout);
		print_plain(stdout, doc_text(session, "reason"));
		putchar('\n');
	}
	if (count > (double)json_array_size(list))
		printf("  and %.0f others: `pgbaton sessions`\n", count - (double)json_array_size(list));
}

/* ---- what did not come along ---- */

static void
print_definitions(const json_t *cutover)
{
	const json_t *list = doc_at(cutover, "definitions");
	double count = doc_number(cutover, "definitions_changed");
	size_t i;
	json_t *text;

	if (json_array_size(list) == 0)
		return;
	printf("%.0f definitions have changed on the source since the schema was copied; DDL is not "
	       "replicated, make them on the target:\n",
	       count);
	json_array_foreach (list, i, text) {
		fputs("  ", stdout);
		print_plain(stdout, json_string_value(text));
		putchar('\n');
	}
	if (count > (double)json_array_size(list))
		printf("  and %.0f more\n", count - (double)json_array_size(list));
}

/* ---- how long it took ---- */

static void
print_step(const json_t *cutover, const char *label, const char *key)
{
	double took_ms = doc_number(cutover, key);

	if (took_ms > 0)
		printf("  %-24s %8.1f ms\n", label, took_ms);
}

static void
print_large_objects(const json_t *cutover)
{
	double took_ms = doc_number(cutover, "large_objects_ms");

	if (took_ms > 0)
		printf("  %-24s %8.1f ms: %.0f of %.0f differed\n", "comparing large objects", took_ms,
		       doc_number(cutover, "large_objects_differed"), doc_number(cutover, "large_objects"));
}

static void
print_steps(const json_t *cutover)
{
	print_step(cutover, "before the hold", "prepare_ms");
	print_step(cutover, "all sessions held", "quiet_ms");
	print_step(cutover, "locks on all tables", "fence_ms");
	print_step(cutover, "marker", "marker_ms");
	print_step(cutover, "drain to the marker", "drain_ms");
	print_large_objects(cutover);
	print_step(cutover, "comparing rows", "verify_ms");
	print_step(cutover, "sequences", "sequences_ms");
	print_step(cutover, "sessions opened (beside)", "sessions_ms");
	print_step(cutover, "commits", "commit_ms");
	if (doc_number(cutover, "attempts") > 1)
		printf("  %-24s %8.0f\n", "attempts", doc_number(cutover, "attempts"));
}

static void
print_rehearsal(const json_t *cutover)
{
	printf("rehearsed: a cutover now would hold writes for about %.1f ms; nothing was changed\n",
	       doc_number(cutover, "hold_ms"));
	print_steps(cutover);
	printf("  %.0f sequences, %.0f sessions would be moved, %.0f closed\n",
	       doc_number(cutover, "sequences"), doc_number(cutover, "sessions_moved"),
	       doc_number(cutover, "sessions_closed"));
	print_unmovable(cutover);
	print_bypassing(cutover);
	print_definitions(cutover);
}

static void
print_switched(const json_t *cutover)
{
	printf("%s: writes were held %.1f ms (drain %.1f ms), %.0f sequences set, %.0f sessions moved, "
	       "%.0f closed\n",
	       doc_true(cutover, "failback") ? "failed back: the old source is live" : "switched",
	       doc_number(cutover, "hold_ms"), doc_number(cutover, "drain_ms"),
	       doc_number(cutover, "sequences"), doc_number(cutover, "sessions_moved"),
	       doc_number(cutover, "sessions_closed"));
	print_definitions(cutover);
}

void
report_switch(const json_t *status, bool ok, bool as_json)
{
	const json_t *cutover = doc_at(status, "cutover");
	const char *outcome = doc_text(cutover, "outcome");

	if (as_json) {
		json_dumpf(cutover, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
		putchar('\n');
		return;
	}
	if (strcmp(outcome, "switched") == 0)
		print_switched(cutover);
	else if (strcmp(outcome, "rehearsed") == 0)
		print_rehearsal(cutover);
	else if (ok && strcmp(outcome, "none") == 0) /* a start since has found it switched */
		puts(doc_text(status, "state"));
}
