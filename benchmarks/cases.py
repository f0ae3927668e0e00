"""The benchmark cases of cases.json for the operator and the layer: their shapes, inputs and floating-point operations.

Shape letters: B batch, H query heads, Hkv key/value heads, Sq and Sk lengths, D head dim (of values too), and in the
layer E = H * D, its width.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_DTYPES: dict[str, Any] = {"f32": np.float32, "f64": np.float64}
_LIVE_SHARE = 0.75  # of the keys, in the cases with padding


@dataclass(frozen=True)
class Case:
    """One row of cases.json.

    `op` is "forward" or "train" (forward and backward with the gradients of q, k and v), or "layer" or "layer train":
    the same of self-attention with its four projections, with the gradients of the input and of all parameters; or
    "layer frozen": "layer" with weights that were packed before, as peers pack theirs. `mask` is "none", "pad" (a
    boolean mask over the keys, the last quarter False), "lengths" (the same as key lengths) or "bias" (an additive bias
    for every pair). `isa` names the tier to use, None the default one. `reach` is the figure aimed at.
    """

    name: str
    op: str
    dtype: str
    B: int
    H: int
    Hkv: int
    Sq: int
    Sk: int
    D: int
    causal: bool
    mask: str
    isa: str | None
    threads: int
    reach: float

    def __post_init__(self) -> None:
        if self.is_layer and (self.Hkv, self.Sk, self.causal, self.mask) != (self.H, self.Sq, False, "none"):
            raise ValueError(f"{self.name}: layers are measured in plain self-attention, without masks")

    @property
    def is_layer(self) -> bool:
        """Whether it is about the layer, and not the operator alone."""
        return self.op.startswith("layer")

    @property
    def trains(self) -> bool:
        """Whether gradients are computed too."""
        return self.op.endswith("train")

    @property
    def is_frozen(self) -> bool:
        """Whether the layer's weights are packed before."""
        return self.op.endswith("frozen")

    @property
    def embed_dim(self) -> int:
        """E, the layer's width."""
        return self.H * self.D

    def flops(self) -> float:
        """Those of the attention, and 8 B S E^2 for a layer's four projections, 3 times that with their gradients."""
        projections = 8.0 * self.B * self.Sq * self.embed_dim**2 * (3 if self.trains else 1) if self.is_layer else 0.0
        return self._attention_flops() + projections

    def _attention_flops(self) -> float:
        """4 D for each pair of a query and a key that it may attend to, 3.5 times that with the backward pass."""
        if self.causal:
            pairs = sum(min(i + 1, self.Sk) for i in range(self.Sq))
        elif self.mask in ("pad", "lengths"):
            pairs = self.Sq * self.live_keys()
        else:
            pairs = self.Sq * self.Sk
        return 4.0 * self.B * self.H * pairs * self.D * (3.5 if self.trains else 1.0)

    def live_keys(self) -> int:
        """How many keys the padding leaves."""
        return int(self.Sk * _LIVE_SHARE)

    def score_bytes(self) -> int:
        """The size of the array of all scores, which naive implementations make."""
        itemsize: int = np.dtype(_DTYPES[self.dtype]).itemsize
        return self.B * self.H * self.Sq * self.Sk * itemsize


@dataclass(frozen=True)
class Inputs:
    """The arrays of a case: q and dout (B, H, Sq, D), k and v (B, Hkv, Sk, D), None what it does not use."""

    q: Array
    k: Array
    v: Array
    dout: Array | None
    mask: Array | None
    bias: Array | None
    key_lengths: Array | None

    def key_mask(self) -> Array | None:
        """The mask, or the key lengths as a mask (B, 1, 1, Sk), for implementations that have no key lengths."""
        if self.key_lengths is None:
            return self.mask
        return np.arange(self.k.shape[2]) < self.key_lengths[:, None, None, None]


@dataclass(frozen=True)
class LayerInputs:
    """The arrays of a layer's case: x and dout (B, S, E), and the parameters by the names that PyTorch has for them."""

    x: Array
    dout: Array | None
    parameters: dict[str, Array]


def make_inputs(case: Case) -> Inputs | LayerInputs:
    """The same normally distributed arrays at every call."""
    rng = np.random.default_rng(7)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=_DTYPES[case.dtype])

    return _layer_inputs(case, draw) if case.is_layer else _attention_inputs(case, draw)


def _attention_inputs(case: Case, draw: Callable[..., Array]) -> Inputs:
    return Inputs(
        q=draw(case.B, case.H, case.Sq, case.D),
        k=draw(case.B, case.Hkv, case.Sk, case.D),
        v=draw(case.B, case.Hkv, case.Sk, case.D),
        dout=draw(case.B, case.H, case.Sq, case.D) if case.trains else None,
        mask=np.tile(np.arange(case.Sk) < case.live_keys(), (case.B, 1, 1, 1)) if case.mask == "pad" else None,
        bias=draw(1, case.H, case.Sq, case.Sk) if case.mask == "bias" else None,
        key_lengths=np.full(case.B, case.live_keys()) if case.mask == "lengths" else None,
    )


def _layer_inputs(case: Case, draw: Callable[..., Array]) -> LayerInputs:
    width = case.embed_dim
    spread = _DTYPES[case.dtype](width**-0.5)  # projections of about the inputs' size
    return LayerInputs(
        x=draw(case.B, case.Sq, width),
        dout=draw(case.B, case.Sq, width) if case.trains else None,
        parameters={
            "in_proj_weight": spread * draw(3 * width, width),
            "in_proj_bias": spread * draw(3 * width),
            "out_proj.weight": spread * draw(width, width),
            "out_proj.bias": spread * draw(width),
        },
    )


def load_cases(group: str) -> list[Case]:
    """The rows of "throughput", "scaling" or "latency"; those of "products" are for the Swift benchmark."""
    return [Case(**row) for row in _document()[group]["rows"]]


def import_reach() -> float:
    """The milliseconds that the import may take."""
    return float(_document()["import"]["reach"])


def _document() -> Any:
    return json.loads((Path(__file__).parent / "cases.json").read_text(encoding="utf-8"))
