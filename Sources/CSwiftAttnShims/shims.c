#include "swiftattn_memory.h"
#include "swiftattn_threads.h"
#include "swiftattn_vectors.h"

#include <stdatomic.h>
#include <sys/mman.h>

#define SA_HIDDEN __attribute__((visibility("hidden")))

/* Large memory in huge pages, if the system has some to spare: a page fault for every 4 KiB took 8 % of a layer's
 * forward. */
static void *system_allocate(void *context, size_t bytes, size_t alignment) {
  (void)context;
  const size_t huge_page = (size_t)2 << 20;
  const int is_large = bytes >= 2 * huge_page;
  void *memory = NULL;
  if (posix_memalign(&memory, is_large ? huge_page : alignment, bytes) != 0)
    return NULL;
#ifdef MADV_HUGEPAGE
  if (is_large) {
    int saved = errno;
    madvise(memory, bytes & ~(huge_page - 1), MADV_HUGEPAGE);
    errno = saved;
  }
#endif
  return memory;
}

static void system_deallocate(void *context, void *memory, size_t bytes) {
  (void)context;
  (void)bytes;
  free(memory);
}

static const sa_allocator system_allocator = {sizeof(sa_allocator), NULL, system_allocate, system_deallocate};
static const sa_allocator *_Atomic allocator_in_use = &system_allocator;

/* Sequentially consistent, as is what keeps memory: see MemoryShelf.put. */
SA_HIDDEN void sa_use_allocator(const sa_allocator *allocator) {
  atomic_store(&allocator_in_use, allocator ? allocator : &system_allocator);
}

SA_HIDDEN const sa_allocator *sa_allocator_in_use(void) { return atomic_load(&allocator_in_use); }

SA_HIDDEN char *sa_last_error_text(void) {
  static _Thread_local char text[sa_last_error_capacity];
  return text;
}

SA_HIDDEN char *sa_kernel_id_text(int32_t tier, int32_t kernel) {
  static char texts[8][48][sa_kernel_id_capacity];
  return tier < 0 || tier >= 8 || kernel < 0 || kernel >= 48 ? NULL : texts[tier][kernel];
}
