"""A wrong call is the right exception, its message names the argument, and no output has been written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Array, Case, Inputs, make_inputs

CASE = Case((5, 6), (4, 3), (4, 2), (2,))
OUT_SHAPE = (2, 4, 5, 3)

SHARED = {"q": "query", "k": "key", "v": "value"}


def zeros(*shape: int, dtype: Any = np.float32) -> Array:
    return np.zeros(shape, dtype)


def unaligned(*shape: int) -> Array:
    memory = np.zeros(4 * int(np.prod(shape)) + 1, np.uint8)
    return memory[1:].view(np.float32).reshape(shape)


class NotAnArray:
    pass


# What is changed in a good call, the exception, and what its message says: the argument, and what would be right.
BAD_OPERANDS: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    # kinds and dtypes
    ({"q": NotAnArray()}, TypeError, r"query.*NotAnArray"),
    ({"k": [[1.0, 2.0]]}, TypeError, r"key.*list"),
    ({"v": None}, TypeError, r"value"),
    ({"q": zeros(2, 4, 5, 4, dtype=np.int64)}, TypeError, r"query.*int64.*float32 or float64"),
    ({"k": zeros(2, 2, 6, 4, dtype=np.float16)}, TypeError, r"key.*float16.*float32 or float64"),
    ({"v": zeros(2, 2, 6, 3, dtype=object)}, TypeError, r"value.*object.*float32 or float64"),
    ({"q": zeros(2, 4, 5, 4, dtype=np.complex64)}, TypeError, r"query.*complex64.*float32 or float64"),
    ({"q": zeros(2, 4, 5, 4, dtype=np.longdouble)}, TypeError, r"query.*float32 or float64"),
    ({"q": zeros(2, 4, 5, 4, dtype=bool)}, TypeError, r"query"),
    ({"q": zeros(2, 4, 5, 4, dtype=np.dtype(np.float32).newbyteorder())}, TypeError, r"query"),
    ({"k": zeros(2, 2, 6, 4, dtype=np.float64)}, TypeError, r"key.*float64.*float32|float32.*key.*float64"),
    ({"v": zeros(2, 2, 6, 3, dtype=np.float64)}, TypeError, r"value.*float64.*float32|float32.*value.*float64"),
    # ranks and shapes
    ({"q": zeros(4), "k": zeros(4), "v": zeros(3)}, ValueError, r"query"),
    ({"q": zeros()}, ValueError, r"query"),
    ({"q": zeros(*(1,) * 9)}, ValueError, r"query.*9"),
    ({"q": zeros(4, 5, 4)}, ValueError, r"query|key"),
    ({"k": zeros(2, 6, 4)}, ValueError, r"key"),
    ({"v": zeros(6, 3)}, ValueError, r"value"),
    ({"k": zeros(2, 2, 6, 8)}, ValueError, r"key.*8.*query.*4"),
    ({"v": zeros(2, 2, 7, 3)}, ValueError, r"value.*7.*key.*6"),
    ({"v": zeros(2, 1, 6, 3)}, ValueError, r"value.*1.*key.*2"),
    ({"k": zeros(2, 3, 6, 4), "v": zeros(2, 3, 6, 3)}, ValueError, r"query.*4.*key.*3|key.*3.*query.*4|4.*multiple.*3"),
    ({"k": zeros(2, 0, 6, 4), "v": zeros(2, 0, 6, 3)}, ValueError, r"key|query"),
    ({"q": zeros(2, 4, 5, 0), "k": zeros(2, 2, 6, 0)}, ValueError, r"query.*head_dim 0"),
    ({"k": zeros(3, 2, 6, 4)}, ValueError, r"key.*3, 2, 6, 4.*2, 4, 5, 4"),
    ({"v": zeros(1, 2, 6, 3)}, ValueError, r"value"),
    # sizes whose product overflows
    (
        {
            "q": np.broadcast_to(np.float32(0), (1, 1, 2**40, 1)),
            "k": zeros(1, 1, 1, 1),
            "v": np.broadcast_to(np.float32(0), (1, 1, 1, 2**30)),
        },
        (ValueError, MemoryError),
        r"",
    ),
    # values that are transposed: no out that wide is allocated
    (
        {"q": zeros(1, 1, 2**18, 4), "k": zeros(1, 1, 2**18, 4), "v": zeros(1, 1, 4, 2**18)},
        ValueError,
        r"value has length 4 but key has 262144",
    ),
)
BAD_OPTIONS: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    # mask and bias
    ({"mask": zeros(5, 6)}, TypeError, r"mask.*bias"),
    ({"mask": zeros(5, 6, dtype=np.uint8)}, TypeError, r"mask.*uint8.*bool"),
    ({"mask": True}, TypeError, r"mask"),
    ({"mask": zeros(5, 5, dtype=bool)}, ValueError, r"mask"),
    ({"mask": zeros(3, 1, 5, 6, dtype=bool)}, ValueError, r"mask"),
    ({"mask": zeros(2, 2, 5, 6, dtype=bool)}, ValueError, r"mask"),
    ({"mask": zeros(1, 2, 4, 5, 6, dtype=bool)}, ValueError, r"mask"),
    ({"bias": zeros(5, 6, dtype=bool)}, TypeError, r"bias.*bool"),
    ({"bias": zeros(5, 6, dtype=np.float64)}, TypeError, r"bias.*float64"),
    ({"bias": zeros(5, 6, dtype=np.int32)}, TypeError, r"bias.*int32"),
    ({"bias": 1.5}, TypeError, r"bias"),
    ({"bias": zeros(4, 6)}, ValueError, r"bias"),
    ({"bias": zeros(2, 2, 5, 6)}, ValueError, r"bias"),
    ({"bias": zeros(0, 6)}, ValueError, r"bias"),
    # causal, scale, layout
    ({"causal": True}, ValueError, r'causal.*"top_left".*"bottom_right"'),
    ({"causal": "left"}, ValueError, r"causal.*top_left.*bottom_right.*left"),
    ({"causal": 1}, TypeError, r"causal"),
    ({"causal": None}, TypeError, r"causal"),
    ({"scale": 0.0}, ValueError, r"scale"),
    ({"scale": np.nan}, ValueError, r"scale"),
    ({"scale": np.inf}, ValueError, r"scale"),
    ({"scale": 10**400}, ValueError, r"scale"),
    ({"scale": "1"}, TypeError, r"scale.*str"),
    ({"layout": "SBHD"}, ValueError, r"layout.*BHSD.*BSHD"),
    ({"layout": None}, TypeError, r"layout"),
    # lengths
    *(
        ({name: lengths}, exception, name)
        for name, longest in (("key_lengths", 6), ("query_lengths", 5))
        for lengths, exception in (
            (np.array([longest, longest + 1]), ValueError),
            (np.array([0, -1]), ValueError),
            (np.array([1, 2, 3]), ValueError),
            (np.array([[1, 2]]), ValueError),
            (np.array([1.0, 2.0]), TypeError),
            (np.array([1, 2], np.uint8), TypeError),
            (np.array([True, False]), TypeError),
            ([1, 2], TypeError),
            (2**80, ValueError),
        )
    ),
)


def raises(exception: Any, message: str) -> Any:
    """The exception with a message of one line that matches."""
    return pytest.raises(exception, match=rf"\A.*(?:{message}).*\Z")


def bad_call_id(value: object) -> str | None:
    """The names of the changed arguments; pytest's own id for the rest."""
    return "-".join(value) if isinstance(value, dict) else None


def altered(changes: dict[str, Any]) -> Inputs:
    """The inputs of a good call with some operands or options replaced."""
    inputs = make_inputs(CASE)
    operands = {name: value for name, value in changes.items() if name in SHARED}
    return replace(inputs, **operands).with_options(**{name: changes[name] for name in changes.keys() - SHARED.keys()})


@pytest.mark.parametrize(("changes", "exception", "message"), (*BAD_OPERANDS, *BAD_OPTIONS), ids=bad_call_id)
def test_forward_rejects_and_writes_nothing(changes: dict[str, Any], exception: Any, message: str) -> None:
    inputs = altered(changes)
    out = np.full(OUT_SHAPE, 7, np.float32)
    for options in ({}, {"return_lse": True}, {"out": out}):
        with raises(exception, message if "out" not in options else f"{message}|out"):
            swiftattn.attention(inputs.q, inputs.k, inputs.v, **inputs.options, **options)
    assert (out == 7).all()


@pytest.mark.parametrize(("changes", "exception", "message"), (*BAD_OPERANDS, *BAD_OPTIONS), ids=bad_call_id)
def test_backward_rejects_what_forward_rejects(changes: dict[str, Any], exception: Any, message: str) -> None:
    inputs = altered(changes)
    out, lse = zeros(*OUT_SHAPE), zeros(*OUT_SHAPE[:-1])
    with raises(exception, f"{message}|out"):
        swiftattn.attention_backward(inputs.dout, inputs.q, inputs.k, inputs.v, out, lse, **inputs.options)
    with raises(exception, message):
        swiftattn.attention_vjp(inputs.q, inputs.k, inputs.v, **inputs.options)


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


BAD_OUTPUTS: tuple[tuple[Any, type[Exception], str], ...] = (
    (read_only(zeros(*OUT_SHAPE)), ValueError, r"out.*read-only"),
    (np.broadcast_to(np.float32(0), OUT_SHAPE), ValueError, r"out.*read-only"),
    (zeros(2, 4, 5, 4), ValueError, r"out"),
    (zeros(4, 5, 3), ValueError, r"out"),
    (zeros(1, *OUT_SHAPE), ValueError, r"out"),
    (zeros(*OUT_SHAPE, dtype=np.float64), TypeError, r"out.*float64"),
    (zeros(*OUT_SHAPE, dtype=np.int32), TypeError, r"out.*int32"),
    (unaligned(*OUT_SHAPE), ValueError, r"out.*misaligned"),
    (np.lib.stride_tricks.as_strided(zeros(200), OUT_SHAPE, (240, 60, 12, 0)), ValueError, r"out.*overlap"),
    (np.lib.stride_tricks.as_strided(zeros(200), OUT_SHAPE, (160, 40, 8, 4)), ValueError, r"out.*overlap"),
    (zeros(*OUT_SHAPE).tolist(), TypeError, r"out"),
)


@pytest.mark.parametrize(("out", "exception", "message"), BAD_OUTPUTS, ids=bad_call_id)
def test_unusable_out_is_rejected_and_not_written(out: Any, exception: Any, message: str) -> None:
    inputs = make_inputs(CASE)
    with raises(exception, message):
        swiftattn.attention(inputs.q, inputs.k, inputs.v, **inputs.options, out=out)
    assert not np.any(np.asarray(out))


@pytest.mark.parametrize("name", ["q", "k", "v", "mask", "bias"])
def test_out_that_overlaps_an_input_is_rejected_and_not_written(name: str) -> None:
    # All the inputs are views of one array, as large as the largest of them.
    memory = np.full(4096, 0.5, np.float32)
    out_start = 1024
    starts = {"q": 0, "k": 2048, "v": 2304, "bias": 2560, "mask": 3072, name: out_start - 4}

    def view(operand: str, *shape: int) -> Array:
        return memory[starts[operand] :][: int(np.prod(shape))].reshape(shape)

    mask = memory.view(bool)[4 * starts["mask"] :][: 2 * 4 * 5 * 6].reshape(2, 4, 5, 6)
    out = memory[out_start:][: int(np.prod(OUT_SHAPE))].reshape(OUT_SHAPE)
    with raises(ValueError, "out.*overlap"):
        swiftattn.attention(
            view("q", 2, 4, 5, 4),
            view("k", 2, 2, 6, 4),
            view("v", 2, 2, 6, 3),
            mask=mask,
            bias=view("bias", 2, 4, 5, 6),
            out=out,
        )
    assert (memory == 0.5).all()


BAD_BACKWARD: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"dout": zeros(2, 4, 5, 4)}, ValueError, r"dout"),
    ({"dout": zeros(4, 5, 3)}, ValueError, r"dout"),
    ({"dout": zeros(*OUT_SHAPE, dtype=np.float64)}, TypeError, r"dout.*float64"),
    ({"dout": zeros(*OUT_SHAPE, dtype=np.int32)}, TypeError, r"dout.*int32"),
    ({"dout": None}, TypeError, r"dout"),
    ({"out": zeros(2, 4, 6, 3)}, ValueError, r"out"),
    ({"out": zeros(*OUT_SHAPE, dtype=np.float64)}, TypeError, r"out.*float64"),
    ({"lse": zeros(*OUT_SHAPE)}, ValueError, r"lse"),
    ({"lse": zeros(2, 5, 4)}, ValueError, r"lse"),
    ({"lse": zeros(2, 4, 5, dtype=np.float64)}, TypeError, r"lse.*float64"),
    ({"needs": ("query", "mask")}, ValueError, r"needs.*mask"),
    ({"needs": ("q",)}, ValueError, r"needs.*q"),
    ({"needs": (1,)}, (TypeError, ValueError), r"needs"),
    ({"needs": 1}, TypeError, r"needs"),
)


@pytest.mark.parametrize(("changes", "exception", "message"), BAD_BACKWARD, ids=bad_call_id)
def test_backward_rejects_its_own_arguments(changes: dict[str, Any], exception: Any, message: str) -> None:
    inputs = make_inputs(CASE)
    own = {"dout": inputs.dout, "out": zeros(*OUT_SHAPE), "lse": zeros(*OUT_SHAPE[:-1]), **changes}
    with raises(exception, message):
        swiftattn.attention_backward(q=inputs.q, k=inputs.k, v=inputs.v, **inputs.options, **own)


def test_vjp_judges_needs_before_it_computes() -> None:
    inputs = make_inputs(CASE)
    needs: Any
    for needs in (5, ("mask",), "query"):
        with raises((TypeError, ValueError), "needs"):
            swiftattn.attention_vjp(inputs.q, inputs.k, inputs.v, needs=needs)


@pytest.mark.parametrize("error", [BufferError, RuntimeError, TypeError, ValueError])
def test_an_array_that_refuses_to_be_read_is_named(error: type[Exception]) -> None:
    class Refusing:
        def __dlpack__(self, *_arguments: Any, **_options: Any) -> Any:
            raise error("cannot export what requires a gradient")

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

    inputs, refusing = make_inputs(CASE), Refusing()
    with raises(TypeError, "key cannot be read as an array: cannot export what requires a gradient"):
        swiftattn.attention(inputs.q, refusing, inputs.v)


@pytest.mark.parametrize(
    ("count", "exception"), [(-1, ValueError), (1025, ValueError), (2**70, ValueError), (1.5, TypeError)]
)
def test_thread_counts_out_of_range_are_rejected(count: Any, exception: type[Exception]) -> None:
    before = swiftattn.get_num_threads()
    with pytest.raises(exception, match="n must be an int, not float" if exception is TypeError else "threads|1024"):
        swiftattn.set_num_threads(count)
    assert swiftattn.get_num_threads() == before


@pytest.mark.parametrize(
    ("name", "exception", "message"),
    [
        ("mmx", ValueError, "the instruction set is 'mmx', but must be one of .*baseline"),
        ("", ValueError, "the instruction set is ''"),
        ("a\n" + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 200, ValueError, r"the instruction set is 'a\?\?\?"),
        (2, TypeError, "name must be a str or None, not int"),
    ],
)
def test_unknown_instruction_sets_are_rejected(name: Any, exception: type[Exception], message: str) -> None:
    before = swiftattn.get_isa()
    with raises(exception, message):
        swiftattn.set_isa(name)
    assert swiftattn.get_isa() == before


def test_a_good_call_after_a_bad_one_works() -> None:
    inputs = make_inputs(CASE)
    expected = swiftattn.attention(inputs.q, inputs.k, inputs.v)
    with pytest.raises(ValueError, match="scale"):
        swiftattn.attention(inputs.q, inputs.k, inputs.v, scale=0)
    np.testing.assert_array_equal(swiftattn.attention(inputs.q, inputs.k, inputs.v), expected)
