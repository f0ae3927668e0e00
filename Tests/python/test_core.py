"""The compiled module judges what only a broken package would pass it: an error, never a crash."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import swiftattn
from swiftattn import _core


@pytest.mark.parametrize("name", ["forward", "backward", "layer_forward", "layer_backward"])
def test_the_number_of_arguments_is_judged(name: str) -> None:
    with pytest.raises(TypeError, match="positional arguments wanted, 1 given"):
        getattr(_core, name)(None)


def layer_arguments() -> dict[str, Any]:
    """What the package passes to layer_forward, by name, for one layer in self-attention."""
    layer = swiftattn.MultiHeadAttention(8, 2, rope=swiftattn.Rope(), seed=0)
    x = np.ones((3, 8), np.float32)
    operands = {"query": x, "key": None, "value": None, "mask": None, "bias": None, "causal": False, "lengths": None}
    return {"parameters": layer._core_parameters, "geometry": layer._geometry, **operands}


WRONG = (
    ("parameters", [None] * 10, "parameters must be a tuple of 10"),
    ("parameters", (None,) * 9, "parameters must be a tuple of 10"),
    ("parameters", ("weights",) * 10, "parameter must be"),
    ("geometry", (2,), "function takes exactly 4 arguments"),
    ("geometry", (2, 2, False, (1,)), "function takes exactly 6 arguments"),
)


@pytest.mark.parametrize(("name", "wrong", "message"), WRONG)
def test_arguments_of_a_layer_are_judged(name: str, wrong: object, message: str) -> None:
    arguments = {**layer_arguments(), name: wrong}
    with pytest.raises(TypeError, match=message):
        _core.layer_forward(*arguments.values(), True, None, 0)


@pytest.mark.parametrize("saved", [None, np.zeros(64, np.uint8)], ids=["none", "small"])
def test_what_forward_saved_is_judged(saved: Any) -> None:
    arguments = layer_arguments()
    parameters = arguments["parameters"]
    with pytest.raises(TypeError, match="saved must be what layer_forward returned"):
        _core.layer_backward(*arguments.values(), saved, arguments["query"], parameters, False)


def test_a_result_beyond_memory_is_a_memory_error() -> None:
    q = np.broadcast_to(np.float32(1), (1 << 22, 1 << 22, 1, 4))  # out would have 2^48 bytes: more than addresses
    with pytest.raises(MemoryError):
        swiftattn.attention(q, q, q)


@pytest.mark.parametrize("count", [-(2**80), 2**80, -(2**31) - 1])
def test_a_number_of_threads_beyond_c_is_judged(count: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        swiftattn.set_num_threads(count)
