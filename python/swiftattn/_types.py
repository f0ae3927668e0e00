"""Types in the package's signatures; imported by type checkers only, so that importing the package stays cheap."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, SupportsFloat, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray


class SupportsDLPack(Protocol):
    """An array of another library that numpy.from_dlpack reads, such as a CPU tensor of PyTorch."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, Any]: ...


Array: TypeAlias = NDArray[Any]
ArrayInput: TypeAlias = Array | SupportsDLPack
# None where something was left out, which whoever asked for it need not check: typeshed's "Any trick".
OrNone: TypeAlias = Any
Lengths: TypeAlias = ArrayInput | SupportsIndex
Causal: TypeAlias = bool | np.bool_ | Literal["top_left", "bottom_right"]
Scale: TypeAlias = SupportsFloat | SupportsIndex
Layout: TypeAlias = Literal["BHSD", "BSHD"]
GradientName: TypeAlias = Literal["query", "key", "value", "bias"]
# query, key, value, mask, bias, causal and key_lengths, as a layer was given them
LayerOperands: TypeAlias = tuple[
    ArrayInput, ArrayInput | None, ArrayInput | None, ArrayInput | None, ArrayInput | None, Causal, Lengths | None
]
Seed: TypeAlias = int | Sequence[int] | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None

# The weights of q, k, v and out, (rows, columns), their biases, and the tokens of add_bias_kv for k and v.
CoreParameters: TypeAlias = tuple[Array | None, ...]
# dim, base, scaling, interleaved, offset, key_offset
CoreRope: TypeAlias = tuple[int, float, float, bool, int, int]
# num_heads, num_kv_heads, add_zero_attn, rope
CoreGeometry: TypeAlias = tuple[int, int, bool, CoreRope | None]
