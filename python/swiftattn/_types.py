"""Types in the package's signatures; imported by type checkers only, so that importing the package stays cheap."""

from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import NDArray


class SupportsDLPack(Protocol):
    """An array of another library that numpy.from_dlpack reads, such as a CPU tensor of PyTorch."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, Any]: ...


Array: TypeAlias = NDArray[Any]
ArrayInput: TypeAlias = Array | SupportsDLPack
Lengths: TypeAlias = ArrayInput | int
Causal: TypeAlias = bool | Literal["top_left", "bottom_right"]
Layout: TypeAlias = Literal["BHSD", "BSHD"]
GradientName: TypeAlias = Literal["query", "key", "value", "bias"]
