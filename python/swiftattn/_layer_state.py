"""What a layer has besides its passes: parameters and gradients, freezing, loading, copies."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._layer_parameters import core_geometry, core_views, initial_parameters, load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._layer_config import LayerConfig
    from ._layer_parameters import IncompatibleKeys
    from ._types import Array, LayerOperands, Seed


# What a copy makes anew.
_MADE_BY_BIND = frozenset(
    ("_geometry", "_core_parameters", "_core_gradients", "_kept", "_saved", "_packed", "_made_read_only")
)


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
        self._packed: object | None = None  # the weights of a frozen layer, as the core packed them
        self._made_read_only: list[Array] = []

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the parameters and of all that goes in and out."""
        return self._parameters["out_proj.weight"].dtype

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The parameters by name. The mapping is read-only; the arrays are the layer's own and are changed in place."""
        return MappingProxyType(self._parameters)

    @property
    def grads(self) -> Mapping[str, Array]:
        """The gradients by the parameters, by the same names, into which `backward` adds; zero at first."""
        return MappingProxyType(self._grads)

    def zero_grad(self) -> None:
        """Set all of `grads` to zero, in place."""
        for gradient in self._grads.values():
            gradient.fill(0)

    @property
    def frozen(self) -> bool:
        """Whether the parameters are read-only and the weights packed; see `freeze`."""
        return self._packed is not None

    def freeze(self) -> None:
        """Make the parameters read-only, and later calls quicker by it, until `unfreeze`.

        The weights are copied once, in the order in which the products read them, which a call otherwise does anew
        each time: the fewer tokens a call has, the more that counts, and most where widths are multiples of 64
        (float64: of 32). Takes as much memory again as the weights, their lengths rounded up to multiples of 16
        (float64: of 8). No bit of any result changes. `backward` works as ever. On a frozen layer it does nothing.

        The arrays of `parameters` are those of `state_dict` too, so what writes to either raises NumPy's ValueError.
        Views that were made of them before are not read-only: nothing may be written through those. Neither `freeze`
        nor `unfreeze` may run beside another use of the layer, or of a shallow copy, which has the same arrays.

        Raises
        ------
        MemoryError
            No memory for the copies; the layer is as it was.
        ValueError
            An unusable SWIFTATTN_ISA; likewise.
        """
        if self.frozen:
            return
        self._made_read_only = [array for array in self._parameters.values() if array.flags.writeable]
        try:
            for array in self._made_read_only:
                array.flags.writeable = False
            self._packed = _core.layer_pack(self._core_parameters)
        except BaseException:
            self.unfreeze()
            raise

    def unfreeze(self) -> None:
        """Undo `freeze`: the parameters can be changed again, and the memory is given back."""
        for array in self._made_read_only:
            array.flags.writeable = True
        self._made_read_only, self._packed = [], None

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

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name not in _MADE_BY_BIND}
        if self.frozen:
            # Copies can be written: what is unpickled from a read-only array may never be.
            state["_parameters"] = {name: array.copy() for name, array in self._parameters.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._bind()
