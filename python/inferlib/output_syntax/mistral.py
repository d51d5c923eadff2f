"""Mistral.

``[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}]`` to the end; since 2025
``[TOOL_CALLS]add[ARGS]{"a": 1}`` for each call, with ``[CALL_ID]abcdefghi`` in between in some.
"""

from __future__ import annotations

from .json_calls import arguments_of, decode_json, read_json_calls
from .syntax import CallsRead, MalformedCallError, OutputSyntax, Region, Schemas, WrittenCall


def _read(body: str, _header: str, _schemas: Schemas) -> CallsRead:
    if body.lstrip()[:1] in ("[", "{") and not body.lstrip().startswith(("[ARGS]", "[CALL_ID]")):
        return read_json_calls(body)
    head, separator, arguments = body.partition("[ARGS]")
    if not separator:  # ``add{"a": 1}``
        place = body.find("{")
        head, arguments = (body, "") if place < 0 else (body[:place], body[place:])
        if not arguments:
            raise MalformedCallError("unfinished", "the call has no arguments")
    name, _, call_id = (piece.strip() for piece in head.partition("[CALL_ID]"))
    if not name:
        raise MalformedCallError("no_name", "the call names no tool")
    arguments = arguments.lstrip()
    value, end = decode_json(arguments, 0)
    written = body[: len(body) - len(arguments) + end].strip()
    call = WrittenCall(name, arguments_of(value), call_id or None, written)
    return CallsRead([call], arguments[end:])


MISTRAL = OutputSyntax(
    name="mistral",
    regions=(Region(part="tool", opens=("[TOOL_CALLS]",), breaks=("[TOOL_CALLS]",), read=_read),),
    inner_markers=("[ARGS]", "[CALL_ID]"),
)
