"""How one vector is made of the hidden states of a text's tokens."""

from __future__ import annotations

from typing import Literal

Pooling = Literal["cls", "mean", "last", "max"]
"""The first token's hidden state, the mean of all, the last token's, or the largest of each."""


def first_row(pooling: Pooling, num_tokens: int) -> int:
    """The first token whose hidden state is looked at."""
    return num_tokens - 1 if pooling == "last" else 0
