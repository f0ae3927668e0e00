"""A decoder-only Transformer over characters, in NumPy, with attention and its gradients from swiftattn.

Every layer is a function that returns its output and, beside it, a `backward` that takes the gradient of that output,
stores the gradients of the layer's parameters and returns the gradient of its input, just as
`swiftattn.attention_vjp` does. Reading a backward from its top is reading the forward above it from its bottom.

Shape letters: B sequences, S characters in each, N = B * S, E model width, H heads, D = E / H, V vocabulary size.
Activations are (N, E) except around attention, where they are (B, S, H, D): swiftattn's layout "BSHD".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import swiftattn

Array = NDArray[Any]
Backward = Callable[[Array], Array]


@dataclass(frozen=True)
class Config:
    """The sizes of a model; `context` is the longest sequence it takes, `width` is even and a multiple of `heads`."""

    vocabulary: int
    context: int = 64
    layers: int = 2
    heads: int = 4
    width: int = 128
    dtype: DTypeLike = np.float32


@dataclass(frozen=True)
class Parameter:
    """A learned array and the gradient of the loss with respect to it: views of the model's two flat arrays."""

    value: Array
    gradient: Array


def linear(x: Array, weight: Parameter, bias: Parameter) -> tuple[Array, Backward]:
    """x @ weight + bias, for x (N, in), weight (in, out) and bias (out,)."""
    y = x @ weight.value
    y += bias.value

    def backward(dy: Array) -> Array:
        np.sum(dy, axis=0, out=bias.gradient)
        np.matmul(x.T, dy, out=weight.gradient)
        return dy @ weight.value.T

    return y, backward


def relu(x: Array) -> tuple[Array, Backward]:
    """max(x, 0), for x of any shape."""
    y = np.maximum(x, 0)

    def backward(dy: Array) -> Array:
        return dy * (y > 0)

    return y, backward


def layer_norm(x: Array, gain: Parameter, bias: Parameter, epsilon: float = 1e-5) -> tuple[Array, Backward]:
    """Each row of x (N, E) with mean 0 and variance 1, times gain (E,), plus bias (E,)."""
    centred = x - x.mean(axis=1, keepdims=True)
    variance = np.einsum("ne,ne->n", centred, centred)[:, None] / x.shape[1]
    deviation = np.sqrt(variance + epsilon)
    normal = centred / deviation
    y = normal * gain.value + bias.value

    def backward(dy: Array) -> Array:
        np.sum(dy, axis=0, out=bias.gradient)
        np.einsum("ne,ne->e", dy, normal, out=gain.gradient)
        dnormal = dy * gain.value
        along = np.einsum("ne,ne->n", dnormal, normal)[:, None] / x.shape[1]
        return (dnormal - dnormal.mean(axis=1, keepdims=True) - normal * along) / deviation

    return y, backward


def cross_entropy(logits: Array, targets: NDArray[np.integer]) -> tuple[float, Callable[[], Array]]:
    """The mean over N of -log softmax(logits)[target] in nats, for logits (N, V) and targets (N,)."""
    rows = np.arange(len(targets))
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1)
    loss = float(np.mean(np.log(sums) - shifted[rows, targets]))

    def backward() -> Array:
        dlogits = exponentials / sums[:, None]
        dlogits[rows, targets] -= 1
        return dlogits / logits.dtype.type(len(targets))

    return loss, backward


class CharTransformer:
    """Learned positions, then `layers` blocks of attention and feed-forward, then a linear layer to the characters."""

    def __init__(self, config: Config, rng: np.random.Generator) -> None:
        self.config = config
        shapes = self._shapes()
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        self.values = np.zeros(sum(sizes), config.dtype)
        self.gradients = np.zeros_like(self.values)
        ends = np.cumsum(sizes)[:-1]
        pieces = zip(shapes.items(), np.split(self.values, ends), np.split(self.gradients, ends), strict=True)
        self.parameters = {
            name: Parameter(value.reshape(shape), gradient.reshape(shape)) for (name, shape), value, gradient in pieces
        }
        self._initialise(rng)

    def _initialise(self, rng: np.random.Generator) -> None:
        config = self.config
        for name, parameter in self.parameters.items():
            if name.endswith("gain"):
                parameter.value[...] = 1
            elif name.endswith("weight"):
                # Layers that add into the residual stream start smaller, so that it keeps its size at any depth.
                small = math.sqrt(2 * config.layers) if name.endswith(("project.weight", "contract.weight")) else 1
                deviation = 1 / (small * math.sqrt(len(parameter.value)))
                parameter.value[...] = rng.normal(0, deviation, parameter.value.shape)
        character, position = self.parameters["character"].value, self.parameters["position"].value
        character[...] = rng.normal(0, 1, character.shape)
        # Positions are learned, but waves from four characters long to twice the context are a far better start than
        # noise: a head finds the previous characters at once.
        exponents = np.linspace(0, 1, config.width // 2, endpoint=False)
        angles = np.arange(config.context)[:, None] * (np.pi / 2 * (2 / config.context) ** exponents)
        position[...] = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        width, vocabulary = self.config.width, self.config.vocabulary
        shapes: dict[str, tuple[int, ...]] = {
            "character": (vocabulary, width),
            "position": (self.config.context, width),
        }

        def affine(name: str, inputs: int, outputs: int) -> None:
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (inputs, outputs), (outputs,)

        def norm(name: str) -> None:
            shapes[f"{name}.gain"], shapes[f"{name}.bias"] = (width,), (width,)

        for i in range(self.config.layers):
            norm(f"{i}.norm1")
            affine(f"{i}.qkv", width, 3 * width)
            affine(f"{i}.project", width, width)
            norm(f"{i}.norm2")
            affine(f"{i}.expand", width, 4 * width)
            affine(f"{i}.contract", 4 * width, width)
        norm("norm")
        affine("output", width, vocabulary)
        return shapes

    def _linear(self, x: Array, name: str) -> tuple[Array, Backward]:
        return linear(x, self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"])

    def _norm(self, x: Array, name: str) -> tuple[Array, Backward]:
        return layer_norm(x, self.parameters[f"{name}.gain"], self.parameters[f"{name}.bias"])

    def _embed(self, tokens: NDArray[np.integer]) -> tuple[Array, Callable[[Array], None]]:
        character, position = self.parameters["character"], self.parameters["position"]
        length, width = tokens.shape[1], self.config.width
        x = (character.value[tokens] + position.value[:length]).reshape(-1, width)

        def backward(dx: Array) -> None:
            np.sum(dx.reshape(-1, length, width), axis=0, out=position.gradient[:length])
            position.gradient[length:] = 0
            # A sum by character is a matrix product with the one-hot matrix, far quicker than np.add.at.
            one_hot = (np.arange(len(character.value))[:, None] == tokens.ravel()).astype(dx.dtype)
            np.matmul(one_hot, dx, out=character.gradient)

        return x, backward

    def _heads(self, qkv: Array, batch: int) -> tuple[Array, Array, Array]:
        """Query, key and value, each a (B, S, H, D) view of qkv (N, 3E)."""
        heads = self.config.heads
        split = qkv.reshape(batch, -1, 3, heads, self.config.width // heads)
        return split[:, :, 0], split[:, :, 1], split[:, :, 2]

    def _attention(self, x: Array, name: str, batch: int) -> tuple[Array, Backward]:
        qkv, qkv_backward = self._linear(x, f"{name}.qkv")
        q, k, v = self._heads(qkv, batch)
        attended, vjp = swiftattn.attention_vjp(q, k, v, causal=True, layout="BSHD")
        y, project_backward = self._linear(attended.reshape(x.shape), f"{name}.project")

        def backward(dy: Array) -> Array:
            dattended = project_backward(dy).reshape(attended.shape)
            gradients = vjp(dattended)
            dqkv = np.stack([gradients.query, gradients.key, gradients.value], axis=2).reshape(qkv.shape)
            return qkv_backward(dqkv)

        return y, backward

    def _feed_forward(self, x: Array, name: str) -> tuple[Array, Backward]:
        wide, expand_backward = self._linear(x, f"{name}.expand")
        active, relu_backward = relu(wide)
        y, contract_backward = self._linear(active, f"{name}.contract")

        def backward(dy: Array) -> Array:
            dactive = contract_backward(dy)
            dwide = relu_backward(dactive)
            return expand_backward(dwide)

        return y, backward

    def _block(self, x: Array, name: str, batch: int) -> tuple[Array, Backward]:
        normal1, norm1_backward = self._norm(x, f"{name}.norm1")
        attended, attention_backward = self._attention(normal1, name, batch)
        x = x + attended
        normal2, norm2_backward = self._norm(x, f"{name}.norm2")
        fed, feed_backward = self._feed_forward(normal2, name)
        y = x + fed

        def backward(dy: Array) -> Array:
            dx = dy + norm2_backward(feed_backward(dy))
            return dx + norm1_backward(attention_backward(dx))

        return y, backward

    def forward(self, tokens: NDArray[np.integer]) -> tuple[Array, Callable[[Array], None]]:
        """Logits (N, V) for the character after each of tokens (B, S), S <= context."""
        x, embed_backward = self._embed(tokens)
        block_backwards = []
        for i in range(self.config.layers):
            x, block_backward = self._block(x, str(i), len(tokens))
            block_backwards.append(block_backward)
        normal, norm_backward = self._norm(x, "norm")
        logits, output_backward = self._linear(normal, "output")

        def backward(dlogits: Array) -> None:
            dx = norm_backward(output_backward(dlogits))
            for block_backward in reversed(block_backwards):
                dx = block_backward(dx)
            embed_backward(dx)

        return logits, backward

    def loss(self, tokens: NDArray[np.integer], targets: NDArray[np.integer]) -> tuple[float, Callable[[], None]]:
        """The mean cross-entropy in nats of targets (B, S) after tokens (B, S); backward fills `gradients`."""
        logits, logits_backward = self.forward(tokens)
        loss, loss_backward = cross_entropy(logits, targets.ravel())
        return loss, lambda: logits_backward(loss_backward())

    def attention_weights(self, tokens: NDArray[np.integer]) -> Array:
        """What each head attends to in tokens (S,): an array (layers, H, S, S) of rows that sum to 1."""
        x, _ = self._embed(tokens[None])
        # Attention averages the values; when value j is the j-th unit vector, the average is the weights themselves.
        unit = np.eye(len(tokens), dtype=x.dtype)[None, :, None]
        weights = []
        for i in range(self.config.layers):
            qkv, _ = self._linear(self._norm(x, f"{i}.norm1")[0], f"{i}.qkv")
            q, k, _ = self._heads(qkv, 1)
            units = np.broadcast_to(unit, (1, len(tokens), self.config.heads, len(tokens)))
            averages = swiftattn.attention(q, k, units, causal=True, layout="BSHD")
            weights.append(averages[0].swapaxes(0, 1))
            x, _ = self._block(x, str(i), 1)
        return np.stack(weights)
