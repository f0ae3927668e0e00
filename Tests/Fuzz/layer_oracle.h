/* What the layer computes, compared with the scalar reference of the C tests. C11. */
#ifndef FUZZ_LAYER_ORACLE_H
#define FUZZ_LAYER_ORACLE_H

#include "attention_oracle.h"
#include "judge_layer.h"
#include "layer_problem.h"

/* Sums over rows and widths have larger errors than attention's. */
static inline double layer_tolerance(int32_t dtype) { return dtype == SWIFTATTN_FLOAT32 ? 3e-4 : 3e-12; }

/* Leaves the reference ready for its backward. */
static inline void layer_check_forward(reference_layer *reference, const swiftattn_mha *mha,
                                       const layer_results *results) {
  const double tolerance = layer_tolerance(mha->query->dtype);
  reference_layer_make(reference, mha);
  swiftattn_tensor heads = reference->bias.view, one = heads;
  const int rank = heads.rank;
  memmove(one.shape + rank - 3, heads.shape + rank - 2, 2 * sizeof *heads.shape);
  one.rank = rank - 1;
  array out = expected_make(results->out), weights = expected_make(&heads), average = expected_make(&one);
  reference_layer_forward(reference, &out.view, &weights.view, &average.view);
  expected_check(results->out, &out, tolerance, "out");
  if (results->weights)
    check_numbers(results->weights, results->weights->rank == rank ? &weights.view : &average.view, tolerance, "fuzz",
                  "weights");
  array_free(&weights);
  array_free(&average);
}

/* The gradients in the order of reference_layer_gradients. */
static inline void layer_wanted(const swiftattn_mha_gradients *gradients, const swiftattn_tensor **wanted) {
  const swiftattn_mha_parameters *parameters = gradients->parameters;
  wanted[0] = gradients->query;
  wanted[1] = gradients->key;
  wanted[2] = gradients->value;
  wanted[3] = gradients->bias;
  for (int each = 0; each < REFERENCE_PARAMETERS; each++)
    wanted[4 + each] = parameters ? (&parameters->query_weight)[each] : NULL;
}

/* Before backward: its outputs, to some of which it adds. */
static inline void layer_expect(const swiftattn_mha_gradients *gradients, array *expected) {
  const swiftattn_tensor *wanted[REFERENCE_GRADIENTS];
  layer_wanted(gradients, wanted);
  for (int each = 0; each < REFERENCE_GRADIENTS; each++) {
    expected[each] = expected_make(wanted[each]);
    for (int64_t linear = 0; each >= 4 && wanted[each] && linear < tensor_count(wanted[each]); linear++)
      flat_set(&expected[each].view, linear, flat_get(wanted[each], linear));
  }
}

static inline void layer_check_backward(reference_layer *reference, const layer_results *results, array *expected) {
  const swiftattn_tensor *wanted[REFERENCE_GRADIENTS];
  layer_wanted(results->gradients, wanted);
  reference_layer_gradients gradients;
  for (int each = 0; each < REFERENCE_GRADIENTS; each++)
    gradients.all[each] = wanted[each] ? &expected[each].view : NULL;
  reference_layer_backward(reference, results->dout, &gradients);
  for (int each = 0; each < REFERENCE_GRADIENTS; each++)
    if (wanted[each])
      check_numbers(wanted[each], &expected[each].view, layer_tolerance(wanted[each]->dtype), "fuzz",
                    layer_operand_name(FIRST_GRADIENT + each));
}

#endif /* FUZZ_LAYER_ORACLE_H */
