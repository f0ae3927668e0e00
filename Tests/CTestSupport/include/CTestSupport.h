/* What tests need of the operating system and Swift withholds. */
#ifndef CTESTSUPPORT_H
#define CTESTSUPPORT_H

#include <stdint.h>

/* fork(), which Swift marks unavailable: 0 in the child, else its process id. */
int32_t sa_test_fork(void);

/* Ends the process at once with this exit code, without the exit handlers, which belong to the test runner. */
void sa_test_exit(int32_t code);

/* Waits for the child to end and returns its exit code, or 128 + the signal that ended it; after `seconds` it is
 * killed, so that a deadlock in the child is a failure. -1 if it is no child of ours. */
int32_t sa_test_wait(int32_t child, int32_t seconds);

/* Lets the calling thread run on one of its processors only: how many it had, or -1 if that failed. */
int32_t sa_test_keep_one_processor(void);

/* 1 in a build with ThreadSanitizer. */
int32_t sa_test_under_thread_sanitizer(void);

#endif /* CTESTSUPPORT_H */
