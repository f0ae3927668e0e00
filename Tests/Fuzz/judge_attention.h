/* Is a call of attention allowed? C11. */
#ifndef FUZZ_JUDGE_ATTENTION_H
#define FUZZ_JUDGE_ATTENTION_H

#include "judge.h"

/* The letters of the header. */
typedef struct attention_shapes {
  shape batch, scores, out, lse;
  int32_t dtype;
} attention_shapes;

static inline void judge_scale(verdict *found, const double *scale, int32_t dtype) {
  if (!scale)
    return;
  const double used = dtype == SWIFTATTN_FLOAT32 ? (double)(float)*scale : *scale;
  judge_that(found, isfinite(used) && used != 0);
}

/* query, key and value agree; the shapes that follow. */
static inline attention_shapes judge_heads(verdict *found, const swiftattn_attention *attention) {
  const swiftattn_tensor *q = attention->query, *k = attention->key, *v = attention->value;
  attention_shapes made = {.dtype = q ? q->dtype : 0};
  const int can_read = judge_required(found, q, made.dtype, 0) & judge_required(found, k, made.dtype, 0) &
                       judge_required(found, v, made.dtype, 0);
  judge_that(found, dtype_is_real(made.dtype));
  if (!can_read)
    return made;
  const int rank = q->rank;
  judge_that(found, rank >= 2 && k->rank == rank && v->rank == rank);
  if (found->is_bad)
    return made;
  const int64_t heads_q = rank > 2 ? q->shape[rank - 3] : 1, heads_kv = rank > 2 ? k->shape[rank - 3] : 1;
  made.batch = shape_of(q, rank > 2 ? 3 : 2);
  for (int axis = 0; axis < made.batch.rank; axis++)
    judge_that(found, k->shape[axis] == q->shape[axis] && v->shape[axis] == q->shape[axis]);
  judge_that(found, rank == 2 || v->shape[rank - 3] == heads_kv);
  judge_that(found, heads_q == heads_kv || (heads_kv > 0 && heads_q % heads_kv == 0));
  judge_that(found, k->shape[rank - 1] == q->shape[rank - 1] && q->shape[rank - 1] > 0);
  judge_that(found, v->shape[rank - 2] == k->shape[rank - 2]);
  made.scores = shape_with(shape_with(shape_with(made.batch, heads_q), q->shape[rank - 2]), k->shape[rank - 2]);
  made.out = shape_with(shape_of(q, 1), v->shape[rank - 1]);
  made.lse = shape_of(q, 1);
  return made;
}

static inline attention_shapes judge_operands(verdict *found, const swiftattn_attention *attention) {
  attention_shapes made = {.dtype = 0};
  judge_that(found, attention && attention->struct_size == sizeof *attention);
  if (found->is_bad)
    return made;
  made = judge_heads(found, attention);
  judge_that(found, attention->causal >= SWIFTATTN_CAUSAL_NONE && attention->causal <= SWIFTATTN_CAUSAL_BOTTOM_RIGHT);
  judge_scale(found, attention->scale, made.dtype);
  if (found->is_bad)
    return made;
  const int rank = made.scores.rank;
  judge_broadcast(found, attention->mask, &made.scores, SWIFTATTN_BOOL);
  judge_broadcast(found, attention->bias, &made.scores, made.dtype);
  judge_lengths(found, attention->key_lengths, made.batch, made.scores.lengths[rank - 1]);
  judge_lengths(found, attention->query_lengths, made.batch, made.scores.lengths[rank - 2]);
  return made;
}

static inline verdict judge_attention_forward(arena *all, const swiftattn_attention *attention,
                                              const swiftattn_tensor *out, const swiftattn_tensor *lse) {
  verdict found = judge_begin(all);
  const attention_shapes made = judge_operands(&found, attention);
  judge_that(&found, out != NULL);
  if (found.is_bad)
    return found;
  judge_exact(&found, out, made.out, made.dtype, 1);
  judge_exact(&found, lse, made.lse, made.dtype, 1);
  return found;
}

/* What backward takes besides the operands. */
typedef struct attention_results {
  const swiftattn_tensor *out, *lse, *dout;
  const swiftattn_attention_gradients *gradients;
} attention_results;

static inline verdict judge_attention_backward(arena *all, const swiftattn_attention *attention,
                                               const attention_results *results) {
  verdict found = judge_begin(all);
  const swiftattn_attention_gradients *gradients = results->gradients;
  const attention_shapes made = judge_operands(&found, attention);
  judge_that(&found,
             results->out && results->lse && results->dout && gradients && gradients->struct_size == sizeof *gradients);
  if (found.is_bad)
    return found;
  judge_exact(&found, results->out, made.out, made.dtype, 0);
  judge_exact(&found, results->lse, made.lse, made.dtype, 0);
  judge_exact(&found, results->dout, made.out, made.dtype, 0);
  judge_same(&found, gradients->query, attention->query);
  judge_same(&found, gradients->key, attention->key);
  judge_same(&found, gradients->value, attention->value);
  judge_same(&found, gradients->bias, attention->bias);
  return found;
}

#endif /* FUZZ_JUDGE_ATTENTION_H */
