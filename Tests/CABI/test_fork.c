/* The library works before and after a fork in whatever state, in parent and child; its threads do not survive into the
 * child. Run as `test_fork [rounds]`: how many forks there are of each kind. */
#define _POSIX_C_SOURCE 200809L
#include "mixed_calls.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

static int rounds = 15;
static mixed_calls alone; /* what one thread computed */

static int call_agrees(const mixed_calls *made, int index) {
  const swiftattn_status status = mixed_run(made, index);
  if (status == SWIFTATTN_OK && mixed_same(made, &alone, index))
    return 1;
  fprintf(stderr, "%s: status %d\n", mixed_name(index), (int)status);
  return 0;
}

static int has_workers(void) {
  DIR *tasks = opendir("/proc/self/task");
  int entries = 0;
  while (tasks && readdir(tasks))
    entries++;
  if (tasks)
    closedir(tasks);
  return entries > 3; /* the main thread's, and those of the directory and its parent */
}

/* Makes calls in a child process, `generations` more in a child of the child, and so on. The child has workers of its
 * own after them: it is no worse off than another process. */
static int child_agrees(const mixed_calls *made, int round, int generations) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(300); /* a deadlock is a failure, not a hang */
    int agrees = call_agrees(made, round % MIXED_COUNT);
    if (generations)
      agrees &= child_agrees(made, round + 1, generations - 1);
    _exit(!(agrees && call_agrees(made, MIXED_LARGE) && has_workers()));
  }
  int status = -1;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Between two calls, in several generations; the parent's own calls go on. */
static void check_idle_parent(const mixed_calls *made, const char *when) {
  for (int round = 0; round < rounds; round++) {
    CHECK(child_agrees(made, round, round % 4), "%s, round %d: a child failed", when, round);
    CHECK(call_agrees(made, round % MIXED_COUNT), "%s, round %d: the parent failed", when, round);
  }
}

typedef struct companion {
  pthread_t thread;
  mixed_calls calls;
  int failures;
} companion;

enum { CALLERS = 2, FORKERS = 2 };

static companion companions[CALLERS + FORKERS];
static atomic_int stop_calling;

/* Inside a call at most moments; the pool grows now and then. */
static void *keep_calling(void *context) {
  companion *self = (companion *)context;
  for (int round = 0; !atomic_load(&stop_calling); round++) {
    swiftattn_set_num_threads(2 + round % 7);
    self->failures += !call_agrees(&self->calls, round % MIXED_COUNT);
  }
  return NULL;
}

static void *keep_forking(void *context) {
  companion *self = (companion *)context;
  for (int round = 0; round < rounds; round++)
    self->failures += !child_agrees(&self->calls, round, round % 8 == 7);
  return NULL;
}

/* Threads that fork beside others that call: the pool may be anywhere in its work. */
static void check_busy_parent(void) {
  for (int each = 0; each < CALLERS + FORKERS; each++) {
    mixed_make(&companions[each].calls);
    void *(*life)(void *) = each < CALLERS ? keep_calling : keep_forking;
    CHECK(pthread_create(&companions[each].thread, NULL, life, &companions[each]) == 0, "no thread");
  }
  for (int each = CALLERS + FORKERS - 1; each >= 0; each--) {
    if (each < CALLERS)
      atomic_store(&stop_calling, 1);
    pthread_join(companions[each].thread, NULL);
    CHECK(companions[each].failures == 0, "%d failures of thread %d beside forks", companions[each].failures, each);
    mixed_free(&companions[each].calls);
  }
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

int main(int count, char **arguments) {
  static mixed_calls made;
  if (count > 1)
    rounds = atoi(arguments[1]);
  alarm(3600);
  mixed_make(&made);
  mixed_make(&alone);
  CHECK(swiftattn_set_num_threads(1) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  for (int index = 0; index < MIXED_COUNT; index++)
    CHECK(mixed_run(&alone, index) == SWIFTATTN_OK, "%s: %s", mixed_name(index), swiftattn_last_error());
  CHECK(swiftattn_set_num_threads(4) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(child_agrees(&made, 0, 1), "before the first call of several threads: a child failed");
  check_idle_parent(&made, "idle");
  check_workers_block_signals();
  check_busy_parent();
  CHECK(swiftattn_set_num_threads(64) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  check_idle_parent(&made, "64 threads");
  mixed_free(&made);
  mixed_free(&alone);
  return check_result("test_fork");
}
