/* swiftattn_set_allocator and swiftattn_release_memory: which allocator is asked, what is kept, and that each piece of
 * memory goes back to where it came from, also when the allocator changes under running calls. */
#define _POSIX_C_SOURCE 200809L
#include "allocator.h"
#include "layer_problem.h"
#include "problem.h"

#include <pthread.h>
#include <time.h>

enum { THREADS = 6, ROUNDS = 40 };

static const problem_spec spec = {"forward", 4, 2, 4, 2, 150, 170, 32, 32, SWIFTATTN_CAUSAL_NONE, 0};
static const layer_spec of_layer = {
    "layer", 3, 2, 4, 2, 60, 60, 16, 16, 64, 64, 64, 64, NULL, SWIFTATTN_CAUSAL_NONE, LAYER_HAS_BIASES};

static test_allocator first, second;

static void check_use(const swiftattn_allocator *allocator) {
  CHECK(swiftattn_set_allocator(allocator) == SWIFTATTN_OK, "%s", swiftattn_last_error());
}

static void check_refused(swiftattn_allocator bad, const char *named) {
  CHECK(swiftattn_set_allocator(&bad) == SWIFTATTN_INVALID_ARGUMENT, "a bad allocator: %s", named);
  CHECK(strstr(swiftattn_last_error(), "allocator") && strstr(swiftattn_last_error(), named), "message \"%s\"",
        swiftattn_last_error());
}

static void check_errors(void) {
  swiftattn_allocator bad = second.allocator;
  bad.struct_size = 0;
  check_refused(bad, "struct_size");
  bad.struct_size = sizeof bad + 8;
  check_refused(bad, "struct_size");
  bad = second.allocator, bad.allocate = NULL;
  check_refused(bad, "allocate");
  bad = second.allocator, bad.deallocate = NULL;
  check_refused(bad, "deallocate");
}

/* How many allocations of `self` a call of each kind makes. */
static long allocations_of(const problem *made, const layer_problem *layer, test_allocator *self) {
  const long before = atomic_load(&self->allocations);
  CHECK(problem_forward(made) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(swiftattn_mha_forward(&layer->mha, layer_view(layer, LAYER_OUT), NULL, NULL, 0) == SWIFTATTN_OK, "%s",
        swiftattn_last_error());
  return atomic_load(&self->allocations) - before;
}

static void check_changes(const problem *made, const layer_problem *layer) {
  check_use(&first.allocator);
  check_errors();
  CHECK(allocations_of(made, layer, &first) == 2, "a workspace and the layer's memory are what forward takes");
  CHECK(atomic_load(&first.live_blocks) == 2, "%ld pieces are kept", atomic_load(&first.live_blocks));
  CHECK(allocations_of(made, layer, &first) == 0, "what is kept is not used again");
  swiftattn_release_memory();
  CHECK(atomic_load(&first.live_blocks) == 0, "release_memory leaves %ld pieces", atomic_load(&first.live_blocks));
  CHECK(allocations_of(made, layer, &first) == 2, "memory that was given back is used");
  check_use(&second.allocator);
  CHECK(atomic_load(&first.live_blocks) == 0, "another allocator leaves %ld pieces", atomic_load(&first.live_blocks));
  const long old = atomic_load(&first.allocations);
  CHECK(allocations_of(made, layer, &second) == 2, "the allocator that was set is not asked");
  check_use(NULL);
  CHECK(atomic_load(&second.live_blocks) == 0, "the default leaves %ld pieces", atomic_load(&second.live_blocks));
  CHECK(allocations_of(made, layer, &second) == 0, "an allocator that was replaced is asked");
  CHECK(atomic_load(&first.allocations) == old, "an allocator that was replaced is asked");
  check_all_returned(&first, "after changes");
  check_all_returned(&second, "after changes");
}

static atomic_int running, broken;

/* Every kind of call in turn, compared with the bits of the first round. */
static void *keep_calling(void *argument) {
  problem made, once;
  layer_problem layer;
  problem_make(&made, &spec, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  problem_make(&once, &spec, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  layer_make(&layer, &of_layer, SWIFTATTN_FLOAT64, LAYOUT_DENSE);
  int wrong = problem_forward(&once) != SWIFTATTN_OK || problem_backward(&once) != SWIFTATTN_OK;
  for (int round = 0; round < ROUNDS; round++) {
    wrong += problem_forward(&made) != SWIFTATTN_OK || problem_backward(&made) != SWIFTATTN_OK;
    for (int which = OUT; which < OPERAND_COUNT; which++)
      if (made.operands[which].memory)
        wrong += memcmp(made.operands[which].memory, once.operands[which].memory, once.operands[which].bytes) != 0;
    wrong += layer_forward(&layer) != SWIFTATTN_OK || layer_backward(&layer) != SWIFTATTN_OK;
  }
  atomic_fetch_add(&broken, wrong);
  problem_free(&made);
  problem_free(&once);
  layer_free(&layer);
  atomic_fetch_sub(&running, 1);
  return argument;
}

static void check_changes_under_calls(void) {
  const swiftattn_allocator *const turns[] = {&first.allocator, &second.allocator, NULL, &second.allocator};
  pthread_t threads[THREADS];
  atomic_store(&running, THREADS);
  for (int each = 0; each < THREADS; each++)
    CHECK(pthread_create(&threads[each], NULL, keep_calling, NULL) == 0, "pthread_create");
  for (size_t turn = 0; atomic_load(&running) > 0; turn++) {
    check_use(turns[turn % 4]);
    if (turn % 8 == 0)
      swiftattn_release_memory();
    const struct timespec moment = {0, 20000};
    nanosleep(&moment, NULL);
  }
  for (int each = 0; each < THREADS; each++)
    pthread_join(threads[each], NULL);
  CHECK(atomic_load(&broken) == 0, "%d calls went wrong while the allocator changed", atomic_load(&broken));
  CHECK(atomic_load(&first.allocations) > 0 && atomic_load(&second.allocations) > 0, "an allocator was never asked");
  check_use(NULL);
  check_all_returned(&first, "after changes under running calls");
  check_all_returned(&second, "after changes under running calls");
}

int main(void) {
  problem made;
  layer_problem layer;
  test_allocator_make(&first);
  test_allocator_make(&second);
  problem_make(&made, &spec, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  layer_make(&layer, &of_layer, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  CHECK(swiftattn_set_num_threads(1) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  check_changes(&made, &layer);
  CHECK(swiftattn_set_num_threads(3) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  check_changes_under_calls();
  problem_free(&made);
  layer_free(&layer);
  return check_result("test_allocator");
}
