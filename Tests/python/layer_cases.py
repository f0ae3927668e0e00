"""Problems for the layer, as plain data: what belongs to a case, its results, and cases in which all options meet.

Broadcast patterns as in `cases`.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

import swiftattn
from cases import Array
from helpers import Results, without_none
from swiftattn import reference_layer
from swiftattn.reference_layer import LayerConfig, Rope, parameter_shapes
from tolerances import WIDER

# How each option turns the heads; dim is then the largest even number of the head's numbers, or a half of them.
ROPES: dict[str | None, dict[str, Any]] = {
    None: {},
    "half-split": {},
    "interleaved": {"interleaved": True, "base": 100.0},
    "partial": {"scaling": 2.0},
    "offsets": {"base": 50.0, "offset": 5, "key_offset": 2, "interleaved": True, "scaling": 0.5},
}


@dataclass(frozen=True)
class LayerCase:
    """A problem: heads are (Hq, Hkv, D); lengths are (Sq, Sk).

    source says what the layer is called with: "self" query only; "memory" query and key, of another width; "fused" the
    same of one width; "apart" query, key and value of three widths; "three" of one width.
    """

    lengths: tuple[int, int]
    heads: tuple[int, int, int]
    embed: int
    source: str = "self"
    batch: tuple[int, ...] = (2,)
    biases: bool = True
    bias_kv: bool = False
    zero_attn: bool = False
    rope: str | None = None
    mask: str | None = None
    bias: str | None = None
    causal: bool | str = False
    key_lengths: bool = False

    def __str__(self) -> str:
        (len_q, len_k), (heads_q, heads_kv, dim) = self.lengths, self.heads
        shape = f"B{'x'.join(map(str, self.batch))}-H{heads_q}/{heads_kv}-S{len_q}x{len_k}-D{dim}-E{self.embed}"
        options = {f.name: getattr(self, f.name) for f in fields(self)[4:] if getattr(self, f.name) != f.default}
        return "-".join(
            [shape, self.source, *(name if value is True else f"{name}={value}" for name, value in options.items())]
        )

    @property
    def config(self) -> LayerConfig:
        heads_q, heads_kv, dim = self.heads
        turning = {"partial": dim // 4 * 2}.get(self.rope or "", dim // 2 * 2)
        rope = Rope(turning, **ROPES[self.rope]) if self.rope is not None and turning else None
        kdim, vdim = {
            "memory": (self.embed + 3, self.embed + 3),
            "apart": (self.embed + 5, self.embed // 2 + 1),
        }.get(self.source, (None, None))
        flags = self.biases, self.bias_kv, self.zero_attn
        return LayerConfig(self.embed, heads_q, heads_kv, dim, kdim, vdim, *flags, rope)


@dataclass(frozen=True)
class LayerProblem:
    """A layer's parameters, the arrays that it is called with, the other arguments, and the gradient by its output."""

    config: LayerConfig
    parameters: dict[str, Array]
    given: tuple[Array, ...]
    options: dict[str, Any]
    dout: Array

    def cast(self, dtype: Any) -> LayerProblem:
        """The same numbers in another floating dtype."""
        parameters = {name: parameter.astype(dtype) for name, parameter in self.parameters.items()}
        options = dict(self.options)
        if "bias" in options:
            options["bias"] = options["bias"].astype(dtype)
        given = tuple(operand.astype(dtype) for operand in self.given)
        return LayerProblem(self.config, parameters, given, options, self.dout.astype(dtype))

    def layer(self) -> swiftattn.MultiHeadAttention:
        """A compiled layer with the problem's parameters."""
        c = self.config
        layer = swiftattn.MultiHeadAttention(
            c.embed_dim,
            c.num_heads,
            **{f.name: getattr(c, f.name) for f in fields(c)[2:]},
            dtype=self.dout.dtype,
        )
        layer.load_state_dict(self.parameters)
        return layer


def make_problem(case: LayerCase, dtype: Any = np.float32) -> LayerProblem:
    """Random arrays of the case's shapes, the same ones at each call."""
    random = np.random.default_rng(zlib.crc32(str(case).encode()))
    config, (len_q, len_k) = case.config, case.lengths
    if case.source == "self":
        len_k = len_q
    parameters = {
        # Scaled so that heads, scores and outputs are of order 1 whatever the widths are.
        name: random.normal(size=shape) / np.sqrt(shape[-1] if len(shape) == 2 else 1)
        for name, shape in parameter_shapes(config).items()
    }
    count = {"self": 1, "memory": 2, "fused": 2}.get(case.source, 3)
    widths = zip((len_q, len_k, len_k)[:count], config.inputs, strict=False)
    given = tuple(random.normal(size=(*case.batch, *shape)) for shape in widths)
    # Gradients of the scores are then of order 1: the tolerance floors count on it, as in `cases.make_inputs`.
    scale = np.sqrt(config.embed_dim * config.head_width / config.projected[0])
    dout = random.normal(size=given[0].shape) / max(scale, 1)
    options = _make_options(case, len_q, len_k, random)
    return LayerProblem(config, parameters, given, options, dout).cast(dtype)


def _make_options(case: LayerCase, len_q: int, len_k: int, random: np.random.Generator) -> dict[str, Any]:
    sizes = {"B": case.batch, "H": (case.heads[0],), "Q": (len_q,), "K": (len_k,)}

    def shape(pattern: str) -> tuple[int, ...]:
        axes = zip("BHQK"[4 - len(pattern) :], pattern, strict=True)
        return tuple(n for axis, letter in axes for n in (sizes[axis] if letter != "1" else (1,) * len(sizes[axis])))

    options: dict[str, Any] = {}
    if case.mask is not None:
        mask = np.asarray(random.random(shape(case.mask)) < 0.7)
        if "Q" in case.mask and len_q > 1:
            mask[..., len_q // 2, :] = False  # a query that may attend to nothing
        options["mask"] = mask
    if case.bias is not None:
        bias = np.asarray(random.normal(size=shape(case.bias)))
        options["bias"] = np.where(random.random(bias.shape) < 0.2, -np.inf, bias) if "K" in case.bias else bias
    if case.causal is not False:
        options["causal"] = case.causal
    if case.key_lengths:
        lengths = random.integers(0, len_k, case.batch, endpoint=True)
        options["key_lengths"] = lengths if case.batch else int(lengths)
    return options


def compute_layer(layer: swiftattn.MultiHeadAttention, problem: LayerProblem) -> Results:
    """All results of the compiled layer, in memory that held NaN, so that what is not written shows."""
    garbage = [np.full_like(array, np.nan) for array in (*problem.given, problem.dout) for _ in range(2)]
    del garbage
    output, weights = layer(*problem.given, **problem.options, need_weights=True)
    with swiftattn.no_grad():
        by_head = layer(*problem.given, **problem.options, need_weights=True, average_weights=False)[1]
    layer.zero_grad()
    inputs = layer.backward(problem.dout, needs_bias="bias" in problem.options)._asdict()
    grads = {name: gradient.copy() for name, gradient in layer.grads.items()}
    results = {"output": output, "weights": weights, "weights_of_heads": by_head, **inputs, **grads}
    return without_none(results)


def compute_reference(problem: LayerProblem) -> Results:
    """The same of the reference."""
    operands = (*problem.given, *(problem.given[-1],) * (3 - len(problem.given)))
    output, saved = reference_layer.layer_forward(problem.config, problem.parameters, *operands, **problem.options)
    weights, by_head = (reference_layer.layer_weights(saved, average_weights=average) for average in (True, False))
    *gradients, parameters, bias = reference_layer.layer_backward(saved, problem.dout)
    while len(gradients) > len(problem.given):
        last = gradients.pop()
        gradients[-1] = gradients[-1] + last
    inputs = dict(zip(("query", "key", "value"), gradients, strict=False)) | ({} if bias is None else {"bias": bias})
    return {"output": output, "weights": weights, "weights_of_heads": by_head, **inputs, **parameters}


def expected(problem: LayerProblem) -> tuple[Results, Results]:
    """The results of plain NumPy in the problem's dtype, and the truth."""
    return compute_reference(problem), compute_reference(problem.cast(WIDER[problem.dout.dtype.type]))


def every_pair(axes: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Few rows, in which every value of every axis meets every value of every other axis."""
    names = list(axes)

    def pairs(row: dict[str, int]) -> set[tuple[str, int, str, int]]:
        return {(a, row[a], b, row[b]) for a, b in itertools.combinations([name for name in names if name in row], 2)}

    unmet = {
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i, j in itertools.product(range(len(axes[a])), range(len(axes[b])))
    }
    rows = []
    while unmet:
        a, i, b, j = min(unmet)
        row = {a: i, b: j}
        for name in names:
            if name not in row:
                choices = [row | {name: index} for index in range(len(axes[name]))]
                row = max(choices, key=lambda choice: len(pairs(choice) & unmet))
        unmet -= pairs(row)
        rows.append({name: axes[name][index] for name, index in row.items()})
    return rows


CROSSED = tuple(
    LayerCase(**row)
    for row in every_pair(
        {
            "lengths": ((17, 47), (1, 1), (47, 17), (1, 33), (16, 5)),
            "heads": ((2, 2, 8), (4, 2, 7), (3, 1, 59), (2, 1, 1), (6, 3, 16)),
            "embed": (20, 59, 33, 48, 1),
            "source": ("self", "memory", "fused", "apart", "three"),
            "rope": (None, "half-split", "interleaved", "partial", "offsets"),
            "mask": (None, "BHQK", "B11K", "QK"),
            "bias": (None, "BHQK", "1H11", "QK"),
            "batch": ((2,), (1,), (), (2, 2)),
            "causal": (False, "top_left", "bottom_right"),
            "biases": (True, False),
            "bias_kv": (False, True),
            "zero_attn": (False, True),
            "key_lengths": (False, True),
        }
    )
)

# More rows, columns and sums than one block of any kernel has; no width is a multiple of a vector.
LARGE = (
    LayerCase((150, 150), (5, 1, 37), 187, bias_kv=True, rope="interleaved", causal=True),
    LayerCase((130, 200), (3, 3, 43), 130, "apart", mask="B1QK", bias="HQK", zero_attn=True),
    LayerCase((1025, 7), (2, 1, 17), 17, "memory", (1,), biases=False, rope="half-split", key_lengths=True),
    LayerCase((1, 1025), (4, 2, 16), 70, "fused", key_lengths=True, rope="offsets"),
)

# No sequences, no queries or no keys.
EMPTY = tuple(
    replace(case, **options)
    for case in (
        LayerCase((3, 4), (2, 1, 8), 20, "memory", (0,)),
        LayerCase((3, 3), (2, 2, 8), 20, batch=(2, 0)),
        LayerCase((0, 0), (2, 2, 8), 20),
        LayerCase((0, 4), (4, 2, 7), 33, "apart"),
        LayerCase((3, 0), (4, 2, 7), 33, "apart"),
        LayerCase((3, 0), (2, 2, 8), 20, "fused", ()),
    )
    for options in (
        {},
        {"biases": False, "rope": "half-split", "key_lengths": True},
        {"bias_kv": True, "mask": "BHQK", "causal": "bottom_right"},
        {"zero_attn": True, "bias_kv": True, "bias": "BHQK", "rope": "interleaved"},
    )
)
