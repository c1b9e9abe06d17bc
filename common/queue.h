/*
 * queue.h: a bounded queue of pointers between threads; the only way two
 * threads hand work to each other. Any number of producers and consumers.
 */
#ifndef PGBATON_COMMON_QUEUE_H
#define PGBATON_COMMON_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attr.h"

typedef struct Queue Queue;

typedef enum {
	QUEUE_OK,
	QUEUE_TIMEOUT, /* full (push) or empty (pop) until the deadline */
	QUEUE_CLOSED   /* push: closed; pop: closed and empty */
} QueueResult;

Queue *queue_new(size_t capacity);
/* What is still inside is not freed: pop it first. */
void queue_free(Queue *queue);
/* deadline_ms as in clock.h; 0 waits for ever, 1 (long past) does not wait. */
QueueResult queue_push(Queue *queue, void *item, int64_t deadline_ms) MUST_CHECK;
QueueResult queue_pop(Queue *queue, void **item, int64_t deadline_ms) MUST_CHECK;
/* No more pushes; whoever waits wakes. Pops go on until it is empty. */
void queue_close(Queue *queue);
size_t queue_length(Queue *queue);

#endif
