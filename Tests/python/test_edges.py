"""The edges: empty sizes, rows without keys, large scores, inputs near overflow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Array, Case, make_inputs
from helpers import DTYPES, Results, assert_all_accurate, assert_case_accurate, assert_same_bits, expected, ours
from swiftattn import reference
from tolerances import LARGE_SCORES_FACTOR

pytestmark = pytest.mark.usefixtures("isa")

_EMPTY = Case((5, 6), (4, 3), (2, 2), (2,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case",
    [
        replace(_EMPTY, **sizes, **options)
        for sizes in (
            {"batch": (0,)},
            {"batch": (2, 0)},
            {"heads": (0, 0)},
            {"heads": (0, 2)},
            {"lengths": (0, 6)},
            {"lengths": (5, 0)},
            {"lengths": (0, 0)},
        )
        for options in (
            {},
            {"bias": "BHQK", "mask": "B11K"},
            {"bias": "H11", "causal": "top_left"},
            {"key_lengths": True},
        )
    ],
    ids=str,
)
def test_empty_sizes_give_empty_or_zero_results(case: Case, dtype: Any) -> None:
    assert_case_accurate(case, dtype)


@pytest.mark.parametrize(
    ("lengths", "options"),
    [
        ((17, 70), {"mask": np.zeros((17, 70), bool)}),
        ((1, 200), {"mask": np.zeros(200, bool)}),
        ((17, 70), {"bias": np.full((2, 1, 70), -np.inf, np.float32)}),
        ((130, 70), {"key_lengths": np.zeros(2, int)}),
        ((130, 70), {"query_lengths": np.zeros(2, int)}),
        ((17, 0), {}),
        ((100, 0), {"causal": "bottom_right", "bias": np.zeros((100, 0), np.float32)}),
        ((2, 70), {"mask": np.arange(70) >= 40, "key_lengths": np.array([40, 3])}),
    ],
    ids=str,
)
def test_rows_that_may_attend_to_nothing_are_exact_zeros(lengths: tuple[int, int], options: dict[str, Any]) -> None:
    inputs = make_inputs(Case(lengths, (16, 7), (2, 1), (2,))).with_options(**options)
    for array in (inputs.q, inputs.k, inputs.v, inputs.dout):
        array[...] = np.nan  # of which nothing reaches a result
    results = ours(inputs)
    assert (results.pop("lse") == -np.inf).all()
    for name, result in results.items():
        assert not result.any(), name


def test_causal_rows_above_the_first_key_are_zeros() -> None:
    inputs = make_inputs(Case((200, 47), (16, 7), causal="bottom_right"))
    results = ours(inputs)
    empty = 200 - 47
    assert (results["lse"][..., :empty] == -np.inf).all()
    assert np.isfinite(results["lse"][..., empty:]).all()
    for name in ("out", "query"):
        assert not results[name][..., :empty, :].any(), name
        assert results[name][..., empty:, :].any(axis=-1)[..., 1:].all(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [(47, 200), (1, 200)], ids=str)
def test_scores_of_ten_thousand_agree(lengths: tuple[int, int], dtype: Any) -> None:
    inputs = make_inputs(Case(lengths, (16, 16), (4, 2), (8,)), dtype)
    # Keys in pairs of nearly the same scores, so that each row has more than one weight that counts.
    k = 50 * inputs.k[..., ::2, :].repeat(2, axis=-2)
    k[..., ::2, :] += 0.005 * inputs.k[..., ::2, :]
    inputs = replace(inputs, q=50 * inputs.q, k=k).with_options(scale=0.9)
    scores = 0.9 * inputs.q[..., ::2, :, :] @ np.swapaxes(inputs.k, -1, -2)
    assert scores.max() > 1e4
    assert scores.min() < -1e4
    assert_all_accurate(ours(inputs), expected(inputs), LARGE_SCORES_FACTOR)


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_scores_shifted_by_ten_thousand_agree(shift: float) -> None:
    inputs = make_inputs(Case((47, 200), (16, 16), bias="QK"))
    shifted = inputs.with_options(bias=inputs.options["bias"] + np.float32(shift))
    assert_all_accurate(ours(shifted), expected(shifted), LARGE_SCORES_FACTOR)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", ["rounded to 128", 1e30, "near overflow"])
def test_huge_scores_choose_one_key(size: float | str, sign: int, dtype: Any) -> None:
    # The rounding of one of these scores is more than a softmax can tell: all weight is on the key with the largest.
    # Inside, scores are in units of ln 2, so log2(e) times as large: 0.69 of the largest number is the limit.
    sizes = {"rounded to 128": 128 / float(np.finfo(dtype).eps), "near overflow": 0.69 * float(np.finfo(dtype).max)}
    largest = sizes[size] if isinstance(size, str) else size
    inputs = make_inputs(Case((70, 134), (3, 20), (2, 1), scale=1), dtype)
    inputs.q[...], inputs.k[...] = 0, 0
    inputs.q[..., 0] = sign * np.random.default_rng(0).uniform(0.5, 1, inputs.q.shape[:-1])
    inputs.k[..., 0] = np.random.default_rng(1).permutation(np.linspace(-1, 1, 134)) * largest
    chosen = int(np.argmax(sign * inputs.k[0, 0, :, 0]))
    results = ours(inputs)
    np.testing.assert_array_equal(
        results["out"], np.broadcast_to(inputs.v[..., chosen, :][..., None, :], (1, 2, 70, 20))
    )
    np.testing.assert_allclose(
        results["lse"], inputs.q[..., 0] * inputs.k[0, 0, chosen, 0], rtol=4 * np.finfo(dtype).eps
    )
    summed = np.zeros_like(inputs.v)
    summed[0, 0, chosen] = inputs.dout.astype(np.longdouble).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(results["value"], summed, rtol=1e3 * np.finfo(dtype).eps, atol=1e2 * np.finfo(dtype).eps)
    assert np.isfinite(results["query"]).all()
    assert np.isfinite(results["key"]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [(47, 200), (1, 200)], ids=str)
def test_denormal_numbers_are_kept(lengths: tuple[int, int], dtype: Any) -> None:
    # A tiny number is not far from the truth, 0 would be.
    inputs, tiny = make_inputs(Case(lengths, (16, 16), (4, 2)), dtype), np.finfo(dtype).tiny
    inputs.q[...] = 0  # so that each weight is 1/200
    rng = np.random.default_rng(0)
    inputs.v[...] = (rng.uniform(0.5, 0.999, inputs.v.shape) * tiny).astype(dtype)
    inputs.dout[...] = (rng.uniform(0.5, 0.999, inputs.dout.shape) * tiny).astype(dtype)
    results = ours(inputs)
    mean = inputs.v.astype(np.longdouble).mean(axis=-2, keepdims=True).repeat(2, axis=1)
    assert np.abs(results["out"] - mean).max() < tiny / 64
    weighted = inputs.dout.astype(np.longdouble).reshape(1, 2, -1, 16).sum(axis=2, keepdims=True) / 200
    assert np.abs(results["value"] - weighted).max() < weighted.max() / 64


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sign_of_a_zero_does_not_matter(dtype: Any) -> None:
    inputs = make_inputs(Case((47, 97), (16, 7), (4, 2), bias="BHQK"), dtype)
    rng = np.random.default_rng(0)
    arrays = [inputs.q, inputs.k, inputs.v, inputs.dout, inputs.options["bias"]]
    for array in arrays:
        array[rng.random(array.shape) < 0.5] = 0
    results = ours(inputs)
    for array in arrays:
        array[array == 0] = -0.0
    assert_same_bits(ours(inputs), results)
    for array in arrays:
        array[...] = -0.0
    for name, result in ours(inputs).items():
        expected = np.float64(97) if name == "lse" else np.float64(1)
        np.testing.assert_allclose(result, np.log(expected), rtol=4 * np.finfo(dtype).eps)


def scaled_back(results: Results, exponents: dict[str, int]) -> Results:
    """The results multiplied by powers of two."""
    return {name: np.ldexp(result, exponents.get(name, 0)) for name, result in results.items()}


@pytest.mark.parametrize("lengths", [(47, 200), (1, 200)], ids=str)
def test_scale_is_applied_before_the_scores_overflow(lengths: tuple[int, int]) -> None:
    # q . k is 2^120 times a number of order 10; the scaled scores are of order 1.
    inputs = make_inputs(Case(lengths, (64, 16), (4, 2), scale=0.125))
    huge = replace(inputs, q=np.ldexp(inputs.q, 60), k=np.ldexp(inputs.k, 60)).with_options(scale=0.125 * 2.0**-120)
    results = scaled_back(ours(huge), {"query": 60, "key": 60})
    assert_same_bits(results, ours(inputs))


@pytest.mark.parametrize("lengths", [(47, 200), (1, 200)], ids=str)
def test_out_is_finite_for_values_near_overflow(lengths: tuple[int, int]) -> None:
    # out is a mean of values below 2^126, which their plain sum over 200 keys exceeds.
    inputs = make_inputs(Case(lengths, (16, 16), (4, 2)))
    inputs = replace(inputs, v=np.abs(inputs.v).clip(0.5, 2))
    huge = replace(inputs, v=np.ldexp(inputs.v, 125), dout=np.ldexp(inputs.dout, -60))
    results = scaled_back(ours(huge), {"out": -125, "value": 60, "query": -65, "key": -65})
    assert_all_accurate(results, expected(inputs))


def test_any_nonzero_byte_of_a_mask_is_true() -> None:
    inputs = make_inputs(Case((47, 97), (16, 7), mask="BHQK"))
    mask: Array = inputs.options["mask"]
    bytes_ = mask.astype(np.uint8) * np.arange(1, 256, dtype=np.uint8).repeat(40)[: mask.shape[-1]]
    assert_same_bits(ours(inputs.with_options(mask=bytes_.view(bool))), ours(inputs))


def test_inputs_are_read_only_and_stay_as_they_were() -> None:
    inputs = make_inputs(
        Case((47, 97), (16, 7), (4, 2), (2,), mask="BHQK", bias="1HQK", key_lengths=True, query_lengths=True)
    )
    arrays = [inputs.q, inputs.k, inputs.v, inputs.dout]
    arrays += [option for option in inputs.options.values() if isinstance(option, np.ndarray)]
    before = [array.tobytes() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    ours(inputs)
    assert [array.tobytes() for array in arrays] == before


def test_numpy_error_state_does_not_matter() -> None:
    inputs = make_inputs(Case((47, 97), (16, 7), mask="BHQK"))
    with np.errstate(all="raise"):
        assert_all_accurate(ours(inputs), expected(inputs))


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_every_size_side_by_side(dtype: Any) -> None:
    # exp2 folds a row's maximum into its rounding up to a size, and subtracts it beyond, in that row alone.
    q = np.array([[1], [30], [1e3], [1e5], [2e6], [1e8], [1e17], [1e30]], dtype)
    k, v = np.array([[1], [1], [0]], dtype), np.array([[1], [3], [100]], dtype)
    out, lse = swiftattn.attention(q, k, v, return_lse=True)
    expected, expected_lse = reference.attention(*(array.astype(np.longdouble) for array in (q, k, v)), return_lse=True)
    np.testing.assert_allclose(out, expected.astype(dtype), rtol=1e-5)
    np.testing.assert_allclose(lse, expected_lse.astype(dtype), rtol=1e-6)


def test_a_large_scale_does_not_make_large_queries_overflow() -> None:
    q, k = np.full((2, 1), 1e37, np.float32), np.array([[1e-38], [0]], np.float32)
    v = np.array([[1], [2]], np.float32)
    out = swiftattn.attention(q, k, v, scale=100.0)  # scale * q is infinite, the first score is 10
    np.testing.assert_allclose(out, np.full((2, 1), 1 + 1 / (1 + np.exp(10))), rtol=1e-6)
