"""The one list of cases, as plain data, and the arrays that belong to a case.

A broadcast pattern says which axes of (B, Hq, Sq, Sk) a mask or bias really has: "BHQK" all of them, "1HQ1" only the
head and query axes, "QK" the last two without the leading ones, "" a single number.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A problem: heads are (Hq, Hkv), or None for the rank-2 arrays of one head; dims are (D, Dv)."""

    lengths: tuple[int, int]
    dims: tuple[int, int]
    heads: tuple[int, int] | None = (2, 2)
    batch: tuple[int, ...] = (1,)
    mask: str | None = None
    bias: str | None = None
    bias_has_minus_inf: bool = False
    causal: bool | str = False
    key_lengths: bool = False
    query_lengths: bool = False
    scale: float | None = None
    layout: str = "BHSD"

    def __str__(self) -> str:
        (len_q, len_k), (dim, dim_v), heads = self.lengths, self.dims, self.heads or ("", "")
        shape = f"B{'x'.join(map(str, self.batch))}-H{heads[0]}/{heads[1]}-S{len_q}x{len_k}-D{dim}/{dim_v}"
        plain = Case(self.lengths, self.dims, self.heads, self.batch)
        options = {name: value for name, value in vars(self).items() if value != getattr(plain, name)}
        return "-".join([shape, *(name if value is True else f"{name}={value}" for name, value in options.items())])


@dataclass(frozen=True)
class Inputs:
    """The operands of forward and backward and the options that both take."""

    q: Array
    k: Array
    v: Array
    dout: Array
    options: dict[str, Any]

    def cast(self, dtype: Any) -> Inputs:
        """The same numbers in another floating dtype."""
        options = dict(self.options)
        if "bias" in options:
            options["bias"] = options["bias"].astype(dtype)
        return Inputs(*(array.astype(dtype) for array in (self.q, self.k, self.v, self.dout)), options)

    def with_options(self, **options: Any) -> Inputs:
        """The same operands with further options."""
        return replace(self, options={**self.options, **options})


def make_inputs(case: Case, dtype: Any = np.float32) -> Inputs:
    """Random arrays of the case's shapes, the same ones at each call."""
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    (len_q, len_k), (dim, dim_v) = case.lengths, case.dims

    def operand(heads: int, length: int, width: int) -> Array:
        leading = (*case.batch, heads) if case.heads else ()
        array = rng.standard_normal((*leading, length, width)).astype(dtype)
        return array if case.layout == "BHSD" or not case.heads else np.swapaxes(array, -2, -3).copy()

    heads_q, heads_kv = case.heads or (1, 1)
    q, k, v = operand(heads_q, len_q, dim), operand(heads_kv, len_k, dim), operand(heads_kv, len_k, dim_v)
    # So that dout . v, and with it every gradient, is of order 1 whatever Dv is: the tolerance floors count on it,
    # because gradients that cancel to 0 keep the rounding errors of their terms.
    dout = (operand(heads_q, len_q, dim_v) / np.sqrt(max(dim_v, 1))).astype(dtype)
    return Inputs(q, k, v, dout, _make_options(case, rng, dtype))


def _make_options(case: Case, rng: np.random.Generator, dtype: Any) -> dict[str, Any]:
    len_q, len_k = case.lengths
    options: dict[str, Any] = {"layout": case.layout}
    if case.mask is not None:
        mask = np.asarray(rng.random(pattern_shape(case, case.mask)) < 0.7)
        if "Q" in case.mask and len_q > 1:
            mask[..., len_q // 2, :] = False  # a row that may attend to nothing
        options["mask"] = mask
    if case.bias is not None:
        bias = np.asarray(rng.standard_normal(pattern_shape(case, case.bias)), dtype)
        options["bias"] = np.where(rng.random(bias.shape) < 0.2, -np.inf, bias) if case.bias_has_minus_inf else bias
    if case.causal is not False:
        options["causal"] = case.causal
    for name, length in (("key_lengths", len_k), ("query_lengths", len_q)):
        if getattr(case, name):
            lengths = rng.integers(0, length, case.batch, endpoint=True)
            options[name] = lengths if case.batch else int(lengths)
    if case.scale is not None:
        options["scale"] = case.scale
    return options


def pattern_shape(case: Case, pattern: str) -> tuple[int, ...]:
    """The shape of a mask or bias with that broadcast pattern."""
    sizes = {
        "B": case.batch,
        "H": (case.heads[0],) if case.heads else (),
        "Q": case.lengths[:1],
        "K": case.lengths[1:],
    }
    axes = "BHQK"[4 - len(pattern) :]
    return tuple(
        size
        for axis, letter in zip(axes, pattern, strict=True)
        for size in (sizes[axis] if letter != "1" else (1,) * len(sizes[axis]))
    )


# Every head dim and length of the awkward sort, both ways round, in MHA, GQA and MQA.
GEOMETRIES = (
    Case((1, 1), (1, 1), (2, 2), (2,)),
    Case((2, 15), (7, 16), (4, 2)),
    Case((15, 2), (16, 7), (3, 1)),
    Case((17, 47), (32, 40), (2, 2), (2,)),
    Case((47, 17), (40, 32), (4, 1)),
    Case((97, 128), (59, 64), (2, 2)),
    Case((128, 97), (64, 59), (6, 3)),
    Case((200, 47), (80, 111), (2, 1)),
    Case((47, 200), (111, 80), (2, 2)),
    Case((128, 128), (128, 128), (1, 1)),
    Case((97, 97), (256, 1), (2, 2)),
    Case((15, 97), (1, 256), (2, 1)),
    Case((17, 47), (300, 270), (1, 1)),
    Case((17, 1025), (64, 64), (1, 1)),
    Case((1, 1025), (64, 64), (8, 2)),
    Case((2, 200), (128, 128), (4, 1), (2,)),
    Case((1025, 17), (16, 32), (1, 1)),
    Case((1025, 1025), (7, 16), (2, 1)),
    Case((200, 200), (64, 64), (1, 1)),
)

_OPTION_GEOMETRIES = (
    Case((47, 97), (40, 16), (4, 2), (2,)),
    Case((97, 47), (7, 32), (2, 2), (2,)),
    Case((130, 200), (64, 64), (2, 1), (3,)),
    Case((1, 200), (64, 64), (8, 2), (2,)),
)

_OPTIONS: tuple[dict[str, Any], ...] = (
    {"scale": 0.3},
    {"scale": -0.25},
    {"mask": "BHQK"},
    {"mask": "B11K"},
    {"bias": "BHQK"},
    {"bias": "HQK", "bias_has_minus_inf": True},
    {"causal": "top_left"},
    {"causal": "bottom_right"},
    {"key_lengths": True},
    {"query_lengths": True},
    {"causal": "bottom_right", "key_lengths": True, "query_lengths": True},
    {"causal": "top_left", "bias": "1H11", "mask": "B1QK"},
    {"mask": "HQK", "bias": "QK", "causal": "bottom_right", "key_lengths": True, "query_lengths": True, "scale": 0.5},
)

OPTIONS = (
    *(replace(case, **options) for options in _OPTIONS for case in _OPTION_GEOMETRIES),
    Case((47, 47), (16, 16), (4, 2), (2,), causal=True),
    Case((200, 200), (64, 64), (2, 2), causal=True),
)

# Every way to broadcast over (B, Hq, Sq, Sk), with leading axes of length 1 and without them.
PATTERNS = (
    *("".join(pattern) for pattern in itertools.product("B1", "H1", "Q1", "K1")),
    *("HQK", "1QK", "QK", "1K", "Q1", "K", "1", ""),
)
_PATTERN_GEOMETRIES = (Case((17, 70), (16, 7), (4, 2), (2,)), Case((1, 70), (16, 7), (4, 2), (2,)))
MASK_PATTERNS = tuple(replace(case, mask=pattern) for case in _PATTERN_GEOMETRIES for pattern in PATTERNS)
BIAS_PATTERNS = tuple(replace(case, bias=pattern) for case in _PATTERN_GEOMETRIES for pattern in PATTERNS)

# Every rank in both layouts, with the options whose shape follows the rank.
RANKS = tuple(
    Case((17, 47), (16, 7), heads, batch, pattern, layout=layout, key_lengths=True, query_lengths=True)
    for heads, batch, pattern in (
        (None, (), "QK"),
        ((4, 2), (), "HQK"),
        ((4, 2), (3,), "BHQK"),
        ((4, 2), (2, 3), "B1QK"),
        ((2, 1), (2, 1, 3), "BHQK"),
        ((2, 1), (1, 2, 1, 2, 1), "1HQK"),
    )
    for layout in ("BHSD", "BSHD")
)
