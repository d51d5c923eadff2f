"""Takes what a model writes apart: content, reasoning, calls of tools; whole or in pieces.

What comes out is the same however the text is cut into pieces: text is held back only while it may
still become a marker, or while it is in a call.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..tool_calls import MalformedToolCall, ToolCall
from .markers import Markers
from .part_writer import PartWriter
from .syntax import CallsRead, MalformedCallError, Part, Region, Schemas, WrittenCall

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_HEADER_CHARACTERS = 512
MAX_EXTENSIONS = 16
"""How many closing markers inside quoted strings are passed over."""
MAX_MALFORMED = 32
"""After so many malformed calls, the rest is text."""


@dataclass(slots=True)
class ParsedOutput:
    """What has become certain.

    Attributes:
        content: Text that is neither reasoning nor a call.
        reasoning: Text in front of the answer.
        tool_calls: Whole calls.
        malformed: What began as calls; it is in ``content``, too.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    malformed: list[MalformedToolCall] = field(default_factory=list)

    def __add__(self, later: ParsedOutput) -> ParsedOutput:
        return ParsedOutput(
            self.content + later.content,
            self.reasoning + later.reasoning,
            self.tool_calls + later.tool_calls,
            self.malformed + later.malformed,
        )

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls or self.malformed)


class MarkerTables:
    """The markers of some regions, made ready to be found; the same for many requests.

    Args:
        regions: What is marked.
        dropped: Special tokens that are no markers, and no text either.
    """

    def __init__(self, regions: Iterable[Region], dropped: Iterable[str] = ()) -> None:
        dropped = tuple(dropped)
        self.regions: tuple[Region, ...] = tuple(regions)
        self.at_start: tuple[Region, ...] = tuple(
            region for region in self.regions if region.at_start
        )
        self.reasoning_openings: tuple[str, ...] = tuple(
            marker
            for region in self.regions
            if region.part == "reasoning" or region.cut
            for marker in region.opens
        )
        # Regions by opening marker, but for those that only begin an answer.
        self.openings: dict[str, Region] = {
            marker: region
            for region in reversed(self.regions)
            if not region.at_start
            for marker in region.opens
        }
        self.between: Markers = Markers((*self.openings, *dropped))
        self.ends: dict[Region, Markers] = {
            region: Markers((*region.closes, *region.breaks)) for region in self.regions
        }
        self.ends_and_dropped: dict[Region, Markers] = {
            region: Markers((*region.closes, *region.breaks, *dropped)) for region in self.regions
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputReading:
    """How the outputs of one request are to be read.

    Attributes:
        tables: What is marked.
        starts_in: The region that an answer begins in; ``None``: in none.
        written: The beginning of the answer, which the prompt holds already.
        schemas: The tools' parameters.
        with_special_tokens: Whether markers are special tokens, so that the text must have them.
        salt: Told apart by it, calls of different requests have different ids.
        reasoning_syntax: Name of the syntax that marks reasoning; ``"off"`` if none is read.
        tool_syntax: Name of the syntax of calls; ``"off"`` if none are read.
    """

    tables: MarkerTables
    starts_in: Region | None = None
    written: str = ""
    schemas: Schemas = field(default_factory=dict)
    with_special_tokens: bool = False
    salt: str = ""
    reasoning_syntax: str = "off"
    tool_syntax: str = "off"


class OutputParser:
    """Reads one sequence: ``feed`` it text as it comes, then ``finish``."""

    def __init__(self, reading: OutputReading) -> None:
        self._reading = reading
        self._tables = reading.tables
        self._rest = ""
        self._scanned = 0
        self._region = reading.starts_in
        self._opening = ""
        self._header: str | None = None
        self._is_implicit = self._region is not None
        self._content = PartWriter()
        self._reasoning = PartWriter()
        self._calls: list[ToolCall] = []
        self._malformed: list[MalformedToolCall] = []
        self._num_calls = 0
        self._num_malformed = 0
        if reading.written:
            self._go_on_from(reading.written)

    @property
    def num_calls(self) -> int:
        """How many calls were read."""
        return self._num_calls

    @property
    def reasoning_region(self) -> Region | None:
        """The region of reasoning that the text is in, as far as that is certain."""
        region = self._region
        if region is None or (region.header_end is not None and self._header is None):
            return None
        return region if self._part(region) == "reasoning" else None

    @property
    def held_back(self) -> str:
        """The end of the text that may be the beginning of a marker, or is in a call."""
        return self._rest

    def fork(self) -> OutputParser:
        """Return a parser that goes on from here by itself."""
        fork = copy.copy(self)
        # What was read so far is the other one's to give out.
        fork._content = self._content.fork()  # noqa: SLF001
        fork._reasoning = self._reasoning.fork()  # noqa: SLF001
        fork._calls, fork._malformed = [], []  # noqa: SLF001
        return fork

    def feed(self, text: str) -> ParsedOutput:
        """Take more text; return what has become certain."""
        self._rest += text
        self._advance_all(final=False)
        return self._take()

    def finish(self) -> ParsedOutput:
        """Return what is left, after the last text."""
        self._advance_all(final=True)
        self._content.end()
        self._reasoning.end()
        return self._take()

    def _go_on_from(self, written: str) -> None:
        """Get to where a text ends that somebody else has read; a call in it is read on."""
        self.feed(written)
        self._content.forget_space()
        self._reasoning.forget_space()
        self._num_calls = 0
        if self._region is None or self._part(self._region) != "tool":
            self._rest = ""

    def _take(self) -> ParsedOutput:
        taken = ParsedOutput(
            self._content.take(), self._reasoning.take(), self._calls, self._malformed
        )
        self._calls, self._malformed = [], []
        return taken

    def _advance_all(self, *, final: bool) -> None:
        while self._step(final=final):
            pass

    def _step(self, *, final: bool) -> bool:
        """Go one marker further; ``False``: not without more text."""
        region = self._region
        if region is None:
            return self._step_between(final=final)
        if region.header_end is not None and self._header is None:
            return self._step_header(region.header_end, final=final)
        part = self._part(region)
        if part == "tool":
            return self._step_call(region, final=final)
        return self._step_text(region, part, final=final)

    def _part(self, region: Region) -> Part:
        if region.part_of is None or self._header is None:
            return region.part
        return region.part_of(self._header)

    # Outside of all regions

    def _step_between(self, *, final: bool) -> bool:
        if self._content.is_empty and (entered := self._at_start(final=final)) is not None:
            return entered
        markers = self._tables.between
        found = markers.find(self._rest, 0, final=final)
        if found is None:
            end = len(self._rest) if final else markers.certain_end(self._rest)
            self._content.write(self._cut(end))
            return False
        self._content.write(self._cut(found.start))
        marker = self._cut(found.end - found.start)
        region = self._tables.openings.get(marker)
        if region is not None and not self._is_worn_out(region):
            self._enter(region, marker)
        elif region is not None:
            self._content.write(marker)
        return True

    def _is_worn_out(self, region: Region) -> bool:
        return region.read is not None and self._num_malformed >= MAX_MALFORMED

    def _at_start(self, *, final: bool) -> bool | None:
        """Enter a region that only begins answers; ``None``: there is none, ``False``: unsure."""
        regions = self._tables.at_start
        if not regions:
            return None
        visible = self._rest.lstrip()
        if len(visible) < len(self._rest):
            self._content.write(self._cut(len(self._rest) - len(visible)))
        for region in regions:
            for marker in region.opens:
                if visible.startswith(marker) and not self._is_worn_out(region):
                    self._enter(region, self._cut(len(marker)))
                    return True
        unsure = any(marker.startswith(visible) for region in regions for marker in region.opens)
        return False if unsure and not final else None

    def _enter(self, region: Region, marker: str) -> None:
        self._region = region
        self._opening = marker
        self._header = None
        self._is_implicit = False
        self._scanned = 0
        if region.keeps_open:
            self._rest = marker + self._rest
            self._opening = ""
        if region.read is None or region.header_end is not None:
            self._content.at_marker()
            self._reasoning.at_marker()

    def _leave(self) -> None:
        self._region = None
        self._header = None
        self._scanned = 0

    # Headers

    def _step_header(self, header_end: str, *, final: bool) -> bool:
        place = self._rest.find(header_end, self._scanned)
        if 0 <= place <= MAX_HEADER_CHARACTERS:
            self._header = self._cut(place)
            self._cut(len(header_end))
            if self._is_implicit:
                self._content.at_marker()
                self._reasoning.at_marker()
            return True
        if len(self._rest) > MAX_HEADER_CHARACTERS + len(header_end):  # it is none
            self._leave()
            return True
        if final:
            if not (self._is_implicit and "<|" not in self._rest):
                self._rest = ""  # it broke off
            self._leave()
            return True
        self._scanned = max(0, len(self._rest) - len(header_end))
        return False

    # Reasoning, and content in a region

    def _step_text(self, region: Region, part: Part, *, final: bool) -> bool:
        writer = self._reasoning if part == "reasoning" else self._content
        if self._is_implicit and region.header_end is None:
            writer.at_marker()
            self._is_implicit = False
        markers = self._tables.ends_and_dropped[region]
        found = markers.find(self._rest, 0, final=final)
        if found is None:
            writer.write(self._cut(len(self._rest) if final else markers.certain_end(self._rest)))
            return False
        writer.write(self._cut(found.start))
        marker = self._rest[: found.end - found.start]
        if marker not in region.breaks:
            self._cut(len(marker))
        if marker in region.closes or marker in region.breaks:
            self._leave()
            self._content.at_marker()
            self._reasoning.at_marker()
        return True

    # Calls

    def _step_call(self, region: Region, *, final: bool) -> bool:
        markers = self._tables.ends[region]
        start, first, extensions = self._scanned, None, 0
        while (found := markers.find(self._rest, start, final=final)) is not None:
            marker = self._rest[found.start : found.end]
            end = found.end if marker in region.closes else found.start
            first = (found.start, end) if first is None else first
            outcome = self._read(region, self._body(region, found.start, marker))
            if not _breaks_off(outcome) or extensions == MAX_EXTENSIONS:
                if _breaks_off(outcome):
                    break
                return self._end_call(region, outcome, found.start, end)
            extensions += 1
            start = found.end
        whole = len(self._rest)
        if final:
            outcome = self._read(region, self._rest)
            if first is None or isinstance(outcome, CallsRead):
                return self._end_call(region, outcome, whole, whole)
        if first is not None and (final or extensions == MAX_EXTENSIONS):
            marker = self._rest[first[0] : first[1]]
            outcome = self._read(region, self._body(region, first[0], marker))
            return self._end_call(region, outcome, *first)
        if first is None:
            self._scanned = max(0, whole - markers.longest)
        return False

    def _body(self, region: Region, end: int, marker: str) -> str:
        """The text that is read: with its closing marker where the opening one is kept, too."""
        keep = region.keeps_open and marker in region.closes
        return self._rest[: end + len(marker) if keep else end]

    def _read(self, region: Region, body: str) -> CallsRead | MalformedCallError | None:
        if region.read is None:
            return None
        try:
            return region.read(body, self._header or "", self._reading.schemas)
        except MalformedCallError as error:
            return error

    def _end_call(
        self,
        region: Region,
        outcome: CallsRead | MalformedCallError | None,
        body_end: int,
        end: int,
    ) -> bool:
        is_closed = end > body_end
        if isinstance(outcome, CallsRead) and is_closed and outcome.rest.strip():
            outcome = MalformedCallError("no_json", "there is more than calls between the markers")
        if isinstance(outcome, CallsRead):
            self._cut(end)
            self._content.at_marker()
            self._reasoning.at_marker()
            self._calls += [self._call(call) for call in outcome.calls]
            self._content.write(outcome.rest)
            self._leave()
            return True
        if outcome is not None:
            self._num_malformed += 1
            raw = f"{self._opening}{self._header_text(region)}{self._rest[:end]}"
            self._malformed.append(
                MalformedToolCall(raw_text=raw, problem=outcome.problem, message=str(outcome))
            )
        self._give_back(region, body_end, end)
        return True

    def _give_back(self, region: Region, body_end: int, end: int) -> None:
        """Make text of what is no call; a call inside it is still found."""
        if region.header_end is not None:
            self._content.write(self._cut(body_end))
            self._cut(end - body_end)
        elif region.keeps_open:
            self._content.write(self._cut(1))
        else:
            self._content.write(self._opening)
        self._leave()

    def _header_text(self, region: Region) -> str:
        return "" if self._header is None else f"{self._header}{region.header_end}"

    def _call(self, call: WrittenCall) -> ToolCall:
        number, self._num_calls = self._num_calls, self._num_calls + 1
        return ToolCall(
            name=call.name,
            arguments=call.arguments,
            id=call.id or _made_id(self._reading.salt, str(number), call.raw_text),
            raw_text=call.raw_text,
        )

    def _cut(self, end: int) -> str:
        """Take the first ``end`` characters from what is not parsed yet."""
        text, self._rest = self._rest[:end], self._rest[end:]
        return text


def parse_whole(reading: OutputReading, text: str) -> ParsedOutput:
    """Parse a text that is all there."""
    parser = OutputParser(reading)
    return parser.feed(text) + parser.finish()


def _breaks_off(outcome: object) -> bool:
    return isinstance(outcome, MalformedCallError) and outcome.breaks_off


def _made_id(*pieces: str) -> str:
    """Nine letters and digits, as Mistral's templates want them; other templates take anything."""
    text = "\0".join(pieces).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).hexdigest()[:9]


def region_at_end(regions: Sequence[Region], prompt: str) -> Region | None:
    """Return the region that a prompt ends in, because the template opened it."""
    visible = prompt.rstrip()
    for region in regions:
        if visible.endswith(region.starts_after):  # an empty tuple ends nothing
            return region
    return None
