#!/usr/bin/env python3
"""Breaks the code in one small way after the other, and reports which test notices: all breaks must be noticed.

Works on a copy of the tree in build/mutants, whose builds are kept, so the tree itself is never changed. A mutant goes
through the stages that its file can matter to, and is killed by the first test that fails, crashes or hangs. One that
does not apply or does not compile is an error of the list in mutations.py, not a kill.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from copied_tree import PYTHON, CopiedTree, Run
from mutations import MUTATIONS, Mutation

TREE = CopiedTree("mutants")
LIBRARY = TREE.path / ".build-embedded" / "release" / "libswiftattn.so"
PROGRAMS = TREE.path / "build" / "cabi"
# Those that find most come first.
PROGRAM_NAMES = ["errors", "parity", "layer_errors", "layer", "cpp", "control", "environment", "allocation", "threads"]
PROGRAM_NAMES += ["fork", "float_environment", "allocator", "pool_start", "thread_limits"]
QUICK_PYTHON = ["errors", "views", "core", "layer_errors", "layer_state", "layer", "layer_frozen", "edges"]


class Test(NamedTuple):
    """A command that fails where something is wrong, and how to find out what in what it printed."""

    name: str
    command: tuple[str | Path, ...]
    complaint: re.Pattern[str]
    seconds: int


class Stage(NamedTuple):
    """Tests that need the same build."""

    build: Callable[[], Run]
    tests: tuple[Test, ...]
    about: tuple[str, ...]
    """How the names of the files begin whose mutants go through it."""


class Verdict(NamedTuple):
    """What became of a mutant."""

    name: str
    outcome: str
    detail: str


def build_library() -> Run:
    """Build the library and, the first time in a run, the C programs, which find it through a link."""
    library = ("-c", "release", "--traits", "Embedded", "--product", "swiftattn", "--scratch-path", ".build-embedded")
    built = TREE.run("swift", "build", *library)
    if not built.passed or all((PROGRAMS / f"test_{name}").exists() for name in PROGRAM_NAMES):
        return built
    folders = (f"LIBRARY_DIR={LIBRARY.parent}", f"OUT={PROGRAMS}")
    return TREE.run("make", "-C", "Tests/CABI", *folders, "all")


def build_extension() -> Run:
    """Put the library and the extension into the package."""
    prebuilt = {"SWIFTATTN_PREBUILT": str(LIBRARY)}
    return TREE.run(PYTHON, "setup.py", "--quiet", "build_ext", "--inplace", environment=prebuilt)


def build_swift_tests() -> Run:
    """Build what `swift test` runs."""
    return TREE.run("swift", "build", "--build-tests")


def stages() -> tuple[Stage, ...]:
    """All stages, the quick ones first."""
    programs = tuple(
        Test(f"test_{name}", (PROGRAMS / f"test_{name}",), re.compile(r"^.*: (.+)$", re.MULTILINE), 300)
        for name in PROGRAM_NAMES
    )
    pytest = (PYTHON, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
    failed = re.compile(r"^(?:FAILED|ERROR) Tests/python/(\S+)", re.MULTILINE)
    quick = tuple(f"Tests/python/test_{name}.py" for name in QUICK_PYTHON)
    others = ("Tests/python", "--ignore-glob=*/test_example_*", *(f"--ignore={file}" for file in quick))
    python = (Test("pytest", (*pytest, *quick), failed, 900), Test("pytest", (*pytest, *others), failed, 1200))
    swift = Test(
        "swift test",
        ("swift", "test", "--skip-build", "--disable-xctest"),
        re.compile(r'✘ Test "?(.+?)"? (?:with \d+ test cases )?(?:recorded|failed)'),
        1200,
    )
    return (
        Stage(build_library, programs, ("Sources/",)),
        Stage(build_extension, python, ("Sources/", "python/")),
        Stage(build_swift_tests, (swift,), ("Sources/",)),
    )


def try_stages(name: str, file: str) -> Verdict:
    """Run the stages that the file matters to, up to the first test that fails."""
    for stage in stages():
        if not file.startswith(stage.about):
            continue
        built = stage.build()
        if not built.passed:
            errors = re.findall(r"error: .*", built.text) or built.text.splitlines()[-1:]
            return Verdict(name, "error", f"does not compile: {errors[0] if errors else ''}")
        for test in stage.tests:
            result = TREE.run(*test.command, seconds=test.seconds)
            if result.hung:
                return Verdict(name, "killed", f"{test.name}, which hangs")
            if not result.passed:
                found = test.complaint.search(result.text)
                last = (result.text.splitlines() or [""])[-1]
                return Verdict(name, "killed", f"{test.name}: {found[1] if found else f'ends with: {last}'}")
    return Verdict(name, "survived", "")


def try_mutation(mutation: Mutation) -> Verdict:
    """Apply a mutation, judge it, and take it back."""
    file = TREE.path / mutation.file
    text = file.read_text()
    count = text.count(mutation.old)
    if count != 1:
        return Verdict(mutation.name, "error", f"{mutation.file} has the old text {count} times")
    file.write_text(text.replace(mutation.old, mutation.new))
    try:
        return try_stages(mutation.name, mutation.file)
    finally:
        file.write_text(text)


def main() -> int:
    """Judge the mutants whose names match."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression that the names of mutants must match")
    only = re.compile(parser.parse_args().only)
    wanted = [mutation for mutation in MUTATIONS if only.search(mutation.name)]
    os.nice(19)
    TREE.update()
    # Not those of a tree whose tests were others.
    shutil.rmtree(PROGRAMS, ignore_errors=True)
    print("mutants: the tests without a mutation", flush=True)
    whole = try_stages("no mutation", "Sources/")
    if whole.outcome != "survived":
        print(f"mutants: without a mutation: {whole.outcome}: {whole.detail}", file=sys.stderr)
        return 1
    verdicts = []
    for mutation in wanted:
        start = time.monotonic()
        verdict = try_mutation(mutation)
        verdicts.append(verdict)
        line = f"{verdict.outcome:8}  {verdict.name:32}  {time.monotonic() - start:4.0f} s  {verdict.detail[:160]}"
        print(line if verdict.outcome == "killed" else f"{line} ({mutation.breaks})", flush=True)
    counts = {outcome: sum(v.outcome == outcome for v in verdicts) for outcome in ("killed", "survived", "error")}
    print(f"mutants: {len(verdicts)}, " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return 0 if verdicts and counts["killed"] == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
