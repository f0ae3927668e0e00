/* One call of every kind, of both dtypes and many sizes: attention and the layer, forward and backward. A set of them
 * has memory of its own, and any two sets must come to the same bits. C11. */
#ifndef MIXED_CALLS_H
#define MIXED_CALLS_H

#include "layer_problem.h"
#include "problem.h"

static const problem_spec mixed_attentions[] = {
    {"shared heads", 3, 1, 4, 2, 130, 200, 32, 32, SWIFTATTN_CAUSAL_NONE, 0},
    {"causal", 4, 2, 2, 2, 97, 97, 16, 16, SWIFTATTN_CAUSAL_TOP_LEFT, 0},
    {"key lengths", 4, 3, 2, 1, 64, 80, 40, 24, SWIFTATTN_CAUSAL_NONE, WITH_KEY_LENGTHS},
    {"decoding", 4, 2, 4, 1, 1, 300, 64, 64, SWIFTATTN_CAUSAL_NONE, 0},
    {"mask", 4, 2, 4, 2, 50, 60, 16, 16, SWIFTATTN_CAUSAL_NONE, WITH_MASK},
    {"shared bias", 4, 2, 4, 2, 50, 60, 16, 16, SWIFTATTN_CAUSAL_NONE, WITH_SHARED_BIAS},
    {"one head", 2, 1, 1, 1, 150, 90, 8, 8, SWIFTATTN_CAUSAL_BOTTOM_RIGHT, 0},
    {"large", 4, 2, 8, 4, 300, 300, 32, 32, SWIFTATTN_CAUSAL_NONE, 0},
    {"tiny", 2, 1, 1, 1, 3, 5, 7, 9, SWIFTATTN_CAUSAL_NONE, 0},
};

static const swiftattn_rope mixed_rope = {sizeof mixed_rope, 0, 10000, 1, 0, 0, 0};
static const swiftattn_rope mixed_offset_rope = {sizeof mixed_offset_rope, 4, 100, 2, 1, 3, 5};

static const layer_spec mixed_layers[] = {
    {"layer", 3, 2, 4, 4, 70, 70, 8, 8, 32, 32, 32, 32, NULL, SWIFTATTN_CAUSAL_TOP_LEFT, LAYER_HAS_BIASES},
    {"layer with rope", 3, 2, 4, 2, 90, 90, 16, 16, 64, 64, 64, 64, &mixed_rope, SWIFTATTN_CAUSAL_NONE,
     LAYER_HAS_BIASES | LAYER_HAS_MASK},
    {"layer with memory", 3, 1, 2, 1, 33, 57, 8, 12, 20, 24, 28, 20, &mixed_offset_rope, SWIFTATTN_CAUSAL_NONE,
     LAYER_HAS_KEY | LAYER_HAS_VALUE | LAYER_HAS_TOKEN | LAYER_HAS_ZERO | LAYER_HAS_SHARED_BIAS},
    {"tiny layer", 2, 1, 1, 1, 2, 2, 4, 4, 4, 4, 4, 4, NULL, SWIFTATTN_CAUSAL_NONE, 0},
};

enum {
  MIXED_ATTENTIONS = sizeof mixed_attentions / sizeof *mixed_attentions,
  MIXED_LAYERS = sizeof mixed_layers / sizeof *mixed_layers,
  MIXED_COUNT = 2 * (MIXED_ATTENTIONS + MIXED_LAYERS),
  MIXED_LARGE = 2 * (MIXED_ATTENTIONS - 2) /* one for which threads are worth while */
};

typedef struct mixed_calls {
  problem attentions[2 * MIXED_ATTENTIONS];
  layer_problem layers[2 * MIXED_LAYERS];
} mixed_calls;

static inline int32_t mixed_dtype(int index) { return index % 2 ? SWIFTATTN_FLOAT64 : SWIFTATTN_FLOAT32; }

static inline const char *mixed_name(int index) {
  return index < 2 * MIXED_ATTENTIONS ? mixed_attentions[index / 2].name
                                      : mixed_layers[index / 2 - MIXED_ATTENTIONS].name;
}

static inline void mixed_make(mixed_calls *made) {
  for (int index = 0; index < 2 * MIXED_ATTENTIONS; index++)
    problem_make(&made->attentions[index], &mixed_attentions[index / 2], mixed_dtype(index), LAYOUT_DENSE);
  for (int index = 0; index < 2 * MIXED_LAYERS; index++)
    layer_make(&made->layers[index], &mixed_layers[index / 2], mixed_dtype(index), LAYOUT_DENSE);
}

static inline void mixed_free(mixed_calls *made) {
  for (int index = 0; index < 2 * MIXED_ATTENTIONS; index++)
    problem_free(&made->attentions[index]);
  for (int index = 0; index < 2 * MIXED_LAYERS; index++)
    layer_free(&made->layers[index]);
}

/* Forward and backward of the call `index`, below MIXED_COUNT, into outputs that hold other numbers before. */
static inline swiftattn_status mixed_run(const mixed_calls *made, int index) {
  swiftattn_status status;
  if (index < 2 * MIXED_ATTENTIONS) {
    const problem *attention = &made->attentions[index];
    for (int which = OUT; which < OPERAND_COUNT; which++)
      if (attention->operands[which].memory)
        memset(attention->operands[which].memory, PATTERN, attention->operands[which].bytes);
    status = problem_forward(attention);
    return status == SWIFTATTN_OK ? problem_backward(attention) : status;
  }
  const layer_problem *layer = &made->layers[index - 2 * MIXED_ATTENTIONS];
  layer_reset(layer);
  status = layer_forward(layer);
  return status == SWIFTATTN_OK ? layer_backward(layer) : status;
}

static inline int mixed_same_arrays(const array *some, const array *others, int from, int end) {
  for (int which = from; which < end; which++)
    if (some[which].memory && memcmp(some[which].memory, others[which].memory, some[which].bytes) != 0)
      return 0;
  return 1;
}

/* Whether all outputs of the call `index` have the same bits in both sets. */
static inline int mixed_same(const mixed_calls *some, const mixed_calls *others, int index) {
  const int layer = index - 2 * MIXED_ATTENTIONS;
  if (layer < 0)
    return mixed_same_arrays(some->attentions[index].operands, others->attentions[index].operands, OUT, OPERAND_COUNT);
  return mixed_same_arrays(some->layers[layer].operands, others->layers[layer].operands, LAYER_OUT,
                           LAYER_OPERAND_COUNT);
}

/* A failing call whose message only the caller's thread can have caused: a width that no other thread asks for. */
static inline int mixed_own_error(const mixed_calls *made, int index, int64_t width) {
  char expected[32];
  swiftattn_status status;
  snprintf(expected, sizeof expected, "%lld", (long long)width);
  if (index < 2 * MIXED_ATTENTIONS) {
    const problem *wrong = &made->attentions[index];
    swiftattn_tensor key = wrong->operands[KEY].view;
    swiftattn_attention attention = wrong->attention;
    key.shape[key.rank - 1] = width;
    attention.key = &key;
    status = swiftattn_attention_forward(&attention, problem_view(wrong, OUT), NULL);
  } else {
    const layer_problem *wrong = &made->layers[index - 2 * MIXED_ATTENTIONS];
    swiftattn_tensor query = wrong->operands[LAYER_QUERY].view;
    swiftattn_mha mha = wrong->mha;
    query.shape[query.rank - 1] = width;
    mha.query = &query;
    status = swiftattn_mha_forward(&mha, layer_view(wrong, LAYER_OUT), NULL, NULL, 0);
  }
  return status == SWIFTATTN_INVALID_SHAPE && strstr(swiftattn_last_error(), expected) != NULL;
}

#endif /* MIXED_CALLS_H */
