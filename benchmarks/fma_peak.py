"""The FMA peak of this processor, measured now: fma_peak.c, compiled once a process, on several threads."""

import ctypes
import functools
import os
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


@functools.cache
def _library() -> ctypes.CDLL:
    source = Path(__file__).parent / "FMAPeak" / "fma_peak.c"
    with tempfile.TemporaryDirectory() as directory:
        shared_object = Path(directory) / "fma_peak.so"
        compiler = os.environ.get("CC", "cc")
        include = f"-I{source.parent / 'include'}"
        command = [compiler, "-O2", "-shared", "-fPIC", include, str(source), "-o", str(shared_object)]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(shared_object))
    library.swiftattn_fma_peak.restype = ctypes.c_double
    library.swiftattn_fma_peak.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_double]
    return library


def fma_peak(isa: str, dtype: str, threads: int, seconds: float = 0.05) -> float:
    """GFLOP/s of `threads` threads doing nothing but multiply-adds of the tier `isa` in "f32" or "f64"."""
    library = _library()
    start = threading.Barrier(threads)

    def measure(_: int) -> float:
        start.wait()
        return float(library.swiftattn_fma_peak(isa.encode(), int(dtype == "f64"), seconds))

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(measure, range(threads)))
