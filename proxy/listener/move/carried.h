/*
 * carried.h: what a session carries: settings, role, prepared statements, LISTEN; and what
 * of it no other server can be given. No socket.
 *
 * A server is asked by carried_put_question, in the client's own session or in the one that
 * was opened for it; its rows are taken one by one. carried_plan makes the messages that
 * bring one server's session from what it has to what is wanted.
 *
 * Not carried, and not seen by any question: the values of currval and lastval, setseed's
 * state, libraries that were LOADed, what extensions and procedural languages keep.
 */
#ifndef PGBATON_PROXY_LISTENER_CARRIED_H
#define PGBATON_PROXY_LISTENER_CARRIED_H

#include <stdbool.h>
#include <stddef.h>

#include "common/arena.h"
#include "common/bytes.h"
#include "common/error.h"

typedef enum {
	CARRIED_BLOCK = 'b',    /* cannot be carried; value is the reason */
	CARRIED_CUSTOM = 'c',   /* a setting with a dot in its name that no view shows */
	CARRIED_DIGEST = 'd',   /* of all that follows; see carried_put_quick_question */
	CARRIED_CHANNEL = 'l',  /* LISTEN */
	CARRIED_NAMES = 'n',    /* of all settings that can be SET, with commas */
	CARRIED_PROTOCOL = 'p', /* a statement prepared by Parse; value is its text */
	CARRIED_SQL = 'q',      /* by PREPARE; value is that command */
	CARRIED_REPORT = 'r',   /* a setting that clients are told of, and role */
	CARRIED_SETTING = 's'   /* was SET in this session */
} CarriedKind;

typedef struct {
	char kind;
	const char *name;
	const char *value;      /* "" where there is none */
	const char *types;      /* of statements: OIDs of the parameters, "{23,25}" */
	const char *type_names; /* and their names, "{integer,text}" */
} CarriedItem;

/* A session with more is not carried. */
enum { CARRIED_BYTES_MAX = 16 * 1024 * 1024, CARRIED_ITEMS_MAX = 20000 };

typedef struct {
	Arena *arena;       /* NULL: nothing is known */
	CarriedItem *items; /* sorted by kind and name once it is complete */
	size_t count;
	size_t cap;
} Carried;

void carried_init(Carried *carried); /* known, and empty */
void carried_free(Carried *carried); /* leaves {0} */
static inline bool
carried_known(const Carried *carried)
{
	return carried->arena != NULL;
}

/*
 * One extended group without its Sync; leaves the unnamed statement alone. names: custom
 * settings to ask for, each with its zero. When it ends in an error,
 * carried_put_end_of_question takes away what it has left.
 *
 * The quick question costs a third: only a digest comes, of all values but not of where they
 * are from. The same digest as in the last answer says that nothing has changed, unless a
 * setting was SET to the value that it had by default; for that case the owner watches
 * the commands (Track.sets, Mentions.settings). settings: the last answer's CARRIED_NAMES.
 * It is asked by a statement that stays, which makes it half as long the second time, until
 * carried_put_end_of_question: until then it is in the session's pg_prepared_statements.
 */
void carried_put_question(Buffer *out, Slice names);
void carried_put_quick_statement(Buffer *out, Slice names, const char *settings);
void carried_put_quick_question(Buffer *out);
void carried_put_end_of_question(Buffer *out);
/*
 * A group of its own, likewise without its Sync: RowDescription or NoData when there is an unnamed
 * statement, 26000 when there is none. Describing one that writes (or SELECTs FOR UPDATE) and
 * returns rows takes the locks of its tables (plancache.c, AcquirePlannerLocks), which the
 * fence has within the hold: then 55P03 comes after a millisecond, and there is one.
 */
void carried_put_unnamed_question(Buffer *out);
/* payload of a DataRow. ERROR_PROTOCOL, or ERROR_CONFIG when it is too much. */
MUST_CHECK bool carried_take_row(Carried *carried, Slice payload, Error *err);
/* One that is known otherwise; the texts are copied. */
void carried_add(Carried *carried, CarriedKind kind, const char *name, const char *value);
/* From now on no statement of it is the same as any other's. */
void carried_doubt_statements(Carried *carried);
/* All rows are here. */
void carried_complete(Carried *carried);

const CarriedItem *carried_find(const Carried *carried, CarriedKind kind, const char *name);
/* NULL: nothing is in the way; else the first reason. */
const char *carried_block(const Carried *carried);
/* Whether another digest can tell that nothing has changed: what is in a temporary schema is
 * not in it. */
bool carried_digest_will_do(const Carried *carried);
/* A setting of an extension that `wanted` has and a server without that extension does not show:
 * it was set there without an error. */
void carried_add_hidden(Carried *answer, const Carried *wanted);
/* The same settings, statements, channels and role, as far as a client could tell. NULL, or
 * the item that differs (of either side). Reports but for the role are not looked at. A custom
 * setting that only the other server has it has by its own defaults, as it has others that were
 * not SET: it never goes away once it was SET in a session. */
const CarriedItem *carried_difference(const Carried *wanted, const Carried *there);

/* ---- from one to the other ---- */

typedef enum { STEP_SETTING, STEP_CHANNEL, STEP_SQL, STEP_STATEMENT } StepKind;

typedef struct {
	StepKind kind;
	const char *name; /* borrowed from a Carried */
} Step;

/* Groups of messages, each with its Sync. In a group the server completes one step after
 * the other, or fails at the one after those. */
typedef struct {
	Buffer messages;
	Step *steps;
	size_t step_count;
	size_t step_cap;
	struct {
		size_t first;  /* of steps; up to the next group's first */
		char progress; /* the message that completes a step: 'C', '1' or '2' */
		bool to_spare; /* what fails in it is no failure */
	} groups[8];
	size_t group_count;
} Plan;

/*
 * have and want must outlive the plan. have names role and session_authorization at least.
 * ahead: there is time, so that the server also plans the statements. A new session reads the
 * catalogue for each table that it meets, 2 ms for a few of them: of twenty sessions that go on at
 * the same moment the last one would wait for all that. Nothing is executed.
 * False: ERROR_CONFIG, it cannot be brought there. plan_free, whatever is returned.
 */
MUST_CHECK bool carried_plan(const Carried *have, const Carried *want, bool ahead, Plan *plan,
                             Error *err);
void plan_free(Plan *plan);
/* "setting work_mem", "prepared statement s1": for reasons. */
void plan_name_step(const Plan *plan, size_t group, size_t completed, char *out, size_t size);

#endif
