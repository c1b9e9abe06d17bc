/*
 * fault.h: named places at which a test build can be killed or stopped.
 *
 * FAULT_POINT("cutover_locked") is nothing in a normal build. With
 * PGBATON_FAULTS defined (make TEST=1) the environment variable PGBATON_FAULT
 * chooses one place and what happens there:
 *
 *   NAME         the process is killed (SIGKILL) when it passes first
 *   NAME:3       at the third passing
 *   NAME:1:stop  it is stopped (SIGSTOP) instead, until somebody continues it
 */
#ifndef PGBATON_COMMON_FAULT_H
#define PGBATON_COMMON_FAULT_H

#ifdef PGBATON_FAULTS
void fault_point(const char *name);
#define FAULT_POINT(name) fault_point(name)
#else
#define FAULT_POINT(name) ((void)0)
#endif

#endif
