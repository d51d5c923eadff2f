"""Encoders for tests: golden ones, and the oracle's vectors of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tests.checkpoints import ENCODERS, TINY, reference_executor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CASES = sorted(ENCODERS)


def golden(case: str) -> dict[str, NDArray[np.generic]]:
    """What transformers computed."""
    return dict(np.load(TINY / case / "reference.npz"))


def hidden_states(path: Path, texts: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
    """The last hidden states of each text in float64, ``[tokens, hidden_size]``."""
    executor = reference_executor(path)
    return [
        executor.run({index: text}, capture=["ln_final"]).captures["ln_final"]
        for index, text in enumerate(texts)
    ]


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of the rows of two arrays."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(axis=-1) / norms)
