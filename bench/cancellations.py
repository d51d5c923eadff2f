"""Does a cancelled request leave anything behind?

    python -m bench.cancellations [--requests 100000] [--seed 1] [--json FILE]

Requests of a tiny model are given up at random points: while they wait, between chunks of their
prompts, while they decode, when they have ended; by ``cancel``, by closing or dropping a stream, by
cancelling an asyncio task, by closing a sequence; alone and with others that run on. Afterwards
free blocks, resident memory, threads and file descriptors must be what they were, resident memory
within 1 MB. What others would have got is checked along the way.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import resource
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine
from inferlib.testing import tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable

    import inferlib

RESULTS = Path(__file__).parent / "results" / "cancellations.json"
GREEDY = {"temperature": 0, "ignore_eos": True}
WITNESS = {"prompt": [7] * 50, "max_tokens": 20, **GREEDY}
GROUP = 12
"""Requests that run together."""
WARM_UP = 0.2
"""Share of the requests after which everything has its final size."""
MOST_MEMORY = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What could be lost.

    Attributes:
        free_blocks: KV blocks that nobody uses.
        held_sequences: Sequences between requests.
        requests: In the scheduler, running or waiting.
        threads: Of this process, Python's and Rust's.
        descriptors: Open files.
        resident_bytes: Memory.
    """

    free_blocks: int
    held_sequences: int
    requests: int
    threads: int
    descriptors: int
    resident_bytes: int


def resources(model: inferlib.Model) -> Resources:
    """Of this process, now."""
    gc.collect()
    stats = model.stats()
    status = Path("/proc/self/status").read_text(encoding="utf8")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return Resources(
        free_blocks=stats["free_blocks"],
        held_sequences=stats["held_sequences"],
        requests=stats["running_sequences"] + stats["waiting_sequences"],
        threads=int(fields["Threads"]),
        descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        resident_bytes=int(fields["VmRSS"].split()[0]) * 1024,
    )


def lost(before: Resources, after: Resources) -> list[str]:
    """What is not as it was, as sentences."""
    problems = []
    for name, old in asdict(before).items():
        new = getattr(after, name)
        slack = MOST_MEMORY if name == "resident_bytes" else 0
        if abs(new - old) > slack:
            problems.append(f"{name}: {old:,} before, {new:,} after")
    return problems


class Cancelling:
    """Makes requests and gives them up; ``counts`` says how, and when."""

    def __init__(self, model: inferlib.Model, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._model = model
        self._random = random.Random(seed)  # noqa: S311  # repeatable, not secret
        self._expected = model.generate(**WITNESS).token_ids

    @property
    def num_cancelled(self) -> int:
        """Requests so far."""
        return sum(count for name, count in self.counts.items() if name.startswith("by "))

    def group(self) -> None:
        """Some requests at once, given up one after another, or together."""
        kinds: list[Callable[[], None]] = [self._handles, self._streams, self._tasks]
        kinds += [self._sequences, self._handles, self._streams]
        self._random.choice(kinds)()

    def witness(self) -> None:
        """Somebody who is not cancelled gets what it gets alone."""
        handle = self._model.submit(**WITNESS)
        self._handles()
        assert handle.result().token_ids == self._expected

    def _prompt(self) -> list[int]:
        """Few beginnings, so that much is shared; some longer than a chunk."""
        start, count = self._random.randrange(3), self._random.choice((3, 20, 60, 150))
        count = self._random.randrange(1, count)
        return [start] * count + [self._random.randrange(250)]

    def _options(self) -> dict[str, object]:
        n = self._random.choice((1, 1, 1, 2, 3))
        logprobs = self._random.choice((None, None, 2))
        return {"max_tokens": self._random.randrange(1, 40), "n": n, "logprobs": logprobs, **GREEDY}

    def _advance(self) -> None:
        """Some steps, in which everybody runs: those of a stream that is left."""
        stream = self._model.stream(self._prompt(), **GREEDY, max_tokens=40)
        for _ in range(self._random.choice((0, 1, 1, 2, 3, 5, 10))):
            next(stream, None)
        stream.close()
        self.counts["by close of a stream"] += 1

    def _note(self, handle: inferlib.Handle) -> None:
        if handle.done():
            status = "after its end"
        elif handle.explain().startswith("running"):
            status = "while it ran"
        else:
            status = "while it waited"
        self.counts[status] += 1

    def _handles(self) -> None:
        handles = [self._model.submit(self._prompt(), **self._options()) for _ in range(GROUP)]
        self._random.shuffle(handles)
        while handles:
            self._advance()
            for _ in range(self._random.randrange(1, GROUP)):
                if handles:
                    handle = handles.pop()
                    self._note(handle)
                    handle.cancel()
                    self.counts["by cancel"] += 1

    def _streams(self) -> None:
        streams = [
            self._model.stream(self._prompt(), **self._options() | {"n": 1}) for _ in range(GROUP)
        ]
        for stream in self._random.sample(streams, GROUP // 2):
            for _ in range(self._random.randrange(4)):
                next(stream, None)
        for stream in streams[: GROUP // 2]:
            stream.close()
            self.counts["by close of a stream"] += 1
        del stream
        streams.clear()
        self.counts["by dropping a stream"] += GROUP - GROUP // 2

    def _sequences(self) -> None:
        root = self._model.prefill(self._prompt())
        forks = root.fork(GROUP)
        for fork in forks:
            stream = fork.stream(max_tokens=20, **GREEDY)
            for _ in range(self._random.randrange(3)):
                next(stream, None)
            stream.close()
            self.counts["by close of a sequence's stream"] += 1
            if self._random.random() < 0.5:
                fork.close()
        root.close()

    def _tasks(self) -> None:
        async def run() -> None:
            calls = [self._model.agenerate(self._prompt(), **self._options()) for _ in range(GROUP)]
            tasks = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(self._random.random() * 0.005)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(run())
        self.counts["by cancel of a task"] += GROUP


def measure(num_requests: int, seed: int) -> dict[str, object]:
    """Give up this many requests, after a warm-up of a fifth as many."""
    options = {"max_position_embeddings": 256, "kv_cache": "1k tokens", "max_num_seqs": 10}
    with tiny_model(**options, max_num_batched_tokens=64) as model:
        cancelling = Cancelling(model, seed)
        while cancelling.num_cancelled < num_requests * WARM_UP:
            cancelling.group()
        cancelling.counts.clear()
        before = resources(model)
        start = time.perf_counter()
        num_groups = 0
        while cancelling.num_cancelled < num_requests:
            cancelling.group()
            num_groups += 1
            if num_groups % 100 == 0:
                cancelling.witness()
        seconds = time.perf_counter() - start
        after = resources(model)
    return {
        "requests": cancelling.num_cancelled,
        "seconds": seconds,
        "counts": dict(sorted(cancelling.counts.items())),
        "before": asdict(before),
        "after": asdict(after),
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "lost": lost(before, after),
    }


def main() -> None:
    """Cancel, print, store; fail if something stayed behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments.requests, arguments.seed)
    for key, value in result.items():
        print(f"{key:20s} {value}")
    if arguments.json:
        described = {"machine": machine.describe(), "seed": arguments.seed, **result}
        arguments.json.write_text(json.dumps(described, indent=1) + "\n", encoding="utf8")
    assert threading.active_count() == 1
    if result["lost"]:
        sys.exit("something stayed behind")


if __name__ == "__main__":
    main()
