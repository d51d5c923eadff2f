"""One request of a trace, and the tokens that its hash ids stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

HASH_BLOCK = 512
"""Prompt tokens that one hash id stands for; the last block of a prompt may be partial."""


class TraceError(ValueError):
    """A trace that cannot be read.

    Attributes:
        path: The file.
        line: Counted from 1.
        field: What is wrong there; ``None`` if the line is no row at all.
    """

    def __init__(self, path: Path, line: int, field: str | None, problem: str) -> None:
        at = f"{path}, line {line}" + ("" if field is None else f", {field}")
        super().__init__(f"{at}: {problem}")
        self.path, self.line, self.field = path, line, field


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """One request.

    Attributes:
        timestamp_ms: When it came, from the beginning of the trace.
        input_length: Tokens of its prompt.
        output_length: Tokens that it generates.
        hash_ids: One per ``HASH_BLOCK`` tokens of the prompt. Equal ids are equal tokens after an
            equal prefix.
    """

    timestamp_ms: int
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]


def token_ids(row: TraceRow) -> list[int]:
    """The prompt: 512 tokens per hash id, the id spelled out in the first two.

    The same as ``rust/core/examples/scheduler/replay.rs`` makes.
    """
    made: list[int] = []
    for hash_id in row.hash_ids:
        base = hash_id * 2654435761 % 100_003
        made += (hash_id & 0xFFFF, hash_id >> 16 & 0xFFFF)
        made += [(base + place * 31) % 120_000 for place in range(2, HASH_BLOCK)]
    return made[: row.input_length]


def as_lines(rows: Iterable[TraceRow]) -> str:
    """A line of numbers per row, for programs without JSON."""
    lines = (" ".join(map(str, (r.input_length, r.output_length, *r.hash_ids))) for r in rows)
    return "".join(f"{line}\n" for line in lines)


def from_lines(lines: Iterable[str]) -> Iterator[TraceRow]:
    """Read back what ``as_lines`` wrote; times are not in it."""
    for line in lines:
        input_length, output_length, *ids = map(int, line.split())
        yield TraceRow(
            timestamp_ms=0,
            input_length=input_length,
            output_length=output_length,
            hash_ids=tuple(ids),
        )
