/* A whole call of the layer built from one line of a table: inputs, parameters, options, outputs and gradients in a
 * chosen dtype and layout, and what the reference makes of the same numbers. C11 and C++17. */
#ifndef LAYER_PROBLEM_H
#define LAYER_PROBLEM_H

#include "check.h"
#include "layer_reference.h"

/* Every tensor that a call may take. From LAYER_OUT on they are outputs; the gradients come in the order of what they
 * are the gradients of. */
typedef enum layer_operand {
  LAYER_QUERY,
  LAYER_KEY,
  LAYER_VALUE,
  LAYER_BIAS,
  QUERY_WEIGHT,
  KEY_WEIGHT,
  VALUE_WEIGHT,
  OUT_WEIGHT,
  QUERY_BIAS,
  KEY_BIAS,
  VALUE_BIAS,
  OUT_BIAS,
  KEY_TOKEN,
  VALUE_TOKEN,
  LAYER_MASK,
  LAYER_KEY_LENGTHS,
  LAYER_DOUT,
  LAYER_OUT,
  LAYER_WEIGHTS,
  LAYER_AVERAGE,
  FIRST_GRADIENT,
  PARAMETER_GRADIENTS = FIRST_GRADIENT + QUERY_WEIGHT,
  LAYER_OPERAND_COUNT = FIRST_GRADIENT + LAYER_MASK
} layer_operand;

static inline layer_operand gradient_of(int which) { return (layer_operand)(FIRST_GRADIENT + which); }

static inline const char *layer_operand_name(int which) {
  static const char *const names[] = {"query",       "key",          "value",      "bias",        "query_weight",
                                      "key_weight",  "value_weight", "out_weight", "query_bias",  "key_bias",
                                      "value_bias",  "out_bias",     "key_token",  "value_token", "mask",
                                      "key_lengths", "dout",         "out",        "weights",     "average weights"};
  static const char *const gradients[] = {"query gradient",        "key gradient",          "value gradient",
                                          "bias gradient",         "query_weight gradient", "key_weight gradient",
                                          "value_weight gradient", "out_weight gradient",   "query_bias gradient",
                                          "key_bias gradient",     "value_bias gradient",   "out_bias gradient",
                                          "key_token gradient",    "value_token gradient"};
  return which < FIRST_GRADIENT ? names[which] : gradients[which - FIRST_GRADIENT];
}

/* Which options a layer has. */
enum {
  LAYER_HAS_KEY = 1,           /* otherwise the query is the key */
  LAYER_HAS_VALUE = 2,         /* otherwise the key is the value */
  LAYER_HAS_BIASES = 4,        /* of all four projections */
  LAYER_HAS_TOKEN = 8,         /* a learned key and value */
  LAYER_HAS_ZERO = 16,         /* a key and value of zeros */
  LAYER_HAS_MASK = 32,         /* of the full shape (B, Hq, Sq, Sk), with an empty row */
  LAYER_HAS_BIAS = 64,         /* of the full shape, with one row of -inf */
  LAYER_HAS_SHARED_BIAS = 128, /* of shape (Sq, Sk), whose gradient is a sum */
  LAYER_HAS_KEY_LENGTHS = 256, /* INT32; tokens of keys and values behind them are NaN, unless they are queries too */
  LAYER_HAS_OUT_BIAS = 512     /* of the output alone */
};

typedef struct layer_spec {
  const char *name;
  int rank; /* of the inputs; the leading dimensions are (..., 1, 2, batch) */
  int64_t batch, heads_q, heads_kv, length_q, length_k, depth, depth_v;
  int64_t width, kdim, vdim, width_out;
  const swiftattn_rope *rope;
  int32_t causal;
  int options;
} layer_spec;

/* The structs point into each other: a problem stays where it was made. */
typedef struct layer_problem {
  swiftattn_mha mha;
  swiftattn_mha_parameters parameters;
  swiftattn_mha_gradients gradients;
  swiftattn_mha_parameters parameter_gradients;
  array operands[LAYER_OPERAND_COUNT];
  array expected[LAYER_OPERAND_COUNT]; /* the outputs, FLOAT64 */
  void *saved;
  size_t saved_bytes;
  void *packed; /* the weights, after layer_pack */
  size_t packed_bytes;
} layer_problem;

/* The field of one of the ten parameters, QUERY_WEIGHT to VALUE_TOKEN. */
static inline const swiftattn_tensor **parameter_field(swiftattn_mha_parameters *parameters, int which) {
  const swiftattn_tensor **fields[] = {&parameters->query_weight, &parameters->key_weight, &parameters->value_weight,
                                       &parameters->out_weight,   &parameters->query_bias, &parameters->key_bias,
                                       &parameters->value_bias,   &parameters->out_bias,   &parameters->key_token,
                                       &parameters->value_token};
  return fields[which - QUERY_WEIGHT];
}

/* The field of what `gradient_of(which)` is, LAYER_QUERY to VALUE_TOKEN. */
static inline const swiftattn_tensor **gradient_field(layer_problem *made, int which) {
  const swiftattn_tensor **fields[] = {&made->gradients.query, &made->gradients.key, &made->gradients.value,
                                       &made->gradients.bias};
  return which < QUERY_WEIGHT ? fields[which] : parameter_field(&made->parameter_gradients, which);
}

static inline int layer_has(const layer_spec *spec, int which) {
  switch (which) {
  case LAYER_KEY:
    return spec->options & LAYER_HAS_KEY;
  case LAYER_VALUE:
    return spec->options & LAYER_HAS_VALUE;
  case LAYER_BIAS:
    return spec->options & (LAYER_HAS_BIAS | LAYER_HAS_SHARED_BIAS);
  case QUERY_BIAS:
  case KEY_BIAS:
  case VALUE_BIAS:
    return spec->options & LAYER_HAS_BIASES;
  case OUT_BIAS:
    return spec->options & (LAYER_HAS_BIASES | LAYER_HAS_OUT_BIAS);
  case KEY_TOKEN:
  case VALUE_TOKEN:
    return spec->options & LAYER_HAS_TOKEN;
  case LAYER_MASK:
    return spec->options & LAYER_HAS_MASK;
  case LAYER_KEY_LENGTHS:
    return spec->options & LAYER_HAS_KEY_LENGTHS;
  default:
    return 1;
  }
}

/* A parameter's shape, of its rank; *rank is that. */
static inline void parameter_shape(const layer_spec *spec, int which, int64_t *shape, int *rank) {
  const int64_t q = spec->heads_q * spec->depth, k = spec->heads_kv * spec->depth, v = spec->heads_kv * spec->depth_v;
  const int64_t shapes[][2] = {
      {q, spec->width}, {k, spec->kdim}, {v, spec->vdim}, {spec->width_out, spec->heads_q * spec->depth_v},
      {q, 0},           {k, 0},          {v, 0},          {spec->width_out, 0},
      {k, 0},           {v, 0}};
  *rank = which < QUERY_BIAS ? 2 : 1;
  memcpy(shape, shapes[which - QUERY_WEIGHT], 2 * sizeof *shape);
}

/* How wide the rows of an operand are. */
static inline int64_t layer_width(const layer_spec *spec, int which) {
  switch (which) {
  case LAYER_QUERY:
    return spec->width;
  case LAYER_KEY:
    return spec->kdim;
  case LAYER_VALUE:
    return spec->vdim;
  case LAYER_MASK:
  case LAYER_BIAS:
    return spec->length_k;
  case LAYER_WEIGHTS:
  case LAYER_AVERAGE:
    return spec->length_k + !!(spec->options & LAYER_HAS_TOKEN) + !!(spec->options & LAYER_HAS_ZERO);
  default:
    return spec->width_out;
  }
}

/* The operand's shape, of its rank; 0 when the layer has no such operand, else 1. */
static inline int layer_shape(const layer_spec *spec, int which, int64_t *shape, int *rank) {
  which -= which >= FIRST_GRADIENT ? FIRST_GRADIENT : 0;
  if (!layer_has(spec, which))
    return 0;
  if (which >= QUERY_WEIGHT && which <= VALUE_TOKEN) {
    parameter_shape(spec, which, shape, rank);
    return 1;
  }
  const int is_shared = which == LAYER_BIAS && spec->options & LAYER_HAS_SHARED_BIAS;
  *rank = is_shared ? 0 : spec->rank - 2;
  for (int axis = 0; axis < *rank; axis++)
    shape[axis] = axis == *rank - 1 ? spec->batch : axis == *rank - 2 ? 2 : 1;
  if (which == LAYER_KEY_LENGTHS)
    return 1;
  if (which == LAYER_MASK || which == LAYER_WEIGHTS || (which == LAYER_BIAS && !is_shared))
    shape[(*rank)++] = spec->heads_q;
  shape[(*rank)++] = which == LAYER_KEY || which == LAYER_VALUE ? spec->length_k : spec->length_q;
  shape[(*rank)++] = layer_width(spec, which);
  return 1;
}

static inline int32_t layer_dtype(int which, int32_t dtype) {
  return which == LAYER_MASK ? SWIFTATTN_BOOL : which == LAYER_KEY_LENGTHS ? SWIFTATTN_INT32 : dtype;
}

/* Multiplies every element by `factor`. */
static inline void array_scale(const array *target, double factor) {
  for (int64_t linear = 0; linear < tensor_count(&target->view); linear++)
    flat_set(&target->view, linear, factor * flat_get(&target->view, linear));
}

/* Every element whose index along the axis `from_end` (1 is the last) is at least `first` and below `end`. */
static inline void array_fill_slice(const array *target, int from_end, int64_t first, int64_t end, double number) {
  int64_t index[MAX_RANK] = {0};
  for (int64_t linear = 0; linear < tensor_count(&target->view); linear++) {
    unravel(&target->view, linear, index);
    const int64_t place = index[target->view.rank - from_end];
    if (place >= first && place < end)
      tensor_set(&target->view, index, target->view.rank, number);
  }
}

/* Lengths that fall from all to none over the batch, and NaN in the tokens of key and value behind the longest. */
static inline void layer_fill_lengths(layer_problem *made, const layer_spec *spec) {
  const array *lengths = &made->operands[LAYER_KEY_LENGTHS];
  const int64_t count = tensor_count(&lengths->view);
  for (int64_t batch = 0; batch < count; batch++)
    flat_set(&lengths->view, batch,
             (double)(count == 1 ? spec->length_k * 2 / 3 : spec->length_k * batch / (count - 1)));
  for (int which = LAYER_KEY; which <= LAYER_VALUE; which++) {
    const swiftattn_tensor *input = &made->operands[which].view;
    if (!made->operands[which].memory)
      continue;
    const int64_t width = input->shape[input->rank - 1];
    for (int64_t linear = 0; linear < tensor_count(input); linear++) {
      const int64_t token = linear / width;
      if (token % spec->length_k >= (int64_t)flat_get(&lengths->view, token / spec->length_k))
        flat_set(input, linear, NAN);
    }
  }
}

static inline const swiftattn_tensor *layer_view(const layer_problem *made, int which) {
  return made->operands[which].memory ? &made->operands[which].view : NULL;
}

/* Points the ABI's structs at the operands that there are. */
static inline void layer_connect(layer_problem *made, const layer_spec *spec) {
  swiftattn_mha *mha = &made->mha;
  mha->struct_size = sizeof *mha;
  made->parameters.struct_size = sizeof made->parameters;
  made->parameter_gradients.struct_size = sizeof made->parameter_gradients;
  made->gradients.struct_size = sizeof made->gradients;
  mha->parameters = &made->parameters;
  made->gradients.parameters = &made->parameter_gradients;
  mha->num_heads = (int32_t)spec->heads_q;
  mha->num_kv_heads = spec->heads_kv == spec->heads_q ? 0 : (int32_t)spec->heads_kv;
  mha->add_zero_attn = !!(spec->options & LAYER_HAS_ZERO);
  mha->rope = spec->rope;
  mha->causal = spec->causal;
  mha->query = layer_view(made, LAYER_QUERY);
  mha->key = layer_view(made, LAYER_KEY);
  mha->value = layer_view(made, LAYER_VALUE);
  mha->mask = layer_view(made, LAYER_MASK);
  mha->bias = layer_view(made, LAYER_BIAS);
  mha->key_lengths = layer_view(made, LAYER_KEY_LENGTHS);
  for (int which = 0; which < LAYER_MASK; which++) {
    *gradient_field(made, which) = layer_view(made, gradient_of(which));
    if (which >= QUERY_WEIGHT)
      *parameter_field(&made->parameters, which) = layer_view(made, which);
  }
}

/* Gives every output the value it has before a call: gradients of parameters hold numbers, to which a call adds. */
static inline void layer_reset(const layer_problem *made) {
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++) {
    const array *output = &made->operands[which];
    if (!output->memory)
      continue;
    memset(output->memory, PATTERN, output->bytes);
    if (which >= PARAMETER_GRADIENTS)
      array_randomize(output, (uint64_t)which);
  }
}

/* Random operands, and memory to save in, allocated to the byte. */
static inline void layer_make(layer_problem *made, const layer_spec *spec, int32_t dtype, layout form) {
  memset(made, 0, sizeof *made);
  for (int which = 0; which < LAYER_OPERAND_COUNT; which++) {
    int64_t shape[MAX_RANK] = {0};
    int rank;
    if (!layer_shape(spec, which, shape, &rank))
      continue;
    made->operands[which] = array_make(layer_dtype(which, dtype), rank, shape, form);
    if (which < LAYER_OUT)
      array_randomize(&made->operands[which], (uint64_t)which + 1);
    if (which >= QUERY_WEIGHT && which <= OUT_WEIGHT && shape[1] > 0)
      array_scale(&made->operands[which], 2 / sqrt((double)shape[1]));
  }
  if (spec->options & LAYER_HAS_MASK)
    array_fill_slice(&made->operands[LAYER_MASK], 2, spec->length_q / 2, spec->length_q / 2 + 1, 0);
  if (spec->options & LAYER_HAS_BIAS)
    array_fill_slice(&made->operands[LAYER_BIAS], 2, spec->length_q - 1, spec->length_q, -INFINITY);
  if (spec->options & LAYER_HAS_KEY_LENGTHS)
    layer_fill_lengths(made, spec);
  layer_reset(made);
  layer_connect(made, spec);
  CHECK(swiftattn_mha_saved_bytes(&made->mha, &made->saved_bytes) == SWIFTATTN_OK, "%s: %s", spec->name,
        swiftattn_last_error());
  if (posix_memalign(&made->saved, SWIFTATTN_MHA_ALIGNMENT, made->saved_bytes)) {
    perror("posix_memalign");
    exit(EXIT_FAILURE);
  }
  memset(made->saved, PATTERN, made->saved_bytes);
}

/* Fills made->expected with what the reference computes. */
static inline void layer_solve(layer_problem *made) {
  reference_layer reference;
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++)
    if (made->operands[which].memory) {
      const swiftattn_tensor *view = &made->operands[which].view;
      made->expected[which] = array_make(SWIFTATTN_FLOAT64, view->rank, view->shape, LAYOUT_DENSE);
      for (int64_t linear = 0; linear < tensor_count(view); linear++)
        flat_set(&made->expected[which].view, linear, which < PARAMETER_GRADIENTS ? 0 : flat_get(view, linear));
    }
  reference_layer_gradients gradients;
  memset(&gradients, 0, sizeof gradients);
  for (int which = 0; which < LAYER_MASK; which++)
    if (made->expected[gradient_of(which)].memory)
      gradients.all[which] = &made->expected[gradient_of(which)].view;
  reference_layer_make(&reference, &made->mha);
  reference_layer_forward(&reference, &made->expected[LAYER_OUT].view, &made->expected[LAYER_WEIGHTS].view,
                          &made->expected[LAYER_AVERAGE].view);
  reference_layer_backward(&reference, &made->operands[LAYER_DOUT].view, &gradients);
  reference_layer_free(&reference);
}

/* Packs the weights, in memory allocated to the byte, for calls with or without them. */
static inline void layer_pack(layer_problem *made) {
  CHECK(swiftattn_mha_packed_bytes(&made->parameters, &made->packed_bytes) == SWIFTATTN_OK, "%s",
        swiftattn_last_error());
  if (posix_memalign(&made->packed, SWIFTATTN_MHA_ALIGNMENT, made->packed_bytes)) {
    perror("posix_memalign");
    exit(EXIT_FAILURE);
  }
  memset(made->packed, PATTERN, made->packed_bytes);
  CHECK(swiftattn_mha_pack(&made->parameters, made->packed, made->packed_bytes) == SWIFTATTN_OK, "%s",
        swiftattn_last_error());
}

/* Whether the call reads the packed weights. */
static inline void layer_use_packed(layer_problem *made, int uses) {
  made->mha.packed = uses ? made->packed : NULL;
  made->mha.packed_bytes = uses ? made->packed_bytes : 0;
}

static inline void layer_free(layer_problem *made) {
  for (int which = 0; which < LAYER_OPERAND_COUNT; which++) {
    array_free(&made->operands[which]);
    array_free(&made->expected[which]);
  }
  free(made->saved);
  free(made->packed);
}

static inline swiftattn_status layer_forward(const layer_problem *made) {
  return swiftattn_mha_forward(&made->mha, layer_view(made, LAYER_OUT), layer_view(made, LAYER_WEIGHTS), made->saved,
                               made->saved_bytes);
}

static inline swiftattn_status layer_backward(const layer_problem *made) {
  return swiftattn_mha_backward(&made->mha, made->saved, made->saved_bytes, layer_view(made, LAYER_DOUT),
                                &made->gradients);
}

/* Checks that an output is what the reference computes and that nothing around its elements was written. */
static inline void layer_check(const layer_problem *made, int which, const char *name) {
  const array *got = &made->operands[which];
  if (got->memory)
    check_array(got, &made->expected[which], got->view.dtype == SWIFTATTN_FLOAT32 ? 5e-5 : 5e-13, name,
                layer_operand_name(which));
}

#endif /* LAYER_PROBLEM_H */
