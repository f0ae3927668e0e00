/* What the library asks of the system itself, refused: this program puts its own functions in the place of malloc, of
 * pthread_create and of what pthread_atfork registers with, and refuses the first, the second, ... request. A call
 * whose threads cannot be created makes do with fewer; without memory it says OUT_OF_MEMORY; nothing crashes. */
#define _GNU_SOURCE
#include "allocator.h"
#include "trials.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static atomic_long succeeding = -1, made_requests, thread_requests;

static int is_refused(void) {
  atomic_fetch_add(&made_requests, 1);
  if (atomic_load(&succeeding) < 0 || atomic_fetch_sub(&succeeding, 1) != 0)
    return 0;
  errno = ENOMEM;
  return 1;
}

void *malloc(size_t size) { return is_refused() ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return is_refused() ? NULL : __libc_calloc(count, size); }
void *realloc(void *memory, size_t size) { return is_refused() ? NULL : __libc_realloc(memory, size); }
void *memalign(size_t alignment, size_t size) { return is_refused() ? NULL : __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void **memory, size_t alignment, size_t size) {
  *memory = memalign(alignment, size);
  return *memory ? 0 : ENOMEM;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *), void *argument) {
  int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
  atomic_fetch_add(&thread_requests, 1);
  return is_refused() ? EAGAIN : real(thread, attributes, entry, argument);
}

int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *library) {
  int (*real)(void (*)(void), void (*)(void), void (*)(void), void *);
  *(void **)&real = dlsym(RTLD_NEXT, "__register_atfork");
  return is_refused() ? ENOMEM : real(prepare, parent, child, library);
}

static void refuse(long number) {
  atomic_store(&made_requests, 0);
  atomic_store(&succeeding, number);
}
static long requests(void) { return atomic_load(&made_requests); }
static void check_nothing(const char *when) { (void)when; }

static const refusal by_system = {"request", refuse, requests, check_nothing};

static const problem_spec spec = {"large", 4, 2, 4, 2, 150, 170, 32, 32, SWIFTATTN_CAUSAL_NONE, 0};

/* In a child, whose pool is unused: the first call with threads has a request refused, then everything works. Its exit
 * status says whether the call had so many requests. */
enum { FINE, FINE_WITHOUT, BROKEN };
static int start_refused(const trial *tried, const image *before, const image *after, long number) {
  alarm(120); /* a deadlock is a failure, not a hang */
  CHECK(swiftattn_set_num_threads(4) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  atomic_store(&thread_requests, 0);
  const int reached = check_refusal(tried, &by_system, number, 0, before, after);
  CHECK(atomic_load(&thread_requests) >= 3, "%ld threads were asked for", atomic_load(&thread_requests));
  const long asked_for = atomic_load(&thread_requests);
  check_good_call(tried, before, after, "after the pool's start");
  CHECK(atomic_load(&thread_requests) == asked_for, "the threads that are missing are asked for at every call");
  return checks_failed ? BROKEN : reached ? FINE : FINE_WITHOUT;
}

/* The memory of the calls comes from elsewhere, so that only what the system gives by itself is refused. */
static void check_pool_start(void) {
  test_allocator allocator;
  test_allocator_make(&allocator);
  allocator.source = __libc_memalign;
  problem made;
  problem_make(&made, &spec, SWIFTATTN_FLOAT32, LAYOUT_STRIDED);
  const trial forward = {spec.name, "forward", &made, trial_forward, made.operands, OPERAND_COUNT, OUT, LSE + 1};
  image before = image_take(&forward);
  CHECK(swiftattn_set_allocator(&allocator.allocator) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(swiftattn_set_num_threads(1) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  refuse(0);
  CHECK(trial_forward(&made) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  CHECK(requests() == 0, "a call on one thread asked the system %ld times past the allocator", requests());
  refuse(-1);
  image after = image_take(&forward);
  int outcome = FINE;
  long number = 0;
  for (; outcome == FINE && number < 100; number++) {
    const pid_t child = fork();
    if (child == 0)
      _exit(start_refused(&forward, &before, &after, number));
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child, "fork failed");
    outcome = WIFEXITED(status) ? WEXITSTATUS(status) : BROKEN;
    CHECK(outcome == FINE || outcome == FINE_WITHOUT, "request %ld refused: the process ended with status %d", number,
          status);
  }
  CHECK(number > 4, "the pool's start made only %ld requests", number);
  check_all_returned(&allocator, "after the pool's start");
  CHECK(swiftattn_set_allocator(NULL) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  image_free(&forward, &before);
  image_free(&forward, &after);
  problem_free(&made);
}

int main(void) {
  check_pool_start();
  for (int threads = 1; threads <= 4; threads += 3)
    check_attention_refusals(&spec, SWIFTATTN_FLOAT32, &by_system, threads);
  return check_result("test_pool_start");
}
