"""Command R7B and A: ``<|START_ACTION|>[{"tool_call_id": "0", "tool_name": …}]<|END_ACTION|>``.

Command R and R+ write ``Action:`` and a fenced block with the same list. Their tool
``directly_answer`` is a call like any other.
"""

from __future__ import annotations

import re

from .json_calls import read_json_calls
from .syntax import CallsRead, OutputSyntax, Region, Schemas

_FENCE = re.compile(r"\s*```(?:json)?\s*")


def _read(body: str, _header: str, _schemas: Schemas) -> CallsRead:
    fence = _FENCE.match(body)
    return read_json_calls(body if fence is None else body[fence.end() :])


_RESPONSE = Region(part="content", opens=("<|START_RESPONSE|>",), closes=("<|END_RESPONSE|>",))
_ACTION = Region(part="tool", opens=("<|START_ACTION|>",), closes=("<|END_ACTION|>",), read=_read)

COMMAND_A = OutputSyntax(name="command_a", regions=(_RESPONSE, _ACTION))
COMMAND_R = OutputSyntax(
    name="command_r",
    regions=(
        Region(
            part="tool", opens=("Action: ```json", "Action:```json"), closes=("```",), read=_read
        ),
    ),
)
