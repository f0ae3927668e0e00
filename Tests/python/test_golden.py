"""Results have the bits that `golden.json` says, in every tier; `golden.py` says when they may change."""

from __future__ import annotations

import json

import pytest

import golden


@pytest.mark.parametrize("name", golden.NAMES)
def test_results_have_the_recorded_bits(isa: str, name: str) -> None:
    recorded = json.loads(golden.FILE.read_text())[golden.rounding_class(isa)]
    assert recorded.keys() == set(golden.NAMES)
    assert golden.compute(name) == recorded[name]
