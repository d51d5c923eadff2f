"""What a million short requests leave behind, and a hundred of each thing that hosts do.

    python -m bench.endurance [--requests 1000000] [--no-repetitions] [--json FILE]

Requests of one to three tokens go through a tiny model: in lists, as streams, submitted and
awaited. Afterwards free blocks, resident memory, threads and file descriptors must be what they
were after a twentieth of them, resident memory within 1 MB. Then the tests that repeat things a
hundred times are run: Ctrl-C in a real Jupyter kernel, forks, spawned processes, collected cycles,
re-entrant callbacks, abandoned iterators, ends of the interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import machine
from bench.cancellations import lost, resources
from inferlib.testing import tiny_model

if TYPE_CHECKING:
    import inferlib

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "endurance.json"
LIST = 32
WARM_UP = 0.05


class ShortRequests:
    """Makes requests that end by themselves; ``counts`` says how."""

    def __init__(self, model: inferlib.Model) -> None:
        self.counts: Counter[str] = Counter()
        self._model = model
        self._random = random.Random(1)  # noqa: S311  # repeatable, not secret

    @property
    def num_requests(self) -> int:
        """So far."""
        return sum(self.counts.values())

    def group(self) -> None:
        """A list's worth of one kind; most are lists."""
        kinds = [self._list] * 5 + [self._streams, self._handles, self._tasks]
        self._random.choice(kinds)()

    def _prompts(self) -> list[list[int]]:
        return [
            [self._random.randrange(3, 250) for _ in range(self._random.randrange(1, 8))]
            for _ in range(LIST)
        ]

    def _options(self) -> dict[str, Any]:
        return {"max_tokens": self._random.randrange(1, 4), "temperature": 0}

    def _list(self) -> None:
        self._model.generate(self._prompts(), progress=False, **self._options())
        self.counts["in lists"] += LIST

    def _streams(self) -> None:
        for prompt in self._prompts():
            for _ in self._model.stream(prompt, **self._options()):
                pass
        self.counts["as streams"] += LIST

    def _handles(self) -> None:
        for handle in [self._model.submit(each, **self._options()) for each in self._prompts()]:
            handle.result()
        self.counts["submitted"] += LIST

    def _tasks(self) -> None:
        async def run() -> None:
            calls = [self._model.agenerate(each, **self._options()) for each in self._prompts()]
            await asyncio.gather(*calls)

        asyncio.run(run())
        self.counts["awaited"] += LIST


def measure(num_requests: int) -> dict[str, Any]:
    """So many, behind a warm-up."""
    with tiny_model(max_position_embeddings=64, kv_cache="1k tokens", max_num_seqs=LIST) as model:
        requests = ShortRequests(model)
        while requests.num_requests < num_requests * WARM_UP:
            requests.group()
        requests.counts.clear()
        before, start = resources(model), time.perf_counter()
        while requests.num_requests < num_requests:
            requests.group()
        seconds, after = time.perf_counter() - start, resources(model)
    return {
        "requests": requests.num_requests,
        "seconds": seconds,
        "counts": dict(requests.counts),
        "before": asdict(before),
        "after": asdict(after),
        "lost": lost(before, after),
    }


def repetitions() -> dict[str, float]:
    """Seconds of each test that does something a hundred times; fails if one does."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "tests/boundary"]
        subprocess.run([*command, f"--junitxml={report}"], cwd=ROOT, check=True)
        cases = ET.parse(report).iter("testcase")  # noqa: S314  # pytest's own
        return {str(case.get("name")): float(case.get("time", 0)) for case in cases}


def main() -> None:
    """Run, print, store; fail if something stayed behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--no-repetitions", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    short = measure(arguments.requests)
    for key, value in short.items():
        print(f"{key:20s} {value}")
    hundred = {} if arguments.no_repetitions else repetitions()
    described = {"machine": machine.describe(), "short requests": short, "a hundred of": hundred}
    arguments.json.write_text(json.dumps(described, indent=1) + "\n", encoding="utf8")
    if short["lost"]:
        sys.exit("something stayed behind")


if __name__ == "__main__":
    main()
