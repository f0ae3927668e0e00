/* Fuzzes the functions that control the library, and leaves it as it was. C11. */
#ifndef FUZZ_CONTROL_H
#define FUZZ_CONTROL_H

#include "check.h"
#include "reader.h"

/* A name on the heap that ends with its last byte. */
static inline char *read_name(reader *from) {
  static const char *const known[] = {"avx512", "avx2", "baseline", "neon", "AVX2", "avx51", "avx2 ", ""};
  const unsigned kind = read_byte(from);
  const size_t length = kind & 128 ? kind & 15 : strlen(known[kind % 8]);
  char *name = (char *)malloc(length + 1);
  if (!name)
    abort();
  for (size_t place = 0; place < length; place++)
    name[place] = kind & 128 ? (char)read_byte(from) : known[kind % 8][place];
  name[length] = '\0';
  return name;
}

static inline int is_tier(const char *name) {
  for (int32_t index = 0; swiftattn_isa_name(index); index++)
    if (!strcmp(swiftattn_isa_name(index), name))
      return 1;
  return 0;
}

static inline void fuzz_tiers(reader *from) {
  char *name = read_name(from);
  const int is_supported = swiftattn_isa_supported(name);
  CHECK(is_supported == 0 || is_supported == 1, "isa_supported gives %d", is_supported);
  CHECK(!is_supported || is_tier(name), "isa_supported knows \"%s\"", name);
  const char *const before = swiftattn_get_isa();
  const swiftattn_status status = swiftattn_set_isa(name);
  CHECK(status == (is_supported ? SWIFTATTN_OK : SWIFTATTN_UNSUPPORTED_ISA), "set_isa(\"%s\") gives %d", name,
        (int)status);
  const char *const now = swiftattn_get_isa();
  CHECK(now && !strcmp(now, is_supported ? name : before), "the tier is %s after \"%s\"", now, name);
  free(name);
  CHECK(swiftattn_set_isa(NULL) == SWIFTATTN_OK && swiftattn_isa_supported(NULL) == 0, "no name");
}

static inline void fuzz_control(reader *from) {
  const int32_t count = (int32_t)read_word(from, 4), index = (int32_t)read_word(from, 4);
  const int32_t before = swiftattn_get_num_threads();
  const int is_allowed = count >= 0 && count <= 1024;
  const swiftattn_status status = swiftattn_set_num_threads(count);
  CHECK(status == (is_allowed ? SWIFTATTN_OK : SWIFTATTN_INVALID_ARGUMENT), "set_num_threads(%d) gives %d", count,
        (int)status);
  const int32_t now = swiftattn_get_num_threads();
  CHECK(is_allowed && count == 0 ? now >= 1 : now == (is_allowed ? count : before), "%d threads after %d", now, count);
  swiftattn_set_num_threads(0);
  fuzz_tiers(from);
  const char *const tier = swiftattn_isa_name(index), *const kernel = swiftattn_kernel_id(index);
  CHECK(!tier || (index >= 0 && index < 3 && strlen(tier) > 2), "isa_name(%d)", index);
  CHECK(!kernel || (index >= 0 && index < 1000 && strchr(kernel, '.')), "kernel_id(%d)", index);
  CHECK(swiftattn_version()[0] && swiftattn_last_error(), "version and last_error");
}

#endif /* FUZZ_CONTROL_H */
