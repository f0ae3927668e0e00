"""What a layer has besides its passes: parameters and gradients, freezing, loading, copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._layer_parameters import core_geometry, core_views, initial_parameters, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._layer_config import LayerConfig
    from ._layer_parameters import IncompatibleKeys
    from ._types import Array, LayerOperands, Seed


# What a copy makes anew.
_MADE_BY_BIND = frozenset(("_geometry", "_core_parameters", "_core_gradients", "_kept", "_saved", "_freezing"))


class LayerArrays(Mapping[str, "np.ndarray[Any, Any]"]):
    """Arrays by name, which are changed in place and never replaced.

    `arrays[name] -= step` works: Python then puts back the array that it got. Another one is a TypeError.
    """

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, array: Array) -> None:
        if name not in self._arrays or array is not self._arrays[name]:
            raise TypeError(f"{name} cannot be replaced by another array: write its elements, [{name!r}][...] = ...")

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._arrays, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self._arrays}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._arrays!r})"


@dataclass
class _Freezing:
    """What `freeze` did, which shallow copies share, as they share the arrays."""

    packed: object | None = None  # the weights, as the core packed them
    made_read_only: list[Array] = field(default_factory=list)


class LayerState:
    """The part of `MultiHeadAttention` that holds its arrays."""

    def __init__(self, config: LayerConfig, dtype: np.dtype[Any], seed: Seed) -> None:
        self._config = config
        self._parameters = initial_parameters(config, dtype, seed)
        self._grads = {name: np.zeros_like(parameter) for name, parameter in self._parameters.items()}
        self._bind()

    def _bind(self) -> None:
        """Make what the core is called with, once: the arrays of parameters and gradients are never replaced."""
        self._geometry = core_geometry(self._config)
        self._core_parameters = core_views(self._config, self._parameters)
        self._core_gradients = core_views(self._config, self._grads)
        self._kept: LayerOperands | None = None
        self._saved: object | None = None  # what the core saves in; used again, because fresh pages cost time
        self._freezing = _Freezing()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the parameters and of all that goes in and out."""
        return self._parameters["out_proj.weight"].dtype

    @property
    def parameters(self) -> LayerArrays:
        """The parameters by name: the layer's own arrays, to be changed in place, as in parameters[name] -= step."""
        return LayerArrays(self._parameters)

    @property
    def grads(self) -> LayerArrays:
        """The gradients by the parameters, by the same names, into which `backward` adds; zero at first."""
        return LayerArrays(self._grads)

    def zero_grad(self) -> None:
        """Set all of `grads` to zero, in place."""
        for gradient in self._grads.values():
            gradient.fill(0)

    @property
    def frozen(self) -> bool:
        """Whether the parameters are read-only and the weights packed; see `freeze`."""
        return self._freezing.packed is not None

    def freeze(self) -> None:
        """Make the parameters read-only, and later calls quicker by it, until `unfreeze`.

        The weights are copied once, in the order in which the products read them, which a call otherwise does anew
        each time: the fewer tokens a call has, the more that counts, and most where widths are multiples of 64
        (float64: of 32). Takes as much memory again as the weights, their lengths rounded up to multiples of 16
        (float64: of 8). No bit of any result changes. `backward` works as ever. On a frozen layer it does nothing.

        The arrays of `parameters` are those of `state_dict` too, so what writes to either raises NumPy's ValueError.
        Views that were made of them before are not read-only: nothing may be written through those. Neither `freeze`
        nor `unfreeze` may run beside another use of the layer, or of a shallow copy, which has the same arrays and is
        frozen and unfrozen with it.

        Raises
        ------
        MemoryError
            No memory for the copies; the layer is as it was.
        ValueError
            An unusable SWIFTATTN_ISA; likewise.
        """
        if self.frozen:
            return
        freezing = self._freezing
        freezing.made_read_only = [array for array in self._parameters.values() if array.flags.writeable]
        try:
            for array in freezing.made_read_only:
                array.flags.writeable = False
            freezing.packed = _core.layer_pack(self._core_parameters)
        except BaseException:
            self.unfreeze()
            raise

    def unfreeze(self) -> None:
        """Undo `freeze`: the parameters can be changed again, and the memory is given back."""
        for array in self._freezing.made_read_only:
            array.flags.writeable = True
        self._freezing.made_read_only, self._freezing.packed = [], None

    def state_dict(self) -> dict[str, Array]:
        """Return the parameters as a new dict of the arrays themselves, not of copies."""
        return dict(self._parameters)

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy arrays into the parameters of their names: all of them or, after an error, none.

        Parameters
        ----------
        state : mapping of names to arrays
            Of the parameters' shapes and any floating dtype, which is cast to the layer's. NumPy arrays, objects with
            `__dlpack__`, such as CPU tensors of PyTorch, and what numpy.asarray takes.
        strict : bool, default True
            Whether the names must be exactly those of the layer's parameters. If not, parameters that are missing in
            `state` stay as they are, and unexpected names are ignored.

        Returns
        -------
        IncompatibleKeys
            A named tuple of two lists of names, missing_keys and unexpected_keys; both empty with strict=True.

        Raises
        ------
        ValueError
            Names are missing or unexpected (strict=True), or arrays have other shapes; the message lists all of them.
        TypeError
            `state` is not a mapping, or one of its values is not an array of a floating dtype.
        RuntimeError
            The layer is frozen.
        """
        if self.frozen:
            raise RuntimeError("the layer is frozen: load_state_dict needs unfreeze() before it")
        return load(self._parameters, state, strict)

    def __copy__(self) -> LayerState:
        """Make a layer with the same arrays, frozen with this one, that keeps its own calls for backward."""
        copied = object.__new__(type(self))
        vars(copied).update({name: value for name, value in vars(self).items() if name not in _MADE_BY_BIND})
        copied._bind()
        copied._freezing = self._freezing
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _MADE_BY_BIND}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # What was frozen, or unpickled from memory of others, may be read-only for ever; a copy is not.
        for arrays in (self._parameters, self._grads):
            arrays.update({name: array.copy() for name, array in arrays.items() if not array.flags.writeable})
        self._bind()
