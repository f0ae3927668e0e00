/* The fuzzer of the C ABI, for libFuzzer: each input is one problem of attention, of the layer or of the controls, and
 * the calls that belong to it. `make fuzz` runs it; Tests/Fuzz/corpus is what test-sanitizers repeats. */
#define _POSIX_C_SOURCE 200809L
#include "fuzz_attention.h"
#include "fuzz_control.h"
#include "fuzz_layer.h"

/* Calls that take more memory than there is are errors, not the end of the program. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1:max_allocation_size_mb=512:detect_stack_use_after_return=1";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  reader from = {data, data + size};
  const unsigned kind = read_byte(&from), machine = read_byte(&from);
  const char *const tier = swiftattn_isa_name((int32_t)(machine & 3));
  if (tier && swiftattn_isa_supported(tier))
    swiftattn_set_isa(tier);
  swiftattn_set_num_threads(1 + (int32_t)(machine >> 2 & 3));
  if (kind % 16 == 15)
    fuzz_control(&from);
  else if (kind & 1)
    fuzz_attention(&from);
  else
    fuzz_layer(&from);
  swiftattn_set_isa(NULL);
  swiftattn_set_num_threads(0);
  if (checks_failed)
    abort();
  return 0;
}
