/*
 * move.h: what the files of proxy/listener/move share, and what the listener's own files
 * call of them.
 */
#ifndef PGBATON_PROXY_LISTENER_MOVE_H
#define PGBATON_PROXY_LISTENER_MOVE_H

#include "proxy/listener/internal.h"

/* ---- move.c ---- */

/* Why the session cannot be moved; "" when nothing is known that is in the way. */
const char *move_reason(const Session *session);
/* The server process on that route that was opened for it; 0: none. */
uint32_t move_pid_on(const Session *session, ListenerRoute on);

/* ---- report.c ---- */

typedef bool (*RowFilter)(const Session *session);

/* The sessions that have logged in or are doing so, for which wanted is true. *others: those
 * logged in for which it is not; or NULL. */
size_t report_rows(Listener *listener, RowFilter wanted, ListenerSession **out, size_t *others);
/* ERROR_CONFIG that names report->which. Returns false. */
bool report_unmovable(const MoveReport *report, Error *err);

#endif
