"""What a result was measured on: processor, cores, commit, and this minute's read bandwidth."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path

import numpy as np

from inferlib import _core
from inferlib.origin import ARITHMETIC_VERSION

TICKS_PER_SECOND = 100
"""Of ``/proc``: USER_HZ, the same on every Linux that Rust's wheels run on."""


def cores() -> int:
    """Cores that this process may use."""
    return _core.CpuExecutor.available_cores()


def describe() -> dict[str, object]:
    """Processor, cores, tier, versions, commit."""
    return {
        "cpu": processor(),
        "cores": cores(),
        "tier": _core.CpuExecutor.tiers()[0],
        "inferlib": _core.__version__,
        "arithmetic_version": ARITHMETIC_VERSION,
        "commit": commit(),
    }


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return "unknown"
    pairs = (line.replace("\t\t", "\t").split("\t: ", 1) for line in lines)
    fields = dict(pair for pair in pairs if len(pair) == 2)
    return f"{fields.get('model name', 'unknown')} (family {fields.get('cpu family', '?')})"


def commit() -> str:
    """The checkout's commit, short; empty outside of one."""
    command = ["git", "describe", "--always", "--dirty"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip()


def busy_seconds() -> float:
    """Processor time of everything on this machine since it started; 0 where that is not told.

    Time that the host gave to others while this machine wanted to run counts as well.
    """
    try:
        line = Path("/proc/stat").read_text(encoding="utf8").split("\n", 1)[0]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, soft_irq, steal, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + soft_irq + steal) / TICKS_PER_SECOND


def limits(threads: int | None = None) -> dict[str, float] | None:
    """What ``threads`` cores can do at most right now; ``None`` without cargo.

    Keys: ``read_gb_s``, bytes read together in 1e9 per second, from 256 MiB, prefetched as the
    kernels do; ``int8_peak_gops`` and ``float_peak_gops``, nothing but multiply-adds, each two
    operations, in 1e9 per second (0 where the tier has no such measurement). Measured by an example
    of ``rust/cpu``, which cargo builds first.
    """
    command = ["cargo", "run", "--release", "--quiet", "-p", "inferlib-cpu"]
    command += ["--features", "measure", "--example", "limits", "--"]
    try:
        result = subprocess.run(
            [*command, "--threads", str(threads or cores())],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    found: dict[str, float] = json.loads(result.stdout)
    return found


def int8_peak(threads: int | None = None) -> float | None:
    """GOP/s of ``threads`` cores at nothing but int8 multiply-adds; ``None`` without cargo."""
    found = limits(threads)
    return (found["int8_peak_gops"] or None) if found else None


def read_bandwidth(threads: int | None = None) -> float:
    """GB/s that ``threads`` threads read together: the kernels' own way, or NumPy's without cargo.

    NumPy's is no bound: its loops do not prefetch, and read less than the kernels do.
    """
    found = limits(threads)
    return found["read_gb_s"] if found else numpy_bandwidth(threads=threads)


def numpy_bandwidth(megabytes: int = 256, threads: int | None = None, repeats: int = 5) -> float:
    """GB/s that ``threads`` threads read together: each sums its share of a large array.

    NumPy's sum of int64 runs at memory speed and without the GIL. The best of ``repeats``.
    """
    count = threads or cores()
    shares = [np.ones((megabytes << 17) // count, dtype=np.int64) for _ in range(count)]
    best = 0.0
    for _ in range(repeats):
        workers = [threading.Thread(target=share.sum) for share in shares]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(
            best, sum(share.nbytes for share in shares) / (time.perf_counter() - start) / 1e9
        )
    return best
