"""From hidden states of a text's tokens to one vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Pooling = Literal["cls", "mean", "last", "max"]
"""The first token's hidden state, the mean of all, the last token's, or the largest of each."""

SMALLEST_NORM = 1e-12


def first_row(pooling: Pooling, num_tokens: int) -> int:
    """The first token whose hidden state is looked at."""
    return num_tokens - 1 if pooling == "last" else 0


def pool(rows: Floats, pooling: Pooling) -> Floats:
    """Make one vector of hidden states.

    Args:
        rows: ``[tokens, hidden_size]``, from ``first_row`` on.
        pooling: How.

    Returns:
        ``[hidden_size]``. A mean is summed in float64, token by token, so that it depends on
        nothing but the rows.
    """
    if pooling == "mean":
        return cast("Floats", rows.mean(axis=0, dtype=np.float64).astype(np.float32))
    if pooling == "max":
        return cast("Floats", rows.max(axis=0))
    return cast("Floats", rows[0 if pooling == "cls" else -1].copy())


def finish(vector: Floats, *, dimensions: int | None, normalize: bool) -> Floats:
    """Keep the first ``dimensions`` elements, then bring the length to 1 if asked to.

    Source: Kusupati et al. 2022 (Matryoshka representations).
    """
    vector = vector[:dimensions]
    if not normalize:
        return vector
    wide = vector.astype(np.float64)
    norm = max(float(np.sqrt(np.sum(wide * wide))), SMALLEST_NORM)
    return (wide / norm).astype(np.float32)
