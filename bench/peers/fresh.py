"""A fresh process: seconds from importing an engine to its first token, and its peak memory.

    python -m bench.peers.fresh bench.peers.llama_cpp MODEL --threads 2 [--fill 2048]

NumPy is imported before the clock starts: every engine here needs it. With ``--fill`` the KV cache
is filled with that many tokens afterwards. Peaks are of this process alone (``VmHWM``).
"""

from __future__ import annotations

import sys
import time

import numpy as np  # noqa: F401  # see above

START = time.perf_counter()
TEXT = "Once upon a time"
FILLER = 1000


def main() -> None:
    """Load, make a token, fill; print one JSON object."""
    import json
    from importlib import import_module

    adapter, model, *rest = sys.argv[1:]
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    engine = import_module(adapter).Engine(
        model, threads=int(given["--threads"]), **json.loads(given.get("--options", "{}"))
    )
    engine.first_token(TEXT)
    result: dict[str, float] = {"seconds": time.perf_counter() - START}
    result["load_peak_bytes"] = peak_bytes()
    if "--fill" in given:
        engine.prefill([FILLER + index for index in range(int(given["--fill"]))])
        result["filled_peak_bytes"] = peak_bytes()
    print(json.dumps(result))


def peak_bytes() -> int:
    """Most memory that this process had resident since it began, file pages included."""
    with open("/proc/self/status", encoding="utf8") as status:  # noqa: PTH123  # pathlib costs time
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
