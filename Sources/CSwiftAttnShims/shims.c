#include "swiftattn_threads.h"
#include "swiftattn_vectors.h"

__attribute__((visibility("hidden"))) char *sa_last_error_text(void) {
  static _Thread_local char text[sa_last_error_capacity];
  return text;
}
