"""Counts the tokens of a model's reasoning as they come."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from .parser import OutputParser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .parser import OutputReading
    from .syntax import Region


class ReasoningMeter:
    """Follows one sequence: ``add`` its tokens.

    Counted are the tokens of all blocks, without the markers' own. A marker of several tokens is
    one only when its last token is there; until then they count.

    Args:
        reading: How the sequence is read.
        token_text: Text of a token by itself.
    """

    def __init__(self, reading: OutputReading, token_text: Callable[[int], str | None]) -> None:
        self._parser = OutputParser(reading)
        self._token_text = token_text
        self._num_certain = 0
        # Lengths of the last tokens' texts that may be the beginning of a marker.
        self._held: list[int] = []

    @property
    def region(self) -> Region | None:
        """The block that the sequence is in; ``None`` outside."""
        return self._parser.reasoning_region

    @property
    def held_back(self) -> str:
        """The end of the text that may be the beginning of the marker that ends the block."""
        return self._parser.held_back

    @property
    def num_tokens(self) -> int:
        """Tokens of reasoning so far."""
        return self._num_certain + len(self._held)

    def add(self, token_id: int) -> None:
        """Take one more token."""
        was_inside = self.region is not None
        text = self._token_text(token_id) or ""
        self._parser.feed(text)
        if not was_inside:
            return
        if self.region is None:
            self._held.clear()  # they were the marker
            return
        self._held.append(len(text))
        num_held = len(self._parser.held_back)
        while self._held and (num_held == 0 or sum(self._held) > num_held):
            del self._held[0]
            self._num_certain += 1

    def fork(self) -> ReasoningMeter:
        """Return a meter that goes on from here by itself."""
        fork = copy.copy(self)
        fork._parser, fork._held = self._parser.fork(), list(self._held)  # noqa: SLF001
        return fork


def count_reasoning_tokens(
    reading: OutputReading, token_ids: Iterable[int], token_text: Callable[[int], str | None]
) -> int:
    """Count the tokens of reasoning in a sequence; the arguments are ``ReasoningMeter``'s."""
    meter = ReasoningMeter(reading, token_text)
    for token_id in token_ids:
        meter.add(token_id)
    return meter.num_tokens
