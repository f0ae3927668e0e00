"""Measures swiftattn on the cases of cases.json, against the processor's FMA peak and the peers that are installed.

    python benchmarks/bench.py --filter 'train.*causal' --rounds 9

Every case is measured in rounds in which the peak, swiftattn and the peers take turns; see measure.py. Peers are torch,
onnxruntime (with onnx), openvino and NumPy itself, where they can be imported; NumPy's BLAS chooses its own number of
threads.

Two of the peers may leave a part of the processor unused unless the environment tells them otherwise:

- torch: its MKL uses AVX-512 on what it believes to be Intel's processors. LD_PRELOAD=/tmp/intel.so makes it believe so
  of any, after: echo 'int mkl_serv_intel_cpu_true(void) { return 1; }' | cc -shared -fPIC -x c -o /tmp/intel.so -
- numpy: OPENBLAS_CORETYPE=SkylakeX is for processors with AVX-512 that its OpenBLAS takes for older ones.
"""

import argparse
import dataclasses
import json
import os
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import swiftattn
from cases import Case, import_reach, load_cases
from measure import Measurement, measure, measure_import, measure_scaling
from peers import Peer, installed_peers

_IMPORTS = 20
_NAME_WIDTH = 36
_PEER_WIDTH = 12


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filter", default="", help="a regular expression that the names of the cases contain")
    parser.add_argument("--rounds", type=int, default=7, help="how often the contenders take turns (%(default)s)")
    parser.add_argument("--threads", type=int, help="instead of the cases' own number")
    parser.add_argument("--no-peers", action="store_true", help="measure swiftattn and the peak alone")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    return parser.parse_args()


def selected(group: str, arguments: argparse.Namespace) -> list[Case]:
    """The cases of the group that the command line asks for and this processor can run."""
    cases = [case for case in load_cases(group) if re.search(arguments.filter, f"{group} {case.name}")]
    for case in cases:
        if case.isa not in (None, *swiftattn.available_isas()):
            print(f"left out, this processor has no {case.isa}: {case.name}")
    cases = [case for case in cases if case.isa in (None, *swiftattn.available_isas())]
    return [dataclasses.replace(case, threads=arguments.threads or case.threads) for case in cases]


def print_row(name: str, cells: Sequence[tuple[str, int]]) -> None:
    """One line of a table: the name, then right-aligned cells with their widths."""
    print(f"{name:{_NAME_WIDTH}}" + "".join(f"{text:>{width}}" for text, width in cells), flush=True)


def print_heading(title: str, columns: Sequence[tuple[str, int]], peers: list[Peer]) -> None:
    """The title of a table and the names of its columns; those of the peers tell how much faster swiftattn is."""
    print()
    print_row(title, [*columns, *((peer.name, _PEER_WIDTH) for peer in peers)])


def verdict(met: bool) -> str:
    """Whether a reach was met."""
    return "yes" if met else "no"


def ratio_cells(ratios: dict[str, float], peers: list[Peer]) -> list[tuple[str, int]]:
    """How many times faster than each peer."""
    return [(f"{ratios[peer.name]:.2f}x" if peer.name in ratios else "-", _PEER_WIDTH) for peer in peers]


def throughput_cells(result: Measurement) -> tuple[list[str], bool]:
    """The cells of a row of the throughput table, and whether the reach was met."""
    low, high = (1e3 * quartile for quartile in result.quartiles)
    met = result.share_of_peak >= result.case.reach
    times = [f"{1e3 * result.median:.3f}", f"{low:.3f}-{high:.3f}"]
    rates = [f"{result.gflops:.1f}", f"{result.peak:.1f}", f"{result.share_of_peak:.1%}"]
    return [*times, *rates, f"{result.case.reach:.0%}", verdict(met)], met


def latency_cells(result: Measurement) -> tuple[list[str], bool]:
    """The cells of a row of the latency table, and whether the reach was met."""
    low, high = (1e6 * quartile for quartile in result.quartiles)
    met = 1e6 * result.median <= result.case.reach
    return [f"{1e6 * result.median:.2f}", f"{low:.2f}-{high:.2f}", f"{result.case.reach:.2f}", verdict(met)], met


_TIMED_TABLES: dict[str, tuple[list[tuple[str, int]], Callable[[Measurement], tuple[list[str], bool]]]] = {
    "throughput": (
        [("ms", 9), ("quartiles", 18), ("GFLOP/s", 9), ("peak", 8), ("of peak", 9), ("reach", 7), ("met", 5)],
        throughput_cells,
    ),
    "latency": ([("us", 9), ("quartiles", 18), ("reach", 9), ("met", 5)], latency_cells),
}


def bench_timed(group: str, arguments: argparse.Namespace, peers: list[Peer]) -> list[dict[str, Any]]:
    """The table of the group's cases, one measurement a row."""
    columns, cells_of = _TIMED_TABLES[group]
    cases = selected(group, arguments)
    if cases:
        print_heading(group, columns, peers)
    rows = []
    for case in cases:
        result = measure(case, peers, arguments.rounds)
        texts, met = cells_of(result)
        cells = [(text, width) for text, (_, width) in zip(texts, columns, strict=True)]
        print_row(case.name, cells + ratio_cells(result.times_faster_than, peers))
        rows.append({**dataclasses.asdict(result), "gflops": result.gflops, "met": met})
    return rows


def bench_scaling(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The table of the time with one thread over the time with several."""
    cases = selected("scaling", arguments)
    if cases:
        print_heading("scaling", [("threads", 9), ("over one", 18), ("reach", 9), ("met", 5)], [])
    rows = []
    for case in cases:
        ratio = measure_scaling(case, arguments.rounds)
        met = ratio >= case.reach
        print_row(case.name, [(str(case.threads), 9), (f"{ratio:.2f}x", 18), (f"{case.reach}x", 9), (verdict(met), 5)])
        rows.append({"case": dataclasses.asdict(case), "ratio": ratio, "met": met})
    return rows


def bench_import() -> dict[str, Any]:
    """The line of the import's milliseconds."""
    milliseconds, reach = 1e3 * measure_import(_IMPORTS), import_reach()
    met = milliseconds <= reach
    print(f"\nimport swiftattn after numpy: {milliseconds:.2f} ms, reach {reach:.2f} ms, met: {verdict(met)}")
    return {"milliseconds": milliseconds, "reach": reach, "met": met}


def processor_name() -> str:
    """The model of the processor."""
    path = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", path.read_text(encoding="utf-8")) if path.exists() else None
    return match[1] if match else platform.machine()


def main() -> None:
    """Prints the tables and, if asked, writes the figures."""
    arguments = parse_arguments()
    if swiftattn.get_isa() is None:
        raise SystemExit("SWIFTATTN_ISA names no instruction set that this processor supports")
    peers = [] if arguments.no_peers else installed_peers()
    load = os.getloadavg()[0]
    print(f"{processor_name()}, {os.cpu_count()} processors, load {load:.2f} before the start")
    print(f"swiftattn {swiftattn.__version__} on {swiftattn.get_isa()}")
    if peers:
        print(f"columns on the right: times faster than {', '.join(peer.version() for peer in peers)}")
    figures: dict[str, Any] = {
        "processor": processor_name(),
        "isa": swiftattn.get_isa(),
        "throughput": bench_timed("throughput", arguments, peers),
        "scaling": bench_scaling(arguments),
        "latency": bench_timed("latency", arguments, peers),
    }
    if re.search(arguments.filter, "import"):
        figures["import"] = bench_import()
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
