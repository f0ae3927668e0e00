"""A decoder-only Transformer over characters, from the layers of `transformer_layers`, where the shape letters are."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

import swiftattn
from transformer_layers import (
    Array,
    Embedding,
    LayerNorm,
    Linear,
    Parameters,
    SelfAttentionBlock,
    Tokens,
    cross_entropy,
    sinusoids,
)


@dataclass(frozen=True)
class Config:
    """The sizes of a model; `context` is the longest sequence it takes, `width` is even and a multiple of `heads`."""

    vocabulary: int
    context: int = 64
    layers: int = 2
    heads: int = 4
    width: int = 128
    dtype: DTypeLike = np.float32


class CharTransformer:
    """Learned positions, then `layers` blocks of attention and feed-forward, then a linear layer to the characters."""

    def __init__(self, config: Config, rng: np.random.Generator) -> None:
        self.config, width = config, config.width
        self.parameters = parameters = Parameters(rng, config.dtype)
        self.character = Embedding(parameters, "character", config.vocabulary, width)
        # Positions are learned, but waves are a far better start than noise: a head finds the previous characters at
        # once.
        self.position = parameters.add("position", sinusoids(config.context, width, 2 * config.context))
        self.blocks = [SelfAttentionBlock(parameters, str(i), width, config.heads) for i in range(config.layers)]
        self.norm = LayerNorm(parameters, "norm", width)
        self.output = Linear(parameters, "output", width, config.vocabulary)

    def _embed(self, tokens: Tokens) -> tuple[Array, Callable[[Array], None]]:
        length = tokens.shape[1]
        x, character_backward = self.character(tokens)
        x += self.position.value[:length]

        def backward(dx: Array) -> None:
            self.position.gradient[:length] += dx.sum(axis=0)
            character_backward(dx)

        return x, backward

    def forward(self, tokens: Tokens) -> tuple[Array, Callable[[Array], None]]:
        """Logits (B, S, V) for the character after each of tokens (B, S), S <= context."""
        x, embed_backward = self._embed(tokens)
        backwards = []
        for block in self.blocks:
            x, block_backward = block(x, causal=True)
            backwards.append(block_backward)
        normal, norm_backward = self.norm(x)
        logits, output_backward = self.output(normal)

        def backward(dlogits: Array) -> None:
            dx = norm_backward(output_backward(dlogits))
            for block_backward in reversed(backwards):
                dx = block_backward(dx)
            embed_backward(dx)

        return logits, backward

    def loss(self, tokens: Tokens, targets: Tokens) -> tuple[float, Callable[[], None]]:
        """The mean cross-entropy in nats of targets (B, S) after tokens (B, S); backward adds to the gradients."""
        logits, logits_backward = self.forward(tokens)
        loss, loss_backward = cross_entropy(logits, targets)
        return loss, lambda: logits_backward(loss_backward())

    def attention_weights(self, tokens: Tokens) -> Array:
        """What each head attends to in tokens (S,): an array (layers, H, S, S) of rows that sum to 1."""
        x, _ = self._embed(tokens[None])
        weights = []
        with swiftattn.no_grad():
            for block in self.blocks:
                weights.append(block.attention.weights(x, causal=True)[0])
                x, _ = block(x, causal=True)
        return np.stack(weights)
