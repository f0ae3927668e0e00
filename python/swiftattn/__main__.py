"""`python -m swiftattn`: what is installed, whether it computes correctly here, and how fast."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import swiftattn
from swiftattn import reference

Array = NDArray[Any]
FloatType = type[np.float32] | type[np.float64]


class Case(NamedTuple):
    """A problem of the self-test: q, k, v of the shapes (B, Hq, Sq, D), (B, Hkv, Sk, D) and (B, Hkv, Sk, Dv)."""

    name: str
    heads: tuple[int, int]
    lengths: tuple[int, int]
    dims: tuple[int, int]
    options: dict[str, Any]


BATCH = 2

CASES = (
    Case("plain", (4, 4), (65, 130), (64, 64), {}),
    Case("grouped heads, causal", (4, 2), (100, 100), (40, 24), {"causal": True}),
    Case("bottom right, bias", (2, 1), (33, 70), (16, 16), {"causal": "bottom_right", "bias": "(Hq, Sq, Sk)"}),
    Case("mask, lengths", (3, 3), (20, 50), (7, 8), {"mask": "(B, 1, Sq, Sk)", "key_lengths": (0, 31)}),
)


def operands(case: Case, dtype: FloatType) -> tuple[tuple[Array, Array, Array, Array], dict[str, Any]]:
    """Return (q, k, v, dout) and the options of a case, with random arrays in place of the shapes."""
    rng = np.random.default_rng(len(case.name))
    (heads_q, heads_kv), (len_q, len_k), (dim, dim_v) = case.heads, case.lengths, case.dims
    shapes = (
        (BATCH, heads_q, len_q, dim),
        (BATCH, heads_kv, len_k, dim),
        (BATCH, heads_kv, len_k, dim_v),
        (BATCH, heads_q, len_q, dim_v),
    )
    q, k, v, dout = (np.asarray(rng.standard_normal(shape), dtype) for shape in shapes)
    options = dict(case.options)
    if "bias" in options:
        options["bias"] = rng.standard_normal((heads_q, len_q, len_k)).astype(dtype)
    if "mask" in options:
        options["mask"] = rng.random((BATCH, 1, len_q, len_k)) < 0.7
    if "key_lengths" in options:
        options["key_lengths"] = np.array(options["key_lengths"])
    return (q, k, v, dout), options


def results(module: Any, arrays: tuple[Array, Array, Array, Array], options: dict[str, Any]) -> list[Array]:
    """Return out, lse and the gradients by `module`, which is swiftattn or its reference."""
    q, k, v, dout = arrays
    out, lse = module.attention(q, k, v, return_lse=True, **options)
    gradients = module.attention_backward(dout, q, k, v, out, lse, **options)
    return [out, lse, *(gradient for gradient in gradients if gradient is not None)]


def error(result: Array, truth: Array) -> float:
    """Return the largest absolute difference; equal infinities, the lse of empty rows, do not differ."""
    with np.errstate(invalid="ignore"):
        return float(np.max(np.where(result == truth, 0, np.abs(result - truth))))


def excess(case: Case, dtype: FloatType) -> float:
    """Return the largest error in units of the allowed: twice that of plain NumPy in the same dtype, and a floor."""
    arrays, options = operands(case, dtype)
    q, k, v, dout = (array.astype(np.float64) for array in arrays)
    exact = dict(options, bias=options["bias"].astype(np.float64)) if "bias" in options else options
    truths = results(reference, (q, k, v, dout), exact)
    peers = results(reference, arrays, options)
    ratios = []
    for ours, peer, truth in zip(results(swiftattn, arrays, options), peers, truths, strict=True):
        floor = (
            16
            * float(np.finfo(dtype).eps)
            * max(1.0, float(np.max(np.abs(truth), where=np.isfinite(truth), initial=0)))
        )
        ratios.append(error(ours, truth) / (2 * error(peer, truth) + floor))
    return float(np.max(ratios))


def self_test() -> bool:
    """Compare forward and backward with the reference in every available tier; print a line each."""
    passed = True
    for isa in swiftattn.available_isas():
        swiftattn.set_isa(isa)
        for dtype in (np.float32, np.float64):
            for case in CASES:
                ratio = excess(case, dtype)
                good = ratio <= 1  # and so false for a NaN
                passed &= good
                verdict = "pass" if good else "FAIL"
                print(f"{verdict}  {isa:9} {dtype.__name__:8} {case.name:22} error {ratio:.2g} of the allowed")
    swiftattn.set_isa(None)
    return passed


def seconds(work: Callable[[], object]) -> float:
    """Return the median duration of seven calls after one to warm up."""
    work()
    durations = []
    for _ in range(7):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return sorted(durations)[len(durations) // 2]


def benchmark() -> None:
    """Time forward and backward on one moderate shape."""
    batch, heads, length, dim = shape = (1, 8, 1024, 64)
    rng = np.random.default_rng(0)
    q, k, v, dout = (rng.standard_normal(shape, dtype=np.float32) for _ in range(4))
    forward_flops = 4 * batch * heads * length * length * dim
    live_share = (length + 1) / (2 * length)

    def train() -> None:
        swiftattn.attention_vjp(q, k, v)[1](dout)

    works: tuple[tuple[str, float, Callable[[], object]], ...] = (
        ("forward", forward_flops, lambda: swiftattn.attention(q, k, v)),
        ("forward, causal", forward_flops * live_share, lambda: swiftattn.attention(q, k, v, causal=True)),
        ("forward + backward", forward_flops * 3.5, train),
    )
    print(f"float32 {shape} on {swiftattn.get_isa()}, threads: {swiftattn.get_num_threads()}")
    for name, flops, work in works:
        duration = seconds(work)
        print(f"{name:20} {duration * 1e3:8.2f} ms {flops / duration / 1e9:8.1f} GFLOP/s")


def main() -> int:
    """Run the command; the exit status is 0 if every comparison passed."""
    parser = argparse.ArgumentParser(
        prog="python -m swiftattn", description="Show the configuration, compare with the NumPy reference, benchmark."
    )
    parser.add_argument("--no-benchmark", action="store_true", help="leave the benchmark out")
    arguments = parser.parse_args()
    swiftattn.show_config()
    if swiftattn.get_isa() is None:
        print(f"SWIFTATTN_ISA must be one of {', '.join(swiftattn.available_isas())}", file=sys.stderr)
        return 1
    print()
    passed = self_test()
    if not arguments.no_benchmark:
        print()
        benchmark()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
