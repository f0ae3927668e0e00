"""The compiled module judges what only a broken package would pass it: an error, never a crash."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import swiftattn
from cases import Array
from helpers import output_of
from swiftattn import _core

X = np.random.default_rng(0).standard_normal((3, 8), np.float32)


class Undecided:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise ArithmeticError("undecided")


@pytest.mark.parametrize("name", ["forward", "backward", "layer_forward", "layer_backward", "layer_pack"])
def test_the_number_of_arguments_is_judged(name: str) -> None:
    with pytest.raises(TypeError, match="positional arguments wanted, 2 given"):
        getattr(_core, name)(None, None)


def make_layer() -> swiftattn.MultiHeadAttention:
    return swiftattn.MultiHeadAttention(8, 2, rope=swiftattn.Rope(), seed=0)


def layer_arguments() -> dict[str, Any]:
    """What the package passes to layer_forward, by name, for one layer in self-attention."""
    layer = make_layer()
    operands = {"query": X, "key": None, "value": None, "mask": None, "bias": None, "causal": False, "lengths": None}
    own = {"keeps": True, "spare": None, "weights": 0, "packed": None}
    return {"parameters": layer._core_parameters, "geometry": layer._geometry, **operands, **own}


def layer_backward_arguments() -> dict[str, Any]:
    """The same for layer_backward, after layer_forward."""
    arguments = layer_arguments()
    _, saved, _ = _core.layer_forward(*arguments.values())
    for name in ("keeps", "spare", "weights", "packed"):
        del arguments[name]
    gradients = tuple(None if view is None else np.zeros_like(view) for view in arguments["parameters"])
    return {**arguments, "saved": saved, "dout": X, "gradients": gradients, "needs_bias": False}


WRONG_LAYERS = (
    ({"parameters": [None] * 10}, TypeError, "parameters must be a tuple of 10"),
    ({"parameters": (None,) * 9}, TypeError, "parameters must be a tuple of 10"),
    ({"parameters": ("weights",) * 10}, TypeError, "parameter must be a NumPy array .* not str"),
    ({"geometry": (2,)}, TypeError, "function takes exactly 4 arguments"),
    ({"geometry": (2, 2, False, (1,))}, TypeError, "function takes exactly 6 arguments"),
    ({"key": X, "value": "x"}, TypeError, "value must be a NumPy array .* not str"),
    ({"keeps": Undecided()}, ArithmeticError, "undecided"),
    ({"weights": "x"}, TypeError, "'str' object cannot be interpreted as an integer"),
    ({"packed": "x"}, TypeError, "packed must be what layer_pack returned"),
    ({"packed": np.zeros(64, np.uint8)}, TypeError, "packed must be what layer_pack returned"),
    ({"packed": np.zeros(128, np.uint8)}, ValueError, "packed has 64 bytes but needs 4096"),
    # Where there is nothing to compute weights from, what is allocated for them is of no matter.
    *(
        ({"query": query, "keeps": False, "weights": weights}, ValueError, "query must have a rank from 2 to 7")
        for query in (X[0], X.reshape(1, 1, 1, 1, 1, 1, 3, 8))
        for weights in (1, 2)
    ),
    ({"key": X[0], "keeps": False, "weights": 1}, ValueError, "key has rank 1 but query has rank 2"),
)
WRONG_LAYERS_BACKWARD = (
    ({"saved": None}, TypeError, "saved must be what layer_forward returned"),
    ({"saved": np.zeros(64, np.uint8)}, TypeError, "saved must be what layer_forward returned"),
    ({"dout": [1.0]}, TypeError, "dout must be a NumPy array .* not list"),
    ({"gradients": [None] * 10}, TypeError, "parameters must be a tuple of 10"),
    ({"gradients": ([1.0],) * 10}, TypeError, "gradient must be a NumPy array, not list"),
    ({"needs_bias": Undecided()}, ArithmeticError, "undecided"),
)


@pytest.mark.parametrize(("changes", "exception", "message"), WRONG_LAYERS)
def test_arguments_of_a_layer_are_judged(changes: dict[str, Any], exception: type[Exception], message: str) -> None:
    arguments = layer_arguments()
    with pytest.raises(exception, match=message):
        _core.layer_forward(*{**arguments, **changes}.values())
    out, _, _ = _core.layer_forward(*arguments.values())
    np.testing.assert_array_equal(out, make_layer()(X))


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize(
    ("out_weight", "message"),
    [
        (None, "out_weight is missing"),
        (np.zeros((), np.float32), r"out_weight has shape \(\) but must have two dimensions"),
    ],
)
def test_an_out_weight_without_a_width_is_judged(out_weight: Array | None, message: str, keeps: bool) -> None:
    arguments = layer_arguments()
    _core.layer_forward(*arguments.values())  # which leaves other numbers on the stack
    weights = arguments["parameters"]
    arguments |= {"parameters": (*weights[:3], out_weight, *weights[4:]), "keeps": keeps}
    with pytest.raises(ValueError, match=message):
        _core.layer_forward(*arguments.values())


@pytest.mark.parametrize(
    ("parameters", "exception", "message"),
    [
        (("x",) + (None,) * 9, TypeError, "parameter must be a NumPy array"),
        ((None,) * 10, ValueError, "query_weight is missing"),
    ],
)
def test_weights_to_pack_are_judged(parameters: object, exception: type[Exception], message: str) -> None:
    with pytest.raises(exception, match=message):
        _core.layer_pack(parameters)


@pytest.mark.parametrize(("changes", "exception", "message"), WRONG_LAYERS_BACKWARD)
def test_arguments_of_a_layers_backward_are_judged(
    changes: dict[str, Any], exception: type[Exception], message: str
) -> None:
    arguments = layer_backward_arguments()
    with pytest.raises(exception, match=message):
        _core.layer_backward(*{**arguments, **changes}.values())
    assert not any(gradient.any() for gradient in arguments["gradients"] if gradient is not None)
    query, _, _, _ = _core.layer_backward(*arguments.values())
    layer = make_layer()
    layer(X)
    np.testing.assert_array_equal(query, layer.backward(X).query)


def test_return_lse_may_raise() -> None:
    undecided: Any = Undecided()
    with pytest.raises(ArithmeticError, match="undecided"):
        swiftattn.attention(X, X, X, return_lse=undecided)


@pytest.mark.parametrize("name", ["out", "lse"])
def test_results_that_are_no_arrays_are_judged_by_backward(name: str) -> None:
    out, lse = swiftattn.attention(X, X, X, return_lse=True)
    results: dict[str, Any] = {"out": out, "lse": lse, name: "x"}
    with pytest.raises(TypeError, match=f"{name} must be a NumPy array or have __dlpack__, not str"):
        swiftattn.attention_backward(X, X, X, X, **results)


@pytest.mark.parametrize("name", ["key_lengths", "query_lengths"])
def test_a_length_may_raise(name: str) -> None:
    class Broken(np.int64):
        def __index__(self) -> int:
            raise ArithmeticError("no integer")

    options: dict[str, Any] = {name: Broken(2)}
    with pytest.raises(ArithmeticError, match="no integer"):
        swiftattn.attention(X, X, X, **options)
    options = {name: np.int64(2)}
    assert np.isfinite(swiftattn.attention(X, X, X, **options)).all()


@pytest.mark.parametrize("is_causal", [True, False])
def test_numpys_booleans_are_as_good_as_pythons(is_causal: bool) -> None:
    numpys: Any = np.bool_(is_causal)
    results = [swiftattn.attention(X, X, X, causal=causal) for causal in (is_causal, not is_causal, numpys)]
    np.testing.assert_array_equal(results[2], results[0])
    assert (results[2] != results[1]).any()


def test_numpys_true_names_no_alignment_either() -> None:
    causal: Any = np.True_
    with pytest.raises(ValueError, match="causal=True needs as many queries as keys, but there are 2 and 3"):
        swiftattn.attention(X[:2], X, X, causal=causal)


@pytest.mark.parametrize(("query", "key"), [(X[0], X), (X, X[0]), (X[0], X[0])])
def test_causal_leaves_too_few_axes_to_the_library(query: Array, key: Array) -> None:
    with pytest.raises(ValueError, match=r"query .* rank|key .* rank"):
        swiftattn.attention(query, key, key, causal=True)


def test_the_stride_of_an_axis_of_length_1_does_not_matter() -> None:
    memory = np.full(10, 7, np.float32)
    odd = as_strided(memory, (1, 8), (3, 4))
    assert odd.strides == (3, 4)
    assert swiftattn.attention(X[:1], X, X, out=odd) is odd
    np.testing.assert_array_equal(odd, swiftattn.attention(X[:1], X, X))
    np.testing.assert_array_equal(memory[8:], 7)


@pytest.mark.parametrize("count", [-(2**80), 2**80, -(2**31) - 1])
def test_a_number_of_threads_beyond_c_is_judged(count: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        swiftattn.set_num_threads(count)


def another_core() -> Any:
    """Load the compiled module once more."""
    spec = importlib.util.spec_from_file_location(_core.__name__, _core.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_module_needs_threading(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "threading", None)
        with pytest.raises(ModuleNotFoundError, match="threading"):
            another_core()
    assert another_core().version() == _core.version()


def no_thread() -> None:
    raise ArithmeticError("no thread")


BROKEN_THREADING: tuple[tuple[Callable[[], Any], type[Exception], str], ...] = (
    (no_thread, ArithmeticError, "no thread"),
    (object, AttributeError, "'object' object has no attribute 'ident'"),
    (lambda: SimpleNamespace(ident="x"), TypeError, "an integer is required"),
    (lambda: SimpleNamespace(ident=-1), OverflowError, "can't convert negative"),
)


@pytest.mark.parametrize(("main_thread", "exception", "message"), BROKEN_THREADING)
def test_a_main_thread_that_is_unknown_is_an_error(
    main_thread: Callable[[], Any], exception: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setitem(sys.modules, "threading", SimpleNamespace(main_thread=main_thread))
        with pytest.raises(exception, match=message):
            another_core()


AFTER_FORK = """
import os, sys, threading
from types import SimpleNamespace

import numpy as np

asked = []


def main_thread():
    asked.append(os.getpid())
    if len(asked) > 2:
        raise ArithmeticError("no thread")
    return threading.main_thread()


real = sys.modules["threading"]
sys.modules["threading"] = SimpleNamespace(main_thread=main_thread)
from swiftattn import _core
sys.modules["threading"] = real
options = (None, None, False, None, None, None, "BHSD")
large = np.random.default_rng(1).standard_normal((64, 64), np.float32)
expected = _core.forward(large, large, large, *options, None, False)
assert asked == [os.getpid()]  # when the module was made, and not again
child = os.fork()
if child == 0:
    assert (_core.forward(large, large, large, *options, None, False) == expected).all()
    assert asked[1:] == [os.getpid()]
    out = np.full_like(large, 7)
    try:
        _core.forward(large, large, large, *options, out, False)
    except ArithmeticError:
        assert (out == 7).all()
        # A small call does not ask which thread it is in.
        _core.forward(large[:3, :8], large[:3, :8], large[:3, :8], *options, None, False)
        # One query is not small where its keys' values are wide.
        try:
            _core.forward(large[:1, :1], large[:, :1], np.ones((64, 8192), np.float32), *options, None, False)
        except ArithmeticError:
            os._exit(0)
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
print("done")
"""


def test_after_a_fork_the_main_thread_is_asked_for_again() -> None:
    assert output_of(AFTER_FORK) == "done\n"
