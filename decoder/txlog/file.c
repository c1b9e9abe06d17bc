#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/memory.h"
#include "decoder/txlog/internal.h"

void
txlog_segment_name(uint64_t number, char out[TXLOG_NAME_SIZE])
{
	snprintf(out, TXLOG_NAME_SIZE, "%016" PRIx64 ".log", number);
}

void
txlog_stream_name(uint64_t serial, char out[TXLOG_NAME_SIZE])
{
	snprintf(out, TXLOG_NAME_SIZE, "%016" PRIx64 ".stream", serial);
}

void
txlog_xact_name(Lsn commit, char out[TXLOG_NAME_SIZE])
{
	snprintf(out, TXLOG_NAME_SIZE, "%016" PRIx64 ".xact", commit.v);
}

static int
fault(const TxLogFaults *faults, const char *op)
{
	return faults->fail != NULL ? faults->fail(faults->arg, op) : 0;
}

static bool
write_failed(int errnum, const char *name, uint64_t offset, Error *err)
{
	error_set_errno(err, ERROR_STORAGE, errnum, "transaction log file %s: write at offset %" PRIu64,
	                name, offset);
	if (errnum == ENOSPC || errnum == EDQUOT)
		return error_set_hint(err, "make room on the disk of the state directory and start "
		                           "again; --log-max-bytes limits what the log takes");
	return error_set_hint(err, "check the disk of the state directory; what was synced stays "
	                           "readable, start again when it works");
}

/* A pwrite of everything from `at` bytes into the pieces on. */
static ssize_t
write_some(int fd, uint64_t offset, const Slice *pieces, int count, size_t at, size_t most)
{
	struct iovec vec[16];
	int n = 0;

	for (int i = 0; i < count && n < 16 && most > 0; i++) {
		if (at >= pieces[i].len) {
			at -= pieces[i].len;
			continue;
		}
		size_t len = pieces[i].len - at;
		if (len > most)
			len = most;
		vec[n].iov_base = (void *)(uintptr_t)(pieces[i].data + at);
		vec[n++].iov_len = len;
		at = 0;
		most -= len;
	}
	return pwritev(fd, vec, n, (off_t)offset);
}

bool
txlog_file_write(const TxLogFaults *faults, int fd, const char *name, uint64_t offset,
                 const Slice *pieces, int count, Error *err)
{
	size_t total = 0;
	size_t done = 0;

	for (int i = 0; i < count; i++)
		total += pieces[i].len;
	int planted = fault(faults, "write");
	size_t until = planted != 0 ? total / 2 : total;

	while (done < until) {
		ssize_t n = write_some(fd, offset + done, pieces, count, done, until - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return write_failed(n == 0 ? EIO : errno, name, offset + done, err);
		done += (size_t)n;
	}
	return planted == 0 || write_failed(planted, name, offset, err);
}

bool
txlog_file_sync(const TxLogFaults *faults, int fd, const char *name, Error *err)
{
	int failed = fault(faults, "sync");

	if (failed == 0 && fdatasync(fd) != 0)
		failed = errno;
	if (failed == 0)
		return true;
	error_set_errno(err, ERROR_STORAGE, failed, "transaction log file %s: fdatasync", name);
	return error_set_hint(err, "check the disk of the state directory; nothing that was not "
	                           "synced has been confirmed to the source");
}

bool
txlog_file_truncate(const TxLogFaults *faults, int fd, const char *name, uint64_t size, Error *err)
{
	int failed = fault(faults, "truncate");

	if (failed == 0 && ftruncate(fd, (off_t)size) != 0)
		failed = errno;
	if (failed == 0)
		return true;
	return error_set_errno(err, ERROR_STORAGE, failed,
	                       "transaction log file %s: truncate to %" PRIu64, name, size);
}

static bool
change_failed(const TxLog *log, const char *what, const char *name, int errnum, Error *err)
{
	error_set_errno(err, ERROR_STORAGE, errnum, "%s transaction log file %s/%s", what,
	                log->directory, name);
	return error_set_hint(err, "check room and permissions in the state directory");
}

bool
txlog_file_make(const TxLog *log, const char *name, int *fd, Error *err)
{
	int failed = fault(&log->faults, "create");

	*fd = failed != 0 ? -1
	                  : openat(log->dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	return *fd >= 0 || change_failed(log, "make", name, failed != 0 ? failed : errno, err);
}

bool
txlog_file_rename(const TxLog *log, const char *from, const char *to, Error *err)
{
	int failed = fault(&log->faults, "rename");

	if (failed == 0 && renameat(log->dir_fd, from, log->dir_fd, to) != 0)
		failed = errno;
	if (failed != 0)
		return change_failed(log, "name", to, failed, err);
	return fsync(log->dir_fd) == 0 || change_failed(log, "sync the directory of", to, errno, err);
}

ssize_t
txlog_file_read(int fd, const char *name, uint64_t offset, void *to, size_t len, Error *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, (uint8_t *)to + done, len - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			error_set_errno(err, ERROR_STORAGE, errno,
			                "transaction log file %s: read at offset %" PRIu64, name,
			                offset + done);
			return -1;
		}
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

bool
txlog_file_size(int fd, const char *name, uint64_t *out, Error *err)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "transaction log file %s: stat", name);
	*out = (uint64_t)st.st_size;
	return true;
}

/* flock, not fcntl: it holds against the same process too, and is not lost
 * when some other descriptor of the file is closed. */
static bool
lock_directory(int dir_fd, const char *directory, int *lock_fd, Error *err)
{
	char text[32] = "";
	int fd = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "open %s/lock", directory);
	if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		int errnum = errno;
		ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
		close(fd);
		text[n > 0 ? n : 0] = '\0';
		text[strcspn(text, "\n")] = '\0';
		if (errnum != EWOULDBLOCK)
			return error_set_errno(err, ERROR_STORAGE, errnum, "lock %s/lock", directory);
		error_set(err, ERROR_CONFIG,
		          "the transaction log in %s is in use by another process (pid %s)", directory,
		          text[0] != '\0' ? text : "unknown");
		return error_set_hint(err, "stop that process, or give each migration its own "
		                           "--state-dir");
	}
	int len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
	if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)len, 0) != len) {
		error_set_errno(err, ERROR_STORAGE, errno, "write %s/lock", directory);
		close(fd);
		return false;
	}
	*lock_fd = fd;
	return true;
}

bool
txlog_dir_open(const char *directory, int *dir_fd, int *lock_fd, Error *err)
{
	if (mkdir(directory, 0700) != 0 && errno != EEXIST) {
		error_set_errno(err, ERROR_STORAGE, errno, "make directory %s", directory);
		return error_set_hint(err, "give a --state-dir whose parent exists and is writable");
	}
	*dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*dir_fd < 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "open directory %s", directory);
	if (lock_directory(*dir_fd, directory, lock_fd, err))
		return true;
	close(*dir_fd);
	*dir_fd = -1;
	return false;
}

/* "%016x" and the suffix, nothing else. */
static bool
name_parse(const char *name, const char *suffix, uint64_t *number)
{
	char *end;

	if (strlen(name) != 16 + strlen(suffix) || strcmp(name + 16, suffix) != 0 ||
	    strspn(name, "0123456789abcdef") != 16)
		return false;
	*number = strtoull(name, &end, 16);
	return end == name + 16;
}

static DIR *
dir_stream(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (dir == NULL && fd >= 0)
		close(fd);
	return dir;
}

static int
compare_numbers(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

bool
txlog_dir_list(int dir_fd, const char *directory, const char *suffix, uint64_t **numbers,
               size_t *count, Error *err)
{
	DIR *dir = dir_stream(dir_fd);
	uint64_t number;
	size_t capacity = 16;

	if (dir == NULL)
		return error_set_errno(err, ERROR_STORAGE, errno, "list directory %s", directory);
	*numbers = mem_alloc(capacity * sizeof(uint64_t));
	*count = 0;
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		if (!name_parse(entry->d_name, suffix, &number))
			continue;
		if (*count == capacity)
			*numbers = mem_realloc(*numbers, (capacity *= 2) * sizeof(uint64_t));
		(*numbers)[(*count)++] = number;
	}
	closedir(dir);
	qsort(*numbers, *count, sizeof(uint64_t), compare_numbers);
	return true;
}

bool
txlog_dir_segments(int dir_fd, const char *directory, uint64_t **numbers, size_t *count, Error *err)
{
	if (!txlog_dir_list(dir_fd, directory, ".log", numbers, count, err))
		return false;
	for (size_t i = 1; i < *count; i++) {
		if ((*numbers)[i] == (*numbers)[i - 1] + 1)
			continue;
		char name[TXLOG_NAME_SIZE];
		txlog_segment_name((*numbers)[i - 1] + 1, name);
		error_set(err, ERROR_STORAGE, "transaction log in %s: segment %s is missing", directory,
		          name);
		free(*numbers);
		*numbers = NULL;
		return false;
	}
	return true;
}

bool
txlog_note_open(int dir_fd, const char *name, int *fd, uint64_t *value, Error *err)
{
	uint8_t bytes[16];

	*value = 0;
	*fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (*fd < 0 || fsync(dir_fd) != 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "make the file \"%s\"", name);
	ssize_t n = txlog_file_read(*fd, name, 0, bytes, sizeof(bytes), err);
	if (n <= 0)
		return n == 0;
	ByteReader r = reader_of(slice_of(bytes, (size_t)n));
	*value = read_u64(&r);
	if (read_u64(&r) == hash_bytes(slice_of(bytes, 8), 0) && !r.failed)
		return true;
	return error_set(err, ERROR_STORAGE, "the file \"%s\" is damaged", name);
}

/* Sixteen bytes in one sector: old or new, never half. */
bool
txlog_note_write(const TxLogFaults *faults, int fd, const char *name, uint64_t value, Error *err)
{
	Buffer bytes = BUFFER_INIT;

	buffer_put_u64(&bytes, value);
	buffer_put_u64(&bytes, hash_bytes(buffer_slice(&bytes), 0));
	Slice piece = buffer_slice(&bytes);
	bool ok = txlog_file_write(faults, fd, name, 0, &piece, 1, err) &&
	          txlog_file_sync(faults, fd, name, err);
	buffer_free(&bytes);
	return ok;
}
