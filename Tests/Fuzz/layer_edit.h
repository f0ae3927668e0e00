/* Edits of a call of the layer. C11. */
#ifndef FUZZ_LAYER_EDIT_H
#define FUZZ_LAYER_EDIT_H

#include "call.h"
#include "edit.h"
#include "fuzz_layer_problem.h"
#include "judge_layer.h"

/* Edits of the call. */
enum {
  MHA_SIZE = CALL,
  PARAMETERS_SIZE,
  MHA_GRADIENTS_SIZE,
  GRADIENT_PARAMETERS_SIZE,
  ROPE_SIZE,
  MHA_NULL,
  PARAMETERS_NULL,
  MHA_GRADIENTS_NULL,
  SAVED_NULL,
  SAVED_SHIFT,
  SAVED_BYTES,
  SAVED_ALIAS,
  MHA_CAUSAL,
  HEADS,
  KV_HEADS,
  ROPE_DIM,
  ROPE_BASE,
  ROPE_SCALING,
  ROPE_OFFSET,
  ROPE_KEY_OFFSET,
  LAYER_EDITS_END,
  LAYER_EDITS = LAYER_EDITS_END - CALL
};

/* The arguments of all three functions. */
typedef struct layer_call {
  fuzz_layer_problem *of;
  const swiftattn_mha *mha;
  layer_results results;
  int is_edited, subject;
  int has_known_values; /* the reference gets the same inputs */
  interrupter stops;
} layer_call;

static inline void layer_edit_missing(layer_call *call, int which) {
  layer_problem *made = &call->of->made;
  swiftattn_mha *mha = &made->mha;
  const swiftattn_tensor **inputs[] = {&mha->query, &mha->key, &mha->value, &mha->bias};
  const swiftattn_tensor **others[] = {&mha->mask,         &mha->key_lengths,      &call->results.dout,
                                       &call->results.out, &call->results.weights, &call->results.weights};
  if (which >= FIRST_GRADIENT)
    *gradient_field(made, which - FIRST_GRADIENT) = NULL;
  else if (which >= LAYER_MASK)
    *others[which - LAYER_MASK] = NULL;
  else
    *(which < QUERY_WEIGHT ? inputs[which] : parameter_field(&made->parameters, which)) = NULL;
}

static inline void layer_edit_rope(swiftattn_rope *rope, const edit *change) {
  static const double numbers[] = {0, -1, NAN, INFINITY, 1e-300, 1e300, 3, -INFINITY};
  static const int64_t offsets[] = {
      (INT64_C(1) << 53) + 1, INT64_C(1) << 53, -(INT64_C(1) << 53), INT64_MIN, INT64_MAX, 1000000007, -77777, 0};
  switch (change->what) {
  case ROPE_SIZE:
    rope->struct_size = (size_t)change->number;
    break;
  case ROPE_DIM:
    rope->dim = change->number & 64 ? offsets[change->number & 7] : change->number;
    break;
  case ROPE_BASE:
    rope->base = numbers[change->number & 7];
    break;
  case ROPE_SCALING:
    rope->scaling = numbers[change->number & 7];
    break;
  case ROPE_OFFSET:
    rope->offset = offsets[change->number & 7];
    break;
  default:
    rope->key_offset = offsets[change->number & 7];
  }
}

static inline void layer_edit_saved(layer_call *call, const edit *change) {
  swiftattn_tensor *saved = &call->results.saved;
  if (!saved->data)
    return;
  switch (change->what) {
  case SAVED_NULL:
    saved->data = NULL;
    break;
  case SAVED_SHIFT:
    saved->data = (char *)saved->data + (change->number & 63);
    saved->shape[0] -= change->number & 63;
    break;
  case SAVED_BYTES:
    saved->shape[0] -= 1 + (change->number & 127);
    break;
  default:
    saved->data = call->of->made.operands[change->which].view.data;
  }
  saved->shape[0] = saved->shape[0] > 0 ? saved->shape[0] : 0;
}

static inline void layer_edit_struct(layer_call *call, const edit *change) {
  layer_problem *made = &call->of->made;
  size_t *sizes[] = {&made->mha.struct_size, &made->parameters.struct_size, &made->gradients.struct_size,
                     &made->parameter_gradients.struct_size};
  switch (change->what) {
  case MHA_NULL:
    call->mha = NULL;
    break;
  case PARAMETERS_NULL:
    made->mha.parameters = NULL;
    break;
  case MHA_GRADIENTS_NULL:
    call->results.gradients = NULL;
    break;
  case MHA_CAUSAL:
    made->mha.causal = (int32_t)change->number;
    break;
  case HEADS:
    made->mha.num_heads = change->number & 256 ? INT32_MAX : change->number & 512 ? INT32_MIN : change->number % 9;
    break;
  case KV_HEADS:
    made->mha.num_kv_heads = change->number & 256 ? INT32_MAX : change->number % 9;
    break;
  default:
    *sizes[change->what - MHA_SIZE] = (size_t)change->number;
  }
}

static inline void layer_edit(layer_call *call, const edit *change) {
  call->is_edited = 1;
  call->subject = subject_of(change);
  if (change->what == MISSING)
    layer_edit_missing(call, change->which);
  else if (change->what < CALL)
    edit_operand(&call->of->all, call->of->made.operands, change);
  else if (change->what == ROPE_SIZE || change->what >= ROPE_DIM)
    layer_edit_rope(&call->of->rope, change);
  else if (change->what >= SAVED_NULL && change->what <= SAVED_ALIAS)
    layer_edit_saved(call, change);
  else
    layer_edit_struct(call, change);
}

/* Whether the reference still computes what the library is asked for. Huge numbers and angles have huge errors, and
 * without its lengths and mask a call sees the NaN behind them. */
static inline int layer_edit_is_known(const edit *change, int is_backward) {
  if (is_backward)
    return change->what < CALL && change->which >= FIRST_GRADIENT;
  if (change->what >= CALL)
    return change->what < ROPE_DIM;
  return change->what != ALIAS && change->what != ELEMENT && change->which != LAYER_KEY_LENGTHS &&
         change->which != LAYER_MASK;
}

static inline void layer_edits(layer_call *call, const edit *edits, int count, int is_backward) {
  for (int each = 0; each < count; each++) {
    layer_edit(call, &edits[each]);
    call->has_known_values &= layer_edit_is_known(&edits[each], is_backward);
  }
}

#endif /* FUZZ_LAYER_EDIT_H */
