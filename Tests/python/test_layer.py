"""The layer as an object: its parameters, what it keeps for backward, copies, and what it says of itself."""

from __future__ import annotations

import copy
import doctest
import inspect
import pickle
import re
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Array
from helpers import assert_same_bits, without_none
from layer_cases import LayerCase, LayerProblem, compute_layer, make_problem
from swiftattn import LayerInputGradients, MultiHeadAttention, Rope
from swiftattn.reference_layer import LayerConfig, parameter_shapes

CASE = LayerCase((3, 5), (4, 2, 6), 20, "apart", bias_kv=True, zero_attn=True, rope="partial")


@pytest.fixture
def problem() -> LayerProblem:
    return make_problem(CASE)


@pytest.fixture
def layer(problem: LayerProblem) -> MultiHeadAttention:
    return problem.layer()


CONFIGS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"kdim": 12, "vdim": 12},
    {"kdim": 5},
    {"vdim": 7, "add_bias_kv": True},
    {"num_kv_heads": 2, "head_dim": 5, "add_bias_kv": True, "bias": False},
]


@pytest.mark.parametrize("options", CONFIGS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, "float64"])
def test_parameters_and_gradients_are_named_arrays(options: dict[str, Any], dtype: Any) -> None:
    layer = MultiHeadAttention(12, 4, **options, dtype=dtype)
    shapes = parameter_shapes(LayerConfig(12, 4, **options))
    for arrays in (layer.parameters, layer.grads):
        assert {name: array.shape for name, array in arrays.items()} == shapes
        assert list(arrays) == list(shapes)
        assert all(array.dtype == dtype and array.flags.writeable for array in arrays.values())
        with pytest.raises(TypeError):
            arrays["out_proj.weight"] = np.zeros((12, 12))  # type: ignore[index]
    assert not any(gradient.any() for gradient in layer.grads.values())
    assert layer.dtype == dtype


def test_attributes_say_what_the_layer_is() -> None:
    layer = MultiHeadAttention(12, 4, num_kv_heads=2, head_dim=5)
    assert (layer.embed_dim, layer.num_heads, layer.num_kv_heads, layer.head_dim) == (12, 4, 2, 5)
    plain = MultiHeadAttention(12, 4)
    assert (plain.num_kv_heads, plain.head_dim, plain.dtype) == (4, 3, np.float32)


ATTRIBUTES = ("embed_dim", "num_heads", "num_kv_heads", "head_dim", "dtype", "parameters", "grads", "frozen")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_are_read_only(layer: MultiHeadAttention, name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        setattr(layer, name, 1)


def test_parameters_changed_in_place_are_what_the_next_call_uses(
    layer: MultiHeadAttention, problem: LayerProblem
) -> None:
    before = layer(*problem.given)
    layer.parameters["out_proj.bias"][...] += 1
    np.testing.assert_allclose(layer(*problem.given), before + 1, rtol=1e-5, atol=1e-5)
    layer.parameters["v_proj_weight"].fill(0)
    layer.parameters["in_proj_bias"].fill(0)
    layer.parameters["bias_v"].fill(0)
    np.testing.assert_array_equal(layer(*problem.given), layer.parameters["out_proj.bias"] + np.zeros_like(before))


# First values.


def test_first_values_have_the_distributions_of_torch() -> None:
    options = {"num_kv_heads": 4, "head_dim": 20, "add_bias_kv": True, "seed": 1}
    fused, apart = MultiHeadAttention(96, 8, **options), MultiHeadAttention(96, 8, kdim=40, vdim=70, **options)
    bounds = {  # rows of in_proj_weight: 8 heads of q and 4 each of k and v, 20 rows a head
        "in_proj_weight": np.sqrt(6 / (320 + 96)),
        "q_proj_weight": np.sqrt(6 / (160 + 96)),
        "k_proj_weight": np.sqrt(6 / (80 + 40)),
        "v_proj_weight": np.sqrt(6 / (80 + 70)),
        "out_proj.weight": np.sqrt(1 / 160),
    }
    parameters = {**fused.parameters, **apart.parameters}
    for name, bound in bounds.items():
        largest = np.abs(parameters[name]).max()
        assert 0.99 * bound < largest <= np.float32(bound), name
        np.testing.assert_allclose(parameters[name].std(), bound / np.sqrt(3), rtol=0.03, err_msg=name)
        assert abs(parameters[name].mean()) < 0.05 * bound, name
    for name in ("bias_k", "bias_v"):
        drawn = np.concatenate([MultiHeadAttention(96, 8, **options | {"seed": n}).parameters[name] for n in range(40)])
        np.testing.assert_allclose(drawn.std(), 1 / np.sqrt(80), rtol=0.05, err_msg=name)
        assert np.abs(drawn).max() > 3 / np.sqrt(80)  # normal, not uniform
    assert not parameters["in_proj_bias"].any()
    assert not parameters["out_proj.bias"].any()


def test_equal_seeds_give_equal_layers() -> None:
    def parameters(seed: Any, dtype: Any = np.float32) -> dict[str, Array]:
        layer = MultiHeadAttention(12, 4, add_bias_kv=True, dtype=dtype, seed=seed)
        return {name: array for name, array in layer.parameters.items() if array.any()}

    one = parameters(7)
    for seed in (np.int64(7), np.random.SeedSequence(7), np.random.default_rng(7)):
        assert_same_bits(parameters(seed), one)
    assert_same_bits({name: array.astype(np.float32) for name, array in parameters(7, np.float64).items()}, one)
    for other in (parameters(8), parameters(None), parameters(None)):
        assert not any((other[name] == array).all() for name, array in one.items())


# What is kept for backward.


def test_backward_needs_a_call_and_goes_back_once(layer: MultiHeadAttention, problem: LayerProblem) -> None:
    with pytest.raises(RuntimeError, match="backward"):
        layer.backward(problem.dout)
    layer(*problem.given)
    layer.backward(problem.dout)
    with pytest.raises(RuntimeError, match="once"):
        layer.backward(problem.dout)
    with swiftattn.no_grad():
        layer(*problem.given)
    with pytest.raises(RuntimeError, match="no_grad"):
        layer.backward(problem.dout)


def test_a_wrong_gradient_changes_nothing(layer: MultiHeadAttention, problem: LayerProblem) -> None:
    expected = compute_layer(layer, problem)
    layer.zero_grad()
    layer(*problem.given)
    for wrong, error in (
        (problem.dout[:, :-1], ValueError),
        (problem.dout[0], ValueError),
        (problem.dout.astype(np.float64), TypeError),
        ([[1.0]], TypeError),
    ):
        with pytest.raises(error, match="dout"):
            layer.backward(wrong)  # type: ignore[arg-type]
    assert not any(gradient.any() for gradient in layer.grads.values())
    gradients = layer.backward(problem.dout)
    assert_same_bits({"query": gradients.query}, {"query": expected["query"]})


def test_a_call_replaces_what_an_earlier_one_kept(layer: MultiHeadAttention, problem: LayerProblem) -> None:
    expected = compute_layer(layer, problem)
    layer.zero_grad()
    layer(*make_problem(LayerCase((2, 2), CASE.heads, CASE.embed, "apart", bias_kv=True)).given)
    layer(*problem.given)
    with swiftattn.no_grad():
        layer(*(operand[:, :1] for operand in problem.given))
    gradients = layer.backward(problem.dout)
    found = {**without_none(gradients._asdict()), **layer.grads}
    assert_same_bits(found, {name: expected[name] for name in found})


def test_gradients_are_none_for_what_was_not_given() -> None:
    layer = MultiHeadAttention(8, 2, seed=0)
    x, memory = np.ones((2, 3, 8), np.float32), np.ones((2, 5, 8), np.float32)
    for given, names in (((x,), ["query"]), ((x, memory), ["query", "key"]), ((x, x, x), ["query", "key", "value"])):
        layer(*given)
        gradients = layer.backward(x)
        assert isinstance(gradients, LayerInputGradients)
        assert [name for name, gradient in gradients._asdict().items() if gradient is not None] == names
    layer(x, value=memory, key=memory)
    gradients = layer.backward(x)
    assert gradients.key is not None
    assert gradients.value is not None


def test_the_gradient_by_bias_is_asked_for() -> None:
    layer = MultiHeadAttention(8, 2, seed=0)
    x, bias = np.ones((2, 3, 8), np.float32), np.zeros((2, 3, 3), np.float32)
    layer(x, bias=bias)
    assert layer.backward(x).bias is None
    layer(x, bias=bias)
    gradient = layer.backward(x, needs_bias=True).bias
    assert gradient is not None
    assert gradient.shape == bias.shape
    layer(x)
    with pytest.raises(ValueError, match="needs_bias"):
        layer.backward(x, needs_bias=True)
    layer.backward(x)  # nothing was lost


def test_a_value_needs_a_key(layer: MultiHeadAttention, problem: LayerProblem) -> None:
    with pytest.raises(ValueError, match="key"):
        layer(problem.given[0], value=problem.given[2])


def test_nothing_is_kept_alive_that_backward_does_not_need() -> None:
    layer, dout = MultiHeadAttention(8, 2), np.ones((2, 3, 8), np.float32)

    def call() -> weakref.ref[Array]:
        x = np.ones((2, 3, 8), np.float32)
        layer(x)
        return weakref.ref(x)

    with swiftattn.no_grad():
        assert call()() is None
    first, second = call(), call()
    assert first() is None
    assert second() is not None
    layer.backward(dout)
    assert second() is None


# no_grad.


def keeps(layer: MultiHeadAttention) -> bool:
    """Whether a call would keep something; drops what an earlier one kept."""
    x = np.zeros((1, 1, layer.embed_dim), layer.dtype)
    layer(x)
    try:
        layer.backward(x)
    except RuntimeError:
        return False
    return True


def test_no_grad_ends_with_its_block() -> None:
    layer = MultiHeadAttention(8, 2)
    with swiftattn.no_grad():
        with swiftattn.no_grad():
            assert not keeps(layer)
        assert not keeps(layer)
    assert keeps(layer)
    with pytest.raises(ZeroDivisionError), swiftattn.no_grad():
        raise ZeroDivisionError
    assert keeps(layer)

    @swiftattn.no_grad()
    def decorated() -> bool:
        return keeps(layer)

    assert not decorated()
    assert not decorated()
    assert keeps(layer)


def test_no_grad_decorates_no_function_whose_body_runs_later() -> None:
    async def coroutine() -> None: ...

    def generator() -> Iterator[None]:
        yield

    async def stream() -> AsyncIterator[None]:
        yield

    for function in (coroutine, generator, stream):
        with pytest.raises(TypeError, match=function.__name__):
            swiftattn.no_grad()(function)


def test_memory_of_a_longer_call_is_used_again_and_inference_gives_it_back() -> None:
    layer = MultiHeadAttention(8, 2, seed=0)
    long, short = np.ones((1, 90, 8), np.float32), np.ones((1, 60, 8), np.float32)
    layer(long)
    saved = layer._saved
    gradient = layer.backward(layer(short)).query
    assert layer._saved is saved
    np.testing.assert_array_equal(gradient, (fresh := MultiHeadAttention(8, 2, seed=0)).backward(fresh(short)).query)
    layer(long[:, :30])
    assert layer._saved is not saved
    with swiftattn.no_grad():
        layer(short)
        assert layer._saved is not None  # backward is still to come
        layer.backward(long[:, :30])
        layer(short)
    assert layer._saved is None


def test_no_grad_is_about_its_own_thread() -> None:
    layer = MultiHeadAttention(8, 2)
    entered, done = threading.Event(), threading.Event()

    def without() -> None:
        with swiftattn.no_grad():
            entered.set()
            done.wait(60)

    thread = threading.Thread(target=without)
    thread.start()
    assert entered.wait(60)
    here = keeps(layer)
    done.set()
    thread.join()
    assert here


# Copies.

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_are_equal_and_independent(
    copied: Callable[[Any], Any], layer: MultiHeadAttention, problem: LayerProblem
) -> None:
    expected = compute_layer(layer, problem)
    layer(*problem.given)
    twin = copied(layer)
    assert repr(twin) == repr(layer)
    for arrays, others in ((twin.parameters, layer.parameters), (twin.grads, layer.grads)):
        assert_same_bits(dict(arrays), dict(others))
        assert not any(np.shares_memory(arrays[name], others[name]) for name in arrays)
    with pytest.raises(RuntimeError):
        twin.backward(problem.dout)
    layer.zero_grad()
    assert_same_bits(compute_layer(twin, problem), expected)
    assert not any(gradient.any() for gradient in layer.grads.values())
    layer.parameters["out_proj.weight"].fill(0)
    twin.zero_grad()
    assert_same_bits(compute_layer(twin, problem), expected)


# What it says of itself.


def test_repr_is_the_call_that_makes_the_layer() -> None:
    assert repr(MultiHeadAttention(12, 4)) == "MultiHeadAttention(12, 4)"
    layer = MultiHeadAttention(
        12, 4, num_kv_heads=2, head_dim=6, kdim=5, bias=False, add_zero_attn=True, rope=Rope(4, 1e5), dtype=np.float64
    )
    again = eval(repr(layer), {"MultiHeadAttention": MultiHeadAttention, "Rope": Rope})
    assert repr(again) == repr(layer)
    assert "add_bias_kv" not in repr(layer)
    assert again.dtype == np.float64
    assert {name: array.shape for name, array in again.parameters.items()} == {
        name: array.shape for name, array in layer.parameters.items()
    }


_DOCUMENTED = (
    MultiHeadAttention,
    MultiHeadAttention.__call__,
    MultiHeadAttention.backward,
    MultiHeadAttention.load_state_dict,
    Rope,
    *(getattr(swiftattn.convert, name) for name in swiftattn.convert.__all__),
)


@pytest.mark.parametrize("function", _DOCUMENTED, ids=lambda function: function.__qualname__)
def test_documentation_names_every_argument(function: Any) -> None:
    documented = set(re.findall(r"\w+", inspect.getdoc(function) or ""))
    assert documented >= set(inspect.signature(function).parameters) - {"self"}


@pytest.mark.parametrize("name", ["_layer", "_layer_config", "_gradient_mode", "convert"])
def test_examples_in_the_documentation_run(name: str) -> None:
    result = doctest.testmod(import_module(f"swiftattn.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
