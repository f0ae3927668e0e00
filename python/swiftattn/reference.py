"""Attention as its mathematics, in plain NumPy: the truth that the fast kernels are tested against.

Shape letters: B any number of leading batch dimensions, Hq query heads, Hkv key/value heads (query head h uses
key/value head h // (Hq // Hkv)), Sq and Sk the lengths, D the head dim of q and k, Dv of v. For each batch element and
query head, with query rows i and keys j:

    F1  s_ij  = scale * q_i . k_j + bias_ij
    F2  s_ij  = -inf                            where the pair (i, j) is masked
    F3  lse_i = log sum_j exp(s_ij)
    F4  p_ij  = exp(s_ij - lse_i)               the softmax
    F5  out_i = sum_j p_ij v_j                  (Vaswani et al. 2017, equation 1)

`attention` runs the passes F1 to F5 downwards, `attention_backward` runs B5 to B1 upwards, each named after the forward
pass that it differentiates. Everything is computed in the operands' own dtype, so that float64 operands (or longdouble
ones) give the truth and float32 operands give what plain NumPy would. Scores are held whole: (B, Hq, Sq, Sk) arrays.

A sum over pairs leaves masked pairs out by selection, never by a zero factor: 0 * nan is nan. The functions keep no
state, so they may be called from many threads at once. They trust their operands' shapes and let NumPy complain.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ._gradients import AttentionGradients

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import SupportsIndex

    from ._types import Array, Causal, Layout, Scale

__all__ = ["AttentionGradients", "attention", "attention_backward"]


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: Causal = False,
    key_lengths: Array | SupportsIndex | None = None,
    query_lengths: Array | SupportsIndex | None = None,
    scale: Scale | None = None,
    layout: Layout = "BHSD",
    out: Array | None = None,
    return_lse: bool = False,
) -> Array | tuple[Array, Array]:
    """Compute softmax(scale * q k^T + bias, over the keys that the masks leave) v.

    q (B, Hq, Sq, D), k (B, Hkv, Sk, D), v (B, Hkv, Sk, Dv) of one real floating dtype; (S, D) and (H, S, D) work too,
    and layout="BSHD" exchanges the H and S axes. mask (boolean, True = may attend) and bias (-inf masks the pair)
    broadcast to (B, Hq, Sq, Sk) in either layout. causal: False, True (needs Sq == Sk), "top_left" (j <= i) or
    "bottom_right" (j <= i + Sk - Sq). key_lengths and query_lengths: integers of shape (B), the live prefix of each
    sequence; default all. scale defaults to 1/sqrt(D).

    Returns out (B, Hq, Sq, Dv), written into `out` if that is given, and with return_lse also lse (B, Hq, Sq). A row
    that may attend to nothing has out 0 and lse -inf. TypeError: mask is not boolean. ValueError: unknown layout or
    causal, causal=True with Sq != Sk, shapes that do not fit.
    """
    rank = np.ndim(q)
    q, k, v = (_heads_first(operand, layout) for operand in (q, k, v))
    k, v = _per_query_head(k, q), _per_query_head(v, q)

    with np.errstate(all="ignore"):
        # F1, F2: the scores of the live pairs.
        scores = _scores(q, k, bias, scale)
        live = _live_pairs(scores.shape, mask, bias, causal, key_lengths, query_lengths)
        scores = np.where(live, scores, -np.inf)

        # F3: around each row's maximum, so that nothing overflows; 0 stands in for an empty row's maximum.
        row_max = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        row_max = np.where(row_max == -np.inf, 0, row_max)
        weights = np.exp(scores - row_max)
        row_sum = weights.sum(axis=-1, keepdims=True)
        lse = (row_max + np.log(row_sum))[..., 0]

        # F4: exp(s - lse) by one division, which is more exact; an empty row keeps its zeros.
        weights = weights / np.where(row_sum == 0, 1, row_sum)

        # F5: the weighted sum of the values.
        result = _sum_live(weights, v, live)

    result = _as_given(result, rank, layout)
    lse = lse[0] if rank == 2 else lse
    if out is not None:
        out[...] = result
        result = out
    return (result, lse) if return_lse else result


def attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: Causal = False,
    key_lengths: Array | SupportsIndex | None = None,
    query_lengths: Array | SupportsIndex | None = None,
    scale: Scale | None = None,
    layout: Layout = "BHSD",
    needs: Iterable[str] = ("query", "key", "value", "bias"),
) -> AttentionGradients:
    """Differentiate sum(dout * out) by q, k, v and bias.

    dout has out's shape (B, Hq, Sq, Dv); out and lse (B, Hq, Sq) are what `attention` returned for the same q, k, v and
    options. The gradients of k and v are summed over the query heads that share them, the gradient of bias over the
    dimensions along which it was broadcast. A masked pair contributes nothing, so a row that may attend to nothing has
    zero gradients. Gradients not named in `needs` are None, and so is bias's without a bias. Errors: as `attention`.
    """
    rank = np.ndim(q)
    q, k, v, out, dout = (_heads_first(operand, layout) for operand in (q, k, v, out, dout))
    lse = lse[None] if rank == 2 else lse
    heads_kv = k.shape[-3]
    k, v = _per_query_head(k, q), _per_query_head(v, q)
    scale = _scale_or_default(scale, q)

    with np.errstate(all="ignore"):
        # F1 to F4 again: out and lse are all that the forward pass left.
        scores = _scores(q, k, bias, scale)
        live = _live_pairs(scores.shape, mask, bias, causal, key_lengths, query_lengths)
        weights = np.where(live, np.exp(scores - lse[..., None]), 0)

        # B5, of out_i = sum_j p_ij v_j: dv_j = sum_i p_ij dout_i and dp_ij = dout_i . v_j.
        dv = _sum_live(_transposed(weights), dout, _transposed(live))
        dweights = dout @ _transposed(v)

        # B4 and B3, of p_ij = exp(s_ij - lse_i): ds_ij = p_ij (dp_ij - delta_i),
        # where delta_i = sum_j p_ij dp_ij = dout_i . out_i.
        delta = (dout * out).sum(axis=-1, keepdims=True)
        dscores = weights * (dweights - delta)

        # B2, of s_ij = -inf where masked: a constant.
        dscores = np.where(live, dscores, 0)

        # B1, of s_ij = scale q_i . k_j + bias_ij.
        dq = scale * _sum_live(dscores, k, live)
        dk = scale * _sum_live(_transposed(dscores), q, _transposed(live))
        dbias = None if bias is None else _sum_to_shape(dscores, np.shape(bias))

    dk, dv = _sum_groups(dk, heads_kv), _sum_groups(dv, heads_kv)
    dq, dk, dv = (_as_given(gradient, rank, layout) for gradient in (dq, dk, dv))
    gradients, needed = AttentionGradients(dq, dk, dv, dbias), set(needs)
    return gradients._replace(**{name: None for name in gradients._fields if name not in needed})


def _scores(q: Array, k: Array, bias: Array | None, scale: Scale | None) -> Array:
    """F1: scale * q_i . k_j + bias_ij, of shape (B, Hq, Sq, Sk)."""
    scores = (_scale_or_default(scale, q) * q) @ _transposed(k)
    return scores if bias is None else scores + bias


def _live_pairs(
    shape: tuple[int, ...],
    mask: Array | None,
    bias: Array | None,
    causal: Causal,
    key_lengths: Array | SupportsIndex | None,
    query_lengths: Array | SupportsIndex | None,
) -> Array:
    """F2: True at (b, h, i, j) where query row i may attend to key j; all the masks combine by AND."""
    len_q, len_k = shape[-2:]
    i, j = np.arange(len_q)[:, None], np.arange(len_k)
    live = np.ones(shape, bool)
    if mask is not None:
        if mask.dtype != np.bool_:
            raise TypeError(f"mask must be boolean (True = may attend), not {mask.dtype}; additive scores are `bias`")
        live &= mask
    if bias is not None:
        live &= bias != -np.inf
    if (offset := _causal_offset(causal, len_q, len_k)) is not None:
        live &= j <= i + offset
    if key_lengths is not None:
        live &= j < np.asarray(key_lengths)[..., None, None, None]
    if query_lengths is not None:
        live &= i < np.asarray(query_lengths)[..., None, None, None]
    return live


def _causal_offset(causal: Causal, len_q: int, len_k: int) -> int | None:
    """How many keys beyond its own index a query row sees; None: all."""
    if isinstance(causal, (bool, np.bool_)):
        if causal and len_q != len_k:
            raise ValueError(f'causal=True needs Sq == Sk, not {len_q} and {len_k}: say "top_left" or "bottom_right"')
        return 0 if causal else None
    if causal == "bottom_right":
        return len_k - len_q
    if causal == "top_left":
        return 0
    error = ValueError if isinstance(causal, str) else TypeError
    raise error(f'causal must be False, True, "top_left" or "bottom_right", not {causal!r}')


def _sum_live(weights: Array, rows: Array, live: Array) -> Array:
    """sum_j weights[i, j] * rows[j] over the live pairs; rows that are not finite are added one by one, where live."""
    wild: Array = np.asarray(~np.isfinite(rows).all(axis=-1))
    total = weights @ np.where(wild[..., None], 0, rows)
    for j in np.flatnonzero(wild.any(axis=tuple(range(wild.ndim - 1)))):
        chosen = live[..., j, None] & wild[..., None, j, None]
        total += np.where(chosen, weights[..., j, None] * rows[..., None, j, :], 0)
    return total


def _scale_or_default(scale: Scale | None, q: Array) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)


def _transposed(matrix: Array) -> Array:
    return np.swapaxes(matrix, -1, -2)


def _heads_first(operand: Array, layout: Layout) -> Array:
    """The operand as (B, H, S, D), whatever its layout; rank 2 is one head."""
    if layout not in ("BHSD", "BSHD"):
        raise ValueError(f'layout must be "BHSD" or "BSHD", not {layout!r}')
    if np.ndim(operand) == 2:
        return operand[None]
    return operand if layout == "BHSD" else np.swapaxes(operand, -2, -3)


def _as_given(result: Array, rank: int, layout: Layout) -> Array:
    """A (B, H, S, D) result in the caller's rank and layout: the inverse of _heads_first."""
    if rank == 2:
        return np.squeeze(result, axis=0)
    return result if layout == "BHSD" else np.swapaxes(result, -2, -3)


def _per_query_head(operand: Array, q: Array) -> Array:
    """(B, Hkv, Sk, D) to (B, Hq, Sk, D): head h of the result is head h // (Hq // Hkv) of the operand."""
    repeated: Array = np.repeat(operand, q.shape[-3] // max(operand.shape[-3], 1), axis=-3)
    return repeated


def _sum_groups(gradient: Array, heads_kv: int) -> Array:
    """(B, Hq, Sk, D) to (B, Hkv, Sk, D): the derivative of _per_query_head."""
    *batch, heads_q, len_k, head_dim = gradient.shape
    group = heads_q // max(heads_kv, 1)
    summed: Array = gradient.reshape((*batch, heads_kv, group, len_k, head_dim)).sum(axis=-3)
    return summed


def _sum_to_shape(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The derivative of broadcasting an array of that shape to the gradient's shape."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    stretched = tuple(axis for axis, length in enumerate(shape) if length == 1)
    summed: Array = gradient.sum(axis=stretched, keepdims=True)
    return summed
