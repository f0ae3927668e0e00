/* Arrays for the tests: allocated to the byte, so that AddressSanitizer sees every overrun, in several memory layouts,
 * and read and written as doubles whatever their dtype. C11 and C++17. */
#ifndef TENSORS_H
#define TENSORS_H

#include "swiftattn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANK = SWIFTATTN_MAX_RANK, PATTERN = 0xA5 };

typedef enum layout {
  LAYOUT_DENSE,
  LAYOUT_STRIDED,  /* two elements from one column to the next, gaps after each axis, aligned to one element only */
  LAYOUT_REVERSED, /* every stride negative */
  LAYOUT_COUNT
} layout;

static const char *const layout_names[LAYOUT_COUNT] = {"dense", "strided", "reversed"};

/* A tensor and the memory behind it, which array_free returns. */
typedef struct array {
  swiftattn_tensor view;
  unsigned char *memory;
  size_t bytes;
} array;

static inline size_t dtype_size(int32_t dtype) {
  switch (dtype) {
  case SWIFTATTN_BOOL:
    return 1;
  case SWIFTATTN_FLOAT32:
  case SWIFTATTN_INT32:
    return 4;
  default:
    return 8;
  }
}

static inline int64_t tensor_count(const swiftattn_tensor *tensor) {
  int64_t count = 1;
  for (int axis = 0; axis < tensor->rank; axis++)
    count *= tensor->shape[axis];
  return count;
}

/* The element at the right-aligned `index` of `rank` numbers, where axes of length 1 broadcast. */
static inline unsigned char *tensor_element(const swiftattn_tensor *tensor, const int64_t *index, int rank) {
  unsigned char *element = (unsigned char *)tensor->data;
  for (int axis = 0; axis < tensor->rank; axis++)
    if (tensor->shape[axis] != 1)
      element += tensor->strides[axis] * index[rank - tensor->rank + axis];
  return element;
}

static inline double tensor_get(const swiftattn_tensor *tensor, const int64_t *index, int rank) {
  const unsigned char *element = tensor_element(tensor, index, rank);
  switch (tensor->dtype) {
  case SWIFTATTN_FLOAT32:
    return *(const float *)(const void *)element;
  case SWIFTATTN_FLOAT64:
    return *(const double *)(const void *)element;
  case SWIFTATTN_INT32:
    return *(const int32_t *)(const void *)element;
  case SWIFTATTN_INT64:
    return (double)*(const int64_t *)(const void *)element;
  default:
    return *element != 0;
  }
}

static inline void tensor_set(const swiftattn_tensor *tensor, const int64_t *index, int rank, double number) {
  unsigned char *element = tensor_element(tensor, index, rank);
  switch (tensor->dtype) {
  case SWIFTATTN_FLOAT32:
    *(float *)(void *)element = (float)number;
    break;
  case SWIFTATTN_FLOAT64:
    *(double *)(void *)element = number;
    break;
  case SWIFTATTN_INT32:
    *(int32_t *)(void *)element = (int32_t)number;
    break;
  case SWIFTATTN_INT64:
    *(int64_t *)(void *)element = (int64_t)number;
    break;
  default:
    *element = number != 0;
  }
}

static inline void tensor_add(const swiftattn_tensor *tensor, const int64_t *index, int rank, double number) {
  tensor_set(tensor, index, rank, tensor_get(tensor, index, rank) + number);
}

/* Writes the index of the element `linear` places after the first in row-major order. */
static inline void unravel(const swiftattn_tensor *tensor, int64_t linear, int64_t *index) {
  for (int axis = tensor->rank - 1; axis >= 0; axis--) {
    index[axis] = linear % tensor->shape[axis];
    linear /= tensor->shape[axis];
  }
}

/* The element `linear` places after the first in row-major order. */
static inline double flat_get(const swiftattn_tensor *tensor, int64_t linear) {
  int64_t index[MAX_RANK] = {0};
  unravel(tensor, linear, index);
  return tensor_get(tensor, index, tensor->rank);
}

static inline void flat_set(const swiftattn_tensor *tensor, int64_t linear, double number) {
  int64_t index[MAX_RANK] = {0};
  unravel(tensor, linear, index);
  tensor_set(tensor, index, tensor->rank, number);
}

/* An uninitialised array; its memory holds PATTERN. */
static inline array array_make(int32_t dtype, int rank, const int64_t *shape, layout form) {
  const int64_t size = (int64_t)dtype_size(dtype);
  const int spaced = form == LAYOUT_STRIDED;
  array made;
  memset(&made, 0, sizeof made);
  made.view.dtype = dtype;
  made.view.rank = rank;
  int64_t extent = spaced ? 2 * size : size;
  for (int axis = rank - 1; axis >= 0; axis--) {
    made.view.shape[axis] = shape[axis];
    made.view.strides[axis] = extent;
    extent = extent * shape[axis] + (spaced ? size : 0);
  }
  const int64_t start = spaced ? size : 0;
  made.bytes = (size_t)(extent + start);
  made.memory = (unsigned char *)malloc(made.bytes ? made.bytes : 1);
  if (!made.memory) {
    perror("malloc");
    exit(EXIT_FAILURE);
  }
  memset(made.memory, PATTERN, made.bytes);
  made.view.data = tensor_count(&made.view) ? made.memory + start : NULL;
  for (int axis = 0; form == LAYOUT_REVERSED && made.view.data && axis < rank; axis++) {
    made.view.data = (unsigned char *)made.view.data + made.view.strides[axis] * (shape[axis] - 1);
    made.view.strides[axis] = -made.view.strides[axis];
  }
  return made;
}

static inline void array_free(array *owned) {
  free(owned->memory);
  memset(owned, 0, sizeof *owned);
}

static inline void array_fill(const array *target, double number) {
  int64_t index[MAX_RANK] = {0};
  for (int64_t linear = 0; linear < tensor_count(&target->view); linear++) {
    unravel(&target->view, linear, index);
    tensor_set(&target->view, index, target->view.rank, number);
  }
}

/* Numbers in [-1, 1), or truth values that are mostly true, from a linear congruential generator (Knuth's MMIX). */
static inline void array_randomize(const array *target, uint64_t seed) {
  int64_t index[MAX_RANK] = {0};
  uint64_t state = seed * 2654435761u + 1;
  for (int64_t linear = 0; linear < tensor_count(&target->view); linear++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const double number = (double)(state >> 11) / 4503599627370496.0 - 1;
    unravel(&target->view, linear, index);
    tensor_set(&target->view, index, target->view.rank, target->view.dtype == SWIFTATTN_BOOL ? number > -0.5 : number);
  }
}

/* Whether every byte outside the elements still holds PATTERN. */
static inline int array_gaps_intact(const array *written) {
  unsigned char *copy = (unsigned char *)malloc(written->bytes ? written->bytes : 1);
  if (!copy)
    return 0;
  memcpy(copy, written->memory, written->bytes);
  array shadow = *written;
  if (written->view.data)
    shadow.view.data = copy + ((unsigned char *)written->view.data - written->memory);
  int64_t index[MAX_RANK] = {0};
  for (int64_t linear = 0; linear < tensor_count(&shadow.view); linear++) {
    unravel(&shadow.view, linear, index);
    memset(tensor_element(&shadow.view, index, shadow.view.rank), PATTERN, dtype_size(shadow.view.dtype));
  }
  int intact = 1;
  for (size_t byte = 0; byte < written->bytes; byte++)
    intact &= copy[byte] == PATTERN;
  free(copy);
  return intact;
}

#endif /* TENSORS_H */
