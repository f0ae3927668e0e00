/* The fuzzer's operands: laid out and backed as the input chooses, by themselves or side by side in one block. C11. */
#ifndef FUZZ_OPERANDS_H
#define FUZZ_OPERANDS_H

#include "judge.h"
#include "layer_problem.h"
#include "layouts.h"

/* Memory for tensors that can have none: whoever touches it crashes. */
#define NO_MEMORY ((unsigned char *)64)

static inline array operand_make(arena *all, int32_t dtype, const shape *lengths, const layout_choice *chosen) {
  array made = {.memory = NO_MEMORY};
  made.view.data = NO_MEMORY;
  made.view.dtype = dtype;
  made.view.rank = lengths->rank;
  memcpy(made.view.shape, lengths->lengths, sizeof made.view.shape);
  view_lay_out(&made.view, chosen);
  if (view_is_readable(&made.view))
    arena_back(all, &made, dtype_size(dtype) * (chosen->gap + 4 * chosen->step));
  return made;
}

/* Sets axes to 1 by the bits of `ones`, and drops the first `dropped`. */
static inline void shape_broadcast(shape *lengths, unsigned ones, int dropped) {
  for (int axis = 0; axis < lengths->rank; axis++)
    if (ones >> axis & 1)
      lengths->lengths[lengths->rank - 1 - axis] = 1;
  dropped = dropped > lengths->rank ? lengths->rank : dropped;
  lengths->rank -= dropped;
  memmove(lengths->lengths, lengths->lengths + dropped, (size_t)lengths->rank * sizeof *lengths->lengths);
}

static inline void shape_prepend(shape *lengths, int64_t length) {
  memmove(lengths->lengths + 1, lengths->lengths, (size_t)lengths->rank * sizeof *lengths->lengths);
  lengths->lengths[0] = length;
  lengths->rank++;
}

/* Moves operands into one block, side by side along `axis`, in which alone their shapes may differ; otherwise they stay
 * where they are. */
static inline void operands_pack(arena *all, array *const *operands, int count, int axis) {
  const swiftattn_tensor *first = &operands[0]->view;
  shape whole = shape_of(first, 0);
  if (axis < 0)
    axis += whole.rank;
  for (int each = 1; each < count; each++) {
    shape other = shape_of(&operands[each]->view, 0);
    whole.lengths[axis] += other.lengths[axis];
    other.lengths[axis] = first->shape[axis];
    if (!has_shape(first, &other))
      return;
  }
  double elements = 1;
  for (int each = 0; each < whole.rank; each++)
    elements *= (double)whole.lengths[each];
  if (elements == 0 || elements > MOST_ELEMENTS)
    return;
  const layout_choice dense = {0};
  array block = operand_make(all, first->dtype, &whole, &dense);
  char *data = block.view.data;
  for (int each = 0; each < count; each++) {
    swiftattn_tensor *view = &operands[each]->view;
    memcpy(view->strides, block.view.strides, sizeof view->strides);
    view->data = data;
    data += view->strides[axis] * view->shape[axis];
  }
}

/* What a problem hides behind its mask; no tensor where `memory` is NULL. */
typedef struct hidden {
  const array *mask, *query, *key, *value, *bias, *dout;
} hidden;

static inline void poison_slice(const array *target, int from_end, int64_t first, int64_t end) {
  if (target->memory && target->view.rank >= from_end)
    array_fill_slice(target, from_end, first, end, NAN);
}

/* Hides a third of the keys, or of the queries, from everybody by the mask, and makes them NaN. The mask must have an
 * axis for them, and the tensors all their elements to themselves. */
static inline void hide_slice(const hidden *all, int is_query) {
  const int axis = is_query ? 2 : 1;
  const swiftattn_tensor *mask = &all->mask->view;
  const array *source = is_query ? all->query : all->key;
  if (!all->mask->memory || !source->memory || mask->rank < axis)
    return;
  const int64_t length = source->view.shape[source->view.rank - 2], first = length / 3, end = first + 1 + length / 4;
  if (mask->shape[mask->rank - axis] != length)
    return;
  array_fill_slice(all->mask, axis, first, end, 0);
  poison_slice(source, 2, first, end);
  poison_slice(is_query ? all->dout : all->value, 2, first, end);
  if (all->bias->memory && all->bias->view.rank >= axis && all->bias->view.shape[all->bias->view.rank - axis] == length)
    poison_slice(all->bias, axis, first, end);
}

/* A copy of a struct that ends where the struct says: `size` is what it has in struct_size, `most` what it really is.
 */
static inline void *struct_copy(arena *all, const void *given, size_t size, size_t most) {
  const size_t bytes = size < sizeof(size_t) ? sizeof(size_t) : size > most ? most : size;
  return memcpy(arena_block(all, 0, bytes), given, bytes);
}

#endif /* FUZZ_OPERANDS_H */
