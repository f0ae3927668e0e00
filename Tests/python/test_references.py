"""The extension keeps no reference and no memory of a call that is over, however it ended."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import swiftattn

CALLS = 50
ROUNDS = 5
# Less than any object takes, and more than the free lists grow by.
BYTES = 24

RNG = np.random.default_rng(0)
Q = RNG.standard_normal((2, 3, 5, 4), dtype=np.float32)
OUT, LSE = swiftattn.attention(Q, Q, Q, return_lse=True)
# Views that the library cannot address, so that they are copied.
MISALIGNED = np.frombuffer(b"\0" + Q.tobytes(), np.uint8)[1:].view(np.float32).reshape(Q.shape)
SWAPPED = Q.astype(Q.dtype.newbyteorder())
MASK = np.ones((5, 5), bool)
BIAS = np.zeros((2, 3, 5, 5), np.float32)
LENGTHS = np.array([5, 4])
X = RNG.standard_normal((2, 5, 12), dtype=np.float32)
LAYER = swiftattn.MultiHeadAttention(12, 3, add_bias_kv=True, rope=swiftattn.Rope(), seed=0)
LAYER(X)


class Tensor:
    """Something that is no array but can be read as one."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


TENSOR = Tensor(Q)
OPTIONS: dict[str, Any] = {"mask": MASK, "bias": BIAS, "key_lengths": LENGTHS, "query_lengths": LENGTHS}


def forward_and_backward() -> None:
    LAYER(X, X, X, mask=MASK, bias=BIAS, key_lengths=LENGTHS, need_weights=True)
    LAYER.backward(X)


def fails(call: Callable[[], Any]) -> Callable[[], None]:
    def failing() -> None:
        with pytest.raises((TypeError, ValueError)):
            call()

    return failing


WORKING: dict[str, Callable[[], Any]] = {
    "forward": lambda: swiftattn.attention(Q, Q, Q, **OPTIONS, return_lse=True),
    "forward into out": lambda: swiftattn.attention(Q, Q, Q, out=OUT),
    "forward of copies": lambda: swiftattn.attention(MISALIGNED, MISALIGNED, MISALIGNED),
    "forward of tensors": lambda: swiftattn.attention(TENSOR, TENSOR, TENSOR),
    "backward": lambda: swiftattn.attention_backward(Q, Q, Q, Q, OUT, LSE, **OPTIONS),
    "backward for the key": lambda: swiftattn.attention_backward(Q, Q, Q, Q, OUT, LSE, needs=("key",)),
    "layer": forward_and_backward,
    "names": lambda: swiftattn.show_config("dicts"),
}
FAILING: dict[str, Callable[[], Any]] = {
    "shape": lambda: swiftattn.attention(Q, Q, Q[:, :, :3], **OPTIONS),
    "dtype": lambda: swiftattn.attention(Q, Q, SWAPPED),
    "option": lambda: swiftattn.attention(Q, Q, Q, mask=MASK, layout="DSHB"),
    "overlap": lambda: swiftattn.attention(Q, Q, Q, out=Q),
    "misaligned out": lambda: swiftattn.attention(Q, Q, Q, out=MISALIGNED),
    "gradient": lambda: swiftattn.attention_backward(Q, Q, Q, Q, OUT, LSE, needs=("dropout",)),
    "layer": lambda: LAYER(X, X[:, :, :3], mask=MASK),
    "isa": lambda: swiftattn.set_isa("none"),
}
CASES = [pytest.param(call, id=name) for name, call in WORKING.items()]
CASES += [pytest.param(fails(call), id=f"wrong {name}") for name, call in FAILING.items()]


def references() -> list[int]:
    given = (Q, OUT, LSE, MISALIGNED, SWAPPED, MASK, BIAS, LENGTHS, X, TENSOR, LAYER._saved)
    return [sys.getrefcount(one) for one in given]


def memory_after(call: Callable[[], Any]) -> int:
    for _ in range(CALLS):
        call()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("call", CASES)
def test_calls_leave_nothing_behind(call: Callable[[], Any]) -> None:
    tracemalloc.start()
    try:
        memory_after(call)
        before = references()
        memory = [memory_after(call) for _ in range(ROUNDS)]
    finally:
        tracemalloc.stop()
    assert references() == before
    # Python's own free lists grow at first; what every call leaves behind grows in every round.
    assert min(np.diff(memory)) < CALLS * BYTES
