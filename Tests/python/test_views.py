"""Arrays as callers have them: strided, misaligned, in any layout, from other libraries; outputs into views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Array, Case, Inputs, make_inputs
from helpers import assert_same_bits, compute, ours
from views import VIEWS, Exporter, View

pytestmark = pytest.mark.usefixtures("isa")

CASES = (
    Case((70, 97), (40, 24), (4, 2), (2,), mask="BHQK", bias="1HQK"),
    Case((1, 200), (64, 64), (8, 2), (2,), mask="B11K", bias="HQK"),
)


def viewed(inputs: Inputs, view: View) -> Inputs:
    """The inputs with every array, those among the options too, replaced by its view."""
    options = {name: view(value) if isinstance(value, np.ndarray) else value for name, value in inputs.options.items()}
    return Inputs(*(view(array) for array in (inputs.q, inputs.k, inputs.v, inputs.dout)), options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_strides_and_alignment_give_the_same_bits(case: Case, view: View, dtype: Any) -> None:
    inputs = make_inputs(case, dtype)
    assert_same_bits(compute(swiftattn, viewed(inputs, view), view=view), ours(inputs))


@pytest.mark.parametrize("axis", [-1, -2, -3, -4])
def test_zero_strides_give_the_same_bits(axis: int) -> None:
    inputs = make_inputs(CASES[0])
    stretched = viewed(inputs, lambda array: np.broadcast_to(array.take([0], axis), array.shape))
    assert stretched.q.strides[axis] == 0
    assert_same_bits(ours(stretched), ours(viewed(stretched, np.ascontiguousarray)))


@pytest.mark.parametrize("pattern", ["B1QK", "1H1K", "11Q1", "1111"])
@pytest.mark.parametrize("name", ["mask", "bias"])
def test_broadcasting_gives_the_bits_of_the_whole_array(name: str, pattern: str) -> None:
    inputs = make_inputs(replace(Case((70, 97), (40, 24), (4, 2), (2,)), **{name: pattern}))
    whole = inputs.with_options(**{name: np.broadcast_to(inputs.options[name], (2, 4, 70, 97)).copy()})
    needs = ("query", "key", "value")  # the gradient of bias has another shape
    assert_same_bits(ours(inputs, needs), ours(whole, needs))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sequence_major_layout_gives_the_bits_of_the_other(case: Case) -> None:
    inputs = make_inputs(case)

    def swap(array: Array) -> Array:
        return np.swapaxes(array, 1, 2)

    swapped = Inputs(
        *(swap(array).copy() for array in (inputs.q, inputs.k, inputs.v, inputs.dout)),
        {**inputs.options, "layout": "BSHD"},
    )
    results = ours(swapped)
    for name in ("out", "query", "key", "value"):
        results[name] = swap(results[name])
    assert_same_bits(results, ours(inputs))


OUTPUTS: dict[str, Callable[[tuple[int, ...]], tuple[Array, Array]]] = {
    # Each returns a buffer and the view of it that is out.
    "contiguous": lambda shape: ((buffer := np.full(shape, 7, np.float32)), buffer),
    "spread": lambda shape: (
        (buffer := np.full((*shape[:-1], 3 * shape[-1]), 7, np.float32)),
        buffer[..., 1::3],
    ),
    "sliced": lambda shape: (
        (buffer := np.full([length + 3 for length in shape], 7, np.float32)),
        buffer[tuple(slice(1, -2) for _ in shape)],
    ),
    "transposed": lambda shape: ((buffer := np.full(shape[::-1], 7, np.float32)), buffer.T),
    "reversed": lambda shape: ((buffer := np.full(shape, 7, np.float32)), buffer[..., ::-1, ::-1]),
}


@pytest.mark.parametrize("make_output", OUTPUTS.values(), ids=OUTPUTS.keys())
@pytest.mark.parametrize("case", CASES, ids=str)
def test_out_may_be_a_view_and_nothing_beside_it_is_written(case: Case, make_output: Any) -> None:
    inputs = make_inputs(case)
    expected = ours(inputs)["out"]
    buffer, out = make_output(expected.shape)
    returned = swiftattn.attention(inputs.q, inputs.k, inputs.v, **inputs.options, out=out)
    assert returned is out
    assert_same_bits({"out": out}, {"out": expected})
    out[...] = 7
    assert (buffer == 7).all()


def test_results_are_new_contiguous_arrays() -> None:
    inputs = viewed(make_inputs(replace(CASES[0], layout="BSHD")), np.asfortranarray)
    for name, result in ours(inputs).items():
        assert result.flags.c_contiguous, name
        assert result.flags.owndata, name


def test_dlpack_objects_give_the_same_bits() -> None:
    # Boolean arrays cannot be exported by every NumPy that is supported, so that the mask stays one of its own.
    inputs = make_inputs(CASES[0])
    q, k, v, dout, options = inputs.q, inputs.k, inputs.v, inputs.dout, inputs.options
    exported = Inputs(*(Exporter(array) for array in (q, k, v, dout)), {**options, "bias": Exporter(options["bias"])})
    assert_same_bits(compute(swiftattn, exported, view=Exporter), ours(inputs))
