"""Requests that end where the model is too unsure: ``abstain_below``.

What decides is each token's own log-probability, in order, so that a sequence ends with the same
token whatever its steps brought: a step may bring several, and those behind the end are hidden from
whoever reads the step next. Everything is called with the engine's lock held. Requests without
``abstain_below`` cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .confidence import RunningConfidence, confidence_of
from .request import SEQUENCES_PER_REQUEST, Request
from .request_texts import TextEnd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ._core import Events, RowLogprobs, Scheduler
    from .request_sequences import SequenceView
    from .request_texts import StepTokens

FIRST_LOOK = 8
"""From so many tokens on the confidence is looked at behind each token; before, only at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _TokensOfStep:
    """``StepTokens`` without those behind the ends of sequences."""

    request_ids: NDArray[np.int64]
    sequence_indices: NDArray[np.int32]
    token_indices: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    finished: NDArray[np.bool_]


@dataclass(slots=True)
class _Watched:
    """One sequence."""

    least: float
    first_look: int
    running: RunningConfidence = field(default_factory=RunningConfidence)
    logprobs: list[float] = field(default_factory=list)

    def take(self, rows: Sequence[RowLogprobs], *, has_ended: bool) -> int | None:
        """Take further tokens; return with how many the sequence ends, if it is too unsure.

        ``has_ended``: the last one ends it anyhow, so it is looked at however few there are.
        """
        num_tokens = len(self.logprobs) + len(rows)
        found = None
        for row in rows:
            self.logprobs.append(row.logprob)
            self.running.add(row.logprob)
            count = len(self.logprobs)
            is_looked_at = count >= self.first_look or (has_ended and count == num_tokens)
            if found is None and is_looked_at and self.running.value < self.least:
                found = count
        return found

    def is_unsure(self, num_tokens: int) -> bool:
        """Whether the sequence is, if it ends with so many tokens."""
        return num_tokens > 0 and confidence_of(self.logprobs[:num_tokens]) < self.least


class RequestConfidence:
    """Follows the confidence of requests that may abstain.

    Args:
        scheduler: Has the log-probabilities.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._watched: dict[int, _Watched] = {}

    def __len__(self) -> int:
        """Count the sequences that it knows."""
        return len(self._watched)

    def open(self, request: Request) -> None:
        """Begin a request that was just submitted."""
        for key in request.text_keys:
            self._begin(request, key)

    def close(self, request: Request) -> None:
        """Forget a request."""
        if request.params.abstain_below is not None and request.ids:
            for key in request.text_keys:
                self._watched.pop(key, None)

    def advance(self, events: Events) -> tuple[list[TextEnd], StepTokens]:
        """Take over a step's tokens.

        Returns:
            The sequences that end, and the step's tokens without those behind these ends.
        """
        if not self._watched or not len(events.token_ids):
            return [], events
        keys = events.request_ids * SEQUENCES_PER_REQUEST + events.sequence_indices
        ends = []
        is_kept = np.ones(keys.size, bool)
        for key in np.unique(keys).tolist():
            watched = self._watched.get(key)
            if watched is None:
                continue
            rows = np.flatnonzero(keys == key)
            request_id, index = divmod(key, SEQUENCES_PER_REQUEST)
            new = self._scheduler.sequence_since(request_id, index, len(watched.logprobs))
            num_tokens = watched.take(new.logprobs, has_ended=bool(events.finished[rows[-1]]))
            if num_tokens is not None:
                ends.append(TextEnd(key, num_tokens, None, is_unsure=True))
                is_kept[rows[events.token_indices[rows] >= num_tokens]] = False
        if is_kept.all():
            return ends, events
        return ends, _TokensOfStep(
            request_ids=events.request_ids[is_kept],
            sequence_indices=events.sequence_indices[is_kept],
            token_indices=events.token_indices[is_kept],
            token_ids=events.token_ids[is_kept],
            finished=events.finished[is_kept],
        )

    def judge(self, ends: list[TextEnd], unsure: list[TextEnd]) -> list[TextEnd]:
        """Join the ends of a step: of texts, which are looked at once more, and of ``advance``.

        A text that ends by itself does so with no later token than where its sequence abstains.
        """
        if not self._watched:
            return ends
        keys = {end.key for end in ends}
        judged = [end._replace(is_unsure=True) if self._abstains(end) else end for end in ends]
        return judged + [end for end in unsure if end.key not in keys]

    def rebuild(self, request: Request, index: int, sequence: SequenceView) -> TextEnd | None:
        """Follow a sequence again from its first token; return where it abstains, if it does."""
        if request.params.abstain_below is None:
            return None
        key = request.text_keys[index]
        self._begin(request, key)
        has_ended = sequence.finish_reason in ("stop", "length", "abstain")
        num_tokens = self._watched[key].take(sequence.logprobs, has_ended=has_ended)
        return None if num_tokens is None else TextEnd(key, num_tokens, None, is_unsure=True)

    def _begin(self, request: Request, key: int) -> None:
        least = request.params.abstain_below
        if least is not None:
            self._watched[key] = _Watched(least, max(FIRST_LOOK, request.params.min_tokens))

    def _abstains(self, end: TextEnd) -> bool:
        """Whether a text that ends by itself, neither too late nor by a failure, is too unsure."""
        watched = self._watched.get(end.key)
        ends_well = end.is_whole or end.stop_index is not None
        return (
            watched is not None
            and ends_well
            and not end.is_overdue
            and watched.is_unsure(end.num_tokens)
        )
