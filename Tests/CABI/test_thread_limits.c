/* As many threads as the system grants: this program puts its own pthread_create and open in libc's place, so that
 * threads are refused and the kernel's files say what it wants. Calls come to the same bits with any number of threads.
 */
#define _GNU_SOURCE
#include "mixed_calls.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

/* How many threads may still be created, and how many were. */
static int threads_left, threads_created;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *), void *argument) {
  int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  if (threads_left == 0)
    return EAGAIN;
  threads_left--;
  threads_created++;
  *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
  return real(thread, attributes, entry, argument);
}

/* What the files of a control group are to say; the names that this list lacks are not there. */
typedef struct kernel_file {
  const char *path, *contents;
} kernel_file;

static const kernel_file *kernel_files; /* ends with a path of NULL; NULL: the real files */

int open(const char *path, int flags, ...) {
  int (*real)(const char *, int, ...);
  va_list rest;
  va_start(rest, flags);
  const int mode = flags & O_CREAT ? va_arg(rest, int) : 0;
  va_end(rest);
  const int is_kernels = !strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5);
  *(void **)&real = dlsym(RTLD_NEXT, "open");
  if (!kernel_files || !is_kernels)
    return real(path, flags, mode);
  for (const kernel_file *file = kernel_files; file->path; file++) {
    int ends[2];
    if (strcmp(file->path, path) || pipe(ends))
      continue;
    const ssize_t written = write(ends[1], file->contents, strlen(file->contents));
    close(ends[1]);
    return written < 0 ? -1 : ends[0];
  }
  errno = ENOENT;
  return -1;
}

static void check_all_calls(const mixed_calls *made, const mixed_calls *alone, const char *when) {
  for (int index = 0; index < MIXED_COUNT; index++) {
    CHECK(mixed_run(made, index) == SWIFTATTN_OK, "%s, %s: %s", mixed_name(index), when, swiftattn_last_error());
    CHECK(mixed_same(made, alone, index), "%s, %s: other bits than from one thread", mixed_name(index), when);
  }
}

/* The system refuses all threads, then all but one, then none: a call asks again each time. */
static void check_refused_threads(void) {
  static mixed_calls made, alone;
  mixed_make(&made);
  mixed_make(&alone);
  swiftattn_set_num_threads(1);
  check_all_calls(&alone, &alone, "one thread");
  CHECK(threads_created == 0, "one thread needed %d more", threads_created);
  CHECK(swiftattn_set_num_threads(64) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  check_all_calls(&made, &alone, "no thread can be created");
  CHECK(threads_created == 0, "%d threads were created", threads_created);
  threads_left = 1;
  check_all_calls(&made, &alone, "one thread can be created");
  CHECK(threads_created == 1, "%d threads were created", threads_created);
  threads_left = 1000;
  check_all_calls(&made, &alone, "64 threads");
  CHECK(threads_created == 63, "%d threads were created for a call of 64", threads_created);
  CHECK(swiftattn_set_num_threads(1024) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  check_all_calls(&made, &alone, "1024 threads asked for");
  mixed_free(&made);
  mixed_free(&alone);
}

/* Whether calls of `spec` create threads, in a child with an unused pool: 5 calls, 10 ms apart. */
static int create_threads(const problem_spec *spec) {
  const pid_t child = fork();
  if (child == 0) {
    problem made;
    problem_make(&made, spec, SWIFTATTN_FLOAT32, LAYOUT_DENSE);
    threads_left = 1000;
    if (swiftattn_set_num_threads(4) != SWIFTATTN_OK)
      _exit(2);
    for (int round = 0; round < 5; round++) {
      usleep(10000);
      if (problem_forward(&made) != SWIFTATTN_OK)
        _exit(2);
    }
    _exit(threads_created > 0);
  }
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A small call is shared with threads that are awake, but wakes none unless another came just before. What counts is
 * the time that it takes: one query for many keys, which is mostly transposing them, takes more than its products. */
static void check_small_calls(void) {
  static const problem_spec small = {"small", 3, 1, 8, 8, 16, 16, 64, 64, SWIFTATTN_CAUSAL_NONE, 0};
  static const problem_spec decoding = {"decoding", 3, 1, 8, 8, 1, 512, 64, 64, SWIFTATTN_CAUSAL_NONE, 0};
  CHECK(create_threads(&small) == 0, "small calls apart");
  CHECK(create_threads(&decoding) == 1, "one query for many keys");
}

/* The default number of threads where the kernel's files are these, and on one processor if `pinned`: determined once
 * in a process, and so in a child. */
static int default_threads(const kernel_file *files, int pinned) {
  const pid_t child = fork();
  if (child == 0) {
    cpu_set_t one;
    int processor = 0;
    kernel_files = files;
    if (pinned && sched_getaffinity(0, sizeof one, &one) == 0) {
      while (!CPU_ISSET(processor, &one))
        processor++;
      CPU_ZERO(&one);
      CPU_SET(processor, &one);
      if (sched_setaffinity(0, sizeof one, &one) != 0)
        _exit(0);
    }
    const int32_t threads = swiftattn_get_num_threads();
    _exit(threads < 255 ? threads : 255);
  }
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void check_defaults(void) {
  static const kernel_file none[] = {{NULL, NULL}};
  static const kernel_file half[] = {
      {"/proc/self/cgroup", "0::/pod/box\n"}, {"/sys/fs/cgroup/pod/box/cpu.max", "50000 100000\n"}, {NULL, NULL}};
  static const kernel_file outer[] = {{"/proc/self/cgroup", "0::/pod/box\n"},
                                      {"/sys/fs/cgroup/pod/box/cpu.max", "max 100000\n"},
                                      {"/sys/fs/cgroup/pod/cpu.max", "100000 100000\n"},
                                      {NULL, NULL}};
  static const kernel_file legacy[] = {{"/proc/self/cgroup", "4:cpu,cpuacct:/box\n"},
                                       {"/sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "20000\n"},
                                       {"/sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n"},
                                       {NULL, NULL}};
  static const kernel_file plenty[] = {
      {"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "99900000 100000\n"}, {NULL, NULL}};
  cpu_set_t allowed;
  CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0, "sched_getaffinity");
  const int processors = CPU_COUNT(&allowed) < 255 ? CPU_COUNT(&allowed) : 255;
  CHECK(default_threads(none, 0) == processors, "without quota");
  CHECK(default_threads(none, 1) == 1, "bound to one processor");
  CHECK(default_threads(half, 0) == 1, "half a processor's quota");
  CHECK(default_threads(outer, 0) == 1, "the quota of an outer group");
  CHECK(default_threads(legacy, 0) == 1, "the quota of a version 1 group");
  CHECK(default_threads(plenty, 0) == processors, "more quota than processors");
  CHECK(default_threads(plenty, 1) == 1, "more quota than processors, bound to one");
}

int main(void) {
  alarm(600); /* a deadlock is a failure, not a hang */
  unsetenv("SWIFTATTN_NUM_THREADS");
  check_defaults();
  check_small_calls();
  check_refused_threads();
  return check_result("test_thread_limits");
}
