"""Child processes of Python's multiprocessing compute what their parent does, however and whenever started."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import swiftattn
from child_work import results, same_results
from helpers import rounds

# fork copies the process with its pool of threads; the others start a new one, which takes a while.
STARTS = (("fork", 10, 1000), ("spawn", 1, 100), ("forkserver", 2, 100))


@contextmanager
def caller(busy: bool) -> Iterator[None]:
    """A thread that is inside a call at most moments, if `busy`."""
    done = threading.Event()

    def keep_calling() -> None:
        while not done.is_set():
            results()

    thread = threading.Thread(target=keep_calling)
    if busy:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if busy:
            thread.join()


# Python itself warns of forks beside threads; that this library stands them is what is tested.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize(("method", "short", "long"), STARTS, ids=[start[0] for start in STARTS])
def test_a_child_computes_the_same(method: str, short: int, long: int, busy: bool) -> None:
    swiftattn.set_num_threads(3)
    expected = results()
    context = multiprocessing.get_context(method)
    with caller(busy):
        for _ in range(rounds(short, long)):
            child = context.Process(target=same_results, args=(expected,))
            child.start()
            child.join(300)
            alive = child.is_alive()
            child.kill()
            assert not alive, "the child hangs"
            assert child.exitcode == 0
    assert results() == expected


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_pool_of_processes_computes_the_same() -> None:
    expected = results()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        futures = [pool.apply_async(results) for _ in range(rounds(8))]
        assert {future.get(300) for future in futures} == {expected}
