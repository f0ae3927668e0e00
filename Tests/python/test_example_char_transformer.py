"""The example model: its gradients against finite differences, its causality and its attention picture."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from char_transformer import CharTransformer, Config

TINY = Config(vocabulary=7, context=6, layers=2, heads=2, width=8, dtype=np.float64)


@pytest.fixture
def model() -> CharTransformer:
    """A tiny model whose parameters are large enough that every one of them matters to the loss."""
    rng = np.random.default_rng(1)
    model = CharTransformer(TINY, rng)
    model.values += rng.normal(0, 0.3, model.values.shape)
    return model


def batch(rng: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
    windows = rng.integers(TINY.vocabulary, size=(3, length + 1))
    return windows[:, :-1], windows[:, 1:]


@pytest.mark.parametrize("length", [TINY.context, 4])
def test_gradients_equal_finite_differences(model: CharTransformer, length: int) -> None:
    tokens, targets = batch(np.random.default_rng(2), length)
    _, backward = model.loss(tokens, targets)
    model.gradients[:] = np.nan  # so that a gradient left unwritten shows
    backward()
    step = 1e-6
    for name, parameter in model.parameters.items():
        numeric = np.empty_like(parameter.value)
        for at in np.ndindex(parameter.value.shape):
            kept = parameter.value[at]
            parameter.value[at] = kept + step
            above = model.loss(tokens, targets)[0]
            parameter.value[at] = kept - step
            below = model.loss(tokens, targets)[0]
            parameter.value[at] = kept
            numeric[at] = (above - below) / (2 * step)
        np.testing.assert_allclose(parameter.gradient, numeric, rtol=1e-5, atol=1e-8, err_msg=name)


def test_logits_do_not_see_later_characters(model: CharTransformer) -> None:
    tokens, _ = batch(np.random.default_rng(3), TINY.context)
    changed = tokens.copy()
    changed[:, 3:] = (changed[:, 3:] + 1) % TINY.vocabulary
    before = model.forward(tokens)[0].reshape(3, TINY.context, -1)
    after = model.forward(changed)[0].reshape(3, TINY.context, -1)
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
    first, second = (CharTransformer(TINY, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)
