"""A value that is not finite reaches the rows and keys that it is live for, and nothing else, to the bit."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from cases import Case, Inputs, make_inputs
from helpers import DTYPES, LONG, Results, assert_same_bits, compute, ours
from swiftattn import reference

pytestmark = pytest.mark.usefixtures("isa")

POISONS = (np.nan, np.inf, -np.inf)

GEOMETRIES = (
    Case((100, 134), (40, 24), (2, 2)),
    Case((35, 70), (16, 7), (3, 1)),  # three heads packed into the lanes: the first block ends within a query
    Case((1, 134), (7, 40), (4, 2)),
)
KINDS = ("none", "mask", "bias", "top_left", "bottom_right", "key_lengths", "query_lengths")


def around(*edges: int, length: int) -> list[int]:
    """The first and the last place, and those on both sides of each edge."""
    return sorted({place for edge in (0, *edges, length) for place in (edge - 1, edge) if 0 <= place < length})


def query_edges(case: Case, dtype: Any) -> list[int]:
    """At the edges of vectors, panels and blocks, whose lanes hold the queries of all heads of a group."""
    heads_q, heads_kv = case.heads or (1, 1)
    rows = lanes_of(dtype) * heads_kv
    return around(*(vectors * rows // heads_q for vectors in (1, 3, 6)), length=case.lengths[0])


def key_edges(case: Case) -> list[int]:
    """Softmax sums even and odd keys apart, visibility is held in words of 32, and 64 are a block."""
    return around(1, 32, 64, 128, length=case.lengths[1])


def lanes_of(dtype: Any) -> int:
    return 64 // np.dtype(dtype).itemsize


def pairs(queries: list[int], keys: list[int]) -> list[tuple[int, int]]:
    """Every query and every key at least once."""
    longest = range(max(len(queries), len(keys)))
    return [(queries[n % len(queries)], keys[-1 - n % len(keys)]) for n in longest]


@dataclass(frozen=True)
class Places:
    """Where poison is put: one place for each element of a batch."""

    operand: str
    indices: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(operand: str, case: Case, dtype: Any, everywhere: bool) -> Places:
        heads_q, heads_kv = case.heads or (1, 1)
        width = case.dims[0] if operand in ("q", "k") else case.dims[1]
        queries, keys, columns = query_edges(case, dtype), key_edges(case), around(lanes_of(dtype), length=width)
        if everywhere:
            queries, keys, columns = (list(range(length)) for length in (*case.lengths, width))
        rows = keys if operand in ("k", "v") else queries
        places = pairs(queries, keys) if operand == "bias" else pairs(rows, columns)
        count = heads_kv if operand in ("k", "v") else heads_q
        return Places(operand, tuple((n % count, *place) for n, place in enumerate(places)))

    def put(self, inputs: Inputs, poison: float) -> Inputs:
        """The inputs, of a batch of one, with the poison at one place in each element of a batch."""
        batch = len(self.indices)
        arrays = {name: np.repeat(getattr(inputs, name), batch, axis=0) for name in ("q", "k", "v", "dout")}
        arrays["bias"] = np.repeat(inputs.options["bias"], batch, axis=0)
        for element, index in enumerate(self.indices):
            arrays[self.operand][(element, *index)] = poison
        options = {**inputs.options, "bias": arrays.pop("bias")}
        for name in ("key_lengths", "query_lengths"):
            if name in options:
                options[name] = np.repeat(options[name], batch)
        return Inputs(**arrays, options=options)


def clean_inputs(case: Case, kind: str, dtype: Any) -> Inputs:
    """Inputs with masks of that kind, under which some places are seen and others are not, and a bias."""
    inputs = make_inputs(replace(case, bias="BHQK"), dtype)
    (len_q, len_k), rng = case.lengths, np.random.default_rng(7)
    # Two interleaved documents, a query attending to its own one: every block has pairs of both kinds. Besides, half of
    # the queries at edges see nothing and half of the keys there are seen by none; mask and bias have other halves.
    live = rng.integers(0, 2, len_q)[:, None] == rng.integers(0, 2, len_k)
    half = slice(int(kind == "bias"), None, 2)
    live[query_edges(case, dtype)[half]] = live[:, key_edges(case)[half]] = False
    kinds: dict[str, dict[str, Any]] = {
        "none": {},
        "mask": {"mask": live},
        "bias": {"bias": np.where(live, inputs.options["bias"], np.asarray(-np.inf, dtype))},
        "top_left": {"causal": "top_left"},
        "bottom_right": {"causal": "bottom_right"},
        "key_lengths": {"key_lengths": np.array([len_k // 2])},
        "query_lengths": {"query_lengths": np.array([len_q // 2])},
    }
    return inputs.with_options(**kinds[kind])


@functools.cache
def reached_by(places: Places, case: Case, kind: str, dtype: Any) -> Results:
    """What a value at each of the places reaches by the mathematics: in the reference, a NaN does."""
    spoilt = compute(reference, places.put(clean_inputs(case, kind, dtype), np.nan))
    return {name: np.isnan(result) for name, result in spoilt.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operand", ["q", "k", "v", "bias", "dout"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_poison_reaches_what_depends_on_it_and_no_other_bit(case: Case, kind: str, operand: str, dtype: Any) -> None:
    inputs = clean_inputs(case, kind, dtype)
    places = Places.of(operand, case, dtype, everywhere=LONG)
    reached, clean = reached_by(places, case, kind, dtype), ours(inputs)
    for poison in (*POISONS, np.finfo(dtype).smallest_subnormal):
        results = ours(places.put(inputs, poison))
        for name, result in results.items():
            if np.isnan(poison):
                assert_same_bits({name: np.isnan(result)}, {name: reached[name]})
            expected = np.where(reached[name], result, clean[name])
            assert_same_bits({name: result}, {name: expected})


@pytest.mark.parametrize("causal", ["top_left", "bottom_right"])
def test_poison_stays_where_it_is_live_beside_blocks_that_see_all(causal: str) -> None:
    # Without mask and bias, rows that see a whole block of keys lie beside rows that see a part of it.
    lengths = (200, 230)
    inputs = make_inputs(Case(lengths, (40, 24), (4, 2), causal=causal))
    results = ours(inputs)
    reach = np.arange(lengths[0])[:, None] + (lengths[1] - lengths[0]) * (causal == "bottom_right")
    live = np.arange(lengths[1]) <= reach
    for operand in ("q", "dout"):
        array = getattr(inputs, operand).copy()
        array[..., 60, :] = np.nan
        rows, keys = (..., np.arange(lengths[0]) != 60, slice(None)), (..., ~live[60], slice(None))
        unspoilt = {"out": rows, "lse": rows[:2], "query": rows, "key": keys, "value": keys}
        assert_same_bits(ours(replace(inputs, **{operand: array})), results, unspoilt)


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
    blind = inputs.with_options(key_lengths=np.zeros(1, np.int64))
    results = ours(inputs)
    spoilt = make_inputs(Case((200, 200), (64, 64), (4, 2)))
    for operand in ("q", "k", "v", "dout"):
        ours(replace(spoilt, **{operand: np.full_like(getattr(spoilt, operand), poison)}))
        assert not ours(blind)["out"].any()
    assert_same_bits(ours(inputs), results)
