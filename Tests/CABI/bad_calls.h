/* The table of bad calls: what is edited in a good call (B 2, Hq 4, Hkv 2, Sq 6, Sk 5, D 8, Dv 4, every option but
 * causal, f32), the status and the argument that the message must name. C11. */
#ifndef BAD_CALLS_H
#define BAD_CALLS_H

#include "edits.h"
#include "problem.h"

#include <limits.h>

enum {
  CAUSAL = CALL, /* the enum becomes `number` */
  SCALE,         /* becomes bad_scales[number] */
  ATTENTION_SIZE,
  GRADIENTS_SIZE,
  ATTENTION_MISSING,
  GRADIENTS_MISSING
};

static const double bad_scales[] = {0, NAN, INFINITY, -INFINITY};

static const bad_call bad_calls[] = {
    /* Missing structs and tensors. */
    {"attention", ARGUMENT, BOTH, {{ATTENTION_MISSING, ANY, 0, 0}}},
    {"gradients", ARGUMENT, BACKWARD, {{GRADIENTS_MISSING, ANY, 0, 0}}},
    {"query", ARGUMENT, BOTH, {{MISSING, QUERY, 0, 0}}},
    {"key", ARGUMENT, BOTH, {{MISSING, KEY, 0, 0}}},
    {"value", ARGUMENT, BOTH, {{MISSING, VALUE, 0, 0}}},
    {"out", ARGUMENT, BOTH, {{MISSING, OUT, 0, 0}}},
    {"lse", ARGUMENT, BACKWARD, {{MISSING, LSE, 0, 0}}},
    {"dout", ARGUMENT, BACKWARD, {{MISSING, DOUT, 0, 0}}},
    {"bias gradient", ARGUMENT, BACKWARD, {{MISSING, BIAS, 0, 0}}},

    /* Structs of another version. */
    {"struct_size", ARGUMENT, BOTH, {{ATTENTION_SIZE, ANY, 0, 0}}},
    {"struct_size", ARGUMENT, BOTH, {{ATTENTION_SIZE, ANY, 0, sizeof(size_t)}}},
    {"struct_size", ARGUMENT, BOTH, {{ATTENTION_SIZE, ANY, 0, sizeof(swiftattn_attention) - 1}}},
    {"struct_size", ARGUMENT, BOTH, {{ATTENTION_SIZE, ANY, 0, sizeof(swiftattn_attention) + 8}}},
    {"struct_size", ARGUMENT, BOTH, {{ATTENTION_SIZE, ANY, 0, -1}}},
    {"struct_size", ARGUMENT, BACKWARD, {{GRADIENTS_SIZE, ANY, 0, 0}}},
    {"struct_size", ARGUMENT, BACKWARD, {{GRADIENTS_SIZE, ANY, 0, sizeof(size_t)}}},
    {"struct_size", ARGUMENT, BACKWARD, {{GRADIENTS_SIZE, ANY, 0, sizeof(swiftattn_attention_gradients) + 8}}},

    /* Options that are no option. */
    {"causal", ARGUMENT, BOTH, {{CAUSAL, ANY, 0, 3}}},
    {"causal", ARGUMENT, BOTH, {{CAUSAL, ANY, 0, -1}}},
    {"causal", ARGUMENT, BOTH, {{CAUSAL, ANY, 0, INT32_MAX}}},
    {"scale", ARGUMENT, BOTH, {{SCALE, ANY, 0, 0}}},
    {"scale", ARGUMENT, BOTH, {{SCALE, ANY, 0, 1}}},
    {"scale", ARGUMENT, BOTH, {{SCALE, ANY, 0, 2}}},
    {"scale", ARGUMENT, BOTH, {{SCALE, ANY, 0, 3}}},
    {"key_lengths", ARGUMENT, BOTH, {{ELEMENT, KEY_LENGTHS, 0, 6}}},
    {"key_lengths", ARGUMENT, BOTH, {{ELEMENT, KEY_LENGTHS, 0, -1}}},
    {"key_lengths", ARGUMENT, BOTH, {{ELEMENT, KEY_LENGTHS, 0, INT32_MIN}}},
    {"query_lengths", ARGUMENT, BOTH, {{ELEMENT, QUERY_LENGTHS, 0, 7}}},
    {"query_lengths", ARGUMENT, BOTH, {{ELEMENT, QUERY_LENGTHS, 0, -1}}},

    /* Element types. */
    {"mask", ELEMENT_TYPE, BOTH, {{DTYPE, MASK, 0, SWIFTATTN_FLOAT32}}},
    {"mask", ELEMENT_TYPE, BOTH, {{DTYPE, MASK, 0, SWIFTATTN_INT32}}},
    {"query", ELEMENT_TYPE, BOTH, {{DTYPE, QUERY, 0, SWIFTATTN_INT32}}},
    {"query", ELEMENT_TYPE, BOTH, {{DTYPE, QUERY, 0, SWIFTATTN_BOOL}}},
    {"query", ELEMENT_TYPE, BOTH, {{DTYPE, QUERY, 0, 0}}},
    {"query", ELEMENT_TYPE, BOTH, {{DTYPE, QUERY, 0, 99}}},
    {"key", ELEMENT_TYPE, BOTH, {{DTYPE, KEY, 0, SWIFTATTN_FLOAT64}}},
    {"value", ELEMENT_TYPE, BOTH, {{DTYPE, VALUE, 0, SWIFTATTN_FLOAT64}}},
    {"bias", ELEMENT_TYPE, BOTH, {{DTYPE, BIAS, 0, SWIFTATTN_FLOAT64}}},
    {"bias", ELEMENT_TYPE, BOTH, {{DTYPE, BIAS, 0, SWIFTATTN_BOOL}}},
    {"key_lengths", ELEMENT_TYPE, BOTH, {{DTYPE, KEY_LENGTHS, 0, SWIFTATTN_FLOAT32}}},
    {"query_lengths", ELEMENT_TYPE, BOTH, {{DTYPE, QUERY_LENGTHS, 0, SWIFTATTN_FLOAT64}}},
    {"out", ELEMENT_TYPE, BOTH, {{DTYPE, OUT, 0, SWIFTATTN_FLOAT64}}},
    {"lse", ELEMENT_TYPE, BOTH, {{DTYPE, LSE, 0, SWIFTATTN_FLOAT64}}},
    {"dout", ELEMENT_TYPE, BACKWARD, {{DTYPE, DOUT, 0, SWIFTATTN_FLOAT64}}},
    {"query gradient", ELEMENT_TYPE, BACKWARD, {{DTYPE, DQUERY, 0, SWIFTATTN_FLOAT64}}},
    {"bias gradient", ELEMENT_TYPE, BACKWARD, {{DTYPE, DBIAS, 0, SWIFTATTN_INT32}}},

    /* Ranks. */
    {"query", SHAPE, BOTH, {{RANK, QUERY, 0, 1}}},
    {"query", SHAPE, BOTH, {{RANK, QUERY, 0, 0}}},
    {"query", SHAPE, BOTH, {{RANK, QUERY, 0, -1}}},
    {"query", SHAPE, BOTH, {{RANK, QUERY, 0, SWIFTATTN_MAX_RANK + 1}}},
    {"query", SHAPE, BOTH, {{RANK, QUERY, 0, INT32_MAX}}},
    {"key", SHAPE, BOTH, {{RANK, KEY, 0, 3}}},
    {"value", SHAPE, BOTH, {{RANK, VALUE, 0, 3}}},
    {"mask", SHAPE, BOTH, {{RANK, MASK, 0, 5}, {LENGTH, MASK, 4, 1}}},
    {"mask", SHAPE, BOTH, {{RANK, MASK, 0, INT32_MIN}}},
    {"key_lengths", SHAPE, BOTH, {{RANK, KEY_LENGTHS, 0, 2}, {LENGTH, KEY_LENGTHS, 1, 1}}},
    {"out", SHAPE, BOTH, {{RANK, OUT, 0, 3}}},
    {"lse", SHAPE, BOTH, {{RANK, LSE, 0, 2}}},
    {"dout", SHAPE, BACKWARD, {{RANK, DOUT, 0, 3}}},
    {"key gradient", SHAPE, BACKWARD, {{RANK, DKEY, 0, 3}}},

    /* Lengths that do not fit together. */
    {"key", SHAPE, BOTH, {{LENGTH, KEY, 3, 7}}},
    {"key", SHAPE, BOTH, {{LENGTH, KEY, 0, 1}}},
    {"key", SHAPE, BOTH, {{LENGTH, KEY, 2, 4}}},
    {"key", SHAPE, BOTH, {{LENGTH, KEY, 1, 3}, {LENGTH, VALUE, 1, 3}}},
    {"key", SHAPE, BOTH, {{LENGTH, KEY, 1, 8}, {LENGTH, VALUE, 1, 8}}},
    {"key", SHAPE, BOTH, {{LENGTH, KEY, 1, 0}, {LENGTH, VALUE, 1, 0}}},
    {"value", SHAPE, BOTH, {{LENGTH, VALUE, 0, 1}}},
    {"value", SHAPE, BOTH, {{LENGTH, VALUE, 1, 1}}},
    {"value", SHAPE, BOTH, {{LENGTH, VALUE, 2, 4}}},
    {"query", SHAPE, BOTH, {{LENGTH, QUERY, 2, -6}}},
    {"query", SHAPE, BOTH, {{LENGTH, QUERY, 3, 0}, {LENGTH, KEY, 3, 0}}},
    {"mask", SHAPE, BOTH, {{LENGTH, MASK, 3, 4}}},
    {"mask", SHAPE, BOTH, {{LENGTH, MASK, 2, 5}}},
    {"mask", SHAPE, BOTH, {{LENGTH, MASK, 1, 2}}},
    {"bias", SHAPE, BOTH, {{LENGTH, BIAS, 3, 2}}},
    {"bias", SHAPE, BOTH, {{LENGTH, BIAS, 0, 0}}},
    {"key_lengths", SHAPE, BOTH, {{LENGTH, KEY_LENGTHS, 0, 1}}},
    {"query_lengths", SHAPE, BOTH, {{LENGTH, QUERY_LENGTHS, 0, 3}}},
    {"out", SHAPE, BOTH, {{LENGTH, OUT, 3, 3}}},
    {"out", SHAPE, BOTH, {{LENGTH, OUT, 1, 2}}},
    {"lse", SHAPE, BOTH, {{LENGTH, LSE, 2, 5}}},
    {"dout", SHAPE, BACKWARD, {{LENGTH, DOUT, 2, 5}}},
    {"query gradient", SHAPE, BACKWARD, {{LENGTH, DQUERY, 2, 5}}},
    {"key gradient", SHAPE, BACKWARD, {{LENGTH, DKEY, 1, 4}}},
    {"value gradient", SHAPE, BACKWARD, {{LENGTH, DVALUE, 3, 8}}},
    {"bias gradient", SHAPE, BACKWARD, {{LENGTH, DBIAS, 3, 1}}},

    /* Sizes and strides whose products overflow. */
    {"key", SHAPE, BOTH, {{LENGTH, KEY, 2, INT64_MAX / 4}, {LENGTH, VALUE, 2, INT64_MAX / 4}}},
    {"key",
     SHAPE,
     BOTH,
     {{LENGTH, KEY, 2, INT64_MAX / 4}, {STRIDE, KEY, 2, 0}, {LENGTH, VALUE, 2, INT64_MAX / 4}, {STRIDE, VALUE, 2, 0}}},
    {"query", SHAPE, BOTH, {{LENGTH, QUERY, 0, INT64_MAX}, {LENGTH, KEY, 0, INT64_MAX}, {LENGTH, VALUE, 0, INT64_MAX}}},
    {"query",
     SHAPE,
     BOTH,
     {{LENGTH, QUERY, 3, INT64_MAX / 64},
      {STRIDE, QUERY, 3, 0},
      {LENGTH, KEY, 3, INT64_MAX / 64},
      {STRIDE, KEY, 3, 0}}},
    {"query", SHAPE, BOTH, {{STRIDE, QUERY, 0, INT64_MAX - 3}}},
    {"value", SHAPE, BOTH, {{STRIDE, VALUE, 2, INT64_MIN}}},
    {"out", SHAPE, BOTH, {{STRIDE, OUT, 2, INT64_MIN}}},

    /* Memory: NULL, misaligned, overlapping. */
    {"query", ARGUMENT, BOTH, {{DATA, QUERY, 0, 0}}},
    {"value", ARGUMENT, BOTH, {{DATA, VALUE, 0, 0}}},
    {"mask", ARGUMENT, BOTH, {{DATA, MASK, 0, 0}}},
    {"query_lengths", ARGUMENT, BOTH, {{DATA, QUERY_LENGTHS, 0, 0}}},
    {"out", ARGUMENT, BOTH, {{DATA, OUT, 0, 0}}},
    {"lse", ARGUMENT, BOTH, {{DATA, LSE, 0, 0}}},
    {"dout", ARGUMENT, BACKWARD, {{DATA, DOUT, 0, 0}}},
    {"value gradient", ARGUMENT, BACKWARD, {{DATA, DVALUE, 0, 0}}},
    {"query", ARGUMENT, BOTH, {{SHIFT, QUERY, 0, 2}}},
    {"bias", ARGUMENT, BOTH, {{SHIFT, BIAS, 0, 1}}},
    {"key_lengths", ARGUMENT, BOTH, {{SHIFT, KEY_LENGTHS, 0, 1}}},
    {"out", ARGUMENT, BOTH, {{SHIFT, OUT, 0, 2}}},
    {"key gradient", ARGUMENT, BACKWARD, {{SHIFT, DKEY, 0, 1}}},
    {"key", SHAPE, BOTH, {{STRIDE, KEY, 2, 33}}},
    {"lse", SHAPE, BOTH, {{STRIDE, LSE, 1, 25}}},
    {"out", ARGUMENT, FORWARD, {{ALIAS, OUT, 0, QUERY}}},
    {"out", ARGUMENT, FORWARD, {{ALIAS, OUT, 0, VALUE}, {SHIFT, OUT, 0, 4}}},
    {"out", ARGUMENT, FORWARD, {{ALIAS, OUT, 0, MASK}}},
    {"lse", ARGUMENT, FORWARD, {{ALIAS, LSE, 0, OUT}}},
    {"lse", ARGUMENT, FORWARD, {{ALIAS, LSE, 0, BIAS}}},
    {"query gradient", ARGUMENT, BACKWARD, {{ALIAS, DQUERY, 0, QUERY}}},
    {"query gradient", ARGUMENT, BACKWARD, {{ALIAS, DQUERY, 0, OUT}}},
    {"key gradient", ARGUMENT, BACKWARD, {{ALIAS, DKEY, 0, DOUT}}},
    {"key gradient", ARGUMENT, BACKWARD, {{ALIAS, DKEY, 0, DQUERY}}},
    {"value gradient", ARGUMENT, BACKWARD, {{ALIAS, DVALUE, 0, DKEY}, {SHIFT, DVALUE, 0, 8}}},
    {"bias gradient", ARGUMENT, BACKWARD, {{ALIAS, DBIAS, 0, LSE}}},
    {"out", ARGUMENT, FORWARD, {{STRIDE, OUT, 1, 0}}},
    {"out", ARGUMENT, FORWARD, {{STRIDE, OUT, 2, 4}}},
    {"lse", ARGUMENT, FORWARD, {{STRIDE, LSE, 0, 0}}},
    {"query gradient", ARGUMENT, BACKWARD, {{STRIDE, DQUERY, 3, 0}}},
    {"bias gradient", ARGUMENT, BACKWARD, {{STRIDE, DBIAS, 0, 0}}},
};

#endif /* BAD_CALLS_H */
