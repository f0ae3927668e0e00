"""Fixtures: the instruction-set tiers, and settings that do not outlive a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import swiftattn


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
