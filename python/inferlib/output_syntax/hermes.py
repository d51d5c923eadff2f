r"""Hermes, Qwen 2.5, Qwen 3, Granite 4, SmolLM3.

``<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>``, one after another.
"""

from __future__ import annotations

from .json_calls import read_json_calls
from .syntax import CallsRead, OutputSyntax, Region, Schemas


def _read(body: str, _header: str, _schemas: Schemas) -> CallsRead:
    return read_json_calls(body)


HERMES = OutputSyntax(
    name="hermes",
    regions=(Region(part="tool", opens=("<tool_call>",), closes=("</tool_call>",), read=_read),),
)
