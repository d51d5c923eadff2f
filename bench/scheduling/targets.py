"""What the scheduler has to reach, and whether it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.comparison.table import NONE, Grid

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Target:
    """One figure.

    Attributes:
        key: Its name in the results.
        title: What it is, with its unit.
        limit: The most that is good enough; the least, if ``at_least``.
        at_least: More is better.
    """

    key: str
    title: str
    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Whether this is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit


TARGETS = (
    Target("ns_per_request_step_256", "schedule + update per request-step, 256 running, ns", 50),
    Target("ns_per_request_step_1024", "… 1,024 running, ns", 50),
    Target("ns_per_request_step_10240", "… 10,240 running, ns", 100),
    Target("step_us_256", "a step, 256 running, µs", 15),
    Target("step_us_1024", "… 1,024 running, µs", 60),
    Target("step_us_10240", "… 10,240 running, µs", 1000),
    Target("boundary_us_256", "Python's share of a step, 256 running, µs", 5 + 2.56),
    Target("boundary_us_1024", "… 1,024 running, µs", 5 + 10.24),
    Target("python_objects_per_step_growth", "Python objects per further request", 0),
    Target("prefix_lookup_ns_per_block", "prefix lookup, verified, ns per block", 20),
    Target("hash_ns_per_block", "hash, ns per block", 15),
    Target("block_alloc_ns", "allocate, ns per block", 30),
    Target("block_touch_ns", "share, ns per block", 10),
    Target("block_free_ns", "free, ns per block", 10),
    Target("publish_evicting_ns", "take, evict and publish, ns per block", 150),
    Target("admit_50k_prompt_ms", "admit a prompt of 50,000 tokens, ms", 0.3),
    Target("fork_2000_tokens_us", "fork a sequence of 2,000 tokens, µs", 5),
    Target("bytes_per_block", "metadata, bytes per block", 110),
    Target("replay_seconds", "replay of 1,000 requests, s", 0.2),
    Target("replay_hit_tokens", "… tokens found in the cache", 816_128, at_least=True),
)
"""``shared/reference/scheduler.md``, section 3. The last: vLLM 0.32's on the same trace."""


def table(figures: Mapping[str, float]) -> Grid:
    """Targets beside what was measured."""
    rows = []
    for target in TARGETS:
        value = figures.get(target.key)
        sign = "≥" if target.at_least else "≤"
        verdict = NONE if value is None else "met" if target.is_met(value) else "missed"
        found = NONE if value is None else number(value)
        rows.append([target.title, f"{sign} {number(target.limit)}", found, verdict])
    return Grid(header=["", "target", "measured", ""], rows=rows, ends_in_text=True)


def number(value: float) -> str:
    """Three significant digits, or all of a large one's."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
