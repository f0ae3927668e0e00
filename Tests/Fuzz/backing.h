/* The memory behind the fuzzer's tensors: heap blocks exactly as large as a descriptor says, so that AddressSanitizer
 * sees one byte too many on either side; and what was in them before a call. C11. */
#ifndef FUZZ_BACKING_H
#define FUZZ_BACKING_H

#include "check.h"

#include <sanitizer/asan_interface.h>

/* Tensors that need more memory than this get none, and those of more elements are not gone through. */
enum { MOST_BLOCKS = 128, MOST_BYTES = 1 << 23, MOST_ELEMENTS = 1 << 16 };

typedef struct block {
  unsigned char *base; /* what was allocated: `lead` bytes that nothing may touch, then `bytes` */
  size_t lead, bytes;
  unsigned char *before; /* the bytes as they were before a call */
  unsigned char *owners; /* for each byte whose tensor it is; 0 is none */
} block;

typedef struct arena {
  block blocks[MOST_BLOCKS];
  int count;
} arena;

static inline unsigned char *block_start(const block *owned) { return owned->base + owned->lead; }

static inline void *fuzz_allocate(size_t bytes) {
  void *memory = NULL;
  if (posix_memalign(&memory, 64, bytes ? bytes : 1)) {
    perror("posix_memalign");
    exit(EXIT_FAILURE);
  }
  return memory;
}

/* New memory, which holds PATTERN. */
static inline unsigned char *arena_block(arena *all, size_t lead, size_t bytes) {
  if (all->count == MOST_BLOCKS)
    abort();
  block *made = &all->blocks[all->count++];
  *made = (block){fuzz_allocate(lead + bytes), lead, bytes, NULL, NULL};
  memset(made->base, PATTERN, lead + bytes);
  ASAN_POISON_MEMORY_REGION(made->base, lead);
  return block_start(made);
}

static inline void arena_free(arena *all) {
  for (int each = 0; each < all->count; each++) {
    block *owned = &all->blocks[each];
    ASAN_UNPOISON_MEMORY_REGION(owned->base, owned->lead);
    free(owned->base);
    free(owned->before);
    free(owned->owners);
  }
  all->count = 0;
}

/* The block that has the `bytes` bytes at `data`; NULL when none has all of them. */
static inline block *arena_find(arena *all, const void *data, size_t bytes) {
  const uintptr_t address = (uintptr_t)data;
  for (int each = 0; each < all->count; each++) {
    block *owned = &all->blocks[each];
    const uintptr_t start = (uintptr_t)block_start(owned);
    if (address >= start && address - start <= owned->bytes && bytes <= owned->bytes - (address - start))
      return owned;
  }
  return NULL;
}

/* Whether the descriptor itself can be read: its rank, dtype and lengths are some that exist. */
static inline int view_is_readable(const swiftattn_tensor *view) {
  if (view->rank < 0 || view->rank > MAX_RANK || view->dtype < SWIFTATTN_FLOAT32 || view->dtype > SWIFTATTN_INT64)
    return 0;
  for (int axis = 0; axis < view->rank; axis++)
    if (view->shape[axis] < 0)
      return 0;
  return 1;
}

/* Of a readable one. */
static inline int view_is_empty(const swiftattn_tensor *view) {
  for (int axis = 0; axis < view->rank; axis++)
    if (view->shape[axis] == 0)
      return 1;
  return 0;
}

/* Where the bytes of a tensor lie, relative to its data: low ..< high. */
typedef struct extent {
  __int128 low, high;
} extent;

static inline extent view_extent(const swiftattn_tensor *view) {
  extent found = {0, 0};
  if (view_is_empty(view))
    return found;
  for (int axis = 0; axis < view->rank; axis++) {
    /* 2^126 and less, so that eight of them have room once they are cut at 2^100. */
    __int128 span = (__int128)view->strides[axis] * (view->shape[axis] - 1);
    const __int128 most = (__int128)1 << 100;
    span = span > most ? most : span < -most ? -most : span;
    *(span < 0 ? &found.low : &found.high) += span;
  }
  found.high += (__int128)dtype_size(view->dtype);
  return found;
}

/* The number of elements, as a double because there may be any number. */
static inline double view_elements(const swiftattn_tensor *view) {
  double count = 1;
  for (int axis = 0; axis < view->rank; axis++)
    count *= (double)view->shape[axis];
  return count;
}

/* Few enough to look at one by one, and to lie in memory with gaps. */
static inline int view_is_small(const swiftattn_tensor *view) { return view_elements(view) <= MOST_ELEMENTS; }

/* The block in which all elements of a readable view lie; NULL when there is none. */
static inline block *arena_block_of(arena *all, const swiftattn_tensor *view) {
  const extent needed = view_extent(view);
  if (needed.high - needed.low > MOST_BYTES || !view->data)
    return NULL;
  return arena_find(all, (const char *)view->data + (int64_t)needed.low, (size_t)(needed.high - needed.low));
}

/* Puts memory behind a readable view, which begins `lead` bytes into an allocation. Views that are too large keep what
 * they have. */
static inline void arena_back(arena *all, array *target, size_t lead) {
  const extent needed = view_extent(&target->view);
  if (needed.high - needed.low > MOST_BYTES)
    return;
  unsigned char *memory = arena_block(all, lead, (size_t)(needed.high - needed.low));
  target->memory = memory; /* says that the operand is there; the arena owns it */
  target->view.data = memory - (int64_t)needed.low;
}

/* --- what a call may write --- */

static inline void arena_remember(arena *all) {
  for (int each = 0; each < all->count; each++) {
    block *owned = &all->blocks[each];
    if (!owned->before)
      owned->before = fuzz_allocate(owned->bytes);
    memcpy(owned->before, block_start(owned), owned->bytes);
  }
}

/* Lets a call have written the elements of a view. */
static inline void arena_allow(arena *all, const swiftattn_tensor *view) {
  int64_t index[MAX_RANK] = {0};
  const block *owned = view && !view_is_empty(view) ? arena_block_of(all, view) : NULL;
  if (!owned)
    return;
  for (int64_t linear = 0; linear < tensor_count(view); linear++) {
    unravel(view, linear, index);
    const unsigned char *element = tensor_element(view, index, view->rank);
    memcpy(owned->before + (element - block_start(owned)), element, dtype_size(view->dtype));
  }
}

/* Nothing else has changed: inputs, gaps between elements, and after an error the outputs. */
static inline void arena_check(arena *all, const char *call) {
  for (int each = 0; each < all->count; each++) {
    block *owned = &all->blocks[each];
    ASAN_UNPOISON_MEMORY_REGION(owned->base, owned->lead);
    int lead_is_intact = 1;
    for (size_t byte = 0; byte < owned->lead; byte++)
      lead_is_intact &= owned->base[byte] == PATTERN;
    ASAN_POISON_MEMORY_REGION(owned->base, owned->lead);
    CHECK(lead_is_intact && !memcmp(owned->before, block_start(owned), owned->bytes),
          "%s: block %d of %zu bytes was written", call, each, owned->bytes);
  }
}

#endif /* FUZZ_BACKING_H */
