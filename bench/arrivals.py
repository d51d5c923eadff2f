"""Requests that arrive when they arrive, whether or not earlier ones are done: an open load.

What makes a service slow is not how fast a batch is, but who comes while it runs. A thread of the
model runs the steps; this one submits at given moments and never waits for a result.
"""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inferlib import Model, OverloadedError

from . import models

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferlib import Completion, Handle


@dataclass(frozen=True, slots=True)
class Arrival:
    """What became of one request.

    Attributes:
        at: Seconds since the load began.
        submit_seconds: How long ``submit`` took.
        completion: Its result; ``None`` if it was refused.
        end: Seconds since the load began when it ended; of a refused one when it was refused.
    """

    at: float
    submit_seconds: float
    completion: Completion | None
    end: float


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments of arrival, ``rate`` per second on average, as independent as calls are."""
    generator = random.Random(seed)  # noqa: S311  # repeatable, not secret
    moments, now = [], generator.expovariate(rate)
    while now < seconds:
        moments.append(now)
        now += generator.expovariate(rate)
    return moments


def prompt(model: Model, num_tokens: int, seed: int) -> list[int]:
    """Random tokens: no two prompts share a prefix, so none is found in memory."""
    generator = random.Random(seed)  # noqa: S311  # repeatable, not secret
    most = model.tokenizer.vocab_size
    return [generator.randrange(most // 20, most) for _ in range(num_tokens)]


def small_model(**options: Any) -> Model:  # as from_pretrained takes them
    """SmolLM2, with a thread of its own that runs the steps."""
    path = models.smollm2()
    return Model.from_pretrained(path, driver="thread", max_model_len=1024, **options)


def offer(
    model: Model, moments: Sequence[float], num_tokens: int, params: Mapping[str, Any], seed: int
) -> list[Arrival]:
    """Submit a request at each of these moments; all of them, ended."""
    prompts = [prompt(model, num_tokens, seed + 7919 * index) for index in range(len(moments))]
    submitted: list[tuple[float, float, Handle | None]] = []
    begin = time.perf_counter()
    for moment, token_ids in zip(moments, prompts, strict=True):
        time.sleep(max(begin + moment - time.perf_counter(), 0))
        start = time.perf_counter()
        handle: Handle | None = None
        with contextlib.suppress(OverloadedError):
            handle = model.submit(token_ids, **params)
        submitted.append((start - begin, time.perf_counter() - start, handle))
    return [
        _ended(at, seconds, handle.result() if handle else None)
        for at, seconds, handle in submitted
    ]


def _ended(at: float, seconds: float, completion: Completion | None) -> Arrival:
    total = completion.timings.total if completion else seconds
    return Arrival(at=at, submit_seconds=seconds, completion=completion, end=at + total)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all does not exceed; NaN of none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
