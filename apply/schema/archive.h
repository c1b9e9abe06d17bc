/*
 * archive.h: the dump in the state directory, and what of it fits the target.
 */
#ifndef PGBATON_APPLY_SCHEMA_ARCHIVE_H
#define PGBATON_APPLY_SCHEMA_ARCHIVE_H

#include <pthread.h>

#include "apply/schema/schema.h"
#include "apply/schema/script.h"
#include "common/arena.h"

typedef struct {
	Arena *arena; /* entries live here */
	SchemaTools tools;
	char path[1024];     /* STATE_DIR/schema.dump */
	bool no_owner;       /* asked for, or an owner is not on the target */
	bool no_privileges;  /* asked for, or a grantee is not on the target */
	bool no_tablespaces; /* a tablespace is not on the target */
} Archive;

/* Dumps when fresh, or when there is no dump yet. Roles and tablespaces that the target
 * lacks are logged as a warning. archive_close also after a failure. */
MUST_CHECK bool archive_open(const SchemaWork *work, bool fresh, Archive *out, Error *err);
void archive_close(Archive *archive);

/* section: "pre-data" or "post-data". */
MUST_CHECK bool archive_read(const SchemaWork *work, const Archive *archive, const char *section,
                             Entries *out, Error *err);

/* The post-data, which three steps need: kept in work->tools when there is one and nothing is
 * added (until schema_tools_free), else read each time. */
MUST_CHECK bool archive_post_data(const SchemaWork *work, const Archive *archive, Entries *out,
                                  Error *err);

/* Reads it on a thread, beside what the target has to do meanwhile. What fails is read again by
 * who needs it. archive must live until archive_ahead_end. */
typedef struct {
	const SchemaWork *work;
	const Archive *archive;
	pthread_t thread;
	bool runs;
} ArchiveAhead;

void archive_ahead_begin(ArchiveAhead *ahead, const SchemaWork *work, const Archive *archive);
void archive_ahead_end(ArchiveAhead *ahead);

/* A new file, mode 0600, in the place of what a crash may have left there (dump.c). */
MUST_CHECK bool write_private(const char *path, const Buffer *text, Error *err);

/* pg_dump's part (dump.c): writes path by way of path.tmp, mode 0600. */
MUST_CHECK bool dump_write(const SchemaWork *work, const Archive *archive, Error *err);

#endif
