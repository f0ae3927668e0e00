"""Measures one case: rounds in which the FMA peak, swiftattn and each peer take turns.

The speed of a processor drifts with its temperature and its neighbours, so that ratios are taken within a round,
and what is reported is the median over the rounds.
"""

import contextlib
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import swiftattn
from cases import Case, Inputs, LayerInputs, make_inputs
from fma_peak import fma_peak
from peers import Peer

_TURN_SECONDS = 0.3
_FEWEST_SAMPLES = 3
_BATCH_SECONDS = 1e-3  # calls that are shorter are timed several at once
_SETTLE_SECONDS = 0.1  # the threads of other libraries keep spinning for a while after a call
_TOLERANCES = {"f32": 1e-4, "f64": 1e-10}

Run = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The result for one case: seconds a call (median and quartiles over all samples) and ratios within the rounds."""

    case: Case
    median: float
    quartiles: tuple[float, float]
    peak: float  # GFLOP/s
    share_of_peak: float
    times_faster_than: dict[str, float]

    @property
    def gflops(self) -> float:
        """The rate at the median time."""
        return self.case.flops() / self.median * 1e-9


@contextlib.contextmanager
def settings(case: Case) -> Iterator[None]:
    """The case's number of threads and tier, while it lasts."""
    threads = swiftattn.get_num_threads()
    swiftattn.set_num_threads(case.threads)
    swiftattn.set_isa(case.isa)
    try:
        yield
    finally:
        swiftattn.set_isa(None)
        swiftattn.set_num_threads(threads)


def prepare_swiftattn(case: Case, inputs: Inputs | LayerInputs) -> Run:
    """The call that is timed; it returns out, or a tuple that begins with it."""
    return prepare_layer(case, inputs) if isinstance(inputs, LayerInputs) else prepare_attention(case, inputs)


def prepare_layer(case: Case, inputs: LayerInputs) -> Run:
    """A step of a layer's training without the update, or what serving a trained one does."""
    layer = swiftattn.MultiHeadAttention(case.embed_dim, case.H, dtype=inputs.x.dtype)
    layer.load_state_dict(inputs.parameters)
    if case.is_frozen:
        layer.freeze()
    x, dout = inputs.x, inputs.dout

    def infer() -> Any:
        with swiftattn.no_grad():
            return layer(x)

    if dout is None:
        return infer

    def train() -> Any:
        layer.zero_grad()
        return layer(x), layer.backward(dout)

    return train


def prepare_attention(case: Case, inputs: Inputs) -> Run:
    """The operator, or the operator and its gradients."""
    q, k, v, dout = inputs.q, inputs.k, inputs.v, inputs.dout
    options: dict[str, Any] = {"causal": case.causal}
    # Only what the case uses is passed on: a default left alone is what users write too.
    for name in ("mask", "bias", "key_lengths"):
        if (value := getattr(inputs, name)) is not None:
            options[name] = value
    if dout is None:
        return lambda: swiftattn.attention(q, k, v, **options)

    def train() -> Any:
        out, lse = swiftattn.attention(q, k, v, return_lse=True, **options)
        gradients = swiftattn.attention_backward(dout, q, k, v, out, lse, needs=("query", "key", "value"), **options)
        return out, gradients

    return train


def prepare_peers(case: Case, inputs: Inputs | LayerInputs, peers: list[Peer], ours: Run) -> dict[str, Run]:
    """The calls of the peers that support the case, after a check that they compute what swiftattn does."""
    result = ours()
    expected = result[0] if isinstance(result, tuple) else result
    runs = {}
    for peer in peers:
        if peer.supports(case):
            run, to_array = peer.prepare(case, inputs)
            tolerance = _TOLERANCES[case.dtype]
            np.testing.assert_allclose(to_array(run()), expected, tolerance, tolerance, err_msg=peer.name)
            runs[peer.name] = run
    return runs


def turn(run: Run) -> list[float]:
    """Seconds a call, several times."""
    run()  # brings this contender's code, data and threads back
    clock = time.perf_counter
    start = clock()
    run()
    batch = max(1, round(_BATCH_SECONDS / (clock() - start)))
    samples: list[float] = []
    end = clock() + _TURN_SECONDS
    while len(samples) < _FEWEST_SAMPLES or clock() < end:
        start = clock()
        for _ in range(batch):
            run()
        samples.append((clock() - start) / batch)
    return samples


def measure(case: Case, peers: list[Peer], rounds: int) -> Measurement:
    """Rounds of: the peak, swiftattn and the peak again, every peer that supports the case."""
    inputs = make_inputs(case)
    peaks, ours, shares = [], [], []
    ratios: dict[str, list[float]] = {}
    with settings(case):
        run = prepare_swiftattn(case, inputs)
        peer_runs = prepare_peers(case, inputs, peers, run)
        for _ in range(rounds):
            before = fma_peak(str(swiftattn.get_isa()), case.dtype, case.threads)
            samples = turn(run)
            after = fma_peak(str(swiftattn.get_isa()), case.dtype, case.threads)
            peaks.append((before + after) / 2)
            ours += samples
            median = statistics.median(samples)
            shares.append(case.flops() / median * 1e-9 / peaks[-1])
            for name, peer_run in peer_runs.items():
                ratios.setdefault(name, []).append(statistics.median(turn(peer_run)) / median)
                time.sleep(_SETTLE_SECONDS)
    quartiles = statistics.quantiles(ours, n=4)
    return Measurement(
        case,
        statistics.median(ours),
        (quartiles[0], quartiles[2]),
        statistics.median(peaks),
        statistics.median(shares),
        {name: statistics.median(values) for name, values in ratios.items()},
    )


def measure_scaling(case: Case, rounds: int) -> float:
    """The time with one thread over the time with the case's threads."""
    run = prepare_swiftattn(case, make_inputs(case))
    ratios = []
    for _ in range(rounds):
        medians = []
        for threads in (1, case.threads):
            with settings(dataclasses.replace(case, threads=threads)):
                medians.append(statistics.median(turn(run)))
        ratios.append(medians[0] / medians[1])
    return statistics.median(ratios)


def measure_import(repetitions: int) -> float:
    """Seconds that `import swiftattn` takes in a fresh process that has imported NumPy."""
    program = "import time, numpy; start = time.perf_counter(); import swiftattn; print(time.perf_counter() - start)"
    command = [sys.executable, "-c", program]
    times = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(repetitions)
    ]
    return statistics.median(times)
