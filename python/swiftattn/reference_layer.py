"""The multi-head attention layer as its mathematics, in plain NumPy: what the compiled layer is tested against.

Shape letters as in `reference`, and E = embed_dim, D = head_dim. A batch of query sequences X_q (B, Sq, E) attends to
sequences X_k (B, Sk, kdim) and X_v (B, Sk, vdim) of keys and values; self-attention gives one array as all three:

    L1  q = X_q Wq^T + bq,  k = X_k Wk^T + bk,  v = X_v Wv^T + bv      each head has rows of its own in Wq, Wk and Wv
    L2  q, k and v cut into heads: (B, S, H * D) to (B, H, S, D)       never reshaped there directly: that mixes tokens
    L3  q and k rotated by their positions                             with a Rope; Su et al. 2021
    L4  one more key and value: bias_k and bias_v; then a zero one     with add_bias_kv; with add_zero_attn
    L5  o = softmax(q k^T / sqrt(D) + bias, over the keys seen) v      `reference.attention`
    L6  the heads side by side again: (B, Hq, Sq, D) to (B, Sq, Hq * D)
    L7  output = o Wo^T + bo

`layer_forward` runs L1 to L7, `layer_backward` runs G7 to G1 upwards, each named after the forward step that it
differentiates. The parameters are a dict with the names and shapes of PyTorch's nn.MultiheadAttention, as
`parameter_shapes` lists them. Everything is computed in the operands' own dtype, as in `reference`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import numpy as np

from ._layer_config import LayerConfig, Rope, input_projections, parameter_shapes
from .reference import _live_pairs, attention, attention_backward

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._types import Array, Causal

    Parameters: TypeAlias = Mapping[str, Array]

__all__ = [
    "LayerConfig",
    "LayerGradients",
    "Rope",
    "Saved",
    "layer_backward",
    "layer_forward",
    "layer_weights",
    "parameter_shapes",
]


class LayerGradients(NamedTuple):
    """The gradients by the three inputs, by each parameter under its name, and by the additive bias if there was one.

    In self-attention the gradient by the one input is query + key + value.
    """

    query: Array
    key: Array
    value: Array
    parameters: dict[str, Array]
    bias: Array | None


@dataclass(frozen=True)
class Saved:
    """What layer_forward leaves: its inputs, the operands and results of L5, and what L6 gave.

    Query row i of a head may attend to key j where `mask`; mask and bias cover the keys appended by L4 too.
    """

    config: LayerConfig
    parameters: Parameters
    inputs: tuple[Array, Array, Array]
    heads: tuple[Array, Array, Array]
    mask: Array
    bias: Array | None
    out: Array
    lse: Array
    merged: Array
    bias_shape: tuple[int, ...] | None
    """Of the bias as it was given."""


def layer_forward(
    config: LayerConfig,
    parameters: Parameters,
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: Causal = False,
    key_lengths: Array | int | None = None,
) -> tuple[Array, Saved]:
    """Compute the layer's output (B, Sq, E), and what layer_weights and layer_backward need.

    query (B, Sq, E), key (B, Sk, kdim), value (B, Sk, vdim); any number of batch dimensions works. mask, bias (both
    broadcast to (B, Hq, Sq, Sk)), causal and key_lengths mean what they do in `reference.attention`, and are about the
    keys that were given: those appended by add_bias_kv and add_zero_attn are always seen, with a bias of 0. A token
    that no row of any head may attend to is left out, so that what it holds, even nan, reaches no result.
    """
    bias_shape = None if bias is None else bias.shape
    # F2 of the reference, before L4 appends keys.
    scores_shape = (*query.shape[:-2], config.num_heads, query.shape[-2], key.shape[-2])
    live = _live_pairs(scores_shape, mask, bias, causal, key_lengths, None)
    seen = np.asarray(live.any(axis=(-3, -2)))[..., None]
    inputs = query, np.where(seen, key, 0), np.where(seen, value, 0)

    with np.errstate(all="ignore"):
        # L1, L2
        q, k, v = (
            _split_heads(_linear(operand, weight, b), heads)
            for operand, (weight, b), heads in zip(
                inputs, input_projections(config, parameters), config.heads, strict=True
            )
        )
        # L3
        q, k = (_rotate(operand, *turn) for operand, turn in zip((q, k), _turns(config), strict=True))
        # L4
        k, v = _append(k, config, parameters, "bias_k"), _append(v, config, parameters, "bias_v")
        appended = k.shape[-2] - key.shape[-2]
        mask = _pad_keys(live, live.shape[-1], appended, True)
        bias = None if bias is None else _pad_keys(bias, live.shape[-1], appended, 0)
        # L5
        out, lse = attention(q, k, v, mask=mask, bias=bias, return_lse=True)
        # L6, L7
        merged = _merge_heads(out)
        output = _linear(merged, parameters["out_proj.weight"], parameters["out_proj.bias"] if config.bias else None)
    return output, Saved(config, parameters, inputs, (q, k, v), mask, bias, out, lse, merged, bias_shape)


def layer_weights(saved: Saved, *, average_weights: bool = True) -> Array:
    """The softmax that a forward pass used, (B, Hq, Sq, Sk), or its average over the heads, (B, Sq, Sk).

    The keys appended by add_bias_kv and add_zero_attn come last, as in PyTorch, and count in Sk here.
    """
    # The rows of the identity for values: sum_j p_ij e_j is p_i.
    q, k, _ = saved.heads
    values = np.broadcast_to(np.eye(k.shape[-2], dtype=k.dtype), (*k.shape[:-1], k.shape[-2]))
    weights: Array = np.asarray(attention(q, k, values, mask=saved.mask, bias=saved.bias))
    return np.asarray(weights.mean(axis=-3)) if average_weights else weights


def layer_backward(saved: Saved, dout: Array) -> LayerGradients:
    """Differentiate sum(dout * output) by the three inputs and by every parameter; dout has the output's shape."""
    config, parameters = saved.config, saved.parameters
    gradients: dict[str, Array] = {}

    with np.errstate(all="ignore"):
        # G7, of output = merged Wo^T + bo.
        dmerged, gradients["out_proj.weight"], gradients["out_proj.bias"] = _linear_backward(
            dout, saved.merged, parameters["out_proj.weight"]
        )
        # G6, G5: the values' width is D, so that out has the heads of dmerged.
        dq, dk, dv, dbias = _attention_gradients(saved, _split_heads(dmerged, config.num_heads))

        # G4: the first appended token is bias_k or bias_v in every sequence; the zero token is a constant.
        own = saved.inputs[1].shape[-2]
        if config.add_bias_kv:
            gradients["bias_k"], gradients["bias_v"] = (
                _rows(_merge_heads(gradient[..., own : own + 1, :])).sum(axis=0)[None, None] for gradient in (dk, dv)
            )
        dk, dv = dk[..., :own, :], dv[..., :own, :]

        # G3: the derivative of a rotation is the rotation back.
        dq, dk = (
            _rotate(gradient, rope, offset, backwards=True)
            for gradient, (rope, offset) in zip((dq, dk), _turns(config), strict=True)
        )
        # G2, G1
        weights = (weight for weight, _ in input_projections(config, parameters))
        (dquery, *dwq), (dkey, *dwk), (dvalue, *dwv) = (
            _linear_backward(_merge_heads(gradient), operand, weight)
            for gradient, operand, weight in zip((dq, dk, dv), saved.inputs, weights, strict=True)
        )
    dweights, dbiases = zip(dwq, dwk, dwv, strict=True)
    gradients["in_proj_bias"] = np.concatenate(dbiases)
    if config.fused:
        gradients["in_proj_weight"] = np.concatenate(dweights)
    else:
        gradients |= {f"{name}_proj_weight": dweight for name, dweight in zip("qkv", dweights, strict=True)}
    return LayerGradients(dquery, dkey, dvalue, {name: gradients[name] for name in parameter_shapes(config)}, dbias)


def _linear(operand: Array, weight: Array, bias: Array | None) -> Array:
    """L1, L7: X W^T + b, for each row of X."""
    product: Array = operand @ weight.T
    return product if bias is None else product + bias


def _linear_backward(gradient: Array, operand: Array, weight: Array) -> tuple[Array, Array, Array]:
    """G1, G7, of Y = X W^T + b: dX = dY W, dW = dY^T X and db = sum of dY's rows."""
    rows = _rows(gradient)
    return gradient @ weight, rows.T @ _rows(operand), rows.sum(axis=0)


def _rows(operand: Array) -> Array:
    """All rows of all sequences, one below the other."""
    return operand.reshape(math.prod(operand.shape[:-1]), operand.shape[-1])


def _split_heads(operand: Array, heads: int) -> Array:
    """L2: (B, S, H * D) to (B, H, S, D); head h has the h-th D numbers of each token."""
    *batch, length, width = operand.shape
    return np.swapaxes(operand.reshape((*batch, length, heads, width // heads)), -2, -3)


def _merge_heads(operand: Array) -> Array:
    """L6: (B, H, S, D) to (B, S, H * D), the inverse of _split_heads."""
    *batch, heads, length, head_dim = operand.shape
    return np.swapaxes(operand, -2, -3).reshape((*batch, length, heads * head_dim))


def _turns(config: LayerConfig) -> tuple[tuple[Rope | None, int], tuple[Rope | None, int]]:
    """How L3 rotates q and k: the Rope and the position of the first row."""
    rope = config.rope
    if rope is None:
        return (None, 0), (None, 0)
    return (rope, rope.offset), (rope, rope.first_key)


def _rotate(operand: Array, rope: Rope | None, offset: int, *, backwards: bool = False) -> Array:
    """L3: turn each pair (a, b) of the row at position s by its angle, to (a cos - b sin, a sin + b cos)."""
    if rope is None:
        return operand
    dim = operand.shape[-1] if rope.dim is None else rope.dim
    positions = (np.arange(operand.shape[-2]) + offset).astype(operand.dtype) / rope.scaling
    frequencies = np.asarray(rope.base, operand.dtype) ** (-np.arange(0, dim, 2).astype(operand.dtype) / dim)
    angles = positions[:, None] * frequencies
    cos, sin = np.cos(angles), np.sin(-angles if backwards else angles)

    first, second = slice(0, dim // 2), slice(dim // 2, dim)
    if rope.interleaved:
        first, second = slice(0, dim, 2), slice(1, dim, 2)
    a, b = operand[..., first], operand[..., second]
    rotated: Array = operand.copy()
    rotated[..., first], rotated[..., second] = a * cos - b * sin, a * sin + b * cos
    return rotated


def _append(operand: Array, config: LayerConfig, parameters: Parameters, token: str) -> Array:
    """L4: to the keys or the values of every sequence, (B, Hkv, Sk, D), first the learned token and then zeros."""
    *batch, heads, _, head_dim = operand.shape
    tokens = []
    if config.add_bias_kv:
        tokens.append(_split_heads(parameters[token][0], heads))
    if config.add_zero_attn:
        tokens.append(np.zeros((heads, 1, head_dim), operand.dtype))
    appended = [np.broadcast_to(each, (*batch, heads, 1, head_dim)) for each in tokens]
    return np.concatenate([operand, *appended], axis=-2)


def _pad_keys(operand: Array, len_k: int, appended: int, padding: float) -> Array:
    """A mask or a bias, which may be broadcast over the keys, with `padding` for the appended keys."""
    own = np.broadcast_to(operand, (*np.shape(operand)[:-1], len_k))
    beyond = np.full((*own.shape[:-1], appended), padding, own.dtype)
    return np.concatenate([own, beyond], axis=-1)


def _attention_gradients(saved: Saved, dout: Array) -> tuple[Array, Array, Array, Array | None]:
    """G5, of out = attention(q, k, v, bias): `reference.attention_backward`, and the part of it by the bias given."""
    gradients = attention_backward(dout, *saved.heads, saved.out, saved.lse, mask=saved.mask, bias=saved.bias)
    query, key, value = cast("tuple[Array, Array, Array]", (gradients.query, gradients.key, gradients.value))
    if gradients.bias is None or saved.bias_shape is None:
        return query, key, value, None
    own = gradients.bias[..., : saved.inputs[1].shape[-2]]
    if saved.bias_shape[-1:] != own.shape[-1:]:  # broadcast along the keys
        own = own.sum(axis=-1, keepdims=True)
    return query, key, value, own.reshape(saved.bias_shape)
