/* What attention computes, compared with the scalar reference of the C tests. C11. */
#ifndef FUZZ_ATTENTION_ORACLE_H
#define FUZZ_ATTENTION_ORACLE_H

#include "check.h"
#include "judge_attention.h"
#include "reference.h"

/* Compares an output with what the reference makes of it, which begins with zeros. */
static inline array expected_make(const swiftattn_tensor *output) {
  array made = {.memory = NULL};
  if (output) {
    made = array_make(SWIFTATTN_FLOAT64, output->rank, output->shape, LAYOUT_DENSE);
    array_fill(&made, 0);
  }
  return made;
}

static inline void expected_check(const swiftattn_tensor *output, array *expected, double tolerance, const char *name) {
  if (output)
    check_numbers(output, &expected->view, tolerance, "fuzz", name);
  array_free(expected);
}

static inline double tolerance_of(int32_t dtype) { return dtype == SWIFTATTN_FLOAT32 ? 4e-5 : 4e-13; }

/* How many elements there are; a bias may be broadcast, so that its gradient sums terms that cancel. */
static inline double count_of(const swiftattn_tensor *tensor) {
  double count = 1;
  for (int32_t axis = 0; axis < tensor->rank; axis++)
    count *= (double)tensor->shape[axis];
  return count;
}

/* One rounding error of a term more for every 64 pairs of a query and a key that an element of the bias is added to. */
static inline double bias_tolerance(const swiftattn_attention *attention, const swiftattn_tensor *gradient) {
  const swiftattn_tensor *query = attention->query, *key = attention->key;
  if (!gradient || count_of(gradient) == 0)
    return 0;
  const double pairs =
      count_of(query) / (double)query->shape[query->rank - 1] * (double)key->shape[key->rank - 2] / count_of(gradient);
  return tolerance_of(query->dtype) * (1 + pairs / 64);
}

static inline void attention_check_forward(const swiftattn_attention *attention, const attention_results *results,
                                           int32_t dtype) {
  array out = expected_make(results->out), lse = expected_make(results->lse);
  reference_forward(attention, &out.view, results->lse ? &lse.view : NULL);
  expected_check(results->out, &out, tolerance_of(dtype), "out");
  expected_check(results->lse, &lse, tolerance_of(dtype), "lse");
}

static inline void attention_check_backward(const swiftattn_attention *attention, const attention_results *results,
                                            int32_t dtype) {
  const swiftattn_attention_gradients *wanted = results->gradients;
  const swiftattn_tensor *fields[] = {wanted->query, wanted->key, wanted->value, wanted->bias};
  static const char *const names[] = {"query gradient", "key gradient", "value gradient", "bias gradient"};
  array expected[4];
  const swiftattn_tensor *views[4];
  for (int each = 0; each < 4; each++) {
    expected[each] = expected_make(fields[each]);
    views[each] = fields[each] ? &expected[each].view : NULL;
  }
  const swiftattn_attention_gradients gradients = {sizeof gradients, views[0], views[1], views[2], views[3]};
  reference_backward(attention, results->dout, &gradients);
  for (int each = 0; each < 4; each++)
    expected_check(fields[each], &expected[each],
                   fields[each] == wanted->bias ? bias_tolerance(attention, wanted->bias) : tolerance_of(dtype),
                   names[each]);
}

#endif /* FUZZ_ATTENTION_ORACLE_H */
