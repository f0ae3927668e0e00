"""The same bits whatever the threads, the batch neighbours, the call before and, with FMA, the instruction set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Case, Inputs, make_inputs
from helpers import DTYPES, assert_same_bits, ours

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
    for count in (2, 3, 5):
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
@pytest.mark.parametrize("case", BATCHES, ids=str)
def test_neighbours_in_the_batch_do_not_matter(case: Case) -> None:
    inputs = make_inputs(case)
    results = ours(inputs)
    if case.bias is not None and case.bias[0] != "B":
        del results["bias"]  # a sum over the batch
    for index in range(case.batch[0]):
        alone = ours(batch_element(inputs, index), results.keys() - {"out", "lse"})
        assert_same_bits(alone, {name: result[index : index + 1] for name, result in results.items()})


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
