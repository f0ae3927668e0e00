"""What is installed beside the functions: header, library, stubs, documentation, the command."""

from __future__ import annotations

import ctypes
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import swiftattn
from helpers import output_of
from swiftattn import reference

PACKAGE = Path(swiftattn.__file__).parent


def test_header_is_in_the_include_directory() -> None:
    header = Path(swiftattn.get_include(), "swiftattn.h").read_text()
    numbers = dict(re.findall(r"#define SWIFTATTN_VERSION_(\w+) (\d+)", header))
    assert swiftattn.__version__ == f"{numbers['MAJOR']}.{numbers['MINOR']}.{numbers['PATCH']}"


def test_library_can_be_loaded_by_its_path() -> None:
    library = ctypes.CDLL(swiftattn.get_library())
    library.swiftattn_version.restype = ctypes.c_char_p
    assert library.swiftattn_version().decode() == swiftattn.__version__


def test_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_core.pyi").is_file()


def test_all_names_are_there_and_documented() -> None:
    for name in swiftattn.__all__:
        value = getattr(swiftattn, name)
        assert name in dir(swiftattn)
        assert name == "__version__" or inspect.getdoc(value), name


@pytest.mark.parametrize("name", ["attention", "attention_backward", "attention_vjp", "set_num_threads", "set_isa"])
def test_documentation_names_every_argument(name: str) -> None:
    function = getattr(swiftattn, name)
    documented = set(re.findall(r"\w+", inspect.getdoc(function) or ""))
    assert documented >= set(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", ["attention", "attention_backward"])
def test_reference_takes_the_same_arguments(name: str) -> None:
    ours, theirs = inspect.signature(getattr(swiftattn, name)), inspect.signature(getattr(reference, name))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]


def test_unknown_attributes_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = swiftattn.no_such_name


def test_instruction_sets_are_distinct_names_that_end_with_the_baseline() -> None:
    names = swiftattn.available_isas()
    assert len(set(names)) == len(names)
    assert names[-1] == "baseline"


def test_config_says_what_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    for name in swiftattn.available_isas():
        swiftattn.set_isa(name)
        swiftattn.set_num_threads(3)
        config = swiftattn.show_config("dicts")
        assert config["isa"] == name
        assert config["num_threads"] == 3
        assert config["version"] == swiftattn.__version__
        assert config["available_isas"] == swiftattn.available_isas()
        assert config["kernels"]
        # dtype.operation.tile.isa
        assert all(re.fullmatch(rf"f(32|64)\.\w+\.\w+\.{name}", kernel) for kernel in config["kernels"])
        swiftattn.show_config()
        printed = capsys.readouterr().out
        assert name in printed
        assert swiftattn.__version__ in printed
    with pytest.raises(ValueError, match="mode"):
        swiftattn.show_config("yaml")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "swiftattn", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("arguments", [(), ("--no-benchmark",)])
def test_command_shows_and_tests_the_installation(arguments: tuple[str, ...]) -> None:
    finished = command(*arguments)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert swiftattn.__version__ in finished.stdout
    assert all(name in finished.stdout for name in swiftattn.available_isas())
    assert "FAIL" not in finished.stdout
    assert ("GFLOP/s" in finished.stdout) == (not arguments)


def test_command_names_the_instruction_sets_where_the_environment_names_another() -> None:
    finished = command(SWIFTATTN_ISA="mmx")
    assert finished.returncode == 1
    assert all(name in finished.stderr for name in swiftattn.available_isas())


def test_import_needs_nothing_but_numpy() -> None:
    imported = output_of("""
        import sys
        import numpy
        before = set(sys.modules)
        import swiftattn
        print(*(set(sys.modules) - before))
    """).split()
    standard = sys.stdlib_module_names
    assert {name.split(".")[0] for name in imported} - set(standard) == {"swiftattn"}
    lazy = {"reference", "reference_layer", "convert", "_layer"}
    assert not {f"swiftattn.{name}" for name in lazy} & set(imported)
