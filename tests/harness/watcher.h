/*
 * watcher.h: nothing that a test starts outlives it.
 *
 * The first registration in a process forks a watcher, in a session of its own,
 * that holds the read end of a pipe. The write end lives in the test process
 * alone (close-on-exec); when it closes, by exit, crash or kill -9, the watcher
 * kills the registered programs, stops the registered servers and removes the
 * registered directories; the end of a file "stderr" in one of them goes to the
 * test's own stderr before. A test process forked by Check gets its own watcher.
 */
#ifndef PGBATON_TESTS_HARNESS_WATCHER_H
#define PGBATON_TESTS_HARNESS_WATCHER_H

#include <stdbool.h>
#include <sys/types.h>

/* A directory to remove; when it holds data/postmaster.pid, that server is
 * stopped first. */
void watcher_add_dir(const char *path);
void watcher_add_process(pid_t pid);
/* Taken care of already. */
void watcher_drop_dir(const char *path);
void watcher_drop_process(pid_t pid);

/* Has the process ended? True also for one that only waits to be reaped.
 * Reaps it if it is our child. */
bool process_gone(pid_t pid);
/* Waits for that; false after timeout_ms. */
bool process_wait_gone(pid_t pid, int timeout_ms);
/* Stops the server of a cluster directory with SIGQUIT, then SIGKILL for all
 * its processes, and waits for the end of each. */
void server_kill(const char *cluster_dir);
/* Sends a signal to the postmaster and its children; with SIGKILL it also waits
 * until they are gone. */
void server_signal_all(const char *cluster_dir, int signal);
/* The postmaster's pid from data/postmaster.pid, if it is that of a running
 * process; else 0. */
pid_t server_pid(const char *cluster_dir);
/* Removes a tree; what is not there is no error. */
void dir_remove(const char *path);

#endif
