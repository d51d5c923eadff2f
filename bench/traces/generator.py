"""Traces with the statistics of Mooncake's, without shipping them.

A few tables of quantiles, measured on the real traces, give lengths, arrivals and the rate of
prefix hits that a scheduler's benchmark depends on. ``CHAT`` is conversations that grow behind one
system prompt that all share; ``DOCUMENTS`` several questions on one long text.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from dataclasses import dataclass

from .rows import HASH_BLOCK, TraceRow

Quantiles = tuple[float, ...]
LEVELS: Quantiles = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
LONGEST_PROMPT = 126_195
MAX_SHARE_OF_GAPS = 0.9
"""Of the trace: turns were counted inside a window, so all turns of a conversation must fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What a trace is drawn from; quantiles are at ``LEVELS``.

    Attributes:
        rows_per_second: Requests.
        grid_ms: Times are multiples of this.
        shared_blocks: First blocks that all rows share.
        turns: Share of conversations with 1, 2, … requests.
        first_of_one: Prompt tokens of a conversation's only request.
        first_of_more: Those of the first of several.
        gap_seconds: Between a conversation's requests.
        extra: Tokens that a follow-up has beyond the prompt and the answer before it.
        cut_share: Share of follow-ups that keep only a part of the prefix.
        cut: Which part.
        cut_draws_anew: Whether such a follow-up's length is drawn like a first one's.
        output: Generated tokens.
    """

    rows_per_second: float
    grid_ms: int
    shared_blocks: int
    turns: tuple[float, ...]
    first_of_one: Quantiles
    first_of_more: Quantiles
    gap_seconds: Quantiles
    extra: Quantiles
    cut_share: float
    cut: Quantiles
    cut_draws_anew: bool
    output: Quantiles


CHAT = Preset(
    rows_per_second=3.4,
    grid_ms=3000,
    shared_blocks=1,
    turns=(
        *(0.6936, 0.1778, 0.0629, 0.0271, 0.0159, 0.0075, 0.0037, 0.0035),
        *(0.0014, 0.0022, 0.0007, 0.0003, 0.0005, 0.0003, 0.0013, 0.0014),
    ),
    first_of_one=(891, 893, 896, 900, 1011, 4721, 12104, 25690, 40327, 94410, 126195),
    first_of_more=(892, 1034, 1130, 1310, 2900, 6850, 14700, 25600, 34500, 76000, 122891),
    gap_seconds=(3, 12, 27, 39, 66, 123, 267, 474, 606, 1458, 3030),
    extra=(-1291, -313, -22, -5, 9, 26, 356, 4203, 6922, 16705, 91467),
    cut_share=0.15,
    cut=(0.015, 0.031, 0.048, 0.067, 0.108, 0.194, 0.378, 0.577, 0.758, 0.875, 0.95),
    cut_draws_anew=True,
    output=(1, 3, 10, 24, 156, 350, 472, 597, 698, 1120, 2000),
)
DOCUMENTS = Preset(
    rows_per_second=3.9,
    grid_ms=1,
    shared_blocks=0,
    turns=(
        *(0.8155, 0.0339, 0.0299, 0.0271, 0.0204, 0.0249, 0.0145, 0.0113, 0.0068),
        *(0.0032, 0.0014, 0.0023, 0.0018, 0.0027, 0.0010, 0.0010, 0.0010, 0.0015),
    ),
    first_of_one=(13, 16, 19, 22, 34, 169, 14221, 19625, 24429, 41155, 134773),
    first_of_more=(13, 300, 1500, 3600, 9800, 19500, 35000, 45000, 53500, 64000, 191374),
    gap_seconds=(0.003, 0.369, 2.17, 4.75, 16.6, 57.6, 147, 286, 397, 608, 793),
    extra=(-964, -382, -193, -118, -65, -21, -5, 67, 248, 908, 1812),
    cut_share=0.23,
    cut=(0.5, 0.8, 0.83, 0.86, 0.9, 0.93, 0.96, 0.98, 0.985, 0.99, 1.0),
    cut_draws_anew=False,
    output=(1, 2, 2, 4, 11, 69, 250, 389, 519, 769, 893),
)
PRESETS = {"chat": CHAT, "documents": DOCUMENTS}


def draw(rng: random.Random, quantiles: Quantiles) -> float:
    """Invert the distribution; linear in the logarithm where both ends are positive."""
    level = rng.random()
    i = min(bisect_right(LEVELS, level), len(LEVELS) - 1)
    low, high = quantiles[i - 1], quantiles[i]
    share = (level - LEVELS[i - 1]) / (LEVELS[i] - LEVELS[i - 1])
    return float(low * (high / low) ** share if low > 0 else low + (high - low) * share)


def generate(preset: Preset, num_rows: int, seed: int) -> list[TraceRow]:
    """``num_rows`` requests in order of time; the same for the same arguments."""
    rng = random.Random(seed)  # noqa: S311  # repeatable, not secret
    next_id = preset.shared_blocks
    duration = num_rows / preset.rows_per_second
    rows: list[TraceRow] = []
    while len(rows) < num_rows:
        conversation = _conversation(preset, rng, duration, next_id)
        next_id = max(next_id, 1 + max(i for row in conversation for i in row.hash_ids))
        rows += conversation
    rows.sort(key=lambda row: row.timestamp_ms)
    return rows[:num_rows]


def _conversation(
    preset: Preset, rng: random.Random, duration: float, next_id: int
) -> list[TraceRow]:
    turns = rng.choices(range(1, len(preset.turns) + 1), preset.turns)[0]
    gaps = [draw(rng, preset.gap_seconds) for _ in range(turns - 1)]
    if gaps:
        factor = min(1.0, MAX_SHARE_OF_GAPS * duration / sum(gaps))
        gaps = [gap * factor for gap in gaps]
    when = rng.uniform(0, duration - sum(gaps))
    length = draw(rng, preset.first_of_one if turns == 1 else preset.first_of_more)
    kept = list(range(preset.shared_blocks))
    rows: list[TraceRow] = []
    for gap in [*gaps, 0.0]:
        count = int(min(max(length, 1), LONGEST_PROMPT))
        output = max(1, int(draw(rng, preset.output)))
        needed = math.ceil(count / HASH_BLOCK)
        ids = kept[:needed]
        fresh = needed - len(ids)
        ids += range(next_id, next_id + fresh)
        next_id += fresh
        row = TraceRow(
            timestamp_ms=int(when * 1000) // preset.grid_ms * preset.grid_ms,
            input_length=count,
            output_length=output,
            hash_ids=tuple(ids),
        )
        rows.append(row)
        num_full = count // HASH_BLOCK
        kept, length = ids[:num_full], float(count)
        if rng.random() < preset.cut_share:  # edited history, or another question
            num_kept = int(num_full * draw(rng, preset.cut))
            kept = kept[: max(preset.shared_blocks, num_kept)]
            if preset.cut_draws_anew:
                length = draw(rng, preset.first_of_more) - output
        length += output + draw(rng, preset.extra)
        when += gap
    return rows
