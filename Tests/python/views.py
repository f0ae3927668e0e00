"""Other forms of the same numbers: views that lie in memory in other ways, and arrays of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cases import Array

View = Callable[[Array], Array]


def spread(array: Array) -> Array:
    """Every other element of a larger array along the last axis, the gaps filled with True or NaN."""
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), True if array.dtype == bool else np.nan, array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def sliced(array: Array) -> Array:
    """The middle of a larger array in every axis."""
    wide = np.full([length + 3 for length in array.shape], True if array.dtype == bool else np.nan, array.dtype)
    wide[tuple(slice(1, -2) for _ in array.shape)] = array
    return wide[tuple(slice(1, -2) for _ in array.shape)]


def reversed_axes(array: Array) -> Array:
    """Negative strides in every axis."""
    backwards = (slice(None, None, -1),) * array.ndim
    return array[backwards].copy()[backwards]


def at_offset(offset: int) -> View:
    """The array at an address that is `offset` bytes beyond a multiple of 64."""

    def view(array: Array) -> Array:
        memory = np.zeros(array.nbytes + 64 + offset, np.uint8)
        start = -memory.ctypes.data % 64 + offset
        moved: Array = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        moved[...] = array
        return moved

    return view


VIEWS: dict[str, View] = {
    "fortran": np.asfortranarray,
    "spread": spread,
    "sliced": sliced,
    "reversed": reversed_axes,
    "sequence_major": lambda array: np.moveaxis(np.moveaxis(array, 1, -2).copy(), -2, 1) if array.ndim > 2 else array,
    "one_element_off_alignment": at_offset(8),
    "no_alignment": at_offset(1),
}


class Exporter:
    """An array of another library: nothing but DLPack."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[Any, Any]:
        return self._array.__dlpack_device__()
