/* Each loop is one asm block, so that neither compiler nor flags can change what is measured. The accumulators converge
 * to 1 (a = 0.999 a + 0.001): numbers of ordinary size, which cost ordinary power. There are enough of them to hide the
 * latency of a multiply-add at two a cycle. */
#define _POSIX_C_SOURCE 200809L
#include "fma_peak.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Does `iterations` rounds and returns the floating-point operations in them. */
typedef double loop(long iterations);

#if defined(__x86_64__)

enum { vector_bytes = 64 };

/* Registers 14 and 15 hold the factor and the term; the others are accumulators. */
#define ACCUMULATORS_14 "0,1,2,3,4,5,6,7,8,9,10,11,12,13"
#define ACCUMULATORS_20 ACCUMULATORS_14 ",16,17,18,19,20,21"
#define CLOBBERED_16                                                                                                   \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",  \
      "xmm14", "xmm15", "cc"
#define CLOBBERED_22 "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", CLOBBERED_16

#define DEFINE_LOOP(name, features, scalar, flops_per_iteration, assembly, ...)                                        \
  __attribute__((target(features))) static double name(long iterations) {                                              \
    scalar factor[vector_bytes / sizeof(scalar)], term[vector_bytes / sizeof(scalar)];                                 \
    const double flops = (double)(flops_per_iteration) * (double)iterations;                                           \
    for (size_t i = 0; i < vector_bytes / sizeof(scalar); i++) {                                                       \
      factor[i] = (scalar)0.999;                                                                                       \
      term[i] = (scalar)0.001;                                                                                         \
    }                                                                                                                  \
    __asm__ volatile(assembly : "+r"(iterations) : "m"(factor), "m"(term) : __VA_ARGS__);                              \
    return flops;                                                                                                      \
  }

#define ASSEMBLY(load, reg, accumulators, multiply_add)                                                                \
  load " %1, %%" reg "14\n\t"                                                                                          \
       ".irp i,15," accumulators "\n\t" load " %2, %%" reg "\\i\n\t.endr\n"                                            \
       "1:\n\t.irp i," accumulators "\n\t" multiply_add "\n\t.endr\n\t"                                                \
       "dec %0\n\tjnz 1b\n\t"

#define ASSEMBLY_512(type)                                                                                             \
  ASSEMBLY("vmovup" type, "zmm", ACCUMULATORS_20, "vfmadd213p" type " %%zmm15, %%zmm14, %%zmm\\i") "vzeroupper"
#define ASSEMBLY_256(type)                                                                                             \
  ASSEMBLY("vmovup" type, "ymm", ACCUMULATORS_14, "vfmadd213p" type " %%ymm15, %%ymm14, %%ymm\\i") "vzeroupper"
#define ASSEMBLY_128(type)                                                                                             \
  ASSEMBLY("movup" type, "xmm", ACCUMULATORS_14, "mulp" type " %%xmm14, %%xmm\\i\n\taddp" type " %%xmm15, %%xmm\\i")

DEFINE_LOOP(avx512_f32, "avx512f", float, 20 * 16 * 2, ASSEMBLY_512("s"), CLOBBERED_22)
DEFINE_LOOP(avx512_f64, "avx512f", double, 20 * 8 * 2, ASSEMBLY_512("d"), CLOBBERED_22)
DEFINE_LOOP(avx2_f32, "avx2,fma", float, 14 * 8 * 2, ASSEMBLY_256("s"), CLOBBERED_16)
DEFINE_LOOP(avx2_f64, "avx2,fma", double, 14 * 4 * 2, ASSEMBLY_256("d"), CLOBBERED_16)
DEFINE_LOOP(baseline_f32, "sse2", float, 14 * 4 * 2, ASSEMBLY_128("s"), CLOBBERED_16)
DEFINE_LOOP(baseline_f64, "sse2", double, 14 * 2 * 2, ASSEMBLY_128("d"), CLOBBERED_16)

#elif defined(__aarch64__)

/* Registers 30 and 31 hold the factors. The multiply-add overwrites the sum, so the sums grow, to 20 in a window. */
#define ACCUMULATORS_24 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23"

#define DEFINE_LOOP(name, scalar, shape)                                                                               \
  static double name(long iterations) {                                                                                \
    const scalar factor = (scalar)0.999, other = (scalar)0.001;                                                        \
    const double flops = 24 * (16.0 / sizeof(scalar)) * 2 * (double)iterations;                                        \
    __asm__ volatile("ld1r {v30." shape "}, [%1]\n\tld1r {v31." shape "}, [%2]\n\t"                                    \
                     ".irp i," ACCUMULATORS_24 "\n\tmovi v\\i\\().2d, #0\n\t.endr\n\t"                                 \
                     "1:\n\t.irp i," ACCUMULATORS_24 "\n\tfmla v\\i\\()." shape ", v30." shape ", v31." shape "\n\t"   \
                     ".endr\n\tsubs %0, %0, #1\n\tb.ne 1b"                                                             \
                     : "+r"(iterations)                                                                                \
                     : "r"(&factor), "r"(&other), "m"(factor), "m"(other)                                              \
                     : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14",  \
                       "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v30", "v31", "cc");             \
    return flops;                                                                                                      \
  }

DEFINE_LOOP(neon_f32, float, "4s")
DEFINE_LOOP(neon_f64, double, "2d")

#else

/* Elsewhere the compiler chooses the instructions: sixteen vectors of 16 bytes, multiplied and added. They begin with
 * different values, or the compiler would see that they stay equal and compute one of them. */
#define TIMES16(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define DECLARE(i) vector accumulator##i = term * i##.0f;
#define MULTIPLY_ADD(i) accumulator##i = accumulator##i * factor + term;
#define KEEP(i) __asm__ volatile("" : : "m"(accumulator##i));

#define DEFINE_LOOP(name, scalar)                                                                                      \
  static double name(long iterations) {                                                                                \
    typedef scalar vector __attribute__((vector_size(16)));                                                            \
    const vector factor = (vector){0} + (scalar)0.999, term = (vector){0} + (scalar)0.001;                             \
    TIMES16(DECLARE)                                                                                                   \
    for (long n = 0; n < iterations; n++) {                                                                            \
      TIMES16(MULTIPLY_ADD)                                                                                            \
    }                                                                                                                  \
    TIMES16(KEEP)                                                                                                      \
    return 16.0 * (double)(sizeof(vector) / sizeof(scalar)) * 2 * (double)iterations;                                  \
  }

DEFINE_LOOP(baseline_f32, float)
DEFINE_LOOP(baseline_f64, double)

#endif

static loop *find_loop(const char *isa, int is_f64) {
#if defined(__x86_64__)
  if (strcmp(isa, "avx512") == 0)
    return is_f64 ? avx512_f64 : avx512_f32;
  if (strcmp(isa, "avx2") == 0)
    return is_f64 ? avx2_f64 : avx2_f32;
#endif
#if defined(__aarch64__)
  if (strcmp(isa, "neon") == 0 || strcmp(isa, "baseline") == 0)
    return is_f64 ? neon_f64 : neon_f32;
#else
  if (strcmp(isa, "baseline") == 0)
    return is_f64 ? baseline_f64 : baseline_f32;
#endif
  return NULL;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

enum { most_windows = 8192 };

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double swiftattn_fma_peak(const char *isa, int is_f64, double seconds) {
  const long window = 20000; /* iterations: a fraction of a millisecond, between two interruptions by the system */
  loop *run = find_loop(isa, is_f64);
  double rates[most_windows], start = now();
  const double end = start + seconds;
  size_t count = 0;
  while (run != NULL && start < end && count < most_windows) {
    const double flops = run(window), stop = now();
    rates[count++] = flops / (stop - start) * 1e-9;
    start = stop;
  }
  qsort(rates, count, sizeof *rates, compare);
  return count == 0 ? 0 : rates[count / 2];
}
