"""What does it cost to refuse nonsense?

    python -m bench.hostile_fields [--calls submit chat] [--json FILE]

Every argument of every call is given every value of ``tests/hostile.py``. For those that are
refused: processor time, Python's memory, and how much the process grew. Targets: 10 ms and 1 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path

from tests import hostile

from bench import machine
from inferlib.testing import tiny_model

RESULTS = Path(__file__).parent / "results" / "hostile_fields.json"
MOST_SECONDS, MOST_BYTES = 0.010, 1 << 20


def refuse(model: object, field: hostile.Field, name: str, *, traced: bool) -> float | None:
    """Seconds of the processor, or bytes if ``traced``; ``None`` if the value was accepted."""
    value = hostile.VALUES[name]()
    if traced:
        tracemalloc.start()
    start = time.process_time()
    try:
        hostile.make_call(model, field, value)  # type: ignore[arg-type]
    except Exception:  # the tests judge it
        seconds = time.process_time() - start
        return tracemalloc.get_traced_memory()[1] if traced else seconds
    finally:
        if traced:
            tracemalloc.stop()
    return None


def measure(calls: list[str]) -> dict[str, object]:
    """Cost of every refusal, of these calls or of all: the distribution, and what is beyond."""
    seconds: list[float] = []
    slow: list[tuple[str, str, float]] = []
    large: list[tuple[str, str, float]] = []
    worst_bytes = 0.0
    with tiny_model(max_position_embeddings=64) as model:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for field in hostile.fields():
            if calls and field.call not in calls:
                continue
            for name in hostile.VALUES:
                if hostile.is_work(field, name):
                    continue
                cost = refuse(model, field, name, traced=False)
                if cost is None:
                    continue
                cost = min(cost, *(refuse(model, field, name, traced=False) or 0 for _ in range(2)))
                seconds.append(cost)
                if cost > MOST_SECONDS:
                    slow.append((str(field), name, cost))
                num_bytes = refuse(model, field, name, traced=True) or 0
                worst_bytes = max(worst_bytes, num_bytes)
                if num_bytes > MOST_BYTES:
                    large.append((str(field), name, num_bytes))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "refused": len(seconds),
        "seconds_p50": statistics.median(seconds),
        "seconds_p99": statistics.quantiles(seconds, n=100)[98],
        "seconds_max": max(seconds),
        "bytes_max": worst_bytes,
        "grown_bytes": (after - before) * 1024,
        "above_10_ms": sorted(slow, key=lambda row: -row[2]),
        "above_1_mb": sorted(large, key=lambda row: -row[2]),
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here = Path.cwd()
        os.chdir(folder)  # some values are paths
        try:
            result = measure(arguments.calls)
        finally:
            os.chdir(here)
    for key, value in result.items():
        if isinstance(value, list):
            print(f"{key}: {len(value)}")
            for row in value[:20]:
                print("   ", *row)
        else:
            print(f"{key:16s} {value:,.6g}")
    if arguments.json:
        described = {"machine": machine.describe(), **result}
        arguments.json.write_text(json.dumps(described, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
