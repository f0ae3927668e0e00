"""Attention and its derivatives: signatures, types and documentation; each function is one call of the C extension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from ._core import backward as _backward
from ._core import forward as _forward
from ._core import judged_needs as _judged_needs
from ._gradients import AttentionGradients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._types import Array, ArrayInput, Causal, GradientName, Layout, Lengths, Scale

_ALL_GRADIENTS: tuple[GradientName, ...] = ("query", "key", "value", "bias")


@overload
def attention(
    q: ArrayInput,
    k: ArrayInput,
    v: ArrayInput,
    *,
    mask: ArrayInput | None = None,
    bias: ArrayInput | None = None,
    causal: Causal = False,
    key_lengths: Lengths | None = None,
    query_lengths: Lengths | None = None,
    scale: Scale | None = None,
    layout: Layout = "BHSD",
    out: Array | None = None,
    return_lse: Literal[False] = False,
) -> Array: ...
@overload
def attention(
    q: ArrayInput,
    k: ArrayInput,
    v: ArrayInput,
    *,
    mask: ArrayInput | None = None,
    bias: ArrayInput | None = None,
    causal: Causal = False,
    key_lengths: Lengths | None = None,
    query_lengths: Lengths | None = None,
    scale: Scale | None = None,
    layout: Layout = "BHSD",
    out: Array | None = None,
    return_lse: Literal[True],
) -> tuple[Array, Array]: ...
@overload
def attention(
    q: ArrayInput,
    k: ArrayInput,
    v: ArrayInput,
    *,
    mask: ArrayInput | None = None,
    bias: ArrayInput | None = None,
    causal: Causal = False,
    key_lengths: Lengths | None = None,
    query_lengths: Lengths | None = None,
    scale: Scale | None = None,
    layout: Layout = "BHSD",
    out: Array | None = None,
    return_lse: bool,
) -> Array | tuple[Array, Array]: ...
def attention(
    q: ArrayInput,
    k: ArrayInput,
    v: ArrayInput,
    *,
    mask: ArrayInput | None = None,
    bias: ArrayInput | None = None,
    causal: Causal = False,
    key_lengths: Lengths | None = None,
    query_lengths: Lengths | None = None,
    scale: Scale | None = None,
    layout: Layout = "BHSD",
    out: Array | None = None,
    return_lse: bool = False,
) -> Array | tuple[Array, Array]:
    """Compute softmax(scale * q k^T + bias, over the keys that the masks leave) v.

    This is scaled dot-product attention (Vaswani et al. 2017, equation 1), computed exactly and in O(Sq + Sk) memory.
    Shape letters: B any number of batch dimensions, Hq query heads, Hkv key/value heads (Hq is a multiple of Hkv; query
    head h uses key/value head h // (Hq // Hkv)), Sq and Sk the lengths, D the head dim of q and k, Dv of v.

    Parameters
    ----------
    q : (B, Hq, Sq, D) array of float32 or float64
        Also (Hq, Sq, D) or, for a single head, (Sq, D); up to 8 dimensions in all. Here and for the other arrays, any
        strides work without a copy, and so do objects with `__dlpack__`, such as CPU tensors of PyTorch.
    k : (B, Hkv, Sk, D) array of q's dtype and rank
    v : (B, Hkv, Sk, Dv) array of q's dtype and rank
    mask : boolean array that broadcasts to (B, Hq, Sq, Sk), optional
        True where a query may attend to a key.
    bias : array of q's dtype that broadcasts to (B, Hq, Sq, Sk), optional
        Added to the scaled scores. Where it is -inf, the query does not attend to the key.
    causal : False (default), True, "top_left" or "bottom_right"
        Which keys a query may see by position. "top_left": query i sees the keys j <= i. "bottom_right": query i sees
        the keys j <= i + Sk - Sq, as when the queries are the latest of Sk positions. True asks for Sq == Sk, where the
        two are the same. With 1 for "may attend", one row per query and one column per key::

            Sq = 2, Sk = 4                           Sq = 4, Sk = 2
            "top_left"       "bottom_right"          "top_left"       "bottom_right"
             1 0 0 0          1 1 1 0                 1 0              0 0
             1 1 0 0          1 1 1 1                 1 1              0 0
                                                      1 1              1 0
                                                      1 1              1 1

    key_lengths : int32 or int64 array of shape (B), optional
        Keys j >= key_lengths[b] are masked (padding at the end); 0 to Sk. An int for q of rank 2 or 3.
    query_lengths : int32 or int64 array of shape (B), optional
        Queries i >= query_lengths[b] attend to nothing; 0 to Sq. An int for q of rank 2 or 3.
    scale : float, optional
        Finite and not zero; default 1 / sqrt(D).
    layout : "BHSD" (default) or "BSHD"
        "BSHD": q, k, v and out have their sequence axis before their head axis, (B, Sq, Hq, D) and so on. mask, bias
        and lse do not change. Rank 2 has no head axis, so that both layouts are the same.
    out : (B, Hq, Sq, Dv) array of q's dtype, optional
        Where to write the result. May be strided, but must not overlap itself or an operand.
    return_lse : bool, default False
        Return lse as well.

    Returns
    -------
    out : (B, Hq, Sq, Dv) array of q's dtype
        `out` if that was given, else a new C-contiguous array.
    lse : (B, Hq, Sq) array of q's dtype, only with return_lse=True
        The natural logarithm of the sum of the exponentials of each row's scores, which `attention_backward` needs.

    Raises
    ------
    TypeError
        An argument is not an array, or q, k, v are not all float32 or all float64, or the mask is not boolean.
    ValueError
        Shapes that do not fit each other, lengths out of range, `out` read-only, misaligned or overlapping, causal=True
        with Sq != Sk, a scale that is zero or not finite, an unknown layout or causal, an unusable SWIFTATTN_ISA.
    MemoryError
        No memory for the result or for the workspace.
    KeyboardInterrupt
        Ctrl-C during a long call. What a given `out` then holds is unspecified.

    Messages call q, k and v query, key and value, and give shapes as layout="BHSD" has them.

    Notes
    -----
    All masks combine by AND. A row that may attend to nothing (also: any row when Sk is 0) has out 0 and lse -inf. A
    masked pair is skipped, not multiplied by zero: a NaN or infinity in a masked key or value reaches no result.

    Sums are accumulated in the operands' dtype. The result is the same, to the bit, for any number of threads, any
    strides and any neighbours in the batch. Blocks that no query may see cost nothing.

    May be called from several threads at once: all but the smallest calls release the GIL. The operands must not be
    changed by another thread meanwhile.

    Examples
    --------
    >>> import numpy as np, swiftattn
    >>> rng = np.random.default_rng(0)
    >>> q = rng.standard_normal((2, 8, 5, 64), dtype=np.float32)
    >>> k, v = rng.standard_normal((2, 2, 2, 7, 64), dtype=np.float32)  # 8 query heads share 2 key/value heads
    >>> out, lse = swiftattn.attention(q, k, v, causal="bottom_right", return_lse=True)
    >>> out.shape, lse.shape
    ((2, 8, 5, 64), (2, 8, 5))
    """
    return _forward(q, k, v, mask, bias, causal, key_lengths, query_lengths, scale, layout, out, return_lse)


def attention_backward(
    dout: ArrayInput,
    q: ArrayInput,
    k: ArrayInput,
    v: ArrayInput,
    out: ArrayInput,
    lse: ArrayInput,
    *,
    mask: ArrayInput | None = None,
    bias: ArrayInput | None = None,
    causal: Causal = False,
    key_lengths: Lengths | None = None,
    query_lengths: Lengths | None = None,
    scale: Scale | None = None,
    layout: Layout = "BHSD",
    needs: Iterable[GradientName] = _ALL_GRADIENTS,
) -> AttentionGradients:
    """Compute the gradients of sum(dout * attention(q, k, v, ...)) by q, k, v and bias.

    Shape letters as in `attention`. With p = exp(scores - lse), the softmax, and delta = rowsum(dout * out)::

        dv = p^T dout    ds = p * (dout v^T - delta)    dq = scale * ds k    dk = scale * ds^T q    dbias = ds

    (Dao et al. 2022, "FlashAttention", appendix B.2). p and ds are recomputed block by block and never stored whole.

    Parameters
    ----------
    dout : (B, Hq, Sq, Dv) array of q's dtype
        The gradient by out.
    q, k, v : arrays
        As they were given to `attention`.
    out : (B, Hq, Sq, Dv) array of q's dtype
    lse : (B, Hq, Sq) array of q's dtype
        What `attention` returned with return_lse=True.
    mask, bias, causal, key_lengths, query_lengths, scale, layout
        As they were given to `attention`; the same defaults. layout="BSHD" holds for dout and the gradients too.
    needs : names out of "query", "key", "value" and "bias", default all
        The gradients to compute. One that is left out costs no work and no memory; in particular, that of a bias of
        shape (B, Hq, Sq, Sk) is an array of that shape.

    Returns
    -------
    AttentionGradients
        A named tuple of new C-contiguous arrays: query, key, value (summed over the query heads that share a key/value
        head) and bias (summed over the dimensions along which it was broadcast), each in its operand's shape, dtype and
        layout. None in place of those not in `needs`, and of bias where no bias was given.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `attention` does; ValueError also for unknown names in `needs`.

    Notes
    -----
    A row that may attend to nothing has zero gradients and contributes to none. A NaN or infinity in a masked key or
    value reaches no gradient. Precision, reproducibility and threads are as in `attention`.

    Examples
    --------
    >>> import numpy as np, swiftattn
    >>> q = k = v = np.eye(4)
    >>> out, lse = swiftattn.attention(q, k, v, return_lse=True)
    >>> gradients = swiftattn.attention_backward(np.ones_like(out), q, k, v, out, lse, needs=("value",))
    >>> gradients.value.shape, gradients.query
    ((4, 4), None)
    """
    return AttentionGradients._make(
        _backward(q, k, v, mask, bias, causal, key_lengths, query_lengths, scale, layout, dout, out, lse, needs)
    )


def attention_vjp(
    q: ArrayInput,
    k: ArrayInput,
    v: ArrayInput,
    *,
    mask: ArrayInput | None = None,
    bias: ArrayInput | None = None,
    causal: Causal = False,
    key_lengths: Lengths | None = None,
    query_lengths: Lengths | None = None,
    scale: Scale | None = None,
    layout: Layout = "BHSD",
    needs: Iterable[GradientName] = _ALL_GRADIENTS,
) -> tuple[Array, Callable[[ArrayInput], AttentionGradients]]:
    """Compute attention and return its result with a function for its gradients, a vector-Jacobian product.

    Parameters
    ----------
    q, k, v, mask, bias, causal, key_lengths, query_lengths, scale, layout
        As for `attention`.
    needs : names out of "query", "key", "value" and "bias", default all
        The gradients that the function computes; see `attention_backward`.

    Returns
    -------
    out : (B, Hq, Sq, Dv) array of q's dtype
        As `attention` returns it.
    vjp : function of dout, (B, Hq, Sq, Dv), to AttentionGradients
        `attention_backward` for this call. It may be called any number of times and from any thread. It keeps the
        operands and out by reference, so that they must not be changed before its last call.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `attention` does, and vjp as `attention_backward`.

    Notes
    -----
    Formulas, empty rows, precision and threads are those of `attention` and `attention_backward`.

    Examples
    --------
    >>> import numpy as np, swiftattn
    >>> q = k = v = np.ones((2, 4, 16, 8), np.float32)
    >>> out, vjp = swiftattn.attention_vjp(q, k, v, causal=True)
    >>> gradients = vjp(np.ones_like(out))
    >>> gradients.key.shape
    (2, 4, 16, 8)
    """
    needs = _judged_needs(needs)
    out, lse = _forward(q, k, v, mask, bias, causal, key_lengths, query_lengths, scale, layout, None, True)

    def vjp(dout: ArrayInput) -> AttentionGradients:
        return AttentionGradients._make(
            _backward(q, k, v, mask, bias, causal, key_lengths, query_lengths, scale, layout, dout, out, lse, needs)
        )

    return out, vjp
