"""Checksums of results, to the bit: `golden.json` beside this file.

They hold for every tier and processor of a class: "fma", where a product and a sum are rounded together, and "no fma".
(NEON, which has FMA, will have to agree with the first.) All arithmetic of the library is its own, except that it takes
log2 (for lse) and sin, cos and pow (for rotary positions) in double from the system's libm, whose last bit differs
between versions and processors. The checksums do not depend on that bit: float32 results hold those numbers rounded to
float32, which moves once in 2^28 times; of float64, lse is rounded to a multiple of 2^-30 before it is summed and
before backward reads it, and layers are left out. Inputs come from integers, so that they depend on no library either.

    make golden    writes the file anew

Do so only in a change whose purpose is another order of summation, another polynomial or another formula, and say in
its message which results change and why. A change that should not change results, such as one of speed, threads or
memory, must leave the file alone: where it does not, the change is wrong.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import swiftattn
from cases import Array, Case, Inputs, pattern_shape
from helpers import Results
from layer_cases import LayerCase, LayerProblem, compute_layer, make_problem

FILE = Path(__file__).with_name("golden.json")

CASES = (
    Case((1, 1), (1, 1)),
    Case((100, 70), (40, 24), (4, 2)),
    Case((70, 134), (16, 16), (3, 1), causal="bottom_right", bias="1HQK"),
    Case((50, 130), (7, 33), mask="B1QK", bias="QK", scale=-1.5),
    Case((1, 300), (64, 64), (8, 2), key_lengths=True),
    Case((97, 97), (17, 1), causal="top_left", query_lengths=True, bias="BHQK", bias_has_minus_inf=True),
)
LAYERS = (
    LayerCase((50, 50), (4, 2, 12), 40, rope="interleaved", causal=True, bias_kv=True, zero_attn=True),
    LayerCase((33, 70), (2, 2, 7), 20, "apart", (3,), mask="B1QK", bias="HQK", rope="half-split"),
)


def rounding_class(isa: str) -> str:
    """Which of the classes a tier is of."""
    return "no fma" if isa == "baseline" and platform.machine() in ("x86_64", "i686") else "fma"


class Numbers:
    """Numbers of at most 24 bits from Knuth's MMIX generator."""

    def __init__(self) -> None:
        self._state = 1

    def uniform(self, shape: tuple[int, ...]) -> Array:
        """Numbers in [-2, 2), multiples of 2^-22."""
        values = np.empty(int(np.prod(shape)))
        for place in range(values.size):
            self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
            values[place] = ((self._state >> 40) - 2**23) / 2**22
        return values.reshape(shape)

    def below(self, limit: int, shape: tuple[int, ...]) -> Array:
        """Whole numbers from 0 to `limit`, which is in."""
        return np.floor((self.uniform(shape) + 2) / 4 * (limit + 1)).astype(int)


def golden_inputs(case: Case, dtype: Any) -> Inputs:
    """The case with numbers that are the same everywhere."""
    numbers, (len_q, len_k), (dim, dim_v) = Numbers(), case.lengths, case.dims
    heads_q, heads_kv = case.heads or (1, 1)
    q, k, v, dout = (
        numbers.uniform((*case.batch, *shape)).astype(dtype)
        for shape in (
            (heads_q, len_q, dim),
            (heads_kv, len_k, dim),
            (heads_kv, len_k, dim_v),
            (heads_q, len_q, dim_v),
        )
    )
    options: dict[str, Any] = {"causal": case.causal, "scale": case.scale}
    if case.mask is not None:
        options["mask"] = numbers.uniform(pattern_shape(case, case.mask)) < 1
    if case.bias is not None:
        bias = numbers.uniform(pattern_shape(case, case.bias))
        options["bias"] = np.where(bias > (1 if case.bias_has_minus_inf else 2), -np.inf, bias).astype(dtype)
    for name, length in (("key_lengths", len_k), ("query_lengths", len_q)):
        if getattr(case, name):
            options[name] = numbers.below(length, case.batch)
    return Inputs(q, k, v, dout, options)


def golden_problem(case: LayerCase) -> LayerProblem:
    """Likewise; the shapes are those of `make_problem`."""
    numbers, problem = Numbers(), make_problem(case)

    def like(array: Array) -> Array:
        scale = 2.0 ** -((array.shape[-1] - 1).bit_length() // 2) if array.ndim == 2 else 1
        return (numbers.uniform(array.shape) * scale).astype(array.dtype)

    options = dict(problem.options)
    if "mask" in options:
        options["mask"] = numbers.uniform(options["mask"].shape) < 1
    if "bias" in options:
        options["bias"] = like(options["bias"][None])[0]
    return replace(
        problem,
        parameters={name: like(array) for name, array in problem.parameters.items()},
        given=tuple(like(array[None])[0] for array in problem.given),
        options=options,
        dout=like(problem.dout[None])[0],
    )


def golden_results(case: Case, dtype: Any) -> Results:
    """All results, free of libm's last bit."""
    inputs = golden_inputs(case, dtype)
    out, lse = swiftattn.attention(inputs.q, inputs.k, inputs.v, return_lse=True, **inputs.options)
    if dtype is np.float64:
        finite = np.isfinite(lse)
        scaled = np.where(finite, lse, 0) * 2**30
        if np.abs(scaled - np.floor(scaled) - 0.5).min() < 1e-4:
            raise ValueError("lse is half-way between two multiples of 2^-30: take another case")
        lse = np.where(finite, np.rint(scaled) / 2**30, lse)
    gradients = swiftattn.attention_backward(
        inputs.dout, inputs.q, inputs.k, inputs.v, out, lse, **inputs.options
    )._asdict()
    return {"out": out, "lse": lse, **{name: array for name, array in gradients.items() if array is not None}}


def checksums(results: Results) -> dict[str, str]:
    """Of each result's bytes, little-endian and in C order; 64 bits of SHA-256."""
    little = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in results.items()}
    return {name: hashlib.sha256(array.tobytes()).hexdigest()[:16] for name, array in sorted(little.items())}


def compute(name: str) -> dict[str, str]:
    """The checksums of a case in the tier in use."""
    results = {f"{case} {dtype.__name__}": (case, dtype) for dtype in (np.float32, np.float64) for case in CASES}
    if name in results:
        return checksums(golden_results(*results[name]))
    problem = golden_problem(next(case for case in LAYERS if f"layer {case}" == name))
    results = compute_layer(problem.layer(), problem)
    results.pop("bias", None)  # whose gradient is that of the calls above
    return checksums(results)


NAMES = (
    *(f"{case} {dtype.__name__}" for dtype in (np.float32, np.float64) for case in CASES),
    *(f"layer {case}" for case in LAYERS),
)


def write() -> None:
    """Write the file, from the tiers of this processor, which have to agree."""
    golden: dict[str, dict[str, dict[str, str]]] = {}
    for isa in swiftattn.available_isas():
        swiftattn.set_isa(isa)
        found = {name: compute(name) for name in NAMES}
        if golden.setdefault(rounding_class(isa), found) != found:
            raise SystemExit(f"{isa} does not agree with the tiers before it")
    if len(golden) < 2:
        raise SystemExit(f"this processor has tiers of one class only: {', '.join(golden)}")
    FILE.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()
