/* One or two places in which the input makes a good call a bad one, or another good one. C11. */
#ifndef FUZZ_EDIT_H
#define FUZZ_EDIT_H

#include "edits.h"
#include "layouts.h"

enum { MOST_EDITS = 2 };

static inline int64_t read_length(reader *from) {
  return ONE_OF(from, 1, 0, 2, 3, 5, 8, 40, -1, INT64_C(1) << 20, INT64_C(1) << 31, INT64_C(1) << 40, INT64_MAX,
                INT64_MAX / 8, INT64_MIN, (INT64_C(1) << 48) + 1, INT64_C(1) << 57, INT64_C(1) << 62, INT64_C(1) << 61);
}

static inline int64_t read_stride(reader *from) {
  return ONE_OF(from, 0, 4, 8, -8, 12, 16, 1, 2, 64, -64, 20, 400, INT64_C(1) << 31, INT64_C(1) << 40, INT64_MAX,
                INT64_MAX - 7, INT64_MIN, INT64_MIN + 8, INT64_C(1) << 60, INT64_C(1) << 62);
}

static inline int64_t read_number(reader *from, int what, int operands) {
  switch (what) {
  case SHIFT:
    return 1 + read_below(from, 7);
  case DTYPE:
    return ONE_OF(from, 1, 2, 3, 4, 5, 0, 6, -1, INT32_MAX, INT32_MIN);
  case RANK:
    return ONE_OF(from, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1, INT32_MAX, INT32_MIN);
  case LENGTH:
    return read_length(from);
  case STRIDE:
    return read_stride(from);
  case ALIAS:
    return read_below(from, operands);
  case ELEMENT:
    return ONE_OF(from, -1, 0, 1, 7, 1000000000, -1000000000);
  default:
    return (int64_t)(int16_t)read_word(from, 2);
  }
}

/* `calls` kinds of edits concern the call: those from CALL on. */
static inline edit read_edit(reader *from, int operands, int calls) {
  const unsigned kind = read_byte(from);
  edit read = {kind < 192 ? MISSING + (int)(kind % (CALL - MISSING)) : CALL + (int)(kind % (unsigned)calls), 0, 0, 0};
  read.which = (int)read_below(from, operands);
  read.axis = (int)read_below(from, MAX_RANK);
  read.number = read_number(from, read.what, operands);
  return read;
}

/* Applies an edit of a tensor, MISSING apart, and keeps the memory behind it as large as it says. */
static inline void edit_operand(arena *all, array *operands, const edit *change) {
  array *target = &operands[change->which];
  const int can_read = target->memory && view_is_readable(&target->view);
  if (!target->memory || (change->what == ALIAS && change->which == change->number))
    return;
  if (change->what == ELEMENT && (!can_read || view_is_empty(&target->view) || !arena_block_of(all, &target->view)))
    return;
  /* Bytes are never misaligned, and further on lies nobody's memory. */
  if (change->what == SHIFT && (!can_read || change->number % (int64_t)dtype_size(target->view.dtype) == 0))
    return;
  edit_tensor(operands, change);
  if (change->what == ALIAS && target->view.data)
    target->view.data = (char *)target->view.data + change->axis * (int64_t)dtype_size(target->view.dtype);
  const int is_laid_out = change->what == DTYPE || change->what == RANK || change->what == LENGTH;
  if ((is_laid_out || change->what == STRIDE) && view_is_readable(&target->view)) {
    arena_back(all, target, 0);
    if (arena_block_of(all, &target->view))
      view_fill(target, (uint64_t)change->which + 1, 1);
  }
}

#endif /* FUZZ_EDIT_H */
