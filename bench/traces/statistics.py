"""What a scheduler notices of a trace, in one table: lengths, arrivals, shared prefixes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .rows import TraceRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStatistics:
    """Figures of a trace.

    Attributes:
        num_rows: Requests.
        seconds: From the first to the last.
        mean_input: Prompt tokens.
        input_quantiles: At 10, 50, 90 and 99 %.
        mean_output: Generated tokens.
        median_output: The same.
        num_blocks: Distinct blocks of 512 tokens.
        hit_rate: Of all blocks, those that an infinite cache would have.
        deep_rows: Share of the rows that find more than one block in it.
    """

    num_rows: int
    seconds: float
    mean_input: float
    input_quantiles: tuple[int, int, int, int]
    mean_output: float
    median_output: int
    num_blocks: int
    hit_rate: float
    deep_rows: float


def statistics_of(rows: Sequence[TraceRow]) -> TraceStatistics:
    """Figures of rows in order of time."""
    seen: set[int] = set()
    num_blocks = num_hits = num_deep = 0
    for row in rows:
        found = next((n for n, i in enumerate(row.hash_ids) if i not in seen), len(row.hash_ids))
        num_blocks += len(row.hash_ids)
        num_hits += found
        num_deep += found > 1
        seen.update(row.hash_ids)
    inputs = sorted(row.input_length for row in rows)
    outputs = sorted(row.output_length for row in rows)
    quantile = [inputs[int(share * (len(rows) - 1))] for share in (0.1, 0.5, 0.9, 0.99)]
    return TraceStatistics(
        num_rows=len(rows),
        seconds=(rows[-1].timestamp_ms - rows[0].timestamp_ms) / 1000,
        mean_input=statistics.fmean(inputs),
        input_quantiles=(quantile[0], quantile[1], quantile[2], quantile[3]),
        mean_output=statistics.fmean(outputs),
        median_output=outputs[(len(outputs) - 1) // 2],
        num_blocks=len(seen),
        hit_rate=num_hits / num_blocks,
        deep_rows=num_deep / len(rows),
    )
