"""Whether layers keep what backward needs."""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from typing import ParamSpec, TypeVar

    Arguments = ParamSpec("Arguments")
    Result = TypeVar("Result")

keeps_for_backward: ContextVar[bool] = ContextVar("swiftattn.keeps_for_backward", default=True)


def no_grad() -> _NoGrad:
    """Make layers keep nothing for backward, in the calling thread (and asyncio task) until the block ends.

    A forward pass then needs less memory, and what an earlier one kept for `backward` stays. Blocks may be nested.
    Works as a decorator too, of functions; TypeError for those of `async def` and generators, whose body runs after
    they returned: they need a block within.

    Examples
    --------
    >>> import numpy as np, swiftattn
    >>> layer = swiftattn.MultiHeadAttention(64, 4)
    >>> with swiftattn.no_grad():
    ...     out = layer(np.ones((2, 5, 64), np.float32))
    """
    return _NoGrad()


class _NoGrad:
    """The context; a decorator enters a new one for each call."""

    def __init__(self) -> None:
        self._tokens: list[Token[bool]] = []

    def __enter__(self) -> None:
        self._tokens.append(keeps_for_backward.set(False))

    def __exit__(self, *exception: object) -> None:
        keeps_for_backward.reset(self._tokens.pop())

    def __call__(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        if (
            inspect.iscoroutinefunction(function)
            or inspect.isgeneratorfunction(function)
            or inspect.isasyncgenfunction(function)
        ):
            raise TypeError(f"no_grad cannot decorate {function.__name__}, whose body runs after it returned")

        @functools.wraps(function)
        def without_gradients(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            with no_grad():
                return function(*args, **kwargs)

        return without_gradients
