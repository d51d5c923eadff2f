"""The text of running requests: decoded in one call per step, and never lost to an interrupt.

Everything is called with the engine's lock held. ``advance`` is the hot path: its cost beside the
call into Rust does not grow with the number of requests.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from .atomic import move
from .request import SEQUENCES_PER_REQUEST, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from ._core import TextStreams
    from .request_sequences import SequenceView


class TextEnd(NamedTuple):
    """A sequence that ends because of its text.

    Attributes:
        key: Whose, as in ``Request.text_keys``.
        num_tokens: With which of its tokens; the same step may have brought further ones.
        stop_index: The stop string; ``None``: the token is none of the tokenizer's, or the text is
            whole.
        is_whole: Whether nothing may follow, by the request's grammar.
        is_overdue: Whether it was closed since its time was up.
        is_unsure: Whether it ends since the model is too unsure of it.
    """

    key: int
    num_tokens: int
    stop_index: int | None
    is_whole: bool = False
    is_overdue: bool = False
    is_unsure: bool = False


class StepTokens(Protocol):
    """The tokens that a step brought; see ``Events``."""

    @property
    def request_ids(self) -> NDArray[np.int64]:
        """Whose."""

    @property
    def sequence_indices(self) -> NDArray[np.int32]:
        """Which of its sequences."""

    @property
    def token_indices(self) -> NDArray[np.int32]:
        """Which of the sequence's tokens."""

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """The tokens."""

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Whether the sequence ended with it."""


class RequestTexts:
    """Decodes what requests generate.

    Args:
        streams: Decoders and stop strings; ``None`` without a tokenizer: then there is no text.
        clock: Seconds.
    """

    def __init__(
        self, streams: TextStreams | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._streams = streams
        self._clock = clock
        self._invisible: dict[int, Request] = {}
        self._without_text: set[int] = set()

    def __len__(self) -> int:
        """Count the texts that it decodes, and the requests that it knows."""
        num_streams = 0 if self._streams is None else len(self._streams)
        return num_streams + len(self._invisible) + len(self._without_text)

    def open(self, request: Request) -> None:
        """Begin the texts of a request that was just submitted."""
        if not request.params.detokenize:
            self._without_text.add(request.id)
        elif self._streams is not None:
            self._invisible[request.id] = request
            for index in range(request.params.n):
                self._open(self._streams, request, index)

    def advance(self, events: StepTokens, requests: Mapping[int, Request]) -> list[TextEnd]:
        """Decode a step's tokens; return the sequences that end because of them."""
        if self._streams is None or not len(events.token_ids):
            return []
        keys = events.request_ids * SEQUENCES_PER_REQUEST + events.sequence_indices
        is_text = self._is_text(events, requests)
        stops, failures = self._streams.advance(
            keys[is_text].view(np.uint64), events.token_ids[is_text]
        )
        if not stops and not failures:
            return []
        num_tokens = (events.token_indices[is_text] + 1).tolist()
        return [
            *(TextEnd(key, num_tokens[row], stop_index) for key, row, stop_index in stops),
            *(TextEnd(key, num_tokens[row], None) for key, row, _ in failures),
        ]

    def show(self, now: float) -> None:
        """Note when a request's text first shows: usually in the step of its first token."""
        for request in list(self._invisible.values()):
            for index in request.opened - request.ended:
                self.take(request, index)
            if any(map(any, request.pieces)):
                request.first_visible = now
                del self._invisible[request.id]

    def take(self, request: Request, index: int) -> None:
        """Move the text that has become certain to the request."""
        if self._streams is not None and self._is_open(request, index):
            move(request.pieces[index], self._streams.take_text, request.text_keys[index])

    def end(self, request: Request, index: int) -> None:
        """Make the text of a sequence final."""
        if self._streams is not None and self._is_open(request, index):
            self._streams.finish(request.text_keys[index])
            self.take(request, index)
            request.ended.add(index)

    def close(self, request: Request) -> None:
        """Make all texts of a request final, and forget it."""
        for index in range(request.params.n):
            self.end(request, index)
        self.drop(request)
        if request.first_visible is None and any(map(any, request.pieces)):
            request.first_visible = self._clock()

    def drop(self, request: Request) -> None:
        """Forget a request."""
        if self._streams is not None:
            for key in request.text_keys:
                self._streams.remove(key)
        self._invisible.pop(request.id, None)
        self._without_text.discard(request.id)

    def rebuild(self, request: Request, index: int, sequence: SequenceView) -> TextEnd | None:
        """Decode a sequence again from its first token.

        Args:
            request: Whose.
            index: Which of its sequences.
            sequence: All of it.

        Returns:
            Where it ends because of its text, if it does.
        """
        if self._streams is None or index not in request.opened:
            return None
        key = request.text_keys[index]
        ended = sequence.finish_reason is not None
        token_ids = sequence.token_ids
        if ended and token_ids.size and int(token_ids[-1]) in request.silent_token_ids:
            token_ids = token_ids[:-1]
        self._streams.remove(key)
        self._open(self._streams, request, index)
        keys = np.full(token_ids.size, key, np.uint64)
        stops, failures = self._streams.advance(keys, token_ids)
        ends = [TextEnd(key, row + 1, stop_index) for _, row, stop_index in stops]
        ends += [TextEnd(key, row + 1, None) for _, row, _ in failures]
        if ended or ends:
            self._streams.finish(key)
        request.pieces[index][:] = [self._streams.take_text(key)]
        if ended or ends:
            request.ended.add(index)
        return ends[0] if ends else None

    @staticmethod
    def _open(streams: TextStreams, request: Request, index: int) -> None:
        params = request.params
        streams.insert(
            request.text_keys[index],
            stop=params.stop_strings,
            include_stop=params.include_stop_str_in_output,
            skip_special=request.skips_special_tokens,
            min_tokens=params.min_tokens,
            continues=True,  # the prompt: a leading space stays
        )
        request.opened.add(index)

    @staticmethod
    def _is_open(request: Request, index: int) -> bool:
        return index in request.opened and index not in request.ended

    def _is_text(self, events: StepTokens, requests: Mapping[int, Request]) -> NDArray[np.bool_]:
        """Mark the rows of a step that are text: not final tokens that are none, for one."""
        is_text = np.ones(events.token_ids.size, bool)
        if self._without_text:
            is_text &= ~np.isin(events.request_ids, list(self._without_text))
        for row in np.flatnonzero(events.finished).tolist():
            request = requests.get(int(events.request_ids[row]))
            if request is not None and int(events.token_ids[row]) in request.silent_token_ids:
                is_text[row] = False
        return is_text
