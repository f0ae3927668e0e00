"""A wrong layer or a wrong call of it is the right exception, and its message names the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import Array
from helpers import assert_same_bits
from swiftattn import MultiHeadAttention, Rope

# The arguments of the class, the exception, and what its message says.
BAD_LAYERS: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"embed_dim": 0}, ValueError, "embed_dim.*0"),
    ({"embed_dim": 8.0}, TypeError, "embed_dim.*float"),
    ({"embed_dim": 10}, ValueError, "embed_dim.*num_heads.*10.*4"),
    ({"num_heads": 0}, ValueError, "num_heads.*0"),
    ({"num_heads": -4}, ValueError, "num_heads.*-4"),
    ({"num_heads": None}, TypeError, "num_heads.*None"),
    ({"num_heads": True}, TypeError, "num_heads.*bool"),
    ({"num_kv_heads": 3}, ValueError, "num_heads.*num_kv_heads.*4.*3"),
    ({"num_kv_heads": 8}, ValueError, "num_heads.*num_kv_heads.*4.*8"),
    ({"num_kv_heads": 0}, ValueError, "num_kv_heads.*0"),
    ({"head_dim": 0}, ValueError, "head_dim.*0"),
    ({"head_dim": "2"}, TypeError, "head_dim.*str"),
    ({"kdim": -1}, ValueError, "kdim.*-1"),
    ({"vdim": 0}, ValueError, "vdim.*0"),
    ({"vdim": [8]}, TypeError, "vdim.*list"),
    ({"bias": np.zeros(3)}, TypeError, "bias.*ndarray"),
    ({"add_bias_kv": 1}, TypeError, "add_bias_kv.*int"),
    ({"add_zero_attn": "no"}, TypeError, "add_zero_attn.*str"),
    ({"dropout": 0.1}, NotImplementedError, "dropout.*0.0.*0.1"),
    ({"rope": True}, TypeError, "rope.*Rope.*bool"),
    ({"rope": Rope(dim=4)}, ValueError, "rope.*4.*head_dim.*2"),
    ({"rope": Rope(), "head_dim": 3}, ValueError, "rope.*head_dim.*3"),
    ({"dtype": np.float16}, TypeError, "dtype.*float32 or float64.*float16"),
    ({"dtype": None}, TypeError, "dtype.*float32 or float64"),
    ({"dtype": np.dtype(np.float32).newbyteorder()}, TypeError, "dtype.*float32 or float64"),
)

BAD_ROPES: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"dim": 3}, ValueError, "dim.*even.*3"),
    ({"dim": 0}, ValueError, "dim.*0"),
    ({"dim": 2.0}, TypeError, "dim.*float"),
    ({"base": 0}, ValueError, "base.*0"),
    ({"base": -1e4}, ValueError, "base.*-10000"),
    ({"base": np.inf}, ValueError, "base.*inf"),
    ({"base": "10000"}, TypeError, "base.*str"),
    ({"scaling": 0.0}, ValueError, "scaling.*0"),
    ({"scaling": np.nan}, ValueError, "scaling.*nan"),
    ({"scaling": None}, TypeError, "scaling.*None"),
    ({"interleaved": 1}, TypeError, "interleaved.*int"),
    ({"offset": 0.5}, TypeError, "offset.*float"),
    ({"offset": None}, TypeError, "offset.*None"),
    ({"offset": 2**53 + 1}, ValueError, "offset.*9007199254740993"),
    ({"key_offset": 1.0}, TypeError, "key_offset.*float"),
    ({"key_offset": -(2**64)}, ValueError, "key_offset.*-18446744073709551616"),
)


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_LAYERS)
def test_a_wrong_layer_is_an_error(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MultiHeadAttention(**{"embed_dim": 8, "num_heads": 4, **arguments})


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ROPES)
def test_a_wrong_rope_is_an_error(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Rope(**arguments)


def test_numpys_scalars_are_as_good_as_pythons() -> None:
    rope = Rope(np.int32(2), np.float32(100), np.int64(2), np.True_, np.int8(1), np.uint8(3))
    assert rope == Rope(2, 100.0, 2.0, True, 1, 3)
    assert repr(rope) == repr(Rope(2, 100.0, 2.0, True, 1, 3))
    layer = MultiHeadAttention(np.int64(8), np.int32(4), num_kv_heads=np.int16(2), bias=np.False_, rope=rope)
    assert repr(layer) == repr(MultiHeadAttention(8, 4, num_kv_heads=2, bias=False, rope=rope))
    assert layer(np.ones((1, 3, 8), np.float32)).shape == (1, 3, 8)


# Calls of a layer with 4 query and 2 key/value heads, embed_dim 8, kdim 5 and vdim 6.


def zeros(*shape: int, dtype: Any = np.float32) -> Array:
    return np.zeros(shape, dtype)


GOOD = {"query": zeros(2, 3, 8), "key": zeros(2, 4, 5), "value": zeros(2, 4, 6)}

BAD_CALLS: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    # kinds and dtypes
    ({"query": None}, TypeError, "query"),
    ({"query": [[1.0] * 8]}, TypeError, "query.*list"),
    ({"query": zeros(2, 3, 8, dtype=np.float64)}, TypeError, r"query\b.*float64"),
    ({"query": zeros(2, 3, 8, dtype=np.float16)}, TypeError, "query.*float16"),
    ({"key": zeros(2, 4, 5, dtype=np.float64)}, TypeError, "key.*float64"),
    ({"key": "key"}, TypeError, "key.*str"),
    ({"value": zeros(2, 4, 6, dtype=np.int64)}, TypeError, "value.*int64"),
    # shapes
    ({"query": zeros(8)}, ValueError, "query"),
    ({"query": zeros()}, ValueError, "query"),
    ({"query": zeros(3, 8)}, ValueError, "query|key"),
    ({"query": zeros(3, 3, 8)}, ValueError, "query|key"),
    ({"query": zeros(2, 3, 7)}, ValueError, "query.*7"),
    ({"query": zeros(2, 3, 0)}, ValueError, "query.*0"),
    ({"key": zeros(2, 4, 8)}, ValueError, "key.*8"),
    ({"key": zeros(4, 5)}, ValueError, "key"),
    ({"key": zeros(1, 4, 5)}, ValueError, "key"),
    ({"value": zeros(2, 4, 5)}, ValueError, "value.*5"),
    ({"value": zeros(2, 5, 6)}, ValueError, "value.*5|key.*4"),
    ({"value": zeros(1, 4, 6)}, ValueError, "value"),
    ({"key": None, "value": None}, ValueError, "key|value|query"),  # kdim and vdim are not embed_dim
    ({"value": None}, ValueError, "value|key"),
    ({"key": None}, ValueError, "key"),
    # masks
    ({"mask": zeros(3, 4)}, TypeError, "mask.*float32.*bool"),
    ({"mask": zeros(3, 4, dtype=np.uint8)}, TypeError, "mask.*uint8.*bool"),
    ({"mask": zeros(4, 3, dtype=bool)}, ValueError, "mask"),
    ({"mask": zeros(3, 1, 1, 1, dtype=bool)}, ValueError, "mask"),
    ({"mask": zeros(1, 2, 4, 3, 4, dtype=bool)}, ValueError, "mask"),
    ({"mask": True}, TypeError, "mask.*bool"),
    ({"bias": zeros(3, 4, dtype=np.float64)}, TypeError, "bias.*float64|float32.*bias"),
    ({"bias": zeros(3, 4, dtype=bool)}, TypeError, "bias.*bool"),
    ({"bias": zeros(3, 3)}, ValueError, "bias"),
    ({"bias": zeros(2, 2, 3, 4)}, ValueError, "bias"),
    ({"bias": 0.0}, TypeError, "bias.*float"),
    # causal and lengths
    ({"causal": True}, ValueError, "causal.*3.*4"),
    ({"causal": "left"}, ValueError, "causal.*left"),
    ({"causal": 1}, TypeError, "causal.*1"),
    ({"causal": None}, TypeError, "causal.*None"),
    ({"key_lengths": np.array([1, 5])}, ValueError, "key_lengths.*5"),
    ({"key_lengths": np.array([-1, 2])}, ValueError, "key_lengths.*-1"),
    ({"key_lengths": np.array([1, 2, 3])}, ValueError, "key_lengths"),
    ({"key_lengths": np.array([1.0, 2.0])}, TypeError, "key_lengths.*float64"),
    ({"key_lengths": [1, 2]}, TypeError, "key_lengths.*list"),
)


@pytest.mark.parametrize(("change", "error", "message"), BAD_CALLS)
def test_a_wrong_call_is_an_error(change: dict[str, Any], error: type[Exception], message: str) -> None:
    layer = MultiHeadAttention(8, 4, num_kv_heads=2, kdim=5, vdim=6)
    layer(**GOOD)
    with pytest.raises(error, match=message):
        layer(**{**GOOD, **change})
    with pytest.raises(RuntimeError, match="backward"):  # nothing was kept, and the good call's has been dropped
        layer.backward(zeros(2, 3, 8))


def test_self_attention_names_its_one_argument() -> None:
    layer = MultiHeadAttention(8, 4)
    for query, error, message in (
        (zeros(2, 3, 8, dtype=np.float64), TypeError, r"^query\b.*float64"),
        (zeros(2, 3, 7), ValueError, "^query.*7.*8"),
        (zeros(8), ValueError, r"^query.*\(8,\)"),
    ):
        with pytest.raises(error, match=message):
            layer(query)


def test_a_layer_works_after_a_wrong_call() -> None:
    layer = MultiHeadAttention(8, 4, num_kv_heads=2, kdim=5, vdim=6, seed=0)
    operands = {name: np.ones_like(array) for name, array in GOOD.items()}
    expected = layer(**operands)
    with pytest.raises(ValueError, match="key_lengths"):
        layer(**operands, key_lengths=np.array([9, 9]))
    assert_same_bits({"output": layer(**operands)}, {"output": expected})
    layer.backward(expected)


def test_unknown_arguments_are_python_errors() -> None:
    layer: Any = MultiHeadAttention(8, 4)
    with pytest.raises(TypeError, match="attn_mask"):
        layer(zeros(2, 3, 8), attn_mask=None)
    with pytest.raises(TypeError, match="positional"):
        layer(zeros(2, 3, 8), None, None, None)
    with pytest.raises(TypeError, match="query"):
        layer()
