/* The table of the layer's bad calls: what is edited in a good call (B 2, Hq 4, Hkv 2, Sq 6, Sk 5, D 8, Dv 4, E 12,
 * kdim 10, vdim 14, 11 numbers out, every option but causal, f32), the status and the argument that the message must
 * name. C11. */
#ifndef LAYER_BAD_CALLS_H
#define LAYER_BAD_CALLS_H

#include "edits.h"
#include "layer_problem.h"

#include <limits.h>

/* Edits of the call; those of the rope are in the copy that the problem has. */
enum {
  MHA_SIZE = CALL,
  PARAMETERS_SIZE,
  GRADIENTS_SIZE,
  GRADIENT_PARAMETERS_SIZE,
  ROPE_SIZE,
  MHA_MISSING,
  PARAMETERS_MISSING,
  GRADIENTS_MISSING,
  BYTES_MISSING,
  SAVED_MISSING,
  PACKED_MISSING,
  PACKED_IS_SAVED,
  PACKED_IS_WEIGHT, /* some bytes of query_weight's memory */
  SAVED_SHIFT,
  SAVED_BYTES,
  PACKED_SHIFT,
  PACKED_BYTES,
  CAUSAL,
  HEADS,
  KV_HEADS,
  ROPE_DIM,
  ROPE_BASE,    /* becomes bad_numbers[number] */
  ROPE_SCALING, /* likewise */
  ROPE_OFFSET,
  ROPE_KEY_OFFSET
};

/* A call of swiftattn_mha_saved_bytes; the three functions of a layer and its inputs; and the two that run it are BOTH.
 * Then swiftattn_mha_packed_bytes and swiftattn_mha_pack, and both of these. */
enum { SIZING = 4, ALL = 7, PACK_SIZING = 8, PACKING = 16, PACKS = 24 };

static const double bad_numbers[] = {0, -1, NAN, INFINITY};

#define GRADIENT(which) (FIRST_GRADIENT + (which))
#define VERSION(what, size)                                                                                            \
  {                                                                                                                    \
    "struct_size", ARGUMENT, ALL, {                                                                                    \
      {                                                                                                                \
        what, ANY, 0, size                                                                                             \
      }                                                                                                                \
    }                                                                                                                  \
  }

static const bad_call layer_bad_calls[] = {
    /* Missing structs and tensors. */
    {"mha", ARGUMENT, ALL, {{MHA_MISSING, ANY, 0, 0}}},
    {"parameters", ARGUMENT, ALL | PACKS, {{PARAMETERS_MISSING, ANY, 0, 0}}},
    {"gradients", ARGUMENT, BACKWARD, {{GRADIENTS_MISSING, ANY, 0, 0}}},
    {"bytes", ARGUMENT, SIZING | PACK_SIZING, {{BYTES_MISSING, ANY, 0, 0}}},
    {"packed", ARGUMENT, PACKING, {{PACKED_MISSING, ANY, 0, 0}}},
    {"saved", ARGUMENT, BACKWARD, {{SAVED_MISSING, ANY, 0, 0}}},
    {"query", ARGUMENT, ALL, {{MISSING, LAYER_QUERY, 0, 0}}},
    {"value", SHAPE, ALL, {{MISSING, LAYER_KEY, 0, 0}}},
    {"value", SHAPE, ALL, {{MISSING, LAYER_KEY, 0, 0}, {MISSING, LAYER_VALUE, 0, 0}}},
    {"query_weight", ARGUMENT, ALL | PACKS, {{MISSING, QUERY_WEIGHT, 0, 0}}},
    {"key_weight", ARGUMENT, ALL | PACKS, {{MISSING, KEY_WEIGHT, 0, 0}}},
    {"value_weight", ARGUMENT, ALL | PACKS, {{MISSING, VALUE_WEIGHT, 0, 0}}},
    {"out_weight", ARGUMENT, ALL | PACKS, {{MISSING, OUT_WEIGHT, 0, 0}}},
    {"value_token", ARGUMENT, ALL, {{MISSING, KEY_TOKEN, 0, 0}}},
    {"key_token", ARGUMENT, ALL, {{MISSING, VALUE_TOKEN, 0, 0}}},
    {"out", ARGUMENT, FORWARD, {{MISSING, LAYER_OUT, 0, 0}}},
    {"dout", ARGUMENT, BACKWARD, {{MISSING, LAYER_DOUT, 0, 0}}},
    {"bias gradient", ARGUMENT, BACKWARD, {{MISSING, LAYER_BIAS, 0, 0}}},
    {"query_bias gradient", ARGUMENT, BACKWARD, {{MISSING, QUERY_BIAS, 0, 0}}},
    {"out_bias gradient", ARGUMENT, BACKWARD, {{MISSING, OUT_BIAS, 0, 0}}},
    {"key_token gradient", ARGUMENT, BACKWARD, {{MISSING, KEY_TOKEN, 0, 0}, {MISSING, VALUE_TOKEN, 0, 0}}},

    /* Structs of another version. */
    VERSION(MHA_SIZE, 0),
    VERSION(MHA_SIZE, sizeof(size_t)),
    VERSION(MHA_SIZE, sizeof(swiftattn_mha) - 8),
    VERSION(MHA_SIZE, sizeof(swiftattn_mha) + 8),
    VERSION(MHA_SIZE, -1),
    VERSION(PARAMETERS_SIZE, 0),
    VERSION(PARAMETERS_SIZE, sizeof(swiftattn_mha_parameters) + 8),
    {"struct_size", ARGUMENT, PACKS, {{PARAMETERS_SIZE, ANY, 0, 8}}},
    VERSION(ROPE_SIZE, 0),
    VERSION(ROPE_SIZE, sizeof(swiftattn_rope) - 8),
    {"gradients", ARGUMENT, BACKWARD, {{GRADIENTS_SIZE, ANY, 0, 0}}},
    {"struct_size", ARGUMENT, BACKWARD, {{GRADIENTS_SIZE, ANY, 0, sizeof(swiftattn_mha_gradients) + 8}}},
    {"gradients.parameters", ARGUMENT, BACKWARD, {{GRADIENT_PARAMETERS_SIZE, ANY, 0, 0}}},
    {"struct_size", ARGUMENT, BACKWARD, {{GRADIENT_PARAMETERS_SIZE, ANY, 0, sizeof(swiftattn_mha_parameters) - 8}}},

    /* Options that are no option. */
    {"causal", ARGUMENT, ALL, {{CAUSAL, ANY, 0, 3}}},
    {"causal", ARGUMENT, ALL, {{CAUSAL, ANY, 0, INT32_MIN}}},
    {"num_heads", ARGUMENT, ALL, {{HEADS, ANY, 0, 0}, {KV_HEADS, ANY, 0, 0}}},
    {"num_heads", ARGUMENT, ALL, {{HEADS, ANY, 0, -4}}},
    {"num_heads", ARGUMENT, ALL, {{HEADS, ANY, 0, INT32_MIN}, {KV_HEADS, ANY, 0, 0}}},
    {"query_weight", SHAPE, ALL, {{HEADS, ANY, 0, INT32_MAX - 1}, {KV_HEADS, ANY, 0, 1}, {HEADS, ANY, 0, 1 << 30}}},
    {"num_heads", ARGUMENT, ALL, {{HEADS, ANY, 0, INT32_MAX}, {KV_HEADS, ANY, 0, 1}}},
    {"num_kv_heads", ARGUMENT, ALL, {{KV_HEADS, ANY, 0, 3}}},
    {"num_kv_heads", ARGUMENT, ALL, {{KV_HEADS, ANY, 0, -2}}},
    {"num_kv_heads", ARGUMENT, ALL, {{KV_HEADS, ANY, 0, 8}}},
    {"rope", ARGUMENT, ALL, {{ROPE_DIM, ANY, 0, 3}}},
    {"rope", ARGUMENT, ALL, {{ROPE_DIM, ANY, 0, 10}}},
    {"rope", ARGUMENT, ALL, {{ROPE_DIM, ANY, 0, -2}}},
    {"rope", ARGUMENT, ALL, {{ROPE_DIM, ANY, 0, INT64_MIN}}},
    {"base", ARGUMENT, ALL, {{ROPE_BASE, ANY, 0, 0}}},
    {"base", ARGUMENT, ALL, {{ROPE_BASE, ANY, 0, 2}}},
    {"scaling", ARGUMENT, ALL, {{ROPE_SCALING, ANY, 0, 1}}},
    {"scaling", ARGUMENT, ALL, {{ROPE_SCALING, ANY, 0, 3}}},
    {"offset", ARGUMENT, ALL, {{ROPE_OFFSET, ANY, 0, (INT64_C(1) << 53) + 1}}},
    {"offset", ARGUMENT, ALL, {{ROPE_OFFSET, ANY, 0, INT64_MIN}}},
    {"offset", ARGUMENT, ALL, {{ROPE_KEY_OFFSET, ANY, 0, INT64_MAX}}},
    {"key_lengths", ARGUMENT, BOTH, {{ELEMENT, LAYER_KEY_LENGTHS, 0, 6}}},
    {"key_lengths", ARGUMENT, BOTH, {{ELEMENT, LAYER_KEY_LENGTHS, 0, -1}}},

    /* Element types. */
    {"query", ELEMENT_TYPE, ALL, {{DTYPE, LAYER_QUERY, 0, SWIFTATTN_INT32}}},
    {"query", ELEMENT_TYPE, ALL, {{DTYPE, LAYER_QUERY, 0, 0}}},
    {"key", ELEMENT_TYPE, ALL, {{DTYPE, LAYER_KEY, 0, 6}}},
    {"key", ELEMENT_TYPE, ALL, {{DTYPE, LAYER_KEY, 0, SWIFTATTN_FLOAT64}}},
    {"value", ELEMENT_TYPE, ALL, {{DTYPE, LAYER_VALUE, 0, SWIFTATTN_BOOL}}},
    {"query_weight", ELEMENT_TYPE, ALL | PACKS, {{DTYPE, QUERY_WEIGHT, 0, SWIFTATTN_INT32}}},
    {"key_weight", ELEMENT_TYPE, ALL | PACKS, {{DTYPE, KEY_WEIGHT, 0, SWIFTATTN_FLOAT64}}},
    {"out_bias", ELEMENT_TYPE, ALL, {{DTYPE, OUT_BIAS, 0, SWIFTATTN_FLOAT64}}},
    {"value_token", ELEMENT_TYPE, ALL, {{DTYPE, VALUE_TOKEN, 0, SWIFTATTN_INT32}}},
    {"query_bias", ELEMENT_TYPE, ALL, {{DTYPE, QUERY_BIAS, 0, -1}}},
    {"mask", ELEMENT_TYPE, BOTH, {{DTYPE, LAYER_MASK, 0, SWIFTATTN_FLOAT32}}},
    {"bias", ELEMENT_TYPE, BOTH, {{DTYPE, LAYER_BIAS, 0, SWIFTATTN_FLOAT64}}},
    {"key_lengths", ELEMENT_TYPE, BOTH, {{DTYPE, LAYER_KEY_LENGTHS, 0, SWIFTATTN_FLOAT32}}},
    {"out", ELEMENT_TYPE, FORWARD, {{DTYPE, LAYER_OUT, 0, SWIFTATTN_FLOAT64}}},
    {"weights", ELEMENT_TYPE, FORWARD, {{DTYPE, LAYER_WEIGHTS, 0, SWIFTATTN_INT32}}},
    {"dout", ELEMENT_TYPE, BACKWARD, {{DTYPE, LAYER_DOUT, 0, SWIFTATTN_FLOAT64}}},
    {"value gradient", ELEMENT_TYPE, BACKWARD, {{DTYPE, GRADIENT(LAYER_VALUE), 0, SWIFTATTN_FLOAT64}}},
    {"out_weight gradient", ELEMENT_TYPE, BACKWARD, {{DTYPE, GRADIENT(OUT_WEIGHT), 0, 99}}},

    /* Ranks. */
    {"query", SHAPE, ALL, {{RANK, LAYER_QUERY, 0, 1}}},
    {"query", SHAPE, ALL, {{RANK, LAYER_QUERY, 0, 0}}},
    {"query", SHAPE, ALL, {{RANK, LAYER_QUERY, 0, SWIFTATTN_MAX_RANK}}},
    {"query", SHAPE, ALL, {{RANK, LAYER_QUERY, 0, SWIFTATTN_MAX_RANK + 1}}},
    {"query", SHAPE, ALL, {{RANK, LAYER_QUERY, 0, INT32_MIN}}},
    {"key", SHAPE, ALL, {{RANK, LAYER_KEY, 0, 2}}},
    {"value", SHAPE, ALL, {{RANK, LAYER_VALUE, 0, 4}}},
    {"query_weight", SHAPE, ALL | PACKS, {{RANK, QUERY_WEIGHT, 0, 1}}},
    {"out_weight", SHAPE, ALL | PACKS, {{RANK, OUT_WEIGHT, 0, 3}}},
    {"key_bias", SHAPE, ALL, {{RANK, KEY_BIAS, 0, 0}}},
    {"key_token", SHAPE, ALL, {{RANK, KEY_TOKEN, 0, 2}, {LENGTH, KEY_TOKEN, 1, 1}}},
    {"mask", SHAPE, BOTH, {{RANK, LAYER_MASK, 0, 5}, {LENGTH, LAYER_MASK, 4, 1}}},
    {"key_lengths", SHAPE, BOTH, {{RANK, LAYER_KEY_LENGTHS, 0, 0}}},
    {"out", SHAPE, FORWARD, {{RANK, LAYER_OUT, 0, 2}}},
    {"weights", SHAPE, FORWARD, {{RANK, LAYER_WEIGHTS, 0, 2}}},
    {"dout", SHAPE, BACKWARD, {{RANK, LAYER_DOUT, 0, 4}}},
    {"key gradient", SHAPE, BACKWARD, {{RANK, GRADIENT(LAYER_KEY), 0, 2}}},

    /* Lengths that do not fit together. */
    {"query", SHAPE, ALL, {{LENGTH, LAYER_QUERY, 2, 13}}},
    {"query", SHAPE, ALL, {{LENGTH, LAYER_QUERY, 1, -6}}},
    {"key", SHAPE, ALL, {{LENGTH, LAYER_KEY, 0, 1}}},
    {"key", SHAPE, ALL, {{LENGTH, LAYER_KEY, 2, 9}}},
    {"value", SHAPE, ALL, {{LENGTH, LAYER_VALUE, 0, 3}}},
    {"value", SHAPE, ALL, {{LENGTH, LAYER_VALUE, 1, 4}}},
    {"value", SHAPE, ALL, {{LENGTH, LAYER_VALUE, 2, 13}}},
    {"query_weight", SHAPE, ALL, {{LENGTH, QUERY_WEIGHT, 0, 31}}},
    {"query_weight", SHAPE, ALL, {{LENGTH, QUERY_WEIGHT, 0, 0}}},
    {"key_weight", SHAPE, ALL, {{LENGTH, KEY_WEIGHT, 0, 8}}},
    {"value_weight", SHAPE, ALL, {{LENGTH, VALUE_WEIGHT, 0, 7}}},
    {"out_weight", SHAPE, ALL, {{LENGTH, OUT_WEIGHT, 1, 15}}},
    {"query_bias", SHAPE, ALL, {{LENGTH, QUERY_BIAS, 0, 31}}},
    {"value_bias", SHAPE, ALL, {{LENGTH, VALUE_BIAS, 0, 0}}},
    {"out_bias", SHAPE, ALL, {{LENGTH, OUT_BIAS, 0, 10}}},
    {"value_token", SHAPE, ALL, {{LENGTH, VALUE_TOKEN, 0, 7}}},
    {"mask", SHAPE, BOTH, {{LENGTH, LAYER_MASK, 3, 4}}},
    {"mask", SHAPE, BOTH, {{LENGTH, LAYER_MASK, 1, 2}}},
    {"bias", SHAPE, FORWARD, {{LENGTH, LAYER_BIAS, 3, 7}}},
    {"key_lengths", SHAPE, BOTH, {{LENGTH, LAYER_KEY_LENGTHS, 0, 1}}},
    {"out", SHAPE, FORWARD, {{LENGTH, LAYER_OUT, 2, 12}}},
    {"weights", SHAPE, FORWARD, {{LENGTH, LAYER_WEIGHTS, 3, 5}}},
    {"weights", SHAPE, FORWARD, {{LENGTH, LAYER_WEIGHTS, 1, 1}}},
    {"dout", SHAPE, BACKWARD, {{LENGTH, LAYER_DOUT, 1, 5}}},
    {"query gradient", SHAPE, BACKWARD, {{LENGTH, GRADIENT(LAYER_QUERY), 1, 5}}},
    {"bias gradient", SHAPE, BACKWARD, {{LENGTH, GRADIENT(LAYER_BIAS), 3, 1}}},
    {"key_weight gradient", SHAPE, BACKWARD, {{LENGTH, GRADIENT(KEY_WEIGHT), 0, 15}}},
    {"out_bias gradient", SHAPE, BACKWARD, {{LENGTH, GRADIENT(OUT_BIAS), 0, 12}}},
    {"value_token gradient", SHAPE, BACKWARD, {{LENGTH, GRADIENT(VALUE_TOKEN), 0, 0}}},

    /* Sizes and strides whose products overflow. */
    {"query", SHAPE, ALL, {{LENGTH, LAYER_QUERY, 0, INT64_MAX}}},
    {"key", SHAPE, ALL, {{LENGTH, LAYER_KEY, 1, INT64_MAX / 4}, {STRIDE, LAYER_KEY, 1, 0}}},
    {"query", SHAPE, ALL, {{STRIDE, LAYER_QUERY, 0, INT64_MAX - 3}}},
    {"value", SHAPE, ALL, {{STRIDE, LAYER_VALUE, 2, INT64_MIN}}},
    {"query_weight", SHAPE, ALL | PACKS, {{LENGTH, QUERY_WEIGHT, 0, INT64_MAX}}},
    {"query_weight", SHAPE, ALL | PACKS, {{LENGTH, QUERY_WEIGHT, 0, INT64_C(1) << 31}, {STRIDE, QUERY_WEIGHT, 0, 0}}},
    {"out_weight", SHAPE, ALL | PACKS, {{LENGTH, OUT_WEIGHT, 0, INT64_C(1) << 31}, {STRIDE, OUT_WEIGHT, 0, 0}}},
    {"query", SHAPE, ALL, {{LENGTH, LAYER_QUERY, 2, INT64_C(1) << 31}, {STRIDE, LAYER_QUERY, 2, 0}}},
    {"key_weight", SHAPE, ALL | PACKS, {{STRIDE, KEY_WEIGHT, 1, INT64_MIN}}},
    {"out", SHAPE, FORWARD, {{STRIDE, LAYER_OUT, 1, INT64_MIN}}},

    /* Memory: NULL, misaligned, too small, overlapping. */
    {"query", ARGUMENT, ALL, {{DATA, LAYER_QUERY, 0, 0}}},
    {"out_weight", ARGUMENT, ALL | PACKS, {{DATA, OUT_WEIGHT, 0, 0}}},
    {"key_bias", ARGUMENT, ALL, {{DATA, KEY_BIAS, 0, 0}}},
    {"mask", ARGUMENT, BOTH, {{DATA, LAYER_MASK, 0, 0}}},
    {"out", ARGUMENT, FORWARD, {{DATA, LAYER_OUT, 0, 0}}},
    {"weights", ARGUMENT, FORWARD, {{DATA, LAYER_WEIGHTS, 0, 0}}},
    {"dout", ARGUMENT, BACKWARD, {{DATA, LAYER_DOUT, 0, 0}}},
    {"value_bias gradient", ARGUMENT, BACKWARD, {{DATA, GRADIENT(VALUE_BIAS), 0, 0}}},
    {"query", ARGUMENT, ALL, {{SHIFT, LAYER_QUERY, 0, 2}}},
    {"value_weight", ARGUMENT, ALL | PACKS, {{SHIFT, VALUE_WEIGHT, 0, 1}}},
    {"value_token", ARGUMENT, ALL, {{SHIFT, VALUE_TOKEN, 0, 3}}},
    {"out", ARGUMENT, FORWARD, {{SHIFT, LAYER_OUT, 0, 1}}},
    {"saved", ARGUMENT, BOTH, {{SAVED_SHIFT, ANY, 0, 4}}},
    {"saved", ARGUMENT, BOTH, {{SAVED_SHIFT, ANY, 0, 32}}},
    {"saved", ARGUMENT, BOTH, {{SAVED_BYTES, ANY, 0, -1}}},
    {"saved", ARGUMENT, BOTH, {{SAVED_BYTES, ANY, 0, -64}}},
    {"packed", ARGUMENT, FORWARD | PACKING, {{PACKED_SHIFT, ANY, 0, 4}}},
    {"packed", ARGUMENT, FORWARD | PACKING, {{PACKED_SHIFT, ANY, 0, 32}}},
    {"packed", ARGUMENT, FORWARD | PACKING, {{PACKED_BYTES, ANY, 0, -1}}},
    {"packed has 0 bytes", ARGUMENT, FORWARD | PACKING, {{PACKED_BYTES, ANY, 0, INT64_MIN}}},
    {"saved overlaps packed", ARGUMENT, FORWARD, {{PACKED_IS_SAVED, ANY, 0, 0}}},
    {"packed overlaps query_weight", ARGUMENT, PACKING, {{PACKED_IS_WEIGHT, ANY, 0, 0}}},
    {"key", SHAPE, ALL, {{STRIDE, LAYER_KEY, 1, 33}}},
    {"out_weight", SHAPE, ALL | PACKS, {{STRIDE, OUT_WEIGHT, 0, 18}}},
    {"out", ARGUMENT, FORWARD, {{ALIAS, LAYER_OUT, 0, LAYER_VALUE}}},
    {"out", ARGUMENT, FORWARD, {{ALIAS, LAYER_OUT, 0, OUT_BIAS}}},
    {"weights", ARGUMENT, FORWARD, {{ALIAS, LAYER_WEIGHTS, 0, LAYER_OUT}}},
    {"weights", ARGUMENT, FORWARD, {{ALIAS, LAYER_WEIGHTS, 0, LAYER_MASK}}},
    {"query gradient", ARGUMENT, BACKWARD, {{ALIAS, GRADIENT(LAYER_QUERY), 0, LAYER_QUERY}}},
    {"value gradient", ARGUMENT, BACKWARD, {{ALIAS, GRADIENT(LAYER_VALUE), 0, GRADIENT(LAYER_KEY)}}},
    {"out_weight gradient", ARGUMENT, BACKWARD, {{ALIAS, GRADIENT(OUT_WEIGHT), 0, OUT_WEIGHT}}},
    {"key_token gradient", ARGUMENT, BACKWARD, {{ALIAS, GRADIENT(KEY_TOKEN), 0, GRADIENT(KEY_BIAS)}}},
    {"out", ARGUMENT, FORWARD, {{STRIDE, LAYER_OUT, 0, 0}}},
    {"key_weight gradient", ARGUMENT, BACKWARD, {{STRIDE, GRADIENT(KEY_WEIGHT), 0, 0}}},
};

#endif /* LAYER_BAD_CALLS_H */
