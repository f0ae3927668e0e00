"""Freezing: the same bits from packed weights, and parameters that cannot change unnoticed."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import swiftattn
from helpers import DTYPES, assert_same_bits
from layer_cases import CROSSED, EMPTY, LARGE, LayerCase, compute_layer, make_problem
from swiftattn import MultiHeadAttention

# Widths of whole panels of packed weights, so that one product reads all three projections, and others.
WIDE = (
    LayerCase((40, 40), (4, 2, 64), 64),
    LayerCase((1, 1), (4, 4, 32), 128, rope="half-split"),
    LayerCase((5, 70), (2, 1, 64), 192, "fused"),
    LayerCase((5, 70), (4, 1, 64), 96, "memory"),
    LayerCase((30, 30), (5, 1, 37), 87, bias_kv=True),
    LayerCase((5, 5), (5, 1, 37), 87),
    LayerCase((200, 130), (3, 3, 100), 300, "apart"),
)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", WIDE + LARGE, ids=str)
def test_frozen_layers_give_the_same_bits(case: LayerCase, dtype: Any) -> None:
    problem = make_problem(case, dtype)
    expected = compute_layer(problem.layer(), problem)
    layer = problem.layer()
    layer.freeze()
    assert_same_bits(compute_layer(layer, problem), expected)


@pytest.mark.parametrize("case", CROSSED + EMPTY, ids=str)
def test_frozen_layers_give_the_same_bits_with_any_options(case: LayerCase) -> None:
    problem = make_problem(case)
    expected = compute_layer(problem.layer(), problem)
    layer = problem.layer()
    layer.freeze()
    assert_same_bits(compute_layer(layer, problem), expected)


def test_one_frozen_layer_attends_to_itself_and_to_others() -> None:
    rng = np.random.default_rng(0)
    x, memory = rng.standard_normal((2, 3, 9, 128), dtype=np.float32)
    layer = MultiHeadAttention(128, 4, seed=0)
    calls: tuple[tuple[Any, ...], ...] = ((x,), (x, memory), (x, memory, x), (x, x, memory))
    with swiftattn.no_grad():
        expected = [layer(*call) for call in calls]
        layer.freeze()
        for call, out in zip(calls, expected, strict=True):
            np.testing.assert_array_equal(layer(*call), out)


def test_parameters_of_a_frozen_layer_cannot_be_changed() -> None:
    layer = MultiHeadAttention(8, 2, seed=0)
    before = {name: array.copy() for name, array in layer.parameters.items()}
    assert not layer.frozen
    layer.freeze()
    assert layer.frozen
    for array in (*layer.parameters.values(), *layer.state_dict().values()):
        with pytest.raises(ValueError, match="read-only"):
            array += 1
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(RuntimeError, match=r"frozen.*unfreeze"):
        layer.load_state_dict(MultiHeadAttention(8, 2, seed=1).state_dict())
    assert_same_bits(dict(layer.parameters), before)


def test_gradients_of_a_frozen_layer_are_added_as_ever() -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 8), dtype=np.float32)
    layer = MultiHeadAttention(8, 2, seed=0)
    layer.freeze()
    for _ in range(2):
        layer.backward(layer(x))
    assert all(gradient.any() for gradient in layer.grads.values())
    layer.zero_grad()
    assert not any(gradient.any() for gradient in layer.grads.values())


def test_an_unfrozen_layer_computes_with_what_its_parameters_have_become() -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 8), dtype=np.float32)
    layer, other = MultiHeadAttention(8, 2, seed=0), MultiHeadAttention(8, 2, seed=1)
    first = layer(x)
    for _ in range(2):
        layer.freeze()
        np.testing.assert_array_equal(layer(x), first)
        layer.unfreeze()
        assert not layer.frozen
        layer.load_state_dict(other.state_dict())
        np.testing.assert_array_equal(layer(x), other(x))
        layer.freeze()
        np.testing.assert_array_equal(layer(x), other(x))
        layer.unfreeze()
        layer.parameters["in_proj_weight"][...] = MultiHeadAttention(8, 2, seed=0).parameters["in_proj_weight"]
        layer.parameters["out_proj.weight"][...] = MultiHeadAttention(8, 2, seed=0).parameters["out_proj.weight"]


def test_freezing_twice_and_unfreezing_what_is_not_frozen_do_nothing() -> None:
    layer = MultiHeadAttention(8, 2, seed=0)
    layer.unfreeze()
    assert all(array.flags.writeable for array in layer.parameters.values())
    layer.freeze()
    packed = layer._freezing.packed
    layer.freeze()
    assert layer._freezing.packed is packed
    layer.unfreeze()
    assert all(array.flags.writeable for array in layer.parameters.values())


def test_arrays_that_were_read_only_before_stay_so() -> None:
    layer = MultiHeadAttention(8, 2, seed=0)
    layer.parameters["out_proj.weight"].flags.writeable = False
    layer.freeze()
    layer.unfreeze()
    assert [name for name, array in layer.parameters.items() if not array.flags.writeable] == ["out_proj.weight"]


def test_an_interrupted_freezing_leaves_the_layer_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_parameters: object) -> object:
        raise KeyboardInterrupt

    layer = MultiHeadAttention(8, 2, seed=0)
    with monkeypatch.context() as broken:
        broken.setattr(swiftattn._core, "layer_pack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            layer.freeze()
    assert not layer.frozen
    assert all(array.flags.writeable for array in layer.parameters.values())


def test_unfreezing_gives_the_memory_back() -> None:
    layer = MultiHeadAttention(8, 2, seed=0)
    layer.freeze()
    packed: Any = weakref.ref(layer._freezing.packed)  # type: ignore[arg-type]
    layer.unfreeze()
    gc.collect()
    assert packed() is None


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle 4": lambda layer: pickle.loads(pickle.dumps(layer, 4)),
    "pickle 5": lambda layer: pickle.loads(pickle.dumps(layer, 5)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_of_a_frozen_layer_are_not_frozen(copied: Callable[[Any], Any]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 8), dtype=np.float32)
    layer = MultiHeadAttention(8, 2, seed=0)
    layer.name = "kept"  # type: ignore[attr-defined]
    layer.freeze()
    twin = copied(layer)
    assert twin.name == "kept"
    assert not twin.frozen
    assert layer.frozen
    np.testing.assert_array_equal(twin(x), layer(x))
    twin.parameters["out_proj.bias"][...] += 1
    assert not np.array_equal(twin(x), layer(x))


def test_a_frozen_layer_computes_in_many_threads() -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((2, length, 128), dtype=np.float32) for length in (1, 7, 40, 90)] * 4
    layer = MultiHeadAttention(128, 4, seed=0)
    layer.freeze()

    def output(x: Any) -> Any:
        with swiftattn.no_grad():
            return layer(x)

    expected = [output(x) for x in inputs]
    with ThreadPoolExecutor(4) as executor:
        for found, wanted in zip(executor.map(output, inputs), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_shallow_copy_is_frozen_and_unfrozen_with_its_original() -> None:
    layer = MultiHeadAttention(8, 2, seed=0)
    copied = copy.copy(layer)
    assert all(copied.parameters[name] is array for name, array in layer.parameters.items())
    assert all(copied.grads[name] is array for name, array in layer.grads.items())
    copied.freeze()
    assert layer.frozen
    assert copy.copy(layer).frozen
    layer.unfreeze()
    assert not copied.frozen
    x = np.ones((1, 3, 8), np.float32)
    layer(x)
    with pytest.raises(RuntimeError, match="backward needs a call"):
        copied.backward(x)
