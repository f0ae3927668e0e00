"""The encoder-decoder: its gradients, causality and padding; the dates and their answers; training on them."""

import itertools
import re
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from babel.dates import parse_date

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import date_formats
import translation
from date_formats import DateFormat, Pair, bare, split_dates, write_pairs
from encoder_decoder import END, PADDING, START, Batch, Config, EncoderDecoder
from example_support import assert_gradients_right, make_every_parameter_matter
from training import Adam
from transformer_layers import sinusoids

TINY = Config(source_kinds=9, target_kinds=8, layers=2, heads=2, width=8, dtype=np.float64)
FORMATS = date_formats.date_formats()
# A leap year and days of the years at which two digits change their century.
DAYS = [date.fromordinal(date(2024, 1, 1).toordinal() + n) for n in range(366)]
DAYS += [
    date(1969, 1, 1),
    date(1970, 2, 3),
    date(1999, 12, 31),
    date(2000, 1, 1),
    date(2012, 11, 10),
    date(2068, 12, 31),
]
# What a field of a pattern is to strptime.
DIRECTIVES = {
    "EEEE": "%A",
    "E": "%a",
    "MMMM": "%B",
    "MMM": "%b",
    "MM": "%m",
    "M": "%m",
    "d": "%d",
    "dd": "%d",
    "y": "%Y",
}


@pytest.fixture
def model() -> EncoderDecoder:
    """A tiny model whose parameters are large enough that every one of them matters to the loss."""
    rng = np.random.default_rng(1)
    model = EncoderDecoder(TINY, rng)
    make_every_parameter_matter(model.parameters, rng)
    return model


@pytest.fixture
def batch() -> Batch:
    """Three pairs of different lengths on either side."""
    rng = np.random.default_rng(2)
    source = rng.integers(END + 1, TINY.source_kinds, (3, 6))
    target = rng.integers(END + 1, TINY.target_kinds, (3, 5))
    target[:, 0] = START
    lengths = np.array([6, 2, 4])
    for row, (length, end) in enumerate(zip(lengths, (3, 4, 2), strict=True)):
        source[row, length:] = PADDING
        target[row, end], target[row, end + 1 :] = END, PADDING
    return Batch(source, lengths, target)


def test_gradients_equal_finite_differences(model: EncoderDecoder, batch: Batch) -> None:
    assert_gradients_right(model.parameters, lambda: model.loss(batch), entries=12)


def test_logits_do_not_see_later_characters(model: EncoderDecoder, batch: Batch) -> None:
    memory, _ = model.encode(batch.source, batch.lengths)
    changed = batch.target.copy()
    changed[:, 2:] = (changed[:, 2:] + 1) % TINY.target_kinds
    before, after = (model.decode(target, memory, batch.lengths)[0] for target in (batch.target, changed))
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert np.all(np.any(before[:, 2:] != after[:, 2:], axis=2))


def test_loss_sees_all_of_the_source(model: EncoderDecoder, batch: Batch) -> None:
    whole = model.loss(batch)[0]
    for row, column in [(0, 0), (0, 5), (1, 1), (2, 3)]:
        source = batch.source.copy()
        source[row, column] = END + 1 + (source[row, column] - END) % (TINY.source_kinds - END - 1)
        assert model.loss(Batch(source, batch.lengths, batch.target))[0] != whole, (row, column)


def test_order_matters_on_both_sides(model: EncoderDecoder, batch: Batch) -> None:
    memory, _ = model.encode(batch.source, batch.lengths)
    logits, _ = model.decode(batch.target, memory, batch.lengths)
    swapped = np.array([1, 0, 2, 3, 4, 5])
    memory_of_swapped, _ = model.encode(batch.source[:, swapped], batch.lengths)
    after_other_source, _ = model.decode(batch.target, memory_of_swapped, batch.lengths)
    assert not np.allclose(after_other_source, logits)
    after_other_target, _ = model.decode(batch.target[:, [1, 0, 2, 3, 4]], memory, batch.lengths)
    assert not np.allclose(after_other_target[:, 2], logits[:, 2])


def test_positions_are_waves() -> None:
    waves = sinusoids(5, 4, longest=16)  # of lengths 4 and 8
    np.testing.assert_allclose(waves[:, 0], [0, 1, 0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(waves[:, 3], np.cos(np.arange(5) * np.pi / 4), atol=1e-12)


def test_padding_changes_nothing(model: EncoderDecoder, batch: Batch) -> None:
    losses, counts = [], []
    for row, length in enumerate(batch.lengths):
        target = batch.target[row][batch.target[row] != PADDING]
        alone = Batch(batch.source[row : row + 1, :length], batch.lengths[row : row + 1], target[None])
        losses.append(model.loss(alone)[0])
        counts.append(len(target) - 1)
    together = model.loss(batch)[0]
    np.testing.assert_allclose(together, np.average(losses, weights=counts), rtol=1e-12)
    wider = Batch(
        *(np.pad(a, ((0, 0), (0, 4))) if a.ndim == 2 else a for a in (batch.source, batch.lengths, batch.target))
    )
    np.testing.assert_allclose(model.loss(wider)[0], together, rtol=1e-12)


def test_translation_takes_the_likeliest_token(model: EncoderDecoder, batch: Batch) -> None:
    written = model.translate(batch.source, batch.lengths, limit=7)
    memory, _ = model.encode(batch.source, batch.lengths)
    logits, _ = model.decode(np.insert(written, 0, START, axis=1)[:, :-1], memory, batch.lengths)
    np.testing.assert_array_equal(written, END + logits[:, :, END:].argmax(axis=2))
    ended = np.any(written == END, axis=1)
    assert written.shape[1] == 7 or ended.all()


def test_alignment_is_what_the_decoder_attends_to(
    model: EncoderDecoder, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = batch.source[0], batch.target[0, :3]
    weights = model.alignment(source, target)
    assert weights.shape == (TINY.layers, TINY.heads, 3, 6)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)

    used = []
    for block in model.decoder:

        def spy(*inputs: np.ndarray, layer: Any = block.cross.attention, **options: Any) -> np.ndarray:
            used.append(layer(*inputs, need_weights=True, average_weights=False, **options)[1][0])
            return layer(*inputs, **options)

        monkeypatch.setattr(block.cross, "attention", spy)
    memory, _ = model.encode(source[None], batch.lengths[:1])
    model.decode(target[None], memory, batch.lengths[:1])
    np.testing.assert_allclose(weights, np.stack(used), rtol=1e-12)


def test_no_text_has_two_answers() -> None:
    answers: dict[str, str] = {}
    for written in FORMATS:
        for day in DAYS:
            text = written.write(day)
            for variant in (text, bare(text)) if written.in_words else (text,):
                assert answers.setdefault(variant, written.answer(day)) == written.answer(day), (variant, written)


@pytest.mark.parametrize("pattern", [w.pattern for w in FORMATS if w.language == "en"])
def test_english_is_what_strptime_reads(pattern: str) -> None:
    written = next(w for w in FORMATS if w.language == "en" and w.pattern == pattern)
    for day in (date(1969, 1, 1), date(2021, 3, 4), date(2044, 10, 12)):
        read = datetime.strptime(written.write(day), re.sub("[a-zA-Z]+", lambda field: DIRECTIVES[field[0]], pattern))
        assert written.answer(day) == read.date().isoformat()[: 10 if written.has_day else 7]


@pytest.mark.parametrize("locale", date_formats.LOCALES[1:])
def test_numbers_are_what_babel_reads(locale: str) -> None:
    # Not of the first locale, American English: its order of numbers must not occur.
    numeric = [w for w in FORMATS if w.locale == locale and not w.in_words and w.has_day]
    assert numeric
    for written in numeric:
        for day in (date(2000, 1, 1), date(2001, 2, 3), date(2012, 11, 10)):  # all two digits are 20xx to Babel
            assert parse_date(written.write(day), locale=locale, format="short") == day


def test_two_digits_mean_the_years_of_posix() -> None:
    written = DateFormat("de", "dd.MM.yy")
    for day in DAYS:
        assert datetime.strptime(written.write(day), "%d.%m.%y").date() == day


def test_orders_in_doubt_are_left_out() -> None:
    assert not DateFormat("en", "M/d/yy").has_one_reading
    assert not DateFormat("ko", "yy. M. d.").has_one_reading
    assert all(w.has_one_reading for w in FORMATS)
    assert {w.language for w in FORMATS} == {locale[:2] for locale in date_formats.LOCALES}


def test_no_held_out_date_is_trained_on() -> None:
    training, held_out = split_dates(np.random.default_rng(3), 0.1)
    assert not set(training.days) & set(held_out.days)
    assert not set(training.months) & set(held_out.months)
    assert len(training.days) + len(held_out.days) == (date_formats.LAST - date_formats.FIRST).days + 1
    assert len(training.months) + len(held_out.months) == 1200
    seen, unseen = (write_pairs(np.random.default_rng(4), dates, 3000) for dates in (training, held_out))
    assert not {pair.answer for pair in seen} & {pair.answer for pair in unseen}
    assert seen == write_pairs(np.random.default_rng(4), training, 3000)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """Some to train on."""
    rng = np.random.default_rng(5)
    return write_pairs(rng, split_dates(rng, 0.1)[0], 2000)


def test_batches_are_random_pairs_with_little_padding(pairs: list[Pair]) -> None:
    alphabets = translation.Alphabets.of(pairs)
    batches = translation.training_batches(translation.encode_pairs(pairs, alphabets), np.random.default_rng(6))
    seen, characters, places = set(), 0, 0
    for batch in itertools.islice(batches, 4 * translation.BATCHES_AT_ONCE):
        for source, length, target in zip(batch.source, batch.lengths, batch.target.tolist(), strict=True):
            text = alphabets.text.decode(source[:length])
            seen.add((text, alphabets.answer.decode(target[1 : target.index(END)])))
        characters, places = characters + batch.lengths.sum(), places + batch.source.size
    drawn, distinct = 4 * translation.BATCHES_AT_ONCE * translation.BATCH, len({pair.text for pair in pairs})
    assert seen <= {(pair.text, pair.answer) for pair in pairs}
    assert len(seen) > 0.9 * distinct * (1 - np.exp(-drawn / len(pairs)))  # what as many random draws find
    assert characters > 0.85 * places


def test_training_lowers_the_loss(pairs: list[Pair]) -> None:
    rng, alphabets = np.random.default_rng(7), translation.Alphabets.of(pairs)
    corpus = translation.encode_pairs(pairs, alphabets)
    model = EncoderDecoder(Config(alphabets.text.size, alphabets.answer.size, layers=1, width=32), rng)
    adam, batches = Adam(model.parameters.values()), translation.training_batches(corpus, rng)
    before = translation.mean_loss(model, corpus, 0.2)
    for _ in range(100):
        model.parameters.clear_gradients()
        model.loss(next(batches))[1]()
        adam.update(5e-3)
    # Guessing each character by how often it comes has more than half of a uniform guess's loss.
    assert translation.mean_loss(model, corpus, 0.2) < min(before, 0.5 * np.log(alphabets.answer.size))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the program with little data for a moment."""
    monkeypatch.setattr(translation, "TRAINING_PAIRS", 3000)
    monkeypatch.setattr(translation, "HELD_OUT_PAIRS", 100)
    monkeypatch.setattr(translation, "keep_freed_memory", lambda: None)  # it would last for all other tests

    def run_with(*arguments: str) -> Path:
        monkeypatch.setattr(sys, "argv", ["translation.py", "--seconds", "0.5", "--out-dir", str(tmp_path), *arguments])
        translation.main()
        return tmp_path

    return run_with


def test_program_reports_and_draws(run, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = run("3 März 2021")
    printed = capsys.readouterr().out
    assert re.search(r"right in every character: \d+\.\d\d% of \d+ texts of dates never seen in training", printed)
    assert re.search(r"yours:\n  3 märz 2021 -> [-\d]*\n", printed)
    for name in ("loss.png", "alignment.png"):
        assert (pictures / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text, message", [("3 März \u2603", "\u2603"), (" ", "empty")])
def test_program_names_what_it_cannot_read(run, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    with pytest.raises(SystemExit):
        run(text)
    error = capsys.readouterr().err
    assert "argument DATE" in error and message in error
