/*
 * The transaction log beside plain writes of the same bytes into the same file system.
 *
 *   build/bench/log [MEGABYTES [DIRECTORY...]]
 *
 * Two streams of messages: a pgbench transaction's (three updates, an insert), and rows of
 * text. Each is put into a log as the receiver does it, published every 512 messages, and
 * synced at the end; the plain writes are of the file's own size in 256 KiB pieces, made to
 * segments of 64 MiB with a sync after each and at the end. Then a log with LZ4, and a reader
 * over all of it: its rate, and what the process grew by meanwhile. Every pair is measured
 * ROUNDS times, alternating; medians are shown. DIRECTORY: one on a disk (TMPDIR, /tmp) and
 * /dev/shm, where a sync costs nothing, unless given.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/memory.h"
#include "decoder/txlog/txlog.h"

enum { ROUNDS = 3, PUBLISH_EVERY = 512, PIECE = 256 * 1024, SEGMENT = 64 * 1024 * 1024 };

static void
fail(const char *what, const Error *err)
{
	fprintf(stderr, "bench: %s: %s\n", what, err != NULL ? err->message : "failed");
	exit(1);
}

static double
now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- messages ---- */

typedef struct {
	Buffer bytes;
	size_t ends[16];
	int count;
	size_t begin_lsn; /* where the numbers stand that differ from one to the next */
	size_t commit_lsn;
} Transaction;

static void
put_value(Buffer *b, const char *text)
{
	buffer_put_u8(b, 't');
	buffer_put_u32(b, (uint32_t)strlen(text));
	buffer_put_text(b, text);
}

static void
end_message(Transaction *t)
{
	t->ends[t->count++] = t->bytes.len;
}

static void
put_begin(Transaction *t)
{
	buffer_put_u8(&t->bytes, 'B');
	t->begin_lsn = t->bytes.len;
	buffer_put_u64(&t->bytes, 0);
	buffer_put_u64(&t->bytes, 0);
	buffer_put_u32(&t->bytes, 1);
	end_message(t);
}

static void
put_commit(Transaction *t)
{
	buffer_put_u8(&t->bytes, 'C');
	buffer_put_u8(&t->bytes, 0);
	t->commit_lsn = t->bytes.len;
	buffer_put_u64(&t->bytes, 0);
	buffer_put_u64(&t->bytes, 0);
	buffer_put_u64(&t->bytes, 0);
	end_message(t);
}

static void
put_row(Transaction *t, char kind, uint32_t relation, int columns)
{
	buffer_put_u8(&t->bytes, (uint8_t)kind);
	buffer_put_u32(&t->bytes, relation);
	buffer_put_u8(&t->bytes, 'N');
	buffer_put_u16(&t->bytes, (uint16_t)columns);
}

static void
make_pgbench(Transaction *t, unsigned *seed)
{
	static const char filler[] = "                                                            "
								 "                        ";
	char number[16];

	put_begin(t);
	for (uint32_t table = 1; table <= 3; table++) {
		put_row(t, 'U', table, 4);
		for (int column = 0; column < 3; column++) {
			snprintf(number, sizeof(number), "%d", rand_r(seed) % 1000000);
			put_value(&t->bytes, number);
		}
		put_value(&t->bytes, filler);
		end_message(t);
	}
	put_row(t, 'I', 4, 5);
	for (int column = 0; column < 4; column++) {
		snprintf(number, sizeof(number), "%d", rand_r(seed) % 1000000);
		put_value(&t->bytes, number);
	}
	put_value(&t->bytes, "2026-01-02 03:04:05.678901");
	end_message(t);
	put_commit(t);
}

static void
make_text(Transaction *t, unsigned *seed)
{
	static const char *const words[] = {"the",    "customer", "asked", "whether",
	                                    "an",     "order",    "of",    "twelve",
	                                    "chairs", "was",      "sent",  "yesterday"};

	put_begin(t);
	for (int row = 0; row < 4; row++) {
		Buffer text = BUFFER_INIT;
		for (int i = 0; i < 250; i++)
			buffer_printf(&text, "%s ", words[(unsigned)rand_r(seed) % 12]);
		put_row(t, 'I', 1, 1);
		put_value(&t->bytes, buffer_cstr(&text));
		end_message(t);
		buffer_free(&text);
	}
	put_commit(t);
}

/* Some hundred different ones, used in turn. */
enum { VARIETY = 256 };

typedef struct {
	const char *name;
	void (*make)(Transaction *t, unsigned *seed);
	Transaction transactions[VARIETY];
} Load;

static void
load_make(Load *load)
{
	unsigned seed = 1;

	for (int i = 0; i < VARIETY; i++)
		load->make(&load->transactions[i], &seed);
}

static void
set_u64(Buffer *b, size_t at, uint64_t v)
{
	buffer_set_u32(b, at, (uint32_t)(v >> 32));
	buffer_set_u32(b, at + 4, (uint32_t)v);
}

/* ---- files ---- */

static void
remove_log(const char *directory)
{
	char path[4200];
	DIR *dir = opendir(directory);

	for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
		snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		unlink(path);
	}
	if (dir != NULL)
		closedir(dir);
	rmdir(directory);
}

static double
write_plain(const char *directory, uint64_t bytes)
{
	char path[4200];
	uint8_t *piece = mem_alloc(PIECE);
	int fd = -1;

	memset(piece, 'x', PIECE);
	mkdir(directory, 0700);
	double start = now_s();
	for (uint64_t at = 0; at < bytes; at += PIECE) {
		if (at % SEGMENT == 0) {
			if (fd >= 0 && (fdatasync(fd) != 0 || close(fd) != 0))
				fail("sync", NULL);
			snprintf(path, sizeof(path), "%s/%" PRIu64, directory, at / SEGMENT);
			fd = open(path, O_CREAT | O_WRONLY, 0600);
		}
		if (fd < 0 || pwrite(fd, piece, PIECE, (off_t)(at % SEGMENT)) != PIECE)
			fail("write", NULL);
	}
	if (fd < 0 || fdatasync(fd) != 0 || close(fd) != 0)
		fail("sync", NULL);
	double took = now_s() - start;
	free(piece);
	remove_log(directory);
	return took;
}

static TxLog *
open_log(const char *directory, bool compress)
{
	Error err = ERROR_INIT;
	TxLogOptions options = {.directory = directory, .identity = "bench", .compress = compress};
	TxLog *log = txlog_open(&options, &err);

	if (log == NULL)
		fail("open the log", &err);
	return log;
}

/* Until that many bytes of messages are in; *raw says how many. */
static double
append_all(TxLog *log, Load *load, uint64_t bytes, uint64_t *raw)
{
	Error err = ERROR_INIT;
	uint64_t lsn = 0x1000;
	int since = 0;
	double start = now_s();

	*raw = 0;
	for (unsigned n = 0; *raw < bytes; n++, lsn += 0x100) {
		Transaction *t = &load->transactions[n % VARIETY];
		set_u64(&t->bytes, t->begin_lsn, lsn);
		set_u64(&t->bytes, t->commit_lsn, lsn);
		set_u64(&t->bytes, t->commit_lsn + 8, lsn + 0x80);
		for (int i = 0; i < t->count; i++) {
			size_t from = i > 0 ? t->ends[i - 1] : 0;
			if (!txlog_append(log, slice_of(t->bytes.data + from, t->ends[i] - from), &err))
				fail("append", &err);
			if (++since % PUBLISH_EVERY == 0 && !txlog_publish(log, &err))
				fail("publish", &err);
		}
		*raw += t->bytes.len;
	}
	if (!txlog_publish(log, &err) || !txlog_sync(log, 0, &err))
		fail("sync", &err);
	return now_s() - start;
}

/* ---- what is measured ---- */

static uint64_t
status_kb(const char *field)
{
	char line[128];
	uint64_t kb = 0;
	FILE *file = fopen("/proc/self/status", "r");

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, field, strlen(field)) == 0)
			kb = strtoull(line + strlen(field), NULL, 10);
	if (file != NULL)
		fclose(file);
	return kb;
}

static uint64_t
count_anew(void)
{
	FILE *file = fopen("/proc/self/clear_refs", "w");

	if (file == NULL || fputs("5", file) < 0 || fclose(file) != 0)
		fail("/proc/self/clear_refs", NULL);
	return status_kb("VmRSS:");
}

static double
read_all(TxLog *log, uint64_t *grown_kb)
{
	Error err = ERROR_INIT;
	Slice message;
	TxLogNext next;
	uint64_t before = count_anew();
	TxLogReader *reader = txlog_reader_open(log, LSN_INVALID, &err);
	double start = now_s();

	if (reader == NULL)
		fail("read", &err);
	while ((next = txlog_reader_next(reader, NULL, 1, &message, &err)) == TXLOG_MESSAGE)
		;
	if (next == TXLOG_ERROR)
		fail("read", &err);
	double took = now_s() - start;
	txlog_reader_close(reader);
	*grown_kb = status_kb("VmHWM:") - before;
	return took;
}

static int
compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double
median(double *values)
{
	qsort(values, ROUNDS, sizeof(double), compare);
	return values[ROUNDS / 2];
}

typedef struct {
	double log[ROUNDS], plain[ROUNDS], packed[ROUNDS], read[ROUNDS];
	double shrunk;
	uint64_t grown_kb;
} Result;

static double
mb_per_s(uint64_t bytes, double seconds)
{
	return (double)bytes / 1e6 / seconds;
}

static void
measure_round(Load *load, const char *directory, uint64_t bytes, int round, Result *out)
{
	TxLogState state;
	uint64_t raw;
	uint64_t grown;

	TxLog *log = open_log(directory, false);
	out->log[round] = append_all(log, load, bytes, &raw);
	txlog_state(log, &state);
	out->log[round] = mb_per_s(state.bytes_on_disk, out->log[round]);
	out->read[round] = mb_per_s(state.bytes_on_disk, read_all(log, &grown));
	if (grown > out->grown_kb)
		out->grown_kb = grown;
	txlog_close(log);
	remove_log(directory);

	out->plain[round] = mb_per_s(state.bytes_on_disk, write_plain(directory, state.bytes_on_disk));

	log = open_log(directory, true);
	double took = append_all(log, load, bytes, &raw);
	out->packed[round] = mb_per_s(raw, took);
	txlog_state(log, &state);
	out->shrunk = (double)raw / (double)state.bytes_on_disk;
	txlog_close(log);
	remove_log(directory);
}

static void
measure(Load *load, const char *parent, uint64_t bytes)
{
	char *directory = mem_printf("%s/pgbaton-bench-log-%ld", parent, (long)getpid());
	Result result = {0};

	for (int round = 0; round < ROUNDS; round++)
		measure_round(load, directory, bytes, round, &result);
	double plain = median(result.plain);
	double log = median(result.log);
	printf("%-10s %-12s %8.0f %8.0f %7.2f %8.0f %6.2f %8.0f %8" PRIu64 "\n", load->name, parent,
	       plain, log, log / plain, median(result.packed), result.shrunk, median(result.read),
	       result.grown_kb);
	fflush(stdout);
	free(directory);
}

int
main(int argc, char **argv)
{
	static Load loads[] = {{.name = "pgbench", .make = make_pgbench},
	                       {.name = "text", .make = make_text}};
	uint64_t bytes = (argc > 1 ? strtoull(argv[1], NULL, 10) : 512) * 1000000;
	const char *tmp = getenv("TMPDIR");
	char disk[] = "/tmp", memory[] = "/dev/shm";
	char *usual[] = {tmp != NULL ? (char *)(uintptr_t)tmp : disk, memory, NULL};
	char **directories = argc > 2 ? argv + 2 : usual;

	mem_setup();
	printf("%" PRIu64 " MB of messages; MB/s, medians of %d; lz4: MB/s of messages, and how many "
	       "times smaller;\nreader: MB/s of file, and the kB that the process grew by\n\n"
	       "%-10s %-12s %8s %8s %7s %8s %6s %8s %8s\n",
	       bytes / 1000000, ROUNDS, "messages", "directory", "plain", "log", "ratio", "lz4",
	       "times", "reader", "kB");
	for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
		load_make(&loads[i]);
		for (char **directory = directories; *directory != NULL; directory++)
			measure(&loads[i], *directory, bytes);
	}
	return 0;
}
