/* The library works before and after a fork, in parent and child; its threads do not survive into the child. */
#define _POSIX_C_SOURCE 200809L
#include "problem.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
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

static atomic_int stop_calling, failed_calls;

/* Another thread of the parent, which is inside a call at most moments. */
static void *keep_calling(void *argument) {
  problem made;
  problem_make(&made, &spec, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  while (!atomic_load(&stop_calling))
    atomic_fetch_add(&failed_calls, problem_forward(&made) != SWIFTATTN_OK);
  problem_free(&made);
  return argument;
}

/* The pool may be anywhere in its work when these children are made. */
static void check_children_of_busy_parent(problem *made, const problem *alone) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, keep_calling, NULL) == 0, "no thread");
  for (int i = 0; i < 20; i++)
    check_child(made, alone, 0);
  atomic_store(&stop_calling, 1);
  pthread_join(thread, NULL);
  CHECK(atomic_load(&failed_calls) == 0, "%d calls failed beside a fork", atomic_load(&failed_calls));
}

/* Signals are for the caller's threads: every other thread of this process blocks SIGINT (bit 1 of SigBlk). */
static void check_workers_block_signals(void) {
  DIR *tasks = opendir("/proc/self/task");
  int workers = 0;
  for (struct dirent *task; tasks && (task = readdir(tasks));) {
    const long id = strtol(task->d_name, NULL, 10);
    if (id == 0 || id == getpid())
      continue;
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/self/task/%ld/status", id);
    FILE *status = fopen(path, "r");
    while (status && fgets(line, sizeof line, status))
      if (!strncmp(line, "SigBlk:", 7)) {
        CHECK(strtoull(line + 7, NULL, 16) & 2, "worker %ld takes SIGINT", id);
        workers++;
      }
    if (status)
      fclose(status);
  }
  if (tasks)
    closedir(tasks);
  CHECK(workers > 0, "there is no worker to look at");
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
  check_workers_block_signals();
  check_child(&made, &alone, 1);
  check_children_of_busy_parent(&made, &alone);
  check_call(&made, &alone, "parent after the fork");
  problem_free(&made);
  problem_free(&alone);
  return check_result("test_fork");
}
