/* A problem of attention from the fuzzer's input: the lengths, options and layouts of a good call. C11. */
#ifndef FUZZ_ATTENTION_PROBLEM_H
#define FUZZ_ATTENTION_PROBLEM_H

#include "operands.h"
#include "problem.h"

typedef struct attention_problem {
  arena all;
  problem made;
  problem_spec spec;
  int is_giant; /* a length is beyond what memory holds */
  int32_t dtype;
  int64_t leading[3];
  int leading_count; /* batch dimensions before those of the spec */
  unsigned ones[2];  /* axes in which mask and bias broadcast, and how many they lack */
  int dropped[2];
  double scale, work;
} attention_problem;

static inline int64_t read_small_length(reader *from) {
  return ONE_OF(from, 3, 1, 2, 4, 0, 5, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 64, 65, 96, 97, 129);
}

static inline int64_t read_giant(reader *from) {
  return ONE_OF(from, INT64_C(1) << 31, INT64_C(1) << 20, INT64_C(1) << 40, INT64_C(1) << 48, INT64_C(1) << 57,
                INT64_MAX, INT64_MAX / 4, (INT64_C(1) << 32) + 1, INT64_C(1) << 62, INT64_C(1) << 60, INT64_C(1) << 61);
}

/* The most elements that an operand has. */
static inline double attention_largest(const problem_spec *spec, double batches) {
  const double sq = (double)spec->length_q, sk = (double)spec->length_k;
  const double width = (double)(spec->depth > spec->depth_v ? spec->depth : spec->depth_v);
  double largest = sq > sk ? sq * width : sk * width;
  largest = sq * sk > largest ? sq * sk : largest;
  return largest * batches * (double)spec->heads_q;
}

/* Makes a problem whose lengths are not meant to be giant fit the fuzzer's memory. */
static inline void attention_shrink(attention_problem *self) {
  problem_spec *spec = &self->spec;
  const double batches = (double)spec->batch * 4;
  if (attention_largest(spec, batches) > MOST_ELEMENTS)
    spec->batch = self->leading[0] = 1;
  if (attention_largest(spec, 2) > MOST_ELEMENTS)
    spec->heads_q = spec->heads_kv;
  if (attention_largest(spec, 2) > MOST_ELEMENTS)
    spec->heads_q = spec->heads_kv = 1;
}

static inline void attention_read_spec(attention_problem *self, reader *from) {
  problem_spec *spec = &self->spec;
  spec->rank = (int)ONE_OF(from, 4, 2, 3, 5, 4, 5);
  spec->batch = ONE_OF(from, 2, 1, 3, 0, 4);
  spec->heads_kv = ONE_OF(from, 1, 2, 3, 0, 4);
  int64_t group = ONE_OF(from, 1, 2, 3, 4, 8);
  spec->length_q = read_small_length(from);
  spec->length_k = read_small_length(from);
  spec->depth = read_small_length(from);
  spec->depth_v = read_small_length(from);
  spec->causal = (int32_t)read_below(from, 3);
  spec->options = (int)read_byte(from) & ~WITH_ZERO_STRIDE & ~WITH_SCALE;
  self->dtype = read_byte(from) & 1 ? SWIFTATTN_FLOAT64 : SWIFTATTN_FLOAT32;
  const unsigned leading = read_byte(from);
  self->leading_count = spec->rank >= 4 ? (int)(leading & 3) : 0;
  self->leading[0] = 1 + (leading >> 2 & 1);
  self->leading[1] = leading >> 4 == 15 ? 0 : 1;
  self->leading[2] = 1;
  for (int each = 0; each < 2; each++) {
    self->ones[each] = read_byte(from);
    self->dropped[each] = (int)(self->ones[each] >> 6);
  }
  spec->depth += !spec->depth;
  const unsigned giant = read_byte(from);
  int64_t *letters[] = {&spec->batch, &spec->length_q, &spec->length_k, &spec->depth, &spec->depth_v, &spec->heads_kv};
  if (giant >= 232) {
    *letters[giant % 6] = read_giant(from);
    self->is_giant = 1;
  }
  if (spec->rank < 4)
    spec->batch = 1;
  if (spec->rank < 3)
    spec->heads_kv = group = 1;
  spec->heads_q = spec->heads_kv > INT64_MAX / group ? spec->heads_kv : spec->heads_kv * group;
  if (!self->is_giant)
    attention_shrink(self);
  /* The full and the shared form are one or the other. */
  spec->options &= ~(spec->options & WITH_MASK ? WITH_KEY_MASK : 0);
  spec->options &= ~(spec->options & WITH_BIAS ? WITH_SHARED_BIAS : 0);
  self->work = (double)spec->batch * (double)spec->heads_q * (double)spec->length_q * (double)spec->length_k;
  self->work *= ((double)spec->depth + (double)spec->depth_v) * (double)(self->leading_count ? self->leading[0] : 1);
  self->work *= spec->rank == 5 ? 2 : 1;
}

static inline int attention_shape(const attention_problem *self, int which, shape *lengths) {
  if (!problem_shape(&self->spec, (operand)which, lengths->lengths, &lengths->rank))
    return 0;
  if (which == MASK || which == BIAS || which == DBIAS) {
    shape_broadcast(lengths, self->ones[which != MASK] & 15, self->dropped[which != MASK]);
    return 1;
  }
  for (int each = 0; each < self->leading_count; each++)
    shape_prepend(lengths, self->leading[each]);
  return 1;
}

/* Hides rows and pairs in mask and bias, and puts NaN where nobody may look. */
static inline void attention_hide(attention_problem *self, unsigned choices, int may_poison) {
  array *operands = self->made.operands;
  const array *mask = &operands[MASK], *bias = &operands[BIAS], *lengths = &operands[KEY_LENGTHS];
  if (mask->memory && choices & 1 && mask->view.rank >= 2)
    problem_fill_row(mask, 0, 0);
  if (bias->memory && choices & 2 && bias->view.rank >= 2)
    problem_fill_row(bias, bias->view.shape[bias->view.rank - 2] - 1, -INFINITY);
  for (int64_t pair = choices & 4 ? 0 : INT64_MAX; bias->memory && pair < tensor_count(&bias->view); pair += 3)
    flat_set(&bias->view, pair, -INFINITY);
  for (int64_t pair = choices & 8 ? 1 : INT64_MAX; mask->memory && pair < tensor_count(&mask->view); pair += 2)
    flat_set(&mask->view, pair, 0);
  if (lengths->memory && may_poison && choices & 16) {
    problem_poison(&operands[KEY], lengths);
    problem_poison(&operands[VALUE], lengths);
  }
  const hidden all = {mask, &operands[QUERY], &operands[KEY], &operands[VALUE], bias, &operands[DOUT]};
  if (may_poison && choices & 32)
    hide_slice(&all, 0);
  if (may_poison && choices & 64)
    hide_slice(&all, 1);
}

/* Operands that share memory, or lie side by side in it. */
static inline void attention_share(attention_problem *self, unsigned choice) {
  array *operands = self->made.operands;
  array *const inputs[] = {&operands[QUERY], &operands[KEY], &operands[VALUE]};
  array *const gradients[] = {&operands[DQUERY], &operands[DKEY], &operands[DVALUE]};
  array *const results[] = {&operands[OUT], &operands[DOUT]};
  const shape query = shape_of(&operands[QUERY].view, 0), key = shape_of(&operands[KEY].view, 0);
  if (choice & 1 && has_shape(&operands[KEY].view, &query))
    operands[KEY] = operands[QUERY];
  if (choice & 2 && has_shape(&operands[VALUE].view, &key))
    operands[VALUE] = operands[KEY];
  if (choice & 4)
    operands_pack(&self->all, inputs, 3, -1);
  if (choice & 8)
    operands_pack(&self->all, gradients, 3, -1);
  if (choice & 16)
    operands_pack(&self->all, results, 2, choice & 32 ? 0 : -1);
}

static inline void attention_fill(attention_problem *self, reader *from, int repeats) {
  const unsigned share = read_byte(from), hidden = read_byte(from);
  attention_share(self, share & 64 && !self->is_giant ? share : 0);
  array *operands = self->made.operands;
  for (int which = 0; which <= LSE; which++)
    if (operands[which].memory && arena_block_of(&self->all, &operands[which].view))
      view_fill(&operands[which], (uint64_t)which + 1 + hidden,
                which == QUERY_LENGTHS ? self->spec.length_q : self->spec.length_k);
  if (!self->is_giant)
    attention_hide(self, hidden, !repeats && !(share & 64));
}

/* Reads a whole problem. */
static inline void attention_make(attention_problem *self, reader *from) {
  memset(self, 0, sizeof *self);
  reader lengths = read_part(from, 20), layouts = read_part(from, (size_t)LAYOUT_BYTES * OPERAND_COUNT);
  attention_read_spec(self, &lengths);
  int repeats = 0;
  for (int which = 0; which < OPERAND_COUNT; which++) {
    shape wanted = {0, {0}};
    const layout_choice chosen = read_layout(&layouts, which >= OUT);
    if (!attention_shape(self, which, &wanted))
      continue;
    int32_t dtype = problem_dtype((operand)which, self->dtype);
    if (which == KEY_LENGTHS && chosen.order & 16)
      dtype = SWIFTATTN_INT64;
    self->made.operands[which] = operand_make(&self->all, dtype, &wanted, &chosen);
    repeats |= chosen.repeated != 0;
  }
  attention_fill(self, from, repeats);
  problem_connect(&self->made, &self->spec);
  const unsigned scale = read_byte(from);
  self->made.scale = (const double[]){0.5, -0.75, 1e-3, 1, 0.125, 3}[scale % 6];
  self->made.attention.scale = scale & 128 ? &self->made.scale : NULL;
}

#endif /* FUZZ_ATTENTION_PROBLEM_H */
