"""The reference is right: finite differences for every gradient and option, and values computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cases import PATTERNS, Array, Case, Inputs, make_inputs
from helpers import GRADIENTS, compute
from swiftattn import reference

_SMALL = Case((3, 4), (3, 2), (4, 2), (2,))
_DIFFERENTIATED = (
    _SMALL,
    *(replace(_SMALL, bias=pattern) for pattern in PATTERNS),
    *(replace(_SMALL, mask=pattern, bias="BHQK") for pattern in ("BHQK", "B11K", "1HQ1", "QK")),
    replace(_SMALL, causal="top_left"),
    replace(_SMALL, causal="bottom_right", bias="1HQK"),
    replace(_SMALL, lengths=(4, 2), causal="bottom_right"),
    replace(_SMALL, lengths=(3, 3), causal=True),
    replace(_SMALL, key_lengths=True),
    replace(_SMALL, query_lengths=True, bias="HQK"),
    replace(_SMALL, scale=-1.3),
    replace(_SMALL, layout="BSHD", bias="BHQK", key_lengths=True),
    replace(_SMALL, bias="BHQK", bias_has_minus_inf=True),
    replace(_SMALL, heads=(3, 1)),
    replace(_SMALL, heads=None, batch=(), bias="QK"),
    replace(_SMALL, batch=(), bias="HQK", causal="top_left"),
    replace(_SMALL, batch=(2, 2), mask="B1QK", bias="BHQK", causal="bottom_right", key_lengths=True, scale=0.4),
)


def loss(inputs: Inputs) -> float:
    """The function whose gradients attention_backward computes."""
    return float((inputs.dout * reference.attention(inputs.q, inputs.k, inputs.v, **inputs.options)).sum())


def central_differences(inputs: Inputs, operand: Array, step: float = 1e-5) -> Array:
    """The gradient of `loss` by one of the inputs' own arrays."""
    gradient = np.zeros_like(operand)
    for index in np.ndindex(operand.shape):
        value = operand[index]
        if not np.isfinite(value):
            continue  # a bias of -inf is a mask: its gradient is 0
        operand[index] = value + step
        above = loss(inputs)
        operand[index] = value - step
        gradient[index] = (above - loss(inputs)) / (2 * step)
        operand[index] = value
    return gradient


@pytest.mark.parametrize("case", _DIFFERENTIATED, ids=str)
def test_gradients_are_central_differences(case: Case) -> None:
    inputs = make_inputs(case, np.float64)
    gradients = compute(reference, inputs)
    operands = {"query": inputs.q, "key": inputs.k, "value": inputs.v, "bias": inputs.options.get("bias")}
    for name, operand in operands.items():
        if operand is not None:
            np.testing.assert_allclose(
                gradients[name], central_differences(inputs, operand), rtol=1e-7, atol=1e-9, err_msg=name
            )


def test_two_keys_by_hand() -> None:
    # Scores ln 3 and 0, hence weights 3/4 and 1/4.
    q, k, v = np.array([[1.0]]), np.array([[math.log(3)], [0.0]]), np.array([[8.0, 0.0], [0.0, 4.0]])
    out, lse = reference.attention(q, k, v, scale=1, return_lse=True)
    np.testing.assert_allclose(out, [[6, 1]], rtol=1e-15)
    np.testing.assert_allclose(lse, [math.log(4)], rtol=1e-15)
    # dp = (8, 0) and delta = 6, hence ds = (3/4 * 2, 1/4 * -6).
    gradients = reference.attention_backward(np.array([[1.0, 0.0]]), q, k, v, out, lse, scale=1)
    np.testing.assert_allclose(gradients.query, [[1.5 * math.log(3)]], rtol=1e-14)
    np.testing.assert_allclose(gradients.key, [[1.5], [-1.5]], rtol=1e-14)
    np.testing.assert_allclose(gradients.value, [[0.75, 0], [0.25, 0]], rtol=1e-14)
    assert gradients.bias is None


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, [[1, 1, 1], [1, 1, 1]]),
        ({"causal": "top_left"}, [[1, 0, 0], [1, 1, 0]]),
        ({"causal": "bottom_right"}, [[1, 1, 0], [1, 1, 1]]),
        ({"mask": np.array([[True, False, True], [False, False, True]])}, [[1, 0, 1], [0, 0, 1]]),
        ({"mask": np.array([False, True, True]), "causal": "bottom_right"}, [[0, 1, 0], [0, 1, 1]]),
        ({"bias": np.array([[0, 0, -np.inf], [-np.inf, 0, 0]])}, [[1, 1, 0], [0, 1, 1]]),
        ({"key_lengths": 2}, [[1, 1, 0], [1, 1, 0]]),
        ({"query_lengths": 1}, [[1, 1, 1], [0, 0, 0]]),
        ({"key_lengths": 0}, [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_masks_by_hand(options: dict[str, Any], seen: list[list[int]]) -> None:
    # With equal scores and the identity for values, a row of out is the row of `seen` divided by its sum.
    drawn = np.array(seen, float)
    counts = drawn.sum(axis=1, keepdims=True)
    out, lse = reference.attention(np.zeros((2, 1)), np.zeros((3, 1)), np.eye(3), return_lse=True, **options)
    np.testing.assert_allclose(out, drawn / np.maximum(counts, 1), rtol=1e-15)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(lse, np.log(counts[:, 0]), rtol=1e-15)


def test_query_heads_share_key_value_heads_in_runs() -> None:
    values = np.array([10.0, 20.0])[:, None, None]
    out = reference.attention(np.zeros((6, 1, 1)), np.zeros((2, 1, 1)), values)
    np.testing.assert_array_equal(out.ravel(), [10, 10, 10, 20, 20, 20])


def test_masked_values_that_are_not_finite_are_skipped() -> None:
    case = Case((5, 6), (3, 2), (2, 1), mask="BHQK", bias="BHQK")
    clean = make_inputs(case, np.float64)
    mask = np.ones((1, 2, 5, 6), bool)
    mask[..., 0:2, 4] = False
    mask[..., 2:, :4] = mask[..., 2:, 5] = False  # rows 2 to 4 see only key 4, rows 0 and 1 all the others
    clean = clean.with_options(mask=mask)
    results = compute(reference, clean)
    for poison in (np.nan, np.inf, -np.inf):
        k, v = clean.k.copy(), clean.v.copy()
        k[..., 4, :] = v[..., 4, :] = poison
        poisoned = compute(reference, replace(clean, k=k, v=v))
        for name, axis, untouched in (
            ("out", -2, [0, 1]),
            ("lse", -1, [0, 1]),
            ("query", -2, [0, 1]),
            ("bias", -2, [0, 1]),
            ("key", -2, [0, 1, 2, 3, 5]),
            ("value", -2, [0, 1, 2, 3, 5]),
        ):
            np.testing.assert_array_equal(
                poisoned[name].take(untouched, axis), results[name].take(untouched, axis), err_msg=name
            )
        assert np.isnan(poisoned["query"][..., 2:, :]).all()


def test_needs_leaves_gradients_out() -> None:
    inputs = make_inputs(replace(_SMALL, bias="QK"), np.float64)
    everything = compute(reference, inputs)
    for name in GRADIENTS:
        results = compute(reference, inputs, (name,))
        assert results.keys() == {"out", "lse", name}
        np.testing.assert_array_equal(results[name], everything[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_operands_keep_their_dtype(dtype: Any) -> None:
    results = compute(reference, make_inputs(replace(_SMALL, bias="QK", scale=0.5), dtype))
    assert {name: result.dtype for name, result in results.items()} == dict.fromkeys(results, np.dtype(dtype))


def test_out_is_written_and_returned() -> None:
    inputs = make_inputs(_SMALL, np.float64)
    out = np.full(inputs.dout.shape, np.nan)
    assert reference.attention(inputs.q, inputs.k, inputs.v, out=out) is out
    np.testing.assert_array_equal(out, reference.attention(inputs.q, inputs.k, inputs.v))


def test_large_scores_do_not_overflow() -> None:
    q, k = np.array([[1e4], [-1e4]], np.float32), np.array([[1.0], [-1.0]], np.float32)
    out, lse = reference.attention(q, k, np.eye(2, dtype=np.float32), scale=1, return_lse=True)
    np.testing.assert_array_equal(out, np.eye(2))
    np.testing.assert_array_equal(lse, [1e4, 1e4])


@pytest.mark.parametrize(
    ("options", "exception", "message"),
    [
        ({"mask": np.zeros((3, 4))}, TypeError, "bias"),
        ({"causal": True}, ValueError, "bottom_right"),
        ({"causal": "left"}, ValueError, "causal"),
        ({"layout": "SBHD"}, ValueError, "layout"),
    ],
)
def test_ambiguous_options_are_errors(options: dict[str, Any], exception: type[Exception], message: str) -> None:
    inputs = make_inputs(_SMALL)
    with pytest.raises(exception, match=message):
        reference.attention(inputs.q, inputs.k, inputs.v, **options)
