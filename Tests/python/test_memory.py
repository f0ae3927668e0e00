"""Memory grows with the length of the sequences, not with its square: the peak of a new process shows it."""

from __future__ import annotations

import pytest

from helpers import output_of

# One head of float32: q, k, v and the rest are 1 MiB each, and the scores would be 1 GiB.
PROGRAM = """
import numpy as np
import swiftattn

LENGTH, DIM = 16384, 16


def peak() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


rng = np.random.default_rng(0)
arrays = [rng.standard_normal((1, LENGTH, DIM), dtype=np.float32) for _ in range(4)]
swiftattn.set_num_threads(2)
for length in (64, LENGTH):  # the first makes the threads and whatever else is made once
    q, k, v, dout = (array[:, :length] for array in arrays)
    options = {options}
    before = peak()
    out, lse = swiftattn.attention(q, k, v, return_lse=True, **options)
    forward = peak() - before
    gradients = swiftattn.attention_backward(dout, q, k, v, out, lse, **options)
    both = peak() - before
assert np.isfinite(out).all() and np.isfinite(gradients.key).all()
print(forward, both)
"""

MIB = 2**20


@pytest.mark.parametrize(
    "options",
    [
        "{}",
        "{'causal': True, 'key_lengths': length - 10}",
        "{'bias': rng.standard_normal((1, 1, 1), dtype=np.float32), 'mask': np.ones((1, 1), bool)}",
    ],
)
def test_peak_is_a_few_arrays(options: str) -> None:
    forward, both = map(int, output_of(PROGRAM.replace("{options}", options)).split())
    # Forward: out, lse, 2 MiB of workspace for each of two threads. Backward: the gradients and some arrays like q.
    assert forward < 8 * MIB
    assert both < 24 * MIB
