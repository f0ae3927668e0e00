/* A whole call of the library built from one line of a table: operands, options, outputs and gradients in a chosen
 * dtype and layout, and what the reference makes of the same numbers. C11 and C++17. */
#ifndef PROBLEM_H
#define PROBLEM_H

#include "check.h"
#include "reference.h"

/* Every tensor that a call may take. From OUT on they are outputs of one of the two calls. */
typedef enum operand {
  QUERY,
  KEY,
  VALUE,
  MASK,
  BIAS,
  KEY_LENGTHS,
  QUERY_LENGTHS,
  DOUT,
  OUT,
  LSE,
  DQUERY,
  DKEY,
  DVALUE,
  DBIAS,
  OPERAND_COUNT
} operand;

static const char *const operand_names[OPERAND_COUNT] = {"query",
                                                         "key",
                                                         "value",
                                                         "mask",
                                                         "bias",
                                                         "key_lengths",
                                                         "query_lengths",
                                                         "dout",
                                                         "out",
                                                         "lse",
                                                         "gradients.query",
                                                         "gradients.key",
                                                         "gradients.value",
                                                         "gradients.bias"};

/* Which options a problem has. */
enum {
  WITH_MASK = 1,           /* of the full shape (B, Hq, Sq, Sk), with an empty row */
  WITH_KEY_MASK = 2,       /* of shape (Sk) */
  WITH_BIAS = 4,           /* of the full shape, with one row of -inf */
  WITH_SHARED_BIAS = 8,    /* of shape (Sq, Sk), or (1, Sk) under WITH_KEY_MASK, whose gradient is a sum */
  WITH_KEY_LENGTHS = 16,   /* INT32; the keys and values behind them are NaN */
  WITH_QUERY_LENGTHS = 32, /* INT64 */
  WITH_SCALE = 64,         /* a negative one */
  WITH_ZERO_STRIDE = 128   /* every batch element sees the same keys and values */
};

typedef struct problem_spec {
  const char *name;
  int rank;
  int64_t batch, heads_q, heads_kv, length_q, length_k, depth, depth_v;
  int32_t causal;
  int options;
} problem_spec;

/* `attention` and `gradients` point into the struct itself: a problem stays where it was made. */
typedef struct problem {
  swiftattn_attention attention;
  swiftattn_attention_gradients gradients;
  array operands[OPERAND_COUNT];
  array expected[OPERAND_COUNT]; /* the outputs, FLOAT64 */
  double scale;
} problem;

/* The operand's shape, of its rank; 0 when the problem has no such operand, else 1. */
static inline int problem_shape(const problem_spec *spec, operand which, int64_t *shape, int *rank) {
  /* The last three dimensions; the leading ones are (2, batch) in rank 5. */
  int64_t tail[3] = {spec->heads_q, spec->length_q, spec->depth};
  *rank = spec->rank;
  if (which == KEY || which == VALUE || which == DKEY || which == DVALUE)
    tail[0] = spec->heads_kv, tail[1] = spec->length_k;
  if (which == VALUE || which == OUT || which == DOUT || which == DVALUE)
    tail[2] = spec->depth_v;
  if (which == MASK || which == BIAS || which == DBIAS) {
    const int full = which == MASK ? WITH_MASK : WITH_BIAS;
    const int shared = which == MASK ? WITH_KEY_MASK : WITH_SHARED_BIAS;
    if (!(spec->options & (full | shared)))
      return 0;
    tail[2] = spec->length_k;
    if (spec->options & shared) {
      *rank = which == MASK ? 1 : 2;
      tail[1] = spec->options & WITH_KEY_MASK ? 1 : spec->length_q;
    }
  }
  const int leading = spec->rank > 3 ? spec->rank - 3 : 0;
  int64_t whole[MAX_RANK] = {2, spec->batch, tail[0], tail[1], tail[2]};
  const int64_t *end = whole + 5;
  if (which == LSE)
    end -= 1, *rank -= 1;
  if (which == KEY_LENGTHS || which == QUERY_LENGTHS) {
    if (!(spec->options & (which == KEY_LENGTHS ? WITH_KEY_LENGTHS : WITH_QUERY_LENGTHS)))
      return 0;
    end -= 3, *rank = leading;
  }
  memcpy(shape, end - *rank, (size_t)*rank * sizeof *shape);
  return 1;
}

static inline int32_t problem_dtype(operand which, int32_t dtype) {
  switch (which) {
  case MASK:
    return SWIFTATTN_BOOL;
  case KEY_LENGTHS:
    return SWIFTATTN_INT32;
  case QUERY_LENGTHS:
    return SWIFTATTN_INT64;
  default:
    return dtype;
  }
}

/* Lengths that fall from all to none over the batch. */
static inline void problem_fill_lengths(const array *lengths, int64_t all) {
  int64_t index[MAX_RANK] = {0};
  const int64_t count = tensor_count(&lengths->view);
  for (int64_t linear = 0; linear < count; linear++) {
    unravel(&lengths->view, linear, index);
    const int64_t kept = count == 1 ? all - all / 3 : all - all * linear / (count - 1);
    tensor_set(&lengths->view, index, lengths->view.rank, (double)kept);
  }
}

/* Sets the row `row` of every (b, head) to `number`. */
static inline void problem_fill_row(const array *target, int64_t row, double number) {
  int64_t index[MAX_RANK] = {0};
  for (int64_t linear = 0; linear < tensor_count(&target->view); linear++) {
    unravel(&target->view, linear, index);
    if (index[target->view.rank - 2] == row)
      tensor_set(&target->view, index, target->view.rank, number);
  }
}

/* NaN in every key and value that key_lengths leaves out. */
static inline void problem_poison(const array *target, const array *lengths) {
  int64_t index[MAX_RANK] = {0};
  const int rank = target->view.rank;
  for (int64_t linear = 0; linear < tensor_count(&target->view); linear++) {
    unravel(&target->view, linear, index);
    if (index[rank - 2] >= (int64_t)tensor_get(&lengths->view, index, lengths->view.rank))
      tensor_set(&target->view, index, rank, NAN);
  }
}

static inline const swiftattn_tensor *problem_view(const problem *made, operand which) {
  return made->operands[which].memory ? &made->operands[which].view : NULL;
}

/* Points the ABI's structs at the operands that there are. */
static inline void problem_connect(problem *made, const problem_spec *spec) {
  swiftattn_attention *attention = &made->attention;
  attention->struct_size = sizeof *attention;
  attention->query = problem_view(made, QUERY);
  attention->key = problem_view(made, KEY);
  attention->value = problem_view(made, VALUE);
  attention->mask = problem_view(made, MASK);
  attention->bias = problem_view(made, BIAS);
  attention->key_lengths = problem_view(made, KEY_LENGTHS);
  attention->query_lengths = problem_view(made, QUERY_LENGTHS);
  attention->causal = spec->causal;
  made->scale = -0.75;
  attention->scale = spec->options & WITH_SCALE ? &made->scale : NULL;
  made->gradients.struct_size = sizeof made->gradients;
  made->gradients.query = problem_view(made, DQUERY);
  made->gradients.key = problem_view(made, DKEY);
  made->gradients.value = problem_view(made, DVALUE);
  made->gradients.bias = problem_view(made, DBIAS);
}

/* Random operands. The outputs keep the PATTERN of new memory. */
static inline void problem_make(problem *made, const problem_spec *spec, int32_t dtype, layout form) {
  memset(made, 0, sizeof *made);
  for (int which = 0; which < OPERAND_COUNT; which++) {
    int64_t shape[MAX_RANK];
    int rank;
    if (!problem_shape(spec, (operand)which, shape, &rank))
      continue;
    made->operands[which] = array_make(problem_dtype((operand)which, dtype), rank, shape, form);
    if (which < OUT)
      array_randomize(&made->operands[which], (uint64_t)which + 1);
  }
  if (spec->options & WITH_MASK)
    problem_fill_row(&made->operands[MASK], spec->length_q / 2, 0);
  if (spec->options & WITH_BIAS)
    problem_fill_row(&made->operands[BIAS], spec->length_q - 1, -INFINITY);
  if (spec->options & WITH_QUERY_LENGTHS)
    problem_fill_lengths(&made->operands[QUERY_LENGTHS], spec->length_q);
  if (spec->options & WITH_KEY_LENGTHS) {
    problem_fill_lengths(&made->operands[KEY_LENGTHS], spec->length_k);
    problem_poison(&made->operands[KEY], &made->operands[KEY_LENGTHS]);
    problem_poison(&made->operands[VALUE], &made->operands[KEY_LENGTHS]);
  }
  if (spec->options & WITH_ZERO_STRIDE)
    made->operands[KEY].view.strides[0] = made->operands[VALUE].view.strides[0] = 0;
  problem_connect(made, spec);
}

/* Fills made->expected with what the reference computes. */
static inline void problem_solve(problem *made) {
  swiftattn_attention_gradients gradients;
  memset(&gradients, 0, sizeof gradients);
  for (int which = OUT; which < OPERAND_COUNT; which++)
    if (made->operands[which].memory) {
      const swiftattn_tensor *view = &made->operands[which].view;
      made->expected[which] = array_make(SWIFTATTN_FLOAT64, view->rank, view->shape, LAYOUT_DENSE);
      array_fill(&made->expected[which], 0);
    }
  gradients.query = &made->expected[DQUERY].view;
  gradients.key = &made->expected[DKEY].view;
  gradients.value = &made->expected[DVALUE].view;
  gradients.bias = made->expected[DBIAS].memory ? &made->expected[DBIAS].view : NULL;
  reference_forward(&made->attention, &made->expected[OUT].view, &made->expected[LSE].view);
  reference_backward(&made->attention, &made->operands[DOUT].view, &gradients);
}

static inline void problem_free(problem *made) {
  for (int which = 0; which < OPERAND_COUNT; which++) {
    array_free(&made->operands[which]);
    array_free(&made->expected[which]);
  }
}

static inline swiftattn_status problem_forward(const problem *made) {
  return swiftattn_attention_forward(&made->attention, problem_view(made, OUT), problem_view(made, LSE));
}

static inline swiftattn_status problem_backward(const problem *made) {
  return swiftattn_attention_backward(&made->attention, problem_view(made, OUT), problem_view(made, LSE),
                                      problem_view(made, DOUT), &made->gradients);
}

/* Checks that an output is what the reference computes and that nothing around its elements was written. */
static inline void problem_check(const problem *made, operand which, const char *name) {
  const array *got = &made->operands[which];
  check_array(got, &made->expected[which], got->view.dtype == SWIFTATTN_FLOAT32 ? 2e-5 : 2e-13, name,
              operand_names[which]);
}

#endif /* PROBLEM_H */
