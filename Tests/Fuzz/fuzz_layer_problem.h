/* A problem of the layer from the fuzzer's input: the lengths, options and layouts of a good call. C11. */
#ifndef FUZZ_LAYER_PROBLEM_H
#define FUZZ_LAYER_PROBLEM_H

#include "attention_problem.h"
#include "layer_problem.h"

typedef struct fuzz_layer_problem {
  arena all;
  layer_problem made;
  layer_spec spec;
  swiftattn_rope rope;
  int is_giant;
  int32_t dtype;
  unsigned ones[2];
  double work;
} fuzz_layer_problem;

static inline int64_t read_width(reader *from) {
  return ONE_OF(from, 4, 1, 2, 3, 0, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 48, 49, 64);
}

static inline void layer_read_rope(fuzz_layer_problem *self, reader *from) {
  layer_spec *spec = &self->spec;
  const unsigned kind = read_byte(from);
  const int64_t dim = 2 * (1 + read_below(from, 8));
  self->rope = (swiftattn_rope){.struct_size = sizeof self->rope, .dim = dim <= spec->depth ? dim : 2};
  self->rope.base = (const double[]){10000, 100, 2, 500000}[kind & 3];
  self->rope.scaling = kind & 4 ? 2.5 : 1;
  self->rope.interleaved = (int32_t)(kind >> 3 & 1);
  self->rope.offset = (int8_t)read_byte(from);
  self->rope.key_offset = kind & 16 ? (int8_t)read_byte(from) : self->rope.offset;
  if (kind & 64 && spec->depth % 2 == 0)
    self->rope.dim = 0;
  spec->rope = kind & 32 && spec->depth >= 2 ? &self->rope : NULL;
}

/* The inputs and outputs of a layer that lacks some, and sizes that fit the fuzzer's memory. */
static inline void layer_agree(layer_spec *spec, int is_giant) {
  spec->depth += !spec->depth;
  spec->depth_v += !spec->depth_v;
  if (spec->rank == 2)
    spec->batch = 1;
  if (!(spec->options & LAYER_HAS_KEY))
    spec->length_k = spec->length_q, spec->kdim = spec->width;
  if (!(spec->options & LAYER_HAS_VALUE))
    spec->vdim = spec->kdim;
  spec->options &= ~(spec->options & LAYER_HAS_BIAS ? LAYER_HAS_SHARED_BIAS : 0);
  spec->options &= ~(spec->options & LAYER_HAS_BIASES ? LAYER_HAS_OUT_BIAS : 0);
  const int64_t widest = spec->depth > spec->depth_v ? spec->depth : spec->depth_v;
  if (!is_giant && spec->heads_q * widest * 64 > MOST_ELEMENTS)
    spec->heads_q = spec->heads_kv;
  if (!is_giant && spec->heads_q * spec->length_q * spec->length_k * spec->batch > MOST_ELEMENTS / 2)
    spec->batch = 1;
  if (!is_giant && spec->heads_q * spec->length_q * spec->length_k > MOST_ELEMENTS / 2)
    spec->heads_q = spec->heads_kv = 1;
}

static inline void layer_read_spec(fuzz_layer_problem *self, reader *from) {
  layer_spec *spec = &self->spec;
  spec->name = "fuzz";
  spec->rank = (int)ONE_OF(from, 3, 2, 3, 4, 5, 7);
  spec->batch = ONE_OF(from, 2, 1, 3, 0);
  spec->heads_kv = ONE_OF(from, 1, 2, 3, 4);
  spec->heads_q = spec->heads_kv * ONE_OF(from, 1, 2, 3);
  spec->length_q = read_small_length(from);
  spec->length_k = read_small_length(from);
  spec->depth = read_width(from);
  spec->depth_v = read_width(from);
  spec->width = read_width(from);
  spec->kdim = read_width(from);
  spec->vdim = read_width(from);
  spec->width_out = read_width(from);
  spec->causal = (int32_t)read_below(from, 3);
  spec->options = (int)read_word(from, 2);
  self->dtype = read_byte(from) & 1 ? SWIFTATTN_FLOAT64 : SWIFTATTN_FLOAT32;
  self->ones[0] = read_byte(from);
  self->ones[1] = read_byte(from);
  const unsigned giant = read_byte(from);
  int64_t *letters[] = {&spec->batch, &spec->length_q, &spec->length_k, &spec->width, &spec->kdim};
  self->is_giant = giant >= 236;
  if (self->is_giant)
    *letters[giant % 5] = read_giant(from) - 8; /* below INT64_MAX, so that a few more can be counted */
  layer_agree(spec, self->is_giant);
  layer_read_rope(self, from);
  const double batches = (double)spec->batch * (spec->rank > 3 ? 2 : 1);
  const double rows = (double)spec->length_q + 2 * (double)spec->length_k + 2;
  const double width = (double)(spec->width + spec->kdim + spec->vdim + spec->width_out);
  self->work = batches * (double)(spec->heads_q * (spec->depth + spec->depth_v)) *
               (rows * width + (double)spec->length_q * (double)spec->length_k);
}

/* Weights as thirds of one matrix and their gradients likewise, and one input under two names. */
static inline void layer_share(fuzz_layer_problem *self, unsigned choice) {
  array *operands = self->made.operands;
  for (int gradient = 0; gradient <= FIRST_GRADIENT; gradient += FIRST_GRADIENT) {
    array *const weights[] = {&operands[gradient + QUERY_WEIGHT], &operands[gradient + KEY_WEIGHT],
                              &operands[gradient + VALUE_WEIGHT]};
    array *const biases[] = {&operands[gradient + QUERY_BIAS], &operands[gradient + KEY_BIAS],
                             &operands[gradient + VALUE_BIAS]};
    if (choice >> (gradient != 0) & 1) {
      operands_pack(&self->all, weights, 3, 0);
      if (biases[0]->memory)
        operands_pack(&self->all, biases, 3, 0);
    }
  }
  const shape query = shape_of(&operands[LAYER_QUERY].view, 0);
  if (choice & 4 && operands[LAYER_KEY].memory && has_shape(&operands[LAYER_KEY].view, &query))
    operands[LAYER_KEY] = operands[LAYER_QUERY];
  if (choice & 8 && operands[LAYER_KEY].memory && operands[LAYER_VALUE].memory) {
    const shape key = shape_of(&operands[LAYER_KEY].view, 0);
    if (has_shape(&operands[LAYER_VALUE].view, &key))
      operands[LAYER_VALUE] = operands[LAYER_KEY];
  }
}

/* Hides rows and pairs in mask and bias, and puts NaN where nobody may look. */
static inline void layer_hide(fuzz_layer_problem *self, unsigned choices, int may_poison) {
  array *operands = self->made.operands;
  const array *mask = &operands[LAYER_MASK], *bias = &operands[LAYER_BIAS];
  if (mask->memory && choices & 1 && mask->view.rank >= 2)
    problem_fill_row(mask, 0, 0);
  for (int64_t pair = choices & 2 ? 0 : INT64_MAX; bias->memory && pair < tensor_count(&bias->view); pair += 3)
    flat_set(&bias->view, pair, -INFINITY);
  if (!may_poison)
    return;
  if (operands[LAYER_KEY_LENGTHS].memory && choices & 4)
    layer_fill_lengths(&self->made, &self->spec);
  const hidden all = {mask, &operands[LAYER_QUERY], &operands[LAYER_KEY], &operands[LAYER_VALUE],
                      bias, &operands[LAYER_DOUT]};
  if (choices & 8)
    hide_slice(&all, 0);
}

/* Makes projections about as large as their inputs, also of numbers that are all the same. */
static inline void layer_scale(const swiftattn_tensor *weight, int repeats) {
  const double width = (double)weight->shape[1];
  if (!view_is_small(weight) || view_is_empty(weight))
    return;
  double *numbers = numbers_of(weight);
  for (int64_t linear = 0; linear < tensor_count(weight); linear++)
    flat_set(weight, linear, numbers[linear] * (repeats ? 1 / width : 2 / sqrt(width)));
  free(numbers);
}

static inline void layer_fill(fuzz_layer_problem *self, reader *from, int repeats) {
  const unsigned share = read_byte(from), hidden = read_byte(from);
  array *operands = self->made.operands;
  layer_share(self, share & 64 && !self->is_giant ? share : 0);
  for (int which = 0; which < LAYER_OPERAND_COUNT; which++) {
    array *target = &operands[which];
    if (!target->memory || !arena_block_of(&self->all, &target->view))
      continue;
    if (which < LAYER_OUT || which >= PARAMETER_GRADIENTS)
      view_fill(target, (uint64_t)which + 1 + hidden, self->spec.length_k);
    if (which >= QUERY_WEIGHT && which <= OUT_WEIGHT)
      layer_scale(&target->view, repeats);
  }
  if (!self->is_giant)
    layer_hide(self, hidden, !repeats && !(share & 64));
}

/* Reads a whole problem. */
static inline void fuzz_layer_make(fuzz_layer_problem *self, reader *from) {
  memset(self, 0, sizeof *self);
  reader lengths = read_part(from, 28), layouts = read_part(from, (size_t)LAYOUT_BYTES * LAYER_OPERAND_COUNT);
  layer_read_spec(self, &lengths);
  int repeats = 0;
  for (int which = 0; which < LAYER_OPERAND_COUNT; which++) {
    shape wanted = {0, {0}};
    const layout_choice chosen = read_layout(&layouts, which >= LAYER_OUT);
    if (!layer_shape(&self->spec, which, wanted.lengths, &wanted.rank))
      continue;
    const int base = which >= FIRST_GRADIENT ? which - FIRST_GRADIENT : which;
    if (base == LAYER_MASK || base == LAYER_BIAS)
      shape_broadcast(&wanted, self->ones[base == LAYER_BIAS] & 15, (int)(self->ones[base == LAYER_BIAS] >> 6));
    self->made.operands[which] = operand_make(&self->all, layer_dtype(which, self->dtype), &wanted, &chosen);
    repeats |= chosen.repeated != 0;
  }
  layer_fill(self, from, repeats);
  layer_connect(&self->made, &self->spec);
}

#endif /* FUZZ_LAYER_PROBLEM_H */
