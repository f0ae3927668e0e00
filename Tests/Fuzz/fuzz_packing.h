/* Fuzzes packing a layer's weights: how much it takes, packing, and a call that is given what was packed. C11. */
#ifndef FUZZ_PACKING_H
#define FUZZ_PACKING_H

#include "layer_edit.h"

/* What is wrong with the memory that is packed into, or handed to forward. */
enum { PACKING_FINE, PACKING_SHORT, PACKING_SHIFTED, PACKING_FLAWS };

static inline int packing_is_good(const layer_call *call, int flaw) {
  return !call->is_edited && !call->of->is_giant && flaw == PACKING_FINE;
}

/* How many bytes the weights take packed; 0 where that is an error. */
static inline size_t packing_size(layer_call *call, const swiftattn_mha_parameters *parameters) {
  arena *all = &call->of->all;
  verdict found = judge_begin(all);
  const size_t needed = judge_weights(&found, parameters);
  size_t bytes = 12345;
  arena_remember(all);
  outcome made = {"packed_bytes", 5,           call->subject, found, packing_is_good(call, PACKING_FINE),
                  SWIFTATTN_OK,   &call->stops};
  made.status = swiftattn_mha_packed_bytes(parameters, &bytes);
  check_outcome(&made);
  arena_check(all, made.call);
  CHECK(bytes == (made.status == SWIFTATTN_OK ? needed : 12345), "packed_bytes: %zu instead of %zu", bytes, needed);
  return made.status == SWIFTATTN_OK ? bytes : 0;
}

/* `memory`, with a flaw. */
static inline swiftattn_tensor packing_flawed(swiftattn_tensor memory, int flaw) {
  if (flaw == PACKING_SHIFTED)
    memory.data = (unsigned char *)memory.data + 8;
  memory.shape[0] -= flaw == PACKING_SHIFTED ? 8 : flaw == PACKING_SHORT;
  return memory;
}

/* Whether it was packed. */
static inline int packing_run(layer_call *call, const swiftattn_mha_parameters *parameters, swiftattn_tensor memory,
                              size_t needed, int flaw) {
  arena *all = &call->of->all;
  verdict found = judge_begin(all);
  judge_weights(&found, parameters);
  const int lacks_weights = found.is_unbacked;
  judge_packed(&found, &memory, needed, 1);
  /* The memory is a block of its own, though the judge may not have gone through it. */
  found.is_unbacked = lacks_weights;
  if (!call_is_safe(&found))
    return 0;
  arena_remember(all);
  outcome made = {"pack", 6, call->subject, found, packing_is_good(call, flaw), SWIFTATTN_OK, &call->stops};
  made.status = swiftattn_mha_pack(parameters, memory.data, (size_t)memory.shape[0]);
  check_outcome(&made);
  if (outputs_may_change(made.status))
    arena_allow(all, &memory);
  arena_check(all, made.call);
  return made.status == SWIFTATTN_OK;
}

/* Packs the weights if the choice says so, and gives them to the call of forward. */
static inline void fuzz_packing(layer_call *call, unsigned choice) {
  swiftattn_mha *mha = &call->of->made.mha;
  if (!(choice & 1) || !call->mha)
    return;
  arena *all = &call->of->all;
  const swiftattn_mha_parameters *parameters = mha->parameters;
  if (parameters)
    parameters = struct_copy(all, parameters, parameters->struct_size, sizeof *parameters);
  const size_t bytes = packing_size(call, parameters);
  if (bytes == 0 || bytes > MOST_BYTES)
    return;
  const int of_packing = (int)(choice >> 1 & 7), of_forward = (int)(choice >> 4 & 7);
  const swiftattn_tensor memory = view_of_bytes(arena_block(all, 0, bytes), bytes);
  if (of_packing < PACKING_FLAWS && of_packing != PACKING_FINE)
    packing_run(call, parameters, packing_flawed(memory, of_packing), bytes, of_packing);
  if (!packing_run(call, parameters, memory, bytes, PACKING_FINE))
    return;
  const int flaw = of_forward < PACKING_FLAWS ? of_forward : PACKING_FINE;
  const swiftattn_tensor given = packing_flawed(memory, flaw);
  mha->packed = given.data;
  mha->packed_bytes = (size_t)given.shape[0];
  call->is_edited |= flaw != PACKING_FINE;
}

#endif /* FUZZ_PACKING_H */
