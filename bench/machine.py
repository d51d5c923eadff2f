"""What a result was measured on: processor, cores, commit, and this minute's read bandwidth."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import numpy as np

from inferlib import _core


def cores() -> int:
    """Cores that this process may use."""
    return _core.CpuExecutor.available_cores()


def describe() -> dict[str, object]:
    """Processor, cores, tier, commit."""
    return {
        "cpu": processor(),
        "cores": cores(),
        "tier": _core.CpuExecutor.tiers()[0],
        "inferlib": _core.__version__,
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


def read_bandwidth(megabytes: int = 256, threads: int | None = None, repeats: int = 5) -> float:
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
