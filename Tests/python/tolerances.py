"""The one tolerance table.

A result is good when its largest error is at most FACTOR times that of plain NumPy in the same dtype, plus a floor for
the cases where NumPy is exact by luck; errors are distances from the truth, the reference in a wider dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FACTOR = 2

# For scores of 1e4: a rounding of the score, which the kernels add when they change to base 2, is as large as NumPy's
# whole error there, and the softmax passes it on.
LARGE_SCORES_FACTOR = 4

# In units of the dtype's epsilon at the largest value of the result, or at 1 where that is more.
# The gradients by bias, key and value may be one number, a sum over all pairs or queries that cancels to 0: adding 254
# numbers of a normal distribution in order errs by 40. NumPy adds in pairs, and errs less.
# TERMS_OF_FLOOR is how many terms the floors are for; rounding errors of more grow with the root of their number.
FLOORS = {"out": 16, "lse": 8, "query": 32, "key": 64, "value": 64, "bias": 64}

TERMS_OF_FLOOR = 64

# Of the layer. The gradients of its parameters are sums over all tokens that may cancel to 0.
FLOORS |= dict.fromkeys(("output", "weights", "weights_of_heads"), 8)
FLOORS |= dict.fromkeys(("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"), 16)
FLOORS |= dict.fromkeys(("in_proj_bias", "bias_k", "bias_v", "out_proj.bias"), 16)

# The dtype of the truth; longdouble is 64-bit on some platforms, and then the floor alone is allowed there.
WIDER: dict[Any, Any] = {np.float32: np.float64, np.float64: np.longdouble}


def assert_accurate(
    name: str, ours: Array, naive: Array, truth: Array, factor: float = FACTOR, terms: float = 1
) -> None:
    """Judge the result `name`, a key of FLOORS; values that are not finite must be the truth's own.

    Each element is the sum of so many terms.
    """
    assert ours.shape == truth.shape, f"{name} has shape {ours.shape}, not {truth.shape}"
    assert ours.dtype == naive.dtype, f"{name} has dtype {ours.dtype}, not {naive.dtype}"
    largest = np.abs(truth).max(where=np.isfinite(truth), initial=1)
    floor = FLOORS[name] * max(terms / TERMS_OF_FLOOR, 1) ** 0.5 * np.finfo(ours.dtype).eps * largest
    allowed = factor * _errors(naive, truth).max(initial=0) + floor
    errors = _errors(ours, truth)
    if errors.max(initial=0) <= allowed:
        return
    worst = np.unravel_index(np.argmax(errors), errors.shape)
    at = tuple(map(int, worst))
    raise AssertionError(
        f"{name}{list(at)} is {ours[at]} and should be {truth[at]} (plain NumPy: {naive[at]}): "
        f"error {errors[at]:.3g}, allowed {allowed:.3g}; {np.count_nonzero(errors > allowed)} of {errors.size} are off"
    )


def _errors(result: Array, truth: Array) -> Array:
    """Absolute errors; where either is not finite, 0 if both are the same and infinity if not."""
    finite = np.isfinite(result) & np.isfinite(truth)
    same = (result == truth) | (np.isnan(result) & np.isnan(truth))
    with np.errstate(invalid="ignore"):
        return np.where(finite, np.abs(result - truth), np.where(same, 0, np.inf))
