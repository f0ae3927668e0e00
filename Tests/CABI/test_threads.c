/* Eight threads at once make calls of every kind: each gets the bits that one thread gets alone, and its own last
 * error. Run as `test_threads [rounds]`; a round is a call forward, one backward and one that fails. */
#define _POSIX_C_SOURCE 200809L
#include "mixed_calls.h"

#include <pthread.h>
#include <unistd.h>

enum { THREADS = 8 };

typedef struct worker {
  pthread_t thread;
  int number;
  int broken[MIXED_COUNT]; /* rounds that differed from the call made alone */
  int foreign_errors;
  mixed_calls calls;
} worker;

static worker workers[THREADS];
static mixed_calls alone;
static int rounds = 100;
static pthread_barrier_t together;

/* The number of threads is a process-wide setting that may change under running calls. */
static void change_thread_count(int round) {
  static const int32_t counts[] = {1, 2, 3, 4, 64, 0};
  swiftattn_set_num_threads(counts[(size_t)round % (sizeof counts / sizeof *counts)]);
}

static void *work(void *context) {
  worker *self = (worker *)context;
  uint32_t random = (uint32_t)self->number + 1;
  pthread_barrier_wait(&together);
  for (int round = 0; round < rounds; round++) {
    if (self->number == 0)
      change_thread_count(round);
    random = random * 1664525 + 1013904223;
    const int index = (int)((random >> 8) % MIXED_COUNT);
    self->foreign_errors += !mixed_own_error(&self->calls, index, 1000 + self->number);
    self->broken[index] += mixed_run(&self->calls, index) != SWIFTATTN_OK || !mixed_same(&self->calls, &alone, index);
  }
  return NULL;
}

int main(int count, char **arguments) {
  if (count > 1)
    rounds = atoi(arguments[1]);
  alarm(3600); /* a deadlock is a failure, not a hang */
  mixed_make(&alone);
  swiftattn_set_num_threads(1);
  for (int index = 0; index < MIXED_COUNT; index++)
    CHECK(mixed_run(&alone, index) == SWIFTATTN_OK, "%s: %s", mixed_name(index), swiftattn_last_error());
  pthread_barrier_init(&together, NULL, THREADS);
  for (int number = 0; number < THREADS; number++) {
    workers[number].number = number;
    mixed_make(&workers[number].calls);
    CHECK(pthread_create(&workers[number].thread, NULL, work, &workers[number]) == 0, "pthread_create");
  }
  for (int number = 0; number < THREADS; number++) {
    pthread_join(workers[number].thread, NULL);
    CHECK(workers[number].foreign_errors == 0, "thread %d: %d errors were not its own", number,
          workers[number].foreign_errors);
    for (int index = 0; index < MIXED_COUNT; index++)
      CHECK(workers[number].broken[index] == 0, "thread %d: %s went wrong %d times", number, mixed_name(index),
            workers[number].broken[index]);
    mixed_free(&workers[number].calls);
  }
  mixed_free(&alone);
  pthread_barrier_destroy(&together);
  printf("test_threads: %d calls\n", 3 * THREADS * rounds);
  return check_result("test_threads");
}
