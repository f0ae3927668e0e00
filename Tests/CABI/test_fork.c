/* The library works before and after a fork, in parent and child; its threads do not survive into the child. */
#define _POSIX_C_SOURCE 200809L
#include "problem.h"

#include <sys/wait.h>
#include <unistd.h>

static const problem_spec spec = {"fork", 4, 2, 8, 4, 300, 300, 32, 32, SWIFTATTN_CAUSAL_NONE, 0};

/* Computes anew with several threads and compares with what one thread computed, which is the same to the bit. */
static void check_call(problem *made, const problem *alone, const char *when) {
  for (int which = OUT; which < OPERAND_COUNT; which++)
    if (made->operands[which].memory)
      array_fill(&made->operands[which], 7);
  CHECK(problem_forward(made) == SWIFTATTN_OK, "%s: %s", when, swiftattn_last_error());
  CHECK(problem_backward(made) == SWIFTATTN_OK, "%s: %s", when, swiftattn_last_error());
  for (int which = OUT; which < OPERAND_COUNT; which++) {
    const array *expected = &alone->operands[which];
    CHECK(!expected->memory || !memcmp(made->operands[which].memory, expected->memory, expected->bytes),
          "%s: %s differs", when, operand_names[which]);
  }
}

/* Calls in a child process, and with `generations` more in a child of the child, and so on. */
static void check_child(problem *made, const problem *alone, int generations) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(120); /* a deadlock is a failure, not a hang */
    check_call(made, alone, "child");
    if (generations)
      check_child(made, alone, generations - 1);
    check_call(made, alone, "child, again");
    _exit(checks_failed != 0);
  }
  int status = -1;
  CHECK(child > 0 && waitpid(child, &status, 0) == child, "fork failed");
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with status %d", status);
}

int main(void) {
  problem made, alone;
  problem_make(&made, &spec, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  problem_make(&alone, &spec, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  CHECK(swiftattn_set_num_threads(1) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(problem_forward(&alone) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(problem_backward(&alone) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(swiftattn_set_num_threads(4) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  check_child(&made, &alone, 0);
  check_call(&made, &alone, "parent before the fork");
  check_child(&made, &alone, 1);
  check_call(&made, &alone, "parent after the fork");
  problem_free(&made);
  problem_free(&alone);
  return check_result("test_fork");
}
