"""Whether layers keep what backward needs."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

keeps_for_backward: ContextVar[bool] = ContextVar("swiftattn.keeps_for_backward", default=True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Make layers keep nothing for backward, in the calling thread (and asyncio task) until the block ends.

    A forward pass then needs less memory, and what an earlier one kept stays. Blocks may be nested; the function works
    as a decorator too.

    Examples
    --------
    >>> import numpy as np, swiftattn
    >>> layer = swiftattn.MultiHeadAttention(64, 4)
    >>> with swiftattn.no_grad():
    ...     out = layer(np.ones((2, 5, 64), np.float32))
    """
    token = keeps_for_backward.set(False)
    try:
        yield
    finally:
        keeps_for_backward.reset(token)
