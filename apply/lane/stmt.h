/*
 * stmt.h: the SQL of each kind of change, and which of it a session has prepared.
 *
 * A Shape says what a statement does to which columns and in which form their values come;
 * its text and its parameters follow from it. Values always travel in the binary format: a
 * value that the stream has as text is a parameter of type text, cast by the statement;
 * one that it has in binary is a parameter of the column's own type.
 *
 * Parameters
 *  one row (rows 1):   the key's values, the mask if masked, then the columns' that are set
 *  many (rows 0):      the same as arrays, one element a row
 *  STMT_DELETE_IMAGE:  many: ordinals int4[], counts int8[], then the columns' arrays;
 *                      rows n: n times a count int8 and the columns. It returns the
 *                      ordinal of each row that it deleted.
 *  STMT_*_ONE_IMAGE:   the old image, then (update) the columns that are set
 */
#ifndef PGBATON_APPLY_LANE_STMT_H
#define PGBATON_APPLY_LANE_STMT_H

#include "apply/batch/plan.h"
#include "common/bytes.h"

typedef enum {
	STMT_INSERT,
	STMT_UPDATE,
	STMT_DELETE,
	STMT_DELETE_IMAGE,     /* of tables without a key, in one pass over the table */
	STMT_DELETE_ONE_IMAGE, /* ordered replay; an equal row where there is no identical one */
	STMT_UPDATE_ONE_IMAGE
} StmtOp;

/* A column's form: VALUE_TEXT, VALUE_BINARY, VALUE_NULL (only NULLs: sent as text), or
 * FORM_ABSENT. */
enum { FORM_ABSENT = 0 };

/*
 * An UPDATE that does not know all values (an unchanged TOAST value) is masked: a bytea with
 * a bit for each column of the plan says which are known, the others stay as they are, and
 * their parameter is NULL. So a table has two kinds of UPDATE, and not one for each set of
 * unchanged columns.
 */
typedef struct {
	const Plan *plan;
	StmtOp op;
	bool masked;
	uint32_t rows;      /* 0: arrays */
	bool guarded;       /* UPDATE, DELETE: fails itself unless it finds each row once */
	uint8_t *key_forms; /* plan->key_count; STMT_*_ONE_IMAGE: plan->count, of the image */
	uint8_t *forms;     /* plan->count */
} Shape;

/* How many forms key_forms has for this op. */
unsigned shape_key_count(const Shape *shape);
int shape_parameter_count(const Shape *shape);

enum { STMT_MAX_PARAMS = 65535 };

/* The text, and each parameter's type (room for STMT_MAX_PARAMS; *count of them). */
void stmt_sql(const Shape *shape, Buffer *sql, Oid *types, int *count);

/* What one session has prepared: at most 512 statements, the longest unused goes first. */
typedef struct StmtCache StmtCache;

StmtCache *stmt_cache_new(void);
void stmt_cache_free(StmtCache *cache);
/* After an error the session may have prepared less than the cache says: forget all. The
 * caller sends DEALLOCATE ALL. */
void stmt_cache_clear(StmtCache *cache);
/* The statement's name. *fresh: it must be prepared now; *evicted (or NULL): the name of
 * one that must be deallocated before. Valid until the next call. */
const char *stmt_cache_get(StmtCache *cache, const Shape *shape, bool *fresh, const char **evicted);

#endif
