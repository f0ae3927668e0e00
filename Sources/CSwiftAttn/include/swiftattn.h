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
 * - Ownership: the library never keeps a pointer after it returns (but for swiftattn_set_allocator's) and never frees
 *   the caller's memory.
 * - Threads: every function may be called from any thread at any time, also while other calls run, and after fork().
 * - Failure: a status other than SWIFTATTN_OK is returned, swiftattn_last_error() says what was wrong, and no output
 * has been written (except for SWIFTATTN_INTERRUPTED and for a failed allocation, after which outputs are unspecified).
 *   No function aborts, exits, prints or unwinds.
 * - Inputs are never modified. The caller's floating-point environment neither changes a result nor is it changed: a
 * call computes in the default one and puts rounding and denormal modes, traps and exception flags back as they were.
 */
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
 * aligned to the element size, and may be NULL only when some length is zero. At most 2^48 elements, also where a
 * length of zero is taken for one. */
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
  /* Optional. NULL means 1/sqrt(D). Must be finite and not zero as a number of query's dtype, also times log2(e). */
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

/* Rotary positions (Su et al. 2021): pair t of a head's numbers turns by position / scaling * base^(-2t / dim). */
typedef struct swiftattn_rope {
  size_t struct_size;  /* sizeof(swiftattn_rope) */
  int64_t dim;         /* how many of a head's numbers turn, the first ones; even; 0 means all */
  double base;         /* above 0, usually 10000 */
  double scaling;      /* above 0, usually 1 */
  int32_t interleaved; /* 0: pair t is (t, t + dim / 2), as in Llama; else (2t, 2t + 1), as in GPT-J and GLM */
  int64_t offset;      /* the position of the first query, at most 2^53 in magnitude */
  int64_t key_offset;  /* the position of the first key, likewise; often the same */
} swiftattn_rope;

/* The parameters of a multi-head attention layer, or their gradients. Weights are (outputs, inputs), as in PyTorch:
 * y = x W^T + b. They may be views of one array, such as the three thirds of PyTorch's in_proj_weight, which makes
 * self-attention one product. All of the layer's dtype. Letters as above, and E the width of query, kdim and vdim of
 * key and value. */
typedef struct swiftattn_mha_parameters {
  size_t struct_size;                   /* sizeof(swiftattn_mha_parameters) */
  const swiftattn_tensor *query_weight; /* (Hq * D, E) */
  const swiftattn_tensor *key_weight;   /* (Hkv * D, kdim) */
  const swiftattn_tensor *value_weight; /* (Hkv * Dv, vdim) */
  const swiftattn_tensor *out_weight;   /* (E, Hq * Dv); its rows may be any number, which is the output's width */
  /* Optional, each of as many elements as its weight has rows. */
  const swiftattn_tensor *query_bias;
  const swiftattn_tensor *key_bias;
  const swiftattn_tensor *value_bias;
  const swiftattn_tensor *out_bias;
  /* Optional, both or neither: one more key (Hkv * D) and value (Hkv * Dv), which every query sees. */
  const swiftattn_tensor *key_token;
  const swiftattn_tensor *value_token;
} swiftattn_mha_parameters;

/* A multi-head attention layer and what goes into it (Vaswani et al. 2017, section 3.2.2):
 *
 *     q = heads(query Wq^T + bq)   k = heads(key Wk^T + bk)   v = heads(value Wv^T + bv)   then rope turns q and k
 *     out = concat(attention(q, k, v)) Wo^T + bo                scale 1/sqrt(D); masks as in swiftattn_attention
 *
 * Zero-initialise, set struct_size, fill in what is wanted. A row that may attend to nothing gives out_bias. A token of
 * key and value that no query may see reaches no output and no gradient, whatever it holds. */
typedef struct swiftattn_mha {
  size_t struct_size;                         /* sizeof(swiftattn_mha) */
  const swiftattn_mha_parameters *parameters; /* required */
  int32_t num_heads;                          /* Hq */
  int32_t num_kv_heads;                       /* Hkv, which divides Hq; 0 means Hq */
  /* Nonzero: one more key and value, of zeros, that every query sees, after the token. */
  int32_t add_zero_attn;
  const swiftattn_rope *rope; /* optional; the token and the zero key do not turn */
  /* query (B, Sq, E) is required. key (B, Sk, kdim): NULL means query. value (B, Sk, vdim): NULL means key. All FLOAT32
   * or all FLOAT64, of one rank from 2 to 7, with equal leading dimensions. */
  const swiftattn_tensor *query;
  const swiftattn_tensor *key;
  const swiftattn_tensor *value;
  /* Optional, as in swiftattn_attention; about the Sk keys given, not the token and the zero key. */
  const swiftattn_tensor *mask;
  const swiftattn_tensor *bias;
  const swiftattn_tensor *key_lengths;
  int32_t causal; /* a swiftattn_causal */
  /* Optional, as in swiftattn_attention. */
  int32_t (*interrupted)(void *context);
  void *interrupted_context;
  /* Optional: what swiftattn_mha_pack made of these parameters, whose weights have not changed since. Forward reads the
   * weights there; backward does not. No bit of the results changes. */
  const void *packed;
  size_t packed_bytes;
} swiftattn_mha;

/* Where a layer's backward writes. NULL leaves a gradient out, and its work with it. */
typedef struct swiftattn_mha_gradients {
  size_t struct_size; /* sizeof(swiftattn_mha_gradients) */
  /* Overwritten; each of its input's shape and dtype. An input that was not given (NULL) has none: its gradient is
   * summed into that of the input which stood for it, so self-attention has that of query alone. */
  const swiftattn_tensor *query;
  const swiftattn_tensor *key;
  const swiftattn_tensor *value;
  const swiftattn_tensor *bias; /* of the additive bias, summed over its broadcast dimensions */
  /* Optional. Each is ADDED to what is there, so that steps accumulate; of its parameter's shape and dtype. */
  const swiftattn_mha_parameters *parameters;
} swiftattn_mha_gradients;

/* Alignment of the memory that forward saves in, and of packed weights. */
#define SWIFTATTN_MHA_ALIGNMENT 64

/* How many bytes swiftattn_mha_pack needs: those of the four weights, with the lengths of each rounded up to multiples
 * of 16 (FLOAT32) or 8 (FLOAT64), whatever the instruction set. Only the weights count, not biases and tokens. */
swiftattn_status swiftattn_mha_packed_bytes(const swiftattn_mha_parameters *parameters, size_t *bytes);

/* Copies the weights into `packed`, at least swiftattn_mha_packed_bytes of the caller's memory, aligned to
 * SWIFTATTN_MHA_ALIGNMENT, in the order in which products read them. Otherwise forward does that anew in each call:
 * worth it for layers that are called more often than their weights change, the more so the fewer tokens a call has.
 * What is packed may be read by any number of calls at once, of any instruction set; it must be packed again after the
 * weights have changed, which no call can notice. */
swiftattn_status swiftattn_mha_pack(const swiftattn_mha_parameters *parameters, void *packed, size_t packed_bytes);

/* How many bytes forward saves for backward: the heads of q, k and v, attention's output and lse; never Sq * Sk. It
 * depends on shapes and dtype, and on whether key and value are the same memory as query. */
swiftattn_status swiftattn_mha_saved_bytes(const swiftattn_mha *mha, size_t *bytes);

/* Computes out (B, Sq, E), and, unless it is NULL, weights: the softmax that it used, (B, Hq, Sq, Sk'), or with one
 * dimension less its average over the heads, (B, Sq, Sk'). Sk' is Sk and then the token and the zero key, where the
 * layer has them; asking for weights changes no bit of out. With `saved` NULL nothing is kept for backward; otherwise
 * it is at least swiftattn_mha_saved_bytes of the caller's memory, aligned to SWIFTATTN_MHA_ALIGNMENT. Outputs may be
 * strided, but may overlap neither each other nor any input. Results do not depend on the number of threads, on other
 * batch elements or on strides, to the bit. */
swiftattn_status swiftattn_mha_forward(const swiftattn_mha *mha, const swiftattn_tensor *out,
                                       const swiftattn_tensor *weights, void *saved, size_t saved_bytes);

/* Computes the gradients of sum(dout * out). `saved` is what forward left for the same `mha`, whose inputs and
 * parameters have not changed; `dout` (B, Sq, E). The gradients may be strided, but may not overlap each other or any
 * input. Needs as much memory again as was saved. */
swiftattn_status swiftattn_mha_backward(const swiftattn_mha *mha, const void *saved, size_t saved_bytes,
                                        const swiftattn_tensor *dout, const swiftattn_mha_gradients *gradients);

/* How many threads a call may use, the calling one included. The default is the environment variable
 * SWIFTATTN_NUM_THREADS, else what CPU affinity and cgroup quota leave. Set 0 to return to the default;
 * 1 <= count <= 1024 otherwise. Small calls use fewer, and so do calls while another call keeps the threads busy.
 * Threads look for new work for 90 microseconds before they sleep, so calls that follow each other closely keep
 * processors busy in between. */
int32_t swiftattn_get_num_threads(void);
swiftattn_status swiftattn_set_num_threads(int32_t count);

/* The instruction-set tiers in this build, best first: "avx512", "avx2", "baseline" on x86-64, "neon", "baseline" on
 * AArch64, "baseline" elsewhere. Static storage; NULL past the end. */
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

/* Where the library's memory comes from. Both functions may be called from any thread, also by several at once and
 * while swiftattn's own threads run. They may not call the library, unwind, or fork and return in the child. */
typedef struct swiftattn_allocator {
  size_t struct_size; /* sizeof(swiftattn_allocator) */
  void *context;      /* handed to both functions */
  /* Required. At least `bytes` bytes, more than 0, at a multiple of `alignment`, a power of two (64 in this version).
   * NULL when there is no memory: the call then fails with SWIFTATTN_OUT_OF_MEMORY, or does without. */
  void *(*allocate)(void *context, size_t bytes, size_t alignment);
  /* Required. Takes back what `allocate` gave, never NULL, with the number of bytes that was asked for. */
  void (*deallocate)(void *context, void *memory, size_t bytes);
} swiftattn_allocator;

/* Chooses the allocator of all memory that the library allocates from now on, in all threads; NULL returns to the
 * default, which is the C library's. Fails with SWIFTATTN_INVALID_ARGUMENT, and changes nothing, when struct_size is
 * unknown or a function is missing.
 *
 * The struct is not copied: it stays in place, unchanged, as long as its allocator is in use. May be called at any
 * time. Memory always goes back to the allocator that it came from: what was kept between calls at once, what running
 * calls have when they end. From any moment on at which no call is running, an allocator that was replaced before has
 * got everything back, is not called again, and may go, with its struct.
 *
 * Everything that a call allocates comes from here: at most a workspace for each of its threads (2 MiB, more only for
 * very large head dims), a counter for each block of keys in backward, for a layer as much memory as forward saves, and
 * in its backward perhaps a copy of an input. Not from here come the stacks of the library's threads (512 KiB each) and
 * what the C library allocates for threads. A thread that cannot be created is no failure: the call uses fewer. */
swiftattn_status swiftattn_set_allocator(const swiftattn_allocator *allocator);

/* Gives back the memory that is kept between calls, at most 72 MiB, to the allocator it came from. What running calls
 * have may be kept when they end. */
void swiftattn_release_memory(void);

#ifdef __cplusplus
}
#endif

#endif /* SWIFTATTN_H */
