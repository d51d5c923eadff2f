"""How a family of models marks the parts of what it writes: regions between markers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from ..tool_calls import ToolCallProblem

Part = Literal["content", "reasoning", "tool"]
Schemas = Mapping[str, Mapping[str, Any]]
"""By tool: the JSON schemas of its parameters, by name."""


class WrittenCall(NamedTuple):
    """A call as it stands in a text; ``id`` is ``None`` if the syntax has none."""

    name: str
    arguments: dict[str, Any]
    id: str | None
    raw_text: str


class CallsRead(NamedTuple):
    """The calls of a region, and the text behind them that belongs to none."""

    calls: list[WrittenCall]
    rest: str


class MalformedCallError(Exception):
    """A region holds no calls in its syntax; never leaves the parser.

    Attributes:
        problem: What is wrong.
        breaks_off: Whether the text ends inside a quoted string: a closing marker right there may
            belong to the string.
    """

    def __init__(self, problem: ToolCallProblem, message: str, *, breaks_off: bool = False) -> None:
        super().__init__(message)
        self.problem: ToolCallProblem = problem
        self.breaks_off = breaks_off


ReadCalls = Callable[[str, str, Schemas], CallsRead | None]
"""Reads the calls in a region from its body, its header and the tools' schemas. ``None``: this was
never meant to be a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One kind of marked text.

    Attributes:
        part: What its text is; with a header, unless ``part_of`` says otherwise.
        opens: Markers that begin it.
        closes: Markers that end it and belong to it. Without any it goes on to the end.
        breaks: Markers that end it and begin what is next.
        read: Reads its calls, if it is a ``"tool"``.
        header_end: Between an opening marker and this one there is a header.
        part_of: What a header says about the part.
        at_start: It can only begin where nothing but white space was written.
        keeps_open: The opening marker belongs to the body.
        starts_after: Ends of prompts after which an answer begins inside.
        cut: What ends its reasoning and goes over to the answer; ``""``: the first of ``closes``.
    """

    part: Part
    opens: tuple[str, ...]
    closes: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    read: ReadCalls | None = None
    header_end: str | None = None
    part_of: Callable[[str], Part] | None = None
    at_start: bool = False
    keeps_open: bool = False
    starts_after: tuple[str, ...] = ()
    cut: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """All markers that can be special tokens."""
        ends = () if self.header_end is None else (self.header_end,)
        return (*self.opens, *self.closes, *self.breaks, *ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSyntax:
    """All that is marked in what a family of models writes.

    Attributes:
        name: As ``tool_syntax=`` and ``reasoning_syntax=`` know it.
        regions: What is marked.
        inner_markers: Further markers that occur within regions.
    """

    name: str
    regions: tuple[Region, ...]
    inner_markers: tuple[str, ...] = ()

    @property
    def markers(self) -> frozenset[str]:
        """All markers."""
        own = (marker for region in self.regions for marker in region.markers)
        return frozenset((*own, *self.inner_markers))
