"""The layer's results are the same bits whatever the threads, the batch neighbours, the strides and what is unseen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Array
from helpers import DTYPES, assert_same_bits, without_none
from layer_cases import LayerCase, LayerProblem, compute_layer, make_problem
from views import VIEWS, Exporter, View

pytestmark = pytest.mark.usefixtures("isa")

CASES = (
    LayerCase((150, 150), (5, 1, 37), 87, rope="interleaved", causal=True, bias_kv=True),
    LayerCase((97, 130), (4, 2, 32), 128, "apart", (3,), mask="B1QK", bias="HQK", zero_attn=True),
    LayerCase((33, 47), (2, 2, 7), 20, "memory", (3,), rope="offsets", key_lengths=True, biases=False),
    LayerCase((1, 700), (8, 2, 16), 64, "fused", (3,), rope="half-split"),
    LayerCase((700, 3), (2, 1, 16), 40, "three", (2,), bias="QK"),
)


def results_of(problem: LayerProblem) -> dict[str, Array]:
    return compute_layer(problem.layer(), problem)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_number_of_threads_gives_the_same_bits(case: LayerCase, dtype: Any) -> None:
    problem = make_problem(case, dtype)
    swiftattn.set_num_threads(1)
    expected = results_of(problem)
    for count in (2, 3):
        swiftattn.set_num_threads(count)
        assert_same_bits(results_of(problem), expected)


def batch_element(problem: LayerProblem, index: int) -> LayerProblem:
    """One element of a batch, as a batch of one."""
    part, options = slice(index, index + 1), dict(problem.options)
    for name in ("mask", "bias", "key_lengths"):
        if np.ndim(options.get(name)) in (1, 4) and len(options[name]) > 1:
            options[name] = options[name][part]
    given = tuple(operand[part] for operand in problem.given)
    return replace(problem, given=given, options=options, dout=problem.dout[part])


@pytest.mark.parametrize("case", [case for case in CASES if case.batch == (3,)], ids=str)
def test_neighbours_in_the_batch_do_not_matter(case: LayerCase) -> None:
    problem = make_problem(case)
    results = results_of(problem)
    # The gradients by these are sums over the batch.
    names = results.keys() - problem.parameters.keys() - {"bias"}
    for index in range(3):
        alone = results_of(batch_element(problem, index))
        assert_same_bits(
            {name: alone[name] for name in names}, {name: results[name][index : index + 1] for name in names}
        )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_output_does_not_depend_on_what_else_is_wanted(case: LayerCase) -> None:
    problem = make_problem(case)
    layer = problem.layer()
    expected = {"output": compute_layer(layer, problem)["output"]}
    assert_same_bits({"output": layer(*problem.given, **problem.options)}, expected)
    with swiftattn.no_grad():
        assert_same_bits({"output": layer(*problem.given, **problem.options)}, expected)


@pytest.mark.parametrize("case", CASES[1:3], ids=str)
def test_one_layer_computes_in_many_threads_without_gradients(case: LayerCase) -> None:
    problem = make_problem(case)
    layer = problem.layer()
    elements = [batch_element(problem, index) for index in range(3)] * 4

    def output(element: LayerProblem) -> Array:
        with swiftattn.no_grad():
            return layer(*element.given, **element.options)

    expected = [output(element) for element in elements]
    with ThreadPoolExecutor(4) as executor:
        for found, wanted in zip(executor.map(output, elements), expected, strict=True):
            assert_same_bits({"output": found}, {"output": wanted})


# Other ways for the same numbers to lie in memory.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_strides_do_not_matter(view: View, dtype: Any) -> None:
    problem = make_problem(LayerCase((17, 33), (4, 2, 7), 20, "apart", mask="BHQK", bias="QK", rope="partial"), dtype)
    expected = results_of(problem)
    options = {name: view(array) for name, array in problem.options.items()}
    given = tuple(view(operand) for operand in problem.given)
    assert_same_bits(results_of(replace(problem, given=given, options=options, dout=view(problem.dout))), expected)


def test_broadcast_inputs_are_read_in_place() -> None:
    problem = make_problem(LayerCase((17, 33), (2, 2, 8), 20, "memory", (1,)))
    given = tuple(np.broadcast_to(operand, (3, *operand.shape[1:])) for operand in problem.given)
    repeated = replace(problem, given=given, dout=np.broadcast_to(problem.dout, given[0].shape))
    results, one = results_of(repeated), results_of(problem)
    for name in results.keys() - problem.parameters.keys():
        assert_same_bits({name: results[name]}, {name: np.repeat(one[name], 3, axis=0)})


def test_arrays_of_other_libraries_are_read() -> None:
    problem = make_problem(LayerCase((17, 33), (4, 2, 7), 20, "apart", bias="QK", key_lengths=True))
    layer = problem.layer()
    expected = compute_layer(layer, problem)
    output = layer(*map(Exporter, problem.given), **{name: Exporter(array) for name, array in problem.options.items()})
    layer.zero_grad()
    inputs = without_none(layer.backward(Exporter(problem.dout), needs_bias=True)._asdict())
    found = {"output": output, **inputs, **layer.grads}
    assert_same_bits(found, {name: expected[name] for name in found})


# What no query may see.

LEN_Q, LEN_K = 40, 70
_SEEN = np.random.default_rng(3).random((2, LEN_Q, LEN_K)) < 0.3
_SEEN[0, :, 5::7] = _SEEN[1, :, 64:] = _SEEN[:, 3] = False

UNSEEN: dict[str, dict[str, Any]] = {
    "key_lengths": {"key_lengths": np.array([33, 0])},
    "mask": {"mask": _SEEN[:, None]},
    "bias": {"bias": np.where(_SEEN[:, None], np.float32(0.25), np.float32(-np.inf))},
    "top_left": {"causal": "top_left"},
    "mask and key_lengths": {"mask": _SEEN[0], "key_lengths": np.array([LEN_K, 20]), "causal": "top_left"},
}


def seen_pairs(options: dict[str, Any]) -> Array:
    """(B, Sq, Sk): which queries attend to which keys, from the weights of clean operands."""
    layer = swiftattn.MultiHeadAttention(4, 1, seed=0)
    query, key = np.ones((2, LEN_Q, 4), np.float32), np.ones((2, LEN_K, 4), np.float32)
    return layer(query, key, **options, need_weights=True)[1] > 0


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("source", ["memory", "apart"])
@pytest.mark.parametrize("options", UNSEEN.values(), ids=UNSEEN)
def test_tokens_that_no_query_sees_reach_nothing(options: dict[str, Any], source: str, poison: float) -> None:
    case = LayerCase((LEN_Q, LEN_K), (4, 2, 8), 20, source, bias_kv=True, rope="half-split")
    clean = replace(make_problem(case), options=options)
    unseen = ~seen_pairs(options).any(axis=1)
    assert unseen.any()
    query, *others = (operand.copy() for operand in clean.given)
    for operand in others:
        operand[unseen] = poison
    results = results_of(replace(clean, given=(query, *others)))
    assert_same_bits(results, results_of(clean))
    assert not results["key"][unseen].any()


@pytest.mark.parametrize("options", UNSEEN.values(), ids=UNSEEN)
def test_a_token_reaches_only_the_queries_that_see_it(options: dict[str, Any]) -> None:
    clean = replace(make_problem(LayerCase((LEN_Q, LEN_K), (4, 2, 8), 20, "memory")), options=options)
    seen = seen_pairs(options)
    batch, token = map(int, np.argwhere(seen.any(axis=1))[-1])
    query, key = (operand.copy() for operand in clean.given)
    key[batch, token] = np.nan
    layer = clean.layer()
    expected, output = layer(*clean.given, **options), layer(query, key, **options)
    reached = np.zeros(output.shape[:2], bool)
    reached[batch] = seen[batch, :, token]
    assert np.isnan(output[reached]).all()
    assert_same_bits({"output": output[~reached]}, {"output": expected[~reached]})
