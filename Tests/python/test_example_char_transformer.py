"""The example model: its gradients against finite differences, its causality and its attention picture."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from char_transformer import CharTransformer, Config
from example_support import assert_gradients_right, make_every_parameter_matter

TINY = Config(vocabulary=7, context=6, layers=2, heads=2, width=8, dtype=np.float64)


@pytest.fixture
def model() -> CharTransformer:
    """A tiny model whose parameters are large enough that every one of them matters to the loss."""
    rng = np.random.default_rng(1)
    model = CharTransformer(TINY, rng)
    make_every_parameter_matter(model.parameters, rng)
    return model


def batch(rng: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
    windows = rng.integers(TINY.vocabulary, size=(3, length + 1))
    return windows[:, :-1], windows[:, 1:]


@pytest.mark.parametrize("length", [TINY.context, 4])
def test_gradients_equal_finite_differences(model: CharTransformer, length: int) -> None:
    tokens, targets = batch(np.random.default_rng(2), length)
    assert_gradients_right(model.parameters, lambda: model.loss(tokens, targets), entries=300)


def test_logits_do_not_see_later_characters(model: CharTransformer) -> None:
    tokens, _ = batch(np.random.default_rng(3), TINY.context)
    changed = tokens.copy()
    changed[:, 3:] = (changed[:, 3:] + 1) % TINY.vocabulary
    before, after = model.forward(tokens)[0], model.forward(changed)[0]
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.all(np.any(before[:, 3:] != after[:, 3:], axis=2))


def test_attention_weights_are_causal_and_sum_to_one(model: CharTransformer) -> None:
    tokens = batch(np.random.default_rng(4), 5)[0][0]
    weights = model.attention_weights(tokens)
    assert weights.shape == (TINY.layers, TINY.heads, 5, 5)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    assert np.all(np.triu(weights, 1) == 0)
    assert np.all(np.tril(weights)[..., np.tri(5, dtype=bool)] > 0)


def test_equal_seeds_give_equal_models() -> None:
    first, second = (CharTransformer(TINY, np.random.default_rng(5)).parameters for _ in range(2))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name].value, second[name].value, err_msg=name)
