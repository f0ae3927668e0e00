"""What the examples' training shares: the command line, an alphabet, Adam, a loop that stops by the clock, pictures."""

import argparse
import ctypes
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from transformer_layers import Array, Parameter, Parameters, Tokens

WARM_UP_SHARE = 0.05
CHECKS = 12  # of the held-out loss during training, each on
CHECK_SHARE = 0.2  # of what is held out


class Alphabet:
    """Numbers for characters: `first` for the first of them, and so on."""

    def __init__(self, text: str, first: int = 0) -> None:
        self.characters, self.first = sorted(set(text)), first
        self._number = {character: i for i, character in enumerate(self.characters, start=first)}

    @property
    def size(self) -> int:
        """How many numbers there are, those below `first` included."""
        return self.first + len(self.characters)

    def encode(self, text: str) -> Tokens:
        """The numbers of the characters, each of which must be in the alphabet."""
        return np.array([self._number[character] for character in text], np.intp)

    def decode(self, tokens: Iterable[int]) -> str:
        """The characters of the numbers, each of which must be `first` or more."""
        return "".join(self.characters[token - self.first] for token in tokens)


class Adam:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    def __init__(
        self, parameters: Iterable[Parameter], beta1: float = 0.9, beta2: float = 0.99, decay: float = 0.05
    ) -> None:
        self.beta1, self.beta2, self.decay = beta1, beta2, decay
        # Each parameter with the running means of its gradient and of the gradient's square.
        self.states = [(p, np.zeros_like(p.value), np.zeros_like(p.value)) for p in parameters]
        self.steps = 0

    def update(self, rate: float) -> None:
        """One step of size `rate`, in place."""
        self.steps += 1
        corrected = math.sqrt(1 - self.beta2**self.steps) / (1 - self.beta1**self.steps)
        for parameter, mean, square in self.states:
            value, gradient = parameter.value, parameter.gradient
            mean += (1 - self.beta1) * (gradient - mean)
            square += (1 - self.beta2) * (gradient * gradient - square)
            value *= 1 - rate * self.decay
            value -= rate * corrected * mean / (np.sqrt(square) + 1e-8)


@dataclass(frozen=True)
class Schedule:
    """How long to train, and the learning rate meanwhile: a linear warm-up, then half a cosine down to zero."""

    seconds: float
    peak_rate: float

    def rate(self, elapsed: float) -> float:
        """The learning rate after so many seconds."""
        share = elapsed / self.seconds
        if share < WARM_UP_SHARE:
            return self.peak_rate * share / WARM_UP_SHARE
        return self.peak_rate * 0.5 * (1 + math.cos(math.pi * (share - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)))


@dataclass
class History:
    """The losses in bits per character, with the seconds at which they were measured."""

    training: list[tuple[float, float]] = field(default_factory=list)
    held_out: list[tuple[float, float]] = field(default_factory=list)
    final: float = math.nan  # over all that is held out, after training


def train(
    parameters: Parameters,
    schedule: Schedule,
    next_loss: Callable[[], tuple[float, Callable[[], None]]],
    held_out_loss: Callable[[float], float],
) -> History:
    """Trains by the clock, with a progress bar that shows a running mean of the training loss.

    `next_loss` gives the loss of the next batch and its backward, `held_out_loss` the loss over a share of what is held
    out: both in nats per character.
    """
    history, adam, start = History(), Adam(parameters.values()), time.perf_counter()
    running = math.nan
    bar_format = "{desc} {bar}| {n:.0f}/{total:.0f} s{postfix}"
    with tqdm(total=schedule.seconds, desc="training", bar_format=bar_format, mininterval=0.5) as bar:
        while (elapsed := time.perf_counter() - start) < schedule.seconds:
            if elapsed >= len(history.held_out) * schedule.seconds / CHECKS:
                history.held_out.append((elapsed, held_out_loss(CHECK_SHARE) / math.log(2)))
            parameters.clear_gradients()
            loss, backward = next_loss()
            backward()
            adam.update(schedule.rate(elapsed))
            bits = loss / math.log(2)
            history.training.append((elapsed, bits))
            running = bits if adam.steps == 1 else running + 0.03 * (bits - running)
            bar.set_postfix_str(f"{adam.steps} steps, loss {running:.3g} bits per character", refresh=False)
            bar.update(elapsed - bar.n)
    history.final = held_out_loss(1) / math.log(2)
    return history


def positive_number(text: str) -> float:
    """The number that an argument of a command line is."""
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError("must be positive and finite")
    return number


def argument_parser(description: str, seconds: float) -> argparse.ArgumentParser:
    """A parser of the arguments that all training programs take; `seconds` is how long they train by default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--seconds", type=positive_number, default=seconds, help="how long to train (default: %(default)s)"
    )
    parser.add_argument("--out-dir", type=Path, default=Path("."), help="where the pictures go (default: here)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: %(default)s)")
    return parser


def keep_freed_memory() -> None:
    """Has glibc reuse the memory of freed arrays: fetching fresh pages took more than a quarter of each step."""
    trim_threshold, mmap_threshold = -1, -3
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 25)


def plot_loss(history: History, title: str, scale: str, path: Path) -> None:
    """Draws both losses over time, on a scale that is "linear" or "log"."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*history.training, strict=True), linewidth=0.5, alpha=0.6, label="training, each step")
    axes.plot(*zip(*history.held_out, strict=True), "o-", label="held out, a fifth of it")
    axes.axhline(history.final, color="black", linestyle=":", label=f"held out, at the end: {history.final:.3g}")
    axes.set(xlabel="seconds", ylabel="bits per character", title=title, yscale=scale)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_attention(axes: Axes, brightness: Array, attending: Sequence[str], attended: Sequence[str]) -> None:
    """Draws brightness (len(attending), len(attended)), from 0 to 1: one row an attending character."""
    axes.imshow(brightness, cmap="viridis", vmin=0, vmax=1)
    axes.set_xticks(range(len(attended)), attended, family="monospace")
    axes.set_yticks(range(len(attending)), attending, family="monospace")
    axes.tick_params(length=0)
