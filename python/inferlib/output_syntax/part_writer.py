"""The text of one part of an output."""

from __future__ import annotations

import copy


class PartWriter:
    """Text of one part, without the white space beside markers.

    White space between two pieces of a part that a marker parts stays as it was in front of the
    marker; if there was none, it is a line break.
    """

    def __init__(self) -> None:
        self.is_empty: bool = True
        self._held = ""
        self._is_after_marker = False
        self._certain: list[str] = []

    def at_marker(self) -> None:
        """Note that a marker stands here."""
        self._is_after_marker = True

    def write(self, text: str) -> None:
        """Take more text of this part."""
        if self._is_after_marker:
            text = text.lstrip()
            if not text:
                return
            self._is_after_marker = False
            self._held = "" if self.is_empty else self._held or "\n"
        visible = text.rstrip()
        if visible:
            self._certain.append(self._held + visible)
            self._held = text[len(visible) :]
            self.is_empty = False
        else:
            self._held += text

    def end(self) -> None:
        """Let go what was held back: no marker follows."""
        if not self._is_after_marker:
            self._certain.append(self._held)
        self._held = ""

    def forget_space(self) -> None:
        """Drop the white space that was held back."""
        self._held = ""

    def fork(self) -> PartWriter:
        """Return a writer that goes on from here by itself."""
        fork = copy.copy(self)
        fork._certain = list(self._certain)  # noqa: SLF001
        return fork

    def take(self) -> str:
        """Return what has become certain, once."""
        text = "".join(self._certain)
        self._certain.clear()
        return text
