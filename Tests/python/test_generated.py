"""Whatever the sizes and options, every result agrees with the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import swiftattn
from cases import PATTERNS, Case, make_inputs
from helpers import DTYPES, assert_all_accurate, expected, ours

# Around the vector width and the block sizes, where kernels go wrong, and anything below.
LENGTHS = st.one_of(st.integers(0, 80), st.sampled_from([95, 96, 97, 127, 128, 129, 191, 193, 257]))
DIMS = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 100, 129]))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any problem of up to three batch elements and eight heads."""
    heads_kv = draw(st.integers(1, 3))
    batch = draw(st.sampled_from([(), (1,), (2,), (3,), (1, 2)]))
    heads = draw(st.sampled_from([(heads_kv * group, heads_kv) for group in (1, 2, 3)]))
    len_q, len_k = draw(LENGTHS), draw(LENGTHS)
    patterns = st.none() | st.sampled_from(PATTERNS)
    return Case(
        (len_q, len_k),
        (draw(DIMS), draw(DIMS)),
        heads,
        batch,
        mask=draw(patterns),
        bias=draw(patterns),
        bias_has_minus_inf=draw(st.booleans()),
        causal=draw(st.sampled_from([False, "top_left", "bottom_right"])),
        key_lengths=draw(st.booleans()),
        query_lengths=draw(st.booleans()),
        scale=draw(st.sampled_from([None, 0.1, -0.2])),
        layout=draw(st.sampled_from(["BHSD", "BSHD"])),
    )


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
# The tier is set for the whole test, not for an example: the fixture need not run again between them.
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(), threads=st.integers(1, 4))
def test_generated_problems_agree(dtype: Any, case: Case, threads: int) -> None:
    swiftattn.set_num_threads(threads)
    inputs = make_inputs(case, dtype)
    with np.errstate(all="ignore"):
        assert_all_accurate(ours(inputs), expected(inputs))
