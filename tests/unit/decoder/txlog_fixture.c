#include "tests/unit/decoder/txlog_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/unit/decoder/messages.h"
#include "tests/unit/runner.h"

char *
fixture_directory(void)
{
	char *directory = mem_strdup("/tmp/pgbaton-decoder-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	return directory;
}

void
fixture_remove(char *directory)
{
	DIR *dir = opendir(directory);
	for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
		unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir != NULL)
		closedir(dir);
	rmdir(directory);
	free(directory);
}

char *
fixture_path(const char *directory, uint64_t segment)
{
	char name[TXLOG_NAME_SIZE];
	txlog_segment_name(segment, name);
	return mem_printf("%s/%s", directory, name);
}

uint64_t
fixture_size(const char *path)
{
	struct stat st;
	ck_assert_int_eq(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

Buffer
fixture_load(const char *path)
{
	Buffer out = BUFFER_INIT;
	size_t size = fixture_size(path);
	FILE *file = fopen(path, "rb");
	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fread(buffer_reserve(&out, size + 1), 1, size, file), size);
	out.len = size;
	fclose(file);
	return out;
}

void
fixture_store(const char *path, const uint8_t *data, size_t len)
{
	FILE *file = fopen(path, "wb");
	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(data, 1, len, file), len);
	fclose(file);
}

void
fixture_flip(const char *path, uint64_t offset)
{
	uint8_t byte;
	int fd = open(path, O_RDWR);
	ck_assert_int_eq(pread(fd, &byte, 1, (off_t)offset), 1);
	byte ^= 0x10;
	ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)offset), 1);
	close(fd);
}

TxLog *
fixture_open_with(const char *directory, uint64_t segment_bytes, uint64_t max_bytes, bool compress)
{
	Error err = ERROR_INIT;
	TxLogOptions options = {
		.directory = directory,
		.identity = "fixture",
		.segment_bytes = segment_bytes,
		.max_bytes = max_bytes,
		.compress = compress,
	};
	TxLog *log = txlog_open(&options, &err);
	ck_assert_msg(log != NULL, "%s: %s", err.context, err.message);
	return log;
}

TxLog *
fixture_open(const char *directory)
{
	return fixture_open_with(directory, 0, 0, false);
}

void
fixture_open_fails(const char *directory, ErrorClass class, const char *part)
{
	Error err = ERROR_INIT;
	char text[2048];
	TxLogOptions options = {.directory = directory, .identity = "fixture"};
	ck_assert_ptr_null(txlog_open(&options, &err));
	error_format(&err, text, sizeof(text));
	ck_assert_msg(err.class == class && strstr(text, part) != NULL, "%s: %s",
	              error_class_name(err.class), text);
}

void
fixture_append(TxLog *log, const Buffer *message)
{
	Error err = ERROR_INIT;
	ck_assert_msg(txlog_append(log, buffer_slice(message), &err), "%s", err.message);
}

void
fixture_begin(TxLog *log, uint32_t n)
{
	Buffer buf = BUFFER_INIT;
	message_begin(&buf, FIXTURE_COMMIT(n), n);
	fixture_append(log, &buf);
	buffer_free(&buf);
}

void
fixture_rows(TxLog *log, uint32_t n, uint32_t rows, size_t row_bytes)
{
	Buffer buf = BUFFER_INIT;
	for (uint32_t i = 0; i < rows; i++) {
		buffer_reset(&buf);
		message_insert_filler(&buf, 0, 77, n * 1000 + i, row_bytes, (uint8_t)('a' + n % 26));
		fixture_append(log, &buf);
	}
	buffer_free(&buf);
}

void
fixture_commit(TxLog *log, uint32_t n)
{
	Buffer buf = BUFFER_INIT;
	message_commit(&buf, FIXTURE_COMMIT(n), FIXTURE_END(n));
	fixture_append(log, &buf);
	buffer_free(&buf);
}

void
fixture_transaction(TxLog *log, uint32_t n, uint32_t rows, size_t row_bytes)
{
	fixture_begin(log, n);
	fixture_rows(log, n, rows, row_bytes);
	fixture_commit(log, n);
}

void
fixture_publish(TxLog *log)
{
	Error err = ERROR_INIT;
	ck_assert_msg(txlog_publish(log, &err) && txlog_output_settle(log, &err), "%s", err.message);
}

void
fixture_settle(TxLog *log)
{
	Error err = ERROR_INIT;
	ck_assert_msg(txlog_output_settle(log, &err), "%s", err.message);
}

FixtureSeen
fixture_read(TxLogReader *reader)
{
	FixtureSeen seen = {0};
	Error err = ERROR_INIT;
	uint32_t open = 0;
	Slice m;

	for (;;) {
		TxLogNext next = txlog_reader_next(reader, NULL, 1, &m, &err);
		ck_assert_msg(next != TXLOG_ERROR, "%s: %s", err.context, err.message);
		if (next == TXLOG_WAIT)
			break;
		ByteReader r = reader_of(m);
		switch (read_u8(&r)) {
		case 'B':
			ck_assert_uint_eq(open, 0);
			open = (uint32_t)(read_u64(&r) / 0x100);
			ck_assert_uint_gt(open, seen.last);
			break;
		case 'I':
			ck_assert_uint_ne(open, 0);
			ck_assert_uint_eq(m.data[m.len - 1], 'a' + open % 26);
			seen.rows++;
			break;
		case 'C':
			read_u8(&r);
			ck_assert_uint_eq(read_u64(&r), FIXTURE_COMMIT(open));
			seen.first = seen.first != 0 ? seen.first : open;
			seen.last = open;
			seen.transactions++;
			open = 0;
			break;
		case 'R':
			seen.relations++;
			break;
		default:
			break;
		}
	}
	ck_assert_uint_eq(open, 0); /* T2 */
	return seen;
}

FixtureSeen
fixture_read_all(TxLog *log, Lsn after)
{
	Error err = ERROR_INIT;
	TxLogReader *reader = txlog_reader_open(log, after, &err);
	ck_assert_msg(reader != NULL, "%s: %s", err.context, err.message);
	FixtureSeen seen = fixture_read(reader);
	txlog_reader_close(reader);
	return seen;
}

void
fixture_on_progress(void *progress)
{
	FixtureProgress *p = progress;

	pthread_mutex_lock(&p->lock);
	p->calls++;
	pthread_cond_signal(&p->cond);
	pthread_mutex_unlock(&p->lock);
}

int
fixture_fault(void *fault, const char *op)
{
	FixtureFault *f = fault;

	if (f->op != NULL && strcmp(f->op, op) != 0)
		return 0;
	return atomic_fetch_add(&f->count, 1) == f->at ? f->errnum : 0;
}

static int
disk_fault(void *arg, const char *op)
{
	FixtureDisk *disk = arg;
	int errnum = 0;

	pthread_mutex_lock(&disk->lock);
	if (strcmp(op, "write") == 0 && disk->log != NULL &&
	    pthread_equal(pthread_self(), disk->log->output.thread)) {
		while (disk->hold) {
			disk->held = true;
			pthread_cond_broadcast(&disk->moved);
			pthread_cond_wait(&disk->moved, &disk->lock);
		}
		errnum = disk->errnum;
	}
	pthread_mutex_unlock(&disk->lock);
	return errnum;
}

TxLog *
fixture_open_on(FixtureDisk *disk, const char *directory)
{
	Error err = ERROR_INIT;
	TxLogOptions options = {.directory = directory, .identity = "fixture"};
	TxLog *log = txlog_open_with_faults(&options, (TxLogFaults){disk_fault, disk}, &err);
	ck_assert_msg(log != NULL, "%s: %s", err.context, err.message);
	pthread_mutex_lock(&disk->lock);
	disk->log = log;
	pthread_mutex_unlock(&disk->lock);
	return log;
}

void
fixture_disk_hold(FixtureDisk *disk)
{
	pthread_mutex_lock(&disk->lock);
	disk->hold = true;
	pthread_mutex_unlock(&disk->lock);
}

void
fixture_disk_wait_held(FixtureDisk *disk)
{
	pthread_mutex_lock(&disk->lock);
	while (!disk->held)
		pthread_cond_wait(&disk->moved, &disk->lock);
	pthread_mutex_unlock(&disk->lock);
}

void
fixture_disk_let_go(FixtureDisk *disk, int errnum)
{
	pthread_mutex_lock(&disk->lock);
	disk->hold = false;
	disk->errnum = errnum;
	pthread_cond_broadcast(&disk->moved);
	pthread_mutex_unlock(&disk->lock);
}
