"""Trains a small character-level Transformer on Python's own manual, on the CPU, with NumPy and swiftattn.

    python examples/train_char_lm.py --seconds 75 --out-dir build/demo

Prints the held-out loss and a sample of generated text, and saves a plot of the loss and a picture of what each head
attends to. Needs numpy, matplotlib, tqdm and swiftattn; the text comes with every CPython.
"""

import argparse
import ctypes
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics

# Before NumPy's import: on matrices this small a BLAS with several threads gains little, and it loses a lot where its
# threads have to share the processor with anything else.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from char_transformer import Array, CharTransformer, Config

Tokens = NDArray[np.integer]

BATCH = 8
HELD_OUT_SHARE = 0.1
PEAK_LEARNING_RATE = 5e-3
WARM_UP_SHARE = 0.05
CHECKS = 12  # of the held-out loss during training, each on
CHECK_SHARE = 0.2  # of the held-out text
TEMPERATURE = 0.8
SAMPLE_LENGTH = 600
PROMPT = "The "
SENTENCE = "The value of the expression is the value of the last name."


class Text:
    """Python's help topics as character numbers, the last tenth of them held out."""

    def __init__(self) -> None:
        paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
        # Some topics repeat each other; a paragraph that was trained on must not be held out too.
        characters = "\n\n".join(dict.fromkeys(paragraphs))
        self.alphabet = sorted(set(characters))
        self._number = {character: i for i, character in enumerate(self.alphabet)}
        tokens = self.encode(characters)
        self.training, self.held_out = np.split(tokens, [round(len(tokens) * (1 - HELD_OUT_SHARE))])

    def encode(self, characters: str) -> Tokens:
        """The numbers of the characters, each of which must occur in the text."""
        return np.array([self._number[character] for character in characters])

    def decode(self, tokens: Tokens) -> str:
        """The characters of the numbers."""
        return "".join(self.alphabet[token] for token in tokens)


class Adam:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019) over one flat array."""

    def __init__(self, size: int, beta1: float = 0.9, beta2: float = 0.99, decay: float = 0.05) -> None:
        self.beta1, self.beta2, self.decay = beta1, beta2, decay
        self.mean, self.square = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self.steps = 0

    def update(self, values: Array, gradients: Array, rate: float) -> None:
        """One step of size `rate`, in place."""
        self.steps += 1
        self.mean += (1 - self.beta1) * (gradients - self.mean)
        self.square += (1 - self.beta2) * (gradients * gradients - self.square)
        corrected = math.sqrt(1 - self.beta2**self.steps) / (1 - self.beta1**self.steps)
        values *= 1 - rate * self.decay
        values -= rate * corrected * self.mean / (np.sqrt(self.square) + 1e-8)


@dataclass
class History:
    """The losses in bits per character, with the seconds at which they were measured."""

    training: list[tuple[float, float]] = field(default_factory=list)
    held_out: list[tuple[float, float]] = field(default_factory=list)


def keep_freed_memory() -> None:
    """Has glibc reuse the memory of freed arrays: fetching fresh pages took more than a quarter of each step."""
    trim_threshold, mmap_threshold = -1, -3
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 25)


def learning_rate(share: float) -> float:
    """Linear warm-up, then half a cosine down to zero, by the share of the time that has passed."""
    if share < WARM_UP_SHARE:
        return PEAK_LEARNING_RATE * share / WARM_UP_SHARE
    return PEAK_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (share - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)))


def windows(tokens: Tokens, starts: Tokens, length: int) -> tuple[Tokens, Tokens]:
    """Stretches of the text and, for each character, the one that follows it: two arrays (len(starts), length)."""
    stretches = tokens[starts[:, None] + np.arange(length + 1)]
    return stretches[:, :-1], stretches[:, 1:]


def bits_per_character(model: CharTransformer, tokens: Tokens, share: float = 1) -> float:
    """The loss over a share of the windows of the text; the first characters of each have little context."""
    context = model.config.context
    starts = np.arange(0, len(tokens) - context, round(context / share))
    groups = np.array_split(starts, math.ceil(len(starts) / BATCH))
    total = sum(model.loss(*windows(tokens, group, context))[0] * len(group) for group in groups)
    return total / len(starts) / math.log(2)


def frequency_bits_per_character(text: Text) -> float:
    """The held-out loss of guessing each character by how often it occurs in the training text."""
    counts = np.bincount(text.training, minlength=len(text.alphabet)) + 1
    return float(-np.log2(counts / counts.sum())[text.held_out].mean())


def train(model: CharTransformer, text: Text, seconds: float, rng: np.random.Generator) -> History:
    """Trains for the given time, with a progress bar that shows a running mean of the training loss."""
    context, history, adam = model.config.context, History(), Adam(model.values.size)
    running, start = math.log2(len(text.alphabet)), time.perf_counter()
    bar_format = "{desc} {bar}| {n:.0f}/{total:.0f} s{postfix}"
    with tqdm(total=seconds, desc="training", bar_format=bar_format, mininterval=0.5) as bar:
        while (elapsed := time.perf_counter() - start) < seconds:
            if elapsed >= len(history.held_out) * seconds / CHECKS:
                history.held_out.append((elapsed, bits_per_character(model, text.held_out, CHECK_SHARE)))
            starts = rng.integers(len(text.training) - context, size=BATCH)
            loss, backward = model.loss(*windows(text.training, starts, context))
            backward()
            adam.update(model.values, model.gradients, learning_rate(elapsed / seconds))
            history.training.append((elapsed, loss / math.log(2)))
            running += 0.03 * (history.training[-1][1] - running)
            bar.set_postfix_str(f"{adam.steps} steps, loss {running:.2f} bits per character", refresh=False)
            bar.update(elapsed - bar.n)
    return history


def generate(model: CharTransformer, text: Text, prompt: str, length: int, rng: np.random.Generator) -> str:
    """The prompt and `length` more characters, drawn one by one from the model's distribution, slightly sharpened."""
    tokens = text.encode(prompt)
    for _ in range(length):
        logits, _ = model.forward(tokens[None, -model.config.context :])
        # The largest of the logits with Gumbel noise added is a draw from their softmax.
        tokens = np.append(tokens, np.argmax(logits[-1] / TEMPERATURE + rng.gumbel(size=logits.shape[1])))
    return text.decode(tokens)


def plot_loss(history: History, final: float, path: Path) -> None:
    """Draws both losses over time."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*history.training, strict=True), linewidth=0.5, alpha=0.6, label="training, each step")
    axes.plot(*zip(*history.held_out, strict=True), "o-", label="held out, a fifth of it")
    axes.axhline(final, color="black", linestyle=":", label=f"held out, at the end: {final:.2f}")
    axes.set(xlabel="seconds", ylabel="bits per character", title="Character-level Transformer on Python's manual")
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_attention(weights: Array, sentence: str, path: Path) -> None:
    """Draws weights (layers, H, S, S): one picture a head, one row a querying character."""
    layers, heads = weights.shape[:2]
    figure = Figure(figsize=(5 * heads, 5 * layers), layout="constrained")
    grid = figure.subplots(layers, heads, squeeze=False)
    for layer, head in np.ndindex(layers, heads):
        axes = grid[layer, head]
        # The square root makes small weights visible.
        axes.imshow(np.sqrt(weights[layer, head]), cmap="viridis", vmin=0, vmax=1)
        axes.set_title(f"layer {layer + 1}, head {head + 1}")
        axes.set_xticks(range(len(sentence)), sentence, fontsize=6, family="monospace")
        axes.set_yticks(range(len(sentence)), sentence, fontsize=6, family="monospace")
        axes.tick_params(length=0)
    figure.supxlabel("attended character")
    figure.supylabel("attending character")
    figure.savefig(path, dpi=80)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=75, help="how long to train (default: %(default)s)")
    parser.add_argument("--out-dir", type=Path, default=Path("."), help="where the pictures go (default: here)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, batches and sample (default: %(default)s)")
    arguments = parser.parse_args()
    if not arguments.seconds > 0:
        parser.error("--seconds must be positive")
    return arguments


def main() -> None:
    """Trains, measures, samples and draws."""
    arguments = parse_arguments()
    keep_freed_memory()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    rng, text = np.random.default_rng(arguments.seed), Text()
    model = CharTransformer(Config(vocabulary=len(text.alphabet)), rng)
    print(f"text: {len(text.training)} characters, {len(text.held_out)} more held out, {len(text.alphabet)} kinds")
    print(f"model: {model.values.size} parameters, {model.config.layers} layers, {model.config.heads} heads")

    history = train(model, text, arguments.seconds, rng)
    final = bits_per_character(model, text.held_out)
    by_frequency = frequency_bits_per_character(text)
    print(f"held-out loss: {final:.3f} bits per character; guessing by frequency has {by_frequency:.3f}")
    print(f"sample:\n{generate(model, text, PROMPT, SAMPLE_LENGTH, rng)}\n")

    loss_path, attention_path = arguments.out_dir / "loss.png", arguments.out_dir / "attention.png"
    plot_loss(history, final, loss_path)
    plot_attention(model.attention_weights(text.encode(SENTENCE)), SENTENCE, attention_path)
    print(f"pictures: {loss_path} {attention_path}")


if __name__ == "__main__":
    main()
