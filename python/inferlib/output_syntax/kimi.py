"""Kimi K2.

A section of ``<|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{"a": 1}`` and
``<|tool_call_end|>``; the whole ``functions.add:0`` is the call's id.
"""

from __future__ import annotations

from .json_calls import read_arguments
from .syntax import CallsRead, MalformedCallError, OutputSyntax, Region, Schemas, WrittenCall

_BEGIN, _ARGUMENTS, _END = (
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)


def _read(body: str, _header: str, _schemas: Schemas) -> CallsRead:
    calls = []
    for piece in body.split(_BEGIN)[1:]:
        head, separator, rest = piece.partition(_ARGUMENTS)
        if not separator:
            raise MalformedCallError("unfinished", f"the call has no {_ARGUMENTS}")
        call_id = head.strip()
        name = call_id.removeprefix("functions.").rpartition(":")[0]
        name = name or call_id.removeprefix("functions.")
        if not name:
            raise MalformedCallError("no_name", "the call names no tool")
        arguments = read_arguments(rest.partition(_END)[0])
        calls.append(WrittenCall(name, arguments, call_id, f"{_BEGIN}{piece}".strip()))
    if not calls:
        raise MalformedCallError("no_json", f"there is no {_BEGIN} between the markers")
    return CallsRead(calls, "")


KIMI = OutputSyntax(
    name="kimi",
    regions=(
        Region(
            part="tool",
            opens=("<|tool_calls_section_begin|>",),
            closes=("<|tool_calls_section_end|>",),
            read=_read,
        ),
    ),
    inner_markers=(_BEGIN, _ARGUMENTS, _END),
)
