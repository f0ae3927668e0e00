/* Python objects to tensor descriptors. Only what the library cannot see is judged here: the kind of object, dtypes
 * without an ABI code, write protection, the spelling of options. */
#include "_core.h"

#define FLOAT_DTYPES "float32 or float64"
#define LENGTH_DTYPES "int32 or int64"

static const core_parameter QUERY = {"query", FLOAT_DTYPES, true, 0};
static const core_parameter KEY = {"key", FLOAT_DTYPES, true, 0};
static const core_parameter VALUE = {"value", FLOAT_DTYPES, true, 0};
static const core_parameter MASK = {"mask", "bool (True: may attend; scores to add go into bias)", false,
                                    SWIFTATTN_BOOL};
static const core_parameter BIAS = {"bias", FLOAT_DTYPES, false, 0};
static const core_parameter KEY_LENGTHS = {"key_lengths", LENGTH_DTYPES, false, 0};
static const core_parameter QUERY_LENGTHS = {"query_lengths", LENGTH_DTYPES, false, 0};

/* 0 where the ABI has no code for the array's element type. */
static int32_t dtype_code(PyArrayObject *array) {
  if (PyArray_ISBYTESWAPPED(array))
    return 0;
  switch (PyArray_TYPE(array)) {
  case NPY_FLOAT:
    return SWIFTATTN_FLOAT32;
  case NPY_DOUBLE:
    return SWIFTATTN_FLOAT64;
  case NPY_BOOL:
    return SWIFTATTN_BOOL;
  case NPY_INT:
  case NPY_LONG:
  case NPY_LONGLONG:
    return PyArray_ITEMSIZE(array) == sizeof(int32_t) ? SWIFTATTN_INT32 : SWIFTATTN_INT64;
  default:
    return 0;
  }
}

/* Whether the array's axes are (..., S, H, D) and the descriptor's (..., H, S, D). */
static bool transposes(const core_call *call, const core_parameter *parameter, const swiftattn_tensor *tensor) {
  return call->sequence_major && parameter->follows_layout && tensor->rank >= 3;
}

static void swap_sequence_and_heads(swiftattn_tensor *tensor) {
  int sequence = tensor->rank - 3, heads = tensor->rank - 2;
  int64_t length = tensor->shape[sequence], stride = tensor->strides[sequence];
  tensor->shape[sequence] = tensor->shape[heads];
  tensor->strides[sequence] = tensor->strides[heads];
  tensor->shape[heads] = length;
  tensor->strides[heads] = stride;
}

typedef enum core_description { UNDESCRIBABLE = -1, DESCRIBED, MISALIGNED } core_description;

static core_description describe(const core_call *call, const core_parameter *parameter, PyArrayObject *array,
                                 swiftattn_tensor *tensor) {
  int rank = PyArray_NDIM(array);
  if (rank > SWIFTATTN_MAX_RANK) {
    PyErr_Format(PyExc_ValueError, "%s has %d dimensions but at most %d work", parameter->name, rank,
                 SWIFTATTN_MAX_RANK);
    return UNDESCRIBABLE;
  }
  int32_t dtype = dtype_code(array);
  if (dtype == 0 || (parameter->required_dtype != 0 && dtype != parameter->required_dtype)) {
    PyErr_Format(PyExc_TypeError, "%s has dtype %S but must be %s", parameter->name, PyArray_DESCR(array),
                 parameter->dtypes);
    return UNDESCRIBABLE;
  }
  tensor->data = PyArray_DATA(array);
  tensor->dtype = dtype;
  tensor->rank = rank;
  npy_intp item_size = PyArray_ITEMSIZE(array); /* a power of two for every dtype with a code */
  uintptr_t address_bits = (uintptr_t)tensor->data;
  for (int axis = 0; axis < rank; axis++) {
    npy_intp length = PyArray_DIM(array, axis), stride = PyArray_STRIDE(array, axis);
    /* NumPy leaves the stride of an axis of length 1 arbitrary. */
    if (length <= 1 && (stride & (item_size - 1)) != 0)
      stride = item_size;
    address_bits |= (uintptr_t)stride;
    tensor->shape[axis] = length;
    tensor->strides[axis] = stride;
  }
  if (transposes(call, parameter, tensor))
    swap_sequence_and_heads(tensor);
  return (address_bits & (uintptr_t)(item_size - 1)) == 0 ? DESCRIBED : MISALIGNED;
}

PyArrayObject *call_own(core_call *call, PyArrayObject *array) {
  assert(call->owned_count < CALL_MAX_OWNED);
  call->owned[call->owned_count++] = array;
  return array;
}

/* Whether the exception is one of those with which __dlpack__ refuses. */
static bool is_about_the_array(void) {
  return PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError) ||
         PyErr_ExceptionMatches(PyExc_BufferError) || PyErr_ExceptionMatches(PyExc_RuntimeError);
}

/* Replaces the exception by a TypeError that says which parameter it is about, and why. */
static void name_parameter(const core_parameter *parameter) {
#if PY_VERSION_HEX >= 0x030C0000
  PyObject *reason = PyErr_GetRaisedException();
#else
  PyObject *type, *reason, *traceback;
  PyErr_Fetch(&type, &reason, &traceback);
  PyErr_NormalizeException(&type, &reason, &traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
#endif
  PyErr_Format(PyExc_TypeError, "%s cannot be read as an array: %S", parameter->name, reason);
  Py_XDECREF(reason);
}

/* A new reference to `object` as an array. */
static PyArrayObject *array_of(const core_call *call, const core_parameter *parameter, PyObject *object) {
  if (PyArray_Check(object))
    return (PyArrayObject *)Py_NewRef(object);
  if (!PyObject_HasAttrString(object, "__dlpack__")) {
    PyErr_Format(PyExc_TypeError, "%s must be a NumPy array or have __dlpack__, not %s", parameter->name,
                 Py_TYPE(object)->tp_name);
    return NULL;
  }
  PyObject *array = PyObject_CallOneArg(call->state->from_dlpack, object);
  if (array == NULL && is_about_the_array())
    name_parameter(parameter);
  return (PyArrayObject *)array;
}

int call_describe_input(core_call *call, const core_parameter *parameter, PyObject *object, swiftattn_tensor *tensor) {
  PyArrayObject *array = array_of(call, parameter, object);
  if (array == NULL)
    return -1;
  core_description description = describe(call, parameter, array, tensor);
  if (description == MISALIGNED) {
    PyArrayObject *aligned = (PyArrayObject *)PyArray_NewCopy(array, NPY_KEEPORDER);
    Py_DECREF(array);
    if (aligned == NULL)
      return -1;
    array = aligned;
    description = describe(call, parameter, array, tensor);
  }
  call_own(call, array);
  return description == DESCRIBED ? 0 : -1;
}

PyArrayObject *call_describe_output(core_call *call, const core_parameter *parameter, PyObject *object,
                                    swiftattn_tensor *tensor) {
  if (!PyArray_Check(object)) {
    PyErr_Format(PyExc_TypeError, "%s must be a NumPy array, not %s", parameter->name, Py_TYPE(object)->tp_name);
    return NULL;
  }
  PyArrayObject *array = (PyArrayObject *)object;
  if (!PyArray_ISWRITEABLE(array)) {
    PyErr_Format(PyExc_ValueError, "%s is read-only", parameter->name);
    return NULL;
  }
  core_description description = describe(call, parameter, array, tensor);
  if (description == MISALIGNED)
    PyErr_Format(PyExc_ValueError, "%s is misaligned: its address and strides must be multiples of its item size",
                 parameter->name);
  return description == DESCRIBED ? call_own(call, (PyArrayObject *)Py_NewRef(object)) : NULL;
}

PyArrayObject *call_allocate_output(core_call *call, const core_parameter *parameter, const swiftattn_tensor *prototype,
                                    swiftattn_tensor *tensor) {
  if (transposes(call, parameter, tensor))
    swap_sequence_and_heads(tensor);
  npy_intp shape[SWIFTATTN_MAX_RANK];
  for (int axis = 0; axis < tensor->rank; axis++)
    shape[axis] = (npy_intp)tensor->shape[axis];
  /* The library rejects a prototype of any other dtype before it looks at this array. */
  int type = prototype->dtype == SWIFTATTN_FLOAT32 ? NPY_FLOAT : NPY_DOUBLE;
  PyArrayObject *array = (PyArrayObject *)PyArray_SimpleNew(tensor->rank, shape, type);
  if (array == NULL)
    return NULL;
  describe(call, parameter, array, tensor);
  return call_own(call, array);
}

static int read_optional(core_call *call, const core_parameter *parameter, PyObject *object, swiftattn_tensor *tensor,
                         const swiftattn_tensor **field) {
  if (object == Py_None)
    return 0;
  if (call_describe_input(call, parameter, object, tensor) < 0)
    return -1;
  *field = tensor;
  return 0;
}

/* A Python or NumPy integer is one length for all; it is kept in `storage`. */
static int read_lengths(core_call *call, const core_parameter *parameter, PyObject *object, int64_t *storage,
                        swiftattn_tensor *tensor, const swiftattn_tensor **field) {
  bool is_integer = (PyLong_Check(object) && !PyBool_Check(object)) || PyArray_IsScalar(object, Integer);
  if (!is_integer)
    return read_optional(call, parameter, object, tensor, field);
  PyObject *integer = PyNumber_Index(object);
  if (integer == NULL)
    return -1;
  int overflow;
  *storage = PyLong_AsLongLongAndOverflow(integer, &overflow);
  Py_DECREF(integer);
  if (overflow != 0) {
    PyErr_Format(PyExc_ValueError, "%s does not fit 64 bits", parameter->name);
    return -1;
  }
  tensor->data = storage;
  tensor->dtype = SWIFTATTN_INT64;
  tensor->rank = 0;
  *field = tensor;
  return 0;
}

static int read_scale(core_call *call, PyObject *object) {
  if (object == Py_None)
    return 0;
  call->scale = PyFloat_AsDouble(object);
  call->attention.scale = &call->scale;
  if (call->scale != -1.0 || !PyErr_Occurred())
    return 0;
  if (PyErr_ExceptionMatches(PyExc_OverflowError))
    PyErr_SetString(PyExc_ValueError, "scale is too large for a float");
  else if (PyErr_ExceptionMatches(PyExc_TypeError))
    PyErr_Format(PyExc_TypeError, "scale must be None or a real number, not %s", Py_TYPE(object)->tp_name);
  return -1;
}

static int read_layout(core_call *call, PyObject *object) {
  if (PyUnicode_Check(object)) {
    call->sequence_major = PyUnicode_CompareWithASCIIString(object, "BSHD") == 0;
    if (call->sequence_major || PyUnicode_CompareWithASCIIString(object, "BHSD") == 0)
      return 0;
  }
  PyErr_Format(PyUnicode_Check(object) ? PyExc_ValueError : PyExc_TypeError,
               "layout must be \"BHSD\" or \"BSHD\", not %R", object);
  return -1;
}

/* True names an alignment only where both alignments are the same. */
static int read_causal_true(core_call *call) {
  const swiftattn_tensor *query = &call->query, *key = call->attention.key;
  call->attention.causal = SWIFTATTN_CAUSAL_TOP_LEFT;
  if (query->rank < 2 || key->rank < 2)
    return 0;
  int64_t query_length = query->shape[query->rank - 2], key_length = key->shape[key->rank - 2];
  if (query_length == key_length)
    return 0;
  PyErr_Format(PyExc_ValueError,
               "causal=True needs as many queries as keys, but there are %lld and %lld: "
               "pass causal=\"top_left\" or causal=\"bottom_right\"",
               (long long)query_length, (long long)key_length);
  return -1;
}

static int read_causal(core_call *call, PyObject *object) {
  if (object == Py_False)
    return 0;
  if (object == Py_True)
    return read_causal_true(call);
  if (PyArray_IsScalar(object, Bool))
    return PyObject_IsTrue(object) ? read_causal_true(call) : 0;
  if (PyUnicode_Check(object)) {
    if (PyUnicode_CompareWithASCIIString(object, "top_left") == 0) {
      call->attention.causal = SWIFTATTN_CAUSAL_TOP_LEFT;
      return 0;
    }
    if (PyUnicode_CompareWithASCIIString(object, "bottom_right") == 0) {
      call->attention.causal = SWIFTATTN_CAUSAL_BOTTOM_RIGHT;
      return 0;
    }
  }
  PyErr_Format(PyUnicode_Check(object) ? PyExc_ValueError : PyExc_TypeError,
               "causal must be False, True, \"top_left\" or \"bottom_right\", not %R", object);
  return -1;
}

/* What attention and the layer both take. */
static int read_options(core_call *call, PyObject *causal, PyObject *mask, PyObject *bias, PyObject *key_lengths) {
  swiftattn_attention *attention = &call->attention;
  if (read_causal(call, causal) < 0)
    return -1;
  if (read_optional(call, &MASK, mask, &call->mask, &attention->mask) < 0)
    return -1;
  if (read_optional(call, &BIAS, bias, &call->bias, &attention->bias) < 0)
    return -1;
  return read_lengths(call, &KEY_LENGTHS, key_lengths, &call->key_length, &call->key_lengths, &attention->key_lengths);
}

static void start(core_call *call, const core_state *state) {
  /* The descriptors, most of the struct, are left alone: each is filled when it is used. */
  call->state = state;
  call->owned_count = 0;
  call->sequence_major = false;
  call->attention = (swiftattn_attention){
      .struct_size = sizeof call->attention, .query = &call->query, .key = &call->key, .value = &call->value};
}

int call_begin_layer(core_call *call, const core_state *state, PyObject *const *operands) {
  start(call, state);
  if (call_describe_input(call, &QUERY, operands[LAYER_QUERY], &call->query) < 0)
    return -1;
  call->attention.key = &call->query;
  if (read_optional(call, &KEY, operands[LAYER_KEY], &call->key, &call->attention.key) < 0)
    return -1;
  call->attention.value = call->attention.key;
  if (read_optional(call, &VALUE, operands[LAYER_VALUE], &call->value, &call->attention.value) < 0)
    return -1;
  return read_options(call, operands[LAYER_CAUSAL], operands[LAYER_MASK], operands[LAYER_BIAS],
                      operands[LAYER_KEY_LENGTHS]);
}

int call_begin(core_call *call, const core_state *state, PyObject *const *arguments) {
  start(call, state);
  if (read_layout(call, arguments[ARGUMENT_LAYOUT]) < 0)
    return -1;
  if (call_describe_input(call, &QUERY, arguments[ARGUMENT_QUERY], &call->query) < 0)
    return -1;
  if (call_describe_input(call, &KEY, arguments[ARGUMENT_KEY], &call->key) < 0)
    return -1;
  if (call_describe_input(call, &VALUE, arguments[ARGUMENT_VALUE], &call->value) < 0)
    return -1;
  if (read_options(call, arguments[ARGUMENT_CAUSAL], arguments[ARGUMENT_MASK], arguments[ARGUMENT_BIAS],
                   arguments[ARGUMENT_KEY_LENGTHS]) < 0)
    return -1;
  if (read_scale(call, arguments[ARGUMENT_SCALE]) < 0)
    return -1;
  return read_lengths(call, &QUERY_LENGTHS, arguments[ARGUMENT_QUERY_LENGTHS], &call->query_length,
                      &call->query_lengths, &call->attention.query_lengths);
}

void call_end(core_call *call) {
  for (int index = 0; index < call->owned_count; index++)
    Py_DECREF(call->owned[index]);
}
