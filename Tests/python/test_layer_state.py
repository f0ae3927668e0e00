"""State dicts: what is loaded, and that nothing is loaded where something does not fit."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest

from cases import Array
from helpers import assert_same_bits
from swiftattn import MultiHeadAttention
from views import Exporter


def make_layer(seed: int = 0, **options: Any) -> MultiHeadAttention:
    return MultiHeadAttention(12, 4, add_bias_kv=True, seed=seed, **options)


def copies(layer: MultiHeadAttention) -> dict[str, Array]:
    return {name: array.copy() for name, array in layer.parameters.items()}


def test_state_dict_has_the_arrays_themselves() -> None:
    layer = make_layer()
    state = layer.state_dict()
    assert type(state) is dict
    assert list(state) == list(layer.parameters)
    assert all(state[name] is array for name, array in layer.parameters.items())
    del state["bias_k"]
    assert "bias_k" in layer.parameters


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("options", [{}, {"kdim": 5}, {"dtype": np.float64}], ids=str)
def test_what_is_loaded_is_copied(options: dict[str, Any], strict: bool) -> None:
    layer, other = make_layer(0, **options), make_layer(1, **options)
    arrays = dict(layer.parameters)
    found = layer.load_state_dict(other.state_dict(), strict=strict)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert_same_bits(dict(layer.parameters), dict(other.parameters))
    for name, array in layer.parameters.items():
        assert array is arrays[name]
        assert not np.shares_memory(array, other.parameters[name])


READERS: dict[str, Any] = {
    "float16": lambda array: array.astype(np.float16),
    "float64": lambda array: array.astype(np.float64),
    "longdouble": lambda array: array.astype(np.longdouble),
    "other byte order": lambda array: array.astype(array.dtype.newbyteorder()),
    "strided": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "lists": lambda array: array.tolist(),
    "dlpack": Exporter,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_floating_dtype_and_any_array_is_read(read: Any, dtype: Any) -> None:
    layer = make_layer(0, dtype=dtype)
    # Halves are exact in every dtype.
    state = {name: np.round(16 * array) / 2 + 1 for name, array in make_layer(1, dtype=dtype).parameters.items()}
    layer.load_state_dict({name: read(array) for name, array in state.items()})
    assert_same_bits(dict(layer.parameters), state)


# A change of a good state, the error, and what it says.
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"bias_k": None, "out_proj.bias": None}, ValueError, r"missing.*bias_k, out_proj\.bias"),
    ({"one": 1, "two": 2}, ValueError, r"unexpected.*one, two"),
    ({"bias_v": None, "out.weight": np.zeros(1)}, ValueError, r"missing.*bias_v.*unexpected.*out\.weight"),
    ({"in_proj_bias": np.zeros(35)}, ValueError, r"in_proj_bias.*\(35,\).*\(36,\)"),
    ({"out_proj.bias": np.zeros((12, 1))}, ValueError, r"out_proj\.bias.*\(12, 1\).*\(12,\)"),
    ({"bias_k": np.zeros(12), "bias_v": np.zeros(())}, ValueError, r"bias_k.*\(12,\).*bias_v.*\(\).*\(1, 1, 12\)"),
    ({"out_proj.bias": np.zeros(12, np.int64)}, TypeError, r"out_proj\.bias.*int64"),
    ({"out_proj.bias": np.zeros(12, np.complex64)}, TypeError, r"out_proj\.bias.*complex64"),
    ({"out_proj.bias": np.zeros(12, bool)}, TypeError, r"out_proj\.bias.*bool"),
    ({"out_proj.bias": "zeros"}, TypeError, r"out_proj\.bias"),
    ({"out_proj.bias": [[1.0], [1.0, 2.0]]}, TypeError, r"out_proj\.bias"),
    ({"out_proj.bias": object()}, TypeError, r"out_proj\.bias.*object"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_nothing_changes_where_something_does_not_fit(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    layer = make_layer(0)
    before, state = copies(layer), make_layer(1).state_dict() | change
    state = {name: array for name, array in state.items() if array is not None}
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        layer.load_state_dict(state)
    assert_same_bits(dict(layer.parameters), before)


def test_a_cast_that_fails_changes_nothing() -> None:
    layer = make_layer(0)
    before, state = copies(layer), make_layer(1, dtype=np.float64).state_dict()
    state["out_proj.bias"][3] = 1e300
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        layer.load_state_dict(state)
    assert_same_bits(dict(layer.parameters), before)


@pytest.mark.parametrize("state", [None, [("bias_k", 1)], "bias_k"])
def test_a_state_is_a_mapping(state: Any) -> None:
    with pytest.raises(TypeError, match="state"):
        make_layer().load_state_dict(state)


def test_not_strict_leaves_what_is_missing_and_ignores_the_rest() -> None:
    layer, other = make_layer(0), make_layer(1)
    before, state = copies(layer), other.state_dict()
    del state["bias_k"], state["out_proj.weight"]
    found = layer.load_state_dict({"no": None, **state, "neither": 3}, strict=False)
    assert found.missing_keys == ["bias_k", "out_proj.weight"]
    assert found.unexpected_keys == ["no", "neither"]
    assert_same_bits(dict(layer.parameters), {name: state.get(name, array) for name, array in before.items()})
    with pytest.raises(ValueError, match="in_proj_bias"):
        layer.load_state_dict({"in_proj_bias": np.zeros(3)}, strict=False)


def test_parameters_may_be_loaded_from_each_other() -> None:
    layer = MultiHeadAttention(12, 4, kdim=5, vdim=5, seed=0)
    before = copies(layer)
    swapped = {"k_proj_weight": layer.parameters["v_proj_weight"], "v_proj_weight": layer.parameters["k_proj_weight"]}
    layer.load_state_dict(swapped, strict=False)
    np.testing.assert_array_equal(layer.parameters["k_proj_weight"], before["v_proj_weight"])
    np.testing.assert_array_equal(layer.parameters["v_proj_weight"], before["k_proj_weight"])


def test_arrays_change_in_place_and_are_never_replaced() -> None:
    layer = make_layer()
    weight = layer.parameters["out_proj.weight"]
    layer.parameters["out_proj.weight"] -= 1
    assert layer.parameters["out_proj.weight"] is weight
    np.testing.assert_array_equal(weight, make_layer().parameters["out_proj.weight"] - 1)
    layer.grads["bias_k"] += 2
    assert (layer.grads["bias_k"] == 2).all()
    assert "out_proj.weight" in repr(layer.parameters)
    assert list({"more": 1} | layer.parameters) == ["more", *layer.parameters]
    assert (layer.parameters | {"bias_k": 1})["bias_k"] == 1
    for arrays, name in ((layer.parameters, "bias_k"), (layer.grads, "bias_k"), (layer.parameters, "bias_q")):
        with pytest.raises(TypeError, match=name):
            arrays[name] = np.zeros_like(layer.parameters["bias_k"])
    assert (layer.grads["bias_k"] == 2).all()


def test_nothing_is_loaded_where_a_parameter_is_read_only() -> None:
    layer = make_layer(0)
    layer.parameters["out_proj.weight"].flags.writeable = False
    before = copies(layer)
    with pytest.raises(ValueError, match=r"out_proj\.weight is read-only"):
        layer.load_state_dict(make_layer(1).state_dict())
    assert_same_bits(dict(layer.parameters), before)


def test_what_is_unpickled_from_read_only_memory_can_be_written() -> None:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(make_layer(0), 5, buffer_callback=buffers.append)
    layer = pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])
    x = np.ones((1, 3, 12), np.float32)
    layer.backward(layer(x))
    layer.load_state_dict(make_layer(1).state_dict())
    np.testing.assert_array_equal(layer(x), make_layer(1)(x))


@pytest.mark.parametrize("seed", ["a", -1])
def test_an_unusable_seed_is_named(seed: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="seed"):
        make_layer(seed)


@pytest.mark.parametrize("dtype", ["foo", None, np.float16, int])
def test_an_unusable_dtype_is_named(dtype: Any) -> None:
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        make_layer(dtype=dtype)
