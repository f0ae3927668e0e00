/* Allocations that fail: this program puts its own functions in malloc's place and lets the first, the second, ... of
 * every call fail. Each call then says OUT_OF_MEMORY or, where it can do without, succeeds; nothing crashes. */
#define _GNU_SOURCE
#include "layer_problem.h"
#include "problem.h"

#include <errno.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

/* Of the calling thread: how many allocations succeed before one fails, negative for all; and how many were asked for.
 */
static _Thread_local int allocations_left = -1, allocations_made;

static int allocation_fails(void) {
  allocations_made++;
  return allocations_left >= 0 && allocations_left-- == 0;
}

void *malloc(size_t size) { return allocation_fails() ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return allocation_fails() ? NULL : __libc_calloc(count, size); }
void *realloc(void *memory, size_t size) { return allocation_fails() ? NULL : __libc_realloc(memory, size); }
void *memalign(size_t alignment, size_t size) { return allocation_fails() ? NULL : __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void **memory, size_t alignment, size_t size) {
  *memory = memalign(alignment, size);
  return *memory ? 0 : ENOMEM;
}

static const problem_spec specs[] = {
    {"small", 3, 1, 2, 1, 9, 17, 8, 8, SWIFTATTN_CAUSAL_NONE, 0},
    {"large", 4, 2, 4, 2, 150, 170, 32, 32, SWIFTATTN_CAUSAL_NONE, WITH_SHARED_BIAS},
    {"decoding", 4, 2, 8, 2, 1, 500, 64, 64, SWIFTATTN_CAUSAL_NONE, WITH_KEY_LENGTHS},
};

/* Backward copies the tokens of the first, of which some are NaN that no query sees. */
static const layer_spec layer_specs[] = {
    {"layer", 3, 2, 2, 1, 9, 17, 8, 8, 16, 16, 16, 16, NULL, SWIFTATTN_CAUSAL_NONE,
     LAYER_HAS_KEY | LAYER_HAS_BIASES | LAYER_HAS_KEY_LENGTHS},
    {"large layer", 3, 2, 4, 2, 150, 150, 32, 32, 96, 96, 96, 96, NULL, SWIFTATTN_CAUSAL_TOP_LEFT,
     LAYER_HAS_TOKEN | LAYER_HAS_SHARED_BIAS},
};

static swiftattn_status attention_forward(const void *made) { return problem_forward((const problem *)made); }
static swiftattn_status attention_backward(const void *made) { return problem_backward((const problem *)made); }
static swiftattn_status saving_forward(const void *made) { return layer_forward((const layer_problem *)made); }
static swiftattn_status saved_backward(const void *made) { return layer_backward((const layer_problem *)made); }

static swiftattn_status unsaved_forward(const void *context) {
  const layer_problem *made = (const layer_problem *)context;
  return swiftattn_mha_forward(&made->mha, layer_view(made, LAYER_OUT), layer_view(made, LAYER_AVERAGE), NULL, 0);
}

/* Lets ever later allocations of `call` fail until none is left to fail; returns how many the call makes. */
static int check_failures(const void *made, swiftattn_status (*call)(const void *), const char *name) {
  int refusals = 0;
  for (int succeeding = 0; succeeding < 1000; succeeding++) {
    allocations_made = 0;
    allocations_left = succeeding;
    const swiftattn_status status = call(made);
    allocations_left = -1;
    const int reached = allocations_made > succeeding;
    CHECK(status == SWIFTATTN_OK || (reached && status == SWIFTATTN_OUT_OF_MEMORY), "%s: status %d: %s", name,
          (int)status, swiftattn_last_error());
    CHECK(status == SWIFTATTN_OK || strstr(swiftattn_last_error(), "memory"), "%s: message \"%s\"", name,
          swiftattn_last_error());
    refusals += status == SWIFTATTN_OUT_OF_MEMORY;
    if (!reached)
      break;
  }
  return refusals;
}

/* Returns how many allocations failed. */
static int check_layer(const layer_spec *spec) {
  layer_problem made;
  layer_make(&made, spec, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  layer_solve(&made);
  const int without_saving = check_failures(&made, unsaved_forward, spec->name);
  CHECK(without_saving > 0, "%s: forward without saving allocates nothing", spec->name);
  int refusals = check_failures(&made, saving_forward, spec->name);
  CHECK(layer_forward(&made) == SWIFTATTN_OK, "%s: %s", spec->name, swiftattn_last_error());
  refusals += check_failures(&made, saved_backward, spec->name);
  layer_reset(&made);
  CHECK(unsaved_forward(&made) == SWIFTATTN_OK && layer_forward(&made) == SWIFTATTN_OK, "%s: %s", spec->name,
        swiftattn_last_error());
  CHECK(layer_backward(&made) == SWIFTATTN_OK, "%s: %s", spec->name, swiftattn_last_error());
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++)
    layer_check(&made, which, "after failed allocations");
  layer_free(&made);
  return refusals + without_saving;
}

int main(void) {
  int refusals = 0;
  for (size_t each = 0; each < sizeof specs / sizeof *specs; each++) {
    problem made;
    problem_make(&made, &specs[each], SWIFTATTN_FLOAT32, LAYOUT_DENSE);
    problem_solve(&made);
    refusals += check_failures(&made, attention_forward, specs[each].name);
    refusals += check_failures(&made, attention_backward, specs[each].name);
    CHECK(problem_forward(&made) == SWIFTATTN_OK && problem_backward(&made) == SWIFTATTN_OK, "%s: %s", specs[each].name,
          swiftattn_last_error());
    for (int which = OUT; which < OPERAND_COUNT; which++)
      if (made.operands[which].memory)
        problem_check(&made, (operand)which, "after failed allocations");
    problem_free(&made);
  }
  for (size_t each = 0; each < sizeof layer_specs / sizeof *layer_specs; each++)
    refusals += check_layer(&layer_specs[each]);
  CHECK(refusals > 0, "no call ran out of memory: the failing allocations were not the library's");
  return check_result("test_allocation");
}
