"""The lines that no test reaches, and why none has to."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

Key = tuple[str, str]


class Uncovered(NamedTuple):
    """A line that was not reached. Its number does not identify it, because that changes with every edit above it."""

    file: str
    text: str
    number: int

    @property
    def key(self) -> Key:
        """What the line is found by in uncovered.txt."""
        return self.file, self.text


class Reason(NamedTuple):
    """Why a line need not be reached."""

    file: str
    text: str
    why: str
    depends_on_machine: bool
    """Whether some machine's tests reach it."""


def read_reasons(path: Path) -> dict[Key, Reason]:
    """Read a file of `FILE: why` lines, each before the lines that it is about.

    These begin with `|` or, if the tests on some other machine do reach them, with `?`.
    """
    reasons: dict[Key, Reason] = {}
    file = why = ""
    for line in path.read_text().splitlines():
        if line.startswith(("|", "?")):
            text = line[1:].strip()
            reasons[file, text] = Reason(file, text, why, line.startswith("?"))
        elif line and not line.startswith("#"):
            file, _, why = line.partition(": ")
    return reasons
