/* forward and backward: one Python call, one library call. */
#include "_core.h"

#include <time.h>

static const core_parameter OUT = {"out", "query's dtype", true, 0};
static const core_parameter DOUT = {"dout", "query's dtype", true, 0};
static const core_parameter LSE = {"lse", "query's dtype", false, 0};
static const core_parameter QUERY_LIKE = {"gradient", "query's dtype", true, 0};
static const core_parameter BIAS_LIKE = {"gradient", "query's dtype", false, 0};

/* Multiply-adds in the scores up to which a call keeps the GIL. It is over in some microseconds, while another thread
 * that took the GIL meanwhile would keep it for a whole switch interval, 5 ms. */
#define SMALL_WORK 131072.0

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

/* In floating point, because the library has not judged the lengths yet and their product may be anything. */
static bool is_small(const core_call *call) {
  const swiftattn_tensor *query = &call->query, *key = &call->key;
  if (query->rank < 2 || key->rank < 2)
    return true;
  double work = (double)key->shape[key->rank - 2];
  for (int axis = 0; axis < query->rank; axis++)
    work *= (double)query->shape[axis];
  return work <= SMALL_WORK;
}

/* What the library is asked to compute, forward unless there are gradients. */
typedef struct core_request {
  const swiftattn_tensor *out, *lse, *dout;
  const swiftattn_attention_gradients *gradients;
} core_request;

static swiftattn_status compute(const core_call *call, const core_request *request) {
  if (request->gradients == NULL)
    return swiftattn_attention_forward(&call->attention, request->out, request->lse);
  return swiftattn_attention_backward(&call->attention, request->out, request->lse, request->dout, request->gradients);
}

static int run(core_call *call, const core_request *request) {
  if (is_small(call))
    return check_status(compute(call, request));
  released_thread thread = {.next_check_ns = now_ns() + SIGNAL_CHECK_INTERVAL_NS};
  call->attention.interrupted = check_signals;
  call->attention.interrupted_context = &thread;
  thread.state = PyEval_SaveThread();
  swiftattn_status status = compute(call, request);
  PyEval_RestoreThread(thread.state);
  /* A signal handler's exception counts even if the library was done before it could heed the callback's answer. */
  return PyErr_Occurred() ? -1 : check_status(status);
}

static void copy_shape(const swiftattn_tensor *from, int rank, swiftattn_tensor *to) {
  to->rank = rank;
  for (int axis = 0; axis < rank; axis++)
    to->shape[axis] = from->shape[axis];
}

static PyArrayObject *allocate_out(core_call *call, swiftattn_tensor *tensor) {
  int query_rank = call->query.rank, value_rank = call->value.rank;
  copy_shape(&call->query, query_rank, tensor);
  /* Ranks of 0 are for the library to reject. */
  if (query_rank > 0 && value_rank > 0)
    tensor->shape[query_rank - 1] = call->value.shape[value_rank - 1];
  return call_allocate_output(call, &OUT, &call->query, tensor);
}

static PyArrayObject *allocate_lse(core_call *call, swiftattn_tensor *tensor) {
  copy_shape(&call->query, call->query.rank > 0 ? call->query.rank - 1 : 0, tensor);
  return call_allocate_output(call, &LSE, &call->query, tensor);
}

static bool has_argument_count(Py_ssize_t count, Py_ssize_t wanted) {
  if (count != wanted)
    PyErr_Format(PyExc_TypeError, "%zd positional arguments wanted, %zd given", wanted, count);
  return count == wanted;
}

enum forward_argument { FORWARD_OUT = SHARED_ARGUMENT_COUNT, FORWARD_RETURN_LSE, FORWARD_ARGUMENT_COUNT };

static PyObject *forward(core_call *call, PyObject *const *arguments) {
  swiftattn_tensor out, lse;
  PyArrayObject *out_array, *lse_array = NULL;
  if (arguments[FORWARD_OUT] == Py_None)
    out_array = allocate_out(call, &out);
  else
    out_array = call_describe_output(call, &OUT, arguments[FORWARD_OUT], &out);
  if (out_array == NULL)
    return NULL;
  int returns_lse = PyObject_IsTrue(arguments[FORWARD_RETURN_LSE]);
  if (returns_lse < 0)
    return NULL;
  if (returns_lse && (lse_array = allocate_lse(call, &lse)) == NULL)
    return NULL;
  core_request request = {.out = &out, .lse = returns_lse ? &lse : NULL};
  if (run(call, &request) < 0)
    return NULL;
  return returns_lse ? PyTuple_Pack(2, out_array, lse_array) : Py_NewRef((PyObject *)out_array);
}

PyObject *core_forward(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
  if (!has_argument_count(count, FORWARD_ARGUMENT_COUNT))
    return NULL;
  core_call call;
  PyObject *result = NULL;
  if (call_begin(&call, PyModule_GetState(module), arguments) == 0)
    result = forward(&call, arguments);
  call_end(&call);
  return result;
}

enum backward_argument {
  BACKWARD_DOUT = SHARED_ARGUMENT_COUNT,
  BACKWARD_OUT,
  BACKWARD_LSE,
  BACKWARD_NEEDS,
  BACKWARD_ARGUMENT_COUNT
};

/* The gradients in the order of the result's fields. */
enum gradient { GRADIENT_QUERY, GRADIENT_KEY, GRADIENT_VALUE, GRADIENT_BIAS, GRADIENT_COUNT };

static const char *const GRADIENT_NAMES[GRADIENT_COUNT] = {"query", "key", "value", "bias"};

static int read_need(PyObject *name, bool *needs) {
  if (PyUnicode_Check(name)) {
    for (int gradient = 0; gradient < GRADIENT_COUNT; gradient++) {
      if (PyUnicode_CompareWithASCIIString(name, GRADIENT_NAMES[gradient]) != 0)
        continue;
      needs[gradient] = true;
      return 0;
    }
  }
  PyErr_Format(PyUnicode_Check(name) ? PyExc_ValueError : PyExc_TypeError,
               "needs takes \"query\", \"key\", \"value\" and \"bias\", not %R", name);
  return -1;
}

static int read_needs(PyObject *object, bool *needs) {
  PyObject *names = PySequence_Fast(object, "needs must be a sequence of names of gradients");
  if (names == NULL)
    return -1;
  int status = 0;
  for (Py_ssize_t index = 0; status == 0 && index < PySequence_Fast_GET_SIZE(names); index++)
    status = read_need(PySequence_Fast_GET_ITEM(names, index), needs);
  Py_DECREF(names);
  return status;
}

/* Allocates the gradients that are wanted; the others stay None in the result and NULL for the library. */
static int allocate_gradients(core_call *call, const bool *needs, swiftattn_tensor *tensors, PyObject **results) {
  const swiftattn_tensor *operands[GRADIENT_COUNT] = {&call->query, &call->key, &call->value, call->attention.bias};
  for (int gradient = 0; gradient < GRADIENT_COUNT; gradient++) {
    results[gradient] = Py_None;
    if (!needs[gradient] || operands[gradient] == NULL)
      continue;
    copy_shape(operands[gradient], operands[gradient]->rank, &tensors[gradient]);
    PyArrayObject *array = call_allocate_output(call, gradient == GRADIENT_BIAS ? &BIAS_LIKE : &QUERY_LIKE,
                                                &call->query, &tensors[gradient]);
    if (array == NULL)
      return -1;
    results[gradient] = (PyObject *)array;
  }
  return 0;
}

static PyObject *backward(core_call *call, PyObject *const *arguments) {
  swiftattn_tensor out, lse, dout, tensors[GRADIENT_COUNT];
  PyObject *results[GRADIENT_COUNT];
  bool needs[GRADIENT_COUNT] = {false};
  if (call_describe_input(call, &DOUT, arguments[BACKWARD_DOUT], &dout) < 0)
    return NULL;
  if (call_describe_input(call, &OUT, arguments[BACKWARD_OUT], &out) < 0)
    return NULL;
  if (call_describe_input(call, &LSE, arguments[BACKWARD_LSE], &lse) < 0)
    return NULL;
  if (read_needs(arguments[BACKWARD_NEEDS], needs) < 0)
    return NULL;
  if (allocate_gradients(call, needs, tensors, results) < 0)
    return NULL;
  swiftattn_attention_gradients gradients = {
      .struct_size = sizeof gradients,
      .query = results[GRADIENT_QUERY] == Py_None ? NULL : &tensors[GRADIENT_QUERY],
      .key = results[GRADIENT_KEY] == Py_None ? NULL : &tensors[GRADIENT_KEY],
      .value = results[GRADIENT_VALUE] == Py_None ? NULL : &tensors[GRADIENT_VALUE],
      .bias = results[GRADIENT_BIAS] == Py_None ? NULL : &tensors[GRADIENT_BIAS],
  };
  core_request request = {.out = &out, .lse = &lse, .dout = &dout, .gradients = &gradients};
  if (run(call, &request) < 0)
    return NULL;
  return PyTuple_Pack(GRADIENT_COUNT, results[GRADIENT_QUERY], results[GRADIENT_KEY], results[GRADIENT_VALUE],
                      results[GRADIENT_BIAS]);
}

PyObject *core_backward(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
  if (!has_argument_count(count, BACKWARD_ARGUMENT_COUNT))
    return NULL;
  core_call call;
  PyObject *result = NULL;
  if (call_begin(&call, PyModule_GetState(module), arguments) == 0)
    result = backward(&call, arguments);
  call_end(&call);
  return result;
}
