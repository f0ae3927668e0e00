/* The library's memory: where it is allocated, and the texts that stand in static storage. Swift's own allocation ends
 * the process when there is no memory, so nothing in a call may allocate but through here. */
#ifndef SWIFTATTN_MEMORY_H
#define SWIFTATTN_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* swiftattn_allocator of the C ABI, field by field. */
typedef struct sa_allocator {
  size_t struct_size;
  void *context;
  void *(*allocate)(void *context, size_t bytes, size_t alignment);
  void (*deallocate)(void *context, void *memory, size_t bytes);
} sa_allocator;

/* Chooses where memory comes from that is allocated from now on; the pointer is kept. NULL: from the system. */
void sa_use_allocator(const sa_allocator *allocator);

/* The one last chosen. */
__attribute__((returns_nonnull)) const sa_allocator *sa_allocator_in_use(void);

/* This thread's last error: Swift has no thread-local variables. */
enum { sa_last_error_capacity = 256 };
__attribute__((returns_nonnull)) char *sa_last_error_text(void);

/* The place of a kernel's id, NULL past the last place: the address of a variable of Swift's does not last. */
enum { sa_kernel_id_capacity = 64 };
char *sa_kernel_id_text(int32_t tier, int32_t kernel);

#endif /* SWIFTATTN_MEMORY_H */
