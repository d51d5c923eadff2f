"""The grammars of running requests: masks for a step, and the ends of texts that are whole.

Everything is called with the engine's lock held, but ``mask``, which the thread that runs a step
calls between ``schedule`` and the executor. Requests without a grammar cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._core import GrammarStates
from .request import SEQUENCES_PER_REQUEST, Request
from .request_texts import TextEnd

if TYPE_CHECKING:
    from ._core import Batch, Events, SequenceOutput


class RequestGrammars:
    """Follows what requests with a grammar generate.

    Args:
        vocab_size: Number of logits.
    """

    def __init__(self, vocab_size: int) -> None:
        self._states = GrammarStates(vocab_size, SEQUENCES_PER_REQUEST)

    def open(self, request: Request) -> None:
        """Begin a request that was just submitted."""
        if request.grammar is not None:
            for key in request.text_keys:
                self._states.insert(key, request.grammar)

    def close(self, request: Request) -> None:
        """Forget a request."""
        if request.grammar is not None and request.ids:
            for key in request.text_keys:
                self._states.remove(key)

    def mask(self, batch: Batch) -> None:
        """Let the rows of a step draw only what their grammars allow."""
        if len(self._states):
            self._states.mask(batch)

    def advance(self, events: Events) -> list[TextEnd]:
        """Take over a step's tokens; return the sequences whose texts are whole with them."""
        if not len(self._states) or not len(events.token_ids):
            return []
        keys = (events.request_ids * SEQUENCES_PER_REQUEST + events.sequence_indices).view(
            np.uint64
        )
        ends = []
        for key in self._states.advance(keys, events.token_ids).tolist():
            rows = np.flatnonzero(keys == key)
            if not events.finished[rows].any():
                last = int(events.token_indices[rows].max())
                ends.append(TextEnd(key, last + 1, None, is_whole=True))
        return ends

    def rebuild(self, request: Request, index: int, sequence: SequenceOutput) -> TextEnd | None:
        """Follow a sequence again from its first token; return its end if its text is whole."""
        if request.grammar is None:
            return None
        key = request.text_keys[index]
        is_whole = self._states.rebuild(key, sequence.token_ids)
        if not is_whole or sequence.finish_reason is not None:
            return None
        return TextEnd(key, len(sequence.token_ids), None, is_whole=True)
