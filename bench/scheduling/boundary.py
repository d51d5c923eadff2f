"""What a step costs from Python: ``schedule`` and ``update`` of ``inferlib._core``.

The engine calls each once per step, around the forward pass. Everything between is in Rust; what
is measured here beyond its own time is the boundary: the GIL released and taken again, two small
objects, and the events' arrays.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time

import numpy as np

from inferlib import _core

VOCAB_SIZE = 131_072
BLOCK_SIZE = 16
CONTEXT = 128
WARM_UP = 32


class Decoding:
    """A scheduler whose requests all decode."""

    def __init__(self, running: int, num_steps: int) -> None:
        longest = CONTEXT + 2 * BLOCK_SIZE + WARM_UP + num_steps + running
        self.running = running
        self.scheduler = _core.Scheduler(
            groups=[(running * (longest // BLOCK_SIZE + 2), None)],
            max_num_seqs=running,
            max_num_batched_tokens=max(running, 16_384),
            max_model_len=VOCAB_SIZE,
            vocab_size=VOCAB_SIZE,
        )
        params = _core.SamplingParams(
            max_tokens=100_000, eos_token_ids=[2, 9], stop_token_ids=[11, 12, 13]
        )
        for seed in range(running):
            count = CONTEXT + seed % BLOCK_SIZE
            prompt = (np.arange(count) * 31 + seed * 7919) % 100_003
            self.scheduler.submit(prompt.astype(np.int32), params)
        while self.scheduler.stats().num_running_seqs < running:
            self.step()
        for _ in range(WARM_UP):
            self.step()

    def step(self) -> int:
        """One step; ns in the scheduler.

        The executor's result is made in between and not measured: the CPU's comes from Rust.
        """
        start = time.perf_counter_ns()
        batch = self.scheduler.schedule(0.0)
        scheduled = time.perf_counter_ns() - start
        output = _core.StepOutput(np.full(batch.num_sampled, 7, dtype=np.int32))
        del batch
        start = time.perf_counter_ns()
        events = self.scheduler.update(output, 0.0)
        taken = scheduled + time.perf_counter_ns() - start
        assert len(events.token_ids) <= self.running
        return taken

    def objects(self) -> int:
        """Blocks that Python's allocator has given out after a step and had not before."""
        output = _core.StepOutput(np.full(self.running, 7, dtype=np.int32))
        before = sys.getallocatedblocks()  # takes long, and empties the caches
        batch = self.scheduler.schedule(0.0)
        events = self.scheduler.update(output, 0.0)
        found = sys.getallocatedblocks() - before
        assert batch.num_sampled == len(events.token_ids)
        return found


def measure(running: int, num_steps: int = 256) -> tuple[float, int]:
    """Median ns of a step from Python, and the objects that one makes."""
    decoding = Decoding(running, num_steps + 1)
    gc.collect()
    times = [decoding.step() for _ in range(num_steps)]
    return statistics.median(times), decoding.objects()
