/* Is a call of the layer allowed? C11. */
#ifndef FUZZ_JUDGE_LAYER_H
#define FUZZ_JUDGE_LAYER_H

#include "judge.h"

typedef struct layer_shapes {
  shape batch, scores, out, weights;
  int32_t dtype;
} layer_shapes;

static inline shape shape_make(int rank, int64_t first, int64_t second) { return (shape){rank, {first, second}}; }

static inline void judge_rope(verdict *found, const swiftattn_rope *rope, int64_t depth) {
  if (!rope)
    return;
  judge_that(found, rope->struct_size == sizeof *rope);
  if (found->is_bad)
    return;
  const int64_t most = INT64_C(1) << 53, dim = rope->dim ? rope->dim : depth;
  judge_that(found, dim >= 2 && dim % 2 == 0 && dim <= depth);
  judge_that(found, rope->base > 0 && isfinite(rope->base) && rope->scaling > 0 && isfinite(rope->scaling));
  judge_that(found, rope->offset >= -most && rope->offset <= most);
  judge_that(found, rope->key_offset >= -most && rope->key_offset <= most);
}

/* The weights, biases and tokens; outputs' width and the width of a head of q. */
static inline void judge_parameters(verdict *found, const swiftattn_mha *mha, layer_shapes *made, int64_t *depth) {
  const swiftattn_mha_parameters *given = mha->parameters;
  const swiftattn_tensor *query = mha->query, *key = mha->key ? mha->key : query;
  const swiftattn_tensor *value = mha->value ? mha->value : key;
  const int64_t heads_q = mha->num_heads, heads_kv = mha->num_kv_heads ? mha->num_kv_heads : heads_q;
  const swiftattn_tensor *weights[] = {given->query_weight, given->key_weight, given->value_weight, given->out_weight};
  for (int each = 0; each < 4; each++)
    if (judge_required(found, weights[each], made->dtype, 0))
      judge_that(found,
                 weights[each]->rank == 2 && weights[each]->shape[0] <= 1 << 30 && weights[each]->shape[1] <= 1 << 30);
  judge_that(found, heads_q > 0 && heads_kv > 0 && heads_q % heads_kv == 0);
  if (found->is_bad)
    return;
  const int64_t q = given->query_weight->shape[0], k = given->key_weight->shape[0], v = given->value_weight->shape[0];
  const int64_t width = given->out_weight->shape[0];
  judge_that(found, q > 0 && q % heads_q == 0 && v > 0 && v % heads_kv == 0 && k == q / heads_q * heads_kv);
  judge_that(found, given->query_weight->shape[1] == query->shape[query->rank - 1] &&
                        given->key_weight->shape[1] == key->shape[query->rank - 1] &&
                        given->value_weight->shape[1] == value->shape[query->rank - 1] &&
                        given->out_weight->shape[1] == heads_q * (v / heads_kv));
  judge_exact(found, given->query_bias, shape_make(1, q, 0), made->dtype, 0);
  judge_exact(found, given->key_bias, shape_make(1, k, 0), made->dtype, 0);
  judge_exact(found, given->value_bias, shape_make(1, v, 0), made->dtype, 0);
  judge_exact(found, given->out_bias, shape_make(1, width, 0), made->dtype, 0);
  judge_exact(found, given->key_token, shape_make(1, k, 0), made->dtype, 0);
  judge_exact(found, given->value_token, shape_make(1, v, 0), made->dtype, 0);
  judge_that(found, !given->key_token == !given->value_token);
  made->out = shape_with(shape_of(query, 1), width);
  *depth = q / heads_q;
}

/* query, key and value. */
static inline void judge_inputs(verdict *found, const swiftattn_mha *mha, layer_shapes *made) {
  const swiftattn_tensor *query = mha->query, *key = mha->key ? mha->key : query;
  const swiftattn_tensor *value = mha->value ? mha->value : key;
  made->dtype = query ? query->dtype : 0;
  const int can_read = judge_required(found, query, made->dtype, 0) & judge_required(found, key, made->dtype, 0) &
                       judge_required(found, value, made->dtype, 0);
  judge_that(found, dtype_is_real(made->dtype));
  if (!can_read)
    return;
  judge_that(found,
             query->rank >= 2 && query->rank < MAX_RANK && key->rank == query->rank && value->rank == query->rank);
  if (found->is_bad)
    return;
  const int rows = query->rank - 2;
  made->batch = shape_of(query, 2);
  for (int axis = 0; axis < rows; axis++)
    judge_that(found, key->shape[axis] == query->shape[axis] && value->shape[axis] == query->shape[axis]);
  judge_that(found, value->shape[rows] == key->shape[rows]);
  made->scores = shape_with(shape_with(made->batch, mha->num_heads), query->shape[rows]);
  made->scores = shape_with(made->scores, key->shape[rows]);
}

static inline layer_shapes judge_layer(verdict *found, const swiftattn_mha *mha) {
  layer_shapes made = {.dtype = 0};
  int64_t depth = 0;
  judge_that(found, mha && mha->struct_size == sizeof *mha);
  if (found->is_bad)
    return made;
  judge_that(found, mha->causal >= SWIFTATTN_CAUSAL_NONE && mha->causal <= SWIFTATTN_CAUSAL_BOTTOM_RIGHT);
  judge_that(found, mha->parameters && mha->parameters->struct_size == sizeof *mha->parameters);
  judge_inputs(found, mha, &made);
  if (found->is_bad)
    return made;
  judge_parameters(found, mha, &made, &depth);
  judge_rope(found, mha->rope, depth);
  return made;
}

/* What runs the layer, but not what sizes it. */
static inline void judge_layer_options(verdict *found, const swiftattn_mha *mha, layer_shapes *made) {
  found->is_sized = !found->is_bad;
  if (found->is_bad)
    return;
  const int rank = made->scores.rank;
  judge_broadcast(found, mha->mask, &made->scores, SWIFTATTN_BOOL);
  judge_broadcast(found, mha->bias, &made->scores, made->dtype);
  judge_lengths(found, mha->key_lengths, made->batch, made->scores.lengths[rank - 1]);
  made->weights = made->scores;
  made->weights.lengths[rank - 1] += (mha->parameters->key_token != NULL) + (mha->add_zero_attn != 0);
}

/* The weights, as packing takes them. How many bytes they take packed, 0 when they are bad. */
static inline size_t judge_weights(verdict *found, const swiftattn_mha_parameters *given) {
  judge_that(found, given && given->struct_size == sizeof *given);
  if (found->is_bad)
    return 0;
  const swiftattn_tensor *weights[] = {given->query_weight, given->key_weight, given->value_weight, given->out_weight};
  const int32_t dtype = weights[0] ? weights[0]->dtype : 0;
  judge_that(found, dtype_is_real(dtype));
  size_t lanes = dtype == SWIFTATTN_FLOAT32 ? 16 : 8, elements = 0;
  for (int each = 0; each < 4; each++) {
    if (judge_required(found, weights[each], dtype, 0))
      judge_that(found,
                 weights[each]->rank == 2 && weights[each]->shape[0] <= 1 << 30 && weights[each]->shape[1] <= 1 << 30);
    if (!found->is_bad)
      elements += ((size_t)weights[each]->shape[0] + lanes - 1) / lanes * lanes *
                  (((size_t)weights[each]->shape[1] + lanes - 1) / lanes * lanes);
  }
  return found->is_bad ? 0 : (elements ? elements : 1) * dtype_size(dtype);
}

/* Memory that has packed weights, or is to have them. */
static inline void judge_packed(verdict *found, const swiftattn_tensor *packed, size_t needed, int is_output) {
  judge_that(found, (size_t)packed->shape[0] >= needed && (uintptr_t)packed->data % SWIFTATTN_MHA_ALIGNMENT == 0);
  judge_tensor(found, packed, is_output);
}

static inline swiftattn_tensor view_of_bytes(const void *data, size_t count) {
  return (swiftattn_tensor){(void *)(uintptr_t)data, SWIFTATTN_BOOL, 1, {(int64_t)count}, {1}};
}

typedef struct layer_results {
  const swiftattn_tensor *out, *weights, *dout;
  swiftattn_tensor saved; /* the bytes that are there */
  size_t needed;          /* and how many must be */
  const swiftattn_mha_gradients *gradients;
} layer_results;

static inline void judge_saved(verdict *found, const layer_results *results, int is_output) {
  if (!results->saved.data)
    return;
  judge_that(found, (size_t)results->saved.shape[0] >= results->needed &&
                        (uintptr_t)results->saved.data % SWIFTATTN_MHA_ALIGNMENT == 0);
  judge_tensor(found, &results->saved, is_output);
}

static inline verdict judge_layer_forward(arena *all, const swiftattn_mha *mha, const layer_results *results) {
  verdict found = judge_begin(all);
  layer_shapes made = judge_layer(&found, mha);
  judge_layer_options(&found, mha, &made);
  judge_that(&found, results->out != NULL);
  if (found.is_bad)
    return found;
  if (mha->packed) {
    const swiftattn_tensor packed = view_of_bytes(mha->packed, mha->packed_bytes);
    judge_packed(&found, &packed, judge_weights(&found, mha->parameters), 0);
  }
  judge_exact(&found, results->out, made.out, made.dtype, 1);
  if (results->weights && results->weights->rank == made.weights.rank - 1) {
    /* Averaged: without the axis of heads. */
    shape *heads = &made.weights;
    memmove(heads->lengths + heads->rank - 3, heads->lengths + heads->rank - 2, 2 * sizeof *heads->lengths);
    heads->rank--;
  }
  judge_exact(&found, results->weights, made.weights, made.dtype, 1);
  judge_saved(&found, results, 1);
  return found;
}

static inline void judge_parameter_gradients(verdict *found, const swiftattn_mha_parameters *gradients,
                                             const swiftattn_mha_parameters *given) {
  const swiftattn_tensor *const *gradient = &gradients->query_weight, *const *parameter = &given->query_weight;
  judge_that(found, gradients->struct_size == sizeof *gradients);
  for (int each = 0; !found->is_bad && each < 10; each++)
    judge_same(found, gradient[each], parameter[each]);
}

static inline verdict judge_layer_backward(arena *all, const swiftattn_mha *mha, const layer_results *results) {
  verdict found = judge_begin(all);
  const swiftattn_mha_gradients *gradients = results->gradients;
  layer_shapes made = judge_layer(&found, mha);
  judge_layer_options(&found, mha, &made);
  judge_that(&found, results->dout && results->saved.data && gradients && gradients->struct_size == sizeof *gradients);
  if (found.is_bad)
    return found;
  judge_exact(&found, results->dout, made.out, made.dtype, 0);
  judge_saved(&found, results, 0);
  judge_same(&found, gradients->query, mha->query);
  judge_same(&found, gradients->key, mha->key);
  judge_same(&found, gradients->value, mha->value);
  judge_same(&found, gradients->bias, mha->bias);
  if (gradients->parameters)
    judge_parameter_gradients(&found, gradients->parameters, mha->parameters);
  return found;
}

#endif /* FUZZ_JUDGE_LAYER_H */
