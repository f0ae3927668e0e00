"""Exact multi-head attention for CPUs, forward and backward, on NumPy arrays.

    >>> import numpy as np, swiftattn
    >>> q = k = v = np.ones((2, 4, 16, 8), np.float32)  # batch, heads, sequence, head dim
    >>> swiftattn.attention(q, k, v, causal=True).shape
    (2, 4, 16, 8)

`attention` computes, `attention_backward` differentiates, and `attention_vjp` does the one and returns a function for
the other. `swiftattn.reference` has the first two in plain NumPy. The environment variables SWIFTATTN_NUM_THREADS and
SWIFTATTN_ISA set the number of threads and the instruction set; `python -m swiftattn` shows and tests an installation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._attention import attention, attention_backward, attention_vjp
from ._core import version as _version
from ._gradients import AttentionGradients
from ._settings import (
    available_isas,
    get_include,
    get_isa,
    get_library,
    get_num_threads,
    set_isa,
    set_num_threads,
    show_config,
)

if TYPE_CHECKING:
    from types import ModuleType

    from . import reference as reference

__version__ = _version()

__all__ = [
    "AttentionGradients",
    "__version__",
    "attention",
    "attention_backward",
    "attention_vjp",
    "available_isas",
    "get_include",
    "get_isa",
    "get_library",
    "get_num_threads",
    "reference",
    "set_isa",
    "set_num_threads",
    "show_config",
]


def __getattr__(name: str) -> ModuleType:
    # Few programs need the reference, so that only its first use pays for importing it.
    if name == "reference":
        from importlib import import_module

        return import_module(".reference", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "reference"})
