/* Calls in which one request for memory after the other is refused. C11. */
#ifndef TRIALS_H
#define TRIALS_H

#include "layer_problem.h"
#include "problem.h"

/* A call, and which of its arrays it writes. */
typedef struct trial {
  const char *spec, *name;
  const void *made;
  swiftattn_status (*call)(const void *made);
  array *arrays;
  int count, first_output, end_output;
} trial;

/* The memory of all arrays of a trial. */
typedef struct image {
  unsigned char *memory[LAYER_OPERAND_COUNT];
} image;

/* Who refuses. Of `requests`, counted since refuse(), the one numbered `number` is refused; negative: none. */
typedef struct refusal {
  const char *source;
  void (*refuse)(long number);
  long (*requests)(void);
  void (*check_returned)(const char *when);
} refusal;

static inline void *must_allocate(size_t bytes) {
  void *memory = malloc(bytes ? bytes : 1);
  if (!memory) {
    perror("malloc");
    exit(EXIT_FAILURE);
  }
  return memory;
}

static inline image image_take(const trial *tried) {
  image taken;
  for (int which = 0; which < tried->count; which++) {
    taken.memory[which] = (unsigned char *)must_allocate(tried->arrays[which].bytes);
    if (tried->arrays[which].memory)
      memcpy(taken.memory[which], tried->arrays[which].memory, tried->arrays[which].bytes);
  }
  return taken;
}

static inline void image_free(const trial *tried, image *taken) {
  for (int which = 0; which < tried->count; which++)
    free(taken->memory[which]);
}

static inline int is_output(const trial *tried, int which) {
  return which >= tried->first_output && which < tried->end_output && tried->arrays[which].memory;
}

static inline void restore_outputs(const trial *tried, const image *before) {
  for (int which = tried->first_output; which < tried->end_output; which++)
    if (is_output(tried, which))
      memcpy(tried->arrays[which].memory, before->memory[which], tried->arrays[which].bytes);
}

/* Checks that all arrays, or all but the outputs, have the bytes of the image. */
static inline void check_bytes(const trial *tried, const image *expected, int with_outputs, const char *when) {
  for (int which = 0; which < tried->count; which++)
    if (tried->arrays[which].memory && (with_outputs || !is_output(tried, which)))
      CHECK(!memcmp(tried->arrays[which].memory, expected->memory[which], tried->arrays[which].bytes),
            "%s of %s, %s: array %d differs", tried->name, tried->spec, when, which);
}

static inline void check_good_call(const trial *tried, const image *before, const image *after, const char *when) {
  restore_outputs(tried, before);
  CHECK(tried->call(tried->made) == SWIFTATTN_OK, "%s of %s, %s: %s", tried->name, tried->spec, when,
        swiftattn_last_error());
  check_bytes(tried, after, 1, when);
}

/* One call whose request `number` is refused; 0 when it makes no such request. `must_fail`: it cannot do without. */
static inline int check_refusal(const trial *tried, const refusal *by, long number, int must_fail, const image *before,
                                const image *after) {
  char when[64];
  snprintf(when, sizeof when, "%s %ld refused", by->source, number);
  swiftattn_release_memory();
  restore_outputs(tried, before);
  by->refuse(number);
  const swiftattn_status status = tried->call(tried->made);
  const int reached = by->requests() > number;
  by->refuse(-1);
  CHECK(status == SWIFTATTN_OK ? !reached || !must_fail : reached && status == SWIFTATTN_OUT_OF_MEMORY,
        "%s of %s, %s: status %d: %s", tried->name, tried->spec, when, (int)status, swiftattn_last_error());
  CHECK(status == SWIFTATTN_OK || strstr(swiftattn_last_error(), "memory"), "%s of %s, %s: message \"%s\"", tried->name,
        tried->spec, when, swiftattn_last_error());
  check_bytes(tried, after, status == SWIFTATTN_OK, when);
  for (int which = tried->first_output; which < tried->end_output; which++)
    CHECK(!is_output(tried, which) || array_gaps_intact(&tried->arrays[which]), "%s of %s, %s: wrote beside array %d",
          tried->name, tried->spec, when, which);
  by->check_returned(when);
  check_good_call(tried, before, after, when);
  return reached;
}

/* Has every request of the call refused, one at a time. */
static inline void check_refusals(const trial *tried, const refusal *by, int threads) {
  image before = image_take(tried);
  CHECK(swiftattn_set_num_threads(1) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(tried->call(tried->made) == SWIFTATTN_OK, "%s of %s: %s", tried->name, tried->spec, swiftattn_last_error());
  image after = image_take(tried);
  CHECK(swiftattn_set_num_threads(threads) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  long number = 0;
  while (number < 1000 && check_refusal(tried, by, number, threads == 1, &before, &after))
    number++;
  CHECK(number > 0 && number < 1000, "%s of %s: %ld requests of %s were refused", tried->name, tried->spec, number,
        by->source);
  image_free(tried, &before);
  image_free(tried, &after);
}

static inline swiftattn_status trial_forward(const void *made) { return problem_forward((const problem *)made); }
static inline swiftattn_status trial_backward(const void *made) { return problem_backward((const problem *)made); }
static inline swiftattn_status trial_saving(const void *made) { return layer_forward((const layer_problem *)made); }
static inline swiftattn_status trial_saved(const void *made) { return layer_backward((const layer_problem *)made); }

static inline swiftattn_status trial_packing(const void *made) {
  const layer_problem *layer = (const layer_problem *)made;
  return swiftattn_mha_pack(&layer->parameters, layer->packed, layer->packed_bytes);
}

static inline swiftattn_status trial_unsaved(const void *made) {
  const layer_problem *layer = (const layer_problem *)made;
  return swiftattn_mha_forward(&layer->mha, layer_view(layer, LAYER_OUT), layer_view(layer, LAYER_AVERAGE), NULL, 0);
}

/* Forward and backward of one line of a table. */
static inline void check_attention_refusals(const problem_spec *spec, int32_t dtype, const refusal *by, int threads) {
  problem made;
  problem_make(&made, spec, dtype, LAYOUT_STRIDED);
  const trial forward = {spec->name, "forward", &made, trial_forward, made.operands, OPERAND_COUNT, OUT, LSE + 1};
  const trial backward = {spec->name,    "backward",    &made,  trial_backward,
                          made.operands, OPERAND_COUNT, DQUERY, OPERAND_COUNT};
  check_refusals(&forward, by, threads);
  check_refusals(&backward, by, threads);
  problem_free(&made);
}

static inline void check_layer_refusals(const layer_spec *spec, int32_t dtype, const refusal *by, int threads) {
  layer_problem made;
  layer_make(&made, spec, dtype, LAYOUT_STRIDED);
  trial tried = {spec->name,    "forward without saving", &made,     trial_unsaved,
                 made.operands, LAYER_OPERAND_COUNT,      LAYER_OUT, FIRST_GRADIENT};
  check_refusals(&tried, by, threads);
  tried.name = "forward that saves", tried.call = trial_saving;
  check_refusals(&tried, by, threads);
  tried.name = "backward", tried.call = trial_saved;
  tried.first_output = FIRST_GRADIENT, tried.end_output = LAYER_OPERAND_COUNT;
  check_refusals(&tried, by, threads);
  layer_pack(&made);
  tried.name = "packing", tried.call = trial_packing;
  tried.first_output = LAYER_OPERAND_COUNT;
  check_refusals(&tried, by, threads);
  layer_use_packed(&made, 1);
  tried.name = "forward of packed weights", tried.call = trial_unsaved;
  tried.first_output = LAYER_OUT, tried.end_output = FIRST_GRADIENT;
  check_refusals(&tried, by, threads);
  layer_free(&made);
}

#endif /* TRIALS_H */
