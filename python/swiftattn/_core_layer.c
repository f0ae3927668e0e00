/* layer_forward, layer_backward and layer_pack: one Python call, one library call. The Python class has made the views
 * of the parameters, so what it cannot have got wrong is not checked twice; the library judges all the rest. */
#include "_core.h"

static const core_parameter PARAMETER = {"parameter", "float32 or float64", false, 0};
static const core_parameter GRADIENT = {"gradient", "float32 or float64", false, 0};
static const core_parameter DOUT = {"dout", "the layer's dtype", false, 0};
static const core_parameter RESULT = {"result", "the layer's dtype", false, 0};

enum { PARAMETER_COUNT = 10 };

/* A layer on its way to the library. */
typedef struct layer_call {
  core_call call;
  swiftattn_tensor views[PARAMETER_COUNT];
  swiftattn_mha_parameters parameters;
  swiftattn_rope rope;
  swiftattn_mha mha;
} layer_call;

/* What the library is asked to compute, forward unless there are gradients. */
typedef struct layer_request {
  const swiftattn_mha *mha;
  const swiftattn_tensor *out, *weights, *dout;
  void *saved;
  size_t saved_bytes;
  const swiftattn_mha_gradients *gradients;
} layer_request;

static swiftattn_status compute(const core_call *call, const void *request) {
  const layer_request *wanted = request;
  swiftattn_mha mha = *wanted->mha;
  mha.interrupted = call->attention.interrupted;
  mha.interrupted_context = call->attention.interrupted_context;
  if (wanted->gradients == NULL)
    return swiftattn_mha_forward(&mha, wanted->out, wanted->weights, wanted->saved, wanted->saved_bytes);
  return swiftattn_mha_backward(&mha, wanted->saved, wanted->saved_bytes, wanted->dout, wanted->gradients);
}

/* 0 where the weight that says it is none, for the library to reject. */
static int64_t out_width(const layer_call *layer) {
  const swiftattn_tensor *weight = layer->parameters.out_weight;
  return weight == NULL || weight->rank == 0 ? 0 : weight->shape[0];
}

/* Of a weight; 0 where there is none, for the library to reject. */
static double length(const swiftattn_tensor *weight, int axis) {
  return weight == NULL || weight->rank != 2 ? 0 : (double)weight->shape[axis];
}

static double elements(const swiftattn_tensor *weight) { return length(weight, 0) * length(weight, 1); }

/* Multiply-adds of the projections and of attention. */
static double work_of(const layer_call *layer) {
  const swiftattn_tensor *query = &layer->call.query, *key = layer->call.attention.key;
  const swiftattn_mha_parameters *weights = &layer->parameters;
  if (query->rank < 2 || key->rank < 2)
    return 0;
  double queries = (double)query->shape[query->rank - 2], keys = (double)key->shape[key->rank - 2];
  /* Of all heads. */
  double pair = length(weights->query_weight, 0) + length(weights->out_weight, 1) + layer->mha.num_heads * SOFTMAX_WORK;
  double work = queries * (elements(weights->query_weight) + elements(weights->out_weight)) +
                keys * (elements(weights->key_weight) + elements(weights->value_weight)) + queries * keys * pair;
  for (int axis = 0; axis < query->rank - 2; axis++)
    work *= (double)query->shape[axis];
  return work;
}

typedef int describe_view(core_call *call, PyObject *object, swiftattn_tensor *view);

static int describe_parameter(core_call *call, PyObject *object, swiftattn_tensor *view) {
  return call_describe_input(call, &PARAMETER, object, view);
}

static int describe_gradient(core_call *call, PyObject *object, swiftattn_tensor *view) {
  return call_describe_output(call, &GRADIENT, object, view) == NULL ? -1 : 0;
}

/* A tuple of arrays, or None, in the order of the struct's fields. */
static int read_views(core_call *call, PyObject *tuple, describe_view *describe, swiftattn_tensor *views,
                      swiftattn_mha_parameters *parameters) {
  const swiftattn_tensor *given[PARAMETER_COUNT] = {NULL};
  if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != PARAMETER_COUNT) {
    PyErr_Format(PyExc_TypeError, "parameters must be a tuple of %d", PARAMETER_COUNT);
    return -1;
  }
  for (int index = 0; index < PARAMETER_COUNT; index++) {
    PyObject *array = PyTuple_GET_ITEM(tuple, index);
    if (array == Py_None)
      continue;
    if (describe(call, array, &views[index]) < 0)
      return -1;
    given[index] = &views[index];
  }
  *parameters = (swiftattn_mha_parameters){
      .struct_size = sizeof *parameters,
      .query_weight = given[0],
      .key_weight = given[1],
      .value_weight = given[2],
      .out_weight = given[3],
      .query_bias = given[4],
      .key_bias = given[5],
      .value_bias = given[6],
      .out_bias = given[7],
      .key_token = given[8],
      .value_token = given[9],
  };
  return 0;
}

/* (num_heads, num_kv_heads, add_zero_attn, rope): rope is None or
 * (dim, base, scaling, interleaved, offset, key_offset). */
static int read_geometry(layer_call *layer, PyObject *geometry) {
  int zero_attn, interleaved;
  long long dim, offset, key_offset;
  PyObject *rope;
  if (!PyArg_ParseTuple(geometry, "iipO", &layer->mha.num_heads, &layer->mha.num_kv_heads, &zero_attn, &rope))
    return -1;
  layer->mha.add_zero_attn = zero_attn;
  if (rope == Py_None)
    return 0;
  layer->rope.struct_size = sizeof layer->rope;
  if (!PyArg_ParseTuple(rope, "LddpLL", &dim, &layer->rope.base, &layer->rope.scaling, &interleaved, &offset,
                        &key_offset))
    return -1;
  layer->rope.dim = dim;
  layer->rope.interleaved = interleaved;
  layer->rope.offset = offset;
  layer->rope.key_offset = key_offset;
  layer->mha.rope = &layer->rope;
  return 0;
}

enum layer_argument { LAYER_PARAMETERS, LAYER_GEOMETRY, LAYER_OPERANDS };

/* call_end follows in any case. */
static int begin(layer_call *layer, PyObject *module, PyObject *const *arguments) {
  core_call *call = &layer->call;
  layer->mha = (swiftattn_mha){.struct_size = sizeof layer->mha, .parameters = &layer->parameters};
  if (call_begin_layer(call, PyModule_GetState(module), arguments + LAYER_OPERANDS) < 0)
    return -1;
  if (read_views(call, arguments[LAYER_PARAMETERS], describe_parameter, layer->views, &layer->parameters) < 0)
    return -1;
  const swiftattn_attention *options = &call->attention;
  layer->mha.query = &call->query;
  layer->mha.key = options->key == &call->key ? options->key : NULL;
  layer->mha.value = options->value == &call->value ? options->value : NULL;
  layer->mha.mask = options->mask;
  layer->mha.bias = options->bias;
  layer->mha.key_lengths = options->key_lengths;
  layer->mha.causal = options->causal;
  return read_geometry(layer, arguments[LAYER_GEOMETRY]);
}

static PyArrayObject *allocate_out(layer_call *layer, swiftattn_tensor *tensor) {
  const swiftattn_tensor *query = &layer->call.query;
  core_copy_shape(query, query->rank, tensor);
  if (query->rank > 0)
    tensor->shape[query->rank - 1] = out_width(layer);
  return call_allocate_output(&layer->call, &RESULT, query, tensor);
}

/* `kind` is 1 for the weights of each head, 2 for their average. */
static PyArrayObject *allocate_weights(layer_call *layer, int kind, swiftattn_tensor *tensor) {
  const swiftattn_tensor *query = &layer->call.query, *key = layer->call.attention.key;
  int leading = (layer->parameters.key_token != NULL) + (layer->mha.add_zero_attn != 0);
  int batch = query->rank - 2;
  if (batch < 0 || key->rank < 2 || query->rank >= SWIFTATTN_MAX_RANK) {
    /* For the library to reject; it looks at query and key first. */
    core_copy_shape(query, query->rank, tensor);
    return call_allocate_output(&layer->call, &RESULT, query, tensor);
  }
  core_copy_shape(query, batch, tensor);
  if (kind == 1)
    tensor->shape[tensor->rank++] = layer->mha.num_heads;
  tensor->shape[tensor->rank++] = query->shape[batch];
  tensor->shape[tensor->rank++] = key->shape[key->rank - 2] + leading;
  return call_allocate_output(&layer->call, &RESULT, query, tensor);
}

/* Whether it is an array as allocate_aligned makes them. */
static bool is_aligned_memory(PyObject *object) {
  return PyArray_Check(object) && PyArray_NBYTES((PyArrayObject *)object) > SWIFTATTN_MHA_ALIGNMENT;
}

/* The part of the array's bytes that is aligned as the library wants it; the array has that many more. */
static void *aligned_bytes(PyArrayObject *array) {
  uintptr_t address = (uintptr_t)PyArray_DATA(array), mask = SWIFTATTN_MHA_ALIGNMENT - 1;
  return (void *)((address + mask) & ~mask);
}

/* How many of them are the library's. */
static size_t aligned_count(PyArrayObject *array) { return (size_t)PyArray_NBYTES(array) - SWIFTATTN_MHA_ALIGNMENT; }

/* An array with at least so many aligned bytes: `spare`, that of an earlier call, if it is large enough and not twice
 * that. Owned by the call. */
static PyArrayObject *allocate_aligned(core_call *call, size_t bytes, PyObject *spare) {
  npy_intp size = (npy_intp)(bytes + SWIFTATTN_MHA_ALIGNMENT);
  npy_intp spare_size = is_aligned_memory(spare) ? PyArray_NBYTES((PyArrayObject *)spare) : 0;
  if (spare_size >= size && spare_size / 2 <= size)
    return call_own(call, (PyArrayObject *)Py_NewRef(spare));
  PyArrayObject *array = (PyArrayObject *)PyArray_SimpleNew(1, &size, NPY_UINT8);
  return array == NULL ? NULL : call_own(call, array);
}

/* Memory for what forward saves. */
static PyArrayObject *allocate_saved(layer_call *layer, PyObject *spare, layer_request *request) {
  if (check_status(swiftattn_mha_saved_bytes(&layer->mha, &request->saved_bytes)) < 0)
    return NULL;
  PyArrayObject *array = allocate_aligned(&layer->call, request->saved_bytes, spare);
  if (array == NULL)
    return NULL;
  request->saved = aligned_bytes(array);
  request->saved_bytes = aligned_count(array);
  return array;
}

/* Packed weights, or None. */
static int read_packed(swiftattn_mha *mha, PyObject *packed) {
  if (packed == Py_None)
    return 0;
  if (!is_aligned_memory(packed)) {
    PyErr_SetString(PyExc_TypeError, "packed must be what layer_pack returned");
    return -1;
  }
  mha->packed = aligned_bytes((PyArrayObject *)packed);
  mha->packed_bytes = aligned_count((PyArrayObject *)packed);
  return 0;
}

enum layer_forward_argument {
  FORWARD_KEEPS = LAYER_OPERANDS + LAYER_OPERAND_COUNT,
  FORWARD_SPARE,
  FORWARD_WEIGHTS,
  FORWARD_PACKED,
  FORWARD_ARGUMENT_COUNT
};

static PyObject *forward(layer_call *layer, PyObject *const *arguments) {
  swiftattn_tensor out, weights;
  PyObject *saved_array = Py_None, *weights_array = Py_None;
  layer_request request = {.mha = &layer->mha, .out = &out};
  int keeps = PyObject_IsTrue(arguments[FORWARD_KEEPS]);
  long kind = PyLong_AsLong(arguments[FORWARD_WEIGHTS]);
  if (keeps < 0 || (kind == -1 && PyErr_Occurred()) || read_packed(&layer->mha, arguments[FORWARD_PACKED]) < 0)
    return NULL;
  if (keeps && (saved_array = (PyObject *)allocate_saved(layer, arguments[FORWARD_SPARE], &request)) == NULL)
    return NULL;
  PyArrayObject *out_array = allocate_out(layer, &out);
  if (out_array == NULL)
    return NULL;
  if (kind != 0) {
    if ((weights_array = (PyObject *)allocate_weights(layer, (int)kind, &weights)) == NULL)
      return NULL;
    request.weights = &weights;
  }
  if (call_run(&layer->call, work_of(layer), compute, &request) < 0)
    return NULL;
  return PyTuple_Pack(3, out_array, saved_array, weights_array);
}

PyObject *core_layer_forward(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
  if (!core_has_argument_count(count, FORWARD_ARGUMENT_COUNT))
    return NULL;
  layer_call layer;
  PyObject *result = begin(&layer, module, arguments) < 0 ? NULL : forward(&layer, arguments);
  call_end(&layer.call);
  return result;
}

enum layer_backward_argument {
  BACKWARD_SAVED = LAYER_OPERANDS + LAYER_OPERAND_COUNT,
  BACKWARD_DOUT,
  BACKWARD_GRADIENTS,
  BACKWARD_NEEDS_BIAS,
  BACKWARD_ARGUMENT_COUNT
};

/* A new array like an input that was given; None for one that was not. */
static PyObject *allocate_like(layer_call *layer, const swiftattn_tensor *input, swiftattn_tensor *tensor,
                               const swiftattn_tensor **field) {
  if (input == NULL)
    return Py_None;
  core_copy_shape(input, input->rank, tensor);
  PyArrayObject *array = call_allocate_output(&layer->call, &RESULT, &layer->call.query, tensor);
  *field = tensor;
  return (PyObject *)array;
}

static PyObject *backward(layer_call *layer, PyObject *const *arguments) {
  swiftattn_tensor dout, views[PARAMETER_COUNT], query, key, value, bias;
  swiftattn_mha_parameters parameters;
  swiftattn_mha_gradients gradients = {.struct_size = sizeof gradients, .parameters = &parameters};
  layer_request request = {.mha = &layer->mha, .dout = &dout, .gradients = &gradients};
  PyArrayObject *saved = (PyArrayObject *)arguments[BACKWARD_SAVED];
  if (!is_aligned_memory(arguments[BACKWARD_SAVED])) {
    PyErr_SetString(PyExc_TypeError, "saved must be what layer_forward returned");
    return NULL;
  }
  request.saved = aligned_bytes(saved);
  request.saved_bytes = aligned_count(saved);
  if (call_describe_input(&layer->call, &DOUT, arguments[BACKWARD_DOUT], &dout) < 0)
    return NULL;
  if (read_views(&layer->call, arguments[BACKWARD_GRADIENTS], describe_gradient, views, &parameters) < 0)
    return NULL;
  int needs_bias = PyObject_IsTrue(arguments[BACKWARD_NEEDS_BIAS]);
  if (needs_bias < 0)
    return NULL;
  if (needs_bias && layer->mha.bias == NULL) {
    PyErr_SetString(PyExc_ValueError, "needs_bias is true, but the layer was called without a bias");
    return NULL;
  }
  PyObject *query_array = allocate_like(layer, layer->mha.query, &query, &gradients.query);
  PyObject *key_array = allocate_like(layer, layer->mha.key, &key, &gradients.key);
  PyObject *value_array = allocate_like(layer, layer->mha.value, &value, &gradients.value);
  PyObject *bias_array = allocate_like(layer, needs_bias ? layer->mha.bias : NULL, &bias, &gradients.bias);
  if (query_array == NULL || key_array == NULL || value_array == NULL || bias_array == NULL)
    return NULL;
  if (call_run(&layer->call, work_of(layer), compute, &request) < 0)
    return NULL;
  return PyTuple_Pack(4, query_array, key_array, value_array, bias_array);
}

PyObject *core_layer_backward(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
  if (!core_has_argument_count(count, BACKWARD_ARGUMENT_COUNT))
    return NULL;
  layer_call layer;
  PyObject *result = begin(&layer, module, arguments) < 0 ? NULL : backward(&layer, arguments);
  call_end(&layer.call);
  return result;
}

/* What layer_pack asks of the library. */
typedef struct pack_request {
  const swiftattn_mha_parameters *parameters;
  void *packed;
  size_t bytes;
} pack_request;

static swiftattn_status pack_weights(const core_call *call, const void *request) {
  (void)call;
  const pack_request *wanted = request;
  return swiftattn_mha_pack(wanted->parameters, wanted->packed, wanted->bytes);
}

static PyObject *pack(layer_call *layer, PyObject *parameters) {
  pack_request request = {.parameters = &layer->parameters};
  if (read_views(&layer->call, parameters, describe_parameter, layer->views, &layer->parameters) < 0)
    return NULL;
  if (check_status(swiftattn_mha_packed_bytes(&layer->parameters, &request.bytes)) < 0)
    return NULL;
  PyArrayObject *array = allocate_aligned(&layer->call, request.bytes, Py_None);
  if (array == NULL)
    return NULL;
  request.packed = aligned_bytes(array);
  if (call_run(&layer->call, (double)request.bytes, pack_weights, &request) < 0)
    return NULL;
  return Py_NewRef((PyObject *)array);
}

PyObject *core_layer_pack(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
  if (!core_has_argument_count(count, 1))
    return NULL;
  layer_call layer = {.call = {.state = PyModule_GetState(module)}};
  PyObject *result = pack(&layer, arguments[0]);
  call_end(&layer.call);
  return result;
}
