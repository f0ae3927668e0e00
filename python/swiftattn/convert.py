"""Attention weights of well-known models, by the names and in the layouts that MultiHeadAttention has.

Each function takes a state dict, a mapping of names to arrays as a checkpoint has it, and the prefix of the names of
one attention layer, and returns a dict for `MultiHeadAttention.load_state_dict`:

    >>> import numpy as np, swiftattn
    >>> shapes = {"self.query": (8, 8), "self.key": (8, 8), "self.value": (8, 8), "output.dense": (8, 8)}
    >>> bert = {f"layer.0.attention.{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    >>> bert |= {f"layer.0.attention.{name}.bias": np.zeros(rows, np.float32) for name, (rows, _) in shapes.items()}
    >>> layer = swiftattn.MultiHeadAttention(8, 2)
    >>> _ = layer.load_state_dict(swiftattn.convert.from_bert(bert, "layer.0.attention."))

Shape letters as in MultiHeadAttention: E = embed_dim, Hq = num_heads, Hkv = num_kv_heads, D = head_dim. Common to all:

- Values are NumPy arrays of a floating dtype, or what `load_state_dict` reads besides, such as CPU tensors of PyTorch.
  The arrays returned have their dtypes and may share their memory. Other names in the state are ignored.
- The result is for a layer with bias=True if the source has biases, and for one with bias=False if it has none. Where
  only the projections of query, key and value have biases, or only that of the output, zeros stand for the others.
  Where only some of query, key and value have them, that is an error.
- KeyError lists the names that are missing, with the prefix. ValueError: an array does not have the dimensions that
  its name asks for, a bias is not as long as its weight, or heads do not divide the rows. TypeError: a value is not an
  array of a floating dtype. That the arrays fit the layer is judged by `load_state_dict`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ._layer_config import judged_integer
from ._layer_parameters import read_array

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._types import Array

__all__ = ["from_bert", "from_glm", "from_gpt2", "from_llama", "from_t5"]


def from_bert(state: Mapping[str, Any], prefix: str = "") -> dict[str, Array]:
    """Convert the attention of BERT and of models with its names, such as RoBERTa.

    Parameters
    ----------
    state : mapping of names to arrays
        With `self.query.weight` (Hq D, E), `self.key.weight` and `self.value.weight` (Hq D, E), `output.dense.weight`
        (E, Hq D), and the biases `self.query.bias`, `self.key.bias`, `self.value.bias` (Hq D), `output.dense.bias` (E).
    prefix : str, default ""
        What stands before these names, such as "bert.encoder.layer.0.attention.". With that of a cross-attention layer
        whose keys and values have another width, the result is for a layer with that kdim and vdim.

    Returns
    -------
    dict of arrays for MultiHeadAttention(E, Hq)

    Raises
    ------
    KeyError, ValueError, TypeError
        As the module says.

    Examples
    --------
    >>> import numpy as np, swiftattn
    >>> random = np.random.default_rng(0)
    >>> names = ("self.query", "self.key", "self.value", "output.dense")
    >>> state = {f"attention.{name}.weight": random.standard_normal((12, 12)) for name in names}
    >>> state |= {f"attention.{name}.bias": random.standard_normal(12) for name in names}
    >>> layer = swiftattn.MultiHeadAttention(12, 3)
    >>> _ = layer.load_state_dict(swiftattn.convert.from_bert(state, "attention."))
    >>> layer(np.ones((1, 5, 12), np.float32), key_lengths=np.array([4])).shape
    (1, 5, 12)
    """
    return _from_linear_layers(state, prefix, ("self.query", "self.key", "self.value"), "output.dense")


def from_gpt2(state: Mapping[str, Any], prefix: str = "") -> dict[str, Array]:
    """Convert the attention of GPT-2, whose Conv1D weights are transposed: one column per output.

    Parameters
    ----------
    state : mapping of names to arrays
        With `c_attn.weight` (E, 3 E), `c_attn.bias` (3 E), `c_proj.weight` (E, E), one row per input, and `c_proj.bias`
        (E).
    prefix : str, default ""
        What stands before these names, such as "transformer.h.0.attn.".

    Returns
    -------
    dict of arrays for MultiHeadAttention(E, Hq), to be called with causal=True

    Raises
    ------
    KeyError, ValueError, TypeError
        As the module says.

    Examples
    --------
    >>> import numpy as np, swiftattn
    >>> random = np.random.default_rng(0)
    >>> state = {"c_attn.weight": random.standard_normal((12, 36)), "c_attn.bias": np.zeros(36)}
    >>> state |= {"c_proj.weight": random.standard_normal((12, 12)), "c_proj.bias": np.zeros(12)}
    >>> layer = swiftattn.MultiHeadAttention(12, 3)
    >>> _ = layer.load_state_dict(swiftattn.convert.from_gpt2(state))
    >>> layer(np.ones((1, 5, 12), np.float32), causal=True).shape
    (1, 5, 12)
    """
    fused, out = (weight.T for weight in _read(state, prefix, ("c_attn.weight", "c_proj.weight"), rank=2))
    return _state_dict(
        [fused], _read_biases(state, prefix, {"c_attn": fused}), out, _read_biases(state, prefix, {"c_proj": out})
    )


def from_llama(state: Mapping[str, Any], prefix: str = "") -> dict[str, Array]:
    """Convert the attention of Llama and of models with its names, such as Mistral and Qwen2.

    Parameters
    ----------
    state : mapping of names to arrays
        With `q_proj.weight` (Hq D, E), `k_proj.weight` and `v_proj.weight` (Hkv D, E), `o_proj.weight` (E, Hq D) and,
        if the model has them, `q_proj.bias` (Hq D), `k_proj.bias`, `v_proj.bias` (Hkv D) and `o_proj.bias` (E). Qwen2
        has the first three of these biases: out_proj.bias is then zero.
    prefix : str, default ""
        What stands before these names, such as "model.layers.0.self_attn.".

    Returns
    -------
    dict of arrays for MultiHeadAttention(E, Hq, num_kv_heads=Hkv, head_dim=D, rope=Rope(base=...))
        With bias=False if there are no biases, as in Llama; to be called with causal=True. base is the model's
        rope_theta. The names here are those of checkpoints in the Hugging Face layout, whose pairs are a half of the
        head apart (interleaved=False).

    Raises
    ------
    KeyError, ValueError, TypeError
        As the module says.

    Examples
    --------
    >>> import numpy as np, swiftattn
    >>> random = np.random.default_rng(0)
    >>> shapes = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}
    >>> state = {f"self_attn.{name}.weight": random.standard_normal(shape) for name, shape in shapes.items()}
    >>> rope = swiftattn.Rope(base=500000.0)
    >>> layer = swiftattn.MultiHeadAttention(16, 4, num_kv_heads=2, bias=False, rope=rope)
    >>> _ = layer.load_state_dict(swiftattn.convert.from_llama(state, "self_attn."))
    >>> layer(np.ones((1, 5, 16), np.float32), causal=True).shape
    (1, 5, 16)
    """
    return _from_linear_layers(state, prefix, ("q_proj", "k_proj", "v_proj"), "o_proj")


def from_glm(
    state: Mapping[str, Any],
    prefix: str = "",
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    per_head: bool = False,
) -> dict[str, Array]:
    """Convert attention whose query, key and value are one projection, `query_key_value`, as in GLM.

    Parameters
    ----------
    state : mapping of names to arrays
        With `query_key_value.weight` ((Hq + 2 Hkv) D, E), `dense.weight` (E, Hq D) and, if the model has them,
        `query_key_value.bias` ((Hq + 2 Hkv) D) and `dense.bias` (E). GLM-4 has the first of these biases only:
        out_proj.bias is then zero.
    prefix : str, default ""
        What stands before these names, such as "transformer.encoder.layers.0.self_attention.".
    num_heads : int
        Hq.
    num_kv_heads : int, optional
        Hkv; default: num_heads.
    per_head : bool, default False
        The order of the rows. False: all heads of query, then all of key, then all of value, as in GLM-4 and in
        ChatGLM2 and 3 with multi_query_attention. True: one key/value head after the other, each as the query heads
        that use it, its key, its value, as in GPT-NeoX and BLOOM, where every head has its own key and value, and in
        Falcon. (The positions of BLOOM, ALiBi, are the bias of each call.)

    Returns
    -------
    dict of arrays for MultiHeadAttention(E, Hq, num_kv_heads=Hkv, head_dim=D, rope=...)
        With bias=False if there are no biases. GLM-4 turns the first half of each head, Rope(dim=D // 2,
        interleaved=True); GPT-NeoX turns the first rotary_pct of it, with interleaved=False.

    Raises
    ------
    KeyError, ValueError, TypeError
        As the module says; ValueError also for numbers of heads that are not positive or do not divide each other.

    Examples
    --------
    >>> import numpy as np, swiftattn
    >>> random = np.random.default_rng(0)
    >>> state = {"query_key_value.weight": random.standard_normal((32, 16)), "query_key_value.bias": np.zeros(32)}
    >>> state |= {"dense.weight": random.standard_normal((16, 16))}
    >>> rope = swiftattn.Rope(dim=2, interleaved=True)
    >>> layer = swiftattn.MultiHeadAttention(16, 4, num_kv_heads=2, rope=rope)
    >>> _ = layer.load_state_dict(swiftattn.convert.from_glm(state, num_heads=4, num_kv_heads=2))
    >>> layer(np.ones((1, 5, 16), np.float32), causal=True).shape
    (1, 5, 16)
    """
    num_heads = judged_integer("num_heads", num_heads, least=1)
    kv = num_heads if num_kv_heads is None else judged_integer("num_kv_heads", num_kv_heads, least=1, optional=True)
    if num_heads % kv != 0:
        raise ValueError(f"num_heads must be a multiple of num_kv_heads, not {num_heads} for {kv}")
    fused, out = _read(state, prefix, ("query_key_value.weight", "dense.weight"), rank=2)
    if len(fused) % (num_heads + 2 * kv) != 0:
        raise ValueError(
            f"{prefix}query_key_value.weight has {len(fused)} rows, which {num_heads} heads of query and {kv} of key "
            "and value do not divide"
        )
    biases = _read_biases(state, prefix, {"query_key_value": fused})
    if per_head:
        order = _rows_by_kind(len(fused), num_heads, kv)
        fused, biases = fused[order], biases and [bias[order] for bias in biases]
    return _state_dict([fused], biases, out, _read_biases(state, prefix, {"dense": out}))


def from_t5(state: Mapping[str, Any], prefix: str = "", *, num_heads: int) -> dict[str, Array]:
    """Convert the attention of T5, which does not divide its scores by sqrt(D).

    The layer does divide them, so that the query's weight is multiplied by sqrt(D) here, D being its rows / num_heads.

    Parameters
    ----------
    state : mapping of names to arrays
        With `q.weight`, `k.weight`, `v.weight` (Hq D, E) and `o.weight` (E, Hq D). T5 has no biases.
    prefix : str, default ""
        What stands before these names, such as "encoder.block.0.layer.0.SelfAttention.".
    num_heads : int
        Hq.

    Returns
    -------
    dict of arrays for MultiHeadAttention(E, Hq, head_dim=D, bias=False)
        T5's relative positions are the bias of each call, of shape (Hq, Sq, Sk):
        relative_attention_bias.weight[bucket(j - i)] of a stack's first layer, its heads axis first.

    Raises
    ------
    KeyError, ValueError, TypeError
        As the module says; ValueError also for a number of heads that is not positive.

    Examples
    --------
    >>> import numpy as np, swiftattn
    >>> random = np.random.default_rng(0)
    >>> shapes = {"q": (24, 16), "k": (24, 16), "v": (24, 16), "o": (16, 24)}
    >>> state = {f"SelfAttention.{name}.weight": random.standard_normal(shape) for name, shape in shapes.items()}
    >>> layer = swiftattn.MultiHeadAttention(16, 4, head_dim=6, bias=False)
    >>> _ = layer.load_state_dict(swiftattn.convert.from_t5(state, "SelfAttention.", num_heads=4))
    >>> layer(np.ones((1, 5, 16), np.float32), bias=np.zeros((4, 5, 5), np.float32)).shape
    (1, 5, 16)
    """
    q, k, v, out = _read(state, prefix, ("q.weight", "k.weight", "v.weight", "o.weight"), rank=2)
    num_heads = judged_integer("num_heads", num_heads, least=1)
    if len(q) % num_heads != 0:
        raise ValueError(f"{prefix}q.weight has {len(q)} rows, which num_heads, {num_heads}, does not divide")
    return _state_dict([q * math.sqrt(len(q) // num_heads), k, v], None, out, None)


def _from_linear_layers(state: Mapping[str, Any], prefix: str, inner: Sequence[str], outer: str) -> dict[str, Array]:
    """The four projections as four linear layers; `inner` are those of query, key and value."""
    *weights, out = _read(state, prefix, [f"{name}.weight" for name in (*inner, outer)], rank=2)
    biases = _read_biases(state, prefix, dict(zip(inner, weights, strict=True)))
    return _state_dict(weights, biases, out, _read_biases(state, prefix, {outer: out}))


def _read(state: Mapping[str, Any], prefix: str, names: Sequence[str], rank: int) -> list[Array]:
    missing = [prefix + name for name in names if prefix + name not in state]
    if missing:
        raise KeyError(f"state lacks {', '.join(missing)}")
    arrays = [read_array(prefix + name, state[prefix + name]) for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != rank:
            raise ValueError(f"{prefix}{name} has shape {array.shape} but must have {rank} dimensions")
    return arrays


def _read_biases(state: Mapping[str, Any], prefix: str, weights: Mapping[str, Array]) -> list[Array] | None:
    """The biases of linear layers, of which the weights are given: all of them or, where none has one, None."""
    names = [f"{layer}.bias" for layer in weights]
    if not any(prefix + name in state for name in names):
        return None
    biases = _read(state, prefix, names, rank=1)
    for name, bias, weight in zip(names, biases, weights.values(), strict=True):
        if len(bias) != len(weight):
            raise ValueError(f"{prefix}{name} has {len(bias)} elements but its weight has {len(weight)} outputs")
    return biases


def _rows_by_kind(rows: int, num_heads: int, num_kv_heads: int) -> Array:
    """Where the rows of all query heads, then of all keys, then of all values are, when they lie by key/value head."""
    group = num_heads // num_kv_heads
    numbers = np.arange(rows).reshape(num_kv_heads, group + 2, -1)
    return np.concatenate([part.ravel() for part in np.split(numbers, [group, group + 1], axis=1)])


def _state_dict(
    weights: Sequence[Array], biases: Sequence[Array] | None, out_weight: Array, out_biases: Sequence[Array] | None
) -> dict[str, Array]:
    """Weights and biases of query, key and value, or of all three as one, and of the output by the layer's names."""
    state: dict[str, Array] = {}
    if len({weight.shape[1] for weight in weights}) == 1:
        state["in_proj_weight"] = np.concatenate(weights)
    else:
        state |= {f"{name}_proj_weight": weight for name, weight in zip("qkv", weights, strict=True)}
    has_bias = not (biases is None and out_biases is None)
    if has_bias:
        zeros = [np.zeros(len(weight), weight.dtype) for weight in weights]
        state["in_proj_bias"] = np.concatenate(zeros if biases is None else biases)
    state["out_proj.weight"] = out_weight
    if has_bias:
        (out_bias,) = out_biases or [np.zeros(len(out_weight), out_weight.dtype)]
        state["out_proj.bias"] = out_bias
    return state
