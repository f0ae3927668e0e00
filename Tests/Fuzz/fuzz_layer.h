/* Fuzzes the layer: how much it saves, forward, and then backward. C11. */
#ifndef FUZZ_LAYER_H
#define FUZZ_LAYER_H

#include "fuzz_packing.h"
#include "layer_oracle.h"

/* Structs that end where they say. */
static inline const swiftattn_mha *mha_sealed(const layer_call *call) {
  arena *all = &call->of->all;
  if (!call->mha)
    return NULL;
  swiftattn_mha mha = *call->mha;
  const size_t size = mha.struct_size;
  if (mha.parameters)
    mha.parameters = struct_copy(all, mha.parameters, mha.parameters->struct_size, sizeof *mha.parameters);
  if (mha.rope)
    mha.rope = struct_copy(all, mha.rope, mha.rope->struct_size, sizeof *mha.rope);
  return struct_copy(all, &mha, size, sizeof mha);
}

static inline const swiftattn_mha_gradients *mha_gradients_sealed(const layer_call *call) {
  arena *all = &call->of->all;
  if (!call->results.gradients)
    return NULL;
  swiftattn_mha_gradients gradients = *call->results.gradients;
  const size_t size = gradients.struct_size;
  if (gradients.parameters)
    gradients.parameters =
        struct_copy(all, gradients.parameters, gradients.parameters->struct_size, sizeof *gradients.parameters);
  return struct_copy(all, &gradients, size, sizeof gradients);
}

static inline int layer_is_good(const layer_call *call) { return !call->is_edited && !call->of->is_giant; }

/* How many bytes forward saves; 0 where that is an error. */
static inline size_t layer_size(layer_call *call) {
  arena *all = &call->of->all;
  const swiftattn_mha *mha = mha_sealed(call);
  verdict found = judge_begin(all);
  judge_layer(&found, mha);
  size_t bytes = 12345;
  arena_remember(all);
  outcome made = {"saved_bytes", 2, call->subject, found, layer_is_good(call), SWIFTATTN_OK, &call->stops};
  made.status = swiftattn_mha_saved_bytes(mha, &bytes);
  check_outcome(&made);
  arena_check(all, made.call);
  CHECK(made.status == SWIFTATTN_OK || bytes == 12345, "saved_bytes: wrote %zu", bytes);
  return made.status == SWIFTATTN_OK ? bytes : 0;
}

/* Whether it was computed. */
static inline int fuzz_layer_forward(layer_call *call) {
  arena *all = &call->of->all;
  const swiftattn_mha *mha = mha_sealed(call);
  const layer_results *results = &call->results;
  const verdict found = judge_layer_forward(all, mha, results);
  if (!call_is_safe(&found))
    return 0;
  arena_remember(all);
  outcome made = {"mha forward", 3, call->subject, found, layer_is_good(call), SWIFTATTN_OK, &call->stops};
  made.status =
      swiftattn_mha_forward(mha, results->out, results->weights, results->saved.data, (size_t)results->saved.shape[0]);
  check_outcome(&made);
  if (outputs_may_change(made.status)) {
    arena_allow(all, results->out);
    arena_allow(all, results->weights);
    arena_allow(all, results->saved.data ? &results->saved : NULL);
  }
  arena_check(all, made.call);
  return made.status == SWIFTATTN_OK;
}

static inline int fuzz_layer_backward(layer_call *call) {
  arena *all = &call->of->all;
  const swiftattn_mha *mha = mha_sealed(call);
  layer_results results = call->results;
  results.gradients = mha_gradients_sealed(call);
  const verdict found = judge_layer_backward(all, mha, &results);
  if (!call_is_safe(&found))
    return 0;
  arena_remember(all);
  outcome made = {"mha backward", 4,           call->subject, found, layer_is_good(call) && results.saved.data,
                  SWIFTATTN_OK,   &call->stops};
  made.status =
      swiftattn_mha_backward(mha, results.saved.data, (size_t)results.saved.shape[0], results.dout, results.gradients);
  check_outcome(&made);
  if (outputs_may_change(made.status)) {
    const swiftattn_tensor *wanted[REFERENCE_GRADIENTS];
    layer_wanted(results.gradients, wanted);
    for (int each = 0; each < REFERENCE_GRADIENTS; each++)
      arena_allow(all, wanted[each]);
  }
  arena_check(all, made.call);
  return made.status == SWIFTATTN_OK;
}

/* The same bits with another number of threads, also where nothing is saved and weights are not packed. */
static inline void layer_repeat(layer_call *call, int threads, int is_saved) {
  const layer_results *results = &call->results;
  const int before = swiftattn_get_num_threads();
  swiftattn_mha mha = *call->mha;
  mha.packed = NULL;
  swiftattn_set_num_threads(threads);
  arena_remember(&call->of->all);
  CHECK(swiftattn_mha_forward(&mha, results->out, results->weights, is_saved ? results->saved.data : NULL,
                              (size_t)results->saved.shape[0]) == SWIFTATTN_OK,
        "%s", swiftattn_last_error());
  arena_check(&call->of->all, "the same call of the layer with another number of threads");
  swiftattn_set_num_threads(before);
}

/* Leaves out outputs, and chooses the weights' form and whether anything is saved. */
static inline void layer_choose(layer_call *call, reader *from, size_t bytes) {
  layer_problem *made = &call->of->made;
  const unsigned weights = read_byte(from);
  const uint64_t dropped = read_word(from, 2) & read_word(from, 2);
  layer_results *results = &call->results;
  results->needed = bytes;
  results->out = layer_view(made, LAYER_OUT);
  results->dout = layer_view(made, LAYER_DOUT);
  results->weights = weights & 1 ? layer_view(made, weights & 2 ? LAYER_WEIGHTS : LAYER_AVERAGE) : NULL;
  results->gradients = &made->gradients;
  for (int which = 0; which < LAYER_MASK; which++)
    if (dropped >> which & 1)
      *gradient_field(made, which) = NULL;
  if (dropped >> 15 & 1)
    made->gradients.parameters = NULL;
  results->saved = (swiftattn_tensor){NULL, SWIFTATTN_BOOL, 1, {(int64_t)bytes}, {1}};
  if (!(weights & 4) && bytes > 0 && bytes <= MOST_BYTES)
    results->saved.data = arena_block(&call->of->all, 0, bytes);
}

/* Whether there are gradients to compare. */
static inline int layer_may_expect(layer_call *call) {
  const verdict found = judge_layer_backward(&call->of->all, call->mha, &call->results);
  return !found.is_bad && !found.is_unbacked;
}

static inline void layer_run(layer_call *call, const edit *edits, int count, unsigned stage) {
  fuzz_layer_problem *of = call->of;
  reference_layer reference;
  array expected[REFERENCE_GRADIENTS] = {{.memory = NULL}};
  const int is_forward = fuzz_layer_forward(call);
  const int has_reference = is_forward && of->work <= most_for_reference && !of->is_giant && call->has_known_values;
  if (has_reference)
    layer_check_forward(&reference, call->mha, &call->results);
  if (is_forward && !call->is_edited && call->stops.patience == INT64_MAX)
    layer_repeat(call, 1 + (int)(stage & 3), (int)(stage & 4));
  if (!(stage & 1))
    layer_edits(call, edits, count, 1);
  const int may_compare = has_reference && call->has_known_values && layer_may_expect(call);
  if (may_compare)
    layer_expect(call->results.gradients, expected);
  const int is_backward = fuzz_layer_backward(call);
  if (is_backward && may_compare)
    layer_check_backward(&reference, &call->results, expected);
  for (int each = 0; each < REFERENCE_GRADIENTS; each++)
    array_free(&expected[each]);
  if (has_reference)
    reference_layer_free(&reference);
}

static inline void fuzz_layer(reader *from) {
  static fuzz_layer_problem of;
  fuzz_layer_make(&of, from);
  layer_call call = {.of = &of, .mha = &of.made.mha, .has_known_values = 1, .subject = -1};
  const unsigned stage = read_byte(from), patience = read_byte(from);
  const int is_endless = of.work > most_to_run;
  call.stops = (interrupter){is_endless ? 0 : patience < 16 ? patience : INT64_MAX, 0, pthread_self(), 0, 0};
  of.made.mha.interrupted = patience & 16 || is_endless ? interrupter_ask : NULL;
  of.made.mha.interrupted_context = &call.stops;
  layer_choose(&call, from, layer_size(&call));
  /* Before forward (an odd stage) only what forward takes is edited, else before backward. */
  edit edits[MOST_EDITS];
  const int count = stage < 112 ? 0 : stage < 208 ? 1 : 2;
  for (int each = 0; each < count; each++)
    edits[each] = read_edit(from, stage & 1 ? FIRST_GRADIENT : LAYER_OPERAND_COUNT, LAYER_EDITS);
  if (stage & 1) {
    layer_edits(&call, edits, count, 0);
    const size_t bytes = layer_size(&call);
    call.results.needed = bytes ? bytes : call.results.needed;
  }
  fuzz_packing(&call, read_byte(from));
  layer_run(&call, edits, count, stage);
  arena_free(&of.all);
}

#endif /* FUZZ_LAYER_H */
