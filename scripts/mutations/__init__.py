"""The list of scripts/mutants.py, by the part of the code that is broken."""

from __future__ import annotations

from .kernels import KERNELS
from .layer import LAYER
from .mutation import Mutation
from .passes import PASSES
from .surfaces import SURFACES

__all__ = ["MUTATIONS", "Mutation"]

MUTATIONS = (*KERNELS, *PASSES, *LAYER, *SURFACES)
