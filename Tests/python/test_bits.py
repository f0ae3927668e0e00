"""The same bits whatever the threads, the batch neighbours, the call before and, with FMA, the instruction set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Case, Inputs, make_inputs
from helpers import DTYPES, LONG, assert_same_bits, ours
from views import at_offset

CASES = (
    Case((257, 257), (40, 24), (4, 2), (2,)),
    Case((257, 130), (64, 64), (4, 4), causal="bottom_right", bias="1HQK"),
    Case((130, 300), (64, 64), (1, 1), bias="111K", key_lengths=True),
    Case((97, 200), (128, 64), (8, 1), mask="B1QK", bias="BHQK", query_lengths=True),
    Case((1, 1025), (64, 64), (8, 2)),
    Case((3, 700), (111, 80), (2, 2), bias="QK"),
)
BATCHES = tuple(replace(case, batch=(3,)) for case in CASES)
# The tier without FMA rounds differently.
FMA_ISAS = tuple(name for name in swiftattn.available_isas() if name != "baseline")


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_number_of_threads_gives_the_same_bits(case: Case, dtype: Any) -> None:
    inputs = make_inputs(case, dtype)
    swiftattn.set_num_threads(1)
    results = ours(inputs)
    for count in range(2, 17) if LONG else (2, 3, 16):
        swiftattn.set_num_threads(count)
        assert_same_bits(ours(inputs), results)


def batch_element(inputs: Inputs, index: int) -> Inputs:
    """One element of a batch, as a batch of one."""
    part = slice(index, index + 1)
    options = dict(inputs.options)
    for name in ("mask", "bias", "key_lengths", "query_lengths"):
        shape = np.shape(options.get(name))
        if len(shape) in (1, 4) and shape[0] > 1:
            options[name] = options[name][part]
    return Inputs(*(array[part] for array in (inputs.q, inputs.k, inputs.v, inputs.dout)), options)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", BATCHES, ids=str)
def test_neighbours_in_the_batch_do_not_matter(case: Case, dtype: Any) -> None:
    inputs = make_inputs(case, dtype)
    results = ours(inputs)
    if case.bias is not None and case.bias[0] != "B":
        del results["bias"]  # a sum over the batch
    for index in range(case.batch[0]):
        alone = ours(batch_element(inputs, index), results.keys() - {"out", "lse"})
        assert_same_bits(alone, {name: result[index : index + 1] for name, result in results.items()})


def query_chunk(inputs: Inputs, rows: slice) -> Inputs:
    """Some of the queries, with the causal keys that the last of them sees."""
    options, last = dict(inputs.options), rows.stop + inputs.k.shape[-2] - inputs.q.shape[-2]
    keys = slice(last if options.get("causal") == "bottom_right" else None)
    for name in ("mask", "bias"):
        if name in options:
            option = options[name]
            options[name] = option[..., rows if option.shape[-2] > 1 else slice(None), keys]
    if "query_lengths" in options:
        options["query_lengths"] = np.clip(options["query_lengths"] - rows.start, 0, rows.stop - rows.start)
    q, dout = (array[..., rows, :] for array in (inputs.q, inputs.dout))
    return Inputs(q, inputs.k[..., keys, :], inputs.v[..., keys, :], dout, options)


CHUNKED = (
    Case((257, 257), (64, 64), (4, 2), causal="bottom_right", bias="BHQK"),
    Case((200, 330), (40, 24), (1, 1), causal="bottom_right", mask="BHQK"),
    Case((200, 130), (64, 64), (2, 2), mask="B11K", bias="BHQK", bias_has_minus_inf=True, query_lengths=True),
    Case((130, 200), (128, 64), (3, 1), bias="BHQK", key_lengths=True),
)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CHUNKED, ids=str)
def test_queries_in_chunks_give_the_bits_of_all_at_once(case: Case, dtype: Any) -> None:
    inputs = make_inputs(case, dtype)
    results = {name: result for name, result in ours(inputs).items() if name not in ("key", "value")}
    length = case.lengths[0]
    for size in range(1, length) if LONG else (1, 50, 96):
        # Single queries here and there would do; all of them take long.
        for start in range(0, length, size if size > 1 or LONG else 23):
            rows = slice(start, min(start + size, length))
            chunk = ours(query_chunk(inputs, rows), ("query", "bias"))
            keys = slice(chunk["bias"].shape[-1] if "bias" in chunk else None)
            parts = {"out": (..., rows, slice(None)), "lse": (..., rows), "bias": (..., rows, keys)}
            parts["query"] = parts["out"]
            assert_same_bits(chunk, {name: result[parts[name]] for name, result in results.items()})


# Up to 8 rows (f32) or 4 (f64) have their keys in the lanes, if keys and head dims fill a vector; they come in whole
# vectors and not.
FEW = tuple(
    Case((40, length), dims, heads, (2,), **options)
    for length in (1, 15, 16, 65, 130)
    for dims, heads in (
        ((64, 64), (2, 2)),
        ((20, 7), (1, 1)),
        ((80, 44), (4, 2)),
        ((16, 30), (3, 1)),
        ((5, 64), (1, 1)),
        ((1000, 8), (1, 1)),  # in float64, too large for the workspace's part for few queries
    )
    for options in (
        {},
        {"scale": 300.0},
        {"mask": "BHQK", "scale": 3.0},
        {"bias": "BHQK", "bias_has_minus_inf": True},
        {"causal": "bottom_right", "bias": "1H1K"},
        {"key_lengths": True, "query_lengths": True},
    )
    if length >= 40 or "causal" not in options  # query_chunk cannot take keys from queries that see none
)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_few_queries_have_the_bits_that_they_have_among_many(case: Case, dtype: Any) -> None:
    inputs = make_inputs(case, dtype)
    out, lse = swiftattn.attention(inputs.q, inputs.k, inputs.v, return_lse=True, **inputs.options)
    for count, start in ((1, 0), (1, 39), (2, 17), (3, 20), (5, 31), (8, 5)):
        rows = slice(start, start + count)
        few = query_chunk(inputs, rows)
        for order in "CF":
            # F: their rows are not contiguous, so that queries stay in the lanes.
            k, v = (np.asarray(array, order=order) for array in (few.k, few.v))
            few_out, few_lse = swiftattn.attention(few.q, k, v, return_lse=True, **few.options)
            assert_same_bits({"out": few_out, "lse": few_lse}, {"out": out[..., rows, :], "lse": lse[..., rows]})


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_the_size_of_the_batch_does_not_matter(case: Case, dtype: Any) -> None:
    results = ours(make_inputs(case, dtype))
    for size in (2, 5):
        inputs = make_inputs(case, dtype)
        options = {
            name: np.repeat(option, size, axis=0) if np.ndim(option) in (1, 4) else option
            for name, option in inputs.options.items()
        }
        arrays = (np.repeat(array, size, axis=0) for array in (inputs.q, inputs.k, inputs.v, inputs.dout))
        repeated = ours(Inputs(*arrays, options))
        assert_same_bits(
            repeated,
            {
                name: np.repeat(result, size, axis=0) if result.ndim > 2 else repeated[name]
                for name, result in results.items()
            },
        )


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
def test_alignment_does_not_matter(dtype: Any) -> None:
    case = Case((50, 70), (24, 40), (2, 1), mask="BHQK", bias="BHQK")
    inputs = make_inputs(case, dtype)
    results = ours(inputs)
    for offset in range(64):
        # Each operand elsewhere; those that are not aligned to their elements are copied.
        q, k, v, dout = (
            at_offset((offset + 4 * n) % 64)(array)
            for n, array in enumerate((inputs.q, inputs.k, inputs.v, inputs.dout))
        )
        options = {"mask": at_offset(offset)(inputs.options["mask"]), "bias": at_offset(offset)(inputs.options["bias"])}
        moved = Inputs(q, k, v, dout, options)
        assert_same_bits(ours(moved), results)
        out = at_offset(offset // 8 * 8)(np.empty_like(results["out"]))
        assert_same_bits({"out": swiftattn.attention(q, k, v, **options, out=out)}, {"out": results["out"]})


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_repeated_calls_give_the_same_bits(case: Case) -> None:
    inputs, disturbance = make_inputs(case), make_inputs(Case((33, 129), (80, 80), (3, 1)))
    results = ours(inputs)
    for _ in range(3):
        ours(disturbance)
        assert_same_bits(ours(inputs), results)


@pytest.mark.skipif(len(FMA_ISAS) < 2, reason="this processor has fewer than two tiers with FMA to compare")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_tiers_with_fma_give_the_same_bits(case: Case, dtype: Any) -> None:
    inputs = make_inputs(case, dtype)
    swiftattn.set_isa(FMA_ISAS[0])
    results = ours(inputs)
    for name in FMA_ISAS[1:]:
        swiftattn.set_isa(name)
        assert_same_bits(ours(inputs), results)
