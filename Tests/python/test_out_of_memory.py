"""Where there is no memory, the exception is MemoryError, and the next call works."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Array
from swiftattn import _core

# Results here have 2^48 bytes, more than a process has addresses; their inputs are one number each.
ONE = np.float32(1)
X = np.random.default_rng(0).standard_normal((3, 8), np.float32)


def broadcast(*shape: int) -> Array:
    return np.broadcast_to(ONE, shape)


def cannot_allocate(*shape: int, dtype: str = "float32") -> Any:
    """NumPy's exception for an array of this shape."""
    return pytest.raises(MemoryError, match=re.escape(f"array with shape {shape} and data type {dtype}"))


def test_no_memory_for_out() -> None:
    q = broadcast(1 << 22, 1 << 22, 1, 4)
    with cannot_allocate(*q.shape):
        swiftattn.attention(q, q, q)


def test_no_memory_for_lse() -> None:
    q = broadcast(1 << 23, 1 << 23, 1, 1)
    v = np.broadcast_to(np.empty(0, np.float32), (1 << 23, 1 << 23, 1, 0))  # so that out has no bytes
    with cannot_allocate(*q.shape[:-1]):
        swiftattn.attention(q, q, v, return_lse=True)


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_no_memory_for_a_gradient(name: swiftattn.GradientName) -> None:
    huge = broadcast(1 << 22, 1 << 22, 1, 4)
    with cannot_allocate(*huge.shape):
        swiftattn.attention_backward(huge, huge, huge, huge, huge, huge[..., 0], needs=(name,))


@pytest.mark.parametrize("name", ["query", "key", "value", "bias", "key_lengths", "query_lengths"])
def test_no_memory_for_an_aligned_copy(name: str) -> None:
    dtype = np.int64 if name.endswith("lengths") else np.float32
    number = np.zeros(9, np.uint8)[1:].view(dtype)[:1]
    assert not number.flags.aligned
    copied = np.broadcast_to(number, (1 << 46, 1))
    options: dict[str, Any] = {"query": X, "key": X, "value": X, name: copied}
    q, k, v = (options.pop(operand) for operand in ("query", "key", "value"))
    with cannot_allocate(*copied.shape, dtype=dtype.__name__):
        swiftattn.attention(q, k, v, **options)


def make_layer() -> swiftattn.MultiHeadAttention:
    return swiftattn.MultiHeadAttention(8, 2, seed=0)


def test_no_memory_for_out_of_a_layer() -> None:
    query = broadcast(1 << 22, 1 << 21, 8)
    with swiftattn.no_grad(), cannot_allocate(*query.shape):
        make_layer()(query)


@pytest.mark.parametrize("average", [True, False])
def test_no_memory_for_weights(average: bool) -> None:
    key = broadcast(1 << 36, 8)
    shape = (1 << 10, 1 << 36) if average else (2, 1 << 10, 1 << 36)
    with swiftattn.no_grad(), cannot_allocate(*shape):
        make_layer()(broadcast(1 << 10, 8), key, need_weights=True, average_weights=average)


def test_no_memory_for_what_backward_needs() -> None:
    with pytest.raises(MemoryError, match=r"array with shape \(\d+,\) and data type uint8"):
        make_layer()(broadcast(1 << 22, 1 << 21, 8))
    with pytest.raises(MemoryError, match="the layer's memory is more than can be addressed"):
        swiftattn.MultiHeadAttention(1, 1, head_dim=1 << 14)(broadcast(1 << 26, 1 << 20, 1))


@pytest.mark.parametrize("name", ["query", "key", "value", "bias"])
def test_no_memory_for_gradients_of_a_layers_inputs(name: str) -> None:
    layer = make_layer()
    parameters, gradients = layer._core_parameters, layer._core_gradients
    huge = broadcast(1 << 43, 8)
    inputs: dict[str, Any] = {"query": X, "key": X, "value": X, "mask": None, "bias": X[:, :3], name: huge}
    saved = np.zeros(4096, np.uint8)
    with cannot_allocate(*huge.shape):
        _core.layer_backward(parameters, layer._geometry, *inputs.values(), False, None, saved, X, gradients, True)
    assert not any(gradient.any() for gradient in layer.grads.values())


def test_no_memory_for_packed_weights() -> None:
    huge = broadcast(1 << 22, 1 << 22)
    with pytest.raises(MemoryError, match=r"array with shape \(\d+,\) and data type uint8"):
        _core.layer_pack((huge,) * 4 + (None,) * 6)


class Allocator(ctypes.Structure):
    """swiftattn_allocator, which has no memory."""

    ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
    DEALLOCATE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("context", ctypes.c_void_p),
        ("allocate", ALLOCATE),
        ("deallocate", DEALLOCATE),
    )

    def __init__(self) -> None:
        self.refused: list[int] = []
        self.given_back: list[int] = []
        super().__init__(
            ctypes.sizeof(Allocator), None, self.ALLOCATE(self._allocate), self.DEALLOCATE(self._deallocate)
        )

    def _allocate(self, _context: int, size: int, _alignment: int) -> None:
        self.refused.append(size)

    def _deallocate(self, _context: int, _memory: int, size: int) -> None:
        self.given_back.append(size)


@contextmanager
def no_memory() -> Iterator[None]:
    """The library has no memory, not even what it kept; this thread has to see that, so it computes alone."""
    library = ctypes.CDLL(swiftattn.get_library())  # the one that the module uses: it is loaded once only
    allocator = Allocator()
    swiftattn.set_num_threads(1)
    library.swiftattn_release_memory()
    assert library.swiftattn_set_allocator(ctypes.byref(allocator)) == 0
    try:
        yield
    finally:
        library.swiftattn_set_allocator(None)
    assert allocator.refused
    assert not allocator.given_back


def test_no_memory_for_the_library() -> None:
    out, lse = swiftattn.attention(X, X, X, return_lse=True)
    layer = make_layer()
    layer_out = layer(X)
    with no_memory(), pytest.raises(MemoryError, match="there was no memory for the workspace"):
        swiftattn.attention(X, X, X)
    with no_memory(), pytest.raises(MemoryError, match="there was no memory for the workspace"):
        swiftattn.attention_backward(X, X, X, X, out, lse)
    with no_memory(), pytest.raises(MemoryError, match="there was no memory"):
        layer.backward(X)
    with no_memory(), pytest.raises(MemoryError, match="there was no memory"):
        make_layer()(X)
    frozen = make_layer()
    with no_memory(), pytest.raises(MemoryError, match="there was no memory for the workspace"):
        frozen.freeze()
    assert not frozen.frozen
    assert all(array.flags.writeable for array in frozen.parameters.values())
    np.testing.assert_array_equal(swiftattn.attention(X, X, X), out)
    np.testing.assert_array_equal(make_layer()(X), layer_out)
    assert np.isfinite(layer.backward(X).query).all()
