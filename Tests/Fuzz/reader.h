/* The fuzzer's input as choices. Every part of a problem reads its own piece of the input, so that a changed byte
 * changes one choice and moves no other; past the end come zeros, which stand for the plainest choice. C11. */
#ifndef FUZZ_READER_H
#define FUZZ_READER_H

#include <stddef.h>
#include <stdint.h>

typedef struct reader {
  const uint8_t *next, *end;
} reader;

static inline unsigned read_byte(reader *from) { return from->next < from->end ? *from->next++ : 0; }

/* One of 0 ..< count; count is at most 256. */
static inline int64_t read_below(reader *from, int64_t count) { return read_byte(from) % count; }

static inline uint64_t read_word(reader *from, int bytes) {
  uint64_t word = 0;
  for (int byte = 0; byte < bytes; byte++)
    word |= (uint64_t)read_byte(from) << (8 * byte);
  return word;
}

/* The next `bytes` bytes as a reader of their own. */
static inline reader read_part(reader *from, size_t bytes) {
  reader part = *from;
  const size_t left = (size_t)(from->end - from->next);
  part.end = from->next + (bytes < left ? bytes : left);
  from->next = part.end;
  return part;
}

#define ONE_OF(from, ...)                                                                                              \
  ((const int64_t[]){__VA_ARGS__}[read_below(from, (int64_t)(sizeof((const int64_t[]){__VA_ARGS__}) / 8))])

#endif /* FUZZ_READER_H */
