"""Requests with a ``thinking_budget``: where it is used up, only the end of the reasoning is drawn.

What must follow is told by masks, as a structure's certain tokens are, so that nothing depends on
what a step brings; and it is told to the scheduler, which then takes it into the step before.
Everything is called with the engine's lock held. Other requests cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .request import SEQUENCES_PER_REQUEST, Request
from .thinking import BudgetedSequence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._core import Batch, Scheduler
    from .request_texts import StepTokens


class RequestThinking:
    """Follows what requests with a budget generate.

    Args:
        vocab_size: Number of logits.
        scheduler: Has the tokens, and is told those that must follow.
    """

    def __init__(self, vocab_size: int, scheduler: Scheduler) -> None:
        self._vocab_size = vocab_size
        self._scheduler = scheduler
        self._requests: dict[int, Request] = {}
        self._sequences: dict[int, BudgetedSequence] = {}

    def __len__(self) -> int:
        """Count the requests and the sequences that it knows."""
        return len(self._requests) + len(self._sequences)

    def open(self, request: Request) -> None:
        """Begin a request that was just submitted."""
        if request.thinking is None:
            return
        self._requests[request.id] = request
        for key in request.text_keys:
            self._sequences[key] = BudgetedSequence(request.thinking)
        self._force(request.text_keys)

    def close(self, request: Request) -> None:
        """Forget a request."""
        if request.thinking is not None and request.ids:
            self._requests.pop(request.id, None)
            for key in request.text_keys:
                self._sequences.pop(key, None)

    def mask(self, batch: Batch) -> None:
        """Let the rows of a step draw the token that must follow, where one must."""
        if not self._requests:
            return
        last_key, sequence = -1, None
        for row, request_id, index, draft in batch.drawn_rows(list(self._requests)):
            key = request_id * SEQUENCES_PER_REQUEST + index
            if key != last_key:
                last_key, sequence = key, self._caught_up(key)
                if sequence is not None and draft is not None:
                    sequence = sequence.fork()
            if sequence is None:
                continue  # the draft before cannot be drawn, so nobody looks at this row
            if sequence.pending:
                batch.restrict(row, sequence.pending[0], self._vocab_size)
                if draft != sequence.pending[0]:
                    sequence = None
            if sequence is not None and draft is not None:
                sequence.add(draft)

    def advance(self, tokens: StepTokens) -> None:
        """Tell the scheduler what must follow a step's tokens."""
        if self._requests and len(tokens.token_ids):
            keys = tokens.request_ids * SEQUENCES_PER_REQUEST + tokens.sequence_indices
            self._force(np.unique(keys).tolist())

    def _force(self, keys: Iterable[int]) -> None:
        for key in keys:
            request_id, index = divmod(key, SEQUENCES_PER_REQUEST)
            request = self._requests.get(request_id)
            if request is None or request.speculation == "off":
                continue
            sequence = self._caught_up(key)
            if sequence is not None and sequence.pending:
                self._scheduler.force(request_id, index, sequence.pending)

    def _caught_up(self, key: int) -> BudgetedSequence | None:
        """A sequence with all tokens that the scheduler has of it."""
        sequence = self._sequences.get(key)
        if sequence is not None:
            request_id, index = divmod(key, SEQUENCES_PER_REQUEST)
            new = self._scheduler.sequence_since(request_id, index, sequence.num_tokens)
            for token_id in new.token_ids.tolist():
                sequence.add(token_id)
        return sequence
