"""A copy of the tree under build/, in which builds and breaks leave the tree itself alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"


class Run(NamedTuple):
    """How a command ended."""

    text: str
    passed: bool
    hung: bool


class CopiedTree:
    """The copy build/NAME/tree of all files that are, or could be, under version control."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / "build" / name / "tree"

    def update(self) -> None:
        """Make the copy equal to the tree; files that are equal keep their times, and builds what they know."""
        self.path.mkdir(parents=True, exist_ok=True)
        command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        names = {name for name in listed.stdout.decode().split("\0") if name and os.path.lexists(ROOT / name)}
        record = self.path.parent / "files"
        before = set(record.read_text().split("\0")) if record.exists() else set()
        for name in before - names:
            (self.path / name).unlink(missing_ok=True)
        for name in names:
            self._copy(ROOT / name, self.path / name)
        record.write_text("\0".join(sorted(names)))

    def _copy(self, source: Path, copy: Path) -> None:
        if source.is_symlink():
            if not copy.is_symlink():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.symlink_to(os.readlink(source))
        elif not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)

    def run(self, *command: str | Path, seconds: int = 3600, environment: Mapping[str, str] | None = None) -> Run:
        """Run a command in the copy, with its package; when its time is over, end it and all that it started."""
        given = {"PYTHONPATH": str(self.path / "python"), "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            command,
            cwd=self.path,
            env=os.environ | given | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            text, _ = process.communicate(timeout=seconds)
            return Run(text, process.returncode == 0, False)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text, _ = process.communicate()
            return Run(text, False, True)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
