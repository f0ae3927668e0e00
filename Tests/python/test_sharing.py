"""What threads may share, above all where there is no GIL, and what other interpreters of the process may not."""

from __future__ import annotations

import copy
import sys
import sysconfig
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import swiftattn
from cases import Array
from helpers import output_of, rounds

THREADS = 8
# Small ones keep the GIL where there is one.
LENGTHS = (3, 50, 120)


def at_once(work: Callable[[int], None]) -> None:
    """Call `work` with 0 ... 7 in eight threads that start together."""
    start = threading.Barrier(THREADS, timeout=60)

    def started(index: int) -> None:
        start.wait()
        work(index)

    with ThreadPoolExecutor(THREADS) as executor:
        for future in [executor.submit(started, index) for index in range(THREADS)]:
            future.result(timeout=600)


def tokens(length: int) -> Array:
    return np.random.default_rng(length).standard_normal((2, length, 64), dtype=np.float32)


def make_layer() -> swiftattn.MultiHeadAttention:
    return swiftattn.MultiHeadAttention(64, 4, num_kv_heads=2, rope=swiftattn.Rope(), add_bias_kv=True, seed=0)


def test_importing_leaves_the_gil_off() -> None:
    # With a GIL there is nothing to leave off; `make test-free-threaded` makes sure that there is none.
    assert not sysconfig.get_config_var("Py_GIL_DISABLED") or not sys._is_gil_enabled()  # type: ignore[attr-defined]


def test_threads_share_a_layer_and_its_arrays_without_gradients() -> None:
    layer, inputs = make_layer(), [tokens(length) for length in LENGTHS]
    expected = [layer(x).tobytes() for x in inputs]

    def work(index: int) -> None:
        with swiftattn.no_grad():
            for round_ in range(rounds(50)):
                which = (index + round_) % len(inputs)
                assert layer(inputs[which]).tobytes() == expected[which]

    at_once(work)


def results(layer: swiftattn.MultiHeadAttention, x: Array) -> bytes:
    layer.zero_grad()
    out = layer(x)
    gradients = layer.backward(out)
    return b"".join(array.tobytes() for array in (out, gradients.query, *layer.grads.values()))


def test_threads_differentiate_copies_of_a_layer() -> None:
    original, inputs = make_layer(), [tokens(length) for length in LENGTHS]
    layers = [copy.deepcopy(original) for _ in range(THREADS)]
    expected = [results(original, x) for x in inputs]

    def work(index: int) -> None:
        for round_ in range(rounds(30)):
            which = (index + round_) % len(inputs)
            assert results(layers[index], inputs[which]) == expected[which]

    at_once(work)


def test_threads_share_operands_and_a_vjp() -> None:
    q = tokens(90)
    out, vjp = swiftattn.attention_vjp(q, q, q, causal=True)
    expected = [gradient.tobytes() for gradient in vjp(out)[:3]]

    def work(_: int) -> None:
        for _ in range(rounds(30)):
            assert swiftattn.attention(q, q, q, causal=True).tobytes() == out.tobytes()
            assert [gradient.tobytes() for gradient in vjp(out)[:3]] == expected

    at_once(work)


def test_a_layer_that_threads_differentiate_together_does_not_crash() -> None:
    """Against the rule: every thread needs a layer of its own. What comes out means nothing, but the process lives."""
    layer, inputs = make_layer(), [tokens(length) for length in LENGTHS]

    def work(index: int) -> None:
        for round_ in range(rounds(50)):
            x = inputs[(index + round_) % len(inputs)]
            layer(x)
            # Another thread's call has been differentiated, or is kept, of another shape.
            try:
                layer.backward(x)
            except (RuntimeError, ValueError, TypeError):
                continue

    at_once(work)
    layer = copy.deepcopy(layer)
    assert results(layer, inputs[0]) == results(make_layer(), inputs[0])


def test_a_list_of_names_may_change_while_it_is_read() -> None:
    q = tokens(3)
    out, lse = swiftattn.attention(q, q, q, return_lse=True)
    needs = ["query"]

    def work(index: int) -> None:
        for _ in range(rounds(300, 20000)):
            if index % 2:
                needs[:] = ["".join(["va", "lue"]) for _ in range(index)]
                needs[:] = []
            else:
                swiftattn.attention_backward(q, q, q, q, out, lse, needs=needs)  # type: ignore[arg-type]

    at_once(work)


# _core is tried without the package as well, which imports NumPy first.
INTERPRETERS = """
import os
import sys
import numpy as np
import swiftattn
from swiftattn import _core

try:
    import _interpreters as interpreters  # since 3.13
    run = interpreters.exec
except ImportError:
    import _xxsubinterpreters as interpreters
    run = interpreters.run_string

read, write = os.pipe()
for load in (
    "import swiftattn",
    "spec.loader.exec_module(importlib.util.module_from_spec(spec))",
):
    interpreter = interpreters.create()
    run(interpreter, f'''
import importlib.util
import os
import sys
sys.path[:] = {sys.path!r}
spec = importlib.util.spec_from_file_location("swiftattn._core", {_core.__file__!r})
try:
    {load}
except ImportError:
    os.write({write}, b"refused ")
''')
    interpreters.destroy(interpreter)
os.close(write)
x = np.ones((4, 8), np.float32)
assert (swiftattn.attention(x, x, x) == 1).all()
print(os.read(read, 100).decode())
"""


def test_other_interpreters_are_refused_and_the_first_goes_on() -> None:
    # CPython 3.10 does not know the module's declaration, and its last NumPy only warns.
    refused = "refused refused " if sys.version_info >= (3, 11) else ""
    assert output_of(INTERPRETERS) == f"{refused}\n"
