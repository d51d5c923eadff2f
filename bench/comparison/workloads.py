"""What is measured: the same token ids for every engine, new ones in every round."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_ID, LAST_ID = 100, 20_000
"""Ordinary tokens in every vocabulary here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One row of the comparison.

    Attributes:
        name: In results.
        title: In tables.
        ask: Of the protocol: ``prefill``, ``decode`` or ``serve``.
        num_prompts: Sequences.
        prompt_tokens: Length of each.
        num_tokens: Tokens generated for each.
        prompt: Fixed token ids instead of random ones.
    """

    name: str
    title: str
    ask: str
    num_prompts: int
    prompt_tokens: int
    num_tokens: int = 0
    prompt: tuple[int, ...] | None = None

    @property
    def is_repetitive(self) -> bool:
        """Whether the text repeats itself: then drafting is the question."""
        return self.prompt is not None

    def arguments(self, seed: int) -> dict[str, object]:
        """What an engine is asked in the round of this seed."""
        random = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        shape = (self.num_prompts, self.prompt_tokens)
        prompts = random.integers(FIRST_ID, LAST_ID, shape).tolist()
        if self.prompt is not None:
            prompts = [list(self.prompt)]
        if self.ask == "prefill":
            return {"prompt": prompts[0]}
        return {"prompts": prompts, "num_tokens": self.num_tokens}

    def tokens_per_second(self, seconds: float) -> float:
        """What an engine's answer means."""
        if self.ask == "prefill":
            return self.prompt_tokens / seconds
        if self.ask == "decode":  # seconds are per token of each sequence
            return self.num_prompts / seconds
        return self.num_prompts * (self.prompt_tokens + self.num_tokens) / seconds


def _prefill(length: int) -> Workload:
    return Workload(
        name=f"prefill_{length}",
        title=f"prefill, {length:,} tokens",
        ask="prefill",
        num_prompts=1,
        prompt_tokens=length,
    )


def _decode(context: int) -> Workload:
    return Workload(
        name=f"decode_{context}",
        title=f"decode, 1 sequence after {context:,}",
        ask="decode",
        num_prompts=1,
        prompt_tokens=context,
        num_tokens=48,
    )


def _batch(size: int) -> Workload:
    return Workload(
        name=f"batch_{size}",
        title=f"decode, {size} sequences after 64",
        ask="decode",
        num_prompts=size,
        prompt_tokens=64,
        num_tokens=32,
    )


_MIXED = Workload(
    name="mixed_64",
    title="64 requests of 96 + 64 at once",
    ask="serve",
    num_prompts=64,
    prompt_tokens=96,
    num_tokens=64,
)
WORKLOADS: Mapping[str, tuple[Workload, ...]] = {
    "smollm2": (
        _prefill(128),
        _prefill(512),
        _prefill(1024),
        _decode(16),
        _decode(1024),
        _batch(8),
        _batch(32),
        _MIXED,
    ),
    "gemma": (_prefill(512), _decode(16), _decode(1024), _batch(8), _batch(32)),
}
"""By model."""
SLOW = ("mixed_64",)
"""Not part of the warm-up."""


def repetition(name: str, prompt: list[int]) -> Workload:
    """Decode after a fixed text whose continuation repeats it."""
    return Workload(
        name=f"repetitive_{name}",
        title=f"decode, repetitive text ({name.replace('_', ' ')})",
        ask="decode",
        num_prompts=1,
        prompt_tokens=len(prompt),
        num_tokens=160,
        prompt=tuple(prompt),
    )
