"""Trains a small Transformer to read dates in twenty languages and write them as ISO 8601, with NumPy and swiftattn.

    python examples/translation.py --seconds 75 --out-dir build/translation "3 März 2021"

Prints some answers, the share of entirely right ones among dates never seen in training, and the answers to the dates
on the command line. Saves a plot of the loss and a picture of which characters the model reads while it writes. Needs
numpy, Babel, matplotlib, tqdm and swiftattn; the languages come with Babel.
"""

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Before NumPy's import: on matrices this small a BLAS with several threads gains little, and it loses a lot where its
# threads have to share the processor with anything else.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from matplotlib.figure import Figure

import swiftattn
from date_formats import Pair, normalise, split_dates, write_pairs
from encoder_decoder import END, PADDING, START, Batch, Config, EncoderDecoder
from training import Alphabet, Schedule, argument_parser, draw_attention, keep_freed_memory, plot_loss, train
from transformer_layers import Tokens

BATCH = 32
BATCHES_AT_ONCE = 16  # drawn together and sorted by length, so that little of each is padding
TEST_BATCH = 128
HELD_OUT_SHARE = 0.1
TRAINING_PAIRS, HELD_OUT_PAIRS = 60_000, 2_000
PEAK_LEARNING_RATE = 5e-3
ANSWER_LIMIT = len("yyyy-mm-dd") + 1  # with END
SHOWN = 10  # held-out dates
PICTURED = (
    "Donnerstag, 4. März 2021",
    "ter., 28 de out. de 1997",
    "1989. nov. 9., csütörtök",
    "Κυριακή 20 Ιουλίου 1969",
)


@dataclass(frozen=True)
class Alphabets:
    """The characters of the texts and those of the answers."""

    text: Alphabet
    answer: Alphabet

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> "Alphabets":
        """Those that the pairs are written in; the numbers up to END are no characters."""
        texts, answers = "".join(pair.text for pair in pairs), "".join(pair.answer for pair in pairs)
        return cls(Alphabet(texts, END + 1), Alphabet(answers, END + 1))


def padded(rows: Sequence[Tokens]) -> Tokens:
    """The rows below each other, each filled up to the length of the longest."""
    result = np.full((len(rows), max(map(len, rows))), PADDING)
    for filled, row in zip(result, rows, strict=True):
        filled[: len(row)] = row
    return result


def encode_pairs(pairs: Sequence[Pair], alphabets: Alphabets) -> Batch:
    """All pairs in one batch, to take smaller ones from."""
    answers = [np.concatenate([[START], alphabets.answer.encode(pair.answer), [END]]) for pair in pairs]
    lengths = np.array([len(pair.text) for pair in pairs])
    return Batch(padded([alphabets.text.encode(pair.text) for pair in pairs]), lengths, padded(answers))


def alike_in_length(lengths: Tokens, size: int) -> list[Tokens]:
    """The indices of the lengths in groups of `size` or a little fewer, sorted so that little padding is needed."""
    return np.array_split(np.argsort(lengths, kind="stable"), math.ceil(len(lengths) / size))


def training_batches(pairs: Batch, rng: np.random.Generator) -> Iterator[Batch]:
    """Random batches without end."""
    while True:
        drawn = rng.integers(len(pairs.lengths), size=BATCHES_AT_ONCE * BATCH)
        groups = alike_in_length(pairs.lengths[drawn], BATCH)
        for i in rng.permutation(len(groups)):
            yield pairs.take(drawn[groups[i]])


def mean_loss(model: EncoderDecoder, pairs: Batch, share: float) -> float:
    """The loss over the first share of the pairs."""
    total, count = 0.0, 0
    with swiftattn.no_grad():
        for group in alike_in_length(pairs.lengths[: round(share * len(pairs.lengths))], TEST_BATCH):
            batch = pairs.take(group)
            tokens = np.count_nonzero(batch.target[:, 1:] != PADDING)
            total, count = total + model.loss(batch)[0] * tokens, count + tokens
    return total / count


def translate(model: EncoderDecoder, alphabets: Alphabets, texts: Sequence[str]) -> list[str]:
    """The model's answers to the texts."""
    lengths = np.array([len(text) for text in texts])
    answers = [""] * len(texts)
    for group in alike_in_length(lengths, TEST_BATCH):
        source = padded([alphabets.text.encode(texts[i]) for i in group])
        for i, target in zip(group, model.translate(source, lengths[group], ANSWER_LIMIT).tolist(), strict=True):
            answers[i] = alphabets.answer.decode(target[: target.index(END)] if END in target else target)
    return answers


def print_accuracy(pairs: Sequence[Pair], answers: Sequence[str]) -> None:
    """Prints the share of answers that are right in every character, and that by language."""
    right = defaultdict(list)
    for pair, answer in zip(pairs, answers, strict=True):
        right[pair.language].append(answer == pair.answer)
    total = sum(map(sum, right.values()))
    print(f"right in every character: {total / len(pairs):.2%} of {len(pairs)} texts of dates never seen in training")
    print("by language:", ", ".join(f"{language} {np.mean(right[language]):.1%}" for language in sorted(right)))


def print_examples(pairs: Sequence[Pair], answers: Sequence[str]) -> None:
    """Prints the first of the answers, and of the wrong ones as many."""
    judged = list(zip(pairs, answers, strict=True))
    wrong = [(pair, answer) for pair, answer in judged if answer != pair.answer]
    for title, chosen in (("examples", judged[:SHOWN]), (f"{len(wrong)} wrong", wrong[:SHOWN])):
        print(f"{title}:")
        for pair, answer in chosen:
            verdict = "" if answer == pair.answer else f"  WRONG, should be {pair.answer}"
            print(f"  {pair.language}  {pair.text:36} -> {answer}{verdict}")


def plot_alignment(model: EncoderDecoder, alphabets: Alphabets, texts: Sequence[str], path: Path) -> None:
    """Draws how much each character written attended to each one read, on average over the heads of all layers."""
    figure = Figure(figsize=(15, 3.6 * math.ceil(len(texts) / 2)), layout="constrained")
    grid = figure.subplots(math.ceil(len(texts) / 2), 2, squeeze=False)
    for axes, text, answer in zip(grid.flat, texts, translate(model, alphabets, texts), strict=True):
        # Each character is chosen at the position of the one before it, the first at that of START.
        target = np.array([START, *alphabets.answer.encode(answer)])
        weights = model.alignment(alphabets.text.encode(text), target).mean(axis=(0, 1))
        draw_attention(axes, weights / weights.max(), [*answer, "end"], text)
        axes.set_title(answer)
    figure.supxlabel("character read")
    figure.supylabel("character written")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Trains, tests, translates and draws."""
    parser = argument_parser(__doc__.splitlines()[0], seconds=75)
    parser.add_argument("dates", nargs="*", metavar="DATE", help="what to translate after training")
    arguments = parser.parse_args()
    keep_freed_memory()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(arguments.seed)
    training_dates, held_out_dates = split_dates(rng, HELD_OUT_SHARE)
    training_pairs = write_pairs(rng, training_dates, TRAINING_PAIRS)
    held_out_pairs = list(dict.fromkeys(write_pairs(rng, held_out_dates, HELD_OUT_PAIRS)))  # each once
    alphabets = Alphabets.of(training_pairs)
    wanted = [normalise(text) for text in arguments.dates]
    for text in wanted:
        if not text:
            parser.error("argument DATE: must not be empty")
        if unknown := set(text) - set(alphabets.text.characters):
            parser.error(f"argument DATE: {text!r} has characters of no known date: {' '.join(sorted(unknown))}")
    model = EncoderDecoder(Config(alphabets.text.size, alphabets.answer.size), rng)
    print(f"texts: {len(training_pairs)} to train on, {len(held_out_pairs)} of other dates held out")
    print(f"model: {model.parameters.size} parameters, {model.config.layers} + {model.config.layers} layers")

    batches = training_batches(encode_pairs(training_pairs, alphabets), rng)
    held_out = encode_pairs(held_out_pairs, alphabets)
    history = train(
        model.parameters,
        Schedule(arguments.seconds, PEAK_LEARNING_RATE),
        lambda: model.loss(next(batches)),
        lambda share: mean_loss(model, held_out, share),
    )
    answers = translate(model, alphabets, [pair.text for pair in held_out_pairs])
    print_examples(held_out_pairs, answers)
    print_accuracy(held_out_pairs, answers)
    if wanted:
        print("yours:", *map(" -> ".join, zip(wanted, translate(model, alphabets, wanted), strict=True)), sep="\n  ")

    loss_path, alignment_path = arguments.out_dir / "loss.png", arguments.out_dir / "alignment.png"
    plot_loss(history, "Dates in twenty languages to ISO 8601", "log", loss_path)
    plot_alignment(model, alphabets, [normalise(text) for text in PICTURED], alignment_path)
    print(f"pictures: {loss_path} {alignment_path}")


if __name__ == "__main__":
    main()
