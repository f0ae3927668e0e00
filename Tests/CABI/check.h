/* CHECK prints what failed and counts on, in any thread; the program's exit status is check_result(). C11, C++17. */
#ifndef CHECK_H
#define CHECK_H

#include "tensors.h"

#include <math.h>
#include <stdio.h>

static int checks_made, checks_failed;

/* CHECK(condition, "printf format that says which case", ...) */
#define CHECK(condition, ...)                                                                                          \
  do {                                                                                                                 \
    __atomic_fetch_add(&checks_made, 1, __ATOMIC_RELAXED);                                                             \
    if (!(condition)) {                                                                                                \
      __atomic_fetch_add(&checks_failed, 1, __ATOMIC_RELAXED);                                                         \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                                                  \
      fprintf(stderr, __VA_ARGS__);                                                                                    \
      fputc('\n', stderr);                                                                                             \
    }                                                                                                                  \
  } while (0)

/* Checks that an output's elements are what is expected, up to `tolerance`. */
static inline void check_numbers(const swiftattn_tensor *got, const swiftattn_tensor *expected, double tolerance,
                                 const char *name, const char *operand) {
  int64_t wrong = 0;
  double first_got = 0, first_expected = 0;
  for (int64_t linear = 0; linear < tensor_count(got); linear++) {
    const double is = flat_get(got, linear), ought = flat_get(expected, linear);
    if (is != ought && !(fabs(is - ought) <= tolerance * (1 + fabs(ought))) && wrong++ == 0)
      first_got = is, first_expected = ought;
  }
  CHECK(wrong == 0, "%s: %s: %lld elements are wrong, the first is %.9g instead of %.9g", name, operand,
        (long long)wrong, first_got, first_expected);
}

/* Likewise, and that nothing around its elements was written. */
static inline void check_array(const array *got, const array *expected, double tolerance, const char *name,
                               const char *operand) {
  check_numbers(&got->view, &expected->view, tolerance, name, operand);
  CHECK(array_gaps_intact(got), "%s: %s: memory around the elements was written", name, operand);
}

static inline int check_result(const char *program) {
  printf("%s: %d checks, %d failed\n", program, checks_made, checks_failed);
  return checks_failed || !checks_made;
}

#endif /* CHECK_H */
