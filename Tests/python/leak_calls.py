"""The calls whose leaks are measured: good and failing ones of each kind, ready to be made again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import swiftattn
import test_errors
import test_layer_errors
from cases import Array
from swiftattn import MultiHeadAttention, Rope, convert
from test_convert import SQUARE, weights_of
from views import Exporter


@dataclass(frozen=True)
class Call:
    """A function, what it is given, and the exception that it raises, if any."""

    name: str
    function: Callable[..., object]
    arguments: dict[str, Any]
    error: type[Exception] | tuple[type[Exception], ...] | None = None

    def make(self) -> None:
        """Make the call and drop what it returns or raises; that is in `error` or else a failure of the test."""
        if self.error is None:
            self.function(**self.arguments)
            return
        try:
            self.function(**self.arguments)
        except self.error:
            return
        raise AssertionError(f"{self.name}: no error")


def fails(name: str, function: Callable[..., object], good: dict[str, Any], table: Any) -> Iterator[Call]:
    """A failing call for every row of a table: the arguments that are changed, and the exception."""
    for changes, error, *_ in table:
        yield Call(f"{name} with bad {', '.join(changes)}", function, {**good, **changes}, error)


# Some KB each, so that a leak of one shows; LARGE is for calls that release the GIL.
X = np.ones((2, 4, 33, 32), np.float32)
LARGE = np.ones((1, 4, 160, 32), np.float32)
TOKENS = np.ones((2, 50, 64), np.float32)


def attention_calls() -> Iterator[Call]:
    good = {"q": X, "k": X, "v": X, "mask": np.ones((33, 33), bool), "bias": np.ones((33, 33), np.float32)}
    out, lse = swiftattn.attention(**good, return_lse=True)
    yield Call("attention", swiftattn.attention, {**good, "key_lengths": np.array([3, 9]), "scale": 0.5})
    yield Call("attention, large", swiftattn.attention, dict.fromkeys("qkv", LARGE))
    yield Call("attention into out", swiftattn.attention, {**good, "out": out, "return_lse": True})
    yield Call("attention of other libraries", swiftattn.attention, {name: Exporter(X) for name in "qkv"})
    unaligned = np.zeros(X.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(X.shape)
    yield Call("attention of unaligned arrays", swiftattn.attention, dict.fromkeys("qkv", unaligned))
    backward = {**good, "dout": X, "out": out, "lse": lse}
    yield Call("attention_backward", swiftattn.attention_backward, backward)
    yield Call("attention_backward, some", swiftattn.attention_backward, {**backward, "needs": ["query", "bias"]})
    yield Call("attention_vjp", lambda **given: swiftattn.attention_vjp(**given)[1](X), good)
    inputs = test_errors.make_inputs(test_errors.CASE)
    operands = {"q": inputs.q, "k": inputs.k, "v": inputs.v, **inputs.options}
    bad = (*test_errors.BAD_OPERANDS, *test_errors.BAD_OPTIONS)
    yield from fails("attention", swiftattn.attention, operands, bad)
    outs = [({"out": out}, error) for out, error, _ in test_errors.BAD_OUTPUTS]
    yield from fails("attention", swiftattn.attention, operands, outs)
    shape = test_errors.OUT_SHAPE
    own = {"dout": inputs.dout, "out": np.zeros(shape, np.float32), "lse": np.zeros(shape[:-1], np.float32)}
    yield from fails(
        "attention_backward", swiftattn.attention_backward, {**operands, **own}, (*bad, *test_errors.BAD_BACKWARD)
    )


def backward_of(layer: MultiHeadAttention) -> Callable[..., object]:
    """A forward and a backward pass."""

    def forward_and_backward(dout: Array, **given: Any) -> object:
        layer(**given)
        return layer.backward(dout)

    return forward_and_backward


def freeze_and_unfreeze(layer: MultiHeadAttention) -> None:
    layer.freeze()
    layer.unfreeze()


def layer_calls() -> Iterator[Call]:
    plain = MultiHeadAttention(64, 4, num_kv_heads=2, add_bias_kv=True, add_zero_attn=True, rope=Rope(), seed=0)
    given = {"query": TOKENS, "key": TOKENS, "mask": np.ones((50, 50), bool), "key_lengths": np.array([7, 50])}
    yield Call("layer", plain, given)
    yield Call("layer with weights", plain, {**given, "need_weights": True, "average_weights": False})
    yield Call("layer without backward", swiftattn.no_grad()(plain.__call__), given)
    yield Call("layer.backward", backward_of(plain), {**given, "dout": TOKENS})
    yield Call("layer.backward with bad dout", backward_of(plain), {**given, "dout": TOKENS[:1]}, ValueError)
    yield Call("layer.backward with no array", backward_of(plain), {**given, "dout": [1.0]}, TypeError)
    frozen = MultiHeadAttention(64, 4, seed=0)
    frozen.freeze()
    yield Call("frozen layer", swiftattn.no_grad()(frozen.__call__), {"query": TOKENS})
    yield Call("load_state_dict of a frozen layer", frozen.load_state_dict, {"state": {}}, RuntimeError)
    yield Call("freeze", freeze_and_unfreeze, {"layer": MultiHeadAttention(64, 4, seed=0)})
    yield Call("state_dict", lambda: plain.load_state_dict(plain.state_dict()), {})
    state = plain.state_dict()
    for name, array in state.items():
        lacking = {other: state[other] for other in state if other != name}
        for wrong in (lacking, {**state, name: array[None]}, {**state, name: array.astype(int)}, {**state, "x": array}):
            yield Call(f"load_state_dict, {name}", plain.load_state_dict, {"state": wrong}, (TypeError, ValueError))
    yield Call("MultiHeadAttention", MultiHeadAttention, {"embed_dim": 64, "num_heads": 4, "rope": Rope(), "seed": 0})
    yield from fails(
        "MultiHeadAttention", MultiHeadAttention, {"embed_dim": 8, "num_heads": 4}, test_layer_errors.BAD_LAYERS
    )
    yield from fails("Rope", Rope, {}, test_layer_errors.BAD_ROPES)
    narrow = MultiHeadAttention(8, 4, num_kv_heads=2, kdim=5, vdim=6)
    yield from fails("layer", narrow, test_layer_errors.GOOD, test_layer_errors.BAD_CALLS)


def convert_calls() -> Iterator[Call]:
    for name, (function, arguments, shapes) in SQUARE.items():
        state = weights_of(shapes)
        first = next(iter(state))
        yield Call(f"convert {name}", function, {"state": state, **arguments})
        for wrong, error in (
            ({first: state[first]}, KeyError),
            ({**state, first: state[first][None]}, ValueError),
            ({**state, first: state[first].astype(int)}, TypeError),
        ):
            yield Call(f"convert {name}, {error.__name__}", function, {"state": wrong, **arguments}, error)
    state = weights_of({f"{name}.weight": (24, 24) for name in "qkvo"})
    yield Call("convert with bad heads", convert.from_t5, {"state": state, "num_heads": 5}, ValueError)


def settings_calls() -> Iterator[Call]:
    for function in (swiftattn.get_num_threads, swiftattn.get_isa, swiftattn.available_isas):
        yield Call(function.__name__, function, {})
    yield Call("set_isa", swiftattn.set_isa, {"name": swiftattn.get_isa()})
    yield Call("set_isa, unknown", swiftattn.set_isa, {"name": "mmx"}, ValueError)
    yield Call("set_isa, no name", swiftattn.set_isa, {"name": 2}, TypeError)
    yield Call("set_num_threads, too many", swiftattn.set_num_threads, {"n": 2**70}, ValueError)
    yield Call("set_num_threads, no number", swiftattn.set_num_threads, {"n": 1.5}, TypeError)


def all_calls() -> list[Call]:
    return [*attention_calls(), *layer_calls(), *convert_calls(), *settings_calls()]
