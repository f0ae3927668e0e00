"""A Transformer that reads one sequence and writes another, from the layers of `transformer_layers`.

The encoder reads the source; the decoder writes the target token by token, looking back at what it has written by
causal self-attention and at the source by cross-attention. Shape letters: B pairs of sequences, S source tokens and
T target tokens in each (padding included), E model width, H heads, V kinds of target token.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

import swiftattn
from transformer_layers import (
    Array,
    CrossAttention,
    Embedding,
    FeedForward,
    LayerNorm,
    Linear,
    Parameters,
    SelfAttention,
    SelfAttentionBlock,
    Tokens,
    cross_entropy,
    sinusoids,
)

PADDING, START, END = range(3)  # tokens of every vocabulary
LONGEST_WAVE = 128


@dataclass(frozen=True)
class Config:
    """The sizes of a model, with `layers` in the encoder and as many in the decoder."""

    source_kinds: int
    target_kinds: int
    layers: int = 2
    heads: int = 4
    width: int = 64
    dtype: DTypeLike = np.float32


@dataclass(frozen=True)
class Batch:
    """Sources (B, S) with their lengths (B,), and targets (B, T) from START to END; PADDING fills both up."""

    source: Tokens
    lengths: Tokens
    target: Tokens

    def take(self, pairs: Tokens) -> "Batch":
        """Some of the pairs, with no more padding of the sources than they need."""
        lengths = self.lengths[pairs]
        return Batch(self.source[pairs, : lengths.max()], lengths, self.target[pairs])


def add_positions(x: Array) -> None:
    """Adds to x (B, S, E), in place, where in its sequence each token is."""
    x += sinusoids(x.shape[1], x.shape[2], LONGEST_WAVE).astype(x.dtype)


class DecoderBlock:
    """Causal self-attention, then cross-attention to the memory that the encoder made, then feed-forward."""

    def __init__(self, parameters: Parameters, name: str, width: int, heads: int) -> None:
        self.attention = SelfAttention(parameters, f"{name}.attention", width, heads)
        self.cross = CrossAttention(parameters, f"{name}.cross", width, heads)
        self.feed_forward = FeedForward(parameters, f"{name}.feed_forward", width)

    def __call__(
        self, x: Array, memory: Array, lengths: Tokens
    ) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """Of x (B, T, E) and memory (B, S, E); backward returns the gradients of both."""
        attended, attention_backward = self.attention(x, causal=True)
        crossed, cross_backward = self.cross(attended, memory, key_lengths=lengths)
        y, feed_backward = self.feed_forward(crossed)

        def backward(dy: Array) -> tuple[Array, Array]:
            dattended, dmemory = cross_backward(feed_backward(dy))
            return attention_backward(dattended), dmemory

        return y, backward


class EncoderDecoder:
    """Embeddings with sinusoidal positions, `layers` blocks on either side, then a linear layer to the tokens."""

    def __init__(self, config: Config, rng: np.random.Generator) -> None:
        self.config, width, heads = config, config.width, config.heads
        self.parameters = parameters = Parameters(rng, config.dtype)
        self.source = Embedding(parameters, "source", config.source_kinds, width)
        self.target = Embedding(parameters, "target", config.target_kinds, width)
        self.encoder = [SelfAttentionBlock(parameters, f"encoder.{i}", width, heads) for i in range(config.layers)]
        self.memory_norm = LayerNorm(parameters, "memory_norm", width)
        self.decoder = [DecoderBlock(parameters, f"decoder.{i}", width, heads) for i in range(config.layers)]
        self.norm = LayerNorm(parameters, "norm", width)
        self.output = Linear(parameters, "output", width, config.target_kinds)

    def encode(self, source: Tokens, lengths: Tokens) -> tuple[Array, Callable[[Array], None]]:
        """The memory (B, S, E) of sources (B, S); what it holds for padding has no meaning."""
        x, embed_backward = self.source(source)
        add_positions(x)
        backwards = []
        for block in self.encoder:
            x, block_backward = block(x, key_lengths=lengths)
            backwards.append(block_backward)
        memory, norm_backward = self.memory_norm(x)

        def backward(dmemory: Array) -> None:
            dx = norm_backward(dmemory)
            for block_backward in reversed(backwards):
                dx = block_backward(dx)
            embed_backward(dx)

        return memory, backward

    def decode(self, target: Tokens, memory: Array, lengths: Tokens) -> tuple[Array, Callable[[Array], Array]]:
        """Logits (B, T, V) for the token after each of target (B, T); backward returns the memory's gradient."""
        x, embed_backward = self.target(target)
        add_positions(x)
        backwards = []
        for block in self.decoder:
            x, block_backward = block(x, memory, lengths)
            backwards.append(block_backward)
        normal, norm_backward = self.norm(x)
        logits, output_backward = self.output(normal)

        def backward(dlogits: Array) -> Array:
            dx, dmemory = norm_backward(output_backward(dlogits)), np.zeros_like(memory)
            for block_backward in reversed(backwards):
                dx, dmemory_of_block = block_backward(dx)
                dmemory += dmemory_of_block
            embed_backward(dx)
            return dmemory

        return logits, backward

    def loss(self, batch: Batch) -> tuple[float, Callable[[], None]]:
        """The mean cross-entropy in nats of each target token after those before it; backward adds to the gradients."""
        memory, encode_backward = self.encode(batch.source, batch.lengths)
        logits, decode_backward = self.decode(batch.target[:, :-1], memory, batch.lengths)
        wanted = batch.target[:, 1:]
        loss, loss_backward = cross_entropy(logits, wanted, wanted != PADDING)
        return loss, lambda: encode_backward(decode_backward(loss_backward()))

    def translate(self, source: Tokens, lengths: Tokens, limit: int) -> Tokens:
        """For each source (B, S) the likeliest token, then the likeliest after it, up to END or `limit` tokens.

        (B, T) with T <= limit; what stands behind an END has no meaning.
        """
        target = np.full((len(source), 1), START)
        with swiftattn.no_grad():
            memory, _ = self.encode(source, lengths)
            while target.shape[1] <= limit and not np.all(np.any(target == END, axis=1)):
                logits, _ = self.decode(target, memory, lengths)
                # Neither PADDING nor START, the numbers below END, can follow.
                target = np.append(target, END + logits[:, -1:, END:].argmax(axis=2), axis=1)
        return target[:, 1:]

    def alignment(self, source: Tokens, target: Tokens) -> Array:
        """What source (S,) each token of target (T,) attends to: (layers, H, T, S), rows that sum to 1."""
        weights, lengths = [], np.array([len(source)])
        with swiftattn.no_grad():
            memory, _ = self.encode(source[None], lengths)
            x, _ = self.target(target[None])
            add_positions(x)
            for block in self.decoder:
                attended, _ = block.attention(x, causal=True)
                weights.append(block.cross.weights(attended, memory)[0])
                x, _ = block(x, memory, lengths)
        return np.stack(weights)
