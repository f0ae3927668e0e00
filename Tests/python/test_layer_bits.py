"""The layer's results are the same bits whatever the threads, the batch neighbours, the strides and what is unseen."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Array
from golden import rounding_class
from helpers import DTYPES, LONG, assert_same_bits, without_none
from layer_cases import LayerCase, LayerProblem, compute_layer, compute_reference, make_problem
from views import VIEWS, Exporter, View

pytestmark = pytest.mark.usefixtures("isa")

CASES = (
    LayerCase((150, 150), (5, 1, 37), 87, rope="interleaved", causal=True, bias_kv=True),
    LayerCase((97, 130), (4, 2, 32), 128, "apart", (3,), mask="B1QK", bias="HQK", zero_attn=True),
    LayerCase((33, 47), (2, 2, 7), 20, "memory", (3,), rope="offsets", key_lengths=True, biases=False),
    LayerCase((1, 700), (8, 2, 16), 64, "fused", (3,), rope="half-split"),
    LayerCase((700, 3), (2, 1, 16), 40, "three", (2,), bias="QK"),
)


def results_of(problem: LayerProblem) -> dict[str, Array]:
    return compute_layer(problem.layer(), problem)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_number_of_threads_gives_the_same_bits(case: LayerCase, dtype: Any) -> None:
    problem = make_problem(case, dtype)
    swiftattn.set_num_threads(1)
    expected = results_of(problem)
    for count in range(2, 17) if LONG else (2, 3, 16):
        swiftattn.set_num_threads(count)
        assert_same_bits(results_of(problem), expected)


def batch_element(problem: LayerProblem, index: int) -> LayerProblem:
    """One element of a batch, as a batch of one."""
    part, options = slice(index, index + 1), dict(problem.options)
    for name in ("mask", "bias", "key_lengths"):
        if np.ndim(options.get(name)) in (1, 4) and len(options[name]) > 1:
            options[name] = options[name][part]
    given = tuple(operand[part] for operand in problem.given)
    return replace(problem, given=given, options=options, dout=problem.dout[part])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [case for case in CASES if case.batch == (3,)], ids=str)
def test_neighbours_in_the_batch_do_not_matter(case: LayerCase, dtype: Any) -> None:
    problem = make_problem(case, dtype)
    results = results_of(problem)
    # The gradients by these are sums over the batch.
    names = results.keys() - problem.parameters.keys() - {"bias"}
    for index in range(3):
        alone = results_of(batch_element(problem, index))
        assert_same_bits(
            {name: alone[name] for name in names}, {name: results[name][index : index + 1] for name in names}
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_tiers_of_one_rounding_give_the_same_bits(case: LayerCase, dtype: Any, isa: str) -> None:
    problem = make_problem(case, dtype)
    results = results_of(problem)
    for other in swiftattn.available_isas():
        swiftattn.set_isa(other)
        if rounding_class(other) == rounding_class(isa):
            assert_same_bits(results_of(problem), results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [1, 31, 96])
@pytest.mark.parametrize("causal", [False, "bottom_right"])
def test_queries_in_chunks_give_the_bits_of_all_at_once(causal: Any, chunk: int, dtype: Any) -> None:
    case = LayerCase((100, 150), (4, 2, 12), 40, "memory", (2,), mask="BHQK", bias="QK", causal=causal)
    problem = make_problem(case, dtype)
    whole = results_of(problem)
    query, memory = problem.given
    for start in range(0, 100, chunk if chunk > 1 else 33):
        rows = slice(start, min(start + chunk, 100))
        keys = slice(rows.stop + 50 if causal else 150)  # the last query is that of the last key
        options = {name: option[..., rows, keys] for name, option in problem.options.items() if name != "causal"}
        given = (query[:, rows], memory[:, keys])
        part = replace(problem, given=given, options={**options, "causal": causal}, dout=problem.dout[:, rows])
        found = results_of(part)
        places = {
            "output": (..., rows, slice(None)),
            "query": (..., rows, slice(None)),
            "weights": (..., rows, keys),
            "weights_of_heads": (..., rows, keys),
        }  # the others are sums over all queries
        assert_same_bits({name: found[name] for name in places}, {name: whole[name][places[name]] for name in places})


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_earlier_calls_left_in_memory_does_not_matter(dtype: Any) -> None:
    problem, other = make_problem(CASES[1], dtype), make_problem(CASES[0], dtype)
    expected = results_of(problem)
    for poison in (np.nan, np.inf, 0):
        results_of(replace(other, given=tuple(np.full_like(operand, poison) for operand in other.given)))
        assert_same_bits(results_of(problem), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_output_does_not_depend_on_what_else_is_wanted(case: LayerCase) -> None:
    problem = make_problem(case)
    layer = problem.layer()
    expected = {"output": compute_layer(layer, problem)["output"]}
    assert_same_bits({"output": layer(*problem.given, **problem.options)}, expected)
    with swiftattn.no_grad():
        assert_same_bits({"output": layer(*problem.given, **problem.options)}, expected)


@pytest.mark.parametrize("case", CASES[1:3], ids=str)
def test_one_layer_computes_in_many_threads_without_gradients(case: LayerCase) -> None:
    problem = make_problem(case)
    layer = problem.layer()
    elements = [batch_element(problem, index) for index in range(3)] * 4

    def output(element: LayerProblem) -> Array:
        with swiftattn.no_grad():
            return layer(*element.given, **element.options)

    expected = [output(element) for element in elements]
    with ThreadPoolExecutor(4) as executor:
        for found, wanted in zip(executor.map(output, elements), expected, strict=True):
            assert_same_bits({"output": found}, {"output": wanted})


# Other ways for the same numbers to lie in memory.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_strides_do_not_matter(view: View, dtype: Any) -> None:
    problem = make_problem(LayerCase((17, 33), (4, 2, 7), 20, "apart", mask="BHQK", bias="QK", rope="partial"), dtype)
    expected = results_of(problem)
    options = {name: view(array) for name, array in problem.options.items()}
    given = tuple(view(operand) for operand in problem.given)
    assert_same_bits(results_of(replace(problem, given=given, options=options, dout=view(problem.dout))), expected)


def test_broadcast_inputs_are_read_in_place() -> None:
    problem = make_problem(LayerCase((17, 33), (2, 2, 8), 20, "memory", (1,)))
    given = tuple(np.broadcast_to(operand, (3, *operand.shape[1:])) for operand in problem.given)
    repeated = replace(problem, given=given, dout=np.broadcast_to(problem.dout, given[0].shape))
    results, one = results_of(repeated), results_of(problem)
    for name in results.keys() - problem.parameters.keys():
        assert_same_bits({name: results[name]}, {name: np.repeat(one[name], 3, axis=0)})


def test_arrays_of_other_libraries_are_read() -> None:
    problem = make_problem(LayerCase((17, 33), (4, 2, 7), 20, "apart", bias="QK", key_lengths=True))
    layer = problem.layer()
    expected = compute_layer(layer, problem)
    output = layer(*map(Exporter, problem.given), **{name: Exporter(array) for name, array in problem.options.items()})
    layer.zero_grad()
    inputs = without_none(layer.backward(Exporter(problem.dout), needs_bias=True)._asdict())
    found = {"output": output, **inputs, **layer.grads}
    assert_same_bits(found, {name: expected[name] for name in found})


# What no query may see.

LEN_Q, LEN_K = 40, 70
_SEEN = np.random.default_rng(3).random((2, LEN_Q, LEN_K)) < 0.3
_SEEN[0, :, 5::7] = _SEEN[1, :, 64:] = _SEEN[:, 3] = False

UNSEEN: dict[str, dict[str, Any]] = {
    "key_lengths": {"key_lengths": np.array([33, 0])},
    "mask": {"mask": _SEEN[:, None]},
    "bias": {"bias": np.where(_SEEN[:, None], np.float32(0.25), np.float32(-np.inf))},
    "top_left": {"causal": "top_left"},
    "mask and key_lengths": {"mask": _SEEN[0], "key_lengths": np.array([LEN_K, 20]), "causal": "top_left"},
}


def seen_pairs(options: dict[str, Any]) -> Array:
    """(B, Sq, Sk): which queries attend to which keys, from the weights of clean operands."""
    layer = swiftattn.MultiHeadAttention(4, 1, seed=0)
    query, key = np.ones((2, LEN_Q, 4), np.float32), np.ones((2, LEN_K, 4), np.float32)
    return layer(query, key, **options, need_weights=True)[1] > 0


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("source", ["memory", "apart"])
@pytest.mark.parametrize("options", UNSEEN.values(), ids=UNSEEN)
def test_tokens_that_no_query_sees_reach_nothing(options: dict[str, Any], source: str, poison: float) -> None:
    case = LayerCase((LEN_Q, LEN_K), (4, 2, 8), 20, source, bias_kv=True, rope="half-split")
    clean = replace(make_problem(case), options=options)
    unseen = ~seen_pairs(options).any(axis=1)
    assert unseen.any()
    query, *others = (operand.copy() for operand in clean.given)
    for operand in others:
        operand[unseen] = poison
    results = results_of(replace(clean, given=(query, *others)))
    assert_same_bits(results, results_of(clean))
    assert not results["key"][unseen].any()


@pytest.mark.parametrize("place", [0, 31, LEN_Q - 1])
@pytest.mark.parametrize("operand", ["query", "key", "value", "dout", "bias"])
@pytest.mark.parametrize("options", UNSEEN.values(), ids=UNSEEN)
def test_poison_reaches_what_depends_on_it_and_no_other_bit(options: dict[str, Any], operand: str, place: int) -> None:
    # By the mathematics, which the reference has: what a NaN makes NaN there.
    case = LayerCase((LEN_Q, LEN_K), (4, 2, 8), 20, "apart", rope="half-split", zero_attn=True)
    clean = make_problem(case)
    bias = np.broadcast_to(np.asarray(options.get("bias", 0), np.float32), (2, 4, LEN_Q, LEN_K))
    clean = replace(clean, options={**options, "bias": bias})
    arrays = {**dict(zip(("query", "key", "value"), clean.given, strict=True)), "dout": clean.dout, "bias": bias}
    results = results_of(clean)
    for poison in (np.nan, np.inf, -np.inf):
        array = arrays[operand].copy()
        array[(1, 2, place, place + 30) if operand == "bias" else (1, place, 3)] = poison
        given = {**arrays, operand: array}
        spoilt = replace(
            clean,
            given=(given["query"], given["key"], given["value"]),
            options={**options, "bias": given["bias"]},
            dout=given["dout"],
        )
        found = results_of(spoilt)
        if np.isnan(poison):
            reached = {name: np.isnan(result) for name, result in compute_reference(spoilt).items()}
            # The weight of a pair that is masked is 0 whatever its row has become.
            masked = {**options, "bias": np.where(given["bias"] == -np.inf, given["bias"], 0)}
            for name in ("weights", "weights_of_heads"):
                reached[name] &= results_of(replace(clean, options=masked))[name] > 0
            assert_same_bits({name: np.isnan(result) for name, result in found.items()}, reached)
        for name, result in found.items():
            assert_same_bits({name: result}, {name: np.where(reached[name], result, results[name])})


@pytest.mark.parametrize("options", UNSEEN.values(), ids=UNSEEN)
def test_a_token_reaches_only_the_queries_that_see_it(options: dict[str, Any]) -> None:
    clean = replace(make_problem(LayerCase((LEN_Q, LEN_K), (4, 2, 8), 20, "memory")), options=options)
    seen = seen_pairs(options)
    batch, token = map(int, np.argwhere(seen.any(axis=1))[-1])
    query, key = (operand.copy() for operand in clean.given)
    key[batch, token] = np.nan
    layer = clean.layer()
    expected, output = layer(*clean.given, **options), layer(query, key, **options)
    reached = np.zeros(output.shape[:2], bool)
    reached[batch] = seen[batch, :, token]
    assert np.isnan(output[reached]).all()
    assert_same_bits({"output": output[~reached]}, {"output": expected[~reached]})


def test_a_batch_computed_in_parts_has_the_bits_of_the_whole() -> None:
    # What a batch element's q, k and v take is small, but of all together more than is computed at a time.
    rng = np.random.default_rng(3)
    batch, len_q, len_k, width = 81, 200, 150, 64
    layer = swiftattn.MultiHeadAttention(width, 4, add_bias_kv=True, rope=swiftattn.Rope(), seed=0)
    query, key = (rng.standard_normal((batch, length, width), dtype=np.float32) for length in (len_q, len_k))
    options: dict[str, Any] = {
        "mask": rng.random((batch, 1, 1, len_k)) < 0.7,
        "bias": rng.standard_normal((4, 1, len_k), dtype=np.float32),
        "key_lengths": rng.integers(1, len_k, batch),
    }
    for value in (None, -key):
        out, weights = layer(query, key, value, **options, need_weights=True)
        with swiftattn.no_grad():
            parts, weights_of_parts = layer(query, key, value, **options, need_weights=True)
        assert_same_bits({"out": parts, "weights": weights_of_parts}, {"out": out, "weights": weights})


def test_strides_of_no_keys_are_not_multiplied_in_parts() -> None:
    layer = swiftattn.MultiHeadAttention(64, 1, kdim=8, vdim=8, seed=0)
    query = np.zeros((4, 40000, 64), np.float32)
    no_keys = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (4, 0, 8), (2**62, 32, 4))
    with swiftattn.no_grad():
        assert not layer(query, no_keys).any()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_query_that_sees_no_key_reaches_no_gradient(poison: float) -> None:
    layer = swiftattn.MultiHeadAttention(8, 2, seed=0)
    query = np.full((2, 3, 8), poison, np.float32)
    gradients = layer.backward(np.ones_like(layer(query, query[:, :0])))
    assert not gradients.query.any()
    assert not layer.grads["in_proj_weight"].any()


def test_a_call_keeps_the_instruction_set_with_which_it_began(isa: str) -> None:
    layer = swiftattn.MultiHeadAttention(128, 4, seed=0)
    x = np.random.default_rng(0).standard_normal((1, 6000, 128), dtype=np.float32)
    # Of another's bits: those of the tiers with FMA are the same.
    other = "baseline" if isa != "baseline" else swiftattn.available_isas()[0]
    with swiftattn.no_grad():
        expected = layer(x)
        # Python handles signals in the midst of a long call.
        before = signal.signal(signal.SIGALRM, lambda *_: swiftattn.set_isa(other))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.01)
        try:
            found = layer(x)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            swiftattn.set_isa(isa)
    assert_same_bits({"out": found}, {"out": expected})
