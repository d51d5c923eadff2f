"""What does a step of the scheduler cost, and what a block?

    python -m bench.scheduler [--quick] [--trace FILE] [--rows 1000] [--blocks 60000]
                              [--vllm ENVIRONMENT] [--nano-vllm CHECKOUT] [--json FILE]

The public interface of ``rust/core`` with an executor that only pretends, then the same steps from
Python. Then a trace like Mooncake's conversations, all its requests queued at time 0: 256
sequences, 8,192 tokens a step. A trace of one's own is Mooncake's ``.jsonl`` or Azure's ``.csv``.
Each figure is a median over steps, that of a replay is processor time; each measurement is made
several times, and the one that others on the machine disturbed least counts. The last line is all
of it as JSON.

nano-vllm (MIT, commit bb823b3; needs xxhash) and vLLM (0.32.0) replay the same trace, one process
each: the same prompts, block size, limits and number of usable blocks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from bench import machine
from bench.scheduling import boundary, core
from bench.scheduling.targets import table
from bench.traces.generator import CHAT, generate
from bench.traces.reading import read
from bench.traces.rows import as_lines

RESULTS = Path(__file__).parent / "results" / "scheduler.json"
RUNNING = (256, 1024, 10_240)
KINDS_OF_ROWS = ("penalties", "logprobs", "speculation")
POLICIES = ("priority", "fair", "deadline")
TRACE_ROWS = 12_031
"""A conversation's turns lie within the trace: the first 1,000 rows of a longer one are others."""
SEED = 1
BATCH = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}


class Measuring:
    """The example in Rust, each measurement several times."""

    def __init__(self, runs: int) -> None:
        self._example = core.build()
        self._runs = runs

    def best(self, kind: str, by: str, *, stdin: str = "", **options: int | str) -> core.Figures:
        """The least disturbed of several runs."""
        lines = []
        for _ in range(self._runs):
            lines += core.measure(self._example, kind, stdin=stdin, **options)
        return core.least_disturbed(lines, by)


def undisturbed(line: core.Figures) -> float:
    """ns of a step: the median, or the mean of processor time where others were in the way.

    A step of some milliseconds is longer than a busy machine gives to anybody at a time.
    """
    return min(line["step_ns"], line.get("processor_step_ns", line["step_ns"]))


def steps(measuring: Measuring) -> core.Figures:
    """Steps of decoding requests, and what further wishes cost."""
    found: core.Figures = {}
    for running in RUNNING:
        options = {"running": running, "steps": 64 if running > 2000 else 256}
        line = measuring.best("steps", "step_ns", **options)
        found[f"step_us_{running}"] = undisturbed(line) / 1e3
        found[f"ns_per_request_step_{running}"] = undisturbed(line) / running
        found[f"step_us_wall_{running}"] = line["step_ns"] / 1e3
        found[f"step_us_p99_{running}"] = line["step_ns_p99"] / 1e3
        found[f"step_us_max_{running}"] = line["step_ns_max"] / 1e3
        found[f"schedule_us_{running}"] = line["schedule_ns"] / 1e3
        found[f"update_us_{running}"] = line["update_ns"] / 1e3
    for rows in KINDS_OF_ROWS:
        line = measuring.best("steps", "step_ns", running=1024, rows=rows)
        found[f"ns_per_request_step_1024_{rows}"] = undisturbed(line) / 1024
    for policy in POLICIES:
        line = measuring.best("steps", "step_ns", running=1024, policy=policy)
        found[f"ns_per_request_step_1024_{policy}"] = undisturbed(line) / 1024
    line = measuring.best("steps", "step_ns", running=256, context=2048)
    found["ns_per_request_step_256_context_2048"] = undisturbed(line) / 256
    return found


def blocks(measuring: Measuring) -> core.Figures:
    """Single operations."""
    pool = measuring.best("blocks", "alloc_ns")
    prefix = measuring.best("prefix", "lookup_ns")
    scattered = measuring.best("prefix", "lookup_ns", order="scattered")
    admission = measuring.best("admission", "cold_ns")
    fork = measuring.best("fork", "fork_ns")
    cancel = measuring.best("cancel", "cancel_ns")
    memory = measuring.best("memory", "bytes_per_block")
    return {
        "block_alloc_ns": pool["alloc_ns"],
        "block_touch_ns": pool["touch_ns"],
        "block_free_ns": pool["free_ns"],
        "hash_ns_per_block": prefix["hash_ns"],
        "prefix_lookup_ns_per_block": prefix["lookup_ns"],
        "prefix_lookup_scattered_ns_per_block": scattered["lookup_ns"],
        "publish_evicting_ns": prefix["alloc_evicting_ns"] + prefix["publish_evicting_ns"],
        "admit_50k_prompt_ms": admission["cold_ns"] / 1e6,
        "admit_50k_prompt_hit_ms": admission["hit_ns"] / 1e6,
        "fork_2000_tokens_us": fork["fork_ns"] / 1e3,
        "cancel_2000_tokens_us": cancel["cancel_ns"] / 1e3,
        "bytes_per_block": memory["bytes_per_block"],
        "bytes_per_block_in_use": memory["bytes_per_block_in_use"],
    }


def from_python(runs: int, found: core.Figures) -> core.Figures:
    """The boundary: a step from Python without the same step in Rust."""
    figures: core.Figures = {}
    objects = {}
    for running in (256, 1024):
        measured = [boundary.measure(running) for _ in range(runs)]
        step = min(time for time, _ in measured) / 1e3
        figures[f"python_step_us_{running}"] = step
        figures[f"boundary_us_{running}"] = step - found[f"step_us_{running}"]
        objects[running] = min(count for _, count in measured)
    figures["python_objects_per_step"] = objects[256]
    figures["python_objects_per_step_growth"] = (objects[1024] - objects[256]) / (1024 - 256)
    return figures


def replay(measuring: Measuring, lines: str, num_blocks: int) -> core.Figures:
    """Our own replay of a trace."""
    line = measuring.best("replay", "seconds", stdin=lines, blocks=num_blocks, **BATCH)
    renamed = {f"replay_{name}": value for name, value in line.items() if name != "kind"}
    per_step = line["schedule_seconds"] + line["update_seconds"]
    renamed["replay_ns_per_request_step"] = per_step / line["request_steps"] * 1e9
    return renamed


def peer(python: Path, script: str, lines: str, *arguments: str) -> core.Figures:
    """Another scheduler's replay of the same trace, in a process of its own."""
    command = [str(python), "-m", f"bench.peers.{script}", *arguments]
    result = subprocess.run(
        command, input=lines, stdout=subprocess.PIPE, text=True, check=True, cwd=core.ROOT
    )
    figures: core.Figures = json.loads(result.stdout.splitlines()[-1])
    return figures


def peers(arguments: argparse.Namespace, lines: str) -> dict[str, core.Figures]:
    """Whoever was asked for."""
    found = {}
    if arguments.nano_vllm:
        python = arguments.python or Path(".venv/bin/python")
        given = (str(arguments.nano_vllm.resolve()), str(arguments.blocks))
        found["nano-vllm"] = peer(python, "nano_vllm_scheduler", lines, *given)
    if arguments.vllm:
        python = arguments.vllm / "bin" / "python"
        found["vllm"] = peer(python, "vllm_scheduler", lines, str(arguments.blocks))
    return found


def show_replays(found: core.Figures, others: dict[str, core.Figures]) -> None:
    """Ours beside the peers'."""
    names = ("seconds", "request_steps", "steps", "hit_tokens", "preemptions")
    ours = {name: found[f"replay_{name}"] for name in names}
    for name, figures in {"inferlib": ours, **others}.items():
        times = figures["seconds"] / ours["seconds"]
        counts = ", ".join(f"{figures[key]:,.0f} {key.replace('_', ' ')}" for key in names[1:])
        print(f"  {name:10s} {figures['seconds']:8.3f} s  {times:6.1f}×  {counts}")  # noqa: RUF001


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="each measurement once")
    parser.add_argument("--trace", type=Path, help="Mooncake's .jsonl or Azure's .csv")
    parser.add_argument("--rows", type=int, default=1000, help="requests of the trace")
    parser.add_argument("--blocks", type=int, default=60_000, help="one of them is never used")
    parser.add_argument("--vllm", type=Path, help="environment with vLLM 0.32.0")
    parser.add_argument("--nano-vllm", type=Path, help="checkout of nano-vllm, commit bb823b3")
    parser.add_argument("--python", type=Path, help="interpreter with xxhash, for nano-vllm")
    parser.add_argument("--json", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    arguments = parsed()
    trace = read(arguments.trace) if arguments.trace else generate(CHAT, TRACE_ROWS, SEED)
    lines = as_lines(trace[: arguments.rows])
    runs = 1 if arguments.quick else 5
    measuring = Measuring(runs)
    figures = steps(measuring)
    figures |= blocks(measuring)
    figures |= from_python(runs, figures)
    figures |= replay(measuring, lines, arguments.blocks)
    others = peers(arguments, lines)

    print(table(figures).text())
    print(f"\nthe first {arguments.rows:,} requests of {arguments.trace or 'a generated trace'}:")
    show_replays(figures, others)
    result: dict[str, Any] = {"machine": machine.describe(), "trace": str(arguments.trace or SEED)}
    result |= figures | {"peers": others}
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
