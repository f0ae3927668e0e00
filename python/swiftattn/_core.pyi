from collections.abc import Iterable

from ._types import Array, ArrayInput, Causal, CoreGeometry, CoreParameters, GradientName, Layout, Lengths, Scale

def forward(
    q: ArrayInput,
    k: ArrayInput,
    v: ArrayInput,
    mask: ArrayInput | None,
    bias: ArrayInput | None,
    causal: Causal,
    key_lengths: Lengths | None,
    query_lengths: Lengths | None,
    scale: Scale | None,
    layout: Layout,
    out: Array | None,
    return_lse: bool,
    /,
) -> Array | tuple[Array, Array]: ...
def backward(
    q: ArrayInput,
    k: ArrayInput,
    v: ArrayInput,
    mask: ArrayInput | None,
    bias: ArrayInput | None,
    causal: Causal,
    key_lengths: Lengths | None,
    query_lengths: Lengths | None,
    scale: Scale | None,
    layout: Layout,
    dout: ArrayInput,
    out: ArrayInput,
    lse: ArrayInput,
    needs: Iterable[GradientName],
    /,
) -> tuple[Array | None, Array | None, Array | None, Array | None]: ...
def judged_needs(needs: Iterable[GradientName], /) -> tuple[GradientName, ...]: ...
def layer_forward(
    parameters: CoreParameters,
    geometry: CoreGeometry,
    query: ArrayInput,
    key: ArrayInput | None,
    value: ArrayInput | None,
    mask: ArrayInput | None,
    bias: ArrayInput | None,
    causal: Causal,
    key_lengths: Lengths | None,
    keeps: bool,
    spare: object | None,
    weights: int,
    packed: object | None,
    /,
) -> tuple[Array, object | None, Array | None]: ...
def layer_backward(
    parameters: CoreParameters,
    geometry: CoreGeometry,
    query: ArrayInput,
    key: ArrayInput | None,
    value: ArrayInput | None,
    mask: ArrayInput | None,
    bias: ArrayInput | None,
    causal: Causal,
    key_lengths: Lengths | None,
    saved: object,
    dout: ArrayInput,
    gradients: CoreParameters,
    needs_bias: bool,
    /,
) -> tuple[Array, Array | None, Array | None, Array | None]: ...
def layer_pack(parameters: CoreParameters, /) -> object: ...
def version() -> str: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int, /) -> None: ...
def get_isa() -> str | None: ...
def set_isa(name: str | None, /) -> None: ...
def available_isas() -> tuple[str, ...]: ...
def kernel_ids() -> tuple[str, ...]: ...
