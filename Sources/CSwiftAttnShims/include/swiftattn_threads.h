/* What the worker pool needs from the operating system. The core is built as Embedded Swift, where `import Glibc` does
 * not work, so Swift reaches libc and the kernel through the functions below; each says what else keeps it from being
 * Swift. */
#ifndef SWIFTATTN_THREADS_H
#define SWIFTATTN_THREADS_H

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Starts a detached thread that handles no signals; 1 when it runs, 0 when the system refused. pthread_t,
 * pthread_attr_t and sigset_t differ between platforms in ways that Swift sees (optionals, opaque structs). */
static inline int32_t sa_thread_start(void *(*entry)(void *), void *argument, size_t stack_size) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) {
    return 0;
  }
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  /* Refused where thread-local storage needs more; the default size then serves. */
  pthread_attr_setstacksize(&attributes, stack_size);
  /* Blocked before the start, because the new thread inherits the mask: no moment in which it could take a signal. */
  sigset_t all;
  sigset_t previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  pthread_t thread;
  int status = pthread_create(&thread, &attributes, entry, argument);
  pthread_sigmask(SIG_SETMASK, &previous, NULL);
  pthread_attr_destroy(&attributes);
  return status == 0;
}

/* Has `handler` called in the child of every later fork(); 1 when registered. pthread_atfork is a static part of libc
 * that ties the handler to the library calling it, so it has to be called from code linked into the library. */
static inline int32_t sa_at_fork_in_child(void (*handler)(void)) { return pthread_atfork(NULL, NULL, handler) == 0; }

/* Sleeps while *word == expected, and at most so many nanoseconds unless that is 0; may also return for no reason.
 * syscall() is variadic: Swift cannot call it. */
static inline void sa_futex_wait(const void *word, uint32_t expected, uint64_t nanoseconds) {
  int saved = errno;
  struct timespec most;
  most.tv_sec = (time_t)(nanoseconds / UINT64_C(1000000000));
  most.tv_nsec = (long)(nanoseconds % UINT64_C(1000000000));
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nanoseconds ? &most : NULL, NULL, 0);
  errno = saved;
}

/* Wakes at most `count` threads that sleep on the word. syscall() is variadic: Swift cannot call it. */
static inline void sa_futex_wake(const void *word, int32_t count) {
  int saved = errno;
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
  errno = saved;
}

/* Tells the processor that this is a spin loop. Swift has no inline assembly. */
static inline void sa_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb sy"); /* `yield` does nothing on most cores */
#else
  __asm__ volatile("" ::: "memory");
#endif
}

/* Lets another runnable thread have the processor; libc only. */
static inline void sa_yield(void) { sched_yield(); }

/* Nanoseconds of a clock that is never set back; libc only, and CLOCK_MONOTONIC is a macro of varying type. */
static inline uint64_t sa_monotonic_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* The value of an environment variable, or NULL; libc only. */
static inline const char *sa_environment(const char *name) { return getenv(name); }

/* How many processors the calling thread may run on, 0 when unknown. The raw call, because libc's wrapper does not say
 * how much of a set larger than cpu_set_t (1024 processors) was filled in; syscall() is variadic. */
static inline int32_t sa_affinity_count(void) {
  unsigned long set[8192 / (8 * sizeof(unsigned long))];
  int saved = errno;
  long bytes = syscall(SYS_sched_getaffinity, 0, sizeof set, set);
  errno = saved;
  int32_t count = 0;
  for (long word = 0; word < bytes / (long)sizeof set[0]; word++) {
    count += __builtin_popcountl(set[word]);
  }
  return count;
}

/* Reads the start of a file; the number of bytes read, or -1. open() is variadic and errno a macro: Swift has neither.
 */
static inline intptr_t sa_read_file(const char *path, uint8_t *buffer, size_t capacity) {
  int saved = errno;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  size_t length = 0;
  ssize_t bytes = -1;
  if (file >= 0) {
    do {
      bytes = read(file, buffer + length, capacity - length);
      length += bytes > 0 ? (size_t)bytes : 0;
    } while ((bytes > 0 && length < capacity) || (bytes < 0 && errno == EINTR));
    close(file);
  }
  errno = saved;
  return bytes < 0 ? -1 : (intptr_t)length;
}

#endif /* SWIFTATTN_THREADS_H */
