/* The extension module swiftattn._core: the library's functions for Python, positional arguments only. The package's
 * Python functions give them keywords, documentation and types. */
#define SWIFTATTN_CORE_IMPORTS_NUMPY
#include "_core.h"

#include <unistd.h>

int check_status(swiftattn_status status) {
  PyObject *exception = PyExc_RuntimeError;
  switch (status) {
  case SWIFTATTN_OK:
    return 0;
  case SWIFTATTN_INVALID_ARGUMENT:
  case SWIFTATTN_INVALID_SHAPE:
  case SWIFTATTN_UNSUPPORTED_ISA:
    exception = PyExc_ValueError;
    break;
  case SWIFTATTN_INVALID_DTYPE:
    exception = PyExc_TypeError;
    break;
  case SWIFTATTN_OUT_OF_MEMORY:
    exception = PyExc_MemoryError;
    break;
  case SWIFTATTN_INTERRUPTED: /* comes only with the exception of a signal handler */
    break;
  }
  PyErr_SetString(exception, swiftattn_last_error());
  return -1;
}

static PyObject *none_or_error(swiftattn_status status) {
  if (check_status(status) < 0)
    return NULL;
  Py_RETURN_NONE;
}

static PyObject *version(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
  return PyUnicode_FromString(swiftattn_version());
}

static PyObject *get_num_threads(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
  return PyLong_FromLong(swiftattn_get_num_threads());
}

static PyObject *set_num_threads(PyObject *Py_UNUSED(module), PyObject *object) {
  PyObject *integer = PyNumber_Index(object);
  if (integer == NULL) {
    if (PyErr_ExceptionMatches(PyExc_TypeError))
      PyErr_Format(PyExc_TypeError, "n must be an int, not %s", Py_TYPE(object)->tp_name);
    return NULL;
  }
  int overflow;
  long long count = PyLong_AsLongLongAndOverflow(integer, &overflow);
  Py_DECREF(integer);
  if (overflow > 0 || count > INT32_MAX)
    count = INT32_MAX; /* for the library to reject, as all that is out of range */
  if (overflow < 0 || count < INT32_MIN)
    count = INT32_MIN;
  return none_or_error(swiftattn_set_num_threads((int32_t)count));
}

static PyObject *get_isa(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
  const char *name = swiftattn_get_isa();
  if (name == NULL)
    Py_RETURN_NONE;
  return PyUnicode_FromString(name);
}

static PyObject *set_isa(PyObject *Py_UNUSED(module), PyObject *object) {
  if (object == Py_None)
    return none_or_error(swiftattn_set_isa(NULL));
  if (!PyUnicode_Check(object)) {
    PyErr_Format(PyExc_TypeError, "name must be a str or None, not %s", Py_TYPE(object)->tp_name);
    return NULL;
  }
  const char *name = PyUnicode_AsUTF8(object);
  return name == NULL ? NULL : none_or_error(swiftattn_set_isa(name));
}

/* The names that `name_at` gives before its NULL, those that `accepts` takes. */
static PyObject *names(const char *(*name_at)(int32_t), int32_t (*accepts)(const char *)) {
  PyObject *list = PyList_New(0);
  if (list == NULL)
    return NULL;
  const char *name;
  for (int32_t index = 0; (name = name_at(index)) != NULL; index++) {
    if (accepts != NULL && !accepts(name))
      continue;
    PyObject *text = PyUnicode_FromString(name);
    int status = text == NULL ? -1 : PyList_Append(list, text);
    Py_XDECREF(text);
    if (status < 0) {
      Py_DECREF(list);
      return NULL;
    }
  }
  PyObject *tuple = PyList_AsTuple(list);
  Py_DECREF(list);
  return tuple;
}

static PyObject *available_isas(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
  return names(swiftattn_isa_name, swiftattn_isa_supported);
}

static PyObject *kernel_ids(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
  return names(swiftattn_kernel_id, NULL);
}

static PyMethodDef METHODS[] = {
    {"forward", (PyCFunction)(void (*)(void))core_forward, METH_FASTCALL, NULL},
    {"backward", (PyCFunction)(void (*)(void))core_backward, METH_FASTCALL, NULL},
    {"judged_needs", core_judged_needs, METH_O, NULL},
    {"layer_forward", (PyCFunction)(void (*)(void))core_layer_forward, METH_FASTCALL, NULL},
    {"layer_backward", (PyCFunction)(void (*)(void))core_layer_backward, METH_FASTCALL, NULL},
    {"layer_pack", (PyCFunction)(void (*)(void))core_layer_pack, METH_FASTCALL, NULL},
    {"version", version, METH_NOARGS, NULL},
    {"get_num_threads", get_num_threads, METH_NOARGS, NULL},
    {"set_num_threads", set_num_threads, METH_O, NULL},
    {"get_isa", get_isa, METH_NOARGS, NULL},
    {"set_isa", set_isa, METH_O, NULL},
    {"available_isas", available_isas, METH_NOARGS, NULL},
    {"kernel_ids", kernel_ids, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyObject *import_attribute(const char *module_name, const char *name) {
  PyObject *module = PyImport_ImportModule(module_name);
  if (module == NULL)
    return NULL;
  PyObject *attribute = PyObject_GetAttrString(module, name);
  Py_DECREF(module);
  return attribute;
}

static int execute(PyObject *module) {
  import_array1(-1);
  core_state *state = PyModule_GetState(module);
  state->from_dlpack = import_attribute("numpy", "from_dlpack");
  state->main_thread = import_attribute("threading", "main_thread");
  if (state->from_dlpack == NULL || state->main_thread == NULL)
    return -1;
  state->process = getpid();
  return core_main_ident(state, &state->main_ident);
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
  core_state *state = PyModule_GetState(module);
  Py_VISIT(state->from_dlpack);
  Py_VISIT(state->main_thread);
  return 0;
}

static int clear(PyObject *module) {
  core_state *state = PyModule_GetState(module);
  Py_CLEAR(state->from_dlpack);
  Py_CLEAR(state->main_thread);
  return 0;
}

static PyModuleDef_Slot SLOTS[] = {
    {Py_mod_exec, execute},
#ifdef Py_mod_multiple_interpreters
    /* NumPy, whose C API is in a static variable of this module, does not support them. */
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "swiftattn._core",
    .m_doc = "The swiftattn library for Python.",
    .m_size = sizeof(core_state),
    .m_methods = METHODS,
    .m_slots = SLOTS,
    .m_traverse = traverse,
    .m_clear = clear,
};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&MODULE); }
