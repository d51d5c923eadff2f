"""Finding markers in text that arrives in pieces."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Found(NamedTuple):
    """A marker in a text; ``end`` is behind it."""

    start: int
    end: int


class Markers:
    """A set of markers; the first in the text is found, of those that begin there the longest."""

    def __init__(self, markers: Iterable[str]) -> None:
        ordered = sorted(set(markers), key=lambda marker: (-len(marker), marker))
        self._pattern = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
        self._prefixes = {marker[:end] for marker in ordered for end in range(1, len(marker))}
        self.longest: int = len(ordered[0]) if ordered else 0

    def find(self, text: str, start: int, *, final: bool) -> Found | None:
        """Return the first marker from ``start`` on, once no further text can change that."""
        match = self._pattern.search(text, start)
        if match is None or not (final or match.start() < self.certain_end(text)):
            return None
        return Found(match.start(), match.end())

    def certain_end(self, text: str) -> int:
        """Where the longest end of ``text`` begins that may become a marker; its length if none."""
        for length in range(min(self.longest - 1, len(text)), 0, -1):
            if text[len(text) - length :] in self._prefixes:
                return len(text) - length
        return len(text)
