/* An allocator for the tests: it counts, lets the request fail that it is told to, fills new and returned memory with
 * garbage, and checks that every piece comes back once, whole, and to the allocator it is from. C11. */
#ifndef ALLOCATOR_H
#define ALLOCATOR_H

#include "check.h"

#include <stdatomic.h>

typedef struct test_allocator {
  swiftattn_allocator allocator; /* `context` is this struct */
  void *(*source)(size_t alignment, size_t bytes);
  atomic_long live_blocks, live_bytes, allocations; /* the last one counts those refused too */
  atomic_long succeeding;                           /* how many allocations succeed before one fails, negative: all */
  atomic_int mistakes;                              /* of the library */
} test_allocator;

/* What stands in front of each piece, in as many bytes as its alignment. */
typedef struct piece_header {
  const test_allocator *owner;
  size_t bytes, alignment;
} piece_header;

enum { GARBAGE = 0xFD }; /* NaN, as floats, doubles and whatever is made of them */

static void *test_allocate(void *context, size_t bytes, size_t alignment) {
  test_allocator *self = (test_allocator *)context;
  atomic_fetch_add(&self->allocations, 1);
  if (atomic_load(&self->succeeding) >= 0 && atomic_fetch_sub(&self->succeeding, 1) == 0)
    return NULL;
  if (bytes == 0 || alignment < sizeof(piece_header) || (alignment & (alignment - 1))) {
    atomic_fetch_add(&self->mistakes, 1);
    return NULL;
  }
  const size_t whole = (bytes + alignment - 1) / alignment * alignment;
  unsigned char *memory = (unsigned char *)self->source(alignment, alignment + whole);
  if (!memory)
    return NULL;
  const piece_header header = {self, bytes, alignment};
  memcpy(memory, &header, sizeof header);
  memset(memory + alignment, GARBAGE, whole);
  atomic_fetch_add(&self->live_blocks, 1);
  atomic_fetch_add(&self->live_bytes, (long)bytes);
  return memory + alignment;
}

static void test_deallocate(void *context, void *memory, size_t bytes) {
  test_allocator *self = (test_allocator *)context;
  const size_t alignment = 64;
  piece_header header = {NULL, 0, 0};
  if (memory)
    memcpy(&header, (unsigned char *)memory - alignment, sizeof header);
  if (header.owner != self || header.bytes != bytes || header.alignment != alignment) {
    atomic_fetch_add(&self->mistakes, 1);
    return;
  }
  memset((unsigned char *)memory - alignment, GARBAGE, alignment + bytes);
  free((unsigned char *)memory - alignment);
  atomic_fetch_sub(&self->live_blocks, 1);
  atomic_fetch_sub(&self->live_bytes, (long)bytes);
}

static void test_allocator_make(test_allocator *made) {
  memset(made, 0, sizeof *made);
  made->allocator.struct_size = sizeof made->allocator;
  made->allocator.context = made;
  made->allocator.allocate = test_allocate;
  made->allocator.deallocate = test_deallocate;
  made->source = aligned_alloc;
  atomic_store(&made->succeeding, -1);
}

/* Checks that the library has given everything back that is not in use, which is nothing. */
static void check_all_returned(test_allocator *self, const char *when) {
  swiftattn_release_memory();
  CHECK(atomic_load(&self->live_blocks) == 0 && atomic_load(&self->live_bytes) == 0,
        "%s: %ld pieces of %ld bytes are not given back", when, atomic_load(&self->live_blocks),
        atomic_load(&self->live_bytes));
  CHECK(atomic_load(&self->mistakes) == 0, "%s: %d wrong requests or pieces", when, atomic_load(&self->mistakes));
}

#endif /* ALLOCATOR_H */
