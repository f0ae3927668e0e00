#!/usr/bin/env python3
"""Checks what libswiftattn.so shows to the world.

It exports exactly the functions of the header, needs libc and libm only, has its SONAME, is small, and allocates memory
in one place only, where it can be refused.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from disassembly import functions

HEADER = Path(__file__).resolve().parent.parent / "Sources/CSwiftAttn/include/swiftattn.h"
SONAME = "libswiftattn.so.0"
LIBRARIES = re.compile(r"(libc|libm|ld-linux[-\w]*)\.so\.\d+")
LARGEST = 690_000
# The one function that may allocate (in shims.c), and what allocates: libc, and Swift's runtime, which ends the process
# when there is no memory.
ALLOCATOR = "system_allocate"
LIBC_ALLOCATION = r"(?:malloc|calloc|realloc\w*|aligned_alloc|memalign|posix_memalign|valloc|mmap)@plt"
SWIFT_ALLOCATION = r"swift_(?:allocObject|allocEmptyBox|slowAlloc|coroFrameAlloc)|\$es17swift_allocObject\w+"
ALLOCATION = re.compile(rf"<({LIBC_ALLOCATION}|{SWIFT_ALLOCATION})>$")
# Swift's runtime itself, and an initialiser that comes with the class of arrays but that nobody calls.
RUNTIME = re.compile(rf"{SWIFT_ALLOCATION}|\$es41__SwiftNativeNSArrayWithContiguousStorageCABycfC")


def output(*command: str | Path) -> str:
    """Return what a command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def declared() -> set[str]:
    """Return the functions that the header declares."""
    code = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    return set(re.findall(r"\b(swiftattn_\w+)\(", code))


def exported(library: Path) -> set[str]:
    """Return the symbols that the library defines for others, without the version's own."""
    lines = output("nm", "--dynamic", "--defined-only", "--extern-only", library).splitlines()
    return {line.split()[2].split("@")[0] for line in lines if line.split()[1] != "A"}


def stripped_size(library: Path) -> int:
    """Return the size in bytes of the library without its symbol table."""
    with tempfile.NamedTemporaryFile() as copy:
        output("strip", "-o", copy.name, library)
        return Path(copy.name).stat().st_size


def allocations(library: Path) -> set[tuple[str, str]]:
    """Return who calls what allocates, with its name."""
    found = set()
    for function in functions(library):
        for one in function.instructions:
            called = ALLOCATION.search(one.text)
            if called and not RUNTIME.match(function.name):
                found.add((function.name, called[1]))
    return found


def problems(library: Path) -> list[str]:
    """Return what is wrong with the library, one sentence each."""
    found = [f"{name} is exported but not in the header" for name in sorted(exported(library) - declared())]
    found += [f"{name} is in the header but not exported" for name in sorted(declared() - exported(library))]
    dynamic = output("readelf", "--dynamic", "--wide", library)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    found += [f"the library needs {name}" for name in needed if not LIBRARIES.fullmatch(name)]
    if re.findall(r"\(SONAME\).*\[(.*)\]", dynamic) != [SONAME]:
        found.append(f"the library's SONAME is not {SONAME}")
    allocating = allocations(library)
    if (ALLOCATOR, "posix_memalign@plt") not in allocating:
        found.append(f"{ALLOCATOR} does not allocate: is the library stripped?")
    found += [f"{caller} allocates with {name}" for caller, name in sorted(allocating) if caller != ALLOCATOR]
    if stripped_size(library) >= LARGEST:
        found.append(f"the stripped library has {stripped_size(library)} bytes, {LARGEST} or more")
    return found


def main() -> int:
    """Check the library named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: check_exports.py libswiftattn.so")
    library = Path(sys.argv[1])
    found = problems(library)
    for problem in found:
        print(f"{library}: {problem}", file=sys.stderr)
    if not found:
        print(f"check_exports: {len(declared())} functions, {stripped_size(library)} bytes stripped")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
