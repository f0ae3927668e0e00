"""Threads, instruction sets, and where the library lies."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, overload

from . import _core

if TYPE_CHECKING:
    from typing import TypeAlias

    Config: TypeAlias = dict[str, Any]

_DIRECTORY = os.path.dirname(os.path.abspath(__file__))


def get_num_threads() -> int:
    """Return how many threads a call may use, the calling thread included.

    The default is the environment variable SWIFTATTN_NUM_THREADS, else what CPU affinity and cgroup quota leave to the
    process; that is found out at the first call of the process, and a value that is not a whole number from 1 to 1024
    counts as none. Small calls use fewer, and so do calls while another call keeps the threads busy. Threads look for
    new work for 90 microseconds before they sleep, so calls that follow each other closely keep processors busy in
    between.
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use, in the whole process, for calls that start from now on.

    n: 1 to 1024; 0 returns to the default (see `get_num_threads`). Results are the same, to the bit, for every number.
    May be called from any thread at any time. Raises ValueError for other numbers and TypeError for other types.
    """
    _core.set_num_threads(n)


def available_isas() -> tuple[str, ...]:
    """Return the names of the instruction-set tiers that this build has and this processor can run, best first.

    A subset of ("avx512", "avx2", "baseline"), on AArch64 ("neon", "baseline"); "baseline" is always there.
    """
    return _core.available_isas()


def get_isa() -> str | None:
    """Return the name of the instruction-set tier in use.

    That is the one last set by `set_isa`, else the environment variable SWIFTATTN_ISA, else the best one available.
    None if SWIFTATTN_ISA names none that is available: computations then raise ValueError.
    """
    return _core.get_isa()


def set_isa(name: str | None) -> None:
    """Choose an instruction-set tier, in the whole process, for calls that start from now on.

    name: one of `available_isas()`, or None to return to the default (see `get_isa`). May be called from any thread at
    any time. Raises ValueError for a name that is unknown or that this processor does not support.
    """
    _core.set_isa(name)


def get_include() -> str:
    """Return the directory of the C header, swiftattn.h."""
    return os.path.join(_DIRECTORY, "include")


def get_library() -> str:
    """Return the path of the shared library, which C programs can link; its SONAME is libswiftattn.so.0."""
    return os.path.join(_DIRECTORY, "libswiftattn.so.0")


def _config() -> Config:
    return {
        "version": _core.version(),
        "library": get_library(),
        "include": get_include(),
        "num_threads": get_num_threads(),
        "isa": get_isa(),
        "available_isas": available_isas(),
        "kernels": _core.kernel_ids(),
    }


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> Config: ...
def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> Config | None:
    """Print the version, where the library and its header lie, threads, instruction sets and kernels.

    mode: "stdout" prints, "dicts" returns the same as a dict with the keys version, library, include, num_threads, isa,
    available_isas and kernels (the modes are numpy.show_config's). Raises ValueError for another mode.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f'mode must be "stdout" or "dicts", not {mode!r}')
    config = _config()
    if mode == "dicts":
        return config
    from textwrap import fill

    for key, value in config.items():
        text = ", ".join(value) if isinstance(value, tuple) else str(value)
        print(fill(f"{key + ':':16}{text}", 120, subsequent_indent=16 * " ", break_long_words=False))
    return None
