/* Every bad call of the layer: its status, a message that names the argument, and not one byte written. Then shapes at
 * which arithmetic could go wrong: an error or an empty result, and never a crash. */
#define _POSIX_C_SOURCE 200809L
#include "layer_bad_calls.h"

#include <unistd.h>

static const swiftattn_rope good_rope = {sizeof good_rope, 0, 10000, 1, 0, 3, 4};
static const layer_spec good = {"good",
                                3,
                                2,
                                4,
                                2,
                                6,
                                5,
                                8,
                                4,
                                12,
                                10,
                                14,
                                11,
                                &good_rope,
                                SWIFTATTN_CAUSAL_NONE,
                                LAYER_HAS_KEY | LAYER_HAS_VALUE | LAYER_HAS_BIASES | LAYER_HAS_TOKEN | LAYER_HAS_ZERO |
                                    LAYER_HAS_MASK | LAYER_HAS_BIAS | LAYER_HAS_KEY_LENGTHS};

/* The arguments of all functions but those in the problem itself. */
typedef struct arguments {
  const swiftattn_mha *mha;
  const swiftattn_tensor *out, *weights, *dout;
  const swiftattn_mha_gradients *gradients;
  unsigned char *saved;
  size_t saved_bytes, *bytes;
  swiftattn_rope rope;
} arguments;

static void edit_operand(layer_problem *made, arguments *call, const edit *change) {
  if (change->what != MISSING)
    edit_tensor(made->operands, change);
  else if (change->which >= QUERY_WEIGHT && change->which <= VALUE_TOKEN)
    *parameter_field(&made->parameters, change->which) = NULL;
  else if (change->which <= LAYER_BIAS) {
    const swiftattn_tensor **inputs[] = {&made->mha.query, &made->mha.key, &made->mha.value, &made->mha.bias};
    *inputs[change->which] = NULL;
  } else
    *(change->which == LAYER_OUT ? &call->out : &call->dout) = NULL;
}

static void edit_size(layer_problem *made, arguments *call, const edit *change) {
  size_t *sizes[] = {&made->mha.struct_size, &made->parameters.struct_size, &made->gradients.struct_size,
                     &made->parameter_gradients.struct_size, &call->rope.struct_size};
  *sizes[change->what - MHA_SIZE] = (size_t)change->number;
}

static void edit_pointer(layer_problem *made, arguments *call, const edit *change) {
  switch (change->what) {
  case MHA_MISSING:
    call->mha = NULL;
    break;
  case PARAMETERS_MISSING:
    made->mha.parameters = NULL;
    break;
  case GRADIENTS_MISSING:
    call->gradients = NULL;
    break;
  case BYTES_MISSING:
    call->bytes = NULL;
    break;
  case PACKED_MISSING:
    made->mha.packed = NULL;
    break;
  case PACKED_IS_SAVED:
    made->mha.packed = call->saved;
    break;
  case PACKED_IS_WEIGHT: {
    const uintptr_t weight = (uintptr_t)made->operands[QUERY_WEIGHT].view.data, mask = SWIFTATTN_MHA_ALIGNMENT - 1;
    made->mha.packed = (void *)((weight + mask) & ~mask);
    break;
  }
  default:
    call->saved = NULL;
  }
}

static void edit_option(layer_problem *made, arguments *call, const edit *change) {
  switch (change->what) {
  case SAVED_SHIFT:
    call->saved += change->number;
    break;
  case SAVED_BYTES:
    call->saved_bytes += (size_t)change->number;
    break;
  case PACKED_SHIFT:
    made->mha.packed = (const char *)made->mha.packed + change->number;
    break;
  case PACKED_BYTES:
    made->mha.packed_bytes += (size_t)change->number;
    break;
  case CAUSAL:
    made->mha.causal = (int32_t)change->number;
    break;
  case HEADS:
    made->mha.num_heads = (int32_t)change->number;
    break;
  case KV_HEADS:
    made->mha.num_kv_heads = (int32_t)change->number;
    break;
  case ROPE_DIM:
    call->rope.dim = change->number;
    break;
  case ROPE_BASE:
    call->rope.base = bad_numbers[change->number];
    break;
  case ROPE_SCALING:
    call->rope.scaling = bad_numbers[change->number];
    break;
  case ROPE_OFFSET:
    call->rope.offset = change->number;
    break;
  default:
    call->rope.key_offset = change->number;
  }
}

static void apply(layer_problem *made, arguments *call, const edit *change) {
  if (change->what < CALL)
    edit_operand(made, call, change);
  else if (change->what < MHA_MISSING)
    edit_size(made, call, change);
  else if (change->what < SAVED_SHIFT)
    edit_pointer(made, call, change);
  else
    edit_option(made, call, change);
}

static swiftattn_status run(const layer_problem *made, const arguments *call, int function) {
  const swiftattn_mha *mha = &made->mha;
  switch (function) {
  case SIZING:
    return swiftattn_mha_saved_bytes(call->mha, call->bytes);
  case PACK_SIZING:
    return swiftattn_mha_packed_bytes(mha->parameters, call->bytes);
  case PACKING:
    return swiftattn_mha_pack(mha->parameters, (void *)(uintptr_t)mha->packed, mha->packed_bytes);
  case FORWARD:
    return swiftattn_mha_forward(call->mha, call->out, call->weights, call->saved, call->saved_bytes);
  default:
    return swiftattn_mha_backward(call->mha, call->saved, call->saved_bytes, call->dout, call->gradients);
  }
}

/* `saved` has room for what a shift takes. */
static void check_bad_call(int number, int function, unsigned char *saved, size_t room) {
  const bad_call *bad = &layer_bad_calls[number];
  layer_problem made, fresh;
  layer_make(&made, &good, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  layer_make(&fresh, &good, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  size_t bytes = 12345;
  arguments call = {&made.mha,
                    layer_view(&made, LAYER_OUT),
                    layer_view(&made, LAYER_WEIGHTS),
                    layer_view(&made, LAYER_DOUT),
                    &made.gradients,
                    saved,
                    made.saved_bytes,
                    &bytes,
                    good_rope};
  arguments unedited = call;
  made.mha.rope = &call.rope;
  memset(saved, PATTERN, room);
  layer_pack(&made);
  layer_use_packed(&made, 1);
  memset(made.packed, PATTERN, made.packed_bytes);
  for (const edit *change = bad->edits; change->what != NOTHING; change++) {
    apply(&made, &call, change);
    if (change->what == ELEMENT)
      apply(&fresh, &unedited, change);
  }
  const swiftattn_status status = run(&made, &call, function);
  const char *message = swiftattn_last_error();
  CHECK(status == bad->status, "bad call %d (%s, function %d): status %d instead of %d, message \"%s\"", number,
        bad->names, function, (int)status, (int)bad->status, message);
  CHECK(message_names(message, bad->names), "bad call %d (%s, function %d): message \"%s\"", number, bad->names,
        function, message);
  for (int which = 0; which < LAYER_OPERAND_COUNT; which++)
    CHECK(!memcmp(made.operands[which].memory, fresh.operands[which].memory, made.operands[which].bytes),
          "bad call %d (%s, function %d): %s was written", number, bad->names, function, layer_operand_name(which));
  size_t written = 0;
  for (size_t byte = 0; byte < room; byte++)
    written += saved[byte] != PATTERN;
  for (size_t byte = 0; byte < made.packed_bytes; byte++)
    written += ((unsigned char *)made.packed)[byte] != PATTERN;
  CHECK(!written && bytes == 12345, "bad call %d (%s, function %d): %zu bytes were saved or packed", number, bad->names,
        function, written);
  layer_free(&made);
  layer_free(&fresh);
}

/* The table proves something only when the call it edits is good. */
static void check_good_call(void) {
  layer_problem made;
  layer_make(&made, &good, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  layer_solve(&made);
  layer_pack(&made);
  layer_use_packed(&made, 1);
  CHECK(layer_forward(&made) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(layer_backward(&made) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++)
    if (which != LAYER_AVERAGE)
      layer_check(&made, which, "good call after the bad ones");
  layer_free(&made);
}

static void check_bad_calls(void) {
  layer_problem made;
  void *saved;
  layer_make(&made, &good, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  const size_t room = made.saved_bytes + SWIFTATTN_MHA_ALIGNMENT;
  if (posix_memalign(&saved, SWIFTATTN_MHA_ALIGNMENT, room)) {
    perror("posix_memalign");
    exit(EXIT_FAILURE);
  }
  layer_free(&made);
  for (int number = 0; number < (int)(sizeof layer_bad_calls / sizeof *layer_bad_calls); number++)
    for (int function = FORWARD; function <= PACKING; function *= 2)
      if (layer_bad_calls[number].calls & function)
        check_bad_call(number, function, (unsigned char *)saved, room);
  free(saved);
}

/* Numbers that all inputs below are views of, and those that outputs are. */
static float numbers[1024], computed[256];

static swiftattn_tensor view(float *data, int rank, const int64_t *shape, const int64_t *strides) {
  swiftattn_tensor made;
  memset(&made, 0, sizeof made);
  made.data = data;
  made.dtype = SWIFTATTN_FLOAT32;
  made.rank = rank;
  memcpy(made.shape, shape, (size_t)rank * sizeof *shape);
  memcpy(made.strides, strides, (size_t)rank * sizeof *strides);
  return made;
}

#define FAR (INT64_MAX - 3)
#define MOST (INT64_C(1) << 48)

/* Self-attention, or attention to a key whose length is not negative, of 2 heads. Strides that nothing steps over are
 * as large as can be. */
typedef struct hostile_call {
  const char *what;
  int rank;
  int64_t query[3], query_strides[3], key[3], key_strides[3];
  int64_t rows; /* of each projection's weight */
  int has_token;
  swiftattn_status sizing, status; /* of the size, and of forward and backward */
} hostile_call;

#define FINE SWIFTATTN_OK
#define TOO_MUCH SWIFTATTN_OUT_OF_MEMORY

static const hostile_call hostile_calls[] = {
    {"most keys that a number counts", 2, {3, 1}, {4, 4}, {INT64_MAX, 1}, {0, 4}, 8, 1, SHAPE, SHAPE},
    {"most keys", 2, {3, 1}, {4, 4}, {MOST, 1}, {0, 4}, 8, 1, FINE, SHAPE},
    {"most queries", 2, {MOST / 8, 4}, {0, 4}, {-1}, {0}, 8, 0, FINE, ARGUMENT},
    {"more than can be counted", 2, {MOST / 8, 4}, {0, 4}, {-1}, {0}, 1 << 24, 0, TOO_MUCH, TOO_MUCH},
    {"empty sequences", 3, {MOST / 8, 0, 4}, {16, 16, 4}, {-1}, {0}, 8, 0, FINE, FINE},
    {"empty sequences and tokens", 3, {MOST / 8, 0, 4}, {16, 16, 4}, {-1}, {0}, 8, 1, FINE, FINE},
    {"long sequences, but none", 3, {0, MOST / 8, 4}, {16, 16, 4}, {-1}, {0}, 8, 0, FINE, FINE},
    {"no queries, far apart", 3, {7, 0, 4}, {FAR, FAR, FAR}, {7, 3, 4}, {0, 16, 4}, 8, 1, FINE, FINE},
    {"no keys, far apart", 3, {7, 3, 4}, {0, 16, 4}, {7, 0, 4}, {FAR, FAR, FAR}, 8, 0, FINE, FINE},
    {"no sequences, far apart", 3, {0, 3, 4}, {FAR, FAR, FAR}, {-1}, {0}, 8, 1, FINE, FINE},
    {"no width, far apart", 3, {7, 3, 0}, {FAR, FAR, FAR}, {7, 4, 0}, {FAR, FAR, FAR}, 8, 1, FINE, FINE},
    {"one of each, far apart", 3, {1, 1, 4}, {FAR, FAR, 4}, {-1}, {0}, 8, 0, FINE, FINE},
};

/* The layer of a hostile call; its output is 5 wide. */
static void check_hostile_layer(const hostile_call *call, const swiftattn_tensor *query, const swiftattn_tensor *key) {
  const int64_t width = query->shape[call->rank - 1], rows = call->rows, far[] = {FAR, FAR};
  const int64_t dense[] = {rows == 8 ? width * 4 : 0, 4};
  const swiftattn_tensor weight = view(numbers, 2, (const int64_t[]){rows, width}, width ? dense : far);
  const swiftattn_tensor out_weight = view(numbers, 2, (const int64_t[]){5, rows}, (const int64_t[]){32, 0});
  const swiftattn_tensor token = view(numbers, 1, &rows, &dense[1]);
  const swiftattn_rope rope = {sizeof rope, 0, 10000, 1, 0, 0, 0};
  swiftattn_mha_parameters parameters = {.struct_size = sizeof parameters, .query_weight = &weight};
  parameters.key_weight = parameters.value_weight = &weight;
  parameters.out_weight = &out_weight;
  parameters.key_token = parameters.value_token = call->has_token ? &token : NULL;
  swiftattn_mha mha = {.struct_size = sizeof mha, .parameters = &parameters, .num_heads = 2, .rope = &rope};
  mha.query = query;
  mha.key = key;
  size_t bytes = 0;
  CHECK(swiftattn_mha_saved_bytes(&mha, &bytes) == call->sizing, "%s: %s", call->what, swiftattn_last_error());
  size_t packed_bytes = 0;
  CHECK(swiftattn_mha_packed_bytes(&parameters, &packed_bytes) == SWIFTATTN_OK && packed_bytes > 0, "%s: %s",
        call->what, swiftattn_last_error());

  swiftattn_tensor out = *query, weight_gradient = weight, query_gradient = *query;
  out.shape[call->rank - 1] = 5;
  out.data = weight_gradient.data = query_gradient.data = computed;
  /* Dense where it has elements and room for them. */
  if (tensor_count(&out) > 0 && tensor_count(&out) < 256)
    out = view(computed, call->rank, out.shape,
               (const int64_t[]){call->rank == 2 ? 20 : 60, 20 - 16 * (call->rank == 2), 4});
  void *saved = NULL;
  if (bytes < 1 << 20 && posix_memalign(&saved, SWIFTATTN_MHA_ALIGNMENT, bytes)) {
    perror("posix_memalign");
    exit(EXIT_FAILURE);
  }
  CHECK(swiftattn_mha_forward(&mha, &out, NULL, saved, bytes) == call->status, "%s: %s", call->what,
        swiftattn_last_error());
  swiftattn_tensor dout = out;
  dout.data = numbers;
  const swiftattn_mha_parameters of_parameters = {.struct_size = sizeof of_parameters, .key_weight = &weight_gradient};
  swiftattn_mha_gradients gradients = {.struct_size = sizeof gradients, .parameters = &of_parameters};
  gradients.query = tensor_count(query) ? NULL : &query_gradient;
  if (saved && call->status == SWIFTATTN_OK)
    CHECK(swiftattn_mha_backward(&mha, saved, bytes, &dout, &gradients) == SWIFTATTN_OK, "%s: %s", call->what,
          swiftattn_last_error());
  free(saved);
}

/* Attention itself, whose heads the sequences are: it returns. */
static void check_hostile_attention(const hostile_call *call, const swiftattn_tensor *query,
                                    const swiftattn_tensor *key) {
  swiftattn_attention attention = {.struct_size = sizeof attention, .query = query};
  attention.key = attention.value = key ? key : query;
  swiftattn_tensor out = *query, gradient = *query;
  out.data = gradient.data = computed;
  if (tensor_count(&out) > 0 && tensor_count(&out) < 256)
    out.strides[0] = 48;
  const swiftattn_status status = swiftattn_attention_forward(&attention, &out, NULL);
  CHECK(status == SWIFTATTN_OK || swiftattn_last_error()[0], "%s: status %d", call->what, (int)status);
  const swiftattn_attention_gradients gradients = {.struct_size = sizeof gradients, .query = &gradient};
  swiftattn_tensor dout = out, lse = out;
  dout.data = lse.data = numbers;
  lse.rank = call->rank - 1;
  if (status == SWIFTATTN_OK && tensor_count(query) == 0)
    CHECK(swiftattn_attention_backward(&attention, &dout, &lse, &dout, &gradients) == SWIFTATTN_OK, "%s: %s",
          call->what, swiftattn_last_error());
}

/* A sanitizer's allocator, too, says that there is no memory, instead of ending the program. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

int main(void) {
  /* A call that counts to the number of empty sequences would not end. */
  alarm(300);
  check_bad_calls();
  check_good_call();
  for (size_t each = 0; each < sizeof hostile_calls / sizeof *hostile_calls; each++) {
    const hostile_call *call = &hostile_calls[each];
    const swiftattn_tensor query = view(numbers, call->rank, call->query, call->query_strides);
    const swiftattn_tensor key = view(numbers, call->rank, call->key, call->key_strides);
    check_hostile_layer(call, &query, call->key[0] < 0 ? NULL : &key);
    if (call->rank == 3)
      check_hostile_attention(call, &query, call->key[0] < 0 ? NULL : &key);
  }
  return check_result("test_layer_errors");
}
