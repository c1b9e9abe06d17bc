/*
 * pgbaton log: what the transaction log on disk says, one line a message. Works
 * beside a running migration: it only reads, and takes no lock.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/arena.h"
#include "common/bytes.h"
#include "common/clock.h"
#include "common/memory.h"
#include "decoder/pgoutput.h"
#include "decoder/relation.h"
#include "decoder/txlog/txlog.h"
#include "proxy/cli/cli.h"

static const char help_text[] =
	"usage: pgbaton log --state-dir DIR [--from LSN]\n"
	"\n"
	"Prints the transaction log below DIR, one line a message: commit LSN, xid,\n"
	"what, and the values (shortened; binary ones as their length).\n"
	"\n"
	"  --state-dir DIR  the state directory of `pgbaton run`\n"
	"  --from LSN       only transactions that committed there or later\n"
	"  --help           this text\n"
	"\n"
	"Exit codes: 0 printed, 1 the log cannot be read or is damaged, 2 usage.\n";

/* The longest text of a value that is printed. */
enum { VALUE_MAX = 40 };

typedef struct {
	Arena *arena; /* of one message */
	RelationMap *relations;
	Lsn commit; /* of the transaction being printed; 0: between two */
	uint32_t xid;
	bool torn;
	Error error;
} Printer;

/* Quotes doubled, control characters escaped, cut at a character's edge. */
static void
print_text(Slice bytes)
{
	size_t len = bytes.len <= VALUE_MAX ? bytes.len : VALUE_MAX;

	while (len < bytes.len && len > 0 && (bytes.data[len] & 0xC0) == 0x80)
		len--;
	putchar('\'');
	for (size_t i = 0; i < len; i++) {
		uint8_t c = bytes.data[i];
		if (c < 0x20 || c == 0x7F)
			printf("\\x%02x", c);
		else
			fputs(c == '\'' ? "''" : (char[]){(char)c, '\0'}, stdout);
	}
	putchar('\'');
	if (len < bytes.len)
		printf("...(%zu bytes)", bytes.len);
}

static void
print_value(const Value *value)
{
	switch (value->kind) {
	case VALUE_NULL:
		fputs("NULL", stdout);
		break;
	case VALUE_UNCHANGED:
		fputs("(unchanged)", stdout);
		break;
	case VALUE_TEXT:
		print_text(value->bytes);
		break;
	case VALUE_BINARY:
		printf("(binary, %zu bytes)", value->bytes.len);
		break;
	}
}

static void
print_row(const Relation *relation, const Tuple *row, bool key_only)
{
	for (unsigned i = 0; i < row->count; i++) {
		const PgoColumn *column = relation != NULL && i < relation->def.count
		                              ? &relation->def.columns[i]
		                              : NULL;
		if (key_only && column != NULL && !column->key)
			continue;
		if (column != NULL)
			printf(" %s=", column->name);
		else
			printf(" [%u]=", i + 1);
		print_value(&row->values[i]);
	}
}

static const Relation *
print_table(const Printer *p, uint32_t oid)
{
	const Relation *relation = relation_map_get(p->relations, oid);
	if (relation != NULL)
		printf(" %s.%s", relation->def.schema, relation->def.name);
	else
		printf(" (relation %u, not described before)", oid);
	return relation;
}

static void
print_change(Printer *p, const PgoMessage *m)
{
	const char *verb = m->kind == PGO_INSERT   ? "insert"
	                   : m->kind == PGO_UPDATE ? "update"
	                                           : "delete";

	fputs(verb, stdout);
	const Relation *relation = print_table(p, m->change.relation);
	if (m->change.old_kind != OLD_NONE) {
		fputs(m->change.old_kind == OLD_KEY ? " key" : " old", stdout);
		print_row(relation, &m->change.old_row, m->change.old_kind == OLD_KEY);
	}
	if (m->kind != PGO_DELETE) {
		fputs(m->change.old_kind != OLD_NONE ? " new" : "", stdout);
		print_row(relation, &m->change.new_row, false);
	}
}

static void
print_truncate(const Printer *p, const PgoMessage *m)
{
	fputs("truncate", stdout);
	for (uint32_t i = 0; i < m->truncate.count; i++)
		print_table(p, m->truncate.relations[i]);
	fputs(m->truncate.cascade ? " cascade" : "", stdout);
	fputs(m->truncate.restart_identity ? " restart identity" : "", stdout);
}

static void
print_relation(Printer *p, const PgoMessage *m)
{
	const PgoRelation *r = &m->relation;

	relation_map_put(p->relations, r);
	relation_map_trim(p->relations);
	printf("relation %s.%s oid %u identity %c:", r->schema, r->name, r->oid, r->replica_identity);
	for (unsigned i = 0; i < r->count; i++)
		printf(" %s(%u)%s", r->columns[i].name, r->columns[i].type_oid,
		       r->columns[i].key ? "*" : "");
}

static void
print_time(int64_t pg_us)
{
	int64_t us = pg_us + CLOCK_PG_EPOCH_US;
	time_t seconds = (time_t)(us / 1000000);
	struct tm tm;
	char text[32] = "?";

	if (gmtime_r(&seconds, &tm) != NULL)
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	printf(" %s.%06dZ", text, (int)(us % 1000000));
}

static void
print_body(Printer *p, const PgoMessage *m)
{
	switch (m->kind) {
	case PGO_BEGIN:
		fputs("begin", stdout);
		print_time(m->begin.time_us);
		break;
	case PGO_COMMIT:
		printf("commit, end %s", LSN_STR(m->commit.end_lsn));
		print_time(m->commit.time_us);
		break;
	case PGO_ORIGIN:
		printf("origin %s %s", m->origin.name, LSN_STR(m->origin.lsn));
		break;
	case PGO_RELATION:
		print_relation(p, m);
		break;
	case PGO_TYPE:
		printf("type %s.%s oid %u", m->type.schema, m->type.name, m->type.oid);
		break;
	case PGO_INSERT:
	case PGO_UPDATE:
	case PGO_DELETE:
		print_change(p, m);
		break;
	case PGO_TRUNCATE:
		print_truncate(p, m);
		break;
	case PGO_MESSAGE:
		printf("message at %s %s%s ", LSN_STR(m->message.lsn), m->message.prefix,
		       m->message.transactional ? "" : " (not transactional)");
		print_text(m->message.content);
		break;
	default:
		printf("message of kind %c", m->kind);
		break;
	}
}

static bool
print_message(void *arg, const char *segment, uint64_t offset, Slice message)
{
	static const PgoContext context = {.proto_version = 1};
	Printer *p = arg;
	PgoMessage m;

	if (message.len == 0) {
		printf("torn tail: segment %s, offset %" PRIu64
		       ": a write or a transaction that is not finished\n",
		       segment, offset);
		p->torn = true;
		return true;
	}
	arena_reset(p->arena);
	if (!pgoutput_parse(&context, message, p->arena, &m, &p->error))
		return error_add_context(&p->error, "segment %s, block at %" PRIu64 ", commit %s", segment,
		                         offset, LSN_STR(p->commit));
	if (m.kind == PGO_BEGIN) {
		p->commit = m.begin.final_lsn;
		p->xid = m.begin.xid;
	}
	if (lsn_valid(p->commit))
		printf("%-17s %10u  ", LSN_STR(p->commit), p->xid);
	else
		printf("%-17s %10s  ", "-", "-");
	print_body(p, &m);
	putchar('\n');
	if (m.kind == PGO_COMMIT)
		p->commit = LSN_INVALID;
	return true;
}

static int
print_log(const char *state_dir, Lsn from)
{
	Printer p = {.arena = arena_new(0), .relations = relation_map_new(), .error = ERROR_INIT};
	char *directory = mem_printf("%s/log", state_dir);
	Error err = ERROR_INIT;

	bool ok = txlog_walk(directory, from, print_message, &p, &err);
	if (ok && p.error.class != ERROR_NONE) {
		err = p.error;
		ok = false;
	}
	/* The lines before the trouble come before it. */
	if (fflush(stdout) != 0 && ok)
		ok = error_set(&err, ERROR_STORAGE, "cannot write the output");
	free(directory);
	relation_map_free(p.relations);
	arena_free(p.arena);
	return ok ? EXIT_DONE : cli_fail(&err);
}

static int
usage(const char *what)
{
	fprintf(stderr, "pgbaton log: %s\n%s", what, help_text);
	return EXIT_USAGE;
}

int
cmd_log(int argc, char **argv)
{
	static const struct option options[] = {
		{"state-dir", required_argument, NULL, 's'},
		{"from", required_argument, NULL, 'f'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	const char *state_dir = NULL;
	Lsn from = LSN_INVALID;

	optind = 1;
	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (c) {
		case 's':
			state_dir = optarg;
			break;
		case 'f':
			if (!lsn_parse(optarg, &from))
				return usage("--from wants a position like 16/B374D848");
			break;
		case 'h':
			fputs(help_text, stdout);
			return EXIT_DONE;
		default:
			return usage("unknown option, or one without its value");
		}
	}
	if (optind < argc)
		return usage("arguments that are no options");
	if (state_dir == NULL)
		return usage("--state-dir is missing");
	return print_log(state_dir, from);
}
