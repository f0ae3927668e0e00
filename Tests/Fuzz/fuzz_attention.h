/* Fuzzes attention, forward and then backward. C11. */
#ifndef FUZZ_ATTENTION_H
#define FUZZ_ATTENTION_H

#include "attention_oracle.h"
#include "attention_problem.h"
#include "call.h"
#include "edit.h"
#include "judge_attention.h"

/* Edits of the call. */
enum { ATTENTION_SIZE = CALL, GRADIENTS_SIZE, ATTENTION_NULL, GRADIENTS_NULL, CAUSAL_EDIT, SCALE_EDIT, CALL_EDITS = 6 };

/* The arguments of both functions. */
typedef struct attention_call {
  attention_problem *of;
  const swiftattn_attention *attention;
  attention_results results;
  double scale;
  int is_edited, subject;
  int has_known_values; /* the reference gets the same inputs */
  interrupter stops;
} attention_call;

static inline void attention_edit_missing(attention_call *call, int which) {
  swiftattn_attention *attention = &call->of->made.attention;
  swiftattn_attention_gradients *gradients = &call->of->made.gradients;
  const swiftattn_tensor **fields[] = {
      &attention->query,       &attention->key,           &attention->value,   &attention->mask,   &attention->bias,
      &attention->key_lengths, &attention->query_lengths, &call->results.dout, &call->results.out, &call->results.lse,
      &gradients->query,       &gradients->key,           &gradients->value,   &gradients->bias};
  *fields[which] = NULL;
}

static inline void attention_edit(attention_call *call, const edit *change) {
  swiftattn_attention *attention = &call->of->made.attention;
  call->is_edited = 1;
  call->subject = subject_of(change);
  switch (change->what) {
  case ATTENTION_SIZE:
    attention->struct_size = (size_t)change->number;
    break;
  case GRADIENTS_SIZE:
    call->of->made.gradients.struct_size = (size_t)change->number;
    break;
  case ATTENTION_NULL:
    call->attention = NULL;
    break;
  case GRADIENTS_NULL:
    call->results.gradients = NULL;
    break;
  case CAUSAL_EDIT:
    attention->causal = (int32_t)change->number;
    break;
  case SCALE_EDIT:
    call->scale = (const double[]){0, NAN, INFINITY, -INFINITY, 1e-300, 1e300, -2, 1e-40}[change->number & 7];
    attention->scale = &call->scale;
    break;
  case MISSING:
    attention_edit_missing(call, change->which);
    break;
  default:
    edit_operand(&call->of->all, call->of->made.operands, change);
  }
}

/* Structs that end where they say. */
static inline const swiftattn_attention *attention_sealed(const attention_call *call) {
  const swiftattn_attention *given = call->attention;
  return given ? struct_copy(&call->of->all, given, given->struct_size, sizeof *given) : NULL;
}

static inline attention_results results_sealed(const attention_call *call) {
  attention_results sealed = call->results;
  const swiftattn_attention_gradients *given = sealed.gradients;
  sealed.gradients = given ? struct_copy(&call->of->all, given, given->struct_size, sizeof *given) : NULL;
  return sealed;
}

static inline int attention_is_good(const attention_call *call) { return !call->is_edited && !call->of->is_giant; }

/* Whether it was computed. */
static inline int attention_forward(attention_call *call) {
  arena *all = &call->of->all;
  const swiftattn_attention *attention = attention_sealed(call);
  const attention_results *results = &call->results;
  const verdict found = judge_attention_forward(all, attention, results->out, results->lse);
  if (!call_is_safe(&found))
    return 0;
  arena_remember(all);
  outcome made = {"forward", 0, call->subject, found, attention_is_good(call), SWIFTATTN_OK, &call->stops};
  made.status = swiftattn_attention_forward(attention, results->out, results->lse);
  check_outcome(&made);
  if (outputs_may_change(made.status)) {
    arena_allow(all, results->out);
    arena_allow(all, results->lse);
  }
  arena_check(all, made.call);
  return made.status == SWIFTATTN_OK;
}

static inline int attention_backward(attention_call *call) {
  arena *all = &call->of->all;
  const swiftattn_attention *attention = attention_sealed(call);
  const attention_results results = results_sealed(call);
  const verdict found = judge_attention_backward(all, attention, &results);
  if (!call_is_safe(&found))
    return 0;
  arena_remember(all);
  outcome made = {"backward",   1,           call->subject, found, attention_is_good(call) && results.lse,
                  SWIFTATTN_OK, &call->stops};
  made.status = swiftattn_attention_backward(attention, results.out, results.lse, results.dout, results.gradients);
  check_outcome(&made);
  if (outputs_may_change(made.status)) {
    arena_allow(all, results.gradients->query);
    arena_allow(all, results.gradients->key);
    arena_allow(all, results.gradients->value);
    arena_allow(all, results.gradients->bias);
  }
  arena_check(all, made.call);
  return made.status == SWIFTATTN_OK;
}

/* The same bits with another number of threads. */
static inline void attention_repeat(attention_call *call, int threads) {
  const attention_results *results = &call->results;
  const int before = swiftattn_get_num_threads();
  swiftattn_set_num_threads(threads);
  arena_remember(&call->of->all);
  CHECK(swiftattn_attention_forward(call->attention, results->out, results->lse) == SWIFTATTN_OK, "%s",
        swiftattn_last_error());
  CHECK(swiftattn_attention_backward(call->attention, results->out, results->lse, results->dout, results->gradients) ==
            SWIFTATTN_OK,
        "%s", swiftattn_last_error());
  arena_check(&call->of->all, "the same call with another number of threads");
  swiftattn_set_num_threads(before);
}

/* Leaves out gradients, and lse. */
static inline void attention_drop(attention_call *call, unsigned choices) {
  swiftattn_attention_gradients *gradients = &call->of->made.gradients;
  const swiftattn_tensor **fields[] = {&gradients->query, &gradients->key, &gradients->value, &gradients->bias};
  for (int each = 0; each < 4; each++)
    if (choices >> each & 1)
      *fields[each] = NULL;
  if (choices & 16)
    call->results.lse = NULL;
}

/* Whether the reference still computes what the library is asked for. Huge numbers have huge errors, and without its
 * lengths and mask a call sees the NaN behind them. */
static inline int attention_edit_is_known(const edit *change, int is_backward) {
  if (is_backward)
    return change->what < CALL && change->which >= DQUERY;
  if (change->what >= CALL)
    return change->what != SCALE_EDIT;
  return change->what != ALIAS && change->what != ELEMENT && change->which != KEY_LENGTHS && change->which != MASK;
}

static inline void attention_edits(attention_call *call, const edit *edits, int count, int is_backward) {
  for (int each = 0; each < count; each++) {
    attention_edit(call, &edits[each]);
    call->has_known_values &= attention_edit_is_known(&edits[each], is_backward);
  }
}

static inline void fuzz_attention(reader *from) {
  static attention_problem of;
  attention_make(&of, from);
  attention_call call = {.of = &of, .attention = &of.made.attention, .has_known_values = 1, .subject = -1};
  call.results = (attention_results){problem_view(&of.made, OUT), problem_view(&of.made, LSE),
                                     problem_view(&of.made, DOUT), &of.made.gradients};
  attention_drop(&call, read_byte(from) & read_byte(from));
  const unsigned stage = read_byte(from), patience = read_byte(from);
  call.stops = (interrupter){of.work > most_to_run ? 0 : patience < 16 ? patience : INT64_MAX, 0, pthread_self(), 0, 0};
  of.made.attention.interrupted = patience & 16 || of.work > most_to_run ? interrupter_ask : NULL;
  of.made.attention.interrupted_context = &call.stops;
  /* Before forward (an odd stage) only what forward takes is edited, else before backward. */
  edit edits[MOST_EDITS];
  const int count = stage < 112 ? 0 : stage < 208 ? 1 : 2;
  for (int each = 0; each < count; each++)
    edits[each] = read_edit(from, stage & 1 ? LSE + 1 : OPERAND_COUNT, CALL_EDITS);
  if (stage & 1)
    attention_edits(&call, edits, count, 0);
  const int may_compare = of.work <= most_for_reference && !of.is_giant;
  const int is_forward = attention_forward(&call);
  if (is_forward && may_compare && call.has_known_values)
    attention_check_forward(call.attention, &call.results, of.dtype);
  if (!(stage & 1))
    attention_edits(&call, edits, count, 1);
  const int is_backward = attention_backward(&call);
  if (is_forward && is_backward && may_compare && call.has_known_values)
    attention_check_backward(call.attention, &call.results, of.dtype);
  if (is_forward && is_backward && !call.is_edited && call.stops.patience == INT64_MAX)
    attention_repeat(&call, 1 + (int)(stage & 3));
  arena_free(&of.all);
}

#endif /* FUZZ_ATTENTION_H */
