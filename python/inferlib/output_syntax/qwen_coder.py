"""Qwen3-Coder and Seed-OSS.

``<tool_call><function=add><parameter=a>1</parameter></function></tool_call>`` with a line break
around each tag and value. Values are not quoted: the tool's schema says what they are. The outer
tags may be missing, and are ``<seed:tool_call>`` in Seed-OSS.
"""

from __future__ import annotations

import re

from .syntax import CallsRead, MalformedCallError, OutputSyntax, Region, Schemas, WrittenCall
from .typed_values import typed_value

# Names are bounded, so that no text takes more than linear time.
_FUNCTION = re.compile(r"<function=([^<>\n]{0,200})>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(
    r"<parameter=([^<>\n]{0,200})>\n?(.*?)(?:\n?</parameter>|\n?(?=<parameter=)|\Z)", re.DOTALL
)


def _read(body: str, _header: str, schemas: Schemas) -> CallsRead:
    calls = []
    for match in _FUNCTION.finditer(body):
        name = match[1].strip()
        if not name:
            raise MalformedCallError("no_name", "the call names no tool")
        schema = schemas.get(name, {})
        arguments = {
            key.strip(): typed_value(value, schema.get(key.strip()))
            for key, value in _PARAMETER.findall(match[2])
        }
        calls.append(WrittenCall(name, arguments, None, match[0]))
    if not calls:
        raise MalformedCallError("no_json", "there is no <function=…> between the markers")
    return CallsRead(calls, "")


QWEN_CODER = OutputSyntax(
    name="qwen_coder",
    regions=(
        Region(
            part="tool",
            opens=("<tool_call>", "<seed:tool_call>"),
            closes=("</tool_call>", "</seed:tool_call>"),
            read=_read,
        ),
        Region(
            part="tool",
            opens=("<function=",),
            closes=("</function>",),
            keeps_open=True,
            read=_read,
        ),
    ),
)
