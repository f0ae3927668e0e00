/* forward and backward: one Python call, one library call. */
#include "_core.h"

static const core_parameter OUT = {"out", "query's dtype", true, 0};
static const core_parameter DOUT = {"dout", "query's dtype", true, 0};
static const core_parameter LSE = {"lse", "query's dtype", false, 0};
static const core_parameter QUERY_LIKE = {"gradient", "query's dtype", true, 0};
static const core_parameter BIAS_LIKE = {"gradient", "query's dtype", false, 0};

/* In floating point, because the library has not judged the lengths yet and their product may be anything. */
static double work_of(const core_call *call) {
  const swiftattn_tensor *query = &call->query, *key = &call->key, *value = &call->value;
  if (query->rank < 2 || key->rank < 2 || value->rank < 1)
    return 0;
  double pairs = (double)key->shape[key->rank - 2];
  for (int axis = 0; axis < query->rank - 1; axis++)
    pairs *= (double)query->shape[axis];
  return pairs * ((double)query->shape[query->rank - 1] + (double)value->shape[value->rank - 1] + SOFTMAX_WORK);
}

/* What the library is asked to compute, forward unless there are gradients. */
typedef struct core_request {
  const swiftattn_tensor *out, *lse, *dout;
  const swiftattn_attention_gradients *gradients;
} core_request;

static swiftattn_status compute(const core_call *call, const void *request) {
  const core_request *wanted = request;
  if (wanted->gradients == NULL)
    return swiftattn_attention_forward(&call->attention, wanted->out, wanted->lse);
  return swiftattn_attention_backward(&call->attention, wanted->out, wanted->lse, wanted->dout, wanted->gradients);
}

static int run(core_call *call, const core_request *request) { return call_run(call, work_of(call), compute, request); }

static PyArrayObject *allocate_out(core_call *call, swiftattn_tensor *tensor) {
  int query_rank = call->query.rank, value_rank = call->value.rank;
  core_copy_shape(&call->query, query_rank, tensor);
  /* What does not fit is for the library to reject, and not to be allocated: transposed, values may be very wide. */
  if (query_rank >= 2 && value_rank == query_rank && call->key.rank == query_rank &&
      call->value.shape[query_rank - 2] == call->key.shape[query_rank - 2])
    tensor->shape[query_rank - 1] = call->value.shape[query_rank - 1];
  return call_allocate_output(call, &OUT, &call->query, tensor);
}

static PyArrayObject *allocate_lse(core_call *call, swiftattn_tensor *tensor) {
  core_copy_shape(&call->query, call->query.rank > 0 ? call->query.rank - 1 : 0, tensor);
  return call_allocate_output(call, &LSE, &call->query, tensor);
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
  if (!core_has_argument_count(count, FORWARD_ARGUMENT_COUNT))
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

/* As a tuple, because another thread may change a list while it is read; judged. */
static PyObject *read_needs(PyObject *object, bool *needs) {
  PyObject *names = PySequence_Tuple(object);
  if (names == NULL && PyErr_ExceptionMatches(PyExc_TypeError))
    PyErr_SetString(PyExc_TypeError, "needs must be a sequence of names of gradients");
  for (Py_ssize_t index = 0; names != NULL && index < PyTuple_GET_SIZE(names); index++) {
    if (read_need(PyTuple_GET_ITEM(names, index), needs) < 0)
      Py_CLEAR(names);
  }
  return names;
}

PyObject *core_judged_needs(PyObject *Py_UNUSED(module), PyObject *object) {
  bool needs[GRADIENT_COUNT];
  return read_needs(object, needs);
}

/* Allocates the gradients that are wanted; the others stay None in the result and NULL for the library. */
static int allocate_gradients(core_call *call, const bool *needs, swiftattn_tensor *tensors, PyObject **results) {
  const swiftattn_tensor *operands[GRADIENT_COUNT] = {&call->query, &call->key, &call->value, call->attention.bias};
  for (int gradient = 0; gradient < GRADIENT_COUNT; gradient++) {
    results[gradient] = Py_None;
    if (!needs[gradient] || operands[gradient] == NULL)
      continue;
    core_copy_shape(operands[gradient], operands[gradient]->rank, &tensors[gradient]);
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
  PyObject *names = read_needs(arguments[BACKWARD_NEEDS], needs);
  if (names == NULL)
    return NULL;
  Py_DECREF(names);
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
  if (!core_has_argument_count(count, BACKWARD_ARGUMENT_COUNT))
    return NULL;
  core_call call;
  PyObject *result = NULL;
  if (call_begin(&call, PyModule_GetState(module), arguments) == 0)
    result = backward(&call, arguments);
  call_end(&call);
  return result;
}
