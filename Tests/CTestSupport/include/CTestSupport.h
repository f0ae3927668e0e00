/* What tests need of the operating system and Swift withholds. */
#ifndef CTESTSUPPORT_H
#define CTESTSUPPORT_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* fork(), which Swift marks unavailable. The child is ended by SIGALRM if it has not ended itself after `seconds`, so that
 * a deadlock in it fails the test. */
static inline int32_t sa_test_fork(uint32_t seconds) {
  pid_t child = fork();
  if (child == 0) {
    alarm(seconds);
  }
  return child;
}

/* Ends the process at once with this exit code: no exit handlers, which belong to the test runner. */
static inline void sa_test_exit(int32_t code) { _exit(code); }

/* Waits for the child to end: its exit code, or 128 + the signal that ended it; -1 if it is no child of ours. */
static inline int32_t sa_test_wait(int32_t child) {
  int status;
  if (waitpid(child, &status, 0) != child) {
    return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Lets the calling thread run on one of its processors only: how many it had, or -1 if that failed. */
int32_t sa_test_keep_one_processor(void);

#endif /* CTESTSUPPORT_H */
