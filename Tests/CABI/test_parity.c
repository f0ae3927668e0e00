/* Forward and backward against the reference: every case, in both dtypes, every layout and every tier of this
 * processor; and every alignment, to the bit. */
#define _POSIX_C_SOURCE 200809L
#include "problem.h"

static const problem_spec specs[] = {
    /* name, rank, batch, heads_q, heads_kv, length_q, length_k, depth, depth_v, causal, options */
    {"matrices", 2, 1, 1, 1, 17, 33, 16, 16, SWIFTATTN_CAUSAL_NONE, 0},
    {"matrices, all options", 2, 1, 1, 1, 19, 19, 7, 5, SWIFTATTN_CAUSAL_TOP_LEFT,
     WITH_MASK | WITH_BIAS | WITH_KEY_LENGTHS | WITH_QUERY_LENGTHS | WITH_SCALE},
    {"heads", 3, 1, 4, 4, 15, 47, 40, 24, SWIFTATTN_CAUSAL_NONE, 0},
    {"grouped heads", 3, 1, 6, 2, 23, 50, 16, 32, SWIFTATTN_CAUSAL_BOTTOM_RIGHT, 0},
    {"one key head, lengths", 3, 1, 4, 1, 9, 21, 8, 8, SWIFTATTN_CAUSAL_NONE, WITH_KEY_LENGTHS | WITH_QUERY_LENGTHS},
    {"batch", 4, 2, 2, 2, 97, 130, 32, 40, SWIFTATTN_CAUSAL_NONE, 0},
    {"top left, more queries", 4, 2, 2, 1, 70, 33, 32, 32, SWIFTATTN_CAUSAL_TOP_LEFT, 0},
    {"bottom right, more queries", 4, 2, 2, 1, 70, 33, 32, 32, SWIFTATTN_CAUSAL_BOTTOM_RIGHT, 0},
    {"decoding", 4, 2, 4, 2, 1, 200, 64, 64, SWIFTATTN_CAUSAL_BOTTOM_RIGHT, WITH_KEY_LENGTHS},
    {"mask", 4, 2, 2, 2, 31, 29, 20, 12, SWIFTATTN_CAUSAL_NONE, WITH_MASK},
    {"key mask and shared bias", 4, 2, 4, 2, 31, 29, 20, 12, SWIFTATTN_CAUSAL_NONE, WITH_KEY_MASK | WITH_SHARED_BIAS},
    {"shared bias", 4, 3, 4, 2, 18, 65, 16, 16, SWIFTATTN_CAUSAL_TOP_LEFT, WITH_SHARED_BIAS},
    {"bias", 4, 2, 2, 1, 18, 65, 16, 16, SWIFTATTN_CAUSAL_NONE, WITH_BIAS | WITH_SCALE},
    {"lengths", 4, 4, 2, 1, 33, 48, 24, 16, SWIFTATTN_CAUSAL_NONE, WITH_KEY_LENGTHS | WITH_QUERY_LENGTHS},
    {"all options", 5, 2, 4, 2, 21, 26, 11, 19, SWIFTATTN_CAUSAL_BOTTOM_RIGHT,
     WITH_MASK | WITH_BIAS | WITH_KEY_LENGTHS | WITH_QUERY_LENGTHS | WITH_SCALE},
    {"shared keys", 4, 3, 2, 2, 20, 20, 16, 16, SWIFTATTN_CAUSAL_NONE, WITH_ZERO_STRIDE},
    {"head dims of one", 4, 2, 2, 2, 5, 6, 1, 1, SWIFTATTN_CAUSAL_NONE, 0},
    {"wide heads", 3, 1, 2, 1, 12, 40, 300, 257, SWIFTATTN_CAUSAL_NONE, 0},
    {"no keys", 4, 2, 2, 1, 3, 0, 8, 8, SWIFTATTN_CAUSAL_NONE, 0},
    {"no queries", 4, 2, 2, 1, 0, 3, 8, 8, SWIFTATTN_CAUSAL_NONE, 0},
    {"no batch", 4, 0, 2, 1, 3, 3, 8, 8, SWIFTATTN_CAUSAL_NONE, 0},
};
enum { SPEC_COUNT = sizeof specs / sizeof *specs };

/* Each output left out, and all but it, must give the others the very same bits. */
static void check_left_out(problem *full, const char *name) {
  const swiftattn_tensor **wanted[] = {&full->gradients.query, &full->gradients.key, &full->gradients.value,
                                       &full->gradients.bias};
  for (int subset = 0; subset < 16; subset++) {
    const swiftattn_attention_gradients all = full->gradients;
    unsigned char *before[4] = {NULL};
    for (int which = 0; which < 4; which++) {
      array *gradient = &full->operands[DQUERY + which];
      if (!gradient->memory)
        continue;
      before[which] = (unsigned char *)malloc(gradient->bytes + 1);
      memcpy(before[which], gradient->memory, gradient->bytes);
      if (subset & 1 << which)
        array_fill(gradient, 7);
      else
        *wanted[which] = NULL;
    }
    CHECK(problem_backward(full) == SWIFTATTN_OK, "%s: gradients %d: %s", name, subset, swiftattn_last_error());
    full->gradients = all;
    for (int which = 0; which < 4; which++)
      if (before[which]) {
        const array *gradient = &full->operands[DQUERY + which];
        CHECK(!memcmp(before[which], gradient->memory, gradient->bytes), "%s: %s differs with the gradients %d alone",
              name, operand_names[DQUERY + which], subset);
        free(before[which]);
      }
  }
}

/* Without lse, forward gives the same out. */
static void check_without_lse(problem *full, const char *name) {
  array *out = &full->operands[OUT];
  unsigned char *before = (unsigned char *)malloc(out->bytes + 1);
  memcpy(before, out->memory, out->bytes);
  array_fill(out, 7);
  CHECK(swiftattn_attention_forward(&full->attention, &out->view, NULL) == SWIFTATTN_OK, "%s: %s", name,
        swiftattn_last_error());
  CHECK(!memcmp(before, out->memory, out->bytes), "%s: out differs without lse", name);
  free(before);
}

static void check_inputs_untouched(const problem *used, const problem *fresh, const char *name) {
  for (int which = 0; which < OUT; which++) {
    const array *input = &used->operands[which];
    CHECK(!input->memory || !memcmp(input->memory, fresh->operands[which].memory, input->bytes), "%s: %s was modified",
          name, operand_names[which]);
  }
}

/* Runs the problem, whose outputs hold anything, in the tier in use. */
static void run(problem *made, const problem *fresh, layout form, const char *name) {
  for (int which = OUT; which < OPERAND_COUNT; which++)
    if (made->operands[which].memory)
      memcpy(made->operands[which].memory, fresh->operands[which].memory, made->operands[which].bytes);
  CHECK(problem_forward(made) == SWIFTATTN_OK, "%s: %s", name, swiftattn_last_error());
  CHECK(problem_backward(made) == SWIFTATTN_OK, "%s: %s", name, swiftattn_last_error());
  for (int which = OUT; which < OPERAND_COUNT; which++)
    if (made->operands[which].memory)
      problem_check(made, (operand)which, name);
  check_inputs_untouched(made, fresh, name);
  if (form == LAYOUT_DENSE) {
    check_without_lse(made, name);
    check_left_out(made, name);
  }
}

/* Runs the problem in every tier of this processor; returns how many that are. */
static int run_tiers(const problem_spec *spec, int32_t dtype, layout form) {
  problem made, fresh;
  problem_make(&made, spec, dtype, form);
  problem_make(&fresh, spec, dtype, form);
  problem_solve(&made);
  int tiers = 0;
  for (int32_t tier = 0; swiftattn_isa_name(tier); tier++) {
    const char *isa = swiftattn_isa_name(tier);
    char name[160];
    if (!swiftattn_isa_supported(isa))
      continue;
    tiers++;
    CHECK(swiftattn_set_isa(isa) == SWIFTATTN_OK, "%s: %s", isa, swiftattn_last_error());
    snprintf(name, sizeof name, "%s, %s, %s, %s", spec->name, dtype == SWIFTATTN_FLOAT32 ? "f32" : "f64",
             layout_names[form], isa);
    run(&made, &fresh, form, name);
  }
  problem_free(&made);
  problem_free(&fresh);
  return tiers;
}

static const problem_spec aligned = {"alignment",          4, 2, 4, 2, 33, 70, 24, 40, SWIFTATTN_CAUSAL_NONE,
                                     WITH_MASK | WITH_BIAS};

/* Copies an operand to memory that begins `offset` bytes after a multiple of 64, which `*moved` becomes. */
static void move_to(array *operand, size_t offset, void **moved) {
  if (posix_memalign(moved, 64, operand->bytes + 64)) {
    perror("posix_memalign");
    exit(EXIT_FAILURE);
  }
  memcpy((char *)*moved + offset, operand->memory, operand->bytes);
  operand->view.data = (char *)*moved + offset;
}

/* Every operand, outputs too, at every alignment that its elements allow, each at another one in a call. */
static void check_alignments(const problem_spec *spec, int32_t dtype) {
  problem made;
  problem_make(&made, spec, dtype, LAYOUT_DENSE);
  CHECK(problem_forward(&made) == SWIFTATTN_OK && problem_backward(&made) == SWIFTATTN_OK, "%s",
        swiftattn_last_error());
  const size_t size = dtype_size(dtype);
  for (size_t first = 0; first < 64; first += size) {
    void *moved[OPERAND_COUNT] = {NULL};
    for (size_t which = 0; which < OPERAND_COUNT; which++)
      if (made.operands[which].memory)
        move_to(&made.operands[which], (first + which * size) % 64 / 8 * 8 + (size < 8 ? first % 8 : 0), &moved[which]);
    for (int which = OUT; which < OPERAND_COUNT; which++)
      if (moved[which])
        memset(made.operands[which].view.data, PATTERN, made.operands[which].bytes);
    CHECK(problem_forward(&made) == SWIFTATTN_OK && problem_backward(&made) == SWIFTATTN_OK, "%s",
          swiftattn_last_error());
    for (int which = OUT; which < OPERAND_COUNT; which++)
      CHECK(!moved[which] ||
                !memcmp(made.operands[which].view.data, made.operands[which].memory, made.operands[which].bytes),
            "%s: %s differs %d bytes past an alignment", spec->name, operand_names[which], (int)first);
    for (int which = 0; which < OPERAND_COUNT; which++) {
      made.operands[which].view.data = made.operands[which].memory;
      free(moved[which]);
    }
  }
  problem_free(&made);
}

int main(void) {
  for (size_t spec = 0; spec < SPEC_COUNT; spec++)
    for (int form = 0; form < LAYOUT_COUNT; form++) {
      CHECK(run_tiers(&specs[spec], SWIFTATTN_FLOAT32, (layout)form) >= 1, "no tier runs on this processor");
      CHECK(run_tiers(&specs[spec], SWIFTATTN_FLOAT64, (layout)form) >= 1, "no tier runs on this processor");
    }
  for (int32_t tier = 0; swiftattn_isa_name(tier); tier++)
    if (swiftattn_set_isa(swiftattn_isa_name(tier)) == SWIFTATTN_OK) {
      check_alignments(&aligned, SWIFTATTN_FLOAT32);
      check_alignments(&aligned, SWIFTATTN_FLOAT64);
    }
  return check_result("test_parity");
}
