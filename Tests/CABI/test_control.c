/* Version, threads, tiers, kernel ids and the interrupt callback. Run as `test_control <tier>`, it also checks that
 * this is the tier in use by default. */
#define _POSIX_C_SOURCE 200809L
#include "layer_problem.h"
#include "problem.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

static const problem_spec small = {"small", 4, 2, 4, 2, 33, 65, 16, 24, SWIFTATTN_CAUSAL_NONE, WITH_BIAS | WITH_MASK};
/* Long enough, at 8.6 GFLOP, for any processor to see the callback several times. */
static const problem_spec lengthy = {"lengthy", 3, 1, 8, 8, 2048, 2048, 64, 64, SWIFTATTN_CAUSAL_NONE, 0};

static const swiftattn_rope rope = {sizeof rope, 0, 10000, 1, 0, 0, 0};
static const layer_spec small_layer = {"small layer",
                                       3,
                                       2,
                                       4,
                                       2,
                                       33,
                                       33,
                                       16,
                                       24,
                                       40,
                                       40,
                                       40,
                                       40,
                                       &rope,
                                       SWIFTATTN_CAUSAL_NONE,
                                       LAYER_HAS_BIASES | LAYER_HAS_MASK};
static const layer_spec lengthy_layer = {
    "lengthy layer", 3, 1, 8, 8, 2048, 2048, 64, 64, 512, 512, 512, 512, &rope, SWIFTATTN_CAUSAL_NONE,
    LAYER_HAS_BIASES};

static void check_small_layer(const char *name) {
  layer_problem made;
  layer_make(&made, &small_layer, SWIFTATTN_FLOAT64, LAYOUT_DENSE);
  layer_solve(&made);
  CHECK(layer_forward(&made) == SWIFTATTN_OK, "%s: %s", name, swiftattn_last_error());
  CHECK(layer_backward(&made) == SWIFTATTN_OK, "%s: %s", name, swiftattn_last_error());
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++)
    if (which != LAYER_AVERAGE)
      layer_check(&made, which, name);
  layer_free(&made);
}

static void check_small(const char *name) {
  problem made;
  problem_make(&made, &small, SWIFTATTN_FLOAT64, LAYOUT_DENSE);
  problem_solve(&made);
  CHECK(problem_forward(&made) == SWIFTATTN_OK, "%s: %s", name, swiftattn_last_error());
  CHECK(problem_backward(&made) == SWIFTATTN_OK, "%s: %s", name, swiftattn_last_error());
  for (int which = OUT; which < OPERAND_COUNT; which++)
    problem_check(&made, (operand)which, name);
  problem_free(&made);
  check_small_layer(name);
}

static void check_version(void) {
  char version[64];
  snprintf(version, sizeof version, "%d.%d.%d", SWIFTATTN_VERSION_MAJOR, SWIFTATTN_VERSION_MINOR,
           SWIFTATTN_VERSION_PATCH);
  CHECK(!strcmp(version, swiftattn_version()), "%s, but the header says %s", swiftattn_version(), version);
}

static void check_threads(void) {
  const int32_t usual = swiftattn_get_num_threads();
  CHECK(usual >= 1, "%d threads by default", (int)usual);
  const int32_t good[] = {1, 2, 5, 1024}, bad[] = {-1, 1025, INT32_MIN, INT32_MAX};
  for (size_t each = 0; each < sizeof good / sizeof *good; each++) {
    CHECK(swiftattn_set_num_threads(good[each]) == SWIFTATTN_OK, "%s", swiftattn_last_error());
    CHECK(swiftattn_get_num_threads() == good[each], "%d threads were set", (int)good[each]);
    check_small("after set_num_threads");
  }
  for (size_t each = 0; each < sizeof bad / sizeof *bad; each++) {
    CHECK(swiftattn_set_num_threads(bad[each]) == SWIFTATTN_INVALID_ARGUMENT, "%d threads", (int)bad[each]);
    CHECK(strstr(swiftattn_last_error(), "threads"), "message \"%s\"", swiftattn_last_error());
    CHECK(swiftattn_get_num_threads() == 1024, "a bad count changed the number of threads");
  }
  CHECK(swiftattn_set_num_threads(0) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(swiftattn_get_num_threads() == usual, "0 does not return to the default");
}

/* "dtype.operation.tile.isa" of a dtype that there is and this tier; returns 1 for f32, 2 for f64. */
static int check_kernel_id(const char *id, const char *isa) {
  char dtype[16], operation[32], tile[32], tier[32], rest[2];
  const int parts = sscanf(id, "%15[^.].%31[^.].%31[^.].%31[^.]%1s", dtype, operation, tile, tier, rest);
  CHECK(parts == 4, "kernel id \"%s\" has not the form dtype.operation.tile.isa", id);
  CHECK(parts == 4 && !strcmp(tier, isa), "kernel id \"%s\" in tier %s", id, isa);
  const int f32 = !strcmp(dtype, "f32"), f64 = !strcmp(dtype, "f64");
  CHECK(f32 || f64, "kernel id \"%s\" has no known dtype", id);
  return f32 ? 1 : 2;
}

static void check_tiers(const char *usual) {
  int baseline = 0;
  for (int32_t tier = 0; swiftattn_isa_name(tier); tier++) {
    const char *isa = swiftattn_isa_name(tier);
    baseline |= !strcmp(isa, "baseline");
    if (!swiftattn_isa_supported(isa)) {
      CHECK(swiftattn_set_isa(isa) == SWIFTATTN_UNSUPPORTED_ISA, "%s is not supported, but chosen", isa);
      CHECK(strstr(swiftattn_last_error(), isa), "message \"%s\"", swiftattn_last_error());
      CHECK(!strcmp(swiftattn_get_isa(), usual), "an unsupported tier changed the one in use");
      continue;
    }
    CHECK(swiftattn_set_isa(isa) == SWIFTATTN_OK, "%s: %s", isa, swiftattn_last_error());
    CHECK(!strcmp(swiftattn_get_isa(), isa), "%s was set, %s is in use", isa, swiftattn_get_isa());
    check_small(isa);
    int dtypes = 0;
    for (int32_t kernel = 0; swiftattn_kernel_id(kernel); kernel++)
      dtypes |= check_kernel_id(swiftattn_kernel_id(kernel), isa);
    CHECK(dtypes == 3, "%s: kernels for f32 and f64 are not both there", isa);
    CHECK(swiftattn_set_isa(NULL) == SWIFTATTN_OK, "%s", swiftattn_last_error());
    CHECK(!strcmp(swiftattn_get_isa(), usual), "NULL does not return to the default tier");
  }
  CHECK(baseline && swiftattn_isa_supported("baseline"), "there is no baseline tier");
  CHECK(!swiftattn_isa_name(-1) && !swiftattn_isa_name(INT32_MAX), "tiers outside the list");
  CHECK(!swiftattn_kernel_id(-1) && !swiftattn_kernel_id(INT32_MAX), "kernels outside the list");
  const char *const unknown[] = {"", "sse9", "AVX2", "avx2 ", "baselin"};
  for (size_t each = 0; each < sizeof unknown / sizeof *unknown; each++) {
    CHECK(!swiftattn_isa_supported(unknown[each]), "\"%s\" is supported", unknown[each]);
    CHECK(swiftattn_set_isa(unknown[each]) == SWIFTATTN_UNSUPPORTED_ISA, "\"%s\" can be chosen", unknown[each]);
    CHECK(strstr(swiftattn_last_error(), unknown[each]), "message \"%s\"", swiftattn_last_error());
  }
  CHECK(!swiftattn_isa_supported(NULL), "NULL is supported");
}

typedef struct interruption {
  pthread_t caller;
  int calls, answer_at, foreign;
} interruption;

static int32_t interrupted(void *context) {
  interruption *seen = (interruption *)context;
  seen->foreign |= !pthread_equal(seen->caller, pthread_self());
  return ++seen->calls == seen->answer_at;
}

/* What came of a call whose callback answered nonzero the third time. */
static void check_interrupted(swiftattn_status status, const interruption *seen, const char *name) {
  CHECK(status == SWIFTATTN_INTERRUPTED, "%s: status %d", name, (int)status);
  CHECK(seen->calls == 3, "%s: the callback was called %d times, and answered nonzero the third time", name,
        seen->calls);
  CHECK(!seen->foreign, "%s: the callback was called on another thread", name);
  CHECK(swiftattn_last_error()[0], "%s: no message", name);
  check_small("after an interruption");
}

static void check_interruption(swiftattn_status (*call)(const problem *), const char *name) {
  problem made;
  interruption seen = {pthread_self(), 0, 3, 0};
  problem_make(&made, &lengthy, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  made.attention.interrupted = interrupted;
  made.attention.interrupted_context = &seen;
  array_fill(&made.operands[OUT], 0);
  array_fill(&made.operands[LSE], 10);
  check_interrupted(call(&made), &seen, name);
  problem_free(&made);
}

static void check_layer_interruption(swiftattn_status (*call)(const layer_problem *), const char *name) {
  layer_problem made;
  interruption seen = {pthread_self(), 0, 3, 0};
  layer_make(&made, &lengthy_layer, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  made.mha.interrupted = interrupted;
  made.mha.interrupted_context = &seen;
  memset(made.saved, 0, made.saved_bytes);
  check_interrupted(call(&made), &seen, name);
  layer_free(&made);
}

/* The callback's context: it says stop when some time has passed. */
typedef struct patience {
  struct timespec start;
  int calls;
} patience;

static int32_t out_of_patience(void *context) {
  patience *self = (patience *)context;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  self->calls++;
  return (double)(now.tv_sec - self->start.tv_sec) + (double)(now.tv_nsec - self->start.tv_nsec) * 1e-9 > 0.3;
}

/* A call that waits for another thread, which has nearly all of the work, heeds the callback as well. Keys that share
 * their memory are as many as one likes: of one sequence some, of the other more than there is time for. */
static void check_interruption_of_waiting(int longer) {
  static float numbers[2 * 16], computed[2 * 16];
  const int64_t most = INT64_C(1) << 40;
  int64_t lengths[2] = {1 << 20, 1 << 20};
  lengths[longer] = most;
  const swiftattn_tensor query = {numbers, SWIFTATTN_FLOAT32, 4, {2, 1, 1, 16}, {64, 64, 64, 4}};
  const swiftattn_tensor key = {numbers, SWIFTATTN_FLOAT32, 4, {2, 1, most, 16}, {64, 64, 0, 4}};
  const swiftattn_tensor out = {computed, SWIFTATTN_FLOAT32, 4, {2, 1, 1, 16}, {64, 64, 64, 4}};
  const swiftattn_tensor key_lengths = {lengths, SWIFTATTN_INT64, 1, {2}, {8}};
  patience seen = {{0, 0}, 0};
  swiftattn_attention call = {.struct_size = sizeof call, .query = &query, .key = &key, .value = &key};
  call.key_lengths = &key_lengths;
  call.interrupted = out_of_patience;
  call.interrupted_context = &seen;
  clock_gettime(CLOCK_MONOTONIC, &seen.start);
  CHECK(swiftattn_set_num_threads(2) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  const swiftattn_status status = swiftattn_attention_forward(&call, &out, NULL);
  CHECK(status == SWIFTATTN_INTERRUPTED, "sequence %d is longer: status %d", longer, (int)status);
  CHECK(seen.calls > 1, "sequence %d is longer: the callback was called %d times", longer, seen.calls);
  CHECK(swiftattn_set_num_threads(0) == SWIFTATTN_OK, "%s", swiftattn_last_error());
}

/* A callback that never asks to stop changes nothing. */
static void check_patience(void) {
  problem made;
  interruption seen = {pthread_self(), 0, -1, 0};
  problem_make(&made, &small, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  problem_solve(&made);
  made.attention.interrupted = interrupted;
  made.attention.interrupted_context = &seen;
  CHECK(problem_forward(&made) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(problem_backward(&made) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  for (int which = OUT; which < OPERAND_COUNT; which++)
    problem_check(&made, (operand)which, "with a callback");
  problem_free(&made);
}

int main(int count, char **arguments) {
  char usual[32] = "";
  if (swiftattn_get_isa())
    snprintf(usual, sizeof usual, "%s", swiftattn_get_isa());
  CHECK(usual[0], "no tier is in use");
  CHECK(count < 2 || !strcmp(usual, arguments[1]), "the tier in use is %s, expected was %s", usual, arguments[1]);
  printf("test_control: the tier in use is %s\n", usual);
  check_version();
  check_threads();
  check_tiers(usual);
  check_interruption(problem_forward, "forward");
  check_interruption(problem_backward, "backward");
  check_layer_interruption(layer_forward, "forward of a layer");
  check_layer_interruption(layer_backward, "backward of a layer");
  check_patience();
  alarm(60); /* what cannot be interrupted would not end */
  check_interruption_of_waiting(0);
  check_interruption_of_waiting(1);
  return check_result("test_control");
}
