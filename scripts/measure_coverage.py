#!/usr/bin/env python3
"""Runs all tests on instrumented builds, and prints which lines of Swift, C and Python they do not reach.

Works on a copy of the tree in build/coverage. The Swift sources are measured twice, in `swift test` and in the library
as the C programs and the Python tests use it; a line counts as reached when either reached it. Every line that is not
must stand with its reason in scripts/uncovered.txt; a line there that is reached, or is gone, is an error too.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import defaultdict
from pathlib import Path

from copied_tree import PYTHON, ROOT, CopiedTree
from uncovered import Uncovered, read_reasons

TREE = CopiedTree("coverage")
WORK = TREE.path.parent
TOOLCHAIN = Path(shutil.which("swift") or sys.exit("swift is not on PATH")).resolve().parent
LIBRARY = TREE.path / ".build-embedded" / "release" / "libswiftattn.so"
PACKAGE = TREE.path / "python" / "swiftattn"
PROGRAMS = TREE.path / "build" / "cabi"
# Where each language's sources are; what is measured elsewhere are tests.
FOLDERS = {"Swift": ("Sources/", ".swift"), "C": ("python/swiftattn/", ".c"), "Python": ("python/swiftattn/", ".py")}
INSTRUMENTED_SWIFT = ("-Xswiftc", "-profile-generate", "-Xswiftc", "-profile-coverage-mapping")
INSTRUMENTED_C = "-fprofile-instr-generate -fcoverage-mapping"

Lines = dict[str, dict[int, bool]]
"""Whether each line that could be reached was, by file and number."""


def run(what: str, *command: str | Path, **environment: str) -> None:
    """Run a command in the copy, and end everything if it fails."""
    print(f"coverage: {what}", flush=True)
    result = TREE.run(*command, environment=environment)
    if not result.passed:
        print(result.text[-5000:], file=sys.stderr)
        sys.exit(f"coverage: {what} failed")


def profiles(name: str) -> dict[str, str]:
    """The variable by which instrumented code learns where to write: a file for each process."""
    return {"LLVM_PROFILE_FILE": str(WORK / "raw" / f"{name}-%p.profraw")}


def measure_swift_tests() -> Lines:
    """Run the Swift tests."""
    run("swift test", "swift", "test", "--enable-code-coverage", "--disable-xctest")
    binary = next((TREE.path / ".build" / "debug").glob("*.xctest"))
    return exported(TREE.path / ".build" / "debug" / "codecov" / "default.profdata", binary)


def measure_library() -> tuple[Lines, Lines]:
    """Run the C programs and the Python tests; return the lines of Swift and C, and those of Python."""
    product = ("-c", "release", "--traits", "Embedded", "--product", "swiftattn", "--scratch-path", ".build-embedded")
    run("the library", "swift", "build", *product, *INSTRUMENTED_SWIFT)
    clang = {"CC": str(TOOLCHAIN / "clang"), "LDSHARED": f"{TOOLCHAIN / 'clang'} -shared", "CFLAGS": INSTRUMENTED_C}
    build = (PYTHON, "setup.py", "--quiet", "build_ext", "--inplace")
    run("the extension", *build, **clang, LDFLAGS=INSTRUMENTED_C, SWIFTATTN_PREBUILT=str(LIBRARY))
    programs = ("make", "-C", "Tests/CABI", f"LIBRARY_DIR={LIBRARY.parent}", f"OUT={PROGRAMS}")
    run("C programs", *programs, "run", **profiles("library"))
    settings = WORK / "coveragerc"
    # Nothing imports the module of type aliases but type checkers.
    options = (
        f"data_file = {WORK}/python\nparallel = true\npatch = subprocess\nsource = {PACKAGE}\nomit = */_types.py\n"
    )
    settings.write_text(f"[run]\n{options}")
    coverage = (PYTHON, "-m", "coverage")
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "Tests/python", "--ignore-glob=*/test_example_*")
    run("pytest", *coverage, "run", f"--rcfile={settings}", *pytest, **profiles("library"))
    run("its data", *coverage, "combine", f"--rcfile={settings}", "--quiet")
    run("its report", *coverage, "json", f"--rcfile={settings}", "--quiet", "-o", WORK / "python.json")
    merged = WORK / "library.profdata"
    raw = sorted((WORK / "raw").glob("library-*.profraw"))
    run("profiles", TOOLCHAIN / "llvm-profdata", "merge", *raw, "-o", merged)
    extension = next(PACKAGE.glob("_core*.so"))
    return exported(merged, LIBRARY, extension), python_lines(json.loads((WORK / "python.json").read_text()))


def exported(profile: Path, *binaries: Path) -> Lines:
    """The lines that llvm-cov knows of."""
    objects = [argument for binary in binaries for argument in ("-object", str(binary))][1:]
    result = TREE.run(
        TOOLCHAIN / "llvm-cov", "export", "-format=lcov", "-skip-expansions", *objects, f"-instr-profile={profile}"
    )
    lines: Lines = defaultdict(dict)
    file = ""
    for record in result.text.splitlines():
        kind, _, rest = record.partition(":")
        if kind == "SF":
            # The kernels are compiled once for each tier, through symbolic links.
            file = os.path.relpath(os.path.realpath(rest), TREE.path)
        elif kind == "DA":
            number, count = map(int, rest.split(",")[:2])
            lines[file][number] = lines[file].get(number, False) or count > 0
    return lines


def python_lines(report: dict[str, dict[str, dict[str, list[int]]]]) -> Lines:
    """The lines that coverage.py knows of."""
    lines: Lines = {}
    for name, file in report["files"].items():
        reached = dict.fromkeys(file["executed_lines"], True) | dict.fromkeys(file["missing_lines"], False)
        lines[os.path.relpath(TREE.path / name, TREE.path)] = reached
    return lines


def merge(*measured: Lines) -> Lines:
    """What any of the measurements reached."""
    lines: Lines = defaultdict(dict)
    for one in measured:
        for file, reached in one.items():
            for number, count in reached.items():
                lines[file][number] = lines[file].get(number, False) or count
    return lines


def in_context(lines: list[str], number: int) -> str:
    """A line by its text; a short one, such as `return NULL;`, with the line before it."""
    text = lines[number - 1].strip()
    return text if len(text) > 25 or number == 1 else f"{lines[number - 2].strip()} {text}"


def report(lines: Lines) -> bool:
    """Print the table, and every line that is not reached; true if all of these have reasons."""
    reasons = read_reasons(ROOT / "scripts" / "uncovered.txt")
    unexplained, explained = [], set()
    print(f"\n{'':8}{'lines':>8}{'reached':>9}{'share':>9}{'with a reason':>15}{'without':>9}")
    for language, (folder, ending) in FOLDERS.items():
        files = {file: reached for file, reached in lines.items() if file.startswith(folder) and file.endswith(ending)}
        total, missed = 0, []
        for file, reached in sorted(files.items()):
            text = (TREE.path / file).read_text().splitlines()
            total += len(reached)
            missed += [Uncovered(file, in_context(text, n), n) for n, is_hit in sorted(reached.items()) if not is_hit]
        without = [line for line in missed if line.key not in reasons]
        explained |= {line.key for line in missed}
        unexplained += without
        share = 100 * (total - len(missed)) / max(total, 1)
        print(
            f"{language:8}{total:8}{total - len(missed):9}{share:8.1f}%{len(missed) - len(without):15}{len(without):9}"
        )
        for line in missed:
            print(
                f"  {line.file}:{line.number}: {line.text}   [{reasons[line.key].why if line.key in reasons else '?'}]"
            )
    stale = [reason for key, reason in reasons.items() if key not in explained and not reason.depends_on_machine]
    for line in unexplained:
        print(
            f"{line.file}:{line.number}: is not reached, and uncovered.txt has no reason: {line.text}", file=sys.stderr
        )
    for reason in stale:
        print(f"uncovered.txt: is reached, or gone: {reason.file}: {reason.text}", file=sys.stderr)
    return not unexplained and not stale


def main() -> int:
    """Measure everything."""
    os.nice(19)
    TREE.update()
    for old in [*(WORK / "raw").glob("*"), *WORK.glob("python.*")]:
        old.unlink()
    swift_tests = measure_swift_tests()
    library, python = measure_library()
    return 0 if report(merge(swift_tests, library, python)) else 1


if __name__ == "__main__":
    sys.exit(main())
