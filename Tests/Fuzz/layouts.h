/* Strides that the input chooses for a tensor: any order of axes, gaps, backwards, repeated, overlapping, and for axes
 * that nothing steps over as far as can be; and the numbers in it. C11. */
#ifndef FUZZ_LAYOUTS_H
#define FUZZ_LAYOUTS_H

#include "backing.h"
#include "reader.h"

enum { LAYOUT_BYTES = 6 };

enum { FAR_STRIDES = 10 };
static const int64_t far_strides[FAR_STRIDES] = {
    0, 8, -8, INT64_MAX, INT64_MAX - 7, INT64_MIN, INT64_MAX, INT64_C(1) << 62, -1, INT64_MIN + 8};

/* Axis number `place` from the innermost one, in one of the orders that swaps and turns give. */
static inline int axis_at(int place, int rank, unsigned order) {
  const int axis = rank - 1 - place;
  if (order & 4 && rank > 2) /* (S, H, D) in memory for (H, S, D), or the like */
    return axis == rank - 2 ? rank - 3 : axis == rank - 3 ? rank - 2 : axis;
  return order & 8 ? place : (axis + (int)(order & 3)) % rank;
}

typedef struct layout_choice {
  unsigned order, gap, step, backwards, repeated, far;
} layout_choice;

static inline layout_choice read_layout(reader *from, int is_output) {
  const unsigned kind = read_byte(from);
  layout_choice chosen = {read_byte(from), 0, 0, read_byte(from), read_byte(from), read_byte(from)};
  chosen.gap = kind & 3;
  chosen.step = kind >> 2 & 1;
  if (!(kind & 8))
    chosen.order = 0;
  if (!(kind & 16))
    chosen.backwards = 0;
  if (is_output || !(kind & 32))
    chosen.repeated = 0;
  return chosen;
}

/* Sets the strides of a view whose shape and dtype are there. Where all elements would take too much memory, the
 * longest axes repeat. */
static inline void view_lay_out(swiftattn_tensor *view, const layout_choice *chosen) {
  const int64_t size = (int64_t)dtype_size(view->dtype);
  const int is_small = view_is_small(view);
  int64_t reach = size * (1 + (int64_t)chosen->step);
  for (int place = 0; place < view->rank; place++) {
    const int axis = axis_at(place, view->rank, chosen->order);
    const int repeats = chosen->repeated >> axis & 1 || (!is_small && view->shape[axis] > 64);
    const int64_t step = chosen->repeated >> 7 && place > 0 ? size : reach; /* rows that overlap, as windows do */
    view->strides[axis] = repeats ? 0 : chosen->backwards >> axis & 1 ? -step : step;
    if (!repeats && view->shape[axis] > 0)
      reach = reach * view->shape[axis] + size * (int64_t)chosen->gap;
    if ((chosen->far & 128) && (view->shape[axis] <= 1 || view_is_empty(view)))
      view->strides[axis] = size * (far_strides[(chosen->far + (unsigned)axis) % FAR_STRIDES] / size);
  }
  /* What lies past the rank is not part of the tensor. */
  for (int axis = view->rank; axis < MAX_RANK; axis++)
    view->shape[axis] = view->strides[axis] = far_strides[(chosen->far + (unsigned)axis) % FAR_STRIDES];
}

/* Random numbers; whole ones lie in 0 ... most. Tensors too large to go through keep what their memory holds. */
static inline void view_fill(const array *target, uint64_t seed, int64_t most) {
  if (!view_is_small(&target->view))
    return;
  array_randomize(target, seed);
  if (target->view.dtype == SWIFTATTN_INT32 || target->view.dtype == SWIFTATTN_INT64)
    for (int64_t linear = 0; linear < tensor_count(&target->view); linear++)
      flat_set(&target->view, linear, (double)((seed + 5 * (uint64_t)linear) % (uint64_t)(most + 1)));
}

#endif /* FUZZ_LAYOUTS_H */
