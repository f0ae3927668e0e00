"""What a multi-head attention layer is constructed with, judged, and the parameters that follow from it.

Shared by the compiled layer and by its mathematics in `reference_layer`. Shape letters as there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._types import Array

__all__ = ["LayerConfig", "Rope", "input_projections", "judged_integer", "parameter_shapes"]


# Every integer up to it is a float64, and a sum of it and a length fits 64 bits.
_FARTHEST = 2**53


@dataclass(frozen=True)
class Rope:
    """Rotary positions: pair t of a head's numbers turns by position / scaling * base^(-2t / dim).

    That is Su et al. 2021, "RoFormer", section 3.2.2. Scores depend on differences of positions only, so a common
    offset changes nothing but how the keys of add_bias_kv compare, which do not turn.

    Parameters
    ----------
    dim : int, optional
        How many of a head's numbers turn, the first ones; even, and at most the head dim. Default: all of them. The
        rest passes unchanged.
    base : float, default 10000.0
        Positive and finite.
    scaling : float, default 1.0
        What positions are divided by; positive and finite.
    interleaved : bool, default False
        Pair t is (2t, 2t + 1) if True, as in GPT-J and GLM, and (t, t + dim / 2) if False, as in Llama.
    offset : int, default 0
        The position of the first query; at most 2^53 from 0.
    key_offset : int, optional
        The position of the first key; default: `offset`.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or out of its range.

    Examples
    --------
    >>> import swiftattn
    >>> swiftattn.Rope(base=500000.0)  # Llama 3
    Rope(dim=None, base=500000.0, scaling=1.0, interleaved=False, offset=0, key_offset=None)
    """

    dim: int | None = None
    base: float = 10000.0
    scaling: float = 1.0
    interleaved: bool = False
    offset: int = 0
    key_offset: int | None = None

    def __post_init__(self) -> None:
        _judge_integers(self, "dim", least=1, optional=True)
        if self.dim is not None and self.dim % 2 != 0:
            raise ValueError(f"dim must be even, because numbers turn in pairs, not {self.dim}")
        _judge_positive_numbers(self, "base", "scaling")
        _judge_flags(self, "interleaved")
        _judge_integers(self, "offset", least=-_FARTHEST, most=_FARTHEST)
        _judge_integers(self, "key_offset", least=-_FARTHEST, most=_FARTHEST, optional=True)

    @property
    def first_key(self) -> int:
        """The position of the first key: key_offset, or where that is None offset."""
        return self.offset if self.key_offset is None else self.key_offset


@dataclass(frozen=True)
class LayerConfig:
    """What nn.MultiheadAttention is constructed with, and num_kv_heads (GQA), head_dim and rope.

    Defaults: num_kv_heads is num_heads, head_dim is embed_dim / num_heads, kdim and vdim (the widths of the keys and
    values that come in) are embed_dim. TypeError for arguments of the wrong kind and ValueError for values that are out
    of range or do not fit each other, each naming the argument.
    """

    embed_dim: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    kdim: int | None = None
    vdim: int | None = None
    bias: bool = True
    add_bias_kv: bool = False
    add_zero_attn: bool = False
    rope: Rope | None = None

    def __post_init__(self) -> None:
        _judge_integers(self, "embed_dim", "num_heads", least=1)
        _judge_integers(self, "num_kv_heads", "head_dim", "kdim", "vdim", least=1, optional=True)
        _judge_flags(self, "bias", "add_bias_kv", "add_zero_attn")
        if self.head_dim is None and self.embed_dim % self.num_heads != 0:
            raise ValueError(
                f"embed_dim must be a multiple of num_heads where head_dim is not given, not {self.embed_dim} for "
                f"{self.num_heads} heads"
            )
        if self.num_heads % self.heads[1] != 0:
            raise ValueError(f"num_heads must be a multiple of num_kv_heads, not {self.num_heads} for {self.heads[1]}")
        self._judge_rope()

    def _judge_rope(self) -> None:
        if self.rope is None:
            return
        if not isinstance(self.rope, Rope):
            raise TypeError(f"rope must be a swiftattn.Rope or None, not {type(self.rope).__name__}")
        if self.rope.dim is None and self.head_width % 2 != 0:
            raise ValueError(f"rope turns pairs, but head_dim is {self.head_width}: give Rope an even dim")
        if self.rope.dim is not None and self.rope.dim > self.head_width:
            raise ValueError(f"rope has dim {self.rope.dim}, more than head_dim, {self.head_width}")

    @property
    def heads(self) -> tuple[int, int, int]:
        """The numbers of heads of q, k and v."""
        kv = self.num_heads if self.num_kv_heads is None else self.num_kv_heads
        return self.num_heads, kv, kv

    @property
    def head_width(self) -> int:
        """D."""
        return self.embed_dim // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def inputs(self) -> tuple[int, int, int]:
        """The widths of X_q, X_k and X_v."""
        kdim, vdim = (self.embed_dim if width is None else width for width in (self.kdim, self.vdim))
        return self.embed_dim, kdim, vdim

    @property
    def projected(self) -> tuple[int, int, int]:
        """The widths of q, k and v before they are cut into heads."""
        heads_q, heads_k, heads_v = self.heads
        return heads_q * self.head_width, heads_k * self.head_width, heads_v * self.head_width

    @property
    def fused(self) -> bool:
        """Whether Wq, Wk and Wv are one parameter, in_proj_weight, one above the other."""
        return self.inputs == (self.embed_dim,) * 3


def parameter_shapes(config: LayerConfig) -> dict[str, tuple[int, ...]]:
    """The layer's parameters, by PyTorch's names and in its order."""
    rows, columns = config.projected, config.inputs
    shapes: dict[str, tuple[int, ...]] = {}
    if config.fused:
        shapes["in_proj_weight"] = (sum(rows), config.embed_dim)
    else:
        shapes |= {f"{name}_proj_weight": (rows[i], columns[i]) for i, name in enumerate("qkv")}
    if config.bias:
        shapes["in_proj_bias"] = (sum(rows),)
    if config.add_bias_kv:
        shapes |= {"bias_k": (1, 1, rows[1]), "bias_v": (1, 1, rows[2])}
    shapes["out_proj.weight"] = (config.embed_dim, rows[0])
    if config.bias:
        shapes["out_proj.bias"] = (config.embed_dim,)
    return shapes


def input_projections(config: LayerConfig, parameters: Mapping[str, Array]) -> list[tuple[Array, Array | None]]:
    """(Wq, bq), (Wk, bk) and (Wv, bv), views; the rows of a fused parameter are those of q, then of k, then of v."""
    cuts = np.cumsum(config.projected)[:-1]
    if config.fused:
        weights = np.split(parameters["in_proj_weight"], cuts)
    else:
        weights = [parameters[f"{name}_proj_weight"] for name in "qkv"]
    biases: list[Array | None] = [None, None, None]
    if config.bias:
        biases = [*np.split(parameters["in_proj_bias"], cuts)]
    return list(zip(weights, biases, strict=True))


def judged_integer(name: str, value: object, *, least: int, optional: bool = False) -> int:
    """`value` as a Python int, or an error that names it; `optional` is for the message."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int{' or None' if optional else ''}, not {type(value).__name__}")
    number = int(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


# Each judges fields of a Rope or a LayerConfig, and leaves Python's own type where NumPy's was given: the fields are
# compared, printed and passed on to C. The instances are frozen for everybody else.


def _judge_integers(
    owner: Rope | LayerConfig, *names: str, least: int, most: int | None = None, optional: bool = False
) -> None:
    for name in names:
        value = getattr(owner, name)
        if optional and value is None:
            continue
        number = judged_integer(name, value, least=least, optional=optional)
        if most is not None and number > most:
            raise ValueError(f"{name} must be at most {most}, not {number}")
        object.__setattr__(owner, name, number)


def _judge_positive_numbers(owner: Rope | LayerConfig, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a real number, not {type(value).__name__}")
        number = float(value)
        if not (number > 0 and math.isfinite(number)):
            raise ValueError(f"{name} must be positive and finite, not {value}")
        object.__setattr__(owner, name, number)


def _judge_flags(owner: Rope | LayerConfig, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, not {type(value).__name__}")
        object.__setattr__(owner, name, bool(value))
