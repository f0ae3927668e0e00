/* Every bad call: its status, a message that names the argument, and not one byte written. */
#include "bad_calls.h"

static const problem_spec good = {"good",
                                  4,
                                  2,
                                  4,
                                  2,
                                  6,
                                  5,
                                  8,
                                  4,
                                  SWIFTATTN_CAUSAL_NONE,
                                  WITH_MASK | WITH_BIAS | WITH_KEY_LENGTHS | WITH_QUERY_LENGTHS | WITH_SCALE};

/* The arguments of a call of backward; those of forward are among them. */
typedef struct arguments {
  const swiftattn_attention *attention;
  const swiftattn_tensor *out, *lse, *dout;
  const swiftattn_attention_gradients *gradients;
} arguments;

static void edit_operand(problem *made, arguments *call, const edit *change) {
  const swiftattn_tensor **pointers[OPERAND_COUNT] = {&made->attention.query,
                                                      &made->attention.key,
                                                      &made->attention.value,
                                                      &made->attention.mask,
                                                      &made->attention.bias,
                                                      &made->attention.key_lengths,
                                                      &made->attention.query_lengths,
                                                      &call->dout,
                                                      &call->out,
                                                      &call->lse,
                                                      &made->gradients.query,
                                                      &made->gradients.key,
                                                      &made->gradients.value,
                                                      &made->gradients.bias};
  if (change->what == MISSING)
    *pointers[change->which] = NULL;
  else
    edit_tensor(made->operands, change);
}

static void edit_call(problem *made, arguments *call, const edit *change) {
  switch (change->what) {
  case CAUSAL:
    made->attention.causal = (int32_t)change->number;
    break;
  case SCALE:
    made->attention.scale = &bad_scales[change->number];
    break;
  case ATTENTION_SIZE:
    made->attention.struct_size = (size_t)change->number;
    break;
  case GRADIENTS_SIZE:
    made->gradients.struct_size = (size_t)change->number;
    break;
  case ATTENTION_MISSING:
    call->attention = NULL;
    break;
  default:
    call->gradients = NULL;
  }
}

static arguments good_arguments(const problem *made) {
  const arguments call = {&made->attention, problem_view(made, OUT), problem_view(made, LSE), problem_view(made, DOUT),
                          &made->gradients};
  return call;
}

static swiftattn_status run(const arguments *call, int function) {
  return function == FORWARD
             ? swiftattn_attention_forward(call->attention, call->out, call->lse)
             : swiftattn_attention_backward(call->attention, call->out, call->lse, call->dout, call->gradients);
}

static void check_bad_call(int row, int function) {
  const bad_call *bad = &bad_calls[row];
  problem made, fresh;
  problem_make(&made, &good, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  problem_make(&fresh, &good, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  arguments call = good_arguments(&made), unedited = good_arguments(&fresh);
  for (const edit *change = bad->edits; change->what != NOTHING; change++) {
    (change->what < CALL ? edit_operand : edit_call)(&made, &call, change);
    if (change->what == ELEMENT)
      edit_operand(&fresh, &unedited, change);
  }
  const swiftattn_status status = run(&call, function);
  const char *message = swiftattn_last_error(), *called = function == FORWARD ? "forward" : "backward";
  CHECK(status == bad->status, "bad call %d (%s, %s): status %d instead of %d, message \"%s\"", row, bad->names, called,
        (int)status, (int)bad->status, message);
  CHECK(message_names(message, bad->names), "bad call %d (%s, %s): message \"%s\"", row, bad->names, called, message);
  for (int which = 0; which < OPERAND_COUNT; which++)
    CHECK(!memcmp(made.operands[which].memory, fresh.operands[which].memory, made.operands[which].bytes),
          "bad call %d (%s, %s): %s was written", row, bad->names, called, operand_names[which]);
  problem_free(&made);
  problem_free(&fresh);
}

/* The table proves something only when the call it edits is good. */
static void check_good_call(void) {
  problem made;
  problem_make(&made, &good, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  problem_solve(&made);
  const arguments call = good_arguments(&made);
  CHECK(run(&call, FORWARD) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(run(&call, BACKWARD) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  for (int which = OUT; which < OPERAND_COUNT; which++)
    problem_check(&made, (operand)which, "good call after the bad ones");
  problem_free(&made);
}

int main(void) {
  CHECK(swiftattn_last_error()[0] == '\0', "last_error before any failure: \"%s\"", swiftattn_last_error());
  for (int row = 0; row < (int)(sizeof bad_calls / sizeof *bad_calls); row++)
    for (int function = FORWARD; function <= BACKWARD; function++)
      if (bad_calls[row].calls & function)
        check_bad_call(row, function);
  check_good_call();
  return check_result("test_errors");
}
