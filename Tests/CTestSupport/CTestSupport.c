#define _GNU_SOURCE /* the affinity functions */
#include "CTestSupport.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int32_t sa_test_fork(void) { return fork(); }

void sa_test_exit(int32_t code) { _exit(code); }

int32_t sa_test_wait(int32_t child, int32_t seconds) {
  const struct timespec millisecond = {0, 1000000};
  int status = 0;
  pid_t ended = waitpid(child, &status, WNOHANG);
  for (int waited = 0; ended == 0 && waited < seconds * 1000; waited++) {
    nanosleep(&millisecond, NULL);
    ended = waitpid(child, &status, WNOHANG);
  }
  if (ended == 0) {
    kill(child, SIGKILL);
    ended = waitpid(child, &status, 0);
  }
  if (ended != child) {
    return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int32_t sa_test_keep_one_processor(void) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return -1;
  }
  const int32_t count = CPU_COUNT(&allowed);
  int kept = 0;
  while (!CPU_ISSET(kept, &allowed)) {
    kept++;
  }
  CPU_ZERO(&allowed);
  CPU_SET(kept, &allowed);
  return sched_setaffinity(0, sizeof allowed, &allowed) == 0 ? count : -1;
}

int32_t sa_test_under_thread_sanitizer(void) {
#if defined(__SANITIZE_THREAD__)
  return 1;
#elif defined(__has_feature)
  return __has_feature(thread_sanitizer);
#else
  return 0;
#endif
}
