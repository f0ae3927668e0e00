"""What the tests of the example models share. They put the examples on the path before they import it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from transformer_layers import Parameters


def make_every_parameter_matter(parameters: Parameters, rng: np.random.Generator) -> None:
    """Moves all parameters away from zeros and ones, where some have no part in the loss."""
    for parameter in parameters.values():
        parameter.value[...] += rng.normal(0, 0.3, parameter.value.shape)


def assert_gradients_right(
    parameters: Parameters, loss: Callable[[], tuple[float, Callable[[], None]]], entries: int, step: float = 1e-6
) -> None:
    """Compares the gradient of every parameter with finite differences, at so many of its entries, drawn at random."""
    rng = np.random.default_rng(0)
    # Gradients are added to those that are there: a backward that writes over them, or not at all, shows.
    for parameter in parameters.values():
        parameter.gradient[...] = 1
    loss()[1]()
    for name, parameter in parameters.items():
        value, computed, numeric = parameter.value, [], []
        for at in rng.permutation(list(np.ndindex(value.shape)))[:entries]:
            index, kept = tuple(at), value[tuple(at)]
            value[index] = kept + step
            above = loss()[0]
            value[index] = kept - step
            below = loss()[0]
            value[index] = kept
            computed.append(parameter.gradient[index] - 1)
            numeric.append((above - below) / (2 * step))
        np.testing.assert_allclose(computed, numeric, rtol=1e-5, atol=1e-8, err_msg=name)
