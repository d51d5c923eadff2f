"""What do loading, the weights and a filled KV cache take, alone and with ``packed_cache``?

    python -m bench.memory [--model smollm2|gemma] [--repeats 7] [--processes 4] [--json FILE]

Everything is measured in fresh processes, from a warm file cache. Times begin after NumPy's import
and before ours. Peaks are ``VmHWM`` of the whole process (interpreter, NumPy and code included), in
bytes: after loading, and after a prompt and an answer that fill 2,048 tokens of KV cache. Shared
memory is the sum of the processes' proportional shares (``Pss``), of the weights alone and of all
their memory, while all of them are there and each has read every weight. What a mapped file costs
is the ratio of decode speeds, interleaved in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import inferlib
from bench import machine, models

RESULTS = Path(__file__).parent / "results"
PROMPT_TOKENS, OUTPUT_TOKENS = 1984, 64
DECODE_TOKENS = 64

# Arguments: the model, the cache's folder (empty: none), whether to fill 2,048 tokens. Writes a
# line of JSON, and another one for every line that it reads.
PROCESS = f"""
import json, sys, time, numpy
path, cache, fill = sys.argv[1], sys.argv[2] or None, sys.argv[3] == "fill"
def read(file):
    lines = open(file).read().splitlines()
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {{key: int(value.split()[0]) * 1024 for key, value in pairs}}
start = time.perf_counter()
import inferlib
imported = time.perf_counter()
model = inferlib.Model.from_pretrained(path, packed_cache=cache)
loaded = time.perf_counter()
result = {{"peak_at_load_bytes": read("/proc/self/status")["VmHWM"]}}
model.generate("Once upon a time", max_tokens=1, temperature=0)
end = time.perf_counter()
result["import_seconds"] = imported - start
result["load_seconds"] = loaded - imported
result["first_token_seconds"] = end - loaded
result["load_to_first_token_seconds"] = end - start
if fill:
    prompt = [100 + 37 * i % 20_000 for i in range({PROMPT_TOKENS})]
    model.generate(prompt, max_tokens={OUTPUT_TOKENS}, temperature=0, ignore_eos=True)
    result["peak_at_2048_tokens_bytes"] = read("/proc/self/status")["VmHWM"]
def memory():
    details = model.stats()["details"]
    result = {{k: v for k, v in details.items() if k.startswith("weight_") and k.endswith("bytes")}}
    return result | {{"process_proportional_bytes": read("/proc/self/smaps_rollup")["Pss"]}}
print(json.dumps(result | memory()), flush=True)
for _ in sys.stdin:
    print(json.dumps(memory()), flush=True)
"""


def start(path: Path, cache: Path | None, *, fill: bool = False) -> subprocess.Popen[str]:
    """A fresh process with the model."""
    arguments = [str(path), "" if cache is None else str(cache), "fill" if fill else ""]
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of a process."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        msg = "a measured process ended early; its error is above"
        raise RuntimeError(msg)
    return json.loads(line)


def once(path: Path, cache: Path | None, *, fill: bool = False) -> dict[str, Any]:
    """One process from start to end."""
    process = start(path, cache, fill=fill)
    try:
        return read(process)
    finally:
        process.communicate()


def together(path: Path, cache: Path | None, count: int) -> dict[str, float]:
    """Physical memory of ``count`` processes that hold the same model at the same time."""
    processes = [start(path, cache, fill=True) for _ in range(count)]
    try:
        for process in processes:
            read(process)
        memory = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            memory.append(read(process))
    finally:
        for process in processes:
            process.communicate()
    weights = sum(each["weight_proportional_bytes"] for each in memory)
    return {
        "weights_bytes": weights,
        "weights_ratio": weights / memory[0]["weight_bytes"],
        "all_bytes": sum(each["process_proportional_bytes"] for each in memory),
    }


def decode_seconds(model: inferlib.Model) -> float:
    """Median time between tokens of one sequence."""
    completion = model.generate(
        [1, 2, 3, 4], max_tokens=DECODE_TOKENS, temperature=0, ignore_eos=True
    )
    return completion.timings.inter_token_latency or 0.0


def decode_ratio(path: Path, cache: Path, repeats: int) -> dict[str, float]:
    """Decode speed from a mapped file over that from memory of the process."""
    options = {"kv_cache": "1k tokens", "enable_prefix_caching": False}
    times: dict[str, list[float]] = {"plain": [], "packed_cache": []}
    with (
        inferlib.Model.from_pretrained(path, **options) as plain,
        inferlib.Model.from_pretrained(path, packed_cache=cache, **options) as cached,
    ):
        for repeat in range(repeats + 1):
            for name, model in (("plain", plain), ("packed_cache", cached)):
                seconds = decode_seconds(model)
                if repeat:  # the first one warms up
                    times[name].append(seconds)
    ratios = [a / b for a, b in zip(times["plain"], times["packed_cache"], strict=True)]
    return {
        "plain_tokens_per_second": 1 / min(times["plain"]),
        "packed_cache_tokens_per_second": 1 / min(times["packed_cache"]),
        "ratio": statistics.median(ratios),
    }


def medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Each figure's median, and the least of the times."""
    result = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    least = {
        f"least_{key}": min(row[key] for row in rows) for key in rows[0] if key.endswith("_seconds")
    }
    return result | least


def measure(path: Path, repeats: int, processes: int) -> dict[str, Any]:
    """All figures; the modes take turns."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        first = once(path, cache)
        rows: dict[str, list[dict[str, Any]]] = {"plain": [], "packed_cache": []}
        for _ in range(repeats):
            rows["plain"].append(once(path, None, fill=True))
            rows["packed_cache"].append(once(path, cache, fill=True))
        file = next(cache.glob("*.packed"))
        return {
            "file_bytes": path.stat().st_size,
            "packed_file_bytes": file.stat().st_size,
            "writing_seconds": first["load_to_first_token_seconds"],
            "writing_peak_bytes": first["peak_at_load_bytes"],
            "plain": medians(rows["plain"]),
            "packed_cache": medians(rows["packed_cache"]),
            "processes": processes,
            "together_plain": together(path, None, processes),
            "together_packed_cache": together(path, cache, processes),
            "decode": decode_ratio(path, cache, repeats),
        }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["smollm2", "gemma"], action="append")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--json", type=Path, default=RESULTS / "memory.json")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**machine.describe(), "models": {}}
    for name in arguments.model or ["smollm2", "gemma"]:
        path = getattr(models, name)()
        measured = measure(path, arguments.repeats, arguments.processes)
        result["models"][name] = {"file": path.name, **measured}
    print(json.dumps(result))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
