"""No call, good or failing, leaves a reference or memory behind: every kind of call is made again and again."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from helpers import rounds
from leak_calls import Call, all_calls

PAGES_OF_NOISE = 256  # 1 MiB: what allocators keep for themselves now and then
# Not float64: NumPy 2.4 itself loses a reference to it in each np.zeros(n).
DTYPES = [np.dtype(name) for name in ("float32", "bool", "int64", "uint8", "float16", "object")]

Counts = dict[str, int]


def parts(value: Any) -> Iterator[Any]:
    """The value, and what is in it if it is a container."""
    yield value
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from value


def resident_pages() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


def counts(watched: list[Any]) -> Counts:
    """References to each object that is watched, Python's memory blocks, and pages.

    Not all references of a debug CPython: NumPy's wheels are none, and do not take part in that count. Nor blocks
    without a GIL: they are freed some time later.
    """
    found = {f"references to argument {index}": sys.getrefcount(value) for index, value in enumerate(watched)}
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        found["blocks"] = sys.getallocatedblocks()
    return found | {"pages": resident_pages()}


def growth(call: Call, watched: list[Any], repetitions: int) -> Counts:
    """How much each count grew over many calls, beyond what counting itself and caches explain."""
    before = counts(watched)
    for _ in range(repetitions):
        call.make()
    after = counts(watched)
    noise = {"pages": PAGES_OF_NOISE}
    return {name: by for name in after if (by := after[name] - before[name]) > noise.get(name, repetitions // 2)}


def leak(call: Call, repetitions: int) -> Counts:
    """What grows each time that `repetitions` calls are made: the least of five growths. Free lists fill once only."""
    watched = [*DTYPES, *(part for value in call.arguments.values() for part in parts(value))]
    found = growth(call, watched, repetitions)
    for _ in range(4):
        if not found:
            break
        again = growth(call, watched, repetitions)
        found = {name: min(by, again[name]) for name, by in found.items() if name in again}
    return found


@pytest.mark.parametrize("fails", [False, True], ids=["good", "failing"])
def test_calls_leave_nothing_behind(fails: bool) -> None:
    repetitions = rounds(100, 1000 if fails else 10000)
    made = [call for call in all_calls() if (call.error is not None) == fails]
    leaks = {call.name: found for call in made if (found := leak(call, repetitions))}
    print(f"{len(made)} kinds of calls, {repetitions} of each")
    assert not leaks
