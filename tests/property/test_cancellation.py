"""Cancelled at random points, requests and sequences leave nothing behind: no block, no thread, no
descriptor; and whoever was not cancelled gets what it gets alone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import threading
from pathlib import Path

import pytest
from bench.cancellations import Resources, lost, measure

from inferlib.testing import tiny_model

GREEDY = {"temperature": 0, "ignore_eos": True}
DESCRIPTORS = Path("/proc/self/fd")


def prompt(generator: random.Random) -> list[int]:
    start = generator.randrange(3)  # few beginnings, so that much is shared
    return [start] * generator.randrange(1, 60) + [generator.randrange(250)]


def cancel_a_handle(model, generator):
    handle = model.submit(prompt(generator), max_tokens=40, n=generator.randrange(1, 4), **GREEDY)
    with contextlib.suppress(TimeoutError):
        handle.result(timeout=generator.random() * 0.01)
    handle.cancel()


def leave_a_stream(model, generator):
    stream = model.stream(prompt(generator), max_tokens=40, **GREEDY)
    for _ in range(generator.randrange(4)):
        next(stream, None)
    if generator.random() < 0.5:
        stream.close()


def leave_a_sequence(model, generator):
    sequence = model.prefill(prompt(generator))
    forks = sequence.fork(generator.randrange(1, 4))
    for fork in forks:
        stream = fork.stream(max_tokens=20, **GREEDY)
        for _ in range(generator.randrange(3)):
            next(stream, None)
        before = len(sequence)
        stream.close()
        assert len(fork) in (before, before + 20)
    if generator.random() < 0.5:
        sequence.rewind(generator.randrange(len(sequence)))
        sequence.extend(prompt(generator))
        sequence.close()


def cancel_a_task(model, generator):
    async def run():
        calls = [
            model.agenerate(prompt(generator), max_tokens=40, **GREEDY),
            model.achoose(prompt(generator), [[1], [2, 3]]),
            model.aprefill(prompt(generator)),
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(generator.random() * 0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


OPERATIONS = (cancel_a_handle, leave_a_stream, leave_a_sequence, cancel_a_task)


def resources():
    gc.collect()
    descriptors = len(os.listdir(DESCRIPTORS)) if DESCRIPTORS.exists() else 0  # noqa: PTH208
    return threading.active_count(), descriptors


@pytest.mark.parametrize("seed", range(4))
def test_nothing_stays_behind(seed):
    generator = random.Random(seed)
    with tiny_model(max_position_embeddings=256, kv_cache="512 tokens") as model:
        expected = model.generate([7] * 50, max_tokens=20, **GREEDY).token_ids
        before = resources()
        for _ in range(40):
            generator.choice(OPERATIONS)(model, generator)
            model._engine._scheduler.check_integrity()
        assert model.generate([7] * 50, max_tokens=20, **GREEDY).token_ids == expected
        assert model._engine._driver.wait_idle(timeout_seconds=30)
        assert resources() == before
        stats = model.stats()
        assert (stats["running_sequences"], stats["waiting_sequences"]) == (0, 0)
        assert stats["held_sequences"] == 0
        assert stats["free_blocks"] == stats["total_blocks"]


def test_threads_that_cancel_do_not_disturb_each_other():
    with tiny_model(max_position_embeddings=256, kv_cache="512 tokens") as model:
        expected = model.generate([7] * 50, max_tokens=30, **GREEDY).token_ids
        failures = []

        def disturb(seed):
            generator = random.Random(100 + seed)
            try:
                for _ in range(15):
                    generator.choice(OPERATIONS)(model, generator)
            except BaseException as error:  # told below
                failures.append(error)

        threads = [threading.Thread(target=disturb, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            assert model.generate([7] * 50, max_tokens=30, **GREEDY).token_ids == expected
        for thread in threads:
            thread.join()
        assert not failures
        gc.collect()
        assert model._engine._driver.wait_idle(timeout_seconds=30)
        stats = model.stats()
        assert stats["held_sequences"] == 0
        assert stats["free_blocks"] == stats["total_blocks"]


def test_some_hundred_requests_given_up_in_every_way_leave_nothing_behind():
    # 100,000 of them, and the memory too: python -m bench.cancellations
    result = measure(400, seed=2)
    kinds = {name for name in result["counts"] if name.startswith("by ")}
    assert len(kinds) == 5
    assert {"while it ran", "while it waited", "after its end"} <= result["counts"].keys()
    assert [problem for problem in result["lost"] if "resident" not in problem] == []


def test_whatever_is_lost_is_told():
    fields = dict.fromkeys(Resources.__slots__, 10)
    before = Resources(**fields)
    assert lost(before, Resources(**fields | {"resident_bytes": 10 + (1 << 20)})) == []
    for name in fields:
        grown = Resources(**fields | {name: 10 + (1 << 20) + 1})
        assert [problem.split(":")[0] for problem in lost(before, grown)] == [name]
