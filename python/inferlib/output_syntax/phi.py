"""Phi-4.

``<|tool_call|>{"name": "add", "arguments": {"a": 1}}<|/tool_call|>``, or a list of such objects;
Phi-4-mini also begins its answer with ``functools[{"name": …}]``.
"""

from __future__ import annotations

from .json_calls import read_json_calls
from .syntax import CallsRead, OutputSyntax, Region, Schemas


def _read(body: str, _header: str, _schemas: Schemas) -> CallsRead:
    return read_json_calls(body.removeprefix("functools"))


PHI = OutputSyntax(
    name="phi",
    regions=(
        Region(part="tool", opens=("<|tool_call|>",), closes=("<|/tool_call|>",), read=_read),
        Region(part="tool", opens=("functools[",), at_start=True, keeps_open=True, read=_read),
    ),
)
