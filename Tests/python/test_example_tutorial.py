"""The tutorial: its document is what its script prints, in every tier, and its claims hold without either of them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import swiftattn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import tutorial
import tutorial_mistakes
import tutorial_model

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "Tutorial.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURES = ("multi-head-attention.png", "tutorial-attention.png")


def blocks(language: str) -> list[str]:
    """The document's blocks of that language."""
    return [body for name, body in FENCED.findall(DOCUMENT) if name == language]


@pytest.fixture
def printed(isa: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the script prints in one tier."""
    tutorial.main([])
    return capsys.readouterr().out


def sections(output: str) -> list[str]:
    """What stands under each title; the last is about this machine only."""
    return [part.split("\n", 1)[1].strip("\n") + "\n" for part in output.split("=== ")[1:]]


def numbers(text: str) -> set[str]:
    """The numbers that stand alone in a text."""
    return set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])", text))


def shown_rows(section: str, corner: str, side: int) -> dict[str, list[float]]:
    """One side of a table in the document, which begins with `corner`: its rows by word."""
    block = blocks("text")[list(tutorial.SECTIONS).index(section)]
    table = re.split(rf"^ *{corner}\b.*\n", block, flags=re.MULTILINE)[1]
    found = re.findall(rf"^({'|'.join(tutorial_model.TOKENS)}) (.*)", table, re.MULTILINE)[:5]
    return {word: [float(cell) for cell in cells.split("|")[side].split()] for word, cells in found}


def test_document_shows_what_the_script_prints(printed: str, isa: str) -> None:
    *expected, differences = sections(printed)
    assert blocks("text") == expected
    assert f"({isa})" in printed
    assert differences.splitlines()[-1].startswith("softmax")


def test_every_number_of_the_prose_is_printed(printed: str) -> None:
    prose = re.sub(r"\]\([^)]*\)", "]", FENCED.sub("", DOCUMENT))
    assert {"0.834", "0.148", "29"} <= numbers(prose)
    assert numbers(prose) - numbers("".join(sections(printed)[:-1])) == set()


def test_every_line_of_code_is_run_by_the_script() -> None:
    files = (ROOT / "examples").glob("tutorial*.py")
    lines = {line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()}
    shown = [line.strip() for block in blocks("python") for line in block.splitlines()]
    assert len(shown) >= 25
    assert [line for line in shown if line not in lines] == []


def test_no_number_is_near_the_edge_of_its_rounding(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[float, int]] = []

    def recording(value: float, decimals: int) -> str:
        met.append((float(value), decimals))
        return original(value, decimals)

    original = tutorial_model.number
    for module in (tutorial, tutorial_mistakes, tutorial_model):
        monkeypatch.setattr(module, "number", recording)
    tutorial.main([])
    assert len(met) > 1000
    for value, decimals in met:
        to_edge = abs(abs(value) * 10**decimals % 1 - 0.5) / 10**decimals
        # Of what is printed with 3 decimals or more, the tiers' results differ by less than 3e-7.
        assert math.isnan(value) or to_edge > 1e-6, f"{value!r} may be printed in two ways"


def test_negative_zero_is_printed_as_zero() -> None:
    assert tutorial_model.number(-1e-9, 3) == "0.000"
    assert tutorial_model.number(-0.0314, 3) == "-0.031"


def test_script_stops_when_library_and_reference_differ() -> None:
    lesson = tutorial_model.Lesson()
    assert lesson.check("near", np.ones(2), np.array([1, 1 + 9e-6])) == "largest difference: below 1e-05"
    for far in (1 + 2e-5, np.nan):
        with pytest.raises(ArithmeticError, match="far"):
            lesson.check("far", np.ones(2), np.array([1, far]))


def test_pictures_are_drawn_as_the_document_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tutorial.main(["--out-dir", str(tmp_path / "new")])
    assert capsys.readouterr().out.splitlines()[-1].startswith("pictures: ")
    for name in PICTURES:
        drawn, shown = ((folder / name).read_bytes() for folder in (tmp_path / "new", ROOT / "docs" / "images"))
        assert f"(images/{name})" in DOCUMENT
        assert drawn[:24] == shown[:24], "another size in pixels"
        assert 20_000 < len(drawn) < 150_000


def attention_by_loops() -> Iterator[tuple[int, str, list[float], list[float]]]:
    """Steps 1 to 4 in plain Python: head, word, its weights, and its row of out."""
    words, x = tutorial_model.TOKENS, tutorial_model.X.tolist()

    def projected(weight: Any, bias: Any) -> list[list[float]]:
        return [
            [sum(w * n for w, n in zip(row, word, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
            for word in x
        ]

    q = projected(tutorial_model.WQ.tolist(), tutorial_model.BQ.tolist())
    k = projected(tutorial_model.WK.tolist(), tutorial_model.BK.tolist())
    v = projected(tutorial_model.WV.tolist(), tutorial_model.BV.tolist())
    for head in range(2):
        columns = range(4 * head, 4 * head + 4)
        for i, word in enumerate(words):
            exponentials = [math.exp(sum(q[i][c] * k[j][c] for c in columns) / 2) for j in range(5)]
            weights = [each / sum(exponentials) for each in exponentials]
            yield head, word, weights, [sum(weights[j] * v[j][c] for j in range(5)) for c in columns]


@pytest.mark.parametrize(("side", "name"), [(0, "reference"), (1, "library")])
def test_document_agrees_with_plain_python(side: int, name: str) -> None:
    merged: dict[str, list[float]] = {word: [] for word in tutorial_model.TOKENS}
    for head, word, weights, out in attention_by_loops():
        corner = f"head {head + 1}"
        for section, row in (("Step 4: softmax", weights), ("Step 4: weighted sum", out)):
            np.testing.assert_allclose(shown_rows(section, corner, side)[word], row, rtol=0, atol=5.1e-4)
        merged[word] += out
    for word, row in merged.items():
        output = tutorial_model.WO @ row + tutorial_model.BO
        shown = shown_rows("Step 5: merge and output projection", name, 0)[word]
        np.testing.assert_allclose(shown, output, rtol=0, atol=5.1e-4)


def test_the_popular_weights_are_no_softmax() -> None:
    scores, printed = [[5, 9], [21, 29]], [[0.095, 0.905], [0.422, 0.578]]
    right = [[math.exp(s) / sum(map(math.exp, row)) for s in row] for row in scores]
    np.testing.assert_allclose(right, [[0.018, 0.982], [0.0003, 0.9997]], atol=5e-5)
    # A softmax at any scale: log odds in proportion to the differences of the scores, 4 and 8.
    (a, b), (c, d) = printed
    assert math.log(d / c) < math.log(b / a)
    (a, b), (c, d) = right
    assert math.log(d / c) == pytest.approx(2 * math.log(b / a))


def test_sign_vectors_have_products_of_deviation_sqrt_d() -> None:
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)  # all vectors for D = 4
    assert (signs.T @ signs).std() == pytest.approx(2)
    assert tutorial_mistakes.sign_product_deviation(4) == pytest.approx(2)
    assert tutorial_mistakes.sign_product_deviation(256) == pytest.approx(16)


def test_library_divides_by_the_square_root_of_the_head_dim(isa: str) -> None:
    rng = np.random.default_rng(3)
    q, k, v = rng.standard_normal((3, 5, 16))
    expected = {}
    for name, divisor in (("right", 4), ("not divided", 1)):
        weights = np.exp(q @ k.T / divisor)
        expected[name] = weights / weights.sum(axis=1, keepdims=True) @ v
    out = swiftattn.attention(q, k, v)
    np.testing.assert_allclose(out, expected["right"], rtol=1e-12, atol=1e-12)
    assert np.abs(out - expected["not divided"]).max() > 0.1


def test_only_the_right_reshape_keeps_words_and_sentences_apart() -> None:
    batch, length, heads, width = 2, 5, 2, 4
    x = np.arange(batch * length * heads * width).reshape(batch, length, heads * width)
    right = np.empty((batch, heads, length, width), int)
    for b, h, s, d in np.ndindex(right.shape):
        right[b, h, s, d] = x[b, s, h * width + d]
    for name, split in tutorial_mistakes.SPLITS.items():
        same = split(x).shape == right.shape and np.array_equal(split(x), right)
        assert same == (name == "reshape(B, S, H, D).swapaxes(1, 2)"), name
