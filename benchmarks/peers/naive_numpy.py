"""What one writes in NumPy: the whole array of scores, on the threads that its BLAS takes."""

from __future__ import annotations

import numpy as np

from cases import Array, Case, Inputs, LayerInputs

from .peer import Peer, Prepared

_LARGEST_SCORES = 1 << 29  # bytes: beyond, the naive implementation takes seconds and gigabytes


def attend(q: Array, k: Array, v: Array, mask: Array | None = None, bias: Array | None = None) -> tuple[Array, Array]:
    """The output, and the softmax."""
    p = q @ k.swapaxes(-1, -2)
    p *= scale_of(q)
    if bias is not None:
        p += bias
    if mask is not None:
        np.copyto(p, -np.inf, where=~mask)
    p -= p.max(axis=-1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    return p @ v, p


def attend_backward(dout: Array, q: Array, k: Array, v: Array, out: Array, p: Array) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v."""
    dv = p.swapaxes(-1, -2) @ dout
    ds = dout @ v.swapaxes(-1, -2)
    ds -= np.sum(dout * out, axis=-1, keepdims=True)
    ds *= p
    ds *= scale_of(q)
    return ds @ k, ds.swapaxes(-1, -2) @ q, dv


def scale_of(q: Array) -> Array:
    """1 / sqrt(D), in the dtype of q."""
    scale: Array = q.dtype.type(q.shape[-1] ** -0.5)
    return scale


class NaiveNumpy(Peer):
    """NumPy itself."""

    name = "numpy"
    modules = ("numpy",)

    def supports(self, case: Case) -> bool:
        """Scores that fit comfortably."""
        return case.score_bytes() <= _LARGEST_SCORES and case.Hkv == case.H

    def prepare_attention(self, case: Case, inputs: Inputs) -> Prepared:
        """The causal mask is made once."""
        q, k, v, dout = inputs.q, inputs.k, inputs.v, inputs.dout
        mask = np.tri(case.Sq, case.Sk, dtype=bool) if case.causal else inputs.key_mask()
        if dout is None:
            return lambda: attend(q, k, v, mask, inputs.bias)[0], lambda out: out

        def train() -> tuple[Array, ...]:
            out, p = attend(q, k, v, mask, inputs.bias)
            return out, *attend_backward(dout, q, k, v, out, p)

        return train, lambda result: result[0]

    def prepare_layer(self, case: Case, inputs: LayerInputs) -> Prepared:
        """The projections are products of rows, one for each token: (B * S, E)."""
        shape = case.B, case.Sq, case.H, case.D
        x, dout = inputs.x.reshape(-1, case.embed_dim), inputs.dout
        w_in, b_in = inputs.parameters["in_proj_weight"], inputs.parameters["in_proj_bias"]
        w_out, b_out = inputs.parameters["out_proj.weight"], inputs.parameters["out_proj.bias"]

        def split(rows: Array) -> Array:
            heads: Array = rows.reshape(shape).swapaxes(1, 2)
            return heads

        def merge(heads: Array) -> Array:
            rows: Array = heads.swapaxes(1, 2).reshape(x.shape)
            return rows

        def forward() -> tuple[Array, ...]:
            q, k, v = (split(rows) for rows in np.split(x @ w_in.T + b_in, 3, axis=1))
            heads, p = attend(q, k, v)
            merged = merge(heads)
            return merged @ w_out.T + b_out, q, k, v, heads, p, merged

        def to_array(result: tuple[Array, ...]) -> Array:
            return result[0].reshape(inputs.x.shape)

        if dout is None:
            return forward, to_array
        out_gradient = dout.reshape(x.shape)

        def train() -> tuple[Array, ...]:
            out, q, k, v, heads, p, merged = forward()
            gradients = attend_backward(split(out_gradient @ w_out), q, k, v, heads, p)
            rows = np.hstack([merge(gradient) for gradient in gradients])
            parameters = rows.T @ x, rows.sum(axis=0), out_gradient.T @ merged, out_gradient.sum(axis=0)
            return out, rows @ w_in, *parameters

        return train, to_array
