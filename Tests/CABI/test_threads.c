/* Eight threads call at once: each gets the bits that it gets alone, and its own last error. */
#define _POSIX_C_SOURCE 200809L
#include "problem.h"

#include <pthread.h>

enum { THREADS = 8, ROUNDS = 12 };

static const problem_spec specs[THREADS] = {
    {"one", 3, 1, 4, 2, 130, 200, 32, 32, SWIFTATTN_CAUSAL_NONE, 0},
    {"two", 4, 2, 2, 2, 97, 97, 16, 16, SWIFTATTN_CAUSAL_TOP_LEFT, 0},
    {"three", 4, 3, 2, 1, 64, 80, 40, 24, SWIFTATTN_CAUSAL_NONE, WITH_KEY_LENGTHS},
    {"four", 4, 2, 4, 1, 1, 300, 64, 64, SWIFTATTN_CAUSAL_NONE, 0},
    {"five", 4, 2, 4, 2, 50, 60, 16, 16, SWIFTATTN_CAUSAL_NONE, WITH_MASK},
    {"six", 4, 2, 4, 2, 50, 60, 16, 16, SWIFTATTN_CAUSAL_NONE, WITH_SHARED_BIAS},
    {"seven", 2, 1, 1, 1, 150, 90, 8, 8, SWIFTATTN_CAUSAL_BOTTOM_RIGHT, 0},
    {"eight", 2, 1, 1, 1, 3, 5, 7, 9, SWIFTATTN_CAUSAL_NONE, 0},
};

typedef struct worker {
  pthread_t thread;
  int number;
  int broken; /* rounds that differed from the call made alone */
} worker;

static pthread_barrier_t together;

/* A failing call whose message only this thread can have caused: key's head dim is told apart by `number`. */
static int own_error(const problem *made, int number) {
  swiftattn_tensor key = made->operands[KEY].view;
  swiftattn_attention attention = made->attention;
  char expected[64];
  key.shape[key.rank - 1] = 1000 + number;
  attention.key = &key;
  snprintf(expected, sizeof expected, "%d", 1000 + number);
  return swiftattn_attention_forward(&attention, problem_view(made, OUT), NULL) == SWIFTATTN_INVALID_SHAPE &&
         strstr(swiftattn_last_error(), expected);
}

static void *work(void *context) {
  worker *self = (worker *)context;
  problem alone, crowded;
  problem_make(&alone, &specs[self->number], SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  problem_make(&crowded, &specs[self->number], SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  self->broken = problem_forward(&alone) != SWIFTATTN_OK || problem_backward(&alone) != SWIFTATTN_OK;
  pthread_barrier_wait(&together);
  for (int round = 0; round < ROUNDS; round++) {
    /* The number of threads is a process-wide setting that may change under running calls. */
    if (self->number == 0)
      swiftattn_set_num_threads(1 + round % 4);
    int same = problem_forward(&crowded) == SWIFTATTN_OK && problem_backward(&crowded) == SWIFTATTN_OK;
    for (int which = OUT; which < OPERAND_COUNT; which++)
      if (alone.operands[which].memory)
        same &= !memcmp(alone.operands[which].memory, crowded.operands[which].memory, alone.operands[which].bytes);
    self->broken += !same || !own_error(&crowded, self->number);
  }
  problem_free(&alone);
  problem_free(&crowded);
  return NULL;
}

int main(void) {
  worker workers[THREADS];
  pthread_barrier_init(&together, NULL, THREADS);
  for (int number = 0; number < THREADS; number++) {
    workers[number].number = number;
    workers[number].broken = 0;
    CHECK(pthread_create(&workers[number].thread, NULL, work, &workers[number]) == 0, "pthread_create");
  }
  for (int number = 0; number < THREADS; number++) {
    pthread_join(workers[number].thread, NULL);
    CHECK(workers[number].broken == 0, "thread %s: %d calls went wrong", specs[number].name, workers[number].broken);
  }
  pthread_barrier_destroy(&together);
  return check_result("test_threads");
}
