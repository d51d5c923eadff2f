"""Two completions side by side."""

from __future__ import annotations

import difflib
import re
import textwrap
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from .completion import Completion
from .errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_CELL = "vertical-align:top;text-align:left;white-space:pre-wrap;width:50%"
_REMOVED, _ADDED = "background:rgba(220,50,47,.3)", "background:rgba(133,153,0,.35)"


class DiffPiece(NamedTuple):
    """Words that both texts have (``left == right``), or that differ.

    Attributes:
        left: Of the first text; empty if only the second has something here.
        right: Of the second text.
    """

    left: str
    right: str

    @property
    def is_same(self) -> bool:
        """Whether both are the same."""
        return self.left == self.right


@dataclass(frozen=True)
class CompletionDiff:
    """What differs between the first sequences of two completions.

    ``str()`` and ``print`` show it side by side, notebooks as a table.

    Attributes:
        left: The first.
        right: The second.
    """

    left: Completion
    right: Completion

    @property
    def is_same(self) -> bool:
        """Whether the same tokens were generated, and ended for the same reason."""
        return (
            self.left.token_ids == self.right.token_ids
            and self.left.finish_reason == self.right.finish_reason
        )

    @property
    def first_different_token(self) -> int | None:
        """Position of the first output token that differs; ``None`` if none does."""
        left, right = self.left.token_ids, self.right.token_ids
        for position, (one, other) in enumerate(zip(left, right, strict=False)):
            if one != other:
                return position
        return None if len(left) == len(right) else min(len(left), len(right))

    @cached_property
    def pieces(self) -> list[DiffPiece]:
        """Both texts in turns of the same and different words.

        Source: ``difflib.SequenceMatcher`` (Ratcliff and Obershelp 1988).
        """
        left, right = _WORDS.findall(self.left.text), _WORDS.findall(self.right.text)
        matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
        return [
            DiffPiece("".join(left[a:b]), "".join(right[c:d]))
            for _, a, b, c, d in matcher.get_opcodes()
        ]

    @property
    def params(self) -> dict[str, tuple[Any, Any]]:
        """Options that differ, with both values."""
        left, right = self.left.params.to_dict(), self.right.params.to_dict()
        return {name: (left[name], right[name]) for name in left if left[name] != right[name]}

    def to_text(self, *, width: int = 79) -> str:
        """Return both texts in two columns; ``|`` stands between lines that differ.

        Args:
            width: Of both columns and what is between them, in characters.

        Raises:
            RequestError: ``width`` leaves no room for two columns.
        """
        if width < 9:
            raise RequestError(f"width must be at least 9, not {width}", field="width")
        column = (width - 3) // 2
        lines = [*self._facts(), ""]
        for piece in self.pieces:
            left, right = _wrapped(piece.left, column), _wrapped(piece.right, column)
            between = " " if piece.is_same else "|"
            for place in range(max(len(left), len(right))):
                one = left[place] if place < len(left) else ""
                other = right[place] if place < len(right) else ""
                lines.append(f"{one:{column}} {between} {other}".rstrip())
        return "\n".join(lines)

    def _facts(self) -> Iterator[str]:
        place = self.first_different_token
        if place is None:
            yield f"the same {len(self.left.token_ids):,} tokens"
        else:
            yield (
                f"tokens differ from position {place:,} on "
                f"({len(self.left.token_ids):,} and {len(self.right.token_ids):,} tokens)"
            )
        if self.left.finish_reason != self.right.finish_reason:
            yield f"finish_reason: {self.left.finish_reason} and {self.right.finish_reason}"
        for name, (one, other) in self.params.items():
            yield f"{name}: {one!r} and {other!r}"

    def _repr_html_(self) -> str:
        """Notebooks show a table of two columns; the texts are escaped."""
        columns = [
            "".join(_marked(piece[side], None if piece.is_same else style) for piece in self.pieces)
            for side, style in ((0, _REMOVED), (1, _ADDED))
        ]
        facts = "<br>".join(escape(fact) for fact in self._facts())
        cells = "".join(f'<td style="{_CELL}">{column}</td>' for column in columns)
        return f'<div>{facts}<table style="width:100%"><tr>{cells}</tr></table></div>'

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<CompletionDiff: {next(self._facts())}>"


def diff(left: Completion, right: Completion) -> CompletionDiff:
    """Compare two completions, such as two runs of one prompt.

    Raises:
        RequestError: One of them is no completion.
    """
    for name, value in (("left", left), ("right", right)):
        if not isinstance(value, Completion):
            raise RequestError(
                f"{name} must be a Completion, not {type(value).__name__}", field=name
            )
    return CompletionDiff(left, right)


def _marked(text: str, style: str | None) -> str:
    clean = escape(text.encode("utf-8", "replace").decode())
    return clean if style is None or not text else f'<span style="{style}">{clean}</span>'


def _wrapped(text: str, width: int) -> list[str]:
    lines = [
        piece
        for line in text.split("\n")
        for piece in textwrap.wrap(line, width, drop_whitespace=False) or [""]
    ]
    return lines if text else []
