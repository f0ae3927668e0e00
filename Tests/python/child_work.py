"""What the child processes of the tests run; a module of its own, because a spawned child imports it."""

from __future__ import annotations

import numpy as np

import swiftattn


def results() -> bytes:
    """The bytes of all results of a call of attention and of a layer, forward and backward, the same at each call."""
    random = np.random.default_rng(0)
    q, k, v = random.standard_normal((3, 1, 8, 200, 32), dtype=np.float32)
    out, vjp = swiftattn.attention_vjp(q, k, v, causal=True)
    layer = swiftattn.MultiHeadAttention(64, 4, rope=swiftattn.Rope(), seed=0)
    layer_out = layer(random.standard_normal((2, 100, 64), dtype=np.float32))
    arrays = [out, *vjp(out)[:3], layer_out, layer.backward(layer_out).query, *layer.grads.values()]
    return b"".join(array.tobytes() for array in arrays)


def same_results(expected: bytes) -> None:
    """Fail unless several threads and one compute what the parent did."""
    for threads in (3, 1):
        swiftattn.set_num_threads(threads)
        assert results() == expected
