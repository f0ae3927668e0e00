"""What the benchmark asks of another implementation.

A peer prepares a case and returns two functions: what is timed (it returns when the result is complete, in the peer's
own containers), and one that turns that result into a NumPy array for comparison with our out, (B, H, Sq, D) for the
operator and (B, S, E) for the layer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from cases import Array, Case, Inputs, LayerInputs

Prepared = tuple[Callable[[], Any], Callable[[Any], Array]]


class Peer:
    """One other implementation."""

    name: str
    modules: tuple[str, ...]

    def __init__(self) -> None:
        """Raises ImportError where the peer is not installed."""
        self.imported = [importlib.import_module(module) for module in self.modules]

    def version(self) -> str:
        """The version in use, without what a build appends to it."""
        return f"{self.name} {self.imported[0].__version__.partition('-')[0]}"

    def supports(self, case: Case) -> bool:
        """Whether it can run the case as users would."""
        raise NotImplementedError

    def prepare(self, case: Case, inputs: Inputs | LayerInputs) -> Prepared:
        """Does all that a user does once; the timed function does the rest."""
        if isinstance(inputs, LayerInputs):
            return self.prepare_layer(case, inputs)
        return self.prepare_attention(case, inputs)

    def prepare_attention(self, case: Case, inputs: Inputs) -> Prepared:
        """The same for a case of the operator."""
        raise NotImplementedError

    def prepare_layer(self, case: Case, inputs: LayerInputs) -> Prepared:
        """The same for a case of the layer."""
        raise NotImplementedError
