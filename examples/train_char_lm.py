"""Trains a small character-level Transformer on Python's own manual, on the CPU, with NumPy and swiftattn.

    python examples/train_char_lm.py --seconds 75 --out-dir build/demo

Prints the held-out loss and a sample of generated text, and saves a plot of the loss and a picture of what each head
attends to. Needs numpy, matplotlib, tqdm and swiftattn; the text comes with every CPython.
"""

import math
import os
from pathlib import Path
from pydoc_data.topics import topics

# Before NumPy's import: on matrices this small a BLAS with several threads gains little, and it loses a lot where its
# threads have to share the processor with anything else.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from matplotlib.figure import Figure

import swiftattn
from char_transformer import CharTransformer, Config
from training import Alphabet, Schedule, argument_parser, draw_attention, keep_freed_memory, plot_loss, train
from transformer_layers import Array, Tokens

BATCH = 8
HELD_OUT_SHARE = 0.1
PEAK_LEARNING_RATE = 5e-3
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
        self.alphabet = Alphabet(characters)
        tokens = self.alphabet.encode(characters)
        self.training, self.held_out = np.split(tokens, [round(len(tokens) * (1 - HELD_OUT_SHARE))])


def windows(tokens: Tokens, starts: Tokens, length: int) -> tuple[Tokens, Tokens]:
    """Stretches of the text and, for each character, the one that follows it: two arrays (len(starts), length)."""
    stretches = tokens[starts[:, None] + np.arange(length + 1)]
    return stretches[:, :-1], stretches[:, 1:]


def mean_loss(model: CharTransformer, tokens: Tokens, share: float) -> float:
    """The loss over a share of the windows of the text; the first characters of each have little context."""
    context = model.config.context
    starts = np.arange(0, len(tokens) - context, round(context / share))
    groups = np.array_split(starts, math.ceil(len(starts) / BATCH))
    with swiftattn.no_grad():
        return sum(model.loss(*windows(tokens, group, context))[0] * len(group) for group in groups) / len(starts)


def frequency_bits_per_character(text: Text) -> float:
    """The held-out loss of guessing each character by how often it occurs in the training text."""
    counts = np.bincount(text.training, minlength=text.alphabet.size) + 1
    return float(-np.log2(counts / counts.sum())[text.held_out].mean())


def generate(model: CharTransformer, text: Text, prompt: str, length: int, rng: np.random.Generator) -> str:
    """The prompt and `length` more characters, drawn one by one from the model's distribution, slightly sharpened."""
    tokens = text.alphabet.encode(prompt)
    with swiftattn.no_grad():
        for _ in range(length):
            logits = model.forward(tokens[None, -model.config.context :])[0][0, -1]
            # The largest of the logits with Gumbel noise added is a draw from their softmax.
            tokens = np.append(tokens, np.argmax(logits / TEMPERATURE + rng.gumbel(size=logits.shape)))
    return text.alphabet.decode(tokens)


def plot_attention(weights: Array, sentence: str, path: Path) -> None:
    """Draws weights (layers, H, S, S): one picture a head, one row a querying character."""
    layers, heads = weights.shape[:2]
    figure = Figure(figsize=(5 * heads, 5 * layers), layout="constrained")
    grid = figure.subplots(layers, heads, squeeze=False)
    for layer, head in np.ndindex(layers, heads):
        axes = grid[layer, head]
        # The square root makes small weights visible.
        draw_attention(axes, np.sqrt(weights[layer, head]), sentence, sentence)
        axes.tick_params(labelsize=6)
        axes.set_title(f"layer {layer + 1}, head {head + 1}")
    figure.supxlabel("attended character")
    figure.supylabel("attending character")
    figure.savefig(path, dpi=80)


def main() -> None:
    """Trains, measures, samples and draws."""
    arguments = argument_parser(__doc__.splitlines()[0], seconds=75).parse_args()
    keep_freed_memory()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    rng, text = np.random.default_rng(arguments.seed), Text()
    model = CharTransformer(Config(vocabulary=text.alphabet.size), rng)
    context, last_start = model.config.context, len(text.training) - model.config.context
    print(f"text: {len(text.training)} characters, {len(text.held_out)} more held out, {text.alphabet.size} kinds")
    print(f"model: {model.parameters.size} parameters, {model.config.layers} layers, {model.config.heads} heads")

    history = train(
        model.parameters,
        Schedule(arguments.seconds, PEAK_LEARNING_RATE),
        lambda: model.loss(*windows(text.training, rng.integers(last_start, size=BATCH), context)),
        lambda share: mean_loss(model, text.held_out, share),
    )
    by_frequency = frequency_bits_per_character(text)
    print(f"held-out loss: {history.final:.3f} bits per character; guessing by frequency has {by_frequency:.3f}")
    print(f"sample:\n{generate(model, text, PROMPT, SAMPLE_LENGTH, rng)}\n")

    loss_path, attention_path = arguments.out_dir / "loss.png", arguments.out_dir / "attention.png"
    plot_loss(history, "Character-level Transformer on Python's manual", "linear", loss_path)
    plot_attention(model.attention_weights(text.alphabet.encode(SENTENCE)), SENTENCE, attention_path)
    print(f"pictures: {loss_path} {attention_path}")


if __name__ == "__main__":
    main()
