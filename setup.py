"""Builds the shared library with SwiftPM and the CPython extension beside it; pyproject.toml has everything else.

SWIFTATTN_PREBUILT=<path of libswiftattn.so> takes a library that is already built, and needs no Swift toolchain.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
HEADER = ROOT / "Sources" / "CSwiftAttn" / "include" / "swiftattn.h"
PACKAGE = Path("python", "swiftattn")
SONAME = "libswiftattn.so.0"
SWIFT_FOLDERS = (
    "Sources",
    "Tests/AttentionKernelsTests",
    "Tests/CTestSupport",
    "Tests/SwiftAttnTests",
    "benchmarks/FMAPeak",
    "benchmarks/Swift",
)
CORE_SOURCES = ("_core.c", "_core_operands.c", "_core_call.c", "_core_attention.c", "_core_layer.c")


def version() -> str:
    """Return the version that the C header defines."""
    numbers = dict(
        re.findall(r"^#define SWIFTATTN_VERSION_(MAJOR|MINOR|PATCH) (\d+)$", HEADER.read_text(), re.MULTILINE)
    )
    return "{MAJOR}.{MINOR}.{PATCH}".format(**numbers)


def built_library() -> Path:
    """Return the path of the shared library, built now unless SWIFTATTN_PREBUILT names one."""
    prebuilt = os.environ.get("SWIFTATTN_PREBUILT")
    if prebuilt:
        if not Path(prebuilt).is_file():
            raise SystemExit(f"swiftattn: SWIFTATTN_PREBUILT={prebuilt} is not a file")
        return Path(prebuilt)
    search_path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/opt/swift/usr/bin"))
    swift = shutil.which("swift", path=search_path)
    if swift is None:
        raise SystemExit(
            "swiftattn: building needs a Swift 6.3 toolchain, with `swift` on PATH: https://www.swift.org/install"
        )
    command = [swift, "build", "-c", "release", "--traits", "Embedded", "--scratch-path", ".build-embedded"]
    command += ["--product", "swiftattn"]
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        raise SystemExit(f"swiftattn: {' '.join(command)} failed; its messages are above")
    shown = subprocess.run([*command, "--show-bin-path"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return Path(shown.stdout.strip(), "libswiftattn.so")


def place(library: Path, package: Path) -> Path:
    """Put the library, stripped, and its header into the package; return where the library now is."""
    placed = package / SONAME
    include = package / "include"
    include.mkdir(parents=True, exist_ok=True)
    shutil.copy(HEADER, include)
    # Replaced in one step, because a running process may have mapped the old file.
    staged = placed.with_suffix(".new")
    shutil.copy(library, staged)
    strip = shutil.which("strip")
    if strip is not None:
        subprocess.run([strip, "--strip-unneeded", staged], check=True)
    staged.replace(placed)
    return placed


class BuildWithLibrary(build_ext):
    """Builds the extension against the shared library, which goes into the package with it."""

    def run(self) -> None:
        """Build everything into build_lib or, for editable installations, into the source tree."""
        package = PACKAGE if self.inplace else Path(self.build_lib, PACKAGE.name)
        library = place(built_library(), package)
        for extension in self.extensions:
            extension.extra_objects.append(str(library))
        super().run()


class SourceDistribution(sdist):
    """Adds the folders that Package.swift names, without which SwiftPM builds nothing."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Fill base_dir; MANIFEST.in cannot add the sources, because it follows links, and only once per target."""
        super().make_release_tree(base_dir, files)
        for folder in SWIFT_FOLDERS:
            copied = Path(base_dir, folder)
            shutil.rmtree(copied, ignore_errors=True)
            # With the symbolic links by which the kernel modules share their sources.
            shutil.copytree(ROOT / folder, copied, symlinks=True)


setup(
    version=version(),
    cmdclass={"build_ext": BuildWithLibrary, "sdist": SourceDistribution},
    ext_modules=[
        Extension(
            "swiftattn._core",
            sources=[str(PACKAGE / name) for name in CORE_SOURCES],
            depends=[str(PACKAGE / "_core.h"), str(HEADER.relative_to(ROOT))],
            include_dirs=[numpy.get_include(), str(HEADER.parent.relative_to(ROOT))],
            extra_compile_args=["-std=c11", "-fvisibility=hidden", "-g0"],
            runtime_library_dirs=["$ORIGIN"],
        )
    ],
)
