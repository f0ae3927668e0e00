#!/usr/bin/env python3
"""Checks that nothing stands out: at most 400 lines a file, 60 lines a function and 120 columns a line."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES, FUNCTION_LINES, LINE_COLUMNS = 400, 60, 120
# The first line of a function; formatted code closes it with a brace under that line's first character.
SWIFT_FUNCTION = re.compile(r"^( *)(?:[\w@()]+ )*(?:func|init)\b[^{}]*")
C_FUNCTION = re.compile(r"^()\w[^;={}]*\([^;{}]*")


def braced_functions(lines: list[str], start: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Yield the line number and the length of each function in Swift or C."""
    for number, line in enumerate(lines):
        found = start.match(line)
        if found and not line.rstrip().endswith((";", "}")):
            yield number + 1, braced_length(lines[number:], found[1])


def braced_length(lines: list[str], indent: str) -> int:
    """Return how many lines there are to the closing brace; 1 for a declaration without a body."""
    inside = (f"{indent} ", f"{indent}{{", f"{indent})", f"{indent}#")
    for count, line in enumerate(lines, start=1):
        if line.startswith(indent + "}"):
            return count
        if count > 1 and line.strip() and not line.startswith(inside):
            break
    return 1


def python_functions(text: str) -> Iterator[tuple[int, int]]:
    """Yield the line number and the length, docstring apart, of each function in Python."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            docstring = ast.get_docstring(node, clean=False)
            yield node.lineno, length - (len(docstring.splitlines()) if docstring else 0)


def problems(file: Path) -> Iterator[str]:
    """Yield what stands out in one file, each as `file:line: what`."""
    text = file.read_text()
    lines = text.splitlines()
    if len(lines) > FILE_LINES:
        yield f"{file}: {len(lines)} lines, more than {FILE_LINES}"
    for number, line in enumerate(lines, start=1):
        if len(line) > LINE_COLUMNS:
            yield f"{file}:{number}: a line of {len(line)} columns, more than {LINE_COLUMNS}"
    if file.suffix == ".py":
        functions = python_functions(text)
    else:
        functions = braced_functions(lines, SWIFT_FUNCTION if file.suffix == ".swift" else C_FUNCTION)
    for number, length in functions:
        if length > FUNCTION_LINES:
            yield f"{file}:{number}: a function of {length} lines, more than {FUNCTION_LINES}"


def main() -> int:
    """Check the files named on the command line."""
    files = [Path(name) for name in sys.argv[1:]]
    found = [problem for file in files for problem in problems(file)]
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"check_sizes: {len(files)} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
