/* Is a call allowed? Decided from swiftattn.h alone, without the library's ways: whether outputs overlap, for example,
 * by marking every byte of every tensor. C11. */
#ifndef FUZZ_JUDGE_H
#define FUZZ_JUDGE_H

#include "backing.h"

typedef struct verdict {
  arena *all;
  int is_bad;      /* the call must fail */
  int is_sized;    /* what it needs was counted before that was seen, and may be more than there is */
  int is_unbacked; /* its memory is not there, so it may not be made unless it fails */
} verdict;

static inline verdict judge_begin(arena *all) {
  for (int each = 0; each < all->count; each++) {
    block *owned = &all->blocks[each];
    if (!owned->owners)
      owned->owners = fuzz_allocate(owned->bytes);
    memset(owned->owners, 0, owned->bytes);
  }
  return (verdict){.all = all};
}

static inline void judge_that(verdict *found, int is_fine) { found->is_bad |= !is_fine; }

/* No byte of an output belongs to any other tensor, or to two of its own elements. */
static inline void judge_owners(verdict *found, const swiftattn_tensor *view, int is_output) {
  int64_t index[MAX_RANK] = {0};
  const block *owned = arena_block_of(found->all, view);
  if (!owned || !view_is_small(view)) {
    found->is_unbacked |= !owned || is_output;
    return;
  }
  for (int64_t linear = 0; linear < tensor_count(view); linear++) {
    unravel(view, linear, index);
    unsigned char *owner =
        owned->owners + (tensor_element(view, index, view->rank) - (unsigned char *)block_start(owned));
    for (size_t byte = 0; byte < dtype_size(view->dtype); byte++) {
      judge_that(found, !is_output || !owner[byte]);
      owner[byte] = 1;
    }
  }
}

/* A tensor that is there, by itself. Whether it can be read. Inputs come before outputs. */
static inline int judge_tensor(verdict *found, const swiftattn_tensor *view, int is_output) {
  const __int128 address = (__int128)(uintptr_t)view->data;
  judge_that(found, view_is_readable(view));
  if (!view_is_readable(view))
    return 0;
  double elements = 1;
  for (int axis = 0; axis < view->rank; axis++)
    elements *= view->shape[axis] ? (double)view->shape[axis] : 1;
  judge_that(found, elements <= (double)(INT64_C(1) << 48));
  if (view_is_empty(view))
    return 1;
  const extent needed = view_extent(view);
  int is_sound = view->data && address % (int64_t)dtype_size(view->dtype) == 0 && address + needed.low >= 0 &&
                 address + needed.high <= UINT64_MAX;
  for (int axis = 0; axis < view->rank; axis++)
    is_sound &= view->shape[axis] == 1 || view->strides[axis] % (int64_t)dtype_size(view->dtype) == 0;
  judge_that(found, is_sound);
  if (is_sound)
    judge_owners(found, view, is_output);
  return 1;
}

static inline int judge_required(verdict *found, const swiftattn_tensor *view, int32_t dtype, int is_output) {
  judge_that(found, view != NULL);
  if (!view || !judge_tensor(found, view, is_output))
    return 0;
  judge_that(found, view->dtype == dtype);
  return 1;
}

typedef struct shape {
  int rank;
  int64_t lengths[MAX_RANK + 1];
} shape;

static inline shape shape_of(const swiftattn_tensor *view, int dropped) {
  shape made = {view->rank - dropped, {0}};
  memcpy(made.lengths, view->shape, (size_t)(made.rank > 0 ? made.rank : 0) * sizeof *made.lengths);
  return made;
}

static inline shape shape_with(shape front, int64_t length) {
  front.lengths[front.rank++] = length;
  return front;
}

static inline int has_shape(const swiftattn_tensor *view, const shape *wanted) {
  return view->rank == wanted->rank &&
         !memcmp(view->shape, wanted->lengths, (size_t)view->rank * sizeof *wanted->lengths);
}

/* A tensor that may be NULL, of one shape and dtype. */
static inline void judge_exact(verdict *found, const swiftattn_tensor *view, shape wanted, int32_t dtype,
                               int is_output) {
  if (view && judge_required(found, view, dtype, is_output))
    judge_that(found, has_shape(view, &wanted));
}

static inline void judge_same(verdict *found, const swiftattn_tensor *gradient, const swiftattn_tensor *operand) {
  judge_that(found, !gradient || operand);
  if (gradient && operand && view_is_readable(operand))
    judge_exact(found, gradient, shape_of(operand, 0), operand->dtype, 1);
}

/* What broadcasts to the scores. */
static inline void judge_broadcast(verdict *found, const swiftattn_tensor *view, const shape *scores, int32_t dtype) {
  if (!view || !judge_required(found, view, dtype, 0))
    return;
  judge_that(found, view->rank <= scores->rank);
  for (int place = 1; place <= view->rank && place <= scores->rank; place++) {
    const int64_t length = view->shape[view->rank - place];
    judge_that(found, length == 1 || length == scores->lengths[scores->rank - place]);
  }
}

/* Whole numbers from 0 to `most`, one for each batch element. */
static inline void judge_lengths(verdict *found, const swiftattn_tensor *view, shape batch, int64_t most) {
  if (!view)
    return;
  judge_that(found, view->dtype == SWIFTATTN_INT32 || view->dtype == SWIFTATTN_INT64);
  judge_exact(found, view, batch, view->dtype, 0);
  if (found->is_bad || found->is_unbacked)
    return;
  for (int64_t linear = 0; linear < (view_is_small(view) ? tensor_count(view) : 1); linear++)
    judge_that(found, flat_get(view, linear) >= 0 && flat_get(view, linear) <= (double)most);
}

static inline int dtype_is_real(int32_t dtype) { return dtype == SWIFTATTN_FLOAT32 || dtype == SWIFTATTN_FLOAT64; }

#endif /* FUZZ_JUDGE_H */
