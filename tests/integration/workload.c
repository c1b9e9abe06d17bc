#include "tests/integration/workload.h"

#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/db.h"
#include "tests/harness/spawn.h"
#include "tests/integration/workload_sql.h"

/* Numbers of transactions, in the order of their commits. */
typedef struct {
	int64_t *n;
	size_t count;
	size_t cap;
} Numbers;

typedef struct {
	Workload *w;
	int index;
	pthread_t thread;
	uint64_t random;
	PGconn *conn;
	char *trouble;   /* what stopped the session; NULL: nothing */
	Numbers told;    /* COMMIT was acknowledged */
	Numbers unknown; /* the connection was lost with the COMMIT under way */
	int64_t next;
} Session;

struct Workload {
	WorkloadOptions options;
	char *uri;
	SqlSource *sql;
	Session *sessions;
	bool joined;
	atomic_bool stop;
	atomic_long commits;
	atomic_long refusals;
};

uint64_t
workload_seed(void)
{
	const char *wanted = getenv("PGBATON_SEED");

	if (wanted != NULL && wanted[0] != '\0')
		return strtoull(wanted, NULL, 0);
	return (uint64_t)clock_wall_us() % 1000000007;
}

uint64_t
random_next(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint64_t
random_below(uint64_t *state, uint64_t below)
{
	return random_next(state) % below;
}

/* ---- the schema ---- */

static void
put_line(Buffer *sql, const char *line, size_t len, int level)
{
	char *after;

	if (len > 2 && strncmp(line, "--", 2) == 0) {
		long since = strtol(line + 2, &after, 10);
		if (after != line + 2 && *after == ':') {
			if (level < since)
				return;
			len -= (size_t)(after + 1 - line);
			line = after + 1;
		}
	}
	buffer_put(sql, line, len);
	buffer_put_u8(sql, '\n');
}

void
workload_load(PGconn *conn, const char *file, int level)
{
	Buffer sql = BUFFER_INIT;
	char *path = mem_printf("tests/integration/%s", file);
	char *text = file_read(path);

	ck_assert_msg(text != NULL, "%s: not found; run from the repository's root", path);
	for (const char *line = text; *line != '\0';) {
		size_t len = strcspn(line, "\n");
		put_line(&sql, line, len, level);
		line += len + (line[len] == '\n');
	}
	/* As one query it is one transaction, and DO blocks are in the way of %. */
	db_exec(conn, "%s", buffer_cstr(&sql));
	buffer_free(&sql);
	free(text);
	free(path);
}

/* ---- a session ---- */

static void
remember(Numbers *numbers, int64_t n)
{
	if (numbers->count == numbers->cap) {
		numbers->cap = numbers->cap * 2 + 64;
		numbers->n = mem_realloc(numbers->n, numbers->cap * sizeof(int64_t));
	}
	numbers->n[numbers->count++] = n;
}

typedef enum { WENT_WELL, AGAIN, REFUSED, LOST, TROUBLE } Outcome;

/* What an application has to live with, by SQLSTATE. */
static Outcome
judge(const char *sqlstate)
{
	static const char *const usual[] = {
		"40001", "40P01", "55P03", "55006", "57014", "23505",
		"23503", "23P01", "P0001", "22003", "2200H",
	};

	if (strcmp(sqlstate, "25006") == 0)
		return REFUSED;
	if (strncmp(sqlstate, "08", 2) == 0 || strncmp(sqlstate, "57P", 3) == 0)
		return LOST;
	for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
		if (strcmp(sqlstate, usual[i]) == 0)
			return AGAIN;
	return TROUBLE;
}

static Outcome
run_sql(Session *s, const char *sql)
{
	PGresult *res = PQexec(s->conn, sql);
	ExecStatusType status = PQresultStatus(res);
	Outcome outcome = WENT_WELL;

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
		const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
		outcome = PQstatus(s->conn) == CONNECTION_BAD ? LOST : judge(state != NULL ? state : "XX");
		if (outcome == TROUBLE && s->trouble == NULL)
			s->trouble = mem_printf("%.1000s\n%s", sql, PQerrorMessage(s->conn));
		if (outcome == REFUSED)
			atomic_fetch_add(&s->w->refusals, 1);
	}
	PQclear(res);
	return outcome;
}

static void
ignore_notice(void *arg UNUSED, const PGresult *res UNUSED)
{
}

/* A server that is being restarted is asked again. */
static bool
connected(Session *s)
{
	while (!atomic_load(&s->w->stop)) {
		if (PQstatus(s->conn) == CONNECTION_OK)
			return true;
		PQfinish(s->conn);
		s->conn = PQconnectdb(s->w->uri);
		PQsetNoticeReceiver(s->conn, ignore_notice, NULL);
		if (PQstatus(s->conn) == CONNECTION_OK)
			run_sql(s, "SET deadlock_timeout = '20ms'; SET client_min_messages = error");
		else
			poll(NULL, 0, 20);
	}
	return false;
}

static bool
one_in(Session *s, uint64_t n)
{
	return random_below(&s->random, n) == 0;
}

static Outcome
run_op(Session *s)
{
	char *sql = sql_source_next(s->w->sql, &s->random);
	Outcome outcome = run_sql(s, sql);

	free(sql);
	return outcome;
}

/* An operation in a savepoint that is released, rolled back, or left as it is. */
static Outcome
run_savepoint(Session *s)
{
	Outcome outcome = run_sql(s, "SAVEPOINT sp");

	for (uint64_t i = random_below(&s->random, 3); outcome == WENT_WELL; i--) {
		outcome = run_op(s);
		if (i == 0)
			break;
	}
	if (outcome == AGAIN || (outcome == WENT_WELL && one_in(s, 2)))
		return run_sql(s, "ROLLBACK TO sp");
	if (outcome == WENT_WELL && one_in(s, 2))
		return run_sql(s, "RELEASE sp");
	return outcome;
}

static Outcome
begin(Session *s)
{
	uint64_t dice = random_below(&s->random, 20);

	return run_sql(s, dice == 0  ? "BEGIN ISOLATION LEVEL SERIALIZABLE"
	                  : dice < 4 ? "BEGIN ISOLATION LEVEL REPEATABLE READ"
	                             : "BEGIN");
}

static Outcome
write_book(Session *s, int64_t n)
{
	char *sql = mem_printf("INSERT INTO hist.commits VALUES (%d, %lld)", s->index, (long long)n);
	Outcome outcome = run_sql(s, sql);

	free(sql);
	return outcome;
}

/* Up to COMMIT; the transaction is open or the outcome is bad. */
static Outcome
run_body(Session *s, int64_t n)
{
	Outcome outcome = begin(s);
	bool book_first = one_in(s, 2);

	if (outcome == WENT_WELL && book_first)
		outcome = write_book(s, n);
	for (uint64_t i = random_below(&s->random, 5); outcome == WENT_WELL; i--) {
		outcome = one_in(s, 4) ? run_savepoint(s) : run_op(s);
		if (i == 0)
			break;
	}
	if (outcome == WENT_WELL && !book_first)
		outcome = write_book(s, n);
	return outcome;
}

static Outcome
run_transaction(Session *s)
{
	int64_t n = s->next++;
	Outcome outcome = run_body(s, n);

	if (outcome != WENT_WELL || one_in(s, 15)) {
		if (PQstatus(s->conn) == CONNECTION_OK)
			run_sql(s, "ROLLBACK");
		return outcome;
	}
	outcome = run_sql(s, "COMMIT");
	if (outcome == WENT_WELL) {
		remember(&s->told, n);
		atomic_fetch_add(&s->w->commits, 1);
	} else if (outcome == LOST || outcome == TROUBLE) {
		remember(&s->unknown, n);
	}
	return outcome;
}

/* Keeps to the rate, without catching up after a hold. */
static void
pace(Session *s, int64_t *due_us)
{
	int per_second = s->w->options.per_second;

	if (per_second == 0)
		return;
	int64_t now = clock_mono_us();
	*due_us += 1000000 / per_second;
	if (*due_us < now - 100000)
		*due_us = now - 100000;
	if (*due_us > now)
		poll(NULL, 0, (int)((*due_us - now + 999) / 1000));
}

static void *
session_main(void *arg)
{
	Session *s = arg;
	int64_t due_us = clock_mono_us();

	while (s->trouble == NULL && connected(s)) {
		/* A fence is on for milliseconds, or for ever. */
		if (run_transaction(s) == REFUSED)
			poll(NULL, 0, 5);
		pace(s, &due_us);
	}
	PQfinish(s->conn);
	s->conn = NULL;
	return NULL;
}

/* ---- all sessions ---- */

Workload *
workload_start(const WorkloadOptions *options)
{
	Workload *w = mem_zalloc(sizeof(Workload));
	PGconn *conn = db_connect_uri(options->uri);

	w->options = *options;
	w->uri = mem_strdup(options->uri);
	w->sql = sql_source_new(conn, options->types);
	PQfinish(conn);
	w->sessions = mem_zalloc((size_t)options->sessions * sizeof(Session));
	for (int i = 0; i < options->sessions; i++) {
		Session *s = &w->sessions[i];
		s->w = w;
		s->index = i;
		s->random = options->seed + (uint64_t)i * 7919;
		s->next = 1;
		ck_assert_int_eq(pthread_create(&s->thread, NULL, session_main, s), 0);
	}
	return w;
}

long
workload_commits(const Workload *w)
{
	return atomic_load(&w->commits);
}

long
workload_refusals(const Workload *w)
{
	return atomic_load(&w->refusals);
}

void
workload_wait_commits(Workload *w, long more, int timeout_s)
{
	long goal = workload_commits(w) + more;
	int64_t deadline = deadline_in_ms((int64_t)timeout_s * 1000);

	while (workload_commits(w) < goal) {
		if (deadline_left_ms(deadline) == 0) {
			long missing = goal - workload_commits(w);
			workload_stop(w); /* names what stopped a session, if that is it */
			ck_abort_msg("the application cannot write: %ld of %ld transactions missing after"
			             " %d s, %ld refusals",
			             missing, more, timeout_s, workload_refusals(w));
		}
		poll(NULL, 0, 5);
	}
}

void
workload_stop(Workload *w)
{
	if (w->joined)
		return;
	w->joined = true;
	atomic_store(&w->stop, true);
	for (int i = 0; i < w->options.sessions; i++)
		pthread_join(w->sessions[i].thread, NULL);
	for (int i = 0; i < w->options.sessions; i++)
		if (w->sessions[i].trouble != NULL)
			ck_abort_msg("PGBATON_SEED=%llu: the writer's session %d: %s",
			             (unsigned long long)w->options.seed, i, w->sessions[i].trouble);
}

void
workload_free(Workload *w)
{
	if (w == NULL)
		return;
	workload_stop(w);
	for (int i = 0; i < w->options.sessions; i++) {
		free(w->sessions[i].told.n);
		free(w->sessions[i].unknown.n);
	}
	free(w->sessions);
	sql_source_free(w->sql);
	free(w->uri);
	free(w);
}

/* ---- the book ---- */

typedef struct {
	size_t lost;
	size_t doubled;
	size_t invented;
	char first[160]; /* of any kind */
} BookFindings;

static void
find(BookFindings *found, size_t *kind, const char *what, int session, int64_t n)
{
	if (found->first[0] == '\0')
		snprintf(found->first, sizeof(found->first), "session %d, transaction %lld: %s", session,
		         (long long)n, what);
	(*kind)++;
}

static bool
contains(const Numbers *numbers, int64_t n)
{
	for (size_t i = 0; i < numbers->count; i++)
		if (numbers->n[i] == n)
			return true;
	return false;
}

/* Both sides in the order of n: the session numbers its transactions upwards. */
static void
check_session(const Session *s, const PGresult *res, int *row, BookFindings *found)
{
	size_t told = 0;

	for (; *row < PQntuples(res) && atoi(PQgetvalue(res, *row, 0)) == s->index; (*row)++) {
		int64_t n = atoll(PQgetvalue(res, *row, 1));
		for (; told < s->told.count && s->told.n[told] < n; told++)
			find(found, &found->lost, "acknowledged and not there", s->index, s->told.n[told]);
		if (told < s->told.count && s->told.n[told] == n)
			told++;
		else if (!contains(&s->unknown, n))
			find(found, &found->invented, "there and never committed", s->index, n);
		if (strcmp(PQgetvalue(res, *row, 2), "1") != 0)
			find(found, &found->doubled, "there more than once", s->index, n);
	}
	for (; told < s->told.count; told++)
		find(found, &found->lost, "acknowledged and not there", s->index, s->told.n[told]);
}

void
workload_check_book(Workload *w, PGconn *conn)
{
	PGresult *res = PQexec(conn, "SELECT session, n, count(*) FROM hist.commits"
	                             " GROUP BY 1, 2 ORDER BY 1, 2");
	BookFindings found = {0};
	int row = 0;

	ck_assert_msg(w->joined, "the writer still runs");
	ck_assert_msg(PQresultStatus(res) == PGRES_TUPLES_OK, "%s", PQerrorMessage(conn));
	for (int i = 0; i < w->options.sessions; i++)
		check_session(&w->sessions[i], res, &row, &found);
	ck_assert_int_eq(row, PQntuples(res));
	PQclear(res);
	if (found.lost + found.doubled + found.invented > 0)
		ck_abort_msg("PGBATON_SEED=%llu: of %ld transactions %zu are lost, %zu doubled, %zu"
		             " invented; the first: %s",
		             (unsigned long long)w->options.seed, workload_commits(w), found.lost,
		             found.doubled, found.invented, found.first);
}

char *
source_traces(PGconn *source)
{
	return db_rows(
		source, "SELECT 'table ' || c.oid::regclass || ' ' || c.relreplident::text FROM pg_class c"
				" WHERE c.relkind IN ('r', 'p') AND c.relnamespace >= 16384"
				" UNION ALL SELECT 'trigger ' || tgrelid::regclass || ' ' || tgname || ' ' || "
				"tgenabled::text"
				" FROM pg_trigger WHERE NOT tgisinternal"
				" UNION ALL SELECT 'publication ' || pubname FROM pg_publication"
				" UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots"
				" UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_t'"
				" UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE oid >= 16384"
				" UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger"
				" ORDER BY 1");
}
