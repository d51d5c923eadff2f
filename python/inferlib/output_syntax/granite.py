"""Granite 3.

``<|tool_call|>[{"name": "add", "arguments": {"a": 1}}]`` to the end (3.1 and later also write
``<tool_call>`` in front of the list).
"""

from __future__ import annotations

from .json_calls import read_json_calls
from .syntax import CallsRead, OutputSyntax, Region, Schemas


def _read(body: str, _header: str, _schemas: Schemas) -> CallsRead:
    return read_json_calls(body)


GRANITE = OutputSyntax(
    name="granite",
    regions=(
        Region(
            part="tool",
            opens=("<|tool_call|>", "<tool_call>"),
            closes=("<|/tool_call|>", "</tool_call>"),
            read=_read,
        ),
    ),
)
