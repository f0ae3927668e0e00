"""Every result agrees with the reference: out, lse and each gradient, in every tier and dtype, for every case."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import BIAS_PATTERNS, GEOMETRIES, MASK_PATTERNS, OPTIONS, RANKS, Case, make_inputs
from helpers import DTYPES, GRADIENTS, assert_case_accurate, assert_same_bits, ours

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_awkward_sizes_agree(case: Case, dtype: Any) -> None:
    assert_case_accurate(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_options_agree(case: Case, dtype: Any) -> None:
    assert_case_accurate(case, dtype)


@pytest.mark.parametrize("case", MASK_PATTERNS, ids=str)
def test_mask_broadcasts(case: Case) -> None:
    assert_case_accurate(case)


@pytest.mark.parametrize("case", BIAS_PATTERNS, ids=str)
def test_bias_broadcasts_and_its_gradient_is_summed_back(case: Case) -> None:
    assert_case_accurate(case)


@pytest.mark.parametrize("case", RANKS, ids=str)
def test_ranks_and_layouts_agree(case: Case) -> None:
    assert_case_accurate(case)


NEEDS_CASES = (
    Case((70, 97), (40, 16), (4, 2), (2,), mask="B1QK", bias="HQK"),
    Case((1, 200), (64, 64), (4, 2), bias="BHQK", causal="bottom_right"),
)


@pytest.mark.parametrize("case", NEEDS_CASES, ids=str)
def test_gradients_are_the_same_in_every_selection(case: Case) -> None:
    inputs = make_inputs(case)
    full = ours(inputs)
    for count in range(len(GRADIENTS) + 1):
        for needs in itertools.combinations(GRADIENTS, count):
            wanted = {"out", "lse", *needs}
            assert_same_bits(ours(inputs, needs), {name: full[name] for name in full if name in wanted})


def test_gradient_of_bias_is_none_without_bias() -> None:
    inputs = make_inputs(Case((15, 17), (16, 7)))
    out, lse = swiftattn.attention(inputs.q, inputs.k, inputs.v, return_lse=True)
    gradients = swiftattn.attention_backward(inputs.dout, inputs.q, inputs.k, inputs.v, out, lse)
    assert gradients.bias is None
    assert gradients._fields == GRADIENTS


@pytest.mark.parametrize("case", NEEDS_CASES, ids=str)
def test_vjp_is_attention_and_attention_backward(case: Case) -> None:
    inputs = make_inputs(case)
    expected = ours(inputs)
    out, vjp = swiftattn.attention_vjp(inputs.q, inputs.k, inputs.v, **inputs.options)
    gradients = vjp(inputs.dout)._asdict()
    assert_same_bits({"out": out, "lse": expected["lse"], **gradients}, expected)
    assert_same_bits(vjp(inputs.dout)._asdict(), gradients)
    keys_only = swiftattn.attention_vjp(inputs.q, inputs.k, inputs.v, needs=iter(("key",)))[1]
    for gradients_again in (keys_only(inputs.dout), keys_only(inputs.dout)):
        assert gradients_again.query is None
        assert gradients_again.key is not None


@pytest.mark.parametrize("case", NEEDS_CASES, ids=str)
def test_lse_is_optional_and_out_the_same_without_it(case: Case) -> None:
    inputs = make_inputs(case)
    alone = swiftattn.attention(inputs.q, inputs.k, inputs.v, **inputs.options)
    assert isinstance(alone, np.ndarray)
    assert_same_bits({"out": alone}, {"out": ours(inputs)["out"]})
