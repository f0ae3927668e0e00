/* The layer and its gradients written as plainly as possible in double: the projections around the attention of
 * reference.h, which takes all of a layer's masks as one and the layer's own keys as its last. It checks none of its
 * arguments. C11 and C++17. */
#ifndef LAYER_REFERENCE_H
#define LAYER_REFERENCE_H

#include "reference.h"

enum { REFERENCE_INPUTS = 3, REFERENCE_PARAMETERS = 10, REFERENCE_GRADIENTS = 14 };

typedef struct reference_layer {
  const swiftattn_mha *mha;
  swiftattn_attention attention;
  array query, key, value; /* (B..., H, S, D), rows turned, the layer's own keys last */
  array mask, bias;        /* (B..., Hq, Sq, Sk'), of all that hides a pair, and of zeros where the layer has none */
  array out, lse;
  double *inputs[REFERENCE_INPUTS];         /* query, key and value, those that stand for others included */
  double *parameters[REFERENCE_PARAMETERS]; /* in the order of the struct; NULL where there is none */
  int64_t batches, length_q, length_k, heads_q, heads_kv, depth, depth_v;
} reference_layer;

/* Dense FLOAT64, and NULL where there is none: of query, key, value, bias and the parameters in the struct's order. */
typedef struct reference_layer_gradients {
  const swiftattn_tensor *all[REFERENCE_GRADIENTS];
} reference_layer_gradients;

/* As many zeros, at least one. */
static inline double *numbers_make(int64_t count) {
  double *numbers = (double *)calloc((size_t)count + 1, sizeof(double));
  if (!numbers) {
    perror("calloc");
    exit(EXIT_FAILURE);
  }
  return numbers;
}

/* The elements in row-major order; NULL for NULL. */
static inline double *numbers_of(const swiftattn_tensor *tensor) {
  if (!tensor)
    return NULL;
  double *numbers = numbers_make(tensor_count(tensor));
  for (int64_t linear = 0; linear < tensor_count(tensor); linear++)
    numbers[linear] = flat_get(tensor, linear);
  return numbers;
}

static inline double *dense(const swiftattn_tensor *tensor) { return tensor ? (double *)tensor->data : NULL; }
static inline double *numbers_in(const array *owned) { return (double *)(void *)owned->memory; }

/* y = x w^T + b over rows of x; b may be NULL. */
typedef struct linear_map {
  const double *x, *w, *b;
  int64_t rows, inputs, outputs;
} linear_map;

static inline void linear_forward(const linear_map *map, double *y) {
  for (int64_t row = 0; row < map->rows; row++)
    for (int64_t output = 0; output < map->outputs; output++) {
      double sum = map->b ? map->b[output] : 0;
      for (int64_t input = 0; input < map->inputs; input++)
        sum += map->x[row * map->inputs + input] * map->w[output * map->inputs + input];
      y[row * map->outputs + output] = sum;
    }
}

/* Adds to the gradients that are not NULL. A row whose output has no gradient adds nothing, whatever it holds. */
static inline void linear_backward(const linear_map *map, const double *dy, double *dx, double *dw, double *db) {
  for (int64_t row = 0; row < map->rows; row++)
    for (int64_t output = 0; output < map->outputs; output++) {
      const double gradient = dy[row * map->outputs + output];
      if (gradient == 0)
        continue;
      if (db)
        db[output] += gradient;
      for (int64_t input = 0; input < map->inputs; input++) {
        if (dx)
          dx[row * map->inputs + input] += gradient * map->w[output * map->inputs + input];
        if (dw)
          dw[output * map->inputs + input] += gradient * map->x[row * map->inputs + input];
      }
    }
}

/* A row of (B..., H, S, D). */
static inline double *head_row(const array *heads, int64_t batch, int64_t head, int64_t row) {
  const swiftattn_tensor *view = &heads->view;
  const int64_t count = view->shape[view->rank - 3], rows = view->shape[view->rank - 2];
  return numbers_in(heads) + ((batch * count + head) * rows + row) * view->shape[view->rank - 1];
}

/* Copies rows (B * S, H * D) to heads (B..., H, S', D), where S' is at least S, or, if `back`, heads to rows. */
static inline void move_heads(const array *heads, double *rows, int64_t count, int64_t length, int back) {
  const swiftattn_tensor *view = &heads->view;
  const int64_t head_count = view->shape[view->rank - 3], depth = view->shape[view->rank - 1];
  for (int64_t row = 0; row < count; row++)
    for (int64_t head = 0; head < head_count; head++) {
      double *of_head = head_row(heads, row / length, head, row % length);
      double *of_row = rows + (row * head_count + head) * depth;
      memcpy(back ? of_row : of_head, back ? of_head : of_row, (size_t)depth * sizeof(double));
    }
}

/* Turns the first `length` rows of every head by their positions, from `offset` on, or back. */
static inline void turn_heads(const swiftattn_rope *rope, const array *heads, int64_t length, int64_t offset,
                              int back) {
  const swiftattn_tensor *view = &heads->view;
  const int64_t rows = view->shape[view->rank - 2], depth = view->shape[view->rank - 1];
  if (!rope)
    return;
  const int64_t dim = rope->dim ? rope->dim : depth;
  for (int64_t row = 0; row < tensor_count(view) / depth; row++)
    for (int64_t pair = 0; row % rows < length && pair < dim / 2; pair++) {
      const double turns = pow(rope->base, -2.0 * (double)pair / (double)dim) / rope->scaling;
      const double angle = (back ? -1 : 1) * (double)(row % rows + offset) * turns;
      double *first = numbers_in(heads) + row * depth + (rope->interleaved ? 2 * pair : pair);
      double *second = first + (rope->interleaved ? 1 : dim / 2);
      const double a = *first, b = *second;
      *first = a * cos(angle) - b * sin(angle);
      *second = a * sin(angle) + b * cos(angle);
    }
}

/* The projection number `which`: 0 of query, 1 of key, 2 of value; 3 of the output, whose rows the caller sets. */
static inline linear_map reference_map(const reference_layer *layer, int which) {
  const swiftattn_mha_parameters *parameters = layer->mha->parameters;
  const swiftattn_tensor *weights[] = {parameters->query_weight, parameters->key_weight, parameters->value_weight,
                                       parameters->out_weight};
  linear_map map;
  map.x = which < REFERENCE_INPUTS ? layer->inputs[which] : NULL;
  map.w = layer->parameters[which];
  map.b = layer->parameters[4 + which];
  map.rows = layer->batches * (which == 1 || which == 2 ? layer->length_k : layer->length_q);
  map.inputs = weights[which]->shape[1];
  map.outputs = weights[which]->shape[0];
  return map;
}

/* (B..., heads, rows, depth) of zeros. */
static inline array heads_make(const reference_layer *layer, int64_t heads, int64_t rows, int64_t depth) {
  const swiftattn_tensor *query = layer->mha->query;
  int64_t shape[MAX_RANK] = {0};
  memcpy(shape, query->shape, (size_t)(query->rank - 2) * sizeof *shape);
  shape[query->rank - 2] = heads;
  shape[query->rank - 1] = rows;
  shape[query->rank] = depth;
  const array made = array_make(SWIFTATTN_FLOAT64, query->rank + 1, shape, LAYOUT_DENSE);
  memset(made.memory, 0, made.bytes);
  return made;
}

static inline void project_heads(reference_layer *layer, int which, const array *heads) {
  const linear_map map = reference_map(layer, which);
  double *rows = numbers_make(map.rows * map.outputs);
  linear_forward(&map, rows);
  move_heads(heads, rows, map.rows, which == 0 ? layer->length_q : layer->length_k, 0);
  free(rows);
}

/* The token after the keys given, in every sequence. */
static inline void append_token(const reference_layer *layer, const double *token, const array *heads, int64_t depth) {
  for (int64_t batch = 0; token && batch < layer->batches; batch++)
    for (int64_t head = 0; head < layer->heads_kv; head++)
      memcpy(head_row(heads, batch, head, layer->length_k), token + head * depth, (size_t)depth * sizeof(double));
}

/* Whether the pair at `index` of the scores, of `rank` numbers, may attend. */
static inline int pair_is_seen(const reference_layer *layer, const int64_t *index, int rank) {
  const swiftattn_mha *mha = layer->mha;
  const int64_t query = index[rank - 2], key = index[rank - 1];
  if (key >= layer->length_k)
    return 1;
  if (mha->causal == SWIFTATTN_CAUSAL_TOP_LEFT && key > query)
    return 0;
  if (mha->causal == SWIFTATTN_CAUSAL_BOTTOM_RIGHT && key > query + layer->length_k - layer->length_q)
    return 0;
  if (mha->key_lengths && key >= (int64_t)tensor_get(mha->key_lengths, index, mha->key_lengths->rank))
    return 0;
  return !mha->mask || tensor_get(mha->mask, index, rank) != 0;
}

static inline void reference_layer_masks(reference_layer *layer, int64_t keys) {
  const swiftattn_tensor *bias = layer->mha->bias;
  int64_t index[MAX_RANK] = {0};
  layer->bias = heads_make(layer, layer->heads_q, layer->length_q, keys);
  const swiftattn_tensor *scores = &layer->bias.view;
  layer->mask = array_make(SWIFTATTN_BOOL, scores->rank, scores->shape, LAYOUT_DENSE);
  for (int64_t linear = 0; linear < tensor_count(scores); linear++) {
    unravel(scores, linear, index);
    flat_set(&layer->mask.view, linear, pair_is_seen(layer, index, scores->rank));
    if (bias && index[scores->rank - 1] < layer->length_k)
      flat_set(scores, linear, tensor_get(bias, index, scores->rank));
  }
}

static inline void reference_layer_make(reference_layer *layer, const swiftattn_mha *mha) {
  const swiftattn_mha_parameters *given = mha->parameters;
  const swiftattn_tensor *parameters[] = {
      given->query_weight, given->key_weight, given->value_weight, given->out_weight, given->query_bias,
      given->key_bias,     given->value_bias, given->out_bias,     given->key_token,  given->value_token};
  const swiftattn_tensor *query = mha->query, *key = mha->key ? mha->key : query;
  const swiftattn_tensor *inputs[] = {query, key, mha->value ? mha->value : key};
  memset(layer, 0, sizeof *layer);
  layer->mha = mha;
  layer->length_q = query->shape[query->rank - 2];
  layer->length_k = key->shape[key->rank - 2];
  layer->heads_q = mha->num_heads;
  layer->heads_kv = mha->num_kv_heads ? mha->num_kv_heads : mha->num_heads;
  layer->depth = given->query_weight->shape[0] / layer->heads_q;
  layer->depth_v = given->value_weight->shape[0] / layer->heads_kv;
  layer->batches = 1;
  for (int axis = 0; axis < query->rank - 2; axis++)
    layer->batches *= query->shape[axis];
  for (int which = 0; which < REFERENCE_INPUTS; which++)
    layer->inputs[which] = numbers_of(inputs[which]);
  for (int which = 0; which < REFERENCE_PARAMETERS; which++)
    layer->parameters[which] = numbers_of(parameters[which]);
  const int64_t keys = layer->length_k + (given->key_token != NULL) + (mha->add_zero_attn != 0);
  layer->query = heads_make(layer, layer->heads_q, layer->length_q, layer->depth);
  layer->key = heads_make(layer, layer->heads_kv, keys, layer->depth);
  layer->value = heads_make(layer, layer->heads_kv, keys, layer->depth_v);
  layer->out = heads_make(layer, layer->heads_q, layer->length_q, layer->depth_v);
  layer->lse = array_make(SWIFTATTN_FLOAT64, query->rank, layer->out.view.shape, LAYOUT_DENSE);
  reference_layer_masks(layer, keys);
  layer->attention.query = &layer->query.view;
  layer->attention.key = &layer->key.view;
  layer->attention.value = &layer->value.view;
  layer->attention.mask = &layer->mask.view;
  layer->attention.bias = &layer->bias.view;
}

static inline void reference_layer_free(reference_layer *layer) {
  array *arrays[] = {&layer->query, &layer->key, &layer->value, &layer->mask, &layer->bias, &layer->out, &layer->lse};
  for (size_t each = 0; each < sizeof arrays / sizeof *arrays; each++)
    array_free(arrays[each]);
  for (int which = 0; which < REFERENCE_INPUTS; which++)
    free(layer->inputs[which]);
  for (int which = 0; which < REFERENCE_PARAMETERS; which++)
    free(layer->parameters[which]);
}

/* The softmax of every head, and its average over the heads. */
static inline void reference_layer_weights(const reference_layer *layer, double *weights, double *average) {
  reference_row row = row_make(&layer->attention);
  const int64_t keys = layer->key.view.shape[layer->key.view.rank - 2];
  for (int64_t linear = 0; linear < row_count(&layer->attention); linear++) {
    const int64_t batch = linear / layer->length_q / layer->heads_q;
    row_at(&row, linear);
    for (int64_t key = 0; key < keys; key++) {
      weights[linear * keys + key] = row.probabilities[key];
      average[(batch * layer->length_q + linear % layer->length_q) * keys + key] +=
          row.probabilities[key] / (double)layer->heads_q;
    }
  }
  row_free(&row);
}

/* The outputs are dense FLOAT64; `average` holds zeros. */
static inline void reference_layer_forward(reference_layer *layer, const swiftattn_tensor *out,
                                           const swiftattn_tensor *weights, const swiftattn_tensor *average) {
  const swiftattn_rope *rope = layer->mha->rope;
  project_heads(layer, 0, &layer->query);
  project_heads(layer, 1, &layer->key);
  project_heads(layer, 2, &layer->value);
  turn_heads(rope, &layer->query, layer->length_q, rope ? rope->offset : 0, 0);
  turn_heads(rope, &layer->key, layer->length_k, rope ? rope->key_offset : 0, 0);
  append_token(layer, layer->parameters[8], &layer->key, layer->depth);
  append_token(layer, layer->parameters[9], &layer->value, layer->depth_v);
  reference_forward(&layer->attention, &layer->out.view, &layer->lse.view);
  reference_layer_weights(layer, dense(weights), dense(average));
  linear_map map = reference_map(layer, 3);
  double *merged = numbers_make(map.rows * map.inputs);
  move_heads(&layer->out, merged, map.rows, layer->length_q, 1);
  map.x = merged;
  linear_forward(&map, dense(out));
  free(merged);
}

/* From the gradients of the heads of q, k or v to those of the input and the parameters. */
static inline void backward_heads(const reference_layer *layer, int which, const array *heads,
                                  const reference_layer_gradients *gradients) {
  const swiftattn_mha *mha = layer->mha;
  const int64_t length = which == 0 ? layer->length_q : layer->length_k;
  const int source = which == 2 && mha->value ? 2 : which > 0 && mha->key ? 1 : 0;
  const linear_map map = reference_map(layer, which);
  double *rows = numbers_make(map.rows * map.outputs), *token = which ? dense(gradients->all[11 + which]) : NULL;
  const int64_t depth = heads->view.shape[heads->view.rank - 1];
  for (int64_t batch = 0; token && batch < layer->batches; batch++)
    for (int64_t column = 0; column < layer->heads_kv * depth; column++)
      token[column] += head_row(heads, batch, column / depth, length)[column % depth];
  move_heads(heads, rows, map.rows, length, 1);
  linear_backward(&map, rows, dense(gradients->all[source]), dense(gradients->all[4 + which]),
                  dense(gradients->all[8 + which]));
  free(rows);
}

/* Adds to the gradients. After the forward of the same layer. */
static inline void reference_layer_backward(reference_layer *layer, const swiftattn_tensor *dout,
                                            const reference_layer_gradients *gradients) {
  const swiftattn_rope *rope = layer->mha->rope;
  const int64_t keys = layer->key.view.shape[layer->key.view.rank - 2];
  array query = heads_make(layer, layer->heads_q, layer->length_q, layer->depth);
  array key = heads_make(layer, layer->heads_kv, keys, layer->depth);
  array value = heads_make(layer, layer->heads_kv, keys, layer->depth_v);
  array out = heads_make(layer, layer->heads_q, layer->length_q, layer->depth_v);
  array bias = heads_make(layer, layer->heads_q, layer->length_q, keys);
  linear_map map = reference_map(layer, 3);
  double *merged = numbers_make(map.rows * map.inputs), *dmerged = numbers_make(map.rows * map.inputs);
  double *upper = numbers_of(dout);
  move_heads(&layer->out, merged, map.rows, layer->length_q, 1);
  map.x = merged;
  linear_backward(&map, upper, dmerged, dense(gradients->all[7]), dense(gradients->all[11]));
  move_heads(&out, dmerged, map.rows, layer->length_q, 0);
  const swiftattn_attention_gradients of_heads = {sizeof of_heads, &query.view, &key.view, &value.view, &bias.view};
  reference_backward(&layer->attention, &out.view, &of_heads);
  turn_heads(rope, &query, layer->length_q, rope ? rope->offset : 0, 1);
  turn_heads(rope, &key, layer->length_k, rope ? rope->key_offset : 0, 1);
  backward_heads(layer, 0, &query, gradients);
  backward_heads(layer, 1, &key, gradients);
  backward_heads(layer, 2, &value, gradients);
  int64_t index[MAX_RANK] = {0};
  for (int64_t linear = 0; gradients->all[3] && linear < tensor_count(&bias.view); linear++) {
    unravel(&bias.view, linear, index);
    if (index[bias.view.rank - 1] < layer->length_k)
      tensor_add(gradients->all[3], index, bias.view.rank, flat_get(&bias.view, linear));
  }
  array *arrays[] = {&query, &key, &value, &out, &bias};
  for (size_t each = 0; each < sizeof arrays / sizeof *arrays; each++)
    array_free(arrays[each]);
  free(merged);
  free(dmerged);
  free(upper);
}

#endif /* LAYER_REFERENCE_H */
