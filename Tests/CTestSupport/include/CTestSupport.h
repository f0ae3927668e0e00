/* What tests need of the operating system and Swift withholds. */
#ifndef CTESTSUPPORT_H
#define CTESTSUPPORT_H

#include <stdint.h>

/* Lets the calling thread run on one of its processors only: how many it had, or -1 if that failed. */
int32_t sa_test_keep_one_processor(void);

#endif /* CTESTSUPPORT_H */
