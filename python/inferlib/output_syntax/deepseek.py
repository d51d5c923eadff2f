"""DeepSeek V3 and R1, and V3.1.

One list of calls between ``<｜tool▁calls▁begin｜>`` and ``<｜tool▁calls▁end｜>``; a call is
``<｜tool▁call▁begin｜>function<｜tool▁sep｜>add``, a fenced block of JSON, ``<｜tool▁call▁end｜>``,
or since V3.1 ``<｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>``.
"""

from __future__ import annotations

import re

from .json_calls import arguments_of, decode_json
from .syntax import CallsRead, MalformedCallError, OutputSyntax, Region, Schemas, WrittenCall

_BEGIN, _SEPARATOR, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_FENCED = re.compile(r"([^\n`{]*)\n\s*```(?:json)?\s*")


def _read(body: str, _header: str, _schemas: Schemas) -> CallsRead:
    calls, start = [], 0
    while (start := body.find(_BEGIN, start)) >= 0:
        call, start = _read_one(body, start)
        calls.append(call)
    if not calls:
        raise MalformedCallError("no_json", f"there is no {_BEGIN} between the markers")
    return CallsRead(calls, "")


def _read_one(body: str, start: int) -> tuple[WrittenCall, int]:
    head = start + len(_BEGIN)
    separator = body.find(_SEPARATOR, head)
    if separator < 0:
        raise MalformedCallError("unfinished", f"the call has no {_SEPARATOR}")
    name, place = body[head:separator].strip(), separator + len(_SEPARATOR)
    fenced = _FENCED.match(body, place)
    if fenced is not None:  # what stood first was its type
        name, place = fenced[1].strip(), fenced.end()
    elif name == "function":  # further calls have no arguments in some templates
        end = body.find(_END, place)
        end = len(body) if end < 0 else end
        name, place = body[place:end].strip(), end
    if not name:
        raise MalformedCallError("no_name", "the call names no tool")
    blank = re.compile(r"\s*").match(body, place)
    place = place if blank is None else blank.end()
    arguments = {}
    if place < len(body) and not body.startswith(_END, place):
        value, place = decode_json(body, place)
        arguments = arguments_of(value)
    end = body.find(_END, place)
    end = len(body) if end < 0 else end + len(_END)
    return WrittenCall(name, arguments, None, body[start:end]), end


DEEPSEEK = OutputSyntax(
    name="deepseek",
    regions=(
        Region(
            part="tool",
            opens=("<｜tool▁calls▁begin｜>",),
            closes=("<｜tool▁calls▁end｜>",),
            read=_read,
        ),
    ),
    inner_markers=(_BEGIN, _SEPARATOR, _END),
)
