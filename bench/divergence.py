"""How far apart are two models' expectations? KL divergence from lists of the likeliest tokens.

Whole distributions over a large vocabulary are too much to keep for many positions, so each engine
gives its ``top`` best tokens with log-probabilities over the whole vocabulary. The divergence is
summed over the tokens that both lists hold; the rest of the vocabulary counts as one outcome. By
the data processing inequality that is a lower bound, tight where the lists hold the mass
(``tail_mass`` is the mean mass of the reference outside them), and the same for every engine. With
1,000 tokens (llama.cpp against float32, 1,020 positions of SmolLM2) it is 3.6 % below the whole sum
in the mean and equal to it in the 99.9 % quantile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SMALLEST_REST = 1e-12
"""What rounding leaves of a probability that is one minus many others."""


class TopLogprobs:
    """The most likely tokens of every position.

    Attributes:
        token_ids: ``[positions, top]`` int32.
        logprobs: ``[positions, top]`` float32, natural logarithms over the whole vocabulary.
    """

    def __init__(self, token_ids: NDArray[np.int32], logprobs: NDArray[np.float32]) -> None:
        self.token_ids = token_ids
        self.logprobs = logprobs

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def from_logits(cls, logits: NDArray[np.float32], top: int) -> TopLogprobs:
        """The best ``top`` of each row of ``[positions, vocab_size]``."""
        ids = np.argpartition(logits, -top, axis=-1)[:, -top:]
        values = np.take_along_axis(logits, ids, axis=-1).astype(np.float64)
        highest = values.max(-1, keepdims=True)
        exponentials = np.exp(logits - highest.astype(np.float32))
        normaliser = highest + np.log(exponentials.sum(-1, keepdims=True, dtype=np.float64))
        return cls(ids.astype(np.int32), (values - normaliser).astype(np.float32))

    def best(self) -> NDArray[np.int32]:
        """The most likely token of each position, ``[positions]``."""
        index = self.logprobs.argmax(-1)[:, None]
        return np.take_along_axis(self.token_ids, index, axis=-1)[:, 0]

    def save(self, path: str) -> None:
        """Write both arrays."""
        np.savez(path, token_ids=self.token_ids, logprobs=self.logprobs)

    @classmethod
    def load(cls, path: str) -> TopLogprobs:
        """Read what ``save`` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["token_ids"], arrays["logprobs"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """A model against a reference, position by position.

    Attributes:
        kld: KL divergence, ``[positions]``.
        same_best: Whether both think the same token most likely, ``[positions]``.
        tail_mass: The reference's probability outside the common tokens, ``[positions]``.
    """

    kld: NDArray[np.float64]
    same_best: NDArray[np.bool_]
    tail_mass: NDArray[np.float64]

    @classmethod
    def between(cls, reference: TopLogprobs, model: TopLogprobs) -> Divergence:
        """Compare the same positions."""
        pairs = [
            _row(*row)
            for row in zip(
                reference.token_ids,
                reference.logprobs,
                model.token_ids,
                model.logprobs,
                strict=True,
            )
        ]
        kld, tail = np.array(pairs).reshape(-1, 2).T
        return cls(kld=kld, same_best=reference.best() == model.best(), tail_mass=tail)

    @classmethod
    def joined(cls, parts: Sequence[Divergence]) -> Divergence:
        """All positions of all parts."""
        return cls(
            kld=np.concatenate([part.kld for part in parts]),
            same_best=np.concatenate([part.same_best for part in parts]),
            tail_mass=np.concatenate([part.tail_mass for part in parts]),
        )

    def summary(self) -> dict[str, float]:
        """Mean, tail and worst, as JSON-like values."""
        return {
            "positions": len(self.kld),
            "kld_mean": float(self.kld.mean()),
            "kld_99.9": float(np.quantile(self.kld, 0.999)),
            "kld_max": float(self.kld.max()),
            "same_top1": float(self.same_best.mean()),
            "tail_mass": float(self.tail_mass.mean()),
        }


def _row(
    reference_ids: NDArray[np.int32],
    reference_logprobs: NDArray[np.float32],
    model_ids: NDArray[np.int32],
    model_logprobs: NDArray[np.float32],
) -> tuple[float, float]:
    """Divergence of one position, and the reference's mass outside the common tokens."""
    _, first, second = np.intersect1d(
        reference_ids, model_ids, assume_unique=True, return_indices=True
    )
    log_p = reference_logprobs[first].astype(np.float64)
    log_q = model_logprobs[second].astype(np.float64)
    p = np.exp(log_p)
    rest_p = max(1.0 - p.sum(), 0.0)
    rest_q = max(1.0 - np.exp(log_q).sum(), SMALLEST_REST)
    kld = float((p * (log_p - log_q)).sum())
    if rest_p > SMALLEST_REST:
        kld += rest_p * float(np.log(rest_p / rest_q))
    return max(kld, 0.0), rest_p
