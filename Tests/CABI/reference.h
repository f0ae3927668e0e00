/* Attention and its gradients written as plainly as possible, one query row at a time in double: what the library is
 * compared with. The two functions at the end take the ABI's own arguments, and check none of them. C11 and C++17. */
#ifndef REFERENCE_H
#define REFERENCE_H

#include "tensors.h"

#include <math.h>

/* A query row: its position and the softmax over its keys. */
typedef struct reference_row {
  const swiftattn_attention *attention;
  int rank;
  int64_t index[MAX_RANK]; /* (b..., query head, query row, and one place that get_pair, get_key and get_query fill) */
  double scale;
  double *probabilities; /* one per key; 0 where the pair is masked */
  unsigned char *live;   /* one per key; whether the row may attend to it */
  double lse;
} reference_row;

/* The element of query, dout or out in this row. */
static inline double row_get(reference_row *row, const swiftattn_tensor *tensor, int64_t column) {
  row->index[row->rank - 1] = column;
  return tensor_get(tensor, row->index, row->rank);
}

/* Writes the index of an element of key or value, whose head is the one that this row's query head uses. */
static inline void key_index(const reference_row *row, int64_t key, int64_t column, int64_t *index) {
  memcpy(index, row->index, sizeof row->index);
  index[row->rank - 2] = key;
  index[row->rank - 1] = column;
  if (row->rank > 2) {
    const int axis = row->rank - 3;
    index[axis] /= row->attention->query->shape[axis] / row->attention->key->shape[axis];
  }
}

static inline double key_get(const reference_row *row, const swiftattn_tensor *tensor, int64_t key, int64_t column) {
  int64_t index[MAX_RANK];
  key_index(row, key, column, index);
  return tensor_get(tensor, index, row->rank);
}

/* Per-batch lengths have the shape of the leading dimensions alone. */
static inline int64_t row_length(const reference_row *row, const swiftattn_tensor *lengths, int64_t all) {
  return lengths ? (int64_t)tensor_get(lengths, row->index, lengths->rank) : all;
}

static inline int row_may_attend(reference_row *row, int64_t key) {
  const swiftattn_attention *attention = row->attention;
  const int64_t query = row->index[row->rank - 2];
  const int64_t rows = attention->query->shape[row->rank - 2], keys = attention->key->shape[row->rank - 2];
  if (key >= row_length(row, attention->key_lengths, keys) || query >= row_length(row, attention->query_lengths, rows))
    return 0;
  if (attention->causal == SWIFTATTN_CAUSAL_TOP_LEFT && key > query)
    return 0;
  if (attention->causal == SWIFTATTN_CAUSAL_BOTTOM_RIGHT && key > query + keys - rows)
    return 0;
  if (attention->bias && row_get(row, attention->bias, key) == -INFINITY)
    return 0;
  return !attention->mask || row_get(row, attention->mask, key) != 0;
}

static inline void row_softmax(reference_row *row) {
  const swiftattn_attention *attention = row->attention;
  const int64_t keys = attention->key->shape[row->rank - 2], depth = attention->key->shape[row->rank - 1];
  double largest = -INFINITY, sum = 0;
  for (int64_t key = 0; key < keys; key++) {
    row->live[key] = (unsigned char)row_may_attend(row, key);
    double score = row->live[key] ? 0 : -INFINITY;
    for (int64_t column = 0; row->live[key] && column < depth; column++)
      score += row->scale * row_get(row, attention->query, column) * key_get(row, attention->key, key, column);
    if (row->live[key] && attention->bias)
      score += row_get(row, attention->bias, key);
    row->probabilities[key] = score;
    largest = score > largest ? score : largest;
  }
  for (int64_t key = 0; key < keys; key++) {
    row->probabilities[key] = row->live[key] ? exp(row->probabilities[key] - largest) : 0;
    sum += row->probabilities[key];
  }
  for (int64_t key = 0; key < keys; key++)
    row->probabilities[key] = row->live[key] ? row->probabilities[key] / sum : 0;
  row->lse = sum > 0 ? largest + log(sum) : -INFINITY;
}

/* Row number `linear` of all rows, with its softmax. */
static inline void row_at(reference_row *row, int64_t linear) {
  swiftattn_tensor rows = *row->attention->query;
  rows.shape[rows.rank - 1] = 1;
  unravel(&rows, linear, row->index);
  row_softmax(row);
}

static inline reference_row row_make(const swiftattn_attention *attention) {
  reference_row row;
  memset(&row, 0, sizeof row);
  row.attention = attention;
  row.rank = attention->query->rank;
  row.scale = attention->scale ? *attention->scale : 1 / sqrt((double)attention->query->shape[row.rank - 1]);
  const size_t keys = (size_t)attention->key->shape[row.rank - 2];
  row.probabilities = (double *)calloc(keys + 1, sizeof(double));
  row.live = (unsigned char *)calloc(keys + 1, 1);
  if (!row.probabilities || !row.live) {
    perror("calloc");
    exit(EXIT_FAILURE);
  }
  return row;
}

static inline void row_free(reference_row *row) {
  free(row->probabilities);
  free(row->live);
}

static inline int64_t row_count(const swiftattn_attention *attention) {
  swiftattn_tensor rows = *attention->query;
  rows.shape[rows.rank - 1] = 1;
  return tensor_count(&rows);
}

/* Adds this row's share to the gradients that are not NULL. */
static inline void row_backward(reference_row *row, const swiftattn_tensor *dout,
                                const swiftattn_attention_gradients *gradients) {
  const swiftattn_attention *attention = row->attention;
  const int64_t keys = attention->key->shape[row->rank - 2], depth = attention->key->shape[row->rank - 1];
  const int64_t value_depth = attention->value->shape[row->rank - 1];
  int64_t index[MAX_RANK];
  double delta = 0;
  for (int64_t key = 0; key < keys; key++)
    for (int64_t column = 0; row->live[key] && column < value_depth; column++)
      delta += row->probabilities[key] * row_get(row, dout, column) * key_get(row, attention->value, key, column);
  for (int64_t key = 0; key < keys; key++) {
    if (!row->live[key])
      continue;
    double dprobability = 0;
    for (int64_t column = 0; column < value_depth; column++) {
      dprobability += row_get(row, dout, column) * key_get(row, attention->value, key, column);
      key_index(row, key, column, index);
      if (gradients->value)
        tensor_add(gradients->value, index, row->rank, row->probabilities[key] * row_get(row, dout, column));
    }
    const double dscore = row->probabilities[key] * (dprobability - delta);
    for (int64_t column = 0; column < depth; column++) {
      key_index(row, key, column, index);
      if (gradients->key)
        tensor_add(gradients->key, index, row->rank, row->scale * dscore * row_get(row, attention->query, column));
      row->index[row->rank - 1] = column;
      if (gradients->query)
        tensor_add(gradients->query, row->index, row->rank,
                   row->scale * dscore * key_get(row, attention->key, key, column));
    }
    row->index[row->rank - 1] = key;
    if (gradients->bias)
      tensor_add(gradients->bias, row->index, row->rank, dscore);
  }
}

static inline void reference_forward(const swiftattn_attention *attention, const swiftattn_tensor *out,
                                     const swiftattn_tensor *lse) {
  reference_row row = row_make(attention);
  const int64_t keys = attention->key->shape[row.rank - 2], value_depth = attention->value->shape[row.rank - 1];
  for (int64_t linear = 0; linear < row_count(attention); linear++) {
    row_at(&row, linear);
    for (int64_t column = 0; column < value_depth; column++) {
      double sum = 0;
      for (int64_t key = 0; key < keys; key++)
        if (row.live[key])
          sum += row.probabilities[key] * key_get(&row, attention->value, key, column);
      row.index[row.rank - 1] = column;
      tensor_set(out, row.index, row.rank, sum);
    }
    if (lse)
      tensor_set(lse, row.index, row.rank - 1, row.lse);
  }
  row_free(&row);
}

/* The gradients that are wanted must hold zeros before. */
static inline void reference_backward(const swiftattn_attention *attention, const swiftattn_tensor *dout,
                                      const swiftattn_attention_gradients *gradients) {
  reference_row row = row_make(attention);
  for (int64_t linear = 0; linear < row_count(attention); linear++) {
    row_at(&row, linear);
    row_backward(&row, dout, gradients);
  }
  row_free(&row);
}

#endif /* REFERENCE_H */
