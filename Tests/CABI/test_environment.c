/* The environment variables SWIFTATTN_ISA and SWIFTATTN_NUM_THREADS, each setting in a process of its own: the library
 * is first called after a fork. */
#define _POSIX_C_SOURCE 200809L
#include "problem.h"

#include <sys/wait.h>
#include <unistd.h>

typedef struct setting {
  const char *variable, *content;
  void (*check)(const char *content);
} setting;

static const problem_spec small = {"small", 3, 1, 2, 1, 9, 17, 8, 8, SWIFTATTN_CAUSAL_NONE, 0};

static void check_isa(const char *content) {
  if (!swiftattn_isa_supported(content)) {
    CHECK(!swiftattn_get_isa(), "SWIFTATTN_ISA=%s gives %s on a processor without it", content, swiftattn_get_isa());
    return;
  }
  CHECK(swiftattn_get_isa() && !strcmp(swiftattn_get_isa(), content), "SWIFTATTN_ISA=%s gives %s", content,
        swiftattn_get_isa() ? swiftattn_get_isa() : "none");
  CHECK(swiftattn_set_isa("baseline") == SWIFTATTN_OK && !strcmp(swiftattn_get_isa(), "baseline"),
        "SWIFTATTN_ISA=%s outlives set_isa", content);
}

static void check_unknown_isa(const char *content) {
  problem made;
  problem_make(&made, &small, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  problem_solve(&made);
  CHECK(!swiftattn_get_isa(), "SWIFTATTN_ISA=%s gives %s", content, swiftattn_get_isa());
  CHECK(!swiftattn_kernel_id(0), "SWIFTATTN_ISA=%s has the kernel %s", content, swiftattn_kernel_id(0));
  CHECK(problem_forward(&made) == SWIFTATTN_UNSUPPORTED_ISA, "forward with SWIFTATTN_ISA=%s", content);
  CHECK(strstr(swiftattn_last_error(), "SWIFTATTN_ISA"), "message \"%s\"", swiftattn_last_error());
  CHECK(problem_backward(&made) == SWIFTATTN_UNSUPPORTED_ISA, "backward with SWIFTATTN_ISA=%s", content);
  CHECK(swiftattn_set_isa("baseline") == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(problem_forward(&made) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  problem_check(&made, OUT, "after set_isa");
  problem_free(&made);
}

static void check_num_threads(const char *content) {
  CHECK(swiftattn_get_num_threads() == atoi(content), "SWIFTATTN_NUM_THREADS=%s gives %d", content,
        (int)swiftattn_get_num_threads());
}

static void check_malformed_num_threads(const char *content) {
  CHECK(swiftattn_get_num_threads() >= 1, "SWIFTATTN_NUM_THREADS=%s gives %d", content,
        (int)swiftattn_get_num_threads());
}

static const setting settings[] = {
    {"SWIFTATTN_ISA", "baseline", check_isa},
    {"SWIFTATTN_ISA", "avx2", check_isa},
    {"SWIFTATTN_ISA", "avx512", check_isa},
    {"SWIFTATTN_ISA", "itanium", check_unknown_isa},
    {"SWIFTATTN_ISA", "AVX2", check_unknown_isa},
    {"SWIFTATTN_NUM_THREADS", "1", check_num_threads},
    {"SWIFTATTN_NUM_THREADS", "3", check_num_threads},
    {"SWIFTATTN_NUM_THREADS", "0", check_malformed_num_threads},
    {"SWIFTATTN_NUM_THREADS", "many", check_malformed_num_threads},
    {"SWIFTATTN_NUM_THREADS", "99999999999999999999", check_malformed_num_threads},
};

int main(void) {
  unsetenv("SWIFTATTN_ISA");
  unsetenv("SWIFTATTN_NUM_THREADS");
  for (size_t each = 0; each < sizeof settings / sizeof *settings; each++) {
    const setting *tried = &settings[each];
    const pid_t child = fork();
    if (child == 0) {
      setenv(tried->variable, tried->content, 1);
      tried->check(tried->content);
      _exit(checks_failed || !checks_made);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child, "fork failed");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s=%s: the process ended with status %d", tried->variable,
          tried->content, status);
  }
  return check_result("test_environment");
}
