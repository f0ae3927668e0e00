"""The tutorial's sentence, its layer of weights chosen by hand, the five steps in NumPy, and how tables are printed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import swiftattn
from swiftattn.reference_layer import LayerConfig, Saved, layer_forward, layer_weights

Array = NDArray[Any]

TOKENS = ("the", "cat", "ate", "its", "fish")
FEATURES = ("thing", "animal", "food", "action", "article", "owner", "p", "p²")
B, S, E, H = 1, len(TOKENS), len(FEATURES), 2
D = E // H
CONFIG = LayerConfig(E, H)

# What a word is, its position p from 0 on, and the square of p.
X = np.array(
    [
        [0, 0, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 1, 1],
        [0, 0, 0, 1, 0, 0, 2, 4],
        [0, 0, 0, 0, 0, 1, 3, 9],
        [1, 0, 1, 0, 0, 0, 4, 16],
    ]
)

WQ = np.array(
    [
        [0, 0, 0, 0, 0, 6, 0, 0],  # head 1: a word that names an owner asks for an animal,
        [0, 0, 0, 6, 6, 0, 0, 0],  # an action and an article for a thing,
        [0, 6, 0, 0, 0, 0, 0, 0],  # an animal for an action,
        [0, 0, 6, 0, 0, 0, 0, 0],  # and food for its owner.
        [0, 0, 0, 0, 0, 0, 8, 0],  # head 2: 8 (p - 1) and, from the bias alone, -4
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
)
BQ = np.array([0, 0, 0, 0, -8, -4, 0, 0])

WK = np.array(
    [
        [0, 1, 0, 0, 0, 0, 0, 0],  # head 1: animal, thing, action, owner
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],  # head 2: p, p * p
        [0, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
)

WV = np.array(
    [
        [0, 1, 0, 0, 0, 0, 0, 0],  # head 1: animal, food, action, owner
        [0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],  # head 2: thing, action, article, p
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],
    ]
)

# Columns: the four numbers of head 1, then the four of head 2. The rows go back to the features of X.
WO = np.array(
    [
        [0, 0, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 1, 0, 0],  # the actions of both heads
        [0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [1, 1, 0, 0, 0, 0, 0, 0],  # and the things of head 1
    ]
)
BO = np.array([0, 0, 0, 0, 0, 0, 1, 0])
BK = BV = np.zeros(E, int)

# The columns of v: what each head hands on.
VALUES = (("animal", "food", "action", "owner"), ("thing", "action", "article", "p"))
HEADS = tuple(f"head {head + 1}" for head in range(H))


def state_dict(dtype: Any) -> dict[str, Array]:
    """The weights under PyTorch's names; Wq, Wk and Wv are one array, one above the other."""
    state = {
        "in_proj_weight": np.concatenate([WQ, WK, WV]),
        "in_proj_bias": np.concatenate([BQ, BK, BV]),
        "out_proj.weight": WO,
        "out_proj.bias": BO,
    }
    return {name: array.astype(dtype) for name, array in state.items()}


def make_layer(dtype: Any = np.float32) -> swiftattn.MultiHeadAttention:
    """The library's layer with the tutorial's weights."""
    layer = swiftattn.MultiHeadAttention(E, H, dtype=dtype)
    layer.load_state_dict(state_dict(dtype))
    return layer


def reference_layer(query: Array, key: Array | None = None, **options: Any) -> tuple[Array, Array, Saved]:
    """The reference's output, weights (B, H, Sq, Sk) and what its backward needs, in float64; key: also the value."""
    inputs = query, *[query if key is None else key] * 2
    output, saved = layer_forward(
        CONFIG, state_dict(np.float64), *(each.astype(np.float64) for each in inputs), **options
    )
    return output, layer_weights(saved, average_weights=False), saved


@dataclass(frozen=True)
class Steps:
    """What the five steps leave: (B, S, E) before the split and after the merge, (B, H, S, ...) between."""

    projected: tuple[Array, Array, Array]
    heads: tuple[Array, Array, Array]
    scores: Array
    weights: Array
    out: Array
    merged: Array
    output: Array


def five_steps(x: Array, mask: Array | None = None) -> Steps:
    """Multi-head attention of x (B, S, E) to itself in NumPy; mask is True where a token may attend to another."""
    # 1. Projections
    q, k, v = x @ WQ.T + BQ, x @ WK.T + BK, x @ WV.T + BV
    projected = q, k, v
    # 2. Split into heads
    q, k, v = (split_heads(each) for each in (q, k, v))
    # 3. Scores
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(D)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    # 4. Softmax and weighted sum
    weights = softmax(scores)
    out = weights @ v
    # 5. Merge and output projection
    merged = out.swapaxes(1, 2).reshape(len(x), S, H * D)
    output = merged @ WO.T + BO
    return Steps(projected, (q, k, v), scores, weights, out, merged, output)


def split_heads(x: Array) -> Array:
    """(B, S, E) to (B, H, S, D): first cut each token's numbers into heads, then put the heads before the tokens."""
    heads = x.reshape(len(x), S, H, D).swapaxes(1, 2)
    return np.asarray(heads)


def softmax(scores: Array) -> Array:
    """Exponentials that sum to 1 in each row; less the row's maximum, which cancels, they cannot overflow."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.asarray(weights)


def number(value: float, decimals: int) -> str:
    """The rounded number, without a sign if that is 0."""
    return f"{round(float(value), decimals) + 0.0:.{decimals}f}"


def table(
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    sides: Mapping[str, Array],
    *,
    decimals: int = 3,
    width: int = 7,
) -> str:
    """Matrices side by side, each under its name; the names of the columns may be left out."""

    def line(label: str, *cells: Sequence[str]) -> str:
        joined = " |".join("".join(f"{cell:>{width}}" for cell in side) for side in cells)
        return f"{label:<{margin}}{joined}".rstrip()

    margin = max(map(len, (*rows, corner)))
    spans = (width * side.shape[-1] for side in sides.values())
    names = " |".join(f"{name:>{span}}" for name, span in zip(sides, spans, strict=True))
    lines = [f"{corner:<{margin}}{names}"]
    if columns:
        lines.append(line("", *[columns] * len(sides)))
    for label, *cells in zip(rows, *sides.values(), strict=True):
        lines.append(line(label, *([number(value, decimals) for value in row] for row in cells)))
    return "\n".join(lines)


class Lesson:
    """The sentence, what NumPy and the reference make of it, and the differences that were met on the way."""

    def __init__(self) -> None:
        self.x: Array = X[None].astype(np.float32)  # (B, S, E), a batch of one sentence
        self.layer = make_layer()
        self.steps = five_steps(X[None])
        self.heads = [each.astype(np.float32) for each in self.steps.heads]  # q, k, v for the library
        self.output, self.weights, self.saved = reference_layer(self.x)
        self.differences: dict[str, float] = {}

    def check(self, name: str, ours: Array, truth: Array, bound: float = 1e-5) -> str:
        """What there is to print: the bound, under which the difference has to lie on every processor."""
        difference = float(np.abs(ours - truth).max())
        if not difference < bound:
            raise ArithmeticError(f"{name}: the results differ by {difference}, not by less than {bound}")
        self.differences[name] = difference
        return f"largest difference: below {bound:.0e}"
