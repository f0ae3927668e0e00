"""What the tests share: computing all results of a problem, and comparing them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import swiftattn
from cases import Array, Case, Inputs, make_inputs
from swiftattn import reference
from tolerances import FACTOR, WIDER, assert_accurate

GRADIENTS = ("query", "key", "value", "bias")
DTYPES = (np.float32, np.float64)
LONG = bool(os.environ.get("SWIFTATTN_LONG_TESTS"))  # set by the Make targets of the long runs

Results = dict[str, Array]


def compute(
    module: Any, inputs: Inputs, needs: Iterable[str] = GRADIENTS, view: Callable[[Array], Array] = lambda array: array
) -> Results:
    """All results of `module`, swiftattn or its reference, that there are: out, lse and the gradients by name.

    `view` gives the out and lse that backward reads another form.
    """
    q, k, v, dout, options = inputs.q, inputs.k, inputs.v, inputs.dout, inputs.options
    out, lse = module.attention(q, k, v, return_lse=True, **options)
    gradients = module.attention_backward(dout, q, k, v, view(out), view(lse), **options, needs=tuple(needs))
    results = {"out": out, "lse": lse, **gradients._asdict()}
    return without_none(results)


def without_none(results: dict[str, Any]) -> Results:
    return {name: result for name, result in results.items() if result is not None}


def ours(inputs: Inputs, needs: Iterable[str] = GRADIENTS) -> Results:
    """All results of swiftattn, computed in memory that held NaN, so that what is not written shows."""
    arrays = (inputs.q, inputs.k, inputs.v, inputs.dout, inputs.dout[..., 0], inputs.options.get("bias", inputs.q))
    garbage = [np.full(array.shape, np.nan, inputs.q.dtype) for array in arrays for _ in range(2)]
    del garbage
    return compute(swiftattn, inputs, needs)


def expected(inputs: Inputs) -> tuple[Results, Results]:
    """The results of plain NumPy in the inputs' dtype, and the truth."""
    return compute(reference, inputs), compute(reference, inputs.cast(WIDER[inputs.q.dtype.type]))


@functools.cache
def expected_of_case(case: Case, dtype: Any) -> tuple[Results, Results]:
    """`expected`, computed once for all tiers."""
    return expected(make_inputs(case, dtype))


def assert_all_accurate(results: Results, naive_and_truth: tuple[Results, Results], factor: float = FACTOR) -> None:
    """Judge each of the results by the tolerance table."""
    naive, truth = naive_and_truth
    assert results.keys() == truth.keys()
    for name, result in results.items():
        # A bias that is broadcast along queries, heads or batches has the sum over them as its gradient.
        terms = truth["lse"].size / max(result.size, 1) if name == "bias" and "lse" in truth else 1
        assert_accurate(name, result, naive[name], truth[name], factor, terms)


def assert_case_accurate(case: Case, dtype: Any = np.float32) -> None:
    """Compute the case with swiftattn and judge every result."""
    assert_all_accurate(ours(make_inputs(case, dtype)), expected_of_case(case, dtype))


def assert_same_bits(results: Results, others: Results, where: dict[str, Any] | None = None) -> None:
    """Compare results bit by bit; `where` picks a part of each result by an index."""
    assert results.keys() == others.keys()
    for name, result in results.items():
        index = ... if where is None else where[name]
        one, other = np.ascontiguousarray(result[index]), np.ascontiguousarray(others[name][index])
        assert one.shape == other.shape, f"{name} has shapes {one.shape} and {other.shape}"
        bits = f"u{one.dtype.itemsize}"
        differences = np.argwhere(one.view(bits) != other.view(bits))
        if len(differences):
            at = tuple(map(int, differences[0]))
            raise AssertionError(
                f"{name}{list(at)} is {one[at]!r} and {other[at]!r}; {len(differences)} of {one.size} differ"
            )


def rounds(short: int, long: int = 1000) -> int:
    """How often a test repeats what it does: `short` in `make test`."""
    return long if LONG else short


def run_python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter that can import what this one can, and return what it said."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def output_of(program: str, **environment: str) -> str:
    """Run a program that must succeed and return what it printed."""
    finished = run_python(program, **environment)
    assert finished.returncode == 0, f"exit status {finished.returncode}\n{finished.stdout}{finished.stderr}"
    return finished.stdout
