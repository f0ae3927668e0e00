/* Allocations that fail: the allocator of this program refuses the first, the second, ... of every call. Each call then
 * says OUT_OF_MEMORY or, where threads can do without each other, succeeds; everything is given back, and the next call
 * has the bits that it always has. */
#define _POSIX_C_SOURCE 200809L
#include "allocator.h"
#include "trials.h"

static test_allocator allocator;

static void refuse(long number) {
  atomic_store(&allocator.allocations, 0);
  atomic_store(&allocator.succeeding, number);
}
static long requests(void) { return atomic_load(&allocator.allocations); }
static void check_returned(const char *when) { check_all_returned(&allocator, when); }

static const refusal by_allocator = {"allocation", refuse, requests, check_returned};

static const problem_spec specs[] = {
    {"small", 3, 1, 2, 1, 9, 17, 8, 8, SWIFTATTN_CAUSAL_NONE, 0},
    {"large", 4, 2, 4, 2, 150, 170, 32, 32, SWIFTATTN_CAUSAL_NONE, WITH_SHARED_BIAS},
    {"decoding", 4, 2, 8, 2, 1, 500, 64, 64, SWIFTATTN_CAUSAL_NONE, WITH_KEY_LENGTHS},
    {"bias for every pair", 4, 2, 4, 2, 140, 130, 32, 40, SWIFTATTN_CAUSAL_TOP_LEFT, WITH_BIAS | WITH_MASK},
};

static const swiftattn_rope rope = {sizeof rope, 0, 10000, 1, 0, 0, 0};

/* Backward copies the tokens of the first, of which some are NaN that no query sees. */
static const layer_spec layer_specs[] = {
    {"layer", 3, 2, 2, 1, 9, 17, 8, 8, 16, 16, 16, 16, NULL, SWIFTATTN_CAUSAL_NONE,
     LAYER_HAS_KEY | LAYER_HAS_BIASES | LAYER_HAS_KEY_LENGTHS},
    {"large layer", 3, 2, 4, 2, 150, 150, 32, 32, 96, 96, 96, 96, &rope, SWIFTATTN_CAUSAL_TOP_LEFT,
     LAYER_HAS_TOKEN | LAYER_HAS_SHARED_BIAS},
};

int main(void) {
  test_allocator_make(&allocator);
  CHECK(swiftattn_set_allocator(&allocator.allocator) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  for (int threads = 1; threads <= 4; threads += 3)
    for (int32_t dtype = SWIFTATTN_FLOAT32; dtype <= SWIFTATTN_FLOAT64; dtype++) {
      for (size_t each = 0; each < sizeof specs / sizeof *specs; each++)
        check_attention_refusals(&specs[each], dtype, &by_allocator, threads);
      for (size_t each = 0; each < sizeof layer_specs / sizeof *layer_specs; each++)
        check_layer_refusals(&layer_specs[each], dtype, &by_allocator, threads);
    }
  CHECK(swiftattn_set_allocator(NULL) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  return check_result("test_allocation");
}
