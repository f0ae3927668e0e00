/* What one thread can do in fused (or, in the baseline tier of x86-64, separate) multiplications and additions. */
#ifndef FMA_PEAK_H
#define FMA_PEAK_H

#ifdef __cplusplus
extern "C" {
#endif

/* Keeps the calling thread busy for `seconds` with nothing but independent multiply-adds of the tier's widest
 * registers, and returns the median rate of many short windows in GFLOP/s, a multiply-add being two. Rates of threads
 * that measure at the same time add up. `isa` is "avx512", "avx2", "neon" or "baseline", and must be one that this
 * processor supports: the instructions are executed unchecked. Returns 0 for a name that is none of these on this kind
 * of processor. */
double swiftattn_fma_peak(const char *isa, int is_f64, double seconds);

#ifdef __cplusplus
}
#endif

#endif /* FMA_PEAK_H */
