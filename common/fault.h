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
 *   NAME:1:hang  the thread that passes it goes no further; the others do
 *
 * FAULT_NUMBER("PGBATON_X") is that variable's number in the test variant, and 0 where it is
 * not set and in a normal build: for limits that a test wants to be small.
 */
#ifndef PGBATON_COMMON_FAULT_H
#define PGBATON_COMMON_FAULT_H

#ifdef PGBATON_FAULTS
void fault_point(const char *name);
unsigned fault_number(const char *variable);
#define FAULT_NUMBER(variable) fault_number(variable)
#define FAULT_POINT(name) fault_point(name)
#else
#define FAULT_POINT(name) ((void)0)
#define FAULT_NUMBER(variable) 0u
#endif

#endif
