#include "common/queue.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "common/clock.h"
#include "common/memory.h"

struct Queue {
	pthread_mutex_t lock;
	pthread_cond_t not_empty;
	pthread_cond_t not_full;
	bool closed;
	size_t capacity;
	size_t head; /* index of the oldest item */
	size_t length;
	void *items[];
};

Queue *
queue_new(size_t capacity)
{
	CHECK(capacity > 0);
	Queue *queue = mem_zalloc(sizeof(Queue) + capacity * sizeof(void *));

	queue->capacity = capacity;
	pthread_mutex_init(&queue->lock, NULL);
	cond_init_monotonic(&queue->not_empty);
	cond_init_monotonic(&queue->not_full);
	return queue;
}

void
queue_free(Queue *queue)
{
	if (queue == NULL)
		return;
	pthread_cond_destroy(&queue->not_full);
	pthread_cond_destroy(&queue->not_empty);
	pthread_mutex_destroy(&queue->lock);
	free(queue);
}

/* False when the deadline has passed. */
static bool
wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ms)
{
	if (deadline_ms == 0)
		return pthread_cond_wait(cond, lock) == 0;

	struct timespec ts = {
		.tv_sec = deadline_ms / 1000,
		.tv_nsec = deadline_ms % 1000 * 1000000,
	};
	return pthread_cond_timedwait(cond, lock, &ts) == 0;
}

QueueResult
queue_push(Queue *queue, void *item, int64_t deadline_ms)
{
	QueueResult result = QUEUE_OK;

	pthread_mutex_lock(&queue->lock);
	while (!queue->closed && queue->length == queue->capacity && result == QUEUE_OK)
		if (!wait_until(&queue->not_full, &queue->lock, deadline_ms))
			result = QUEUE_TIMEOUT;
	if (queue->closed)
		result = QUEUE_CLOSED;
	else if (queue->length < queue->capacity) {
		queue->items[(queue->head + queue->length++) % queue->capacity] = item;
		pthread_cond_signal(&queue->not_empty);
		result = QUEUE_OK;
	}
	pthread_mutex_unlock(&queue->lock);
	return result;
}

QueueResult
queue_pop(Queue *queue, void **item, int64_t deadline_ms)
{
	QueueResult result = QUEUE_OK;

	pthread_mutex_lock(&queue->lock);
	while (queue->length == 0 && !queue->closed && result == QUEUE_OK)
		if (!wait_until(&queue->not_empty, &queue->lock, deadline_ms))
			result = QUEUE_TIMEOUT;
	if (queue->length > 0) {
		*item = queue->items[queue->head];
		queue->head = (queue->head + 1) % queue->capacity;
		queue->length--;
		pthread_cond_signal(&queue->not_full);
		result = QUEUE_OK;
	} else if (queue->closed) {
		result = QUEUE_CLOSED;
	}
	pthread_mutex_unlock(&queue->lock);
	return result;
}

void
queue_close(Queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->closed = true;
	pthread_cond_broadcast(&queue->not_empty);
	pthread_cond_broadcast(&queue->not_full);
	pthread_mutex_unlock(&queue->lock);
}

size_t
queue_length(Queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	size_t length = queue->length;
	pthread_mutex_unlock(&queue->lock);
	return length;
}
