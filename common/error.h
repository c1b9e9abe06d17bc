/*
 * error.h: the one error value of the program.
 *
 * A function that can fail takes an Error as its last argument, returns false
 * (or NULL) and fills it; on success the Error is left alone. The caller owns
 * the Error, which holds no pointers, so it can be copied and thrown away. The
 * class picks the action once, at the owner of the work (retry, stop, ...);
 * errors are logged once, at the top.
 *
 * What an engineer reads: `context: message` (what and where), `hint` (what to
 * do). Texts longer than the arrays are cut at a character boundary.
 */
#ifndef PGBATON_COMMON_ERROR_H
#define PGBATON_COMMON_ERROR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/attr.h"

typedef enum {
	ERROR_NONE = 0,
	ERROR_NETWORK,    /* connection refused, reset, timed out: retry with jitter */
	ERROR_PROTOCOL,   /* the peer sent what its protocol does not allow: stop */
	ERROR_AUTH,       /* the server refused us, or we refuse the server: stop */
	ERROR_SQL,        /* the server answered with an ErrorResponse; see sqlstate */
	ERROR_CONFIG,     /* what the user asked for cannot be done: stop, exit 1 or 2 */
	ERROR_STORAGE,    /* the local disk: full, damaged, not writable */
	ERROR_DIVERGENCE, /* source and target disagree about a row: stop, never skip */
	ERROR_TIMEOUT,    /* a deadline of ours has passed */
	ERROR_CANCELLED,  /* somebody asked us to stop: not a failure */
	ERROR_BUG         /* an invariant of this program does not hold */
} ErrorClass;

typedef struct Error {
	ErrorClass class;
	char sqlstate[6]; /* five characters, or empty */
	char message[1024];
	char context[512];
	char hint[768];
	const char *file; /* of the error_set call; static storage */
	int line;
} Error;

/* An empty Error: `Error err = ERROR_INIT;` */
#define ERROR_INIT          \
	{                       \
		.class = ERROR_NONE \
	}

/*
 * Sets class and message, clears the rest, and returns false, so that
 * `return error_set(err, ERROR_STORAGE, "...")` is the usual way out.
 * err may be NULL (the text is then lost).
 */
#define error_set(err, class_, ...) error_set_at((err), (class_), __FILE__, __LINE__, __VA_ARGS__)
bool error_set_at(Error *err, ErrorClass class, const char *file, int line, const char *fmt, ...)
	PRINTF_LIKE(5, 6);

/* Like error_set, with ": " and strerror(errnum) appended. */
#define error_set_errno(err, class_, errnum, ...) \
	error_set_errno_at((err), (class_), (errnum), __FILE__, __LINE__, __VA_ARGS__)
bool error_set_errno_at(Error *err, ErrorClass class, int errnum, const char *file, int line,
                        const char *fmt, ...) PRINTF_LIKE(6, 7);

/* Puts "text: " in front of the context (outermost first). Returns false. */
bool error_add_context(Error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Sets what the reader can do about it. Returns false. */
bool error_set_hint(Error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Sets the SQLSTATE (five characters). Returns false. */
bool error_set_sqlstate(Error *err, const char *sqlstate);

bool error_has_sqlstate(const Error *err, const char *sqlstate);
void error_clear(Error *err);

/* "network", "protocol", ...: for logs and JSON. */
const char *error_class_name(ErrorClass class);

/*
 * Writes "context: message (SQLSTATE 42P01); hint" into out (always
 * terminated) and returns out.
 */
char *error_format(const Error *err, char *out, size_t out_size);

/*
 * Stops the process with a line on stderr: for invariants that must hold in
 * release builds too (the stream or the log is not what it must be and going
 * on could lose rows).
 */
#define CHECK(cond) ((cond) ? (void)0 : check_failed(#cond, __FILE__, __LINE__))
NORETURN void check_failed(const char *cond, const char *file, int line);

#endif
