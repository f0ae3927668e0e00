"""Ctrl-C during long calls, what it leaves behind, and the end of the interpreter while a thread is in a call."""

from __future__ import annotations

import pytest

from helpers import output_of

# Ctrl-C after 0.3 s of a call that takes seconds, until one was answered in time. Where other processes have the
# processor, the time that all threads computed meanwhile counts. `once` makes what a call takes; `check` looks at what
# it left.
CTRL_C = """
import copy
import os
import signal
import threading
import time
import numpy as np
import swiftattn

# Programs that a shell starts in the background ignore SIGINT, and their children do.
signal.signal(signal.SIGINT, signal.default_int_handler)
swiftattn.set_num_threads({threads})


def results(layer):
    layer.zero_grad()
    x = np.ones((1, 8, layer.embed_dim), np.float32)
    out = layer(x)
    return [out, layer.backward(out).query, *layer.grads.values()]


def no_call(layer):
    try:
        layer.backward(x)
    except RuntimeError:
        return True


{once}
for _ in range(8):
    sent = []

    def press() -> None:
        sent.append((time.monotonic(), time.process_time()))
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.3, press)
    started = time.monotonic()
    timer.start()
    try:
        {call}
        raise SystemExit("was not interrupted")
    except KeyboardInterrupt:
        delay, work = time.monotonic() - sent[0][0], time.process_time() - sent[0][1]
    timer.join()
    assert sent[0][0] - started < 5, "the other thread could not press: the call kept the GIL"
    {check}
    if delay < 0.2 or (delay < 20 and work < 0.2 * {threads}):
        print("in time")
        break
"""

ATTENTION = """
LENGTH = 131072
q = np.zeros((1, LENGTH, 64), np.float32)
lse = np.zeros((1, LENGTH), np.float32)
memory = np.full((LENGTH + 2, 64), 7, np.float32)
small = np.ones((4, 8), np.float32)
"""
AFTER_ATTENTION = "assert (swiftattn.attention(small, small, small) == 1).all() and (memory[[0, -1]] == 7).all()"

# Nearly all the time is the attention's; with one key only, the products'. The lengths are changed after forward, which
# only makes backward's results meaningless, so that forward takes little time.
LAYER = """
layer = swiftattn.MultiHeadAttention({width}, 1, seed=0)
fresh = copy.deepcopy(layer)
x = np.ones((1, {length}, {width}), np.float32)
lengths = np.array([1])
"""
LONG_ATTENTION = LAYER.format(width=64, length=131072)
LONG_PRODUCTS = LAYER.format(width=1024, length=16384)
LAYER_FORWARD = "layer(x, key_lengths=lengths)"
AFTER_LAYER_FORWARD = "assert no_call(layer)"
SAME = "assert all(a.tobytes() == b.tobytes() for a, b in zip(results(layer), results(fresh)))"

BESIDE = """
thread = threading.Thread(target=lambda: swiftattn.attention(q, q, q), daemon=True)
thread.start()
"""

# The sequence that another thread gets has more keys, all in the same memory, than there is time for; the caller's is
# short.
UNEVEN = """
rows = np.ones((2, 1, 1, 64), np.float32)
keys = np.broadcast_to(np.ones(64, np.float32), (2, 1, 2**38, 64))
lengths = np.array([2**20, 2**38])
small = np.ones((4, 8), np.float32)
"""

# A single query: what keys, values and their widths cost counts too.
WIDE_VALUES = """
q = np.ones((1, 1), np.float32)
keys = np.broadcast_to(np.float32(1), (131072, 1))
values = np.broadcast_to(np.ones(400000, np.float32), (131072, 400000))
small = np.ones((4, 8), np.float32)
"""
LONG_MEMORY = """
layer = swiftattn.MultiHeadAttention(64, 1, kdim=65536, vdim=65536, seed=0)
x = np.ones((1, 1, 64), np.float32)
memory = np.broadcast_to(np.ones(65536, np.float32), (1, 80000, 65536))
"""

CALLS = {
    "attention": (ATTENTION, "swiftattn.attention(q, q, q, out=memory[None, 1:-1])", AFTER_ATTENTION),
    "attention_backward": (ATTENTION, "swiftattn.attention_backward(q, q, q, q, q, lse)", AFTER_ATTENTION),
    "layer": (f"{LONG_ATTENTION}lengths[0] = 131072", LAYER_FORWARD, f"{AFTER_LAYER_FORWARD}; {SAME}"),
    "layer's products": (LONG_PRODUCTS, LAYER_FORWARD, f"{AFTER_LAYER_FORWARD}; {SAME}"),
    "layer.backward": (f"{LONG_ATTENTION}{LAYER_FORWARD}\nlengths[0] = 131072", "layer.backward(x)", ""),
    "layer.backward's products": (f"{LONG_PRODUCTS}{LAYER_FORWARD}", "layer.backward(x)", ""),
    "attention of wide values": (
        WIDE_VALUES,
        "swiftattn.attention(q, keys, values)",
        "assert (swiftattn.attention(small, small, small) == 1).all()",
    ),
    "layer of one query": (LONG_MEMORY, "layer(x, memory)", "assert no_call(layer)"),
    "attention that waits": (
        UNEVEN,
        "swiftattn.attention(rows, keys, keys, key_lengths=lengths)",
        "assert (swiftattn.attention(small, small, small) == 1).all()",
    ),
    "attention in another thread": (ATTENTION + BESIDE, "thread.join()", AFTER_ATTENTION),
}


@pytest.mark.parametrize(
    ("name", "threads"),
    [("attention", 1), ("attention_backward", 1), ("layer", 1), *((name, 2) for name in CALLS)],
)
def test_ctrl_c_ends_a_long_call_within_a_fifth_of_a_second(name: str, threads: int) -> None:
    once, call, check = CALLS[name]
    program = CTRL_C.replace("{threads}", str(threads)).replace("{once}", once).replace("{call}", call)
    # A backward pass that was interrupted may be called again; when all is done, the layer is as good as a new one.
    after = SAME if name.startswith("layer.backward") else ""
    assert output_of(f"{program.replace('{check}', check)}\n{after}") == "in time\n"


EXIT = """
import mmap
import os
import sys
import threading
import time
import numpy as np
import swiftattn

LENGTH = {length}
memory = mmap.mmap(-1, LENGTH * 64 * 4)
out = np.frombuffer(memory, np.float32).reshape(1, LENGTH, 64)
q = np.ones((1, LENGTH, 64), np.float32)
swiftattn.set_num_threads(2)


class AtTheEnd:
    \"\"\"Deleted when the interpreter has begun to end: waits until the call beside it is done.\"\"\"

    def __del__(self, memory=memory, clock=time.monotonic, sleep=time.sleep, write=os.write) -> None:
        deadline, unwritten = clock() + 60, bytes(256)  # globals may be gone
        while any(memory[start : start + 256] == unwritten for start in range(0, len(memory), 4096)):
            if clock() > deadline:
                return
            sleep(0.01)
        write(1, b"the call was done\\n")


thread = threading.Thread(target=lambda: swiftattn.attention(q, q, q, out=out), daemon=True)
thread.start()
sys.at_the_end = AtTheEnd()
"""


def test_the_interpreter_may_end_while_a_thread_is_in_a_call() -> None:
    assert output_of(EXIT.replace("{length}", "16384")) == "the call was done\n"
