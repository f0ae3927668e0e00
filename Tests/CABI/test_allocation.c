/* Allocations that fail: this program puts its own functions in malloc's place and lets the first, the second, ... of
 * every call fail. Each call then says OUT_OF_MEMORY or, where it can do without, succeeds; nothing crashes. */
#define _GNU_SOURCE
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

/* Lets ever later allocations of `call` fail until none is left to fail; returns how many the call makes. */
static int check_failures(const problem *made, swiftattn_status (*call)(const problem *), const char *name) {
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

int main(void) {
  int refusals = 0;
  for (size_t each = 0; each < sizeof specs / sizeof *specs; each++) {
    problem made;
    problem_make(&made, &specs[each], SWIFTATTN_FLOAT32, LAYOUT_DENSE);
    problem_solve(&made);
    refusals += check_failures(&made, problem_forward, specs[each].name);
    refusals += check_failures(&made, problem_backward, specs[each].name);
    CHECK(problem_forward(&made) == SWIFTATTN_OK && problem_backward(&made) == SWIFTATTN_OK, "%s: %s", specs[each].name,
          swiftattn_last_error());
    for (int which = OUT; which < OPERAND_COUNT; which++)
      if (made.operands[which].memory)
        problem_check(&made, (operand)which, "after failed allocations");
    problem_free(&made);
  }
  CHECK(refusals > 0, "no call ran out of memory: the failing allocations were not the library's");
  return check_result("test_allocation");
}
