"""Medians and ratios of what the rounds gave; rounds without a value count for nothing."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Figure(TypedDict):
    """One cell: its middle, its best, and every round."""

    median: float
    best: float
    rounds: list[float | None]


def figure(
    rounds: Sequence[float | None], *, best: Callable[[Sequence[float]], float] = max
) -> Figure | None:
    """Summarise the rounds of one cell; ``None`` if there is not one value."""
    values = [value for value in rounds if value is not None]
    if not values:
        return None
    return Figure(median=statistics.median(values), best=best(values), rounds=list(rounds))


def ratio(first: Figure, second: Figure, *, scale: float = 1.0) -> float | None:
    """How many times ``second`` is ``first`` times ``scale``: the median of each round's ratio.

    ``None`` if no round has both.
    """
    ratios = [
        scale * a / b
        for a, b in zip(first["rounds"], second["rounds"], strict=False)
        if a is not None and b is not None and b > 0
    ]
    return statistics.median(ratios) if ratios else None
