"""Mutations of the C ABI, the Python extension and the Python package."""

from __future__ import annotations

from .mutation import Mutation

ATTENTION_ABI = "Sources/SwiftAttnABI/AttentionABI.swift"
LAYER_ABI = "Sources/SwiftAttnABI/LayerABI.swift"
STATUS_ABI = "Sources/SwiftAttnABI/StatusABI.swift"
CORE = "python/swiftattn/_core.c"
CORE_ATTENTION = "python/swiftattn/_core_attention.c"
CORE_CALL = "python/swiftattn/_core_call.c"
CORE_LAYER = "python/swiftattn/_core_layer.c"
OPERANDS = "python/swiftattn/_core_operands.c"

SURFACES = (
    Mutation(
        "abi-wrong-status",
        "a wrong shape is reported as a wrong argument",
        STATUS_ABI,
        "SWIFTATTN_INVALID_SHAPE",
        "SWIFTATTN_INVALID_ARGUMENT",
    ),
    Mutation(
        "abi-wrong-field",
        "the keys' bias is the values'",
        LAYER_ABI,
        "try read(fields.key_bias, .keyBias, areGradients)",
        "try read(fields.value_bias, .keyBias, areGradients)",
    ),
    Mutation(
        "abi-any-struct-size",
        "a struct of a later version is taken for this version's",
        ATTENTION_ABI,
        "guard size == UInt(MemoryLayout<Fields>.size) else",
        "guard size >= UInt(MemoryLayout<Fields>.size) else",
    ),
    Mutation(
        "abi-swapped-strides",
        "strides and shape are exchanged",
        ATTENTION_ABI,
        "strides[axis] = Int(steps[axis])",
        "strides[axis] = Int(steps[shape.rank - 1 - axis])",
    ),
    Mutation(
        "core-operand-leaks",
        "the first array of every call is never released",
        OPERANDS,
        "for (int index = 0; index < call->owned_count; index++)\n    Py_DECREF",
        "for (int index = 1; index < call->owned_count; index++)\n    Py_DECREF",
    ),
    Mutation(
        "core-output-not-owned",
        "an array that was given as out is released once too often",
        OPERANDS,
        "own(call, (PyArrayObject *)Py_NewRef(object)) : NULL",
        "own(call, array) : NULL",
    ),
    Mutation(
        "core-misaligned-leaks",
        "the original of a misaligned array is never released",
        OPERANDS,
        "    Py_DECREF(array);\n    if (aligned == NULL)",
        "    if (aligned == NULL)",
    ),
    Mutation(
        "core-saved-not-owned",
        "memory that a layer uses again is released while it is used",
        CORE_LAYER,
        "(PyArrayObject *)Py_NewRef(spare)",
        "(PyArrayObject *)spare",
    ),
    Mutation(
        "core-names-leak",
        "every name of a list of names is leaked",
        CORE,
        "    Py_XDECREF(text);\n",
        "",
    ),
    Mutation(
        "core-signal-ignored",
        "Ctrl-C does not end a call",
        CORE_CALL,
        "return raised != 0;",
        "return raised > 0;",
    ),
    Mutation(
        "core-wrong-exception",
        "a wrong dtype is a ValueError",
        CORE,
        "    exception = PyExc_TypeError;\n",
        "    exception = PyExc_ValueError;\n",
    ),
    Mutation(
        "core-layout-of-rank-3",
        "a single batch in BSHD is read as BHSD",
        OPERANDS,
        "tensor->rank >= 3;",
        "tensor->rank > 3;",
    ),
    Mutation(
        "core-bias-follows-layout",
        "the bias gradient in BSHD has its axes exchanged",
        CORE_ATTENTION,
        "gradient == GRADIENT_BIAS ? &BIAS_LIKE : &QUERY_LIKE",
        "gradient == GRADIENT_COUNT ? &BIAS_LIKE : &QUERY_LIKE",
    ),
    Mutation(
        "core-byte-order-ignored",
        "numbers of the other byte order are read as if they were of this",
        OPERANDS,
        "if (PyArray_ISBYTESWAPPED(array))",
        "if (PyArray_ISBYTESWAPPED(array) && PyArray_NDIM(array) == 0)",
    ),
    Mutation(
        "core-writes-read-only",
        "a read-only array is written",
        OPERANDS,
        "if (!PyArray_ISWRITEABLE(array)) {",
        "if (!PyArray_ISWRITEABLE(array) && PyArray_NDIM(array) == 0) {",
    ),
    Mutation(
        "package-needs-read-once",
        "names given by an iterator are gone when the gradients are computed",
        "python/swiftattn/_attention.py",
        "    needs = _judged_needs(needs)\n",
        "",
    ),
    Mutation(
        "python-frozen-parameters-writable",
        "parameters of a frozen layer can be changed",
        "python/swiftattn/_layer_state.py",
        "array.flags.writeable = False",
        "array.flags.writeable = True",
    ),
    Mutation(
        "python-unfrozen-packed",
        "an unfrozen layer keeps its packed weights",
        "python/swiftattn/_layer_state.py",
        "self._freezing.made_read_only, self._freezing.packed = [], None",
        "self._freezing.made_read_only = []",
    ),
    Mutation(
        "python-copy-frozen-alone",
        "a shallow copy does not know that its arrays are frozen",
        "python/swiftattn/_layer_state.py",
        "        copied._freezing = self._freezing\n",
        "",
    ),
    Mutation(
        "package-parameters-replaced",
        "a parameter can be replaced by another array",
        "python/swiftattn/_layer_state.py",
        "if name not in self._arrays or array is not self._arrays[name]:",
        "if name not in self._arrays:",
    ),
    Mutation(
        "core-wide-values-small",
        "the width of values does not count as work",
        "python/swiftattn/_core_attention.c",
        "(double)value->shape[value->rank - 1]",
        "0",
    ),
    Mutation(
        "package-backward-twice",
        "backward adds the gradients of one call twice",
        "python/swiftattn/_layer.py",
        "        self._kept = None\n        return LayerInputGradients",
        "        return LayerInputGradients",
    ),
    Mutation(
        "package-no-grad-not-nested",
        "an inner no_grad ends the outer one",
        "python/swiftattn/_gradient_mode.py",
        "keeps_for_backward.reset(self._tokens.pop())",
        "keeps_for_backward.set(True)",
    ),
    Mutation(
        "package-state-not-copied",
        "a state dict of views of the parameters is overwritten while it is read",
        "python/swiftattn/_layer_parameters.py",
        "given[name] = np.array(array, parameter.dtype)",
        "given[name] = np.asarray(array, parameter.dtype)",
    ),
    Mutation(
        "package-glorot-bound",
        "weights are drawn too narrowly",
        "python/swiftattn/_layer_parameters.py",
        "math.sqrt(6 / (rows + columns))",
        "math.sqrt(3 / (rows + columns))",
    ),
)
