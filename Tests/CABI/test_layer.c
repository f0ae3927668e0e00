/* The layer's forward and backward against the reference: every case, in both dtypes, every layout and every tier of
 * this processor; then that nothing but the numbers decides the bits. */
#define _POSIX_C_SOURCE 200809L
#include "layer_problem.h"

#define SELF_OPTIONS (LAYER_HAS_BIASES | LAYER_HAS_TOKEN | LAYER_HAS_ZERO)
#define CROSS_OPTIONS (LAYER_HAS_KEY | LAYER_HAS_VALUE | LAYER_HAS_BIASES)

static const swiftattn_rope half_split = {sizeof half_split, 0, 10000, 1, 0, 0, 0};
static const swiftattn_rope interleaved = {sizeof interleaved, 0, 100, 0.5, 1, 7, 7};
static const swiftattn_rope partial = {sizeof partial, 6, 50, 4, 0, -3, 200};
static const swiftattn_rope partial_interleaved = {sizeof partial_interleaved, 4, 10, 1, 1, 1000, 0};

static const layer_spec specs[] = {
    /* name, rank, batch, heads_q, heads_kv, length_q, length_k, depth, depth_v, width, kdim, vdim, width_out, rope,
       causal, options */
    {"matrices", 2, 1, 2, 2, 17, 17, 8, 8, 16, 16, 16, 16, NULL, SWIFTATTN_CAUSAL_NONE, 0},
    {"self-attention", 3, 2, 4, 4, 70, 70, 16, 16, 64, 64, 64, 64, &half_split, SWIFTATTN_CAUSAL_TOP_LEFT,
     LAYER_HAS_BIASES},
    {"grouped heads", 3, 2, 6, 2, 33, 33, 10, 7, 24, 24, 24, 40, &interleaved, SWIFTATTN_CAUSAL_NONE, LAYER_HAS_BIASES},
    {"one key head, own keys", 3, 2, 4, 1, 65, 65, 8, 12, 20, 20, 20, 20, &half_split, SWIFTATTN_CAUSAL_TOP_LEFT,
     SELF_OPTIONS},
    {"own keys and masks", 3, 3, 2, 2, 30, 70, 6, 5, 11, 13, 13, 9, &partial, SWIFTATTN_CAUSAL_BOTTOM_RIGHT,
     SELF_OPTIONS | LAYER_HAS_KEY | LAYER_HAS_MASK | LAYER_HAS_BIAS | LAYER_HAS_KEY_LENGTHS},
    {"encoder and decoder", 4, 2, 4, 2, 9, 20, 12, 16, 18, 22, 15, 25, &partial_interleaved, SWIFTATTN_CAUSAL_NONE,
     CROSS_OPTIONS | LAYER_HAS_KEY_LENGTHS},
    {"memory of the decoder", 3, 2, 4, 4, 21, 40, 8, 8, 32, 24, 24, 32, NULL, SWIFTATTN_CAUSAL_NONE,
     LAYER_HAS_KEY | LAYER_HAS_OUT_BIAS | LAYER_HAS_SHARED_BIAS | LAYER_HAS_TOKEN},
    {"more queries than keys", 3, 2, 2, 1, 40, 25, 8, 8, 16, 16, 16, 16, &half_split, SWIFTATTN_CAUSAL_BOTTOM_RIGHT,
     LAYER_HAS_KEY | LAYER_HAS_BIASES},
    {"a value beside the query", 3, 2, 2, 2, 12, 12, 8, 20, 16, 16, 10, 16, NULL, SWIFTATTN_CAUSAL_TOP_LEFT,
     LAYER_HAS_VALUE | LAYER_HAS_BIASES | LAYER_HAS_MASK},
    {"decoding", 3, 3, 8, 2, 1, 200, 32, 32, 48, 48, 48, 48, NULL, SWIFTATTN_CAUSAL_BOTTOM_RIGHT,
     LAYER_HAS_KEY | LAYER_HAS_BIASES | LAYER_HAS_KEY_LENGTHS},
    {"whole panels of packed weights", 3, 1, 4, 2, 9, 9, 32, 64, 20, 20, 20, 20, NULL, SWIFTATTN_CAUSAL_NONE,
     LAYER_HAS_BIASES},
    {"one token each", 3, 5, 2, 2, 1, 1, 16, 16, 32, 32, 32, 32, &interleaved, SWIFTATTN_CAUSAL_NONE, LAYER_HAS_BIASES},
    {"rank 7", 7, 2, 2, 1, 5, 5, 4, 3, 7, 7, 7, 6, &half_split, SWIFTATTN_CAUSAL_NONE,
     SELF_OPTIONS | LAYER_HAS_BIAS | LAYER_HAS_KEY_LENGTHS},
    {"widths and head dims of one", 3, 2, 3, 1, 6, 8, 1, 1, 1, 1, 1, 1, NULL, SWIFTATTN_CAUSAL_NONE, CROSS_OPTIONS},
    {"wide", 3, 1, 1, 1, 10, 10, 300, 270, 320, 320, 320, 290, &half_split, SWIFTATTN_CAUSAL_NONE, LAYER_HAS_BIASES},
    {"no keys", 3, 2, 2, 1, 3, 0, 8, 8, 16, 16, 16, 16, &half_split, SWIFTATTN_CAUSAL_NONE, CROSS_OPTIONS},
    {"own keys alone", 3, 2, 2, 1, 3, 0, 8, 8, 16, 16, 16, 16, NULL, SWIFTATTN_CAUSAL_NONE,
     SELF_OPTIONS | LAYER_HAS_KEY | LAYER_HAS_SHARED_BIAS},
    {"no queries", 3, 2, 2, 1, 0, 3, 8, 8, 16, 16, 16, 16, &half_split, SWIFTATTN_CAUSAL_NONE,
     SELF_OPTIONS | LAYER_HAS_KEY},
    {"no sequences", 3, 0, 2, 1, 3, 3, 8, 8, 16, 16, 16, 16, NULL, SWIFTATTN_CAUSAL_NONE, SELF_OPTIONS},
    {"inputs of no width", 3, 2, 2, 1, 3, 4, 8, 8, 0, 0, 0, 5, NULL, SWIFTATTN_CAUSAL_NONE, CROSS_OPTIONS},
};
enum { SPEC_COUNT = sizeof specs / sizeof *specs };

/* A copy of an output's memory. */
static unsigned char *copy_of(const array *output) {
  unsigned char *copy = (unsigned char *)malloc(output->bytes + 1);
  if (!copy) {
    perror("malloc");
    exit(EXIT_FAILURE);
  }
  memcpy(copy, output->memory, output->bytes);
  return copy;
}

/* Without weights, with their average, and with nothing saved, forward gives the same out. */
static void check_outputs_left_out(layer_problem *made, const char *name) {
  const array *out = &made->operands[LAYER_OUT];
  unsigned char *before = copy_of(out);
  for (int kind = 0; kind < 4; kind++) {
    memset(out->memory, PATTERN, out->bytes);
    const swiftattn_status status =
        swiftattn_mha_forward(&made->mha, &out->view, kind & 1 ? layer_view(made, LAYER_AVERAGE) : NULL,
                              kind & 2 ? made->saved : NULL, kind & 2 ? made->saved_bytes : 0);
    CHECK(status == SWIFTATTN_OK, "%s: %s", name, swiftattn_last_error());
    CHECK(!memcmp(before, out->memory, out->bytes), "%s: out differs with other outputs, %d", name, kind);
  }
  free(before);
}

/* With packed weights, whichever tier packed them, outputs have the very same bits. */
static void check_packed_weights(layer_problem *made, const char *name) {
  unsigned char *before[LAYER_OPERAND_COUNT] = {NULL};
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++)
    if (made->operands[which].memory)
      before[which] = copy_of(&made->operands[which]);
  layer_reset(made);
  layer_use_packed(made, 1);
  CHECK(layer_forward(made) == SWIFTATTN_OK && layer_backward(made) == SWIFTATTN_OK, "%s: packed weights: %s", name,
        swiftattn_last_error());
  CHECK(swiftattn_mha_forward(&made->mha, layer_view(made, LAYER_OUT), layer_view(made, LAYER_AVERAGE), NULL, 0) ==
            SWIFTATTN_OK,
        "%s: packed weights: %s", name, swiftattn_last_error());
  layer_use_packed(made, 0);
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++) {
    const array *output = &made->operands[which];
    if (output->memory)
      CHECK(!memcmp(before[which], output->memory, output->bytes), "%s: %s differs with packed weights", name,
            layer_operand_name(which));
    free(before[which]);
  }
}

/* Each gradient alone, and all but it, have the very same bits. */
static void check_gradients_left_out(layer_problem *made, const char *name) {
  unsigned char *before[LAYER_OPERAND_COUNT] = {NULL};
  for (int which = FIRST_GRADIENT; which < LAYER_OPERAND_COUNT; which++)
    if (made->operands[which].memory)
      before[which] = copy_of(&made->operands[which]);
  for (int chosen = 0; chosen < LAYER_MASK; chosen++)
    for (int alone = 0; alone < 2; alone++) {
      layer_reset(made);
      for (int which = 0; which < LAYER_MASK; which++)
        *gradient_field(made, which) = (which == chosen) == alone ? layer_view(made, gradient_of(which)) : NULL;
      CHECK(layer_backward(made) == SWIFTATTN_OK, "%s: %s", name, swiftattn_last_error());
      for (int which = 0; which < LAYER_MASK; which++) {
        const array *gradient = &made->operands[gradient_of(which)];
        if (*gradient_field(made, which))
          CHECK(!memcmp(before[gradient_of(which)], gradient->memory, gradient->bytes), "%s: %s differs %s %s", name,
                layer_operand_name(gradient_of(which)), alone ? "with only" : "without", layer_operand_name(chosen));
        *gradient_field(made, which) = layer_view(made, gradient_of(which));
      }
    }
  made->gradients.parameters = NULL;
  CHECK(layer_backward(made) == SWIFTATTN_OK, "%s: without gradients of parameters: %s", name, swiftattn_last_error());
  made->gradients.parameters = &made->parameter_gradients;
  for (int which = FIRST_GRADIENT; which < LAYER_OPERAND_COUNT; which++)
    free(before[which]);
}

static void check_inputs_untouched(const layer_problem *used, const layer_problem *fresh, const char *name) {
  for (int which = 0; which < LAYER_OUT; which++) {
    const array *input = &used->operands[which];
    CHECK(!input->memory || !memcmp(input->memory, fresh->operands[which].memory, input->bytes), "%s: %s was modified",
          name, layer_operand_name(which));
  }
}

/* Runs the layer in the tier in use. */
static void run(layer_problem *made, const layer_problem *fresh, const char *name) {
  layer_reset(made);
  CHECK(layer_forward(made) == SWIFTATTN_OK, "%s: %s", name, swiftattn_last_error());
  const array saved = {{NULL, 0, 0, {0}, {0}}, (unsigned char *)made->saved, made->saved_bytes};
  unsigned char *before = copy_of(&saved);
  CHECK(layer_backward(made) == SWIFTATTN_OK, "%s: %s", name, swiftattn_last_error());
  CHECK(!memcmp(before, made->saved, made->saved_bytes), "%s: backward wrote what was saved", name);
  free(before);
  CHECK(swiftattn_mha_forward(&made->mha, layer_view(made, LAYER_OUT), layer_view(made, LAYER_AVERAGE), NULL, 0) ==
            SWIFTATTN_OK,
        "%s: %s", name, swiftattn_last_error());
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++)
    layer_check(made, which, name);
  check_inputs_untouched(made, fresh, name);
}

/* The outputs of a strided layer have the bits of the dense one. */
static void check_same_numbers(const layer_problem *dense, const layer_problem *strided, const char *name) {
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++) {
    const swiftattn_tensor *view = &dense->operands[which].view;
    int64_t different = 0;
    for (int64_t linear = 0; dense->operands[which].memory && linear < tensor_count(view); linear++)
      different += flat_get(view, linear) != flat_get(&strided->operands[which].view, linear);
    CHECK(different == 0, "%s: %s: %lld numbers depend on strides", name, layer_operand_name(which),
          (long long)different);
  }
}

/* One case in every layout and every tier of this processor. */
static void check_spec(const layer_spec *spec, int32_t dtype) {
  layer_problem made[LAYOUT_COUNT], fresh[LAYOUT_COUNT];
  for (int form = 0; form < LAYOUT_COUNT; form++) {
    layer_make(&made[form], spec, dtype, (layout)form);
    layer_make(&fresh[form], spec, dtype, (layout)form);
    layer_solve(&made[form]);
    layer_pack(&made[form]);
  }
  for (int32_t tier = 0; swiftattn_isa_name(tier); tier++) {
    const char *isa = swiftattn_isa_name(tier);
    if (!swiftattn_isa_supported(isa))
      continue;
    CHECK(swiftattn_set_isa(isa) == SWIFTATTN_OK, "%s: %s", isa, swiftattn_last_error());
    for (int form = 0; form < LAYOUT_COUNT; form++) {
      char name[160];
      snprintf(name, sizeof name, "%s, %s, %s, %s", spec->name, dtype == SWIFTATTN_FLOAT32 ? "f32" : "f64",
               layout_names[form], isa);
      run(&made[form], &fresh[form], name);
      check_packed_weights(&made[form], name);
      check_same_numbers(&made[LAYOUT_DENSE], &made[form], name);
    }
    check_outputs_left_out(&made[LAYOUT_DENSE], spec->name);
    check_gradients_left_out(&made[LAYOUT_DENSE], spec->name);
  }
  for (int form = 0; form < LAYOUT_COUNT; form++) {
    layer_free(&made[form]);
    layer_free(&fresh[form]);
  }
  CHECK(swiftattn_set_isa(NULL) == SWIFTATTN_OK, "%s", swiftattn_last_error());
}

/* Whether all outputs hold the same bytes. */
static void check_same_bytes(const layer_problem *one, const layer_problem *other, const char *name) {
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++)
    CHECK(!one->operands[which].memory ||
              !memcmp(one->operands[which].memory, other->operands[which].memory, one->operands[which].bytes),
          "%s: %s has other bits", name, layer_operand_name(which));
}

/* Moves three tensors that follow each other in the struct into one array, which the caller frees. */
static unsigned char *pack(layer_problem *made, int first) {
  size_t bytes = 0;
  for (int which = first; which < first + 3; which++)
    bytes += made->operands[which].bytes;
  unsigned char *memory = (unsigned char *)malloc(bytes), *end = memory;
  if (!memory) {
    perror("malloc");
    exit(EXIT_FAILURE);
  }
  for (int which = first; which < first + 3; which++) {
    memcpy(end, made->operands[which].memory, made->operands[which].bytes);
    made->operands[which].view.data = end;
    end += made->operands[which].bytes;
  }
  return memory;
}

/* Projections whose weights and biases, and gradients of them, are thirds of one array give the same bits. */
static void check_packed(const layer_spec *spec, int32_t dtype) {
  layer_problem apart, packed;
  layer_make(&apart, spec, dtype, LAYOUT_DENSE);
  layer_make(&packed, spec, dtype, LAYOUT_DENSE);
  const int groups[] = {QUERY_WEIGHT, QUERY_BIAS, gradient_of(QUERY_WEIGHT), gradient_of(QUERY_BIAS)};
  unsigned char *memory[4];
  for (int group = 0; group < 4; group++)
    memory[group] = pack(&packed, groups[group]);
  CHECK(layer_forward(&apart) == SWIFTATTN_OK && layer_backward(&apart) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(layer_forward(&packed) == SWIFTATTN_OK && layer_backward(&packed) == SWIFTATTN_OK, "%s",
        swiftattn_last_error());
  array *const out = &packed.operands[LAYER_OUT];
  unsigned char *before = copy_of(out);
  memset(out->memory, PATTERN, out->bytes);
  layer_pack(&packed);
  layer_use_packed(&packed, 1);
  CHECK(layer_forward(&packed) == SWIFTATTN_OK, "%s: %s", spec->name, swiftattn_last_error());
  CHECK(!memcmp(before, out->memory, out->bytes), "%s: out differs with packed weights", spec->name);
  free(before);
  for (int group = 2; group < 4; group++)
    for (int which = groups[group]; which < groups[group] + 3; which++) {
      const array *target = &packed.operands[which];
      if (target->bytes)
        memcpy(target->memory, target->view.data, target->bytes);
    }
  check_same_bytes(&apart, &packed, spec->name);
  for (int group = 0; group < 4; group++)
    free(memory[group]);
  layer_free(&apart);
  layer_free(&packed);
}

static void check_threads(void) {
  static const layer_spec spec = {"threads",
                                  3,
                                  2,
                                  4,
                                  2,
                                  150,
                                  150,
                                  16,
                                  16,
                                  64,
                                  64,
                                  64,
                                  64,
                                  &half_split,
                                  SWIFTATTN_CAUSAL_TOP_LEFT,
                                  SELF_OPTIONS | LAYER_HAS_SHARED_BIAS};
  layer_problem alone;
  layer_make(&alone, &spec, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  for (int32_t threads = 1; threads <= 4; threads++) {
    layer_problem made;
    layer_make(&made, &spec, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
    CHECK(swiftattn_set_num_threads(threads) == SWIFTATTN_OK, "%s", swiftattn_last_error());
    layer_problem *used = threads == 1 ? &alone : &made;
    CHECK(layer_forward(used) == SWIFTATTN_OK && layer_backward(used) == SWIFTATTN_OK, "%s", swiftattn_last_error());
    if (threads > 1)
      check_same_bytes(&alone, &made, "threads");
    layer_free(&made);
  }
  layer_free(&alone);
  CHECK(swiftattn_set_num_threads(0) == SWIFTATTN_OK, "%s", swiftattn_last_error());
}

/* The sequences of a batch, and a gradient of the output, that share memory by a stride of 0. */
static void check_shared_sequences(void) {
  layer_problem made;
  layer_make(&made, &specs[5], SWIFTATTN_FLOAT64, LAYOUT_DENSE);
  array *inputs[] = {&made.operands[LAYER_QUERY], &made.operands[LAYER_DOUT]};
  inputs[0]->view.strides[0] = inputs[0]->view.strides[1] = 0;
  inputs[1]->view.strides[0] = inputs[1]->view.strides[1] = inputs[1]->view.strides[2] = 0;
  layer_solve(&made);
  CHECK(layer_forward(&made) == SWIFTATTN_OK && layer_backward(&made) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++)
    if (which != LAYER_AVERAGE)
      layer_check(&made, which, "shared sequences");
  layer_free(&made);
}

/* Fewer threads, packed projections, other strides: nothing but the numbers decides the bits. */
int main(void) {
  for (size_t spec = 0; spec < SPEC_COUNT; spec++) {
    check_spec(&specs[spec], SWIFTATTN_FLOAT32);
    check_spec(&specs[spec], SWIFTATTN_FLOAT64);
    if (specs[spec].options & LAYER_HAS_BIASES && specs[spec].width == specs[spec].kdim &&
        specs[spec].kdim == specs[spec].vdim) {
      check_packed(&specs[spec], SWIFTATTN_FLOAT32);
      check_packed(&specs[spec], SWIFTATTN_FLOAT64);
    }
  }
  check_threads();
  check_shared_sequences();
  return check_result("test_layer");
}
