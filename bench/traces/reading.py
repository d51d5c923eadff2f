"""Traces of others: Mooncake's (``.jsonl``) and Azure's (``.csv``). They are read where they lie.

Neither is part of this repository: Mooncake's are in ``kvcache-ai/Mooncake``, Azure's in
``Azure/AzurePublicDataset``.
"""

from __future__ import annotations

import csv
import json
import math
from datetime import datetime
from typing import TYPE_CHECKING

from .rows import HASH_BLOCK, TraceError, TraceRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST = 1 << 22
"""Tokens; more are a damaged file, not a request."""
AZURE_FIELDS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read(path: Path) -> list[TraceRow]:
    """Rows in order of time.

    Raises:
        TraceError: A line is no row; names line and field.
        ValueError: The file's name does not say what it is, or it has no rows.
        OSError: It cannot be read.
    """
    readers = {".jsonl": read_mooncake, ".csv": read_azure}
    reader = readers.get(path.suffix)
    if reader is None:
        raise ValueError(f"{path} is a trace if its name ends in {' or '.join(readers)}")
    rows = sorted(reader(path), key=lambda row: row.timestamp_ms)
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows


def read_mooncake(path: Path) -> Iterator[TraceRow]:
    """One JSON object per line: ``timestamp`` in ms, lengths, ``hash_ids`` of 512-token blocks."""
    with path.open(encoding="utf8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _mooncake_row(path, number, line)


def _mooncake_row(path: Path, number: int, line: str) -> TraceRow:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise TraceError(path, number, None, f"no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise TraceError(path, number, None, "no JSON object")

    def integer(name: str, low: int, high: int) -> int:
        value = fields.get(name)
        if type(value) is not int or not low <= value <= high:
            problem = f"{value!r} is no integer from {low:,} to {high:,}"
            raise TraceError(path, number, name, problem)
        return value

    length = integer("input_length", 1, LONGEST)
    hash_ids = fields.get("hash_ids")
    if not isinstance(hash_ids, list) or any(type(i) is not int or i < 0 for i in hash_ids):
        raise TraceError(path, number, "hash_ids", "no list of non-negative integers")
    needed = math.ceil(length / HASH_BLOCK)
    if len(hash_ids) != needed:
        problem = f"{len(hash_ids)} ids, and {length:,} tokens have {needed}"
        raise TraceError(path, number, "hash_ids", problem)
    return TraceRow(
        timestamp_ms=integer("timestamp", 0, 1 << 53),
        input_length=length,
        output_length=integer("output_length", 0, LONGEST),
        hash_ids=tuple(hash_ids),
    )


def read_azure(path: Path) -> Iterator[TraceRow]:
    """``TIMESTAMP,ContextTokens,GeneratedTokens``: no prefixes are known, so nothing is shared."""
    with path.open(encoding="utf8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in AZURE_FIELDS if name not in (reader.fieldnames or ())]
        if missing:
            raise TraceError(path, 1, missing[0], "there is no such column")
        first: datetime | None = None
        next_id = 0
        for number, fields in enumerate(reader, 2):
            when = _azure_time(path, number, fields["TIMESTAMP"])
            first = first or when
            length = _azure_count(path, number, fields, "ContextTokens", 1)
            ids = tuple(range(next_id, next_id + math.ceil(length / HASH_BLOCK)))
            next_id += len(ids)
            yield TraceRow(
                timestamp_ms=round((when - first).total_seconds() * 1000),
                input_length=length,
                output_length=_azure_count(path, number, fields, "GeneratedTokens", 0),
                hash_ids=ids,
            )


def _azure_time(path: Path, number: int, text: str | None) -> datetime:
    try:
        return datetime.fromisoformat(text or "")
    except ValueError as error:
        raise TraceError(path, number, "TIMESTAMP", f"{text!r} is no time") from error


def _azure_count(
    path: Path, number: int, fields: dict[str, str | None], name: str, low: int
) -> int:
    text = fields[name] or ""
    if not (text.isascii() and text.isdigit() and low <= int(text) <= LONGEST):
        problem = f"{text!r} is no integer from {low} to {LONGEST:,}"
        raise TraceError(path, number, name, problem)
    return int(text)
