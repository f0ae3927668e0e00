/* CHECK prints what failed and counts on; the program's exit status is check_result(). */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>

static int checks_made, checks_failed;

/* CHECK(condition, "printf format that says which case", ...) */
#define CHECK(condition, ...)                                                                                          \
  do {                                                                                                                 \
    checks_made++;                                                                                                     \
    if (!(condition)) {                                                                                                \
      checks_failed++;                                                                                                 \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                                                  \
      fprintf(stderr, __VA_ARGS__);                                                                                    \
      fputc('\n', stderr);                                                                                             \
    }                                                                                                                  \
  } while (0)

static inline int check_result(const char *program) {
  printf("%s: %d checks, %d failed\n", program, checks_made, checks_failed);
  return checks_failed || !checks_made;
}

#endif /* CHECK_H */
