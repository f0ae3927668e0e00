"""What a mutation is."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """One small way to break the code."""

    name: str
    breaks: str
    file: str
    old: str
    """Stands exactly once in the file."""
    new: str
