"""Reads object files of x86-64 and AArch64 with binutils: functions, and which processors can run their code."""

from __future__ import annotations

import enum
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


class Level(enum.IntEnum):
    """The least processor that an instruction needs."""

    BASELINE = 0
    AVX2 = 1
    """Anything beyond x86-64 that is not AVX-512: SSE3 to AVX2, FMA, BMI."""
    AVX512 = 2


# Prefixes that may stand before a VEX or EVEX prefix: segment overrides and address size.
LEGACY_PREFIXES = {"26", "2e", "36", "3e", "64", "65", "67"}
EVEX = "62"
VEX = {"c4", "c5"}
# Beyond x86-64 without a VEX prefix. tzcnt is left out: older processors run it as bsf, which compilers count on.
LEGACY_EXTENSIONS = re.compile(
    r"popcnt|lzcnt|movbe|crc32[bwlq]?|addsubp[sd]|haddp[sd]|hsubp[sd]|lddqu|mov(d|sh|sl)dup|p?abs[bwd]|palignr|pshufb|"
    r"ph(add|sub)(s?w|d)|pmaddubsw|pmulhrsw|psign[bwd]|p?blend(v?p[sd]|vb|w)|dpp[sd]|extractps|insertps|movntdqa|"
    r"mpsadbw|"
    r"packusdw|pcmp(eqq|gtq|[ei]str[im])|p(ext|ins)r[bdq]|phminposuw|p(max|min)(sb|sd|ud|uw)|pmov[sz]x\w+|pmul(dq|ld)|"
    r"ptest|round[ps][sd]|cmpxchg16b"
)
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
# The bytes of an x86-64 instruction, or the one word of an AArch64 one.
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+|[0-9a-f]{8} )\s*\t?(.*)$")
# e_machine, in the ELF header.
MACHINES = {62: "x86_64", 183: "aarch64"}


@dataclass(frozen=True)
class Instruction:
    """One instruction: its address, its level, and its text in AT&T syntax."""

    address: int
    level: Level
    text: str

    @property
    def mnemonic(self) -> str:
        """The operation, without its operands."""
        return self.text.split(maxsplit=1)[0] if self.text else ""


@dataclass
class Function:
    """A function of one object file."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)

    @property
    def level(self) -> Level:
        """The least processor that can run all of it."""
        return max((instruction.level for instruction in self.instructions), default=Level.BASELINE)

    def culprit(self) -> str:
        """Return the first instruction that makes the level what it is."""
        return next(one.text for one in self.instructions if one.level == self.level)


def machine_of(file: Path) -> str:
    """Return the kind of processor that an object file or a library is for, as uname names it."""
    with file.open("rb") as opened:
        return MACHINES[int.from_bytes(opened.read(20)[18:], "little")]


def level_of(code: list[str], text: str) -> Level:
    """Return the level of an x86-64 instruction from its bytes, in hexadecimal, and its text.

    In 64-bit mode the bytes 62, c4 and c5 begin nothing but EVEX and VEX encodings; mask instructions are VEX-encoded.
    """
    first = next((byte for byte in code if byte not in LEGACY_PREFIXES), "")
    if first == EVEX or re.search(r"%k[0-7]", text):
        return Level.AVX512
    if first in VEX or LEGACY_EXTENSIONS.fullmatch(text.split(maxsplit=1)[0] if text else ""):
        return Level.AVX2
    return Level.BASELINE


def functions(file: Path) -> Iterator[Function]:
    """Disassemble an object file or a library. On AArch64 all code is for the least processor."""
    is_x86 = machine_of(file) == "x86_64"
    command = ["objdump", "--insn-width=16"] if is_x86 else ["aarch64-linux-gnu-objdump"]
    command += ["--disassemble", str(file)]
    listing = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    function = Function("")
    for line in listing.splitlines():
        if start := FUNCTION.match(line):
            if function.instructions:
                yield function
            function = Function(start[1])
        elif found := INSTRUCTION.match(line):
            address, code, text = int(found[1], 16), found[2].split(), found[3].strip()
            level = level_of(code, text) if is_x86 else Level.BASELINE
            function.instructions.append(Instruction(address, level, text))
    if function.instructions:
        yield function


def symbols(file: Path, *options: str) -> list[tuple[str, str]]:
    """Return the symbols of an object file as pairs of nm's type letter and name."""
    command = ["nm", "--no-sort", *options, str(file)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [(parts[-2], parts[-1]) for parts in (line.split() for line in lines) if len(parts) >= 2]
