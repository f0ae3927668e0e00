#!/usr/bin/env python3
"""Checks that an older processor never meets an instruction it does not have, and that the kernels are fast code.

Each kernel module AttentionKernels<Tier> is compiled for its own instruction set, everything else for plain x86-64.
Three things can go wrong, and this script looks for each in the object files and the library of a release build:

1. A function of one module holds instructions beyond what the module may use.
2. Several modules define the same weak symbol (a specialisation of something they share), and the linker keeps the
   wrong copy: one that only the newest processors can run, or a slow one of a kernel.
3. A multiplication kernel is not made of packed fused multiply-adds: the compiler called fmaf, worked on single
   elements, or spilled its accumulators to the stack.

On AArch64 all tiers are for the same processors, and have fused multiply-adds: only the third can go wrong there.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from disassembly import Function, Instruction, Level, functions, machine_of, symbols

TIER = re.compile(r"AttentionKernels(\w+)")
# The tiers that there must be, with the registers that their arithmetic is expected to fill.
TIERS = {
    "x86_64": {"AttentionKernelsAVX2": "%ymm", "AttentionKernelsAVX512": "%zmm"},
    "aarch64": {"AttentionKernelsBaseline": "v", "AttentionKernelsNEON": "v"},
}
FMA_CALLS = {"fma", "fmaf"}
# In the functions of that name a loop with this many accumulations (sum += a * b) is a register tile.
MULTIPLICATION = "multiply"
TILE = 8


@dataclass(frozen=True)
class TileCode:
    """What the loops of register tiles are made of: patterns of whole instructions."""

    jump: str
    """Its group is the target."""
    accumulation: str
    """A packed one; its group is s for single, d for double precision. {vector} stands for the register."""
    spoiling: tuple[str, ...]
    """Arithmetic on single elements, vectors stored to the stack, calls."""


TILE_CODE = {
    "x86_64": TileCode(
        jump=r"j\w+\s+([0-9a-f]+)\b",
        accumulation=r"vfmadd231p([sd])\s.*{vector}",
        spoiling=(
            r"v(fn?m(add|sub)\d+|mul|add|sub)s[sd]\s",
            r"\w+\s+%[xyz]mm\d+,-?\w*\(%r[sb]p",
            r"call",
        ),
    ),
    "aarch64": TileCode(
        jump=r"(?:b|b\.\w+|cbn?z|tbn?z)\s+(?:[wx]\d+, )?(?:#\d+, )?([0-9a-f]+)\b",
        accumulation=r"fmla\s+{vector}\d+\.\d([sd]), v",
        spoiling=(
            r"f(n?m(add|sub|ul)|add|sub|mla|mls)\s+[sd]\d",
            r"st\w+\s+[qdsv{].*\[(sp|x29)\b",
            r"blr?\s",
        ),
    ),
}


@dataclass
class Module:
    """The object files of one Swift or C module."""

    name: str
    allowed: Level
    functions: list[Function]
    shared: set[str]
    """Symbols that the linker may take from another module instead: those that are not local."""
    undefined: set[str]


def allowed_level(name: str) -> Level:
    """Return what a module may use; a tier beyond AVX2 may use everything."""
    tier = TIER.fullmatch(name)
    if tier is None or tier[1] == "Baseline":
        return Level.BASELINE
    return Level.AVX2 if tier[1] == "AVX2" else Level.AVX512


def read_modules(folder: Path) -> list[Module]:
    """Read the object files that the library in this folder was linked from, which lie in <module>.build folders."""
    modules: dict[str, Module] = {}
    for line in (folder / "swiftattn.product/Objects.LinkFileList").read_text().splitlines():
        file = Path(line.strip("'\""))
        name = next(part for part in reversed(file.parts) if part.endswith(".build")).removesuffix(".build")
        module = modules.setdefault(name, Module(name, allowed_level(name), [], set(), set()))
        module.functions += functions(file)
        module.shared |= {symbol for kind, symbol in symbols(file, "--defined-only") if kind in "TWVu"}
        module.undefined |= {symbol for _, symbol in symbols(file, "--undefined-only")}
    return list(modules.values())


def declaring_module(symbol: str, modules: list[Module]) -> Module | None:
    """Return the module of a Swift symbol's declaration, which its mangled name begins with."""
    named = ((module, f"{len(module.name)}{module.name}") for module in modules)
    return next((module for module, name in named if symbol.startswith((f"$e{name}", f"$s{name}"))), None)


def copies(modules: list[Module]) -> dict[str, list[tuple[Module, Function]]]:
    """Return every function that is not local to an object file, with the modules that hold a copy of it."""
    found: dict[str, list[tuple[Module, Function]]] = defaultdict(list)
    for module in modules:
        for function in module.functions:
            if function.name in module.shared:
                found[function.name].append((module, function))
    return found


def check_modules(modules: list[Module]) -> list[str]:
    """Return the functions beyond their module's level, and the modules that call fma.

    A symbol that other modules define too is judged where it is linked.
    """
    copied = copies(modules)
    found = []
    for module in modules:
        for function in module.functions:
            if function.level > module.allowed and len(copied.get(function.name, [])) < 2:
                found.append(f"{module.name}: {function.name} needs {function.level.name}: {function.culprit()}")
        found += [f"{module.name} calls {name}" for name in sorted(module.undefined & FMA_CALLS)]
    return found


def check_linked(library: Path, modules: list[Module]) -> list[str]:
    """Return the functions of the library for which the linker took the wrong copy.

    A function that a kernel module declares runs only where that module's tier does: its copy is the right one, a copy
    that another module made of it is slower. Whatever else has copies in several modules must suit every processor.
    """
    copied = copies(modules)
    found = []
    for function in functions(library):
        candidates = copied.get(function.name, [])
        if not candidates:
            continue
        owner = declaring_module(function.name, modules)
        own = [copy.level for module, copy in candidates if module is owner]
        if own and function.level != own[0]:
            found.append(f"{library.name}: {function.name} is a copy made for other processors than its module's")
        least = min(module.allowed for module, _ in candidates)
        if not own and function.level > least:
            found.append(f"{library.name}: {function.name} needs {function.level.name}: {function.culprit()}")
    return found


def check_origin(library: Path, modules: list[Module]) -> list[str]:
    """Return the functions beyond the least processor that come from no object file, but from what else was linked."""
    known = {function.name for module in modules for function in module.functions}
    return [
        f"{library.name}: {function.name}, of no module, needs {function.level.name}: {function.culprit()}"
        for function in functions(library)
        if function.level > Level.BASELINE and function.name not in known
    ]


def innermost_loops(function: Function, jump: str) -> list[list[Instruction]]:
    """Return the loops of a function that hold no other loop: the ranges that a jump back spans."""
    places = {one.address: place for place, one in enumerate(function.instructions)}
    spans = []
    for place, one in enumerate(function.instructions):
        target = re.match(jump, one.text)
        start = places.get(int(target[1], 16)) if target else None
        if start is not None and start <= place:
            spans.append((start, place))
    inner = [(a, b) for a, b in spans if not any(a <= c and d <= b and (c, d) != (a, b) for c, d in spans)]
    return [function.instructions[a : b + 1] for a, b in inner]


def check_tiles(module: Module, code: TileCode, vector: str) -> list[str]:
    """Return what is wrong with the register tiles of a tier that has fused multiply-adds."""
    found = []
    tiles = {"s": 0, "d": 0}
    for function in module.functions:
        if MULTIPLICATION not in function.name:
            continue
        for loop in innermost_loops(function, code.jump):
            packed = [re.match(code.accumulation.format(vector=vector), one.text) for one in loop]
            kinds = [match[1] for match in packed if match]
            if len(kinds) < TILE:
                continue
            tiles[kinds[0]] += 1
            spoiled = [one for one in loop if any(re.match(pattern, one.text) for pattern in code.spoiling)]
            found += [f"{module.name}: {function.name}: a tile's loop has {one.text}" for one in spoiled]
    found += [f"{module.name}: no register tile of {kind}" for kind, count in tiles.items() if count == 0]
    return found


def main() -> int:
    """Check the build whose bin path stands on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: check_isa.py BIN_PATH (what swift build --show-bin-path prints, or of scripts/build_aarch64)")
    folder = Path(sys.argv[1])
    library = folder / "libswiftattn.so"
    modules = read_modules(folder)
    found = check_modules(modules) + check_linked(library, modules) + check_origin(library, modules)
    machine = machine_of(library)
    for tier, vector in TIERS[machine].items():
        module = next((module for module in modules if module.name == tier), None)
        found += check_tiles(module, TILE_CODE[machine], vector) if module else [f"{folder}: no object files of {tier}"]
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"check_isa: {sum(len(module.functions) for module in modules)} functions in {len(modules)} modules")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
