"""Other implementations of attention and its layer, for the ratio. Only those that can be imported take part."""

from __future__ import annotations

import contextlib

from .naive_numpy import NaiveNumpy
from .onnx_runtime import OnnxRuntime
from .open_vino import OpenVino
from .peer import Peer
from .pytorch import Torch

__all__ = ["Peer", "installed_peers"]


def installed_peers() -> list[Peer]:
    """Every peer that can be imported here."""
    peers: list[Peer] = []
    for kind in (Torch, OnnxRuntime, OpenVino, NaiveNumpy):
        with contextlib.suppress(ImportError):
            peers.append(kind())
    return peers
