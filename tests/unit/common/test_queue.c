/* common/queue.c, with threads: also run with SAN=thread. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/memory.h"
#include "common/queue.h"
#include "tests/unit/runner.h"

enum { PRODUCERS = 3, CONSUMERS = 3, ITEMS = 20000, NO_WAIT = 1 };

START_TEST(first_in_first_out)
{
	Queue *queue = queue_new(3);
	int values[5];
	void *item;

	/* Around the ring several times. */
	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < 3; i++)
			ck_assert_int_eq(queue_push(queue, &values[i], 0), QUEUE_OK);
		ck_assert_uint_eq(queue_length(queue), 3);
		ck_assert_int_eq(queue_push(queue, &values[3], NO_WAIT), QUEUE_TIMEOUT);
		ck_assert_int_eq(queue_pop(queue, &item, 0), QUEUE_OK);
		ck_assert_ptr_eq(item, &values[0]);
		ck_assert_int_eq(queue_push(queue, &values[4], 0), QUEUE_OK);
		for (int i = 1; i < 4; i++) {
			ck_assert_int_eq(queue_pop(queue, &item, 0), QUEUE_OK);
			ck_assert_ptr_eq(item, i < 3 ? &values[i] : &values[4]);
		}
		ck_assert_int_eq(queue_pop(queue, &item, NO_WAIT), QUEUE_TIMEOUT);
	}
	queue_free(queue);
	queue_free(NULL);
}
END_TEST

START_TEST(deadline_is_kept)
{
	Queue *queue = queue_new(1);
	void *item;

	int64_t before = clock_mono_ms();
	ck_assert_int_eq(queue_pop(queue, &item, deadline_in_ms(50)), QUEUE_TIMEOUT);
	ck_assert_int_ge(clock_mono_ms() - before, 49);
	ck_assert_int_eq(queue_push(queue, queue, 0), QUEUE_OK);
	before = clock_mono_ms();
	ck_assert_int_eq(queue_push(queue, queue, deadline_in_ms(50)), QUEUE_TIMEOUT);
	ck_assert_int_ge(clock_mono_ms() - before, 49);
	queue_free(queue);
}
END_TEST

START_TEST(closed_takes_nothing_and_gives_what_it_has)
{
	Queue *queue = queue_new(4);
	int value;
	void *item;

	ck_assert_int_eq(queue_push(queue, &value, 0), QUEUE_OK);
	queue_close(queue);
	ck_assert_int_eq(queue_push(queue, &value, 0), QUEUE_CLOSED);
	ck_assert_int_eq(queue_pop(queue, &item, 0), QUEUE_OK);
	ck_assert_ptr_eq(item, &value);
	ck_assert_int_eq(queue_pop(queue, &item, 0), QUEUE_CLOSED);
	ck_assert_int_eq(queue_pop(queue, &item, 0), QUEUE_CLOSED);
	queue_free(queue);
}
END_TEST

static void *
pop_one(void *arg)
{
	void *item;
	return (void *)(intptr_t)queue_pop(arg, &item, 0);
}

static void *
push_one(void *arg)
{
	return (void *)(intptr_t)queue_push(arg, arg, 0);
}

START_TEST(close_wakes_those_who_wait)
{
	Queue *empty = queue_new(1);
	Queue *full = queue_new(1);
	pthread_t threads[4];

	ck_assert_int_eq(queue_push(full, full, 0), QUEUE_OK);
	for (int i = 0; i < 2; i++) {
		pthread_create(&threads[i], NULL, pop_one, empty);
		pthread_create(&threads[2 + i], NULL, push_one, full);
	}
	queue_close(empty);
	queue_close(full);
	for (int i = 0; i < 4; i++) {
		void *result;
		pthread_join(threads[i], &result);
		ck_assert_int_eq((int)(intptr_t)result, QUEUE_CLOSED);
	}
	queue_free(empty);
	queue_free(full);
}
END_TEST

typedef struct {
	Queue *queue;
	atomic_int seen[PRODUCERS * ITEMS];
	int items[PRODUCERS * ITEMS];
	atomic_int out_of_order;
} Traffic;

typedef struct {
	Traffic *traffic;
	int number;
} Worker;

static void *
produce(void *arg)
{
	Worker *worker = arg;
	Traffic *traffic = worker->traffic;

	for (int i = 0; i < ITEMS; i++) {
		int *item = &traffic->items[worker->number * ITEMS + i];
		*item = worker->number * ITEMS + i;
		if (queue_push(traffic->queue, item, 0) != QUEUE_OK)
			abort();
	}
	return NULL;
}

static void *
consume(void *arg)
{
	Traffic *traffic = ((Worker *)arg)->traffic;
	int last[PRODUCERS];
	void *item;

	for (int i = 0; i < PRODUCERS; i++)
		last[i] = -1;
	while (queue_pop(traffic->queue, &item, 0) == QUEUE_OK) {
		int value = *(int *)item;
		atomic_fetch_add(&traffic->seen[value], 1);
		/* One producer's items reach one consumer in their order. */
		if (last[value / ITEMS] >= value)
			atomic_fetch_add(&traffic->out_of_order, 1);
		last[value / ITEMS] = value;
	}
	return NULL;
}

START_TEST(every_item_arrives_once)
{
	Traffic *traffic = mem_zalloc(sizeof(Traffic));
	pthread_t producers[PRODUCERS];
	pthread_t consumers[CONSUMERS];
	Worker workers[PRODUCERS];
	Worker consumer = {.traffic = traffic};

	traffic->queue = queue_new(7);
	for (int i = 0; i < CONSUMERS; i++)
		pthread_create(&consumers[i], NULL, consume, &consumer);
	for (int i = 0; i < PRODUCERS; i++) {
		workers[i] = (Worker){traffic, i};
		pthread_create(&producers[i], NULL, produce, &workers[i]);
	}
	for (int i = 0; i < PRODUCERS; i++)
		pthread_join(producers[i], NULL);
	queue_close(traffic->queue);
	for (int i = 0; i < CONSUMERS; i++)
		pthread_join(consumers[i], NULL);
	for (int i = 0; i < PRODUCERS * ITEMS; i++)
		ck_assert_int_eq(atomic_load(&traffic->seen[i]), 1);
	ck_assert_int_eq(atomic_load(&traffic->out_of_order), 0);
	queue_free(traffic->queue);
	free(traffic);
}
END_TEST

static Suite *
make_queue(void)
{
	Suite *suite = suite_create("queue");
	TCase *tcase = tcase_create("queue");

	tcase_add_test(tcase, first_in_first_out);
	tcase_add_test(tcase, deadline_is_kept);
	tcase_add_test(tcase, closed_takes_nothing_and_gives_what_it_has);
	tcase_add_test(tcase, close_wakes_those_who_wait);
	tcase_add_test(tcase, every_item_arrives_once);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make_queue)
