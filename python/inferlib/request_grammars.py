"""The grammars of running requests: masks for a step, and the ends of texts that are whole.

Everything is called with the engine's lock held, but ``mask`` and ``refuse``, which the thread that
runs a step calls around the executor. Requests without a grammar cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .request import SEQUENCES_PER_REQUEST, Request
from .request_texts import TextEnd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._core import Batch, GrammarStates, Scheduler, StepOutput
    from .request_sequences import SequenceView
    from .request_texts import StepTokens


class RequestGrammars:
    """Follows what requests with a grammar generate.

    Args:
        states: Those of no sequence yet.
        scheduler: Is told tokens that must follow.
    """

    def __init__(self, states: GrammarStates, scheduler: Scheduler) -> None:
        self._states = states
        self._scheduler = scheduler
        self._due: dict[int, tuple[float, Request]] = {}

    def __len__(self) -> int:
        """Count the sequences that it knows, and the deadlines."""
        return len(self._states) + len(self._due)

    def open(self, request: Request, now: float) -> None:
        """Begin a request that was just submitted."""
        if request.grammar is None:
            return
        for key in request.text_keys:
            self._states.insert(
                key,
                request.grammar,
                max_tokens=request.max_structured_tokens,
                closes=request.closes,
                forces=request.speculation != "off",
            )
        if request.closes and request.deadline is not None:
            self._due[request.id] = (now + request.deadline, request)
        self._force(request.text_keys)

    def close(self, request: Request) -> None:
        """Forget a request."""
        if request.grammar is not None and request.ids:
            self._due.pop(request.id, None)
            for key in request.text_keys:
                self._states.remove(key)

    def note_failures(self, request: Request) -> None:
        """Keep why structures of a request that is over could not be continued."""
        if request.grammar is not None:
            for index, key in enumerate(request.text_keys):
                failure = self._states.failure(key)
                if failure is not None:
                    request.failures[index] = failure

    @property
    def has_deadlines(self) -> bool:
        """Whether a structure has to be closed in time."""
        return bool(self._due)

    def overdue(self, now: float) -> list[Request]:
        """Return the requests whose time is up, each once."""
        late = [request for due, request in self._due.values() if due <= now]
        for request in late:
            del self._due[request.id]
        return late

    def close_texts(self, request: Request) -> list[int]:
        """Let a request's texts end by a short way; return the sequences that end where they are.

        Their texts are whole, or cannot be.
        """
        num_left = [self._states.close(key) for key in request.text_keys]
        self._force(request.text_keys)
        return [index for index, count in enumerate(num_left) if not count]

    def mask(self, batch: Batch) -> bool:
        """Let the rows of a step draw only what their grammars allow.

        Returns:
            Whether ``refuse`` must look at what was drawn.
        """
        return len(self._states) > 0 and self._states.mask(batch)

    def refuse(self, batch: Batch, output: StepOutput) -> StepOutput:
        """Have tokens drawn again behind which a text could not end in time."""
        return self._states.refuse(batch, output)

    def advance(self, events: StepTokens) -> list[TextEnd]:
        """Take over a step's tokens; return the sequences whose texts are whole with them."""
        if not len(self._states) or not len(events.token_ids):
            return []
        keys = (events.request_ids * SEQUENCES_PER_REQUEST + events.sequence_indices).view(
            np.uint64
        )
        ends = []
        for key, num_tokens, was_closed in self._states.advance(keys, events.token_ids):
            # A draft may have brought further tokens; the scheduler may have ended it by itself.
            last = int(np.flatnonzero(keys == key)[-1])
            if num_tokens <= events.token_indices[last] or not events.finished[last]:
                ends.append(TextEnd(key, num_tokens, None, is_whole=True, is_overdue=was_closed))
        self._force(np.unique(keys))
        return ends

    def rebuild(self, request: Request, index: int, sequence: SequenceView) -> TextEnd | None:
        """Follow a sequence again from its first token; return its end if its text is whole."""
        if request.grammar is None:
            return None
        key = request.text_keys[index]
        is_whole, was_closed = self._states.rebuild(key, sequence.token_ids)
        if not is_whole or sequence.finish_reason is not None:
            return None
        return TextEnd(key, len(sequence.token_ids), None, is_whole=True, is_overdue=was_closed)

    def _force(self, keys: Iterable[int]) -> None:
        self._states.force(self._scheduler, np.fromiter(keys, np.uint64))
