#define _GNU_SOURCE /* the affinity functions */
#include "CTestSupport.h"

#include <sched.h>

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
