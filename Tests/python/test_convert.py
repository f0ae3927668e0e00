"""Converted weights give what the model that they come from computes, by its own formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Array
from helpers import assert_same_bits
from swiftattn import MultiHeadAttention, Rope, convert
from views import Exporter

E, HEADS, D, LENGTH = 24, 4, 6, 7
State = dict[str, Array]


def weights_of(shapes: dict[str, tuple[int, ...]], prefix: str = "") -> State:
    """Random arrays by name, scaled so that all that a layer computes is of order 1."""
    random = np.random.default_rng(11)
    return {prefix + name: random.normal(size=shape) / np.sqrt(max(shape) / 2) for name, shape in shapes.items()}


def linear(rows: dict[str, int], columns: dict[str, int] | int, *biased: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of linear layers, and of the biases of some of them."""
    width = columns if isinstance(columns, dict) else dict.fromkeys(rows, columns)
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (rows[name], width[name]) for name in rows}
    return shapes | {f"{name}.bias": (rows[name],) for name in biased}


# The models' formulas, one head and one token at a time.


def softmax_over(scores: Array) -> Array:
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def attend(q: Array, k: Array, v: Array, *, scale: float, causal: bool = False, bias: Array | None = None) -> Array:
    """(S, H, D) queries, and keys and values with as many heads, to (S, H * D)."""
    length, heads, _ = q.shape
    rows = np.zeros_like(q)
    for i in range(length):
        for h in range(heads):
            seen = i + 1 if causal else len(k)
            scores = scale * (k[:seen, h] @ q[i, h])
            scores += 0 if bias is None else bias[h, i, :seen]
            rows[i, h] = softmax_over(scores) @ v[:seen, h]
    return rows.reshape(length, -1)


def half_rotated(x: Array, base: float) -> Array:
    """Llama: x cos + rotate_half(x) sin, with the angles of the first half repeated in the second."""
    length, _, dim = x.shape
    angles = np.outer(np.arange(length), base ** (-np.arange(0, dim, 2) / dim))
    angles = np.concatenate([angles, angles], axis=1)[:, None]
    half = np.concatenate([-x[..., dim // 2 :], x[..., : dim // 2]], axis=-1)
    return x * np.cos(angles) + half * np.sin(angles)


def pairs_rotated(x: Array, dim: int) -> Array:
    """GLM: the first `dim` numbers as complex ones of neighbours, turned; the rest as it is."""
    angles = np.outer(np.arange(len(x)), 10000.0 ** (-np.arange(0, dim, 2) / dim))
    turned = (x[..., 0:dim:2] + 1j * x[..., 1:dim:2]) * np.exp(1j * angles)[:, None]
    return np.concatenate([np.stack([turned.real, turned.imag], axis=-1).reshape(*x.shape[:2], dim), x[..., dim:]], -1)


def bert(state: State, x: Array, memory: Array) -> Array:
    def heads(name: str, tokens: Array) -> Array:
        return (tokens @ state[f"self.{name}.weight"].T + state[f"self.{name}.bias"]).reshape(len(tokens), HEADS, D)

    merged = attend(heads("query", x), heads("key", memory), heads("value", memory), scale=1 / np.sqrt(D))
    return merged @ state["output.dense.weight"].T + state["output.dense.bias"]


def gpt2(state: State, x: Array) -> Array:
    projected = x @ state["c_attn.weight"] + state["c_attn.bias"]
    q, k, v = (part.reshape(LENGTH, HEADS, D) for part in np.split(projected, 3, axis=1))
    return attend(q, k, v, scale=1 / np.sqrt(D), causal=True) @ state["c_proj.weight"] + state["c_proj.bias"]


def llama(state: State, x: Array, base: float, heads_kv: int) -> Array:
    def heads(name: str) -> Array:
        return (x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)).reshape(LENGTH, -1, D)

    q, k = half_rotated(heads("q_proj"), base), half_rotated(heads("k_proj"), base)
    k, v = (np.repeat(part, HEADS // heads_kv, axis=1) for part in (k, heads("v_proj")))
    merged = attend(q, k, v, scale=1 / np.sqrt(D), causal=True)
    return merged @ state["o_proj.weight"].T + state.get("o_proj.bias", 0)


def glm(state: State, x: Array, heads_kv: int) -> Array:
    projected = x @ state["query_key_value.weight"].T + state.get("query_key_value.bias", 0)
    q, k, v = np.split(projected.reshape(LENGTH, -1, D), [HEADS, HEADS + heads_kv], axis=1)
    q, k = pairs_rotated(q, 4), pairs_rotated(k, 4)
    k, v = (np.repeat(part, HEADS // heads_kv, axis=1) for part in (k, v))
    merged = attend(q, k, v, scale=1 / np.sqrt(D), causal=True)
    return merged @ state["dense.weight"].T + state.get("dense.bias", 0)


def by_head(state: State, x: Array, heads_kv: int) -> Array:
    """GPT-NeoX and BLOOM, and Falcon, where query heads share key and value; without positions."""
    projected = x @ state["query_key_value.weight"].T + state["query_key_value.bias"]
    grouped = projected.reshape(LENGTH, heads_kv, HEADS // heads_kv + 2, D)
    q = grouped[:, :, :-2].reshape(LENGTH, HEADS, D)
    k, v = (np.repeat(grouped[:, :, n], HEADS // heads_kv, axis=1) for n in (-2, -1))
    merged = attend(q, k, v, scale=1 / np.sqrt(D), causal=True)
    return merged @ state["dense.weight"].T + state["dense.bias"]


def t5(state: State, x: Array, memory: Array, bias: Array) -> Array:
    q, k, v = (
        (tokens @ state[f"{name}.weight"].T).reshape(len(tokens), HEADS, D)
        for name, tokens in (("q", x), ("k", memory), ("v", memory))
    )
    return attend(q, k, v, scale=1, bias=bias) @ state["o.weight"].T


# Each against the layer.


def sequence(length: int = LENGTH, width: int = E) -> Array:
    return np.random.default_rng(length).normal(size=(length, width))


def loaded(state: State, embed_dim: int = E, **options: Any) -> MultiHeadAttention:
    layer = MultiHeadAttention(embed_dim, HEADS, head_dim=D, dtype=np.float64, **options)
    layer.load_state_dict(state)
    return layer


def assert_close(ours: Array, theirs: Array) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)


BERT = dict.fromkeys(("self.query", "self.key", "self.value", "output.dense"), HEADS * D)


def test_bert() -> None:
    state = weights_of(linear(BERT, E, *BERT))
    layer = loaded(convert.from_bert(state))
    x = sequence()
    assert_close(layer(x), bert(state, x, x))


def test_bert_attending_to_a_memory_of_another_width() -> None:
    state = weights_of(linear(BERT, {"self.query": E, "self.key": 10, "self.value": 10, "output.dense": E}, *BERT))
    layer = loaded(convert.from_bert(state), kdim=10, vdim=10)
    x, memory = sequence(), sequence(5, 10)
    assert_close(layer(x, memory), bert(state, x, memory))


def test_gpt2() -> None:
    shapes = {"c_attn.weight": (E, 3 * E), "c_attn.bias": (3 * E,), "c_proj.weight": (E, E), "c_proj.bias": (E,)}
    state = weights_of(shapes)
    x = sequence()
    # The buffer of its causal mask has a name that other models give a parameter.
    layer = loaded(convert.from_gpt2(state | {"bias": np.tri(9), "masked_bias": np.array(-1e4)}))
    assert_close(layer(x, causal=True), gpt2(state, x))


@pytest.mark.parametrize(("embed", "heads_kv"), [(E, HEADS), (E, 2), (20, 1)])
@pytest.mark.parametrize(
    "biased", [(), ("q_proj", "k_proj", "v_proj"), ("o_proj",), ("q_proj", "k_proj", "v_proj", "o_proj")]
)
def test_llama(embed: int, heads_kv: int, biased: tuple[str, ...]) -> None:
    rows = {"q_proj": HEADS * D, "k_proj": heads_kv * D, "v_proj": heads_kv * D, "o_proj": embed}
    columns = dict.fromkeys(rows, embed) | {"o_proj": HEADS * D}
    state = weights_of(linear(rows, columns, *biased))
    layer = loaded(convert.from_llama(state), embed, num_kv_heads=heads_kv, bias=bool(biased), rope=Rope(base=500000.0))
    x = sequence(width=embed)
    assert_close(layer(x, causal=True), llama(state, x, 500000.0, heads_kv))


@pytest.mark.parametrize("heads_kv", [HEADS, 2, 1])
@pytest.mark.parametrize("biased", [(), ("query_key_value",), ("query_key_value", "dense")])
def test_glm(heads_kv: int, biased: tuple[str, ...]) -> None:
    rows = {"query_key_value": (HEADS + 2 * heads_kv) * D, "dense": E}
    state = weights_of(linear(rows, {"query_key_value": E, "dense": HEADS * D}, *biased))
    arguments = {} if heads_kv == HEADS else {"num_kv_heads": heads_kv}
    converted = convert.from_glm(state, num_heads=HEADS, **arguments)
    layer = loaded(converted, num_kv_heads=heads_kv, bias=bool(biased), rope=Rope(dim=4, interleaved=True))
    x = sequence()
    assert_close(layer(x, causal=True), glm(state, x, heads_kv))


@pytest.mark.parametrize("heads_kv", [HEADS, 2, 1])
def test_fused_projections_by_head(heads_kv: int) -> None:
    rows = {"query_key_value": (HEADS + 2 * heads_kv) * D, "dense": E}
    state = weights_of(linear(rows, {"query_key_value": E, "dense": HEADS * D}, *rows))
    layer = loaded(
        convert.from_glm(state, num_heads=HEADS, num_kv_heads=heads_kv, per_head=True), num_kv_heads=heads_kv
    )
    x = sequence()
    assert_close(layer(x, causal=True), by_head(state, x, heads_kv))


def test_t5() -> None:
    rows = dict.fromkeys("qkv", HEADS * D) | {"o": 20}
    state = weights_of(linear(rows, dict.fromkeys("qkv", 20) | {"o": HEADS * D}))
    layer = loaded(convert.from_t5(state, num_heads=HEADS), 20, bias=False)
    x, memory = sequence(width=20), sequence(5, 20)
    bias = np.random.default_rng(0).normal(size=(HEADS, LENGTH, 5))
    assert_close(layer(x, memory, bias=bias), t5(state, x, memory, bias))


# What all have in common.

SQUARE: dict[str, tuple[Callable[..., State], dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "bert": (convert.from_bert, {}, linear(BERT, E, *BERT)),
    "gpt2": (
        convert.from_gpt2,
        {},
        {"c_attn.weight": (E, 3 * E), "c_attn.bias": (3 * E,), "c_proj.weight": (E, E), "c_proj.bias": (E,)},
    ),
    "llama": (convert.from_llama, {}, linear(dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), E), E)),
    "glm": (
        convert.from_glm,
        {"num_heads": HEADS},
        linear({"query_key_value": 3 * E, "dense": E}, E, "query_key_value"),
    ),
    "by head": (
        convert.from_glm,
        {"num_heads": HEADS, "per_head": True},
        linear({"query_key_value": 3 * E, "dense": E}, E, "dense"),
    ),
    "t5": (convert.from_t5, {"num_heads": HEADS}, linear(dict.fromkeys("qkvo", E), E)),
}
_EVERY = pytest.mark.parametrize(("function", "arguments", "shapes"), SQUARE.values(), ids=SQUARE)


@_EVERY
def test_prefix_is_what_stands_before_the_names(
    function: Callable[..., State], arguments: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    plain, other = weights_of(shapes), {name: np.ones(1) for name in shapes}
    prefixed = {f"layers.1.{name}": array for name, array in plain.items()}
    assert_same_bits(function(prefixed | other, "layers.1.", **arguments), function(plain, **arguments))
    with pytest.raises(KeyError) as error:
        function(plain, "layers.0.", **arguments)
    assert all(f"layers.0.{name}" in str(error.value) for name in shapes if name.endswith("weight"))


@_EVERY
def test_state_is_not_changed_and_its_dtype_is_kept(
    function: Callable[..., State], arguments: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    for dtype in (np.float32, np.float16):
        state = {name: array.astype(dtype) for name, array in weights_of(shapes).items()}
        kept = {name: array.copy() for name, array in state.items()}
        converted = function(state, **arguments)
        assert {array.dtype for array in converted.values()} == {np.dtype(dtype)}
        assert_same_bits(state, kept)
        layer = MultiHeadAttention(E, HEADS, bias=any(name.endswith("bias") for name in shapes))
        assert list(converted) == list(layer.parameters)
        layer.load_state_dict(converted)


@_EVERY
def test_arrays_of_other_libraries_are_read(
    function: Callable[..., State], arguments: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    state = weights_of(shapes)
    exported: dict[str, Any] = {name: Exporter(array) for name, array in state.items()}
    assert_same_bits(function(exported, **arguments), function(state, **arguments))


@_EVERY
def test_wrong_arrays_are_named(
    function: Callable[..., State], arguments: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    state = {f"p.{name}": array for name, array in weights_of(shapes).items()}
    for name, array in state.items():
        with pytest.raises(TypeError, match=f"{name}.*int64"):
            function({**state, name: array.astype(np.int64)}, "p.", **arguments)
        with pytest.raises(ValueError, match=name):
            function({**state, name: array[None]}, "p.", **arguments)
        if name.endswith("bias"):
            for wrong in (array[:-1], np.append(array, 0)):
                with pytest.raises(ValueError, match=name):
                    function({**state, name: wrong}, "p.", **arguments)


def test_missing_names_are_all_listed() -> None:
    state = weights_of(linear(BERT, E, *BERT), "p.")
    del state["p.self.key.weight"], state["p.output.dense.weight"]
    with pytest.raises(KeyError, match=r"p\.self\.key\.weight, p\.output\.dense\.weight") as error:
        convert.from_bert(state, "p.")
    assert "query" not in str(error.value)


def test_biases_of_query_key_and_value_come_together() -> None:
    state = weights_of(linear(BERT, E, *BERT), "p.")
    del state["p.self.key.bias"]
    with pytest.raises(KeyError, match=r"p\.self\.key\.bias"):
        convert.from_bert(state, "p.")


@pytest.mark.parametrize(
    "arguments",
    [{"num_heads": 0}, {"num_heads": 4, "num_kv_heads": 3}, {"num_heads": 4, "num_kv_heads": 0}, {"num_heads": 5}],
    ids=str,
)
def test_heads_must_divide_the_rows(arguments: dict[str, int]) -> None:
    state = weights_of(linear({"query_key_value": 3 * E, "dense": E}, E))
    with pytest.raises(ValueError, match="heads"):
        convert.from_glm(state, **arguments)
    if "num_kv_heads" not in arguments:
        with pytest.raises(ValueError, match=r"num_(kv_)?heads"):
            convert.from_t5(weights_of(linear(dict.fromkeys("qkvo", E), E)), **arguments)


@pytest.mark.parametrize("heads", ["2", None, True, 2.0], ids=repr)
def test_numbers_of_heads_are_integers(heads: Any) -> None:
    with pytest.raises(TypeError, match="num_heads must be an int"):
        convert.from_glm(weights_of(linear({"query_key_value": 3 * E, "dense": E}, E)), num_heads=heads)
    with pytest.raises(TypeError, match="num_heads must be an int"):
        convert.from_t5(weights_of(linear(dict.fromkeys("qkvo", E), E)), num_heads=heads)


def test_convert_is_an_attribute_of_the_package() -> None:
    assert swiftattn.convert is convert
    assert set(convert.__all__) == {name for name in dir(convert) if name.startswith("from_")}
