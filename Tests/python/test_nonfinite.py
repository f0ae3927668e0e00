"""A value that is not finite reaches the rows and keys that it is live for, and nothing else, to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cases import Array, Case, Inputs, make_inputs
from helpers import assert_same_bits, ours
from swiftattn import reference

pytestmark = pytest.mark.usefixtures("isa")

LENGTHS = ((130, 200), (200, 130), (1, 200))
POISONS = (np.nan, np.inf, -np.inf)


def documents(len_q: int, len_k: int) -> Array:
    """Two interleaved documents, a query attending to its own one: every block has pairs of both kinds."""
    rng = np.random.default_rng(7)
    return rng.integers(0, 2, len_q)[:, None] == rng.integers(0, 2, len_k)


def clean_inputs(kind: str, len_q: int, len_k: int) -> Inputs:
    """Inputs with a mask of that kind, and a bias so that its gradient is seen too."""
    inputs = make_inputs(Case((len_q, len_k), (40, 24), (4, 2), (), bias="QK"))
    live = documents(len_q, len_k)
    kinds: dict[str, dict[str, Any]] = {
        "mask": {"mask": live},
        "bias": {"bias": np.where(live, inputs.options["bias"], np.float32(-np.inf))},
        "top_left": {"causal": "top_left"},
        "bottom_right": {"causal": "bottom_right"},
        "key_lengths": {"key_lengths": len_k // 2},
        "query_lengths": {"query_lengths": len_q // 2},
    }
    return inputs.with_options(**kinds[kind])


def live_pairs(inputs: Inputs) -> Array:
    """The (Sq, Sk) pairs that the masks leave: equal scores give each a weight."""
    len_q, len_k = inputs.options["bias"].shape
    options = {**inputs.options, "bias": np.where(inputs.options["bias"] == -np.inf, -np.inf, 0)}
    return np.asarray(reference.attention(np.zeros((len_q, 1)), np.zeros((len_k, 1)), np.eye(len_k), **options)) > 0


def poisoned(inputs: Inputs, operand: str, position: int, poison: float) -> Inputs:
    """The inputs with one row of one operand replaced, in all heads."""
    array = getattr(inputs, operand).copy()
    array[..., position, :] = poison
    return replace(inputs, **{operand: array})


def elsewhere(rows: Array, keys: Array) -> dict[str, Any]:
    """The parts of the results that belong to other rows and keys than these."""
    of_rows, of_keys = (..., ~rows, slice(None)), (..., ~keys, slice(None))
    return {
        "out": of_rows,
        "lse": (..., ~rows),
        "query": of_rows,
        "bias": of_rows,
        "key": of_keys,
        "value": of_keys,
    }


@pytest.mark.parametrize("operand", ["q", "k", "v", "dout"])
@pytest.mark.parametrize("kind", ["mask", "bias", "top_left", "bottom_right", "key_lengths", "query_lengths"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_poison_stays_where_it_is_live(lengths: tuple[int, int], kind: str, operand: str) -> None:
    inputs = clean_inputs(kind, *lengths)
    results, live = ours(inputs), live_pairs(inputs)
    of_key = operand in ("k", "v")
    length = lengths[1] if of_key else lengths[0]
    for position in {0, length // 3, length // 2, length - 1}:
        # Rows that meet the poison are spoilt, and through their softmax every key that they attend to.
        rows = live[:, position] if of_key else (np.arange(lengths[0]) == position) & live.any(axis=1)
        unspoilt = elsewhere(rows, live[rows].any(axis=0))
        spoilt_result = "query" if operand == "dout" else "out"
        for poison in POISONS:
            others = ours(poisoned(inputs, operand, position, poison))
            assert_same_bits(others, results, unspoilt)
            if np.isnan(poison):
                assert np.isnan(others[spoilt_result][:, rows]).all()


def test_poison_in_one_head_or_batch_element_stays_there() -> None:
    inputs = make_inputs(Case((70, 97), (16, 16), (4, 2), (3,), bias="BHQK"))
    results = ours(inputs)
    for operand in ("q", "k", "v", "dout"):
        array = getattr(inputs, operand).copy()
        array[1, -1] = np.nan  # query head 3, or key/value head 1, which query heads 2 and 3 share
        others = ours(replace(inputs, **{operand: array}))
        for batch in (0, 2):
            assert_same_bits(others, results, dict.fromkeys(results, batch))
        clean_heads = {name: (1, slice(1 if name in ("key", "value") else 2)) for name in results}
        assert_same_bits(others, results, clean_heads)
        assert not np.isfinite(others["query"][1, 3]).any()


@pytest.mark.parametrize("poison", POISONS)
def test_results_after_poison_are_clean(poison: float) -> None:
    # Workspaces are reused: what an earlier call left in them must not matter.
    inputs = make_inputs(Case((130, 200), (40, 24), (4, 2), mask="B1QK"))
    results = ours(inputs)
    spoilt = make_inputs(Case((200, 200), (64, 64), (4, 2)))
    for operand in ("q", "k", "v", "dout"):
        ours(replace(spoilt, **{operand: np.full_like(getattr(spoilt, operand), poison)}))
    assert_same_bits(ours(inputs), results)
