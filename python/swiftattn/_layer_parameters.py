"""The arrays of a layer: their first values, the views of them that the core reads, and values from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._layer_config import input_projections, parameter_shapes

if TYPE_CHECKING:
    from ._layer_config import LayerConfig
    from ._types import Array, CoreGeometry, CoreParameters, Seed


class IncompatibleKeys(NamedTuple):
    """The parameters that a state dict lacked, and its names that the layer does not have."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def initial_parameters(config: LayerConfig, dtype: np.dtype[Any], seed: Seed) -> dict[str, Array]:
    """First values, drawn in the order of the names, in float64: the distributions of torch.nn.MultiheadAttention."""
    try:
        random = np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise type(error)(f"seed is not what numpy.random.default_rng takes: {error}") from error
    return {name: _first_values(name, shape, random).astype(dtype) for name, shape in parameter_shapes(config).items()}


def _first_values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if name in ("in_proj_bias", "out_proj.bias"):
        return np.zeros(shape)
    if name in ("bias_k", "bias_v"):
        # Glorot's normal distribution for (1, 1, width), where torch counts width inputs and width outputs.
        return random.normal(0, 1 / math.sqrt(shape[-1]), shape)
    rows, columns = shape
    # nn.Linear's distribution for out_proj, Glorot's uniform one for the others.
    bound = 1 / math.sqrt(columns) if name == "out_proj.weight" else math.sqrt(6 / (rows + columns))
    return random.uniform(-bound, bound, shape)


def core_views(config: LayerConfig, arrays: Mapping[str, Array]) -> CoreParameters:
    """The weights of q, k, v and out, their biases, and the tokens of k and v; views that stay valid."""
    weights, biases = zip(*input_projections(config, arrays), strict=True)
    tokens = [arrays[name][0, 0] if config.add_bias_kv else None for name in ("bias_k", "bias_v")]
    return (*weights, arrays["out_proj.weight"], *biases, arrays.get("out_proj.bias"), *tokens)


def core_geometry(config: LayerConfig) -> CoreGeometry:
    """What the core needs to know besides the arrays' shapes."""
    rope, turn = config.rope, None
    if rope is not None:
        dim = config.head_width if rope.dim is None else rope.dim
        turn = dim, rope.base, rope.scaling, rope.interleaved, rope.offset, rope.first_key
    return config.num_heads, config.heads[1], config.add_zero_attn, turn


def read_array(name: str, value: object) -> Array:
    """`value` as an array of some floating dtype, without a copy where that can be; `name` is for the messages."""
    try:
        if isinstance(value, np.ndarray):
            array = value
        elif hasattr(value, "__dlpack__"):
            array = np.from_dlpack(value)
        else:
            array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise TypeError(f"{name} cannot be read as an array: {error}") from error
    # By casting, because the dtypes of extensions, such as bfloat16, are not NumPy's floating ones.
    if array.dtype.kind in "biu" or not np.can_cast(array.dtype, np.float64, "same_kind"):
        raise TypeError(f"{name} has dtype {array.dtype} but must be of a floating one")
    return array


def load(parameters: Mapping[str, Array], state: Mapping[str, Any], strict: bool) -> IncompatibleKeys:
    """Copy a state dict's arrays into the parameters: all of them, or, where something does not fit, none."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping of names to arrays, not {type(state).__name__}")
    missing = [name for name in parameters if name not in state]
    unexpected = [name for name in state if name not in parameters]
    wrong = []
    if strict and missing:
        wrong.append(f"missing: {', '.join(missing)}")
    if strict and unexpected:
        wrong.append(f"unexpected: {', '.join(map(str, unexpected))}")
    # Copies, because what is given may be views of the parameters themselves, and a cast may fail.
    given = {}
    for name, parameter in parameters.items():
        if name in missing:
            continue
        array = read_array(name, state[name])
        if not parameter.flags.writeable:
            wrong.append(f"{name} is read-only in the layer")
        elif array.shape != parameter.shape:
            wrong.append(f"{name} has shape {array.shape} but the layer's is {parameter.shape}")
        else:
            given[name] = np.array(array, parameter.dtype)
    if wrong:
        raise ValueError(f"state does not fit the layer: {'; '.join(wrong)}")
    for name, array in given.items():
        parameters[name][...] = array
    return IncompatibleKeys(missing, unexpected)
