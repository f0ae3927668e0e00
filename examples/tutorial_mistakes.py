"""What is often got wrong about multi-head attention, each next to what is right."""

import math
from collections.abc import Callable

import numpy as np

import swiftattn
from tutorial_model import (
    BQ,
    HEADS,
    TOKENS,
    WK,
    WQ,
    WV,
    Array,
    D,
    E,
    H,
    Lesson,
    S,
    X,
    five_steps,
    number,
    softmax,
    split_heads,
    table,
)


def line(label: str, cells: Array, decimals: int, width: int = 9) -> str:
    """A row of numbers after a long label."""
    return f"{label:<28}" + "".join(f"{number(cell, decimals):>{width}}" for cell in cells)


def wrong_softmax(lesson: Lesson) -> str:
    """Printed weights that no softmax gives."""
    scores = np.array([[5.0, 9.0], [21.0, 29.0]])
    printed = np.array([[0.095, 0.905], [0.422, 0.578]])
    weights = softmax(scores)
    ours = swiftattn.attention(scores, np.eye(2), np.eye(2), scale=1)
    odds, odds_printed = weights[:, 1] / weights[:, 0], printed[:, 1] / printed[:, 0]
    lesson.check("softmax", ours, weights)
    return "\n".join(
        [
            line("scores", scores.ravel(), 0),
            line("printed", printed.ravel(), 3),
            line("softmax, NumPy", weights.ravel(), 4),
            line("softmax, library", ours.ravel(), 4),
            "",
            "odds of the second key          row 1    row 2    row 1 squared",
            line("softmax", np.array([*odds, odds[0] ** 2]), 1),
            line("printed", np.array([*odds_printed, odds_printed[0] ** 2]), 1),
        ]
    )


def unscaled_scores(lesson: Lesson) -> str:
    """Scores that are not divided by the square root of the head dim, or divided by another."""
    q, k, _ = lesson.steps.heads
    wrong = softmax(q @ k.swapaxes(-1, -2))
    right = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(D))
    other = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(E))
    fish = np.stack([weights[0, 1, TOKENS.index("fish")] for weights in (wrong, right, other)])
    lines = [
        table("", ("not divided", "/ sqrt(D), right", "/ sqrt(E)"), TOKENS, {"fish, head 2": fish}),
        "",
        f"{'D':<6}" + "".join(f"{name:>12}" for name in ("deviation", "p", "p (1 - p)", "divided: p", "p (1 - p)")),
    ]
    for width in (4, 16, 64, 256):
        deviation = sign_product_deviation(width)
        cells = [deviation]
        for score in (deviation, deviation / math.sqrt(width)):
            p = 1 / (1 + math.exp(-score))  # of two keys, for the one whose score is larger by that
            cells += [p, p * (1 - p)]
        lines.append(f"{width:<6}" + "".join(f"{number(cell, 4):>12}" for cell in cells))
    return "\n".join(lines)


def sign_product_deviation(width: int) -> float:
    """The standard deviation of q . k over all q and k made of 1 and -1: n of the products are -1."""
    squares = (math.comb(width, n) / 2**width * (width - 2 * n) ** 2 for n in range(width + 1))
    return math.sqrt(sum(squares))


def heads_as_tokens(x: Array) -> Array:
    """(B, S, E) to (B * S, H, D): a softmax over the heads of one token."""
    return x.reshape(-1, H, D)


def sentences_as_one(x: Array) -> Array:
    """(B, S, E) to (H, B * S, D): a softmax over the tokens of all sentences."""
    return np.asarray(x.reshape(-1, H, D).swapaxes(0, 1))


def halves_as_heads(x: Array) -> Array:
    """(B, S, E) to (B, H, S, D) by the numbers' order in memory: a softmax over all heads of half the tokens."""
    return x.reshape(len(x), H, S, D)


SPLITS: dict[str, Callable[[Array], Array]] = {
    "reshape(B, S, H, D).swapaxes(1, 2)": split_heads,
    "reshape(-1, H, D)": heads_as_tokens,
    "reshape(-1, H, D).swapaxes(0, 1)": sentences_as_one,
    "reshape(B, H, S, D)": halves_as_heads,
}


def attend(x: Array, split: Callable[[Array], Array]) -> Array:
    """Steps 1 to 4 with any split, and its exact inverse for the merge: (B, S, E)."""
    q, k, v = (split(each) for each in five_steps(x).projected)
    out = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(D)) @ v
    merged = np.empty(x.size)
    merged[split(np.arange(x.size).reshape(x.shape))] = out
    return merged.reshape(x.shape)


def mixing_reshape(_: Lesson) -> str:
    """Who attends to whom after each way to split."""
    sentence, token, column = np.ogrid[:2, :S, :E]
    labels = 100 * sentence + 10 * token + column
    lines = [f"{'':<36}{'shape':<14}first softmax: its rows begin with"]
    for name, split in SPLITS.items():
        heads = split(labels)
        first = heads.reshape(-1, *heads.shape[-2:])[0]
        lines.append(f"{name:<36}{heads.shape!s:<14}{' '.join(f'{label:03d}' for label in first[:, 0])}")

    batch, cat, its = np.stack([X, X]), TOKENS.index("cat"), TOKENS.index("its")
    lines += ["", f"{'change of its in sentence 1, without':<36}{'cat in sentence 2':>20}{'cat in sentence 1':>20}"]
    for name, split in SPLITS.items():
        changes = []
        for changed in (1, 0):
            without = batch.copy()
            without[changed, cat] = 0
            changes.append(np.abs(attend(without, split) - attend(batch, split))[0, its].max())
        lines.append(f"{name:<36}" + "".join(f"{number(change, 3):>20}" for change in changes))
    return "\n".join(lines)


def shared_projections(lesson: Lesson) -> str:
    """Heads that all have the projections of the first."""
    wq, wk, wv, bq = (np.concatenate([each[:D]] * H) for each in (WQ, WK, WV, BQ))
    q, k, v = (split_heads(each) for each in (X[None] @ wq.T + bq, X[None] @ wk.T, X[None] @ wv.T))
    shared = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(D))
    its = TOKENS.index("its")
    sides = {"their own": lesson.steps.weights[0, :, its], "shared": shared[0, :, its]}
    differences = (np.abs(np.diff(each, axis=1)).max() for each in (lesson.steps.out, shared @ v))
    own, same = (number(difference, 3) for difference in differences)
    return "\n".join(
        [
            table("its", HEADS, TOKENS, sides),
            f"out, head 1 against head 2: largest difference {own} with their own, {same} with shared ones",
        ]
    )
