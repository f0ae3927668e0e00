"""The tutorial's two pictures, drawn from its numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from tutorial_model import HEADS, TOKENS, Array, H, Lesson, S

GREY = "#5f6675"
BLUE, ORANGE = "#3573b5", "#d9722e"  # head 1, head 2
DARK = "#30333a"
CELL = 1.7
STEP_TITLES = {
    83: "1  Projections",
    59.5: "2  Heads",
    32: "3  Scores\n4  Softmax, sum",
    8: "5  Merge, project",
}


def shades(colour: str) -> LinearSegmentedColormap:
    """From nearly white to the colour."""
    return LinearSegmentedColormap.from_list(colour, ["#f3f4f7", colour])


class Diagram:
    """Matrices, boxes and arrows on a plane whose unit is a twelfth of an inch."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width / 12, height / 12))
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        self.axes.axis("off")

    def text(self, x: float, y: float, words: str, size: float = 9, **options: Any) -> None:
        """Words around a point."""
        self.axes.text(x, y, words, fontsize=size, **{"ha": "center", "va": "center", "color": DARK, **options})

    def matrix(self, x: float, y: float, levels: Array, colours: Sequence[str], name: str = "") -> None:
        """A matrix around (x, y), its name on the left; levels from 0 to 1 shade its equal parts' colours."""
        rows, columns = levels.shape
        left, top = x - columns * CELL / 2, y + rows * CELL / 2
        for i, j in np.ndindex(rows, columns):
            shade = shades(colours[j * len(colours) // columns])(float(levels[i, j]))
            corner = left + j * CELL, top - (i + 1) * CELL
            self.axes.add_patch(Rectangle(corner, CELL, CELL, facecolor=shade, edgecolor="white", linewidth=0.9))
        self.text(left - 1, y, name, 12, ha="right", weight="bold")

    def box(self, x: float, y: float, name: str) -> None:
        """A weight matrix."""
        style = "round,pad=0,rounding_size=1"
        self.axes.add_patch(FancyBboxPatch((x - 2.6, y - 2), 5.2, 4, boxstyle=style, facecolor=GREY, linewidth=0))
        self.text(x, y, name, 11, color="white", weight="bold")

    def arrow(self, start: tuple[float, float], end: tuple[float, float], label: str = "", colour: str = DARK) -> None:
        """An arrow; the label stands right of one that goes down and above one that goes to the right."""
        style: dict[str, Any] = {
            "arrowstyle": "-|>",
            "mutation_scale": 11,
            "linewidth": 1.3,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        self.axes.add_patch(FancyArrowPatch(start, end, color=colour, **style))
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        if start[1] == end[1]:
            self.text(x, y + 1.3, label, 9)
        else:
            self.text(x + 0.9, y, label, 9, ha="left")

    def lane(self, left: float, bottom: float, width: float, height: float, colour: str, name: str) -> None:
        """The tinted ground of one head."""
        style = "round,pad=0,rounding_size=1.5"
        patch = FancyBboxPatch((left, bottom), width, height, boxstyle=style, facecolor=colour, alpha=0.09, linewidth=0)
        self.axes.add_patch(patch)
        self.text(left + 1.7, bottom + height / 2, name, 12, color=colour, weight="bold", rotation=90)


def by_size(values: Array) -> Array:
    """Levels that grow with the distance from 0."""
    return np.asarray(np.abs(values) / np.abs(values).max())


def by_row(values: Array) -> Array:
    """Levels that grow from the least to the largest value of each row."""
    least, largest = values.min(axis=-1, keepdims=True), values.max(axis=-1, keepdims=True)
    return np.asarray((values - least) / (largest - least))


def of_both_heads(values: Array) -> Array:
    """Levels of numbers (S, H * D), each head's by itself."""
    return np.hstack([by_size(part) for part in np.hsplit(values, H)])


def draw_data_flow(lesson: Lesson, path: Path) -> None:
    """From the words to the output, with the numbers of the tutorial as shades."""
    steps, middle, colours = lesson.steps, 66, [BLUE, ORANGE]
    diagram = Diagram(113, 103)
    for y, title in STEP_TITLES.items():
        diagram.text(0.5, y, title, 12, ha="left", weight="bold", linespacing=1.5)

    diagram.matrix(middle, 96, by_size(lesson.x[0]), [GREY])
    for i, token in enumerate(TOKENS):
        diagram.text(middle - 7.6, 96 + (S / 2 - i - 0.5) * CELL, token, 10.5, ha="right")
    diagram.text(middle + 7.6, 96, "x", 12, ha="left", weight="bold")
    for i, (name, x) in enumerate(zip("qkv", (38, middle, 94), strict=True)):
        diagram.arrow((middle, 91.2), (x, 85.4), "(B, S, E)" if name == "k" else "")
        diagram.box(x, 83, f"W{name}")
        diagram.arrow((x, 81), (x, 77.4), "(B, S, H·D)")
        diagram.matrix(x, 72.6, of_both_heads(steps.projected[i][0]), colours, name)

    for head, left in enumerate((20.5, 67.5)):
        diagram.lane(left, 21, 44.5, 34.5, colours[head], HEADS[head])
        draw_head(diagram, lesson, head, left)
        diagram.arrow((left + 39.3, 23.2), (middle - 3.4 + 6.8 * head, 12.8), colour=colours[head])

    diagram.matrix(middle, 8, of_both_heads(steps.merged[0]), colours)
    diagram.text(middle, 2.3, "(B, S, H·D)")
    diagram.arrow((middle + 7.4, 8), (81.6, 8))
    diagram.box(84.6, 8, "Wo")
    diagram.arrow((87.6, 8), (94.4, 8))
    diagram.matrix(101.7, 8, by_size(steps.output[0]), [GREY])
    diagram.text(101.7, 2.3, "output (B, S, E)")
    diagram.figure.savefig(path, dpi=130)


def draw_head(diagram: Diagram, lesson: Lesson, head: int, left: float) -> None:
    """What happens in the lane of one head."""
    steps, colour = lesson.steps, (BLUE, ORANGE)[head]
    places = (left + 8.8, left + 24.8, left + 39.3)
    for i, (name, x, source) in enumerate(zip("qkv", places, (38, 66, 94), strict=True)):
        shape = "(B, H, S, D)" if (head, name) == (1, "v") else ""
        diagram.arrow((source - 3.4 + 6.8 * head, 67.8), (x, 52.2), shape, colour)
        diagram.matrix(x, 47.4, by_size(steps.heads[i][0, head]), [colour], name)
    diagram.arrow((places[0], 42.6), (places[0], 37))
    diagram.arrow((places[1], 42.6), (places[0] + 1.5, 37))
    diagram.text(places[1] + 0.5, 39, "q kᵀ / √D")
    diagram.arrow((places[2], 42.6), (places[2], 37))

    diagram.matrix(places[0], 32.2, by_row(steps.scores[0, head]), [colour])
    diagram.arrow((places[0] + 4.8, 32.2), (places[1] - 4.8, 32.2), "softmax")
    diagram.matrix(places[1], 32.2, steps.weights[0, head], [colour])
    diagram.arrow((places[1] + 4.8, 32.2), (places[2] - 4, 32.2), "times v")
    diagram.matrix(places[2], 32.2, by_size(steps.out[0, head]), [colour])
    names = {"scores": "(B, H, S, S)", "weights": "(B, H, S, S)", "out": "(B, H, S, D)"}
    for x, (name, shape) in zip(places, names.items(), strict=True):
        diagram.text(x, 26.6, name, 10.5, weight="bold")
        diagram.text(x, 24.5, shape)


def draw_attention(lesson: Lesson, path: Path) -> None:
    """Both heads' weights, with the words that attend on the left and those attended to on top."""
    figure = Figure(figsize=(9.4, 5.0), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    captions = ("what belongs together", "the word before")
    for head, axes in enumerate(figure.subplots(1, H)):
        weights = lesson.weights[0, head]
        axes.imshow(weights, cmap=shades((BLUE, ORANGE)[head]), vmin=0, vmax=1)
        for i, j in np.ndindex(S, S):
            ink = "white" if weights[i, j] > 0.6 else DARK
            axes.text(j, i, f"{weights[i, j]:.3f}", ha="center", va="center", color=ink, fontsize=11)
        axes.set_xticks(range(S), TOKENS, fontsize=12)
        axes.set_yticks(range(S), TOKENS, fontsize=12)
        axes.set_xticks(np.arange(S + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(S + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=2)
        axes.tick_params(which="both", length=0, top=False, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_title(
            f"{HEADS[head]}: {captions[head]}", fontsize=13, weight="bold", color=(BLUE, ORANGE)[head], pad=12
        )
        axes.set_ylabel("the word that attends", fontsize=11, color=GREY)
        axes.set_xlabel("the words it attends to", fontsize=11, color=GREY, labelpad=8)
    figure.savefig(path, dpi=110)


def draw_pictures(lesson: Lesson, out_dir: Path) -> list[Path]:
    """Draws both and says where they are."""
    paths = [out_dir / "multi-head-attention.png", out_dir / "tutorial-attention.png"]
    for draw, path in zip((draw_data_flow, draw_attention), paths, strict=True):
        draw(lesson, path)
    return paths
