"""Every result of the layer agrees with the reference: output, weights and each gradient, in every tier and dtype."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Array
from helpers import DTYPES, Results, assert_all_accurate
from layer_cases import (
    CROSSED,
    EMPTY,
    LARGE,
    LayerCase,
    LayerProblem,
    compute_layer,
    compute_reference,
    expected,
    make_problem,
)

pytestmark = pytest.mark.usefixtures("isa")


@functools.cache
def expected_of_case(case: LayerCase, dtype: Any) -> tuple[Results, Results]:
    """`expected`, computed once for all tiers."""
    return expected(make_problem(case, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CROSSED + LARGE, ids=str)
def test_all_results_agree(case: LayerCase, dtype: Any) -> None:
    problem = make_problem(case, dtype)
    assert_all_accurate(compute_layer(problem.layer(), problem), expected_of_case(case, dtype))


@pytest.mark.parametrize("case", EMPTY, ids=str)
def test_empty_operands_agree(case: LayerCase) -> None:
    problem = make_problem(case)
    assert_all_accurate(compute_layer(problem.layer(), problem), expected_of_case(case, np.float32))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_lengths_may_be_of_either_integer_type(dtype: Any) -> None:
    problem = make_problem(LayerCase((4, 9), (2, 2, 8), 20, "fused", (3,), key_lengths=True))
    truth = expected(problem)
    lengths = problem.options["key_lengths"].astype(dtype)
    assert_all_accurate(compute_layer(problem.layer(), replace(problem, options={"key_lengths": lengths})), truth)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_by_parameters_are_added(dtype: Any) -> None:
    case = LayerCase((17, 33), (4, 2, 7), 20, "apart", bias_kv=True, rope="half-split")
    problem, other = make_problem(case, dtype), make_problem(replace(case, lengths=(5, 9)), dtype)
    layer = problem.layer()
    one, two = compute_layer(layer, problem), compute_layer(layer, other)
    layer.zero_grad()
    assert not any(gradient.any() for gradient in layer.grads.values())
    for each in (problem, other, problem):
        layer(*each.given)
        layer.backward(each.dout)
    for name, gradient in layer.grads.items():
        tolerance = 8 * np.finfo(dtype).eps * np.abs(gradient).max()
        np.testing.assert_allclose(gradient, 2 * one[name] + two[name], rtol=0, atol=tolerance, err_msg=name)


# Central differences: they know nothing of the reference.

TINY = (
    LayerCase((3, 3), (2, 2, 2), 4, causal="top_left"),
    LayerCase((3, 4), (2, 1, 4), 3, "memory", biases=False, rope="half-split", mask="QK"),
    LayerCase((2, 3), (4, 2, 2), 4, "fused", bias_kv=True, rope="offsets", key_lengths=True),
    LayerCase((3, 2), (2, 1, 5), 3, "apart", bias_kv=True, zero_attn=True, bias="QK", rope="partial"),
    LayerCase((2, 2), (1, 1, 6), 4, "three", (2, 1), zero_attn=True, causal="bottom_right", rope="interleaved"),
)


def slopes(layer: swiftattn.MultiHeadAttention, problem: LayerProblem, operand: Array, step: float = 1e-5) -> Array:
    """The slope of sum(dout * output) along each element of an array that the layer reads."""
    result = np.empty_like(operand)
    with swiftattn.no_grad():
        for index in np.ndindex(operand.shape):
            kept, losses = operand[index], []
            for moved in (kept + step, kept - step):
                operand[index] = moved
                losses.append((problem.dout * layer(*problem.given, **problem.options)).sum())
            operand[index] = kept
            result[index] = (losses[0] - losses[1]) / (2 * step)
    return result


@pytest.mark.parametrize("case", TINY, ids=str)
def test_gradients_are_central_differences(case: LayerCase) -> None:
    problem = make_problem(case, np.float64)
    layer = problem.layer()
    results = compute_layer(layer, problem)
    operands = dict(zip(("query", "key", "value"), problem.given, strict=False)) | layer.parameters
    if "bias" in problem.options:
        operands["bias"] = problem.options["bias"]
    for name, operand in operands.items():
        np.testing.assert_allclose(results[name], slopes(layer, problem, operand), rtol=1e-6, atol=1e-8, err_msg=name)


# What a result must be by itself.


@pytest.mark.parametrize("biases", [False, True])
def test_queries_that_see_nothing_give_the_output_bias_and_no_gradient(biases: bool) -> None:
    problem = make_problem(LayerCase((40, 50), (4, 2, 7), 20, "apart", biases=biases, mask="QK"))
    blind = ~problem.options["mask"].any(axis=-1)
    assert blind.any()
    results = compute_layer(problem.layer(), problem)
    np.testing.assert_array_equal(
        results["output"][:, blind],
        np.broadcast_to(problem.parameters.get("out_proj.bias", 0), results["output"][:, blind].shape),
    )
    assert not results["weights"][:, blind].any()
    assert not results["query"][:, blind].any()


def test_weights_of_every_query_sum_to_one() -> None:
    problem = make_problem(
        LayerCase((40, 50), (4, 2, 7), 20, "memory", bias_kv=True, zero_attn=True, causal="top_left")
    )
    results = compute_layer(problem.layer(), problem)
    assert results["weights"].shape == (2, 40, 52)
    assert results["weights_of_heads"].shape == (2, 4, 40, 52)
    np.testing.assert_allclose(results["weights_of_heads"].sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(results["weights_of_heads"].mean(axis=1), results["weights"], rtol=1e-5, atol=1e-7)


def test_self_attention_is_one_array_given_thrice() -> None:
    problem = make_problem(LayerCase((17, 17), (4, 2, 7), 20, rope="half-split", causal=True))
    alone = compute_layer(problem.layer(), problem)
    thrice = replace(problem, given=problem.given * 3)
    assert_all_accurate(compute_layer(thrice.layer(), thrice), expected(thrice))
    total = sum(compute_reference(thrice)[name] for name in ("query", "key", "value"))
    np.testing.assert_allclose(alone["query"], total, rtol=0, atol=1e-5)
