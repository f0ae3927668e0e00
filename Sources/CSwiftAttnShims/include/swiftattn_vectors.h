/* The vector operations that Swift's own SIMD types lower to scalar code or library calls. README.md says why for each.
 * Everything is expressed over clang's portable vectors: the importing module's -march decides the instructions. */
#ifndef SWIFTATTN_VECTORS_H
#define SWIFTATTN_VECTORS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define SA_INLINE static inline __attribute__((always_inline))
#define SA_VECTOR(type, lanes) type __attribute__((ext_vector_type(lanes)))

typedef SA_VECTOR(float, 16) sa_f32;
typedef SA_VECTOR(double, 8) sa_f64;
typedef SA_VECTOR(int32_t, 16) sa_f32_bits;
typedef SA_VECTOR(int64_t, 8) sa_f64_bits;
typedef SA_VECTOR(uint32_t, 16) sa_f32_words;
typedef SA_VECTOR(uint32_t, 8) sa_f64_words;

/* Without FMA in the target a fused product would be sixteen calls to fmaf. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define SA_FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
#else
#define SA_FMA(a, b, c) ((a) * (b) + (c))
#endif

/* name: f32 or f64; exponent_shift: of the IEEE format. */
#define SA_DEFINE_LANES(name, scalar, lanes, exponent_shift)                                                           \
  SA_INLINE sa_##name sa_fma_##name(sa_##name a, sa_##name b, sa_##name c) { return SA_FMA(a, b, c); }                 \
  /* b where either is NaN, as the machine's max does. */                                                              \
  SA_INLINE sa_##name sa_max_##name(sa_##name a, sa_##name b) { return a > b ? a : b; }                                \
  /* 2^n from t = 1.5 * 2^exponent_shift + exponent_bias + n: the low bits of t are the exponent. Zero at n = -bias.   \
   */                                                                                                                  \
  SA_INLINE sa_##name sa_power_of_two_##name(sa_##name t) {                                                            \
    return (sa_##name)((sa_##name##_bits)t << exponent_shift);                                                         \
  }                                                                                                                    \
  SA_INLINE sa_##name sa_where_equal_##name(sa_##name x, sa_##name y, sa_##name a, sa_##name b) {                      \
    return x == y ? a : b;                                                                                             \
  }                                                                                                                    \
  SA_INLINE sa_##name sa_where_greater_##name(sa_##name x, sa_##name y, sa_##name a, sa_##name b) {                    \
    return x > y ? a : b;                                                                                              \
  }                                                                                                                    \
  SA_INLINE int sa_any_unequal_##name(sa_##name a, sa_##name b) { return __builtin_reduce_or(a != b) != 0; }           \
  /* a in the lanes whose word has the bit, b elsewhere. */                                                            \
  SA_INLINE sa_##name sa_where_bit_##name(const uint32_t *words, uint32_t bit, sa_##name a, sa_##name b) {             \
    sa_##name##_words w;                                                                                               \
    memcpy(&w, words, sizeof w);                                                                                       \
    return __builtin_convertvector((w & bit) != 0, sa_##name##_bits) ? a : b;                                          \
  }

SA_DEFINE_LANES(f32, float, 16, 23)
SA_DEFINE_LANES(f64, double, 8, 52)

/* One bit for each of `count` <= 64 mask bytes that are not zero. */
SA_INLINE uint64_t sa_mask_word(const uint8_t *mask, ptrdiff_t stride, ptrdiff_t count) {
  uint64_t word = 0;
  if (stride == 1 && count == 64) {
    typedef SA_VECTOR(uint8_t, 16) bytes;
    typedef SA_VECTOR(_Bool, 16) flags;
    for (int i = 0; i < 4; i++) {
      bytes b;
      uint16_t part;
      memcpy(&b, mask + 16 * i, sizeof b);
      flags f = __builtin_convertvector(b != 0, flags);
      memcpy(&part, &f, sizeof part);
      word |= (uint64_t)part << (16 * i);
    }
    return word;
  }
  for (ptrdiff_t i = 0; i < count; i++)
    word |= (uint64_t)(mask[i * stride] != 0) << i;
  return word;
}

/* One bit for each of `count` <= 64 bias elements that are not -inf. */
#define SA_DEFINE_BIAS_WORD(name, scalar, lanes, part_type)                                                            \
  SA_INLINE uint64_t sa_bias_word_##name(const scalar *bias, ptrdiff_t stride, ptrdiff_t count) {                      \
    uint64_t word = 0;                                                                                                 \
    if (stride == 1 && count == 64) {                                                                                  \
      typedef SA_VECTOR(_Bool, lanes) flags;                                                                           \
      for (int i = 0; i < 64 / lanes; i++) {                                                                           \
        sa_##name b;                                                                                                   \
        part_type part;                                                                                                \
        memcpy(&b, bias + lanes * i, sizeof b);                                                                        \
        flags f = __builtin_convertvector(b != -(sa_##name)INFINITY, flags);                                           \
        memcpy(&part, &f, sizeof part);                                                                                \
        word |= (uint64_t)part << (lanes * i);                                                                         \
      }                                                                                                                \
      return word;                                                                                                     \
    }                                                                                                                  \
    for (ptrdiff_t i = 0; i < count; i++)                                                                              \
      word |= (uint64_t)(bias[i * stride] != -(scalar)INFINITY) << i;                                                  \
    return word;                                                                                                       \
  }

SA_DEFINE_BIAS_WORD(f32, float, 16, uint16_t)
SA_DEFINE_BIAS_WORD(f64, double, 8, uint8_t)

/* A square tile, one vector a row, is transposed in place. Two stages stay within 128-bit parts (unpack), two move
 * whole parts: what both AVX2 and AVX-512 do in one instruction. */
#define SA_EVEN_PARTS_F32(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define SA_ODD_PARTS_F32(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#define SA_EVEN_PARTS_F64(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13)
#define SA_ODD_PARTS_F64(a, b) __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15)

/* Four vectors whose 128-bit parts form a 4 x 4 matrix: its transpose goes to four columns of the tile. */
#define SA_TRANSPOSE_PARTS(name, KIND, p, q, r, s, c0, c1, c2, c3)                                                     \
  do {                                                                                                                 \
    sa_##name even_low = SA_EVEN_PARTS_##KIND(p, q), odd_low = SA_ODD_PARTS_##KIND(p, q);                              \
    sa_##name even_high = SA_EVEN_PARTS_##KIND(r, s), odd_high = SA_ODD_PARTS_##KIND(r, s);                            \
    tile[c0] = SA_EVEN_PARTS_##KIND(even_low, even_high);                                                              \
    tile[c1] = SA_EVEN_PARTS_##KIND(odd_low, odd_high);                                                                \
    tile[c2] = SA_ODD_PARTS_##KIND(even_low, even_high);                                                               \
    tile[c3] = SA_ODD_PARTS_##KIND(odd_low, odd_high);                                                                 \
  } while (0)

SA_INLINE void sa_transpose_tile_f32(sa_f32 tile[16]) {
  sa_f32 pairs[16], quads[16];
#pragma unroll
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = __builtin_shufflevector(tile[i], tile[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    pairs[i + 1] =
        __builtin_shufflevector(tile[i], tile[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
#pragma unroll
  for (int i = 0; i < 16; i += 4) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      quads[i + 2 * j] = __builtin_shufflevector(pairs[i + j], pairs[i + j + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24,
                                                 25, 12, 13, 28, 29);
      quads[i + 2 * j + 1] = __builtin_shufflevector(pairs[i + j], pairs[i + j + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11,
                                                     26, 27, 14, 15, 30, 31);
    }
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
    SA_TRANSPOSE_PARTS(f32, F32, quads[j], quads[j + 4], quads[j + 8], quads[j + 12], j, j + 4, j + 8, j + 12);
}

SA_INLINE void sa_transpose_tile_f64(sa_f64 tile[8]) {
  sa_f64 pairs[8];
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = __builtin_shufflevector(tile[i], tile[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    pairs[i + 1] = __builtin_shufflevector(tile[i], tile[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
#pragma unroll
  for (int j = 0; j < 2; j++)
    SA_TRANSPOSE_PARTS(f64, F64, pairs[j], pairs[j + 2], pairs[j + 4], pairs[j + 6], j, j + 2, j + 4, j + 6);
}

/* sa_transpose: destination row c, at destination + destination_offsets[c], receives element c of every source row r,
 * at source + source_offsets[r], each source row first multiplied by `factor`. sa_add_transposed: it is added to what
 * is there, at destination + c * stride. sa_multiply_transposed_tile: sums[i][lane] += a[i][0] * b[lane][0] + a[i][1] *
 * b[lane][1] + ..., in this order, for `rows` <= 8 rows of a, a constant to the compiler. The tile of b, whose rows are
 * the lanes, is transposed in registers, and stored to packed[p][lane] unless that is NULL. */
#define SA_DEFINE_TRANSPOSITIONS(name, scalar, lanes)                                                                  \
  SA_INLINE void sa_load_transposed_##name(const scalar *source, const ptrdiff_t *source_offsets,                      \
                                           const sa_##name *factor, sa_##name tile[lanes]) {                           \
    _Pragma("unroll") for (int i = 0; i < lanes; i++) {                                                                \
      memcpy(&tile[i], source + source_offsets[i], sizeof tile[i]);                                                    \
      tile[i] *= *factor;                                                                                              \
    }                                                                                                                  \
    sa_transpose_tile_##name(tile);                                                                                    \
  }                                                                                                                    \
  SA_INLINE void sa_transpose_##name(const scalar *source, const ptrdiff_t *source_offsets, scalar *destination,       \
                                     const ptrdiff_t *destination_offsets, sa_##name factor) {                         \
    sa_##name tile[lanes];                                                                                             \
    sa_load_transposed_##name(source, source_offsets, &factor, tile);                                                  \
    _Pragma("unroll") for (int i = 0; i < lanes; i++) {                                                                \
      memcpy(destination + destination_offsets[i], &tile[i], sizeof tile[i]);                                          \
    }                                                                                                                  \
  }                                                                                                                    \
  SA_INLINE void sa_add_transposed_##name(const scalar *source, const ptrdiff_t *source_offsets, scalar factor,        \
                                          scalar *destination, ptrdiff_t stride) {                                     \
    const sa_##name factors = (sa_##name)factor;                                                                       \
    sa_##name tile[lanes], sum;                                                                                        \
    sa_load_transposed_##name(source, source_offsets, &factors, tile);                                                 \
    _Pragma("unroll") for (int i = 0; i < lanes; i++) {                                                                \
      memcpy(&sum, destination + i * stride, sizeof sum);                                                              \
      sum += tile[i];                                                                                                  \
      memcpy(destination + i * stride, &sum, sizeof sum);                                                              \
    }                                                                                                                  \
  }                                                                                                                    \
  SA_INLINE void sa_multiply_transposed_tile_##name(const scalar *a, ptrdiff_t a_stride, const scalar *b,              \
                                                    ptrdiff_t b_stride, scalar *packed, ptrdiff_t packed_stride,       \
                                                    int rows, scalar *sums) {                                          \
    sa_##name tile[lanes], results[8];                                                                                 \
    _Pragma("unroll") for (int i = 0; i < lanes; i++) { memcpy(&tile[i], b + i * b_stride, sizeof tile[i]); }          \
    sa_transpose_tile_##name(tile);                                                                                    \
    if (packed) {                                                                                                      \
      _Pragma("unroll") for (int p = 0; p < lanes; p++) {                                                              \
        memcpy(packed + p * packed_stride, &tile[p], sizeof tile[p]);                                                  \
      }                                                                                                                \
    }                                                                                                                  \
    memcpy(results, sums, rows * sizeof results[0]);                                                                   \
    _Pragma("unroll") for (int p = 0; p < lanes; p++) {                                                                \
      _Pragma("unroll") for (int i = 0; i < rows; i++) {                                                               \
        results[i] = SA_FMA((sa_##name)a[i * a_stride + p], tile[p], results[i]);                                      \
      }                                                                                                                \
    }                                                                                                                  \
    memcpy(sums, results, rows * sizeof results[0]);                                                                   \
  }

SA_DEFINE_TRANSPOSITIONS(f32, float, 16)
SA_DEFINE_TRANSPOSITIONS(f64, double, 8)

/* The rounding and denormal modes of this thread, with the flags raised so far; Swift cannot reach the register. */
SA_INLINE uint64_t sa_float_environment(void) {
#if defined(__x86_64__)
  return __builtin_ia32_stmxcsr();
#elif defined(__aarch64__)
  uint64_t modes, flags;
  __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(modes), "=r"(flags));
  return flags << 32 | (uint32_t)modes;
#else
  return 0;
#endif
}
SA_INLINE void sa_set_float_environment(uint64_t environment) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr((unsigned)environment);
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(environment & UINT32_MAX), "r"(environment >> 32));
#else
  (void)environment;
#endif
}
/* Round to nearest, keep denormals, trap nothing: what processes start with. */
SA_INLINE uint64_t sa_default_float_environment(void) {
#if defined(__x86_64__)
  return 0x1F80;
#else
  return 0;
#endif
}

/* Fetches the line into the first-level cache; a hint, which no address makes fail. */
SA_INLINE void sa_prefetch(const void *address) { __builtin_prefetch(address, 0, 3); }

/* The same into the second level only, for a line that is used thousands of cycles later. */
SA_INLINE void sa_prefetch_early(const void *address) { __builtin_prefetch(address, 0, 2); }

/* The same of a line to be written, which leaves the caches of other cores. */
SA_INLINE void sa_prefetch_to_write(const void *address) { __builtin_prefetch(address, 1, 3); }

/* libm, which Embedded Swift cannot import. */
SA_INLINE double sa_log2(double x) { return log2(x); }
SA_INLINE double sa_pow(double x, double y) { return pow(x, y); }
SA_INLINE double sa_sin(double x) { return sin(x); }
SA_INLINE double sa_cos(double x) { return cos(x); }

/* Any pointer but NULL, for tensors without elements: Swift's own conversion from an integer is an optional. */
SA_INLINE __attribute__((returns_nonnull)) void *sa_nowhere(void) { return (void *)64; }

enum { SA_CPU_BASELINE = 0, SA_CPU_AVX2 = 1, SA_CPU_AVX512 = 2, SA_CPU_NEON = 1 };

/* The best tier that processor and operating system support: x86-64-v3 or -v4 by cpuid, register state by xgetbv. Linux
 * on AArch64 always has NEON. */
SA_INLINE int32_t sa_cpu_tier(void) {
#if defined(__x86_64__)
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d))
    return SA_CPU_BASELINE;
  const unsigned leaf1 = bit_FMA | bit_MOVBE | bit_OSXSAVE | bit_AVX | bit_F16C;
  if ((c & leaf1) != leaf1)
    return SA_CPU_BASELINE;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0x6) != 0x6)
    return SA_CPU_BASELINE;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
    return SA_CPU_BASELINE;
  const unsigned avx2 = bit_AVX2 | bit_BMI | bit_BMI2;
  if ((b & avx2) != avx2)
    return SA_CPU_BASELINE;
  unsigned a1, b1, c1, d1;
  if (!__get_cpuid(0x80000001, &a1, &b1, &c1, &d1) || !(c1 & bit_LZCNT))
    return SA_CPU_BASELINE;
  const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL;
  if ((b & avx512) != avx512 || (low & 0xe6) != 0xe6)
    return SA_CPU_AVX2;
  return SA_CPU_AVX512;
#elif defined(__aarch64__)
  return SA_CPU_NEON;
#else
  return SA_CPU_BASELINE;
#endif
}

#endif
