/* The caller's floating-point environment: whatever rounding mode, denormal mode, trap masks and raised flags a call
 * finds, it leaves them so, its results are the same bits as in the default environment, and denormals are kept. */
#define _POSIX_C_SOURCE 200809L
#include "layer_problem.h"
#include "problem.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

/* Everything that the processor has of the environment, flags included. */
#if defined(__x86_64__)
typedef struct environment {
  unsigned sse;              /* MXCSR */
  unsigned short x87, flags; /* its control and status word */
} environment;

static environment environment_get(void) {
  environment now = {_mm_getcsr(), 0, 0};
  __asm__ volatile("fnstcw %0\n\tfnstsw %1" : "=m"(now.x87), "=m"(now.flags));
  return now;
}

static void environment_set(environment wanted) {
  __asm__ volatile("fnclex\n\tfldcw %0" : : "m"(wanted.x87));
  _mm_setcsr(wanted.sse);
}

static int environment_equal(environment one, environment other) {
  return one.sse == other.sse && one.x87 == other.x87 && one.flags == other.flags;
}

/* Bits of MXCSR. */
enum { RAISED = 0x3F, DAZ = 0x40, MASKS = 0x1F80, DOWN = 0x2000, UP = 0x4000, TO_ZERO = 0x6000, FTZ = 0x8000 };
enum { X87_DEFAULT = 0x37F, X87_SINGLE_DOWN = 0x47F };

static const environment environments[] = {
    {MASKS, X87_DEFAULT, 0},
    {MASKS | RAISED, X87_DEFAULT, 0},
    {MASKS | FTZ, X87_DEFAULT, 0},
    {MASKS | DAZ, X87_DEFAULT, 0},
    {MASKS | DOWN, X87_DEFAULT, 0},
    {MASKS | UP, X87_SINGLE_DOWN, 0},
    {MASKS | TO_ZERO | FTZ | DAZ | RAISED, X87_SINGLE_DOWN, 0},
    /* Nothing is masked: an inexact result in this environment would end the process. */
    {0, X87_DEFAULT, 0},
    {UP | FTZ | DAZ, X87_DEFAULT, 0},
};
#elif defined(__aarch64__)
typedef struct environment {
  uint64_t control, status; /* FPCR and FPSR */
} environment;

static environment environment_get(void) {
  environment now;
  __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(now.control), "=r"(now.status));
  return now;
}

static void environment_set(environment wanted) {
  __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(wanted.control), "r"(wanted.status));
}

static int environment_equal(environment one, environment other) {
  return one.control == other.control && one.status == other.status;
}

enum { RAISED = 0x9F, UP = 1 << 22, DOWN = 2 << 22, TO_ZERO = 3 << 22, FLUSH = 1 << 24 };

static const environment environments[] = {
    {0, 0}, {0, RAISED}, {FLUSH, 0}, {DOWN, 0}, {UP, 0}, {TO_ZERO | FLUSH, RAISED},
};
#else
#error "this processor's floating-point environment is not known to this test"
#endif
enum { ENVIRONMENT_COUNT = sizeof environments / sizeof *environments };

/* A call with all that it may write. */
typedef struct trial {
  const char *name;
  const void *made;
  array *outputs;
  int count;
  swiftattn_status (*run)(const void *made);
  unsigned char **before, **expected;
} trial;

static swiftattn_status run_attention(const void *made) {
  const problem *call = (const problem *)made;
  const swiftattn_status status = problem_forward(call);
  return status == SWIFTATTN_OK ? problem_backward(call) : status;
}

static swiftattn_status run_layer(const void *made) {
  const layer_problem *call = (const layer_problem *)made;
  swiftattn_status status = swiftattn_mha_pack(&call->parameters, call->packed, call->packed_bytes);
  if (status == SWIFTATTN_OK)
    status = layer_forward(call);
  return status == SWIFTATTN_OK ? layer_backward(call) : status;
}

static unsigned char **outputs_copy(const trial *of) {
  unsigned char **copies = (unsigned char **)calloc((size_t)of->count, sizeof *copies);
  for (int each = 0; each < of->count; each++)
    if (of->outputs[each].memory) {
      copies[each] = (unsigned char *)malloc(of->outputs[each].bytes + 1);
      memcpy(copies[each], of->outputs[each].memory, of->outputs[each].bytes);
    }
  return copies;
}

static void copies_free(unsigned char **copies, int count) {
  for (int each = 0; each < count; each++)
    free(copies[each]);
  free((void *)copies);
}

/* Runs in a given environment, from outputs as they were at first; counts the outputs that differ from what is
 * expected. */
static int run_in(const trial *tried, environment given, const char *when) {
  for (int each = 0; each < tried->count; each++)
    if (tried->before[each])
      memcpy(tried->outputs[each].memory, tried->before[each], tried->outputs[each].bytes);
  const environment usual = environment_get();
  environment_set(given);
  const swiftattn_status status = tried->run(tried->made);
  const environment after = environment_get();
  environment_set(usual);
  CHECK(status == SWIFTATTN_OK, "%s: %s: %s", tried->name, when, swiftattn_last_error());
  CHECK(environment_equal(after, given), "%s: %s: the environment was changed", tried->name, when);
  int different = 0;
  for (int each = 0; tried->expected && each < tried->count; each++)
    different += tried->expected[each] &&
                 memcmp(tried->expected[each], tried->outputs[each].memory, tried->outputs[each].bytes) != 0;
  return different;
}

/* The results in the default environment, computed by one thread, and then in all by several: the workers are
 * first created for a caller in an environment that they must not compute in. */
static void check_trial(trial tried) {
  char when[64];
  tried.before = outputs_copy(&tried);
  CHECK(swiftattn_set_num_threads(1) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  run_in(&tried, environments[0], "default environment");
  tried.expected = outputs_copy(&tried);
  CHECK(swiftattn_set_num_threads(4) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  for (int each = ENVIRONMENT_COUNT - 1; each >= 0; each--) {
    snprintf(when, sizeof when, "environment %d", each);
    const int different = run_in(&tried, environments[each], when);
    CHECK(different == 0, "%s: %s: %d outputs differ", tried.name, when, different);
  }
  copies_free(tried.before, tried.count);
  copies_free(tried.expected, tried.count);
}

static double smallest_normal(int32_t dtype) { return dtype == SWIFTATTN_FLOAT32 ? 0x1p-126 : 0x1p-1022; }

/* Makes the first number of each row so small that what comes of it is denormal. */
static void shrink_first_column(const array *target) {
  const int64_t columns = target->view.shape[target->view.rank - 1];
  for (int64_t linear = 0; linear < tensor_count(&target->view); linear += columns)
    flat_set(&target->view, linear, flat_get(&target->view, linear) * smallest_normal(target->view.dtype) / 2);
}

/* Whether the first number of each row is denormal, bar a few that may have come out as zero. */
static void check_first_column(const array *target, const char *name) {
  const int64_t columns = target->view.shape[target->view.rank - 1];
  int64_t denormal = 0, other = 0;
  for (int64_t linear = 0; linear < tensor_count(&target->view); linear += columns) {
    const double number = fabs(flat_get(&target->view, linear));
    denormal += number > 0 && number < smallest_normal(target->view.dtype);
    other += number >= smallest_normal(target->view.dtype);
  }
  CHECK(denormal > 0 && other == 0, "%s: %lld denormals in the first column, %lld larger numbers", name,
        (long long)denormal, (long long)other);
}

/* One that stays on the calling thread and one that is shared; depths whose scale is not a power of two. */
static const problem_spec specs[] = {
    {"small", 4, 1, 2, 1, 9, 17, 7, 24, SWIFTATTN_CAUSAL_BOTTOM_RIGHT, WITH_BIAS},
    {"shared by threads", 4, 2, 4, 2, 80, 90, 40, 24, SWIFTATTN_CAUSAL_NONE, WITH_MASK | WITH_SHARED_BIAS},
    {"given scale", 3, 1, 2, 2, 33, 65, 16, 16, SWIFTATTN_CAUSAL_NONE, WITH_SCALE},
};

static void check_attention(int32_t dtype) {
  for (size_t each = 0; each < sizeof specs / sizeof *specs; each++) {
    problem made;
    problem_make(&made, &specs[each], dtype, LAYOUT_DENSE);
    shrink_first_column(&made.operands[VALUE]);
    shrink_first_column(&made.operands[DOUT]);
    check_trial((trial){specs[each].name, &made, &made.operands[OUT], OPERAND_COUNT - OUT, run_attention, NULL, NULL});
    check_first_column(&made.operands[OUT], specs[each].name);
    check_first_column(&made.operands[DVALUE], specs[each].name);
    problem_free(&made);
  }
}

static const swiftattn_rope rope = {sizeof rope, 0, 10000, 1, 0, 3, 3};
static const layer_spec layer_specs[] = {
    {"layer", 3, 2, 4, 2, 50, 50, 12, 12, 40, 40, 40, 40, &rope, SWIFTATTN_CAUSAL_TOP_LEFT,
     LAYER_HAS_BIASES | LAYER_HAS_TOKEN | LAYER_HAS_ZERO},
    /* Nothing but values times weights adds to the output: where either are denormal, so is that. */
    {"layer of denormals", 3, 2, 2, 2, 33, 65, 7, 8, 20, 24, 28, 20, NULL, SWIFTATTN_CAUSAL_NONE,
     LAYER_HAS_KEY | LAYER_HAS_VALUE},
};

/* With numbers of an operand that are denormal, if it is not negative. */
static void check_layer(int32_t dtype, const layer_spec *spec, int denormal) {
  layer_problem made;
  layer_make(&made, spec, dtype, LAYOUT_DENSE);
  if (denormal >= 0)
    array_scale(&made.operands[denormal], smallest_normal(dtype) / 64);
  layer_pack(&made);
  layer_use_packed(&made, 1);
  check_trial(
      (trial){spec->name, &made, &made.operands[LAYER_OUT], LAYER_OPERAND_COUNT - LAYER_OUT, run_layer, NULL, NULL});
  if (denormal >= 0)
    check_first_column(&made.operands[LAYER_OUT], spec->name);
  layer_free(&made);
}

/* The functions that compute nothing, and calls that fail. */
static void check_other_functions(void) {
  problem made;
  problem_make(&made, &specs[0], SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  made.attention.causal = 99;
  const environment usual = environment_get();
  for (int each = 0; each < ENVIRONMENT_COUNT; each++) {
    environment_set(environments[each]);
    const swiftattn_status status = run_attention(&made);
    swiftattn_set_num_threads(0);
    swiftattn_get_num_threads();
    swiftattn_set_isa(NULL);
    swiftattn_get_isa();
    swiftattn_kernel_id(0);
    const environment after = environment_get();
    environment_set(usual);
    CHECK(status == SWIFTATTN_INVALID_ARGUMENT, "status %d", (int)status);
    CHECK(environment_equal(after, environments[each]), "environment %d was changed", each);
  }
  problem_free(&made);
}

int main(void) {
  check_other_functions();
  for (int32_t tier = 0; swiftattn_isa_name(tier); tier++) {
    if (!swiftattn_isa_supported(swiftattn_isa_name(tier)))
      continue;
    CHECK(swiftattn_set_isa(swiftattn_isa_name(tier)) == SWIFTATTN_OK, "%s", swiftattn_last_error());
    for (int32_t dtype = SWIFTATTN_FLOAT32; dtype <= SWIFTATTN_FLOAT64; dtype++) {
      check_attention(dtype);
      check_layer(dtype, &layer_specs[0], -1);
      check_layer(dtype, &layer_specs[1], LAYER_VALUE);
      check_layer(dtype, &layer_specs[1], OUT_WEIGHT);
    }
  }
  return check_result("test_float_environment");
}
