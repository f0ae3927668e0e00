/* Running a library call: the GIL, signals, and what every entry point needs. */
#include "_core.h"

#include <time.h>
#include <unistd.h>

/* Multiply-adds up to which a call keeps the GIL: 8 heads of 16 queries and keys with 64 dims. It is over in some ten
 * microseconds, while another thread that took the GIL meanwhile would keep it for a whole switch interval, 5 ms. */
#define SMALL_WORK (8 * 16 * 16 * (64 + 64 + SOFTMAX_WORK))

#define SIGNAL_CHECK_INTERVAL_NS 50000000

/* The calling thread while the GIL is released. */
typedef struct released_thread {
  PyThreadState *state;
  int64_t next_check_ns;
} released_thread;

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The library's interrupt callback: the clock is read first, because taking the GIL may mean waiting for it. */
static int32_t check_signals(void *context) {
  released_thread *thread = context;
  if (now_ns() < thread->next_check_ns)
    return 0;
  PyEval_RestoreThread(thread->state);
  int raised = PyErr_CheckSignals();
  thread->state = PyEval_SaveThread();
  thread->next_check_ns = now_ns() + SIGNAL_CHECK_INTERVAL_NS;
  return raised != 0;
}

int core_main_ident(const core_state *state, unsigned long *ident) {
  PyObject *main_thread = PyObject_CallNoArgs(state->main_thread);
  if (main_thread == NULL)
    return -1;
  PyObject *number = PyObject_GetAttrString(main_thread, "ident");
  Py_DECREF(main_thread);
  if (number == NULL)
    return -1;
  *ident = PyLong_AsUnsignedLong(number);
  Py_DECREF(number);
  return PyErr_Occurred() ? -1 : 0;
}

/* 1, 0, or -1 with an exception set. */
static int is_main_thread(const core_state *state) {
  unsigned long ident = state->main_ident;
  if (getpid() != state->process && core_main_ident(state, &ident) < 0)
    return -1;
  return ident == PyThread_get_thread_ident();
}

int call_run(core_call *call, double work, core_compute *compute, const void *request) {
  if (work <= SMALL_WORK)
    return check_status(compute(call, request));
  released_thread thread = {.next_check_ns = now_ns() + SIGNAL_CHECK_INTERVAL_NS};
  /* Signals are handled by the main thread alone. Another one must not ask for the GIL within a call: when the
   * interpreter is ending, that ends the thread, while the workers still use its stack. */
  int handles_signals = is_main_thread(call->state);
  if (handles_signals < 0)
    return -1;
  if (handles_signals) {
    call->attention.interrupted = check_signals;
    call->attention.interrupted_context = &thread;
  }
  thread.state = PyEval_SaveThread();
  swiftattn_status status = compute(call, request);
  PyEval_RestoreThread(thread.state);
  /* A signal handler's exception counts even if the library was done before it could heed the callback's answer. */
  return PyErr_Occurred() ? -1 : check_status(status);
}

void core_copy_shape(const swiftattn_tensor *from, int rank, swiftattn_tensor *to) {
  to->rank = rank;
  for (int axis = 0; axis < rank; axis++)
    to->shape[axis] = from->shape[axis];
}

bool core_has_argument_count(Py_ssize_t count, Py_ssize_t wanted) {
  if (count != wanted)
    PyErr_Format(PyExc_TypeError, "%zd positional arguments wanted, %zd given", wanted, count);
  return count == wanted;
}
