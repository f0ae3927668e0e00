/* swiftattn: exact multi-head attention on CPUs, forward and backward.
 *
 * This header is the only definition of the C ABI. It is C11 and C++-safe and needs nothing else to be used:
 *
 *     swiftattn_attention attention = {.struct_size = sizeof attention, .query = &q, .key = &k, .value = &v};
 *     if (swiftattn_attention_forward(&attention, &out, NULL) != SWIFTATTN_OK) puts(swiftattn_last_error());
 *
 * Shape letters: B any number of leading batch dimensions, Hq query heads, Hkv key/value heads (Hq is a multiple of
 * Hkv; query head h uses key/value head h / (Hq/Hkv)), Sq and Sk the lengths, D the head dim of query and key, Dv of
 * value.
 *
 * Rules that hold for every function:
 * - Ownership: the library never keeps a pointer after it returns and never frees the caller's memory.
 * - Threads: every function may be called from any thread at any time, also while other calls run, and after fork().
 * - Failure: a status other than SWIFTATTN_OK is returned, swiftattn_last_error() says what was wrong, and no output
 * has been written (except for SWIFTATTN_INTERRUPTED and for a failed allocation, after which outputs are unspecified).
 *   No function aborts, exits, prints or unwinds.
 * - Inputs and the caller's floating-point environment are never modified. */
#ifndef SWIFTATTN_H
#define SWIFTATTN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SWIFTATTN_VERSION_MAJOR 0
#define SWIFTATTN_VERSION_MINOR 1
#define SWIFTATTN_VERSION_PATCH 0

/* The largest rank a tensor may have. */
#define SWIFTATTN_MAX_RANK 8

typedef enum swiftattn_status {
  SWIFTATTN_OK = 0,
  SWIFTATTN_INVALID_ARGUMENT =
      1,                       /* a missing, malformed or out-of-range argument, an unknown enum value or struct_size */
  SWIFTATTN_INVALID_DTYPE = 2, /* an element type that is unknown, or that this argument does not take */
  SWIFTATTN_INVALID_SHAPE = 3, /* a rank, length or stride that does not fit the other arguments */
  SWIFTATTN_OUT_OF_MEMORY = 4, /* workspace could not be allocated */
  SWIFTATTN_INTERRUPTED = 5,   /* the caller's interrupt callback asked to stop */
  SWIFTATTN_UNSUPPORTED_ISA = 6 /* an unknown instruction set, or one this processor does not have */
} swiftattn_status;

typedef enum swiftattn_dtype {
  SWIFTATTN_FLOAT32 = 1,
  SWIFTATTN_FLOAT64 = 2,
  SWIFTATTN_BOOL = 3, /* one byte; zero is false, anything else is true */
  SWIFTATTN_INT32 = 4,
  SWIFTATTN_INT64 = 5
} swiftattn_dtype;

typedef enum swiftattn_causal {
  SWIFTATTN_CAUSAL_NONE = 0,
  SWIFTATTN_CAUSAL_TOP_LEFT = 1,    /* query i sees keys j <= i (PyTorch's is_causal) */
  SWIFTATTN_CAUSAL_BOTTOM_RIGHT = 2 /* query i sees keys j <= i + Sk - Sq (decoding with a cache) */
} swiftattn_causal;

/* A view of the caller's memory. `strides` are in bytes and multiples of the element size; inputs may use zero and
 * negative strides, outputs may not let two of their elements share memory. `data` points at element [0, 0, ...], is
 * aligned to the element size, and may be NULL only when some length is zero. */
typedef struct swiftattn_tensor {
  void *data;
  int32_t dtype; /* a swiftattn_dtype */
  int32_t rank;
  int64_t shape[SWIFTATTN_MAX_RANK];
  int64_t strides[SWIFTATTN_MAX_RANK];
} swiftattn_tensor;

/* The operands and options that forward and backward share. Zero-initialise, set struct_size, fill in what is wanted.
 *
 * out = softmax(scale * query . key^T + bias, over the keys that the masks leave) . value
 * (Vaswani et al. 2017, equation 1). All masks combine by AND. A row that may attend to nothing has output 0, lse -inf
 * and zero gradients; so has every row when Sk is 0. Masked keys and values are skipped: a NaN in them reaches nothing.
 */
typedef struct swiftattn_attention {
  size_t struct_size; /* sizeof(swiftattn_attention) */
  /* Required. query (B, Hq, Sq, D), key (B, Hkv, Sk, D), value (B, Hkv, Sk, Dv), all FLOAT32 or all FLOAT64, of one
   * rank: 2 is (S, D), 3 is (H, S, D), more are leading batch dimensions, which are equal in all three. */
  const swiftattn_tensor *query;
  const swiftattn_tensor *key;
  const swiftattn_tensor *value;
  /* Optional. BOOL, broadcastable to (B, Hq, Sq, Sk) by right alignment: true means "may attend". */
  const swiftattn_tensor *mask;
  /* Optional. query's dtype, broadcastable to (B, Hq, Sq, Sk), added to the scaled scores. -inf masks the pair. */
  const swiftattn_tensor *bias;
  /* Optional. INT32 or INT64 of shape (B): keys j >= key_lengths[b] are masked; 0 <= key_lengths[b] <= Sk. */
  const swiftattn_tensor *key_lengths;
  /* Optional. INT32 or INT64 of shape (B): rows i >= query_lengths[b] attend to nothing; 0 <= query_lengths[b] <= Sq.
   */
  const swiftattn_tensor *query_lengths;
  /* Optional. NULL means 1/sqrt(D). Must be finite and not zero. */
  const double *scale;
  int32_t causal; /* a swiftattn_causal */
  /* Optional. Called on the calling thread every few milliseconds of a long call; a nonzero answer ends the call with
   * SWIFTATTN_INTERRUPTED. It may not fork and return in the child. */
  int32_t (*interrupted)(void *context);
  void *interrupted_context;
} swiftattn_attention;

/* Where backward writes. NULL leaves a gradient out, and its work with it. */
typedef struct swiftattn_attention_gradients {
  size_t struct_size;            /* sizeof(swiftattn_attention_gradients) */
  const swiftattn_tensor *query; /* query's shape and dtype */
  const swiftattn_tensor *key;   /* key's shape and dtype; summed over the query heads that share it */
  const swiftattn_tensor *value; /* value's shape and dtype; likewise */
  const swiftattn_tensor *bias;  /* bias's shape and dtype, summed over its broadcast dimensions; only with a bias */
} swiftattn_attention_gradients;

/* "0.1.0"; static storage. */
const char *swiftattn_version(void);

/* What went wrong in this thread's latest call that failed, one line of UTF-8 naming the argument, for example
 * "key has head_dim 32 but query has 64". Never NULL; empty before any failure; valid until this thread's next call. */
const char *swiftattn_last_error(void);

/* Computes out (B, Hq, Sq, Dv), of query's dtype and rank, and, unless it is NULL, lse (B, Hq, Sq) of the same dtype:
 * the natural logarithm of the sum of exp(scores) of each row. out and lse may be strided, but may overlap neither each
 * other nor any input. Accumulates in the operands' dtype; results do not depend on the number of threads, on other
 * batch elements or on strides, to the bit. */
swiftattn_status swiftattn_attention_forward(const swiftattn_attention *attention, const swiftattn_tensor *out,
                                             const swiftattn_tensor *lse);

/* Computes the gradients of sum(dout * out). `out` and `lse` are what forward gave for the same `attention`; `dout` has
 * out's shape and dtype. The wanted gradients may be strided, but may not overlap each other or any input. */
swiftattn_status swiftattn_attention_backward(const swiftattn_attention *attention, const swiftattn_tensor *out,
                                              const swiftattn_tensor *lse, const swiftattn_tensor *dout,
                                              const swiftattn_attention_gradients *gradients);

/* How many threads a call may use, the calling one included. The default is the environment variable
 * SWIFTATTN_NUM_THREADS, else what CPU affinity and cgroup quota leave. Set 0 to return to the default;
 * 1 <= count <= 1024 otherwise. Small calls use fewer, and so do calls while another call keeps the threads busy. */
int32_t swiftattn_get_num_threads(void);
swiftattn_status swiftattn_set_num_threads(int32_t count);

/* The instruction-set tiers in this build, best first: "avx512", "avx2", "baseline". Static storage; NULL past the end.
 */
const char *swiftattn_isa_name(int32_t index);

/* 1 when this processor can run the tier of that name, else 0. */
int32_t swiftattn_isa_supported(const char *name);

/* The tier in use: the one last set, else the environment variable SWIFTATTN_ISA, else the best that the processor
 * supports. NULL when SWIFTATTN_ISA names none; every computation then fails with SWIFTATTN_UNSUPPORTED_ISA. */
const char *swiftattn_get_isa(void);

/* Chooses a tier by name for calls that start from now on, in all threads; NULL returns to the default. */
swiftattn_status swiftattn_set_isa(const char *name);

/* The kernels of the tier in use, one id each: dtype.operation.tile.isa, such as "f32.multiply.8x3x16.avx512": a
 * register tile of 8 rows by 3 vectors of 16 lanes. Static storage; NULL past the end, or when swiftattn_get_isa() is
 * NULL. */
const char *swiftattn_kernel_id(int32_t index);

#ifdef __cplusplus
}
#endif

#endif /* SWIFTATTN_H */
