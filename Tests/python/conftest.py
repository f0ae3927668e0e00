"""Fixtures: the instruction-set tiers, and settings that do not outlive a test."""

from __future__ import annotations

import os
from collections.abc import Iterator

# The reference multiplies many small matrices, which OpenBLAS's threads slow down many times over; it reads this when
# NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

import swiftattn


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "torch: needs PyTorch, and is skipped without it; not required in CI")


@pytest.fixture(params=swiftattn.available_isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Runs the test once in each tier that this processor has."""
    name: str = request.param
    swiftattn.set_isa(name)
    return name


@pytest.fixture(autouse=True)
def _default_settings() -> Iterator[None]:
    yield
    swiftattn.set_isa(None)
    swiftattn.set_num_threads(0)
