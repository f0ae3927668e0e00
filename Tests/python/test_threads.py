"""Many threads, fork, and the settings of the environment."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import swiftattn
from cases import Case, make_inputs
from helpers import assert_same_bits, ours, output_of, rounds, run_python


@pytest.mark.parametrize("pool_size", [1, 2, 5])
def test_eight_python_threads_at_once_get_their_own_results(pool_size: int) -> None:
    swiftattn.set_num_threads(pool_size)
    problems = [
        make_inputs(Case((97 + 10 * index, 200), (40, 24), (4, 2), bias="1HQK", causal="top_left"))
        for index in range(8)
    ]
    expected = [ours(problem) for problem in problems]
    start = threading.Barrier(8, timeout=60)

    def work(index: int) -> None:
        start.wait()
        for _ in range(rounds(10)):
            assert_same_bits(ours(problems[index]), expected[index])

    with ThreadPoolExecutor(8) as executor:
        for future in [executor.submit(work, index) for index in range(8)]:
            future.result(timeout=600)


def test_settings_may_change_while_calls_run() -> None:
    inputs = make_inputs(Case((130, 200), (40, 24), (4, 2)))
    expected = ours(inputs)
    done = threading.Event()

    def change() -> None:
        count = 0
        while not done.wait(0.001):
            swiftattn.set_num_threads(1 + count % 4)
            count += 1

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(rounds(100)):
            assert_same_bits(ours(inputs), expected)
    finally:
        done.set()
        changer.join()


FORK = """
import os
import signal
import sys
import numpy as np
import swiftattn

signal.alarm(60)  # a deadlock ends here, in the parent and, set again below, in the child
swiftattn.set_num_threads(3)
rng = np.random.default_rng(0)
q, k, v = rng.standard_normal((3, 1, 8, 300, 64), dtype=np.float32)


def compute() -> bytes:
    out, vjp = swiftattn.attention_vjp(q, k, v, causal=True)
    return b"".join([out.tobytes(), *(gradient.tobytes() for gradient in vjp(out)[:3])])


def child_agrees(expected: bytes, depth: int) -> bool:
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        agrees = compute() == expected and (depth == 0 or child_agrees(expected, depth - 1)) and compute() == expected
        os._exit(0 if agrees else 1)
    return os.waitpid(child, 0)[1] == 0


if {used_before}:
    compute()
    assert child_agrees(compute(), depth=1)
    assert child_agrees(compute(), depth=0)
else:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os.write(write, compute()[:1000])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 1000) == compute()[:1000]
print("done")
"""


@pytest.mark.parametrize("used_before", [True, False])
def test_fork_leaves_parent_and_child_working(used_before: bool) -> None:
    assert output_of(FORK.replace("{used_before}", str(used_before))) == "done\n"


def test_number_of_threads_is_what_was_set() -> None:
    default = swiftattn.get_num_threads()
    assert default >= 1
    for count in (1, 3, 1024):
        swiftattn.set_num_threads(count)
        assert swiftattn.get_num_threads() == count
    swiftattn.set_num_threads(0)
    assert swiftattn.get_num_threads() == default


def test_environment_sets_the_number_of_threads() -> None:
    program = "import swiftattn; print(swiftattn.get_num_threads())"
    assert output_of(program, SWIFTATTN_NUM_THREADS="3") == "3\n"
    assert output_of(f"import swiftattn; swiftattn.set_num_threads(2); {program}", SWIFTATTN_NUM_THREADS="3") == "2\n"


@pytest.mark.parametrize("name", swiftattn.available_isas())
def test_environment_chooses_the_instruction_set(name: str) -> None:
    program = "import swiftattn; print(swiftattn.get_isa()); swiftattn.set_isa(None); print(swiftattn.get_isa())"
    assert output_of(program, SWIFTATTN_ISA=name) == f"{name}\n{name}\n"


def test_best_instruction_set_is_the_default() -> None:
    assert output_of("import swiftattn; print(swiftattn.get_isa())", SWIFTATTN_ISA="") == (
        f"{swiftattn.available_isas()[0]}\n"
    )


@pytest.mark.parametrize("name", swiftattn.available_isas())
def test_instruction_set_is_what_was_set(name: str) -> None:
    swiftattn.set_isa(name)
    assert swiftattn.get_isa() == name


def test_unknown_instruction_set_in_the_environment_is_an_error_of_the_call() -> None:
    program = """
        import numpy as np, swiftattn
        assert swiftattn.get_isa() is None
        x = np.ones((4, 8), np.float32)
        swiftattn.attention(x, x, x)
    """
    finished = run_python(program, SWIFTATTN_ISA="mmx")
    assert finished.returncode == 1
    error = finished.stderr.splitlines()[-1]
    assert error.startswith("ValueError: ")
    assert "SWIFTATTN_ISA" in error
    assert "mmx" in error
