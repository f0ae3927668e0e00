"""What the derivatives return; needs neither the compiled core nor the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ._types import Array, OrNone


class AttentionGradients(NamedTuple):
    """The gradients by q, k, v and bias, each in its operand's shape, dtype and layout; None where left out."""

    query: Array | OrNone = None
    key: Array | OrNone = None
    value: Array | OrNone = None
    bias: Array | OrNone = None


class LayerInputGradients(NamedTuple):
    """The gradients by a layer's inputs, each in its input's shape and dtype.

    None for an input that was not given, and for bias unless it was asked for.
    """

    query: Array
    key: Array | OrNone
    value: Array | OrNone
    bias: Array | OrNone
