"""Multi-head attention in five steps, by the library and by the reference side by side.

    python examples/tutorial.py                             # prints every number in docs/Tutorial.md
    python examples/tutorial.py --out-dir build/tutorial    # draws its two pictures too

Needs numpy and swiftattn, and for the pictures matplotlib.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import swiftattn
from swiftattn import reference
from swiftattn.reference_layer import layer_backward
from tutorial_mistakes import mixing_reshape, shared_projections, unscaled_scores, wrong_softmax
from tutorial_model import (
    BK,
    BO,
    BQ,
    BV,
    FEATURES,
    HEADS,
    TOKENS,
    VALUES,
    WK,
    WO,
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
    make_layer,
    number,
    reference_layer,
    table,
)


def compare(corner: str, truth: Array, ours: Array, columns: Sequence[str] = TOKENS, **options: Any) -> str:
    """A matrix with one row for each word, by the reference and by the library."""
    return table(corner, TOKENS, columns, {"reference": truth, "library": ours}, **options)


def the_model(_: Lesson) -> str:
    """The sentence and the weights."""
    matrices = {"Wq": WQ, "Wk": WK, "Wv": WV, "Wo": WO}
    weights = table("row", [str(row) for row in range(E)], (), matrices, decimals=0, width=2)
    return "\n".join(
        [
            table("", TOKENS, FEATURES, {"x": X}, decimals=0, width=8),
            "",
            weights.replace(" 0", " ."),
            f"bq = {BQ.tolist()}, bk = bv = 0, bo = {BO.tolist()}",
        ]
    )


def projected_by_library(weight: Array, bias: Array) -> Array:
    """x W^T + b in the layer: a token on its own attends to itself with weight 1, so that v comes out, if Wo is 1."""
    layer = swiftattn.MultiHeadAttention(E, H, seed=0)
    layer.parameters["in_proj_weight"][2 * E :] = weight
    layer.parameters["in_proj_bias"][2 * E :] = bias
    layer.parameters["out_proj.weight"][...] = np.eye(E)
    layer.parameters["out_proj.bias"][...] = 0
    projected: Array = layer(X[:, None].astype(np.float32))[:, 0]
    return projected


def projections(lesson: Lesson) -> str:
    """Step 1."""
    lines, ours, truths = [], [], []
    for i, (weight, bias) in enumerate([(WQ, BQ), (WK, BK), (WV, BV)]):
        ours.append(projected_by_library(weight, bias))
        truths.append(lesson.saved.heads[i].swapaxes(1, 2).reshape(S, E))
        lines.append(compare("qkv"[i], truths[i], ours[i], (), decimals=0, width=4))
    lesson.check("q, k, v by NumPy", np.concatenate(lesson.steps.projected), np.stack(truths))
    return "\n".join([*lines, lesson.check("q, k, v", np.stack(ours), np.stack(truths))])


def heads(lesson: Lesson) -> str:
    """Step 2."""
    truth = lesson.saved.heads[0][0]
    ours = projected_by_library(WQ, BQ).reshape(S, H, D).swapaxes(0, 1)
    its = TOKENS.index("its")
    sides: dict[str, Array] = {}
    for h, name in enumerate(HEADS):
        sides |= {f"{name}, reference": truth[h, [its]], f"{name}, library": ours[h, [its]]}
    q, k, v = (each.swapaxes(1, 2) for each in lesson.heads)  # (B, S, H, D)
    out = swiftattn.attention(q, k, v, layout="BSHD")
    same = np.array_equal(out.swapaxes(1, 2), swiftattn.attention(*lesson.heads))
    return "\n".join(
        [
            table("q", ("its",), (), sides, decimals=0, width=5),
            lesson.check("q in heads", ours, truth),
            f"the same bits from {q.shape} and {lesson.heads[0].shape}: {same}",
        ]
    )


def scores_by(attention: Callable[..., Any], q: Array, k: Array) -> Array:
    """The scores, key by key: where there is one key, the logarithm of the sum of exponentials is its score."""
    columns = [attention(q, one, one, return_lse=True)[1] for one in np.split(k, k.shape[-2], axis=-2)]
    return np.stack(columns, axis=-1)


def scores(lesson: Lesson) -> str:
    """Step 3."""
    truth = scores_by(reference.attention, *lesson.saved.heads[:2])
    ours = scores_by(swiftattn.attention, *lesson.heads[:2])
    lesson.check("scores by NumPy", lesson.steps.scores, truth)
    tables = [compare(name, truth[0, h], ours[0, h], decimals=1) for h, name in enumerate(HEADS)]
    return "\n".join([*tables, lesson.check("scores", ours, truth)])


def softmax_weights(lesson: Lesson) -> str:
    """Step 4, the first half."""
    _, ours = lesson.layer(lesson.x, need_weights=True, average_weights=False)
    lesson.check("weights by NumPy", lesson.steps.weights, lesson.weights)
    tables = [compare(name, lesson.weights[0, h], ours[0, h]) for h, name in enumerate(HEADS)]
    return "\n".join([*tables, lesson.check("weights", ours, lesson.weights)])


def weighted_sums(lesson: Lesson) -> str:
    """Step 4, the second half."""
    truth = lesson.saved.out
    ours = swiftattn.attention(*lesson.heads)
    lesson.check("out by NumPy", lesson.steps.out, truth)
    tables = [compare(name, truth[0, h], ours[0, h], VALUES[h], width=8) for h, name in enumerate(HEADS)]
    return "\n".join([*tables, lesson.check("out", ours, truth)])


def merged_output(lesson: Lesson) -> str:
    """Step 5."""
    x, layer = lesson.x, lesson.layer
    output = layer(x)
    lesson.check("output by NumPy", lesson.steps.output, lesson.output)
    exact = make_layer(np.float64)(x.astype(np.float64))
    return "\n".join(
        [
            *(
                table("", TOKENS, FEATURES, {name: array[0]}, width=8)
                for name, array in (("reference", lesson.output), ("library", output))
            ),
            lesson.check("output", output, lesson.output),
            f"with dtype=np.float64: {lesson.check('output, float64', exact, lesson.output, 1e-12)}",
        ]
    )


def causal_mask(lesson: Lesson) -> str:
    """Each word sees itself and the ones before."""
    x, layer = lesson.x, lesson.layer
    causal = np.arange(S) <= np.arange(S)[:, None]
    output, weights = layer(x, causal=True, need_weights=True, average_weights=False)
    masked = layer(x, mask=causal)
    truth, truth_weights, _ = reference_layer(x, causal=True)
    lesson.check("causal weights", weights, truth_weights)
    lesson.check("causal by NumPy", five_steps(X[None], causal).output, truth)
    lesson.check("causal as a mask", masked, truth)
    return "\n".join(
        [
            table("", TOKENS, TOKENS, dict(zip(HEADS, weights[0], strict=True))),
            lesson.check("causal output", output, truth),
        ]
    )


def padding_mask(lesson: Lesson) -> str:
    """Two sentences of different lengths in one batch."""
    layer, alone = lesson.layer, lesson.x[:, :3]
    batch = np.concatenate([lesson.x, lesson.x])
    batch[1, 3:] = 99  # whatever the padding holds
    lengths = np.array([5, 3])
    padding = np.arange(S) < lengths[:, None]
    output = layer(batch, mask=padding[:, None, None, :])
    by_length = layer(batch, key_lengths=lengths)
    _, weights = layer(batch, key_lengths=lengths, need_weights=True, average_weights=False)
    lesson.check("padding by lengths", by_length[padding], output[padding])
    lesson.check("padding", output[padding], reference_layer(batch, key_lengths=lengths)[0][padding])
    return "\n".join(
        [
            table("", TOKENS[:3], [*TOKENS[:3], "-", "-"], dict(zip(HEADS, weights[1, :, :3], strict=True))),
            f"against the three words alone: {lesson.check('padding, alone', output[1:, :3], layer(alone))}",
        ]
    )


def nothing_to_see(lesson: Lesson) -> str:
    """A word that may attend to nothing."""
    x, layer = lesson.x, lesson.layer
    earlier = np.arange(S) < np.arange(S)[:, None]
    output = layer(x, mask=earlier)
    q, k, v = lesson.heads
    out = swiftattn.attention(q, k, v, mask=earlier)
    with np.errstate(invalid="ignore"):
        naive = five_steps(X[None], earlier)
    lesson.check("nothing to see", output, reference_layer(x, mask=earlier)[0])
    rows = {
        "step 4 of NumPy, head 1": naive.out[0, 0, 0],
        "attention, head 1": out[0, 0, 0],
        "attention, head 2": out[0, 1, 0],
        "layer": output[0, 0],
    }
    return "\n".join(f"{name:<25}{''.join(f'{number(value, 3):>7}' for value in row)}" for name, row in rows.items())


def encoder_decoder(lesson: Lesson) -> str:
    """The three uses of one layer."""
    x, layer = lesson.x, lesson.layer
    question = x[:, [3, 4]]  # "whose" has the features of "its"
    question[..., 6:] = x[:, :2, 6:]  # and the positions begin anew
    options: dict[str, Any] = {"need_weights": True, "average_weights": False}
    encoded, encoder = layer(x, **options)
    decoded, decoder = layer(x, causal=True, **options)
    latest = layer(x[:, -1:], x, causal="bottom_right")
    crossed, cross = layer(question, x, **options)
    lesson.check("cross-attention", crossed, reference_layer(question, x)[0])
    uses = [("encoder", encoded, encoder), ("decoder", decoded, decoder), ("cross-attention", crossed, cross)]
    return "\n".join(
        [
            *(
                f"{name:<16}output {output.shape}, weights {weights.shape}, {np.count_nonzero(weights)} of them not 0"
                for name, output, weights in uses
            ),
            f"decoder, the last word alone: {lesson.check('decoder, one word', latest, decoded[:, -1:])}",
            "",
            table("", ("whose", "fish"), TOKENS, dict(zip(HEADS, cross[0], strict=True))),
        ]
    )


def gradients(lesson: Lesson) -> str:
    """One weight's gradient in four ways."""
    its, animal, owner = TOKENS.index("its"), FEATURES.index("animal"), FEATURES.index("owner")
    x, layer, step = X[None].astype(np.float64), make_layer(np.float64), 1e-5
    output = layer(x)
    dout = np.zeros_like(output)
    dout[0, its, animal] = 1
    inputs = layer.backward(dout)
    ours = layer.grads["in_proj_weight"][0, owner]

    truth = layer_backward(lesson.saved, dout)
    lesson.check("gradient of x", inputs.query, truth.query + truth.key + truth.value)
    weight, y = layer.parameters["in_proj_weight"], []
    for value in (6 + step, 6 - step):
        weight[0, owner] = value
        y.append(layer(x)[0, its, animal])
    measured = (y[0] - y[1]) / (2 * step)
    p = lesson.weights[0, 0, its, TOKENS.index("cat")]
    values = {
        "y = output[its, animal]": output[0, its, animal],
        "dy / dWq[0, 5], library": ours,
        "dy / dWq[0, 5], reference": truth.parameters["in_proj_weight"][0, owner],
        "dy / dWq[0, 5], finite difference": measured,
        "dy / dWq[0, 5], p (1 - p) / 2": p * (1 - p) / 2,
    }
    lines = [f"{name:<34}{number(value, 4)}" for name, value in values.items()]
    return "\n".join([*lines, lesson.check("gradient", np.array([*values.values()][1:]), ours, 1e-8)])


def names(lesson: Lesson) -> str:
    """The parameters."""
    return "\n".join(f"{name:<16} {array.shape}" for name, array in lesson.layer.parameters.items())


SECTIONS: dict[str, Callable[[Lesson], str]] = {
    "The sentence and the weights": the_model,
    "Step 1: projections": projections,
    "Step 2: heads": heads,
    "Step 3: scores": scores,
    "Step 4: softmax": softmax_weights,
    "Step 4: weighted sum": weighted_sums,
    "Step 5: merge and output projection": merged_output,
    "Causal mask": causal_mask,
    "Padding mask": padding_mask,
    "Nothing to attend to": nothing_to_see,
    "Encoder, decoder, cross-attention": encoder_decoder,
    "Gradients": gradients,
    "PyTorch's names": names,
    "Mistake: the softmax": wrong_softmax,
    "Mistake: scores not divided": unscaled_scores,
    "Mistake: a reshape that mixes": mixing_reshape,
    "Mistake: shared projections": shared_projections,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the sections, then what the bounds in them stand for on this machine, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out-dir", type=Path, help="where the pictures go (default: none are drawn)")
    out_dir = parser.parse_args(arguments).out_dir

    lesson = Lesson()
    for title, section in SECTIONS.items():
        print(f"=== {title}\n{section(lesson)}\n")
    print(f"=== Differences on this machine ({swiftattn.get_isa()})")
    print("\n".join(f"{name:<22}{difference:.1e}" for name, difference in lesson.differences.items()))
    if out_dir is not None:
        from tutorial_pictures import draw_pictures  # matplotlib is for the pictures only

        out_dir.mkdir(parents=True, exist_ok=True)
        print("\npictures:", *draw_pictures(lesson, out_dir))


if __name__ == "__main__":
    main()
