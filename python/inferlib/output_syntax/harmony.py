"""gpt-oss: messages on channels, each with a header.

``<|channel|>analysis<|message|>…<|end|>`` is reasoning, ``final`` the answer, and
``<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>`` a call.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .json_calls import read_arguments
from .syntax import CallsRead, OutputSyntax, Region, Schemas, WrittenCall

if TYPE_CHECKING:
    from .syntax import Part

_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL = re.compile(r"(?:^|<\|channel\|>)\s*([a-z]+)")


def _part_of(header: str) -> Part:
    if _RECIPIENT.search(header):
        return "tool"
    channels = _CHANNEL.findall(header)
    return "reasoning" if channels and channels[-1] == "analysis" else "content"


def _read(body: str, header: str, _schemas: Schemas) -> CallsRead:
    match = _RECIPIENT.search(header)
    name = "" if match is None else match[1].removeprefix("functions.")
    if name == "python":  # its argument is the program itself
        return CallsRead([WrittenCall(name, {"code": body}, None, body)], "")
    return CallsRead([WrittenCall(name, read_arguments(body), None, body)], "")


HARMONY = OutputSyntax(
    name="harmony",
    regions=(
        Region(
            part="content",
            opens=("<|channel|>", "<|start|>"),
            header_end="<|message|>",
            part_of=_part_of,
            closes=("<|end|>", "<|call|>", "<|return|>"),
            breaks=("<|start|>", "<|channel|>"),
            read=_read,
            starts_after=("<|start|>assistant",),
            cut="<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
    ),
    inner_markers=("<|constrain|>",),
)
