/* Many calls of every kind, good ones and such as fail in every way, that leave no memory behind: neither of the
 * library's allocator, nor of malloc, nor in the process as a whole.
 *   test_leaks [good calls of each kind] [failing calls of each kind] */
#define _DEFAULT_SOURCE
#include "allocator.h"
#include "layer_problem.h"
#include "problem.h"

#include <malloc.h>
#include <unistd.h>

/* The second is large enough for threads, and to be interrupted. */
static const problem_spec specs[] = {
    {"small", 4, 1, 2, 1, 9, 17, 8, 8, SWIFTATTN_CAUSAL_NONE, WITH_SHARED_BIAS | WITH_KEY_LENGTHS},
    {"threads", 4, 1, 2, 2, 100, 200, 32, 32, SWIFTATTN_CAUSAL_NONE, 0},
};
static const problem_spec long_spec = {"long", 4, 2, 8, 8, 600, 1200, 64, 64, SWIFTATTN_CAUSAL_NONE, 0};

static const swiftattn_rope rope = {sizeof rope, 0, 10000, 1, 0, 0, 0};
static const layer_spec of_layer = {
    "layer", 3, 1, 2, 1, 9, 9, 8, 8, 16, 16, 16, 16, &rope, SWIFTATTN_CAUSAL_NONE, LAYER_HAS_BIASES | LAYER_HAS_TOKEN};
/* Backward copies its tokens, some of which are NaN that no query sees. */
static const layer_spec of_unseen = {"unseen tokens",
                                     3,
                                     2,
                                     2,
                                     1,
                                     9,
                                     17,
                                     8,
                                     8,
                                     16,
                                     16,
                                     16,
                                     16,
                                     NULL,
                                     SWIFTATTN_CAUSAL_NONE,
                                     LAYER_HAS_KEY | LAYER_HAS_KEY_LENGTHS};

/* What the calls work on. */
static problem problems[2], long_problem;
static layer_problem layer, unseen;
static test_allocator allocator;

static int32_t interrupt(void *context) { return context == NULL; }

static swiftattn_status small_forward(void) { return problem_forward(&problems[0]); }
static swiftattn_status small_backward(void) { return problem_backward(&problems[0]); }
static swiftattn_status threads_forward(void) { return problem_forward(&problems[1]); }
static swiftattn_status threads_backward(void) { return problem_backward(&problems[1]); }
static swiftattn_status saving_layer(void) { return layer_forward(&layer); }
static swiftattn_status saved_layer(void) { return layer_backward(&layer); }
static swiftattn_status saving_unseen(void) { return layer_forward(&unseen); }
static swiftattn_status saved_unseen(void) { return layer_backward(&unseen); }
static swiftattn_status unsaved_layer(void) {
  return swiftattn_mha_forward(&layer.mha, layer_view(&layer, LAYER_OUT), layer_view(&layer, LAYER_AVERAGE), NULL, 0);
}
static swiftattn_status packing_layer(void) {
  return swiftattn_mha_pack(&layer.parameters, layer.packed, layer.packed_bytes);
}
static swiftattn_status settings(void) {
  size_t bytes;
  return swiftattn_kernel_id(0) && swiftattn_set_isa(swiftattn_get_isa()) == SWIFTATTN_OK &&
                 swiftattn_set_num_threads(2) == SWIFTATTN_OK
             ? swiftattn_mha_saved_bytes(&layer.mha, &bytes)
             : SWIFTATTN_INVALID_ARGUMENT;
}

/* Forward or backward of the small problem with another query. */
static swiftattn_status with_query(swiftattn_tensor query, int is_backward) {
  problem edited = problems[0];
  edited.attention.query = &query;
  return is_backward ? problem_backward(&edited) : problem_forward(&edited);
}

static swiftattn_status bad_argument(int is_backward) {
  swiftattn_tensor query = problems[0].operands[QUERY].view;
  query.data = NULL;
  return with_query(query, is_backward);
}
static swiftattn_status bad_dtype(int is_backward) {
  swiftattn_tensor query = problems[0].operands[QUERY].view;
  query.dtype = SWIFTATTN_INT32;
  return with_query(query, is_backward);
}
static swiftattn_status bad_shape(int is_backward) {
  swiftattn_tensor query = problems[0].operands[QUERY].view;
  query.shape[1] = 3;
  return with_query(query, is_backward);
}
static swiftattn_status bad_argument_forward(void) { return bad_argument(0); }
static swiftattn_status bad_argument_backward(void) { return bad_argument(1); }
static swiftattn_status bad_dtype_forward(void) { return bad_dtype(0); }
static swiftattn_status bad_dtype_backward(void) { return bad_dtype(1); }
static swiftattn_status bad_shape_forward(void) { return bad_shape(0); }
static swiftattn_status bad_shape_backward(void) { return bad_shape(1); }

static swiftattn_status interrupted_forward(void) {
  long_problem.attention.interrupted = interrupt;
  return problem_forward(&long_problem);
}
static swiftattn_status interrupted_backward(void) {
  long_problem.attention.interrupted = interrupt;
  return problem_backward(&long_problem);
}
static swiftattn_status bad_layer(void) {
  swiftattn_mha mha = layer.mha;
  mha.num_heads = -4;
  return swiftattn_mha_forward(&mha, layer_view(&layer, LAYER_OUT), NULL, NULL, 0);
}
static swiftattn_status bad_layer_backward(void) {
  return swiftattn_mha_backward(&layer.mha, layer.saved, layer.saved_bytes - 1, layer_view(&layer, LAYER_DOUT),
                                &layer.gradients);
}
static swiftattn_status bad_packing(void) {
  return swiftattn_mha_pack(&layer.parameters, layer.packed, layer.packed_bytes - 1);
}
static swiftattn_status unknown_isa(void) { return swiftattn_set_isa("itanium"); }

/* With no memory at all. */
static swiftattn_status starved(swiftattn_status (*call)(void)) {
  swiftattn_allocator refusing = allocator.allocator;
  atomic_store(&allocator.succeeding, 0);
  if (swiftattn_set_allocator(&refusing) != SWIFTATTN_OK)
    return SWIFTATTN_INVALID_ARGUMENT;
  const swiftattn_status status = call();
  atomic_store(&allocator.succeeding, -1);
  return swiftattn_set_allocator(NULL) == SWIFTATTN_OK ? status : SWIFTATTN_INVALID_ARGUMENT;
}
static swiftattn_status starved_forward(void) { return starved(small_forward); }
static swiftattn_status starved_backward(void) { return starved(small_backward); }
static swiftattn_status starved_layer(void) { return starved(unsaved_layer); }
static swiftattn_status starved_layer_backward(void) { return starved(saved_layer); }

static swiftattn_status starved_packing(void) { return starved(packing_layer); }

typedef struct kind {
  const char *name;
  swiftattn_status (*call)(void);
  swiftattn_status status;
} kind;

static const kind kinds[] = {
    {"forward", small_forward, SWIFTATTN_OK},
    {"backward", small_backward, SWIFTATTN_OK},
    {"forward, threads", threads_forward, SWIFTATTN_OK},
    {"backward, threads", threads_backward, SWIFTATTN_OK},
    {"layer that saves", saving_layer, SWIFTATTN_OK},
    {"layer without saving", unsaved_layer, SWIFTATTN_OK},
    {"layer backward", saved_layer, SWIFTATTN_OK},
    {"layer with unseen tokens", saving_unseen, SWIFTATTN_OK},
    {"layer backward with unseen tokens", saved_unseen, SWIFTATTN_OK},
    {"packing", packing_layer, SWIFTATTN_OK},
    {"settings", settings, SWIFTATTN_OK},
    {"forward, argument", bad_argument_forward, SWIFTATTN_INVALID_ARGUMENT},
    {"backward, argument", bad_argument_backward, SWIFTATTN_INVALID_ARGUMENT},
    {"forward, dtype", bad_dtype_forward, SWIFTATTN_INVALID_DTYPE},
    {"backward, dtype", bad_dtype_backward, SWIFTATTN_INVALID_DTYPE},
    {"forward, shape", bad_shape_forward, SWIFTATTN_INVALID_SHAPE},
    {"backward, shape", bad_shape_backward, SWIFTATTN_INVALID_SHAPE},
    {"forward, interrupted", interrupted_forward, SWIFTATTN_INTERRUPTED},
    {"backward, interrupted", interrupted_backward, SWIFTATTN_INTERRUPTED},
    {"layer, argument", bad_layer, SWIFTATTN_INVALID_ARGUMENT},
    {"layer backward, argument", bad_layer_backward, SWIFTATTN_INVALID_ARGUMENT},
    {"packing, argument", bad_packing, SWIFTATTN_INVALID_ARGUMENT},
    {"isa", unknown_isa, SWIFTATTN_UNSUPPORTED_ISA},
    {"forward, memory", starved_forward, SWIFTATTN_OUT_OF_MEMORY},
    {"backward, memory", starved_backward, SWIFTATTN_OUT_OF_MEMORY},
    {"layer, memory", starved_layer, SWIFTATTN_OUT_OF_MEMORY},
    {"layer backward, memory", starved_layer_backward, SWIFTATTN_OUT_OF_MEMORY},
    {"packing, memory", starved_packing, SWIFTATTN_OUT_OF_MEMORY},
};

/* Without what is kept between calls. */
static size_t malloc_bytes(void) {
  swiftattn_release_memory();
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

static long resident_bytes(void) {
  long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file && fscanf(file, "%*s %ld", &pages) == 1, "/proc/self/statm cannot be read");
  if (file)
    fclose(file);
  return pages * sysconf(_SC_PAGESIZE);
}

static void check_calls(const kind *tried, long count) {
  long wrong = 0;
  for (long call = 0; call < count; call++)
    wrong += tried->call() != tried->status;
  CHECK(wrong == 0, "%s: %ld of %ld calls went otherwise: %s", tried->name, wrong, count, swiftattn_last_error());
}

/* Less than a byte for each call, since what a call leaves behind would be more, and a page for libc's own threads. */
static void check_flat(const kind *tried, long count) {
  check_calls(tried, 10);
  const size_t before = malloc_bytes();
  check_calls(tried, count);
  const size_t after = malloc_bytes();
  CHECK(after < before + (size_t)count + 4096, "%s: %zu bytes became %zu in %ld calls", tried->name, before, after,
        count);
  if (tried->status == SWIFTATTN_OUT_OF_MEMORY)
    return;
  CHECK(swiftattn_set_allocator(&allocator.allocator) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  check_calls(tried, count / 10 + 1);
  CHECK(atomic_load(&allocator.live_blocks) <= 5, "%s: %ld pieces are kept", tried->name,
        atomic_load(&allocator.live_blocks));
  check_all_returned(&allocator, tried->name);
  CHECK(swiftattn_set_allocator(NULL) == SWIFTATTN_OK, "%s", swiftattn_last_error());
}

int main(int count, char **arguments) {
  const long good = count > 1 ? atol(arguments[1]) : 2000, failing = count > 2 ? atol(arguments[2]) : 20;
  test_allocator_make(&allocator);
  for (int each = 0; each < 2; each++)
    problem_make(&problems[each], &specs[each], SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  problem_make(&long_problem, &long_spec, SWIFTATTN_FLOAT64, LAYOUT_DENSE);
  layer_make(&layer, &of_layer, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
  layer_pack(&layer);
  layer_make(&unseen, &of_unseen, SWIFTATTN_FLOAT64, LAYOUT_DENSE);
  CHECK(swiftattn_set_num_threads(2) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  for (size_t each = 0; each < sizeof kinds / sizeof *kinds; each++)
    check_calls(&kinds[each], 10);
  const long before = resident_bytes();
  for (size_t each = 0; each < sizeof kinds / sizeof *kinds; each++)
    check_flat(&kinds[each], kinds[each].status == SWIFTATTN_OK ? good : failing);
  const long after = resident_bytes();
  /* A page for each good call of one kind would be 8 MiB. Which threads get how far into their workspaces and stacks is
   * chance, and has made 1.2 MiB. */
  CHECK(after - before < 1 << 22, "the process grew from %ld to %ld bytes", before, after);
  printf("test_leaks: %ld good and %ld failing calls of each kind, %ld KiB became %ld\n", good, failing, before >> 10,
         after >> 10);
  for (int each = 0; each < 2; each++)
    problem_free(&problems[each]);
  problem_free(&long_problem);
  layer_free(&layer);
  layer_free(&unseen);
  return check_result("test_leaks");
}
