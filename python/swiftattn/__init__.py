"""Exact multi-head attention for CPUs, forward and backward, on NumPy arrays.

    >>> import numpy as np, swiftattn
    >>> q = k = v = np.ones((2, 4, 16, 8), np.float32)  # batch, heads, sequence, head dim
    >>> swiftattn.attention(q, k, v, causal=True).shape
    (2, 4, 16, 8)

`attention` computes, `attention_backward` differentiates, and `attention_vjp` does the one and returns a function for
the other. `MultiHeadAttention` is a layer with the projections around attention, as torch.nn.MultiheadAttention has
them; `convert` turns the weights of other models into its own. `reference` and `reference_layer` have the same in plain
NumPy. The environment variables SWIFTATTN_NUM_THREADS and SWIFTATTN_ISA set the number of threads and the instruction
set; `python -m swiftattn` shows and tests an installation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._attention import attention, attention_backward, attention_vjp
from ._core import version as _version
from ._gradients import AttentionGradients, LayerInputGradients
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
    from . import convert as convert
    from . import reference as reference
    from . import reference_layer as reference_layer
    from ._gradient_mode import no_grad as no_grad
    from ._layer import MultiHeadAttention as MultiHeadAttention
    from ._layer_config import Rope as Rope
    from ._layer_parameters import IncompatibleKeys as IncompatibleKeys

__version__ = _version()

__all__ = [
    "AttentionGradients",
    "IncompatibleKeys",
    "LayerInputGradients",
    "MultiHeadAttention",
    "Rope",
    "__version__",
    "attention",
    "attention_backward",
    "attention_vjp",
    "available_isas",
    "convert",
    "get_include",
    "get_isa",
    "get_library",
    "get_num_threads",
    "no_grad",
    "reference",
    "reference_layer",
    "set_isa",
    "set_num_threads",
    "show_config",
]

# What not every program needs, and where it is; only the first use pays for importing it.
_LAZY = {
    "IncompatibleKeys": "_layer_parameters",
    "MultiHeadAttention": "_layer",
    "Rope": "_layer_config",
    "convert": "convert",
    "no_grad": "_gradient_mode",
    "reference": "reference",
    "reference_layer": "reference_layer",
}


if not TYPE_CHECKING:  # type checkers find misspelt names

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(f".{_LAZY[name]}", __name__)
        # The import has made a submodule an attribute of this module already.
        return globals().setdefault(name, getattr(module, name, module))


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
