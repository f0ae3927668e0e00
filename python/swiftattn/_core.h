/* What the files of the extension module swiftattn._core share.
 *
 * _core.c            the module: methods, threads and instruction sets, statuses as exceptions
 * _core_operands.c   Python objects to tensor descriptors
 * _core_call.c       running a library call: the GIL and signals
 * _core_attention.c  forward and backward: one Python call, one library call
 * _core_layer.c      layer_forward, layer_backward and layer_pack, likewise */
#ifndef SWIFTATTN_PYTHON_CORE_H
#define SWIFTATTN_PYTHON_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <sys/types.h>

#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#define NPY_TARGET_VERSION NPY_1_22_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL swiftattn_core_array_api
#ifndef SWIFTATTN_CORE_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "swiftattn.h"

/* Written when the module is made, and only read afterwards: no lock guards it. */
typedef struct core_state {
  PyObject *from_dlpack; /* numpy.from_dlpack */
  PyObject *main_thread; /* threading.main_thread */
  /* Who that was when the module was made, in the process that made it: after a fork it may be another. */
  pid_t process;
  unsigned long main_ident;
} core_state;

/* A parameter of the Python functions that takes an array. */
typedef struct core_parameter {
  const char *name;       /* as the library's own messages call it */
  const char *dtypes;     /* the element types that work, for messages */
  bool follows_layout;    /* false: the axes keep their order whatever `layout` says */
  int32_t required_dtype; /* 0: the library judges */
} core_parameter;

/* The positional arguments that forward and backward have in common, in their order. */
enum shared_argument {
  ARGUMENT_QUERY,
  ARGUMENT_KEY,
  ARGUMENT_VALUE,
  ARGUMENT_MASK,
  ARGUMENT_BIAS,
  ARGUMENT_CAUSAL,
  ARGUMENT_KEY_LENGTHS,
  ARGUMENT_QUERY_LENGTHS,
  ARGUMENT_SCALE,
  ARGUMENT_LAYOUT,
  SHARED_ARGUMENT_COUNT
};

/* The most that a call describes or allocates, a layer's backward: six operands, ten parameters and their gradients,
 * dout, and four gradients of operands. */
#define CALL_MAX_OWNED (6 + 10 + 10 + 1 + 4)

/* One call on its way to the library: the descriptors, and the references that keep their memory alive. */
typedef struct core_call {
  const core_state *state;
  PyArrayObject *owned[CALL_MAX_OWNED];
  int owned_count;
  bool sequence_major; /* layout="BSHD" */
  swiftattn_attention attention;
  swiftattn_tensor query, key, value, mask, bias, key_lengths, query_lengths;
  int64_t key_length, query_length; /* lengths that were given as an int */
  double scale;
} core_call;

/* Reads the shared arguments into `call`; -1 with an exception set where one is not acceptable. What shapes and values
 * fit together is for the library to judge. call_end follows in either case. */
int call_begin(core_call *call, const core_state *state, PyObject *const *arguments);
void call_end(core_call *call);

/* The same for a layer: query, and key, value, mask, bias, causal and key lengths, each of which may be None. */
enum layer_operand {
  LAYER_QUERY,
  LAYER_KEY,
  LAYER_VALUE,
  LAYER_MASK,
  LAYER_BIAS,
  LAYER_CAUSAL,
  LAYER_KEY_LENGTHS,
  LAYER_OPERAND_COUNT
};
int call_begin_layer(core_call *call, const core_state *state, PyObject *const *operands);

/* Takes over the reference; the array, which is returned, is released by call_end. */
PyArrayObject *call_own(core_call *call, PyArrayObject *array);

/* Describes an array that the library reads; one that it could not address is replaced by an aligned copy. */
int call_describe_input(core_call *call, const core_parameter *parameter, PyObject *object, swiftattn_tensor *tensor);

/* Describes an array that the library writes: never a copy, and so judged more strictly. Here and below, the
 * array returned is borrowed from `call`; NULL with an exception set on failure. */
PyArrayObject *call_describe_output(core_call *call, const core_parameter *parameter, PyObject *object,
                                    swiftattn_tensor *tensor);

/* Allocates a C-contiguous array for the library to write, in the shape that `tensor` has and with the dtype of the
 * descriptor `prototype`, and completes the description. */
PyArrayObject *call_allocate_output(core_call *call, const core_parameter *parameter, const swiftattn_tensor *prototype,
                                    swiftattn_tensor *tensor);

/* What the softmax of a query and a key costs, in multiply-adds. */
#define SOFTMAX_WORK 32.0

/* Computes without the GIL unless the work, in multiply-adds, is small; 0, or -1 with an exception set. `compute` is
 * given `request`, and passes on the interrupt callback of call->attention. */
typedef swiftattn_status core_compute(const core_call *call, const void *request);
int call_run(core_call *call, double work, core_compute *compute, const void *request);

void core_copy_shape(const swiftattn_tensor *from, int rank, swiftattn_tensor *to);
bool core_has_argument_count(Py_ssize_t count, Py_ssize_t wanted);

/* Asks Python who its main thread is; -1 with an exception set where that fails. */
int core_main_ident(const core_state *state, unsigned long *ident);

/* 0 for SWIFTATTN_OK; otherwise -1, with the library's message in the exception that suits the status. */
int check_status(swiftattn_status status);

PyObject *core_forward(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *core_backward(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
/* needs -> the same as a tuple, or an exception. */
PyObject *core_judged_needs(PyObject *module, PyObject *object);
PyObject *core_layer_forward(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *core_layer_backward(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *core_layer_pack(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

#endif
