"""How sure a model was of what it wrote: a number per sequence, from its tokens' probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class RunningConfidence:
    """The geometric mean of tokens' probabilities, ``exp(mean(logprobs))``, token by token.

    Sums are taken in order, so that the value behind a token is the same whenever it is asked for.
    It is the inverse of the perplexity.

    Source: Jelinek et al. 1977 (perplexity); Malinin and Gales 2021 (length-normalised sequence
    probability as a measure of confidence).
    """

    def __init__(self) -> None:
        self.num_tokens: int = 0
        self._total = 0.0

    def add(self, logprob: float) -> None:
        """Take one more token."""
        self.num_tokens += 1
        self._total += logprob

    @property
    def value(self) -> float:
        """From 0 to 1; 1 without tokens."""
        return math.exp(self._total / self.num_tokens) if self.num_tokens else 1.0


def confidence_of(logprobs: Iterable[float]) -> float:
    """Return the geometric mean of tokens' probabilities; 1 without tokens.

    Args:
        logprobs: Natural logarithms, in the order of the tokens.
    """
    confidence = RunningConfidence()
    for logprob in logprobs:
        confidence.add(logprob)
    return confidence.value
