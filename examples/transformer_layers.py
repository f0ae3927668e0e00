"""What the examples' Transformers are made of: NumPy around swiftattn.MultiHeadAttention, backwards below forwards.

Calling a layer gives its output and, beside it, a `backward` that takes the gradient of that output, adds the gradients
of the layer's parameters to those already there (as `swiftattn.MultiHeadAttention.backward` does) and returns the
gradient of its input. Reading a backward from its top is reading the forward above it from its bottom.

Shape letters: B sequences, S tokens in each (padding included), T tokens of another sequence, E model width, H heads,
V kinds of token, N = B * S. Activations are (B, S, E).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import swiftattn

Array = NDArray[Any]
Tokens = NDArray[np.integer]
Backward = Callable[[Array], Array]


@dataclass(frozen=True)
class Parameter:
    """A learned array and the gradient of the loss with respect to it."""

    value: Array
    gradient: Array


class Parameters(dict[str, Parameter]):
    """All learned arrays of a model by name, those of its attention layers among them."""

    def __init__(self, rng: np.random.Generator, dtype: DTypeLike) -> None:
        super().__init__()
        self.rng, self.dtype = rng, dtype

    def add(self, name: str, value: Array) -> Parameter:
        """A new parameter that starts with the given value."""
        self[name] = Parameter(value.astype(self.dtype), np.zeros(value.shape, self.dtype))
        return self[name]

    def add_attention(self, name: str, width: int, heads: int) -> swiftattn.MultiHeadAttention:
        """A new attention layer; it owns its arrays, and what changes them here changes them there."""
        seed = int(self.rng.integers(1 << 32))
        layer = swiftattn.MultiHeadAttention(width, heads, dtype=self.dtype, seed=seed)
        for part, value in layer.parameters.items():
            self[f"{name}.{part}"] = Parameter(value, layer.grads[part])
        return layer

    def clear_gradients(self) -> None:
        """Sets every gradient to zero: what has to happen between two steps, because each backward adds."""
        for parameter in self.values():
            parameter.gradient.fill(0)

    @property
    def size(self) -> int:
        """The number of learned numbers."""
        return sum(parameter.value.size for parameter in self.values())


class Linear:
    """x @ weight + bias."""

    def __init__(self, parameters: Parameters, name: str, inputs: int, outputs: int) -> None:
        weight = parameters.rng.normal(0, 1 / math.sqrt(inputs), (inputs, outputs))
        self.weight = parameters.add(f"{name}.weight", weight)
        self.bias = parameters.add(f"{name}.bias", np.zeros(outputs))

    def __call__(self, x: Array) -> tuple[Array, Backward]:
        """Of x (B, S, inputs) as (B, S, outputs)."""
        rows = x.reshape(-1, x.shape[-1])  # one large product, where NumPy would compute B small ones
        y = rows @ self.weight.value
        y += self.bias.value

        def backward(dy: Array) -> Array:
            drows = dy.reshape(y.shape)
            self.bias.gradient[...] += drows.sum(axis=0)
            self.weight.gradient[...] += rows.T @ drows
            dx: Array = drows @ self.weight.value.T
            return dx.reshape(x.shape)

        return y.reshape(*x.shape[:-1], -1), backward


class LayerNorm:
    """Each row with mean 0 and variance 1, times gain, plus bias."""

    def __init__(self, parameters: Parameters, name: str, width: int, epsilon: float = 1e-5) -> None:
        self.gain = parameters.add(f"{name}.gain", np.ones(width))
        self.bias = parameters.add(f"{name}.bias", np.zeros(width))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> tuple[Array, Backward]:
        """Of x (B, S, E)."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.einsum("bse,bse->bs", centred, centred)[..., None] / x.shape[-1]
        deviation = np.sqrt(variance + self.epsilon)
        normal = centred / deviation
        y = normal * self.gain.value + self.bias.value

        def backward(dy: Array) -> Array:
            self.bias.gradient[...] += dy.sum(axis=(0, 1))
            self.gain.gradient[...] += np.einsum("bse,bse->e", dy, normal)
            dnormal = dy * self.gain.value
            along = np.einsum("bse,bse->bs", dnormal, normal)[..., None] / x.shape[-1]
            dx: Array = (dnormal - dnormal.mean(axis=-1, keepdims=True) - normal * along) / deviation
            return dx

        return y, backward


class Embedding:
    """A learned vector for each kind of token."""

    def __init__(self, parameters: Parameters, name: str, kinds: int, width: int) -> None:
        self.vectors = parameters.add(name, parameters.rng.normal(0, 1, (kinds, width)))

    def __call__(self, tokens: Tokens) -> tuple[Array, Callable[[Array], None]]:
        """Of tokens (B, S) as (B, S, E); tokens have no gradient for backward to return."""
        x = self.vectors.value[tokens]

        def backward(dx: Array) -> None:
            # A sum by kind is a matrix product with the one-hot matrix, far quicker than np.add.at.
            one_hot = np.arange(len(self.vectors.value))[:, None] == tokens.ravel()
            self.vectors.gradient[...] += one_hot.astype(dx.dtype) @ dx.reshape(tokens.size, -1)

        return x, backward


def sinusoids(length: int, width: int, longest: float) -> Array:
    """Positions (length, E): sines and cosines of E / 2 wavelengths, from 4 tokens to nearly `longest` tokens."""
    wavelengths = 4 * (longest / 4) ** np.linspace(0, 1, width // 2, endpoint=False)
    angles = np.arange(length)[:, None] * (2 * np.pi / wavelengths)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def relu(x: Array) -> tuple[Array, Backward]:
    """max(x, 0), for x of any shape."""
    y = np.maximum(x, 0)

    def backward(dy: Array) -> Array:
        return dy * (y > 0)

    return y, backward


class AttentionSublayer:
    """A norm and an attention layer, with what self-attention and cross-attention share."""

    def __init__(self, parameters: Parameters, name: str, width: int, heads: int) -> None:
        self.norm = LayerNorm(parameters, f"{name}.norm", width)
        self.attention = parameters.add_attention(name, width, heads)

    def weights(self, x: Array, *memory: Array, **options: Any) -> Array:
        """What each head attends to, for the arguments of a call: (B, H, S, S or T), whose rows sum to 1."""
        with swiftattn.no_grad():
            normal, _ = self.norm(x)
            weights: Array
            _, weights = self.attention(normal, *memory, need_weights=True, average_weights=False, **options)
        return weights


class SelfAttention(AttentionSublayer):
    """x + attention(norm(x)): every token takes from the tokens of its own sequence."""

    def __call__(self, x: Array, **options: Any) -> tuple[Array, Backward]:
        """Of x (B, S, E), with options of the attention layer: causal, key_lengths."""
        normal, norm_backward = self.norm(x)
        y = x + self.attention(normal, **options)

        def backward(dy: Array) -> Array:
            return dy + norm_backward(self.attention.backward(dy).query)

        return y, backward


class CrossAttention(AttentionSublayer):
    """x + attention(norm(x), memory): every token takes from the tokens of another sequence."""

    def __call__(self, x: Array, memory: Array, **options: Any) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """Of x (B, S, E) and memory (B, T, E); backward returns the gradients of both."""
        normal, norm_backward = self.norm(x)
        y = x + self.attention(normal, memory, **options)

        def backward(dy: Array) -> tuple[Array, Array]:
            gradients = self.attention.backward(dy)
            assert gradients.key is not None  # only self-attention has none
            return dy + norm_backward(gradients.query), gradients.key

        return y, backward


class FeedForward:
    """x + contract(relu(expand(norm(x)))), four times as wide inside."""

    def __init__(self, parameters: Parameters, name: str, width: int) -> None:
        self.norm = LayerNorm(parameters, f"{name}.norm", width)
        self.expand = Linear(parameters, f"{name}.expand", width, 4 * width)
        self.contract = Linear(parameters, f"{name}.contract", 4 * width, width)

    def __call__(self, x: Array) -> tuple[Array, Backward]:
        """Of x (B, S, E)."""
        normal, norm_backward = self.norm(x)
        wide, expand_backward = self.expand(normal)
        active, relu_backward = relu(wide)
        narrow, contract_backward = self.contract(active)

        def backward(dy: Array) -> Array:
            dwide = relu_backward(contract_backward(dy))
            return dy + norm_backward(expand_backward(dwide))

        return x + narrow, backward


class SelfAttentionBlock:
    """Self-attention, then feed-forward: with causal attention the block of a decoder alone, else of an encoder."""

    def __init__(self, parameters: Parameters, name: str, width: int, heads: int) -> None:
        self.attention = SelfAttention(parameters, f"{name}.attention", width, heads)
        self.feed_forward = FeedForward(parameters, f"{name}.feed_forward", width)

    def __call__(self, x: Array, **options: Any) -> tuple[Array, Backward]:
        """Of x (B, S, E), with options of the attention layer."""
        attended, attention_backward = self.attention(x, **options)
        y, feed_backward = self.feed_forward(attended)

        def backward(dy: Array) -> Array:
            return attention_backward(feed_backward(dy))

        return y, backward


def cross_entropy(
    logits: Array, targets: Tokens, counted: NDArray[np.bool_] | bool = True
) -> tuple[float, Callable[[], Array]]:
    """The mean of -log softmax(logits)[target] in nats: of logits (B, S, V) and targets (B, S) where counted (B, S)."""
    chosen, rows = targets.ravel(), np.arange(targets.size)
    shares = np.broadcast_to(counted, targets.shape).ravel().astype(logits.dtype)
    shares /= shares.sum()
    flat = logits.reshape(targets.size, -1)
    shifted = flat - flat.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1)
    loss = float(shares @ (np.log(sums) - shifted[rows, chosen]))

    def backward() -> Array:
        dlogits: Array = exponentials / sums[:, None]
        dlogits[rows, chosen] -= 1
        dlogits *= shares[:, None]
        return dlogits.reshape(logits.shape)

    return loss, backward
