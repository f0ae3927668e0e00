"""The multi-head attention layer: signatures and documentation; each pass is one call of the core."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from . import _core
from ._gradient_mode import keeps_for_backward
from ._gradients import LayerInputGradients
from ._layer_config import LayerConfig
from ._layer_state import LayerState

if TYPE_CHECKING:
    import numpy.typing as npt

    from ._layer_config import Rope
    from ._types import Array, ArrayInput, Causal, LayerOperands, Lengths, Seed


class MultiHeadAttention(LayerState):
    """Multi-head attention with the projections around it, forward and backward (Vaswani et al. 2017, section 3.2.2).

    With W and b the rows of the parameters that belong to head h, and g the key/value head that it uses::

        q = query Wq[h]^T + bq[h]     k = key Wk[g]^T + bk[g]     v = value Wv[g]^T + bv[g]
        head[h] = softmax(q k^T / sqrt(D) + bias, over the keys that the masks leave) v
        out = concat(head[1], ..., head[Hq]) Wo^T + bo

    It is the layer of torch.nn.MultiheadAttention with batch_first=True, with the same names and shapes of parameters,
    and has key/value heads shared by query heads, a free head dim and rotary positions besides. Shape letters: B any
    number of batch dimensions, Sq and Sk the lengths, E = embed_dim, Hq = num_heads, Hkv = num_kv_heads, D = head_dim.

    Parameters
    ----------
    embed_dim : int
        The width of query and out.
    num_heads : int
    num_kv_heads : int, optional
        Of which num_heads is a multiple: query head h uses key/value head h // (num_heads // num_kv_heads). Default:
        num_heads.
    head_dim : int, optional
        Default: embed_dim / num_heads, which must then be whole.
    kdim, vdim : int, optional
        The widths of key and value; default: embed_dim.
    bias : bool, default True
        Whether all four projections have biases.
    dropout : float, default 0.0
        Not supported yet: must be 0.0.
    add_bias_kv : bool, default False
        Appends a learned key and a learned value, bias_k and bias_v, to those of every sequence.
    add_zero_attn : bool, default False
        Appends a key and a value of zeros to those of every sequence, after bias_k and bias_v.
    rope : Rope, optional
        Rotates q and k by their positions; the appended keys do not turn.
    dtype : float32 (default) or float64
        Of the parameters and of all that goes in and out.
    seed : optional
        What numpy.random.default_rng takes. Equal seeds give equal parameters.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, out of its range, or that does not fit another.
    NotImplementedError
        dropout is not 0.0.
    MemoryError
        No memory for the parameters.

    Notes
    -----
    The parameters are, with R = (Hq + 2 Hkv) D rows, those of q, of k and of v in this order, head after head:

    - in_proj_weight (R, E); or, where kdim or vdim is not embed_dim, q_proj_weight (Hq D, E),
      k_proj_weight (Hkv D, kdim) and v_proj_weight (Hkv D, vdim)
    - in_proj_bias (R) and out_proj.bias (E), with bias=True
    - bias_k and bias_v (1, 1, Hkv D), with add_bias_kv=True
    - out_proj.weight (E, Hq D)

    Their first values are distributed as torch has them: uniform within sqrt(6 / (rows + columns)) for the weights of
    q, k and v (of in_proj_weight as a whole) and within 1 / sqrt(columns) for out_proj.weight, normal with variance
    1 / (Hkv D) for bias_k and bias_v, zero for the biases. They do not depend on dtype but for rounding.

    A layer whose parameters change seldom is quicker after `freeze`. It can be pickled and copied with copy.deepcopy,
    with its parameters and their gradients, but without what a forward pass kept for backward, and unfrozen.

    Sums are accumulated in dtype. Results are the same, to the bit, for any number of threads and any strides, and out
    and the gradients by the inputs for any neighbours in the batch.

    Examples
    --------
    >>> import numpy as np, swiftattn
    >>> layer = swiftattn.MultiHeadAttention(64, 8, num_kv_heads=2, rope=swiftattn.Rope(), seed=0)
    >>> x = np.random.default_rng(0).standard_normal((2, 10, 64), dtype=np.float32)
    >>> out = layer(x, causal=True)  # self-attention
    >>> gradients = layer.backward(out)  # of sum(out**2) / 2
    >>> out.shape, gradients.query.shape, layer.grads["in_proj_weight"].shape
    ((2, 10, 64), (2, 10, 64), (96, 64))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        kdim: int | None = None,
        vdim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        rope: Rope | None = None,
        dtype: npt.DTypeLike = np.float32,
        seed: Seed = None,
    ) -> None:
        if dropout != 0:
            raise NotImplementedError(f"dropout is not supported yet: it must be 0.0, not {dropout}")
        element = _element_type(dtype)
        config = LayerConfig(
            embed_dim, num_heads, num_kv_heads, head_dim, kdim, vdim, bias, add_bias_kv, add_zero_attn, rope
        )
        super().__init__(config, element, seed)

    @property
    def embed_dim(self) -> int:
        """The width of query and out."""
        return self._config.embed_dim

    @property
    def num_heads(self) -> int:
        """The number of query heads."""
        return self._config.num_heads

    @property
    def num_kv_heads(self) -> int:
        """The number of key/value heads."""
        return self._config.heads[1]

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self._config.head_width

    @overload
    def __call__(
        self,
        query: ArrayInput,
        key: ArrayInput | None = None,
        value: ArrayInput | None = None,
        *,
        mask: ArrayInput | None = None,
        bias: ArrayInput | None = None,
        causal: Causal = False,
        key_lengths: Lengths | None = None,
        need_weights: Literal[False] = False,
        average_weights: bool = True,
    ) -> Array: ...
    @overload
    def __call__(
        self,
        query: ArrayInput,
        key: ArrayInput | None = None,
        value: ArrayInput | None = None,
        *,
        mask: ArrayInput | None = None,
        bias: ArrayInput | None = None,
        causal: Causal = False,
        key_lengths: Lengths | None = None,
        need_weights: Literal[True],
        average_weights: bool = True,
    ) -> tuple[Array, Array]: ...
    @overload
    def __call__(
        self,
        query: ArrayInput,
        key: ArrayInput | None = None,
        value: ArrayInput | None = None,
        *,
        mask: ArrayInput | None = None,
        bias: ArrayInput | None = None,
        causal: Causal = False,
        key_lengths: Lengths | None = None,
        need_weights: bool,
        average_weights: bool = True,
    ) -> Array | tuple[Array, Array]: ...
    def __call__(
        self,
        query: ArrayInput,
        key: ArrayInput | None = None,
        value: ArrayInput | None = None,
        *,
        mask: ArrayInput | None = None,
        bias: ArrayInput | None = None,
        causal: Causal = False,
        key_lengths: Lengths | None = None,
        need_weights: bool = False,
        average_weights: bool = True,
    ) -> Array | tuple[Array, Array]:
        """Compute the layer's output, and keep what `backward` needs unless within `no_grad`.

        Parameters
        ----------
        query : (B, Sq, E) array of the layer's dtype
            Here and for the other arrays, any strides work, and so do objects with `__dlpack__`, such as CPU tensors of
            PyTorch. B may be any number of dimensions, also none.
        key : (B, Sk, kdim) array of the layer's dtype, optional
            Without it, query is the key and the value: self-attention.
        value : (B, Sk, vdim) array of the layer's dtype, optional
            Without it, key is the value. Not without a key.
        mask : boolean array that broadcasts to (B, Hq, Sq, Sk), optional
            True where a query may attend to a key (where torch's attn_mask and key_padding_mask have False).
        bias : array of the layer's dtype that broadcasts to (B, Hq, Sq, Sk), optional
            Added to the scaled scores. Where it is -inf, the query does not attend to the key.
        causal : False (default), True, "top_left" or "bottom_right"
            Which keys a query may see by position, as in `attention`.
        key_lengths : int32 or int64 array of shape (B), optional
            Keys j >= key_lengths[b] are masked (padding at the end); 0 to Sk. An int for a query of rank 2.
        need_weights : bool, default False
            Return the softmax as well. Takes memory for it, (B, Hq, Sq, Sk) numbers or (B, Sq, Sk).
        average_weights : bool, default True
            Whether the weights returned are the average over the heads.

        Returns
        -------
        out : (B, Sq, E) array of the layer's dtype, new and C-contiguous
        weights : (B, Sq, Sk') or (B, Hq, Sq, Sk') array of the layer's dtype, only with need_weights=True
            Sk' is Sk and the keys of add_bias_kv and add_zero_attn, which come last in this order.

        Raises
        ------
        TypeError
            An argument that is not an array, or of another dtype than the layer's; a mask that is not boolean.
        ValueError
            Shapes that do not fit each other or the layer, lengths out of range, causal=True with Sq != Sk, an unknown
            causal, a value without a key, an unusable SWIFTATTN_ISA.
        MemoryError
            No memory for the result or for what is computed on the way.
        KeyboardInterrupt
            Ctrl-C during a long call.

        Notes
        -----
        All masks combine by AND, and are about the keys given: those of add_bias_kv and add_zero_attn are seen by every
        query, with a bias of 0. A query that may attend to nothing (also: any query when Sk is 0) has weights 0, and
        its row of out is out_proj.bias, or 0 without biases. What a token of key and value holds that no query may
        attend to, be it NaN, reaches no result and no gradient.

        In gradient mode, outside of `no_grad`, the call drops what an earlier one kept and keeps references to its
        arguments: neither they nor the parameters may be changed before `backward`. Within `no_grad`, a layer may be
        called from several threads at once. In gradient mode every thread needs a layer of its own, because a layer
        keeps one call only; copy.deepcopy makes one. The memory that a call saved in, 4 B Sq E numbers in
        self-attention, stays with the layer after `backward`, for the next call; one within `no_grad` gives it back.
        """
        keeps, memory = keeps_for_backward.get(), None
        if keeps:
            self._kept, self._saved, memory = None, None, self._saved
        elif self._kept is None:
            self._saved = None  # inference: no backward to come
        if key is None and value is not None:
            raise ValueError("value is given without a key; without a key, query is the key and the value")
        operands: LayerOperands = (query, key, value, mask, bias, causal, key_lengths)
        kind = 0 if not need_weights else 2 if average_weights else 1
        layer, geometry, packed = self._core_parameters, self._geometry, self._freezing.packed
        out, saved, weights = _core.layer_forward(layer, geometry, *operands, keeps, memory, kind, packed)
        if keeps:
            self._kept, self._saved = operands, saved
        return out if weights is None else (out, weights)

    def backward(self, dout: ArrayInput, *, needs_bias: bool = False) -> LayerInputGradients:
        """Differentiate sum(dout * out) of the last call in gradient mode, once.

        The gradients by the parameters are added into `grads`, those by the inputs are returned.

        Parameters
        ----------
        dout : (B, Sq, E) array of the layer's dtype
            The gradient by out.
        needs_bias : bool, default False
            Whether to compute the gradient by the bias that the call was given, which takes another pass.

        Returns
        -------
        LayerInputGradients
            A named tuple of new C-contiguous arrays: query, key, value and bias, each of its input's shape. That by
            an input that was not given is added to that by the input that stood in for it, and its field is None: after
            layer(x) there is query only; after layer(x, memory) there are query and key. After layer(x, x, x) there are
            three, whose sum is the gradient by x.

        Raises
        ------
        RuntimeError
            There was no call in gradient mode, or its gradients have been computed already.
        TypeError, ValueError
            dout is not an array of the layer's dtype and of out's shape, or needs_bias without a bias. Then nothing
            has changed, and backward may be called again.
        MemoryError, KeyboardInterrupt
            No memory for what is computed, or Ctrl-C during a long call. What `grads` then hold is unspecified.

        Notes
        -----
        A query that may attend to nothing has a zero gradient, and so has a token of key and value that no query may
        attend to. The weights that need_weights=True returns are not differentiated.
        """
        if self._kept is None:
            raise RuntimeError(
                "backward needs a call of the layer before it, outside of no_grad, and goes back once only"
            )
        gradients = _core.layer_backward(
            self._core_parameters, self._geometry, *self._kept, self._saved, dout, self._core_gradients, needs_bias
        )
        self._kept = None
        return LayerInputGradients._make(gradients)

    def __repr__(self) -> str:
        config, optional = self._config, fields(LayerConfig)[2:]
        options = [
            f"{field.name}={given!r}" for field in optional if (given := getattr(config, field.name)) != field.default
        ]
        if self.dtype != np.float32:
            options.append(f"dtype={self.dtype.name!r}")
        return f"{type(self).__name__}({', '.join([str(config.embed_dim), str(config.num_heads), *options])})"


def _element_type(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        element = None if dtype is None else np.dtype(dtype)  # to NumPy, None is float64
    except TypeError as error:
        raise TypeError(f"dtype must be float32 or float64, not {dtype!r}") from error
    if element is None or element not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, not {element}")
    return element
